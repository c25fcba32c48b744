//! The losses against PyTorch in float64, values and gradients.

use burn::tensor::{Device, Tensor, TensorData};
use sensei_loss::{
    LossOutput, LossPlan, LossPlanError, LossTerm, SampleWeighting, TeacherTarget, TermKind, area_shortfall,
    bce_distance, dice_distance, distillation_loss, mse_distance,
};
use sensei_tensor::masks::{MaskLogits, MaskProbs};
use sensei_testing::{GoldenCase, Tolerance, assert_close, golden, relative_l2};

use crate::{expected, floats, values};

/// f32 sums over 192 pixels against float64.
const CLOSE: Tolerance = Tolerance { absolute: 2e-6, relative: 2e-6 };

/// Total and gradient with respect to the student's logits.
fn loss(case: &GoldenCase, plan: &LossPlan) -> (LossOutput, Vec<f32>) {
    let student = floats::<4>(case, "student").require_grad();
    let teacher = TeacherTarget { logits: MaskLogits(floats(case, "teacher")), predicted_iou: floats(case, "score") };
    let teacher = plan.needs().teacher_masks.then_some(&teacher);
    let output = distillation_loss(plan, MaskLogits(student.clone()), teacher, MaskProbs(floats(case, "truth")), &[]);
    let gradient = student.grad(&output.total.backward()).expect("the total depends on the student");
    (output, values(gradient))
}

#[test]
fn published_losses_and_their_gradients() {
    let case = golden("loss/picosam");
    for (weighting_name, weighting) in [
        ("per_sample", SampleWeighting::TeacherScorePerSample),
        ("batch_mean", SampleWeighting::TeacherScoreBatchMean),
        ("constant", SampleWeighting::Constant(0.25)),
        ("truth_only", SampleWeighting::TruthOnly),
    ] {
        for (name, plan) in [("picosam2", LossPlan::picosam2(weighting)), ("picosam3", LossPlan::picosam3(weighting))] {
            let what = format!("{name}.{weighting_name}");
            let (output, gradient) = loss(&case, &plan);
            assert_close(&what, &values(output.total), &expected(&case, &format!("{what}.total")), CLOSE);
            let expected_gradient = expected(&case, &format!("{what}.gradient"));
            let distance = relative_l2(&gradient, &expected_gradient);
            assert!(distance < 2e-6, "{what}: gradient differs by {distance:e}");
            assert_eq!(output.terms.len(), plan.terms().len(), "{what}: every term is reported");
            for (term, distances) in output.terms {
                let what = format!("{name}.{term}");
                assert_close(&what, &values(distances), &expected(&case, &what), CLOSE);
            }
        }
    }
}

#[test]
fn distances_on_their_own_are_those_of_the_loss() {
    let case = golden("loss/picosam");
    let logits = || MaskLogits(floats(&case, "student")).sharpened(5.0);
    let probs = || logits().probs();
    let teacher = || MaskLogits(floats(&case, "teacher")).sharpened(5.0).probs();
    let truth = || MaskProbs(floats(&case, "truth"));
    for (term, distance) in [
        ("teacher_mse", mse_distance(probs(), teacher())),
        ("teacher_dice", dice_distance(probs(), teacher())),
        ("truth_bce", bce_distance(logits(), truth())),
        ("truth_dice", dice_distance(probs(), truth())),
        ("area_shortfall", area_shortfall(probs(), truth(), 0.4)),
    ] {
        assert_close(term, &values(distance), &expected(&case, &format!("picosam3.{term}")), CLOSE);
    }
}

#[test]
fn saturated_pixels_keep_value_and_gradient() {
    let case = golden("loss/saturated");
    let logits = floats::<4>(&case, "logits").require_grad();
    let bce = bce_distance(MaskLogits(logits.clone()), MaskProbs(floats(&case, "truth")));
    let gradient = logits.grad(&bce.clone().sum().backward()).expect("it depends on the logits");
    assert_close("bce", &values(bce), &expected(&case, "bce"), Tolerance { absolute: 1e-6, relative: 1e-6 });
    let gradient_tolerance = Tolerance { absolute: 2e-7, relative: 0.0 };
    assert_close("gradient", &values(gradient), &expected(&case, "gradient"), gradient_tolerance);

    // What the documentation says about the published form: capped at 100, and no gradient where it saturates.
    let (clamped, clamped_gradient) = (case.f32s("clamped"), case.f32s("clamped_gradient"));
    let wrong = case.f32s("logits").iter().zip(case.f32s("truth")).position(|(x, y)| *x == 50.0 && y == 0.0);
    let wrong = wrong.expect("the case has a surely wrong pixel");
    assert_eq!((clamped[wrong], clamped_gradient[wrong]), (100.0, 0.0));
    assert_eq!((expected(&case, "bce")[wrong], expected(&case, "gradient")[wrong]), (50.0, 1.0));
}

#[test]
fn an_empty_truth_has_no_area_to_reach() {
    let device = Device::flex().autodiff();
    // Nothing predicted, nothing true: the published form would pull this up with a slope of up to 2 per logit.
    let logits = (Tensor::<4>::ones([1, 1, 4, 4], &device) * -60.0).require_grad();
    let shortfall =
        area_shortfall(MaskLogits(logits.clone()).probs(), MaskProbs(Tensor::zeros([1, 1, 4, 4], &device)), 0.4);
    assert_eq!(values(shortfall.clone()), [0.0]);
    assert_eq!(values(logits.grad(&shortfall.backward()).expect("tracked")), [0.0; 16]);
}

#[test]
fn a_term_that_is_not_a_number_can_be_named() {
    let case = golden("loss/picosam");
    let mut teacher = case.f32s("teacher");
    teacher[2 * 12 * 16] = f32::NAN;
    let device = Device::flex().autodiff();
    let teacher = TensorData::new(teacher, case.shape("teacher"));
    let teacher = TeacherTarget {
        logits: MaskLogits(Tensor::from_data(teacher, &device)),
        predicted_iou: floats(&case, "score"),
    };
    let plan = LossPlan::picosam2(SampleWeighting::TeacherScorePerSample);
    let student = MaskLogits(floats(&case, "student"));
    let output = distillation_loss(&plan, student, Some(&teacher), MaskProbs(floats(&case, "truth")), &[]);
    assert!(values(output.total)[0].is_nan());
    let mut found = Vec::new();
    for (name, distances) in output.terms {
        let samples = values(distances).into_iter().enumerate();
        found.extend(samples.filter(|(_, distance)| distance.is_nan()).map(|(sample_idx, _)| (name, sample_idx)));
    }
    assert_eq!(found, [("teacher_mse", 2), ("teacher_dice", 2)]);
}

#[test]
fn a_reported_term_of_weight_zero_changes_nothing() {
    let case = golden("loss/picosam");
    let term = |kind, weight| LossTerm { kind, weight };
    let bce = vec![term(TermKind::TruthBce, 2.0)];
    let with_dice = vec![term(TermKind::TruthBce, 2.0), term(TermKind::TruthDice, 0.0)];
    let plan = |terms| LossPlan::new(1.0, SampleWeighting::TruthOnly, terms).expect("a loss");
    let (a, a_gradient) = loss(&case, &plan(bce));
    let (b, b_gradient) = loss(&case, &plan(with_dice));
    assert_eq!((values(a.total), a_gradient), (values(b.total), b_gradient));
    assert_eq!((a.terms.len(), b.terms.len()), (1, 2));
}

/// Samples of several parts in one batch: each has the loss that it has in a batch of its own part.
#[test]
fn parts_of_the_data_are_weighed_each_by_its_own_rule() {
    use SampleWeighting::{Constant, TeacherScoreBatchMean, TruthOnly};
    let case = golden("loss/picosam");
    let batch = case.shape("student")[0];
    let terms = |weighting| LossPlan::picosam3(weighting).terms().to_vec();
    let device = Device::flex();
    let plain = |name: &str| Tensor::<4>::from_data(TensorData::new(case.f32s(name), case.shape(name)), &device);
    let score = Tensor::<1>::from_data(TensorData::new(case.f32s("score"), [batch]), &device);
    let of = |plan: &LossPlan, samples: &[usize], part_idxs: &[usize]| {
        let idxs = Tensor::<1, burn::tensor::Int>::from_data(
            TensorData::from(samples.iter().map(|&at| at as i32).collect::<Vec<_>>().as_slice()),
            &device,
        );
        let pick = |name: &str| plain(name).select(0, idxs.clone());
        let teacher =
            TeacherTarget { logits: MaskLogits(pick("teacher")), predicted_iou: score.clone().select(0, idxs.clone()) };
        let truth = MaskProbs(pick("truth"));
        distillation_loss(plan, MaskLogits(pick("student")), Some(&teacher), truth, part_idxs)
    };
    assert!(batch >= 3, "the case has {batch} samples");
    let (annotated, proposals): (Vec<usize>, Vec<usize>) = (0..batch).partition(|at| at % 3 != 1);
    let parts: Vec<usize> = (0..batch).map(|at| usize::from(at % 3 == 1)).collect();
    let all: Vec<usize> = (0..batch).collect();
    for [first, second] in
        [[TruthOnly, Constant(0.7)], [TeacherScoreBatchMean, TruthOnly], [Constant(0.2), TeacherScoreBatchMean]]
    {
        let asking = if first == TruthOnly { second } else { first };
        let plan = LossPlan::with_parts(5.0, first, [(1, second)].into(), terms(asking)).expect("a loss");
        assert!(plan.needs().teacher_masks);
        let both = of(&plan, &all, &parts);
        let alone = |weighting: SampleWeighting, samples: &[usize]| {
            let plan = LossPlan::new(5.0, weighting, terms(weighting)).expect("a loss");
            f64::from(values(of(&plan, samples, &[]).total)[0]) * samples.len() as f64
        };
        let expected = (alone(first, &annotated) + alone(second, &proposals)) / batch as f64;
        let found = f64::from(values(both.total)[0]);
        assert!((found - expected).abs() < 1e-5 * expected, "{first:?} {second:?}: {found} {expected}");
        let (name, distances) = &both.terms[0];
        assert_eq!(*name, "teacher_mse");
        let weighting_of = |at: usize| [first, second][parts[at]];
        for (at, distance) in values(distances.clone()).into_iter().enumerate() {
            assert_eq!(distance == 0.0, weighting_of(at) == TruthOnly, "sample {at}");
        }
    }
}

/// A filter: samples that pass have the loss of a constant share, the others that of the truth alone.
#[test]
fn a_filter_hears_the_teacher_about_some_samples() {
    let case = golden("loss/picosam");
    let batch = case.shape("student")[0];
    let terms = LossPlan::picosam3(SampleWeighting::Constant(0.25)).terms().to_vec();
    let plan = |weighting| LossPlan::new(5.0, weighting, terms.clone()).expect("a loss");
    let score_at_least = |score| SampleWeighting::TeacherScoreAtLeast { score, alpha: 0.25 };
    let agreement_at_least = |iou| SampleWeighting::AgreementAtLeast { iou, alpha: 0.25 };
    // A filter that all pass is PyTorch's loss of a constant share.
    for all in [score_at_least(0.0), agreement_at_least(0.0)] {
        let (output, gradient) = loss(&case, &plan(all));
        assert_close("total", &values(output.total), &expected(&case, "picosam3.constant.total"), CLOSE);
        assert!(relative_l2(&gradient, &expected(&case, "picosam3.constant.gradient")) < 2e-6);
        assert_eq!(values(output.terms.last().expect("terms").1.clone()), vec![0.25; batch]);
    }
    // The reference of each sample: its part is weighed by a constant or by the truth alone.
    let (scores, teacher, truth) = (case.f32s("score"), case.f32s("teacher"), case.f32s("truth"));
    let n_pixels = truth.len() / batch;
    let iou = |at: usize| {
        let pixels = at * n_pixels..(at + 1) * n_pixels;
        let pairs = pixels.map(|pixel| (teacher[pixel] > 0.0, truth[pixel] > 0.5));
        let (both, either) =
            pairs.fold((0, 0), |(both, either), (a, b)| (both + i32::from(a && b), either + i32::from(a || b)));
        f64::from(both) / f64::from(either)
    };
    let ious: Vec<f64> = (0..batch).map(iou).collect();
    let scores: Vec<f64> = scores.into_iter().map(f64::from).collect();
    let check = |values_of: &[f64], filter: &dyn Fn(f64) -> SampleWeighting| {
        let mut sorted = values_of.to_vec();
        sorted.sort_by(f64::total_cmp);
        let threshold = (sorted[batch / 2 - 1] + sorted[batch / 2]) / 2.0;
        assert!(sorted[batch / 2 - 1] < sorted[batch / 2], "some samples pass, others do not: {values_of:?}");
        let parts: Vec<usize> = values_of.iter().map(|value| usize::from(*value < threshold)).collect();
        let by_part = [(1, SampleWeighting::TruthOnly)].into();
        let reference = LossPlan::with_parts(5.0, SampleWeighting::Constant(0.25), by_part, terms.clone());
        let run = |plan: &LossPlan, parts: &[usize]| {
            let student = floats::<4>(&case, "student").require_grad();
            let teacher =
                TeacherTarget { logits: MaskLogits(floats(&case, "teacher")), predicted_iou: floats(&case, "score") };
            let truth = MaskProbs(floats(&case, "truth"));
            let output = distillation_loss(plan, MaskLogits(student.clone()), Some(&teacher), truth, parts);
            let gradient = values(student.grad(&output.total.clone().backward()).expect("a gradient"));
            let terms: Vec<_> = output.terms.into_iter().map(|(name, of)| (name, values(of))).collect();
            (values(output.total), gradient, terms)
        };
        let (total, gradient, mut found) = run(&plan(filter(threshold)), &[]);
        let share = found.pop().expect("terms");
        let expected_share = parts.iter().map(|part| if *part == 0 { 0.25 } else { 0.0 }).collect();
        assert_eq!(share, ("teacher_share", expected_share));
        assert_eq!((total, gradient, found), run(&reference.expect("a loss"), &parts));
    };
    check(&scores, &score_at_least);
    check(&ious, &agreement_at_least);
}

/// The teacher's mask in the truth's place, for all samples or for those of one part: loss and gradient are those of that truth.
#[test]
fn a_teachers_mask_stands_in_for_the_truth() {
    let case = golden("loss/picosam");
    let shape = case.shape("student");
    let device = Device::flex().autodiff();
    let plain = |values: Vec<f32>| Tensor::<4>::from_data(TensorData::new(values, shape.clone()), &device);
    let (logits, truth) = (case.f32s("teacher"), case.f32s("truth"));
    let n_pixels = logits.len() / shape[0];
    let run = |plan: &LossPlan, truth: &[f32], part_idxs: &[usize]| {
        let student = plain(case.f32s("student")).require_grad();
        let teacher = TeacherTarget {
            logits: MaskLogits(plain(logits.clone())),
            predicted_iou: Tensor::from_data(TensorData::new(case.f32s("score"), [shape[0]]), &device),
        };
        let truth = MaskProbs(plain(truth.to_vec()));
        let output = distillation_loss(plan, MaskLogits(student.clone()), Some(&teacher), truth, part_idxs);
        let mut gradients = output.total.clone().backward();
        let gradient = student.grad_remove(&mut gradients).expect("a gradient");
        (values(output.total), values(gradient.flatten::<1>(0, 3)))
    };
    let truth_only = LossPlan::picosam3(SampleWeighting::TruthOnly);
    let hard = |from: usize| {
        let is_hard = |at: usize| (at / n_pixels) % 2 >= from;
        (0..truth.len()).map(|at| if is_hard(at) { f32::from(logits[at] > 0.0) } else { truth[at] }).collect::<Vec<_>>()
    };

    let of_all = LossPlan::picosam3(SampleWeighting::TeacherHard);
    assert!(of_all.needs().teacher_masks && of_all.terms() == truth_only.terms());
    assert_eq!(run(&of_all, &truth, &[]), run(&truth_only, &hard(0), &[]));

    let parts: Vec<usize> = (0..shape[0]).map(|at| at % 2).collect();
    let mixed = [(1, SampleWeighting::TeacherHard)].into();
    let of_some = LossPlan::with_parts(5.0, SampleWeighting::TruthOnly, mixed, truth_only.terms().to_vec());
    assert_eq!(run(&of_some.expect("a loss"), &truth, &parts), run(&truth_only, &hard(1), &[]));
    assert_ne!(run(&truth_only, &hard(1), &[]), run(&truth_only, &truth, &[]));
}

#[test]
fn losses_that_mean_nothing_are_refused() {
    use SampleWeighting::{AgreementAtLeast, Constant, TeacherScoreAtLeast, TeacherScorePerSample, TruthOnly};
    let term = |kind, weight| LossTerm { kind, weight };
    let check = |sharpness, weighting, terms: &[LossTerm], expected: &str| {
        let error: LossPlanError = LossPlan::new(sharpness, weighting, terms.to_vec()).expect_err(expected);
        assert_eq!(error.to_string(), expected);
    };
    let bce = term(TermKind::TruthBce, 1.0);
    check(0.0, TruthOnly, &[bce], "sharpness: expected a finite number above 0, found 0");
    check(f64::NAN, TruthOnly, &[bce], "sharpness: expected a finite number above 0, found NaN");
    check(1.0, Constant(1.5), &[bce], "alpha: expected 0 to 1, found 1.5");
    let score = |score, alpha| TeacherScoreAtLeast { score, alpha };
    check(1.0, score(0.5, 0.0), &[bce], "alpha: expected above 0, at most 1, found 0");
    check(1.0, score(1.5, 1.0), &[bce], "score or iou: expected 0 to 1, found 1.5");
    let no_truth = "agreement_at_least: expected a truth term with a weight above 0 for samples that the teacher is not heard about, \
                    found none";
    let agreement = AgreementAtLeast { iou: 0.5, alpha: 1.0 };
    check(1.0, agreement, &[term(TermKind::TeacherMse, 1.0), term(TermKind::TruthBce, 0.0)], no_truth);
    check(
        1.0,
        TruthOnly,
        &[term(TermKind::TruthBce, -1.0)],
        "truth_bce: expected a finite weight, 0 or above, found -1",
    );
    check(1.0, TruthOnly, &[bce, bce], "truth_bce: expected once, found twice");
    let no_teacher = "teacher_mse: expected no teacher terms, because no sample's weighting gives them a share";
    check(1.0, TruthOnly, &[term(TermKind::TeacherMse, 1.0)], no_teacher);
    let floor = term(TermKind::AreaShortfall { floor: 0.0 }, 1.0);
    check(1.0, TruthOnly, &[floor], "area_shortfall floor: expected above 0, at most 1, found 0");
    let nothing = "terms: expected at least one with a weight above 0, found none";
    check(1.0, TeacherScorePerSample, &[term(TermKind::TruthBce, 0.0)], nothing);
    check(1.0, TeacherScorePerSample, &[], nothing);
}
