//! The losses of students that see whole images against PyTorch in float64, values and gradients.

use sensei_loss::{
    Adapter, Cells, FeatureDistance, ImageLossPlan, ImageTerm, ImageTermKind, LossPlanError, MaskDistance, MaskTarget,
    PromptTargets, PromptWeighting, ProposalTargets, ReconstructionTarget, TapPair, UsedCells, embedding_loss,
    masked_features, masked_pixels, prompt_loss, proposal_focal, proposal_huber, tap_loss,
};
use sensei_tensor::masks::{MaskLogits, MaskProbs};
use sensei_testing::{GoldenCase, Tolerance, assert_close, golden, relative_l2};

use crate::{expected, floats, values};

/// f32 sums over at most 144 values against float64.
const CLOSE: Tolerance = Tolerance { absolute: 2e-6, relative: 4e-6 };

fn assert_gradient(what: &str, found: Vec<f32>, case: &GoldenCase) {
    let distance = relative_l2(&found, &expected(case, &format!("{what}.gradient")));
    assert!(distance < 4e-6, "{what}: gradient differs by {distance:e}");
}

fn one(kind: ImageTermKind, prompt_weighting: PromptWeighting) -> ImageLossPlan {
    ImageLossPlan::new(vec![ImageTerm { kind, weight: 1.0 }], prompt_weighting).expect("a valid loss")
}

#[test]
fn distances_of_features_and_their_gradients() {
    let case = golden("loss/images");
    let used = [UsedCells { rows: 6, columns: 6 }, UsedCells { rows: 5, columns: 3 }];
    for distance in
        [FeatureDistance::Mse, FeatureDistance::L1, FeatureDistance::Huber { delta: 0.4 }, FeatureDistance::Cosine]
    {
        for (cells, name) in [(Cells::All, "all"), (Cells::Used, "used")] {
            let kind = ImageTermKind::Embedding { distance, cells };
            let student = floats::<4>(&case, "student").require_grad();
            let plan = one(kind.clone(), PromptWeighting::Uniform);
            let (total, terms) = embedding_loss(&plan, &student, &floats(&case, "teacher"), &used);
            let what = format!("{}.{name}", kind.name());
            let [(term, distances)] = <[_; 1]>::try_from(terms).expect("one term");
            assert_eq!(term, kind.name());
            assert_close(&what, &values(distances), &expected(&case, &what), CLOSE);
            let gradient = student.grad(&total.expect("a total").backward()).expect("it depends on the student");
            assert_gradient(&what, values(gradient), &case);

            // At a further point of the networks they are the same, beside a term about another pair.
            let student = floats::<4>(&case, "student").require_grad();
            let between = |student: &str| ImageTermKind::Features { taps: pair(student), distance, cells };
            let terms = ["a", "b"].map(|student| ImageTerm { kind: between(student), weight: 0.5 });
            let plan = ImageLossPlan::new(terms.into(), PromptWeighting::Uniform).expect("two pairs");
            let teacher = floats::<4>(&case, "teacher");
            let features = vec![[student.clone(), teacher.clone()], [teacher.clone(), teacher]];
            let (total, terms) = tap_loss(&plan, features, &[used.to_vec(), used.to_vec()]);
            let of_features = what.replace("embedding", "features");
            assert_eq!(format!("{}.{name}", between("a").name()), of_features);
            let [(label, distances), (other, zeros)] = <[_; 2]>::try_from(terms).expect("two terms");
            let names = ["a-layers.1", "b-layers.1"].map(|pair| format!("{} {pair}", between("a").name()));
            assert_eq!([label, other], names);
            assert_close(&what, &values(distances), &expected(&case, &what), CLOSE);
            assert!(values(zeros).iter().all(|value| value.abs() < 1e-6), "{what}");
            let gradient = student.grad(&total.expect("a total").backward()).expect("it depends on the student");
            assert_gradient(&what, values(gradient * 2.0), &case);
        }
    }
}

fn pair(student: &str) -> TapPair {
    TapPair { student: student.into(), teacher: "layers.1".into(), adapter: Adapter::None }
}

#[test]
fn distances_of_masks_and_scores_and_their_gradients() {
    let case = golden("loss/images");
    let targets = PromptTargets {
        teacher: Some(MaskLogits(floats(&case, "teacher_masks"))),
        truth: Some(MaskProbs(floats(&case, "truth"))),
        used: UsedCells { rows: 7, columns: 9 },
    };
    let focal = MaskDistance::Focal { alpha: 0.25, gamma: 2.0 };
    for (weighting, weighting_name) in
        [(PromptWeighting::Uniform, "uniform"), (PromptWeighting::HardMasks, "hard_masks")]
    {
        for target in [MaskTarget::TeacherHard, MaskTarget::Truth] {
            for distance in [MaskDistance::Bce, MaskDistance::Dice, focal] {
                let kind = ImageTermKind::Masks { target, distance };
                let masks = floats::<4>(&case, "masks").require_grad();
                let plan = one(kind.clone(), weighting);
                let (total, terms) = prompt_loss(&plan, MaskLogits(masks.clone()), floats(&case, "scores"), &targets);
                let what = format!("{}.{weighting_name}", kind.name());
                assert_close(&what, &values(terms[0].1.clone()), &expected(&case, &what), CLOSE);
                let total = total.expect("a total");
                assert_close(&what, &values(total.clone()), &expected(&case, &format!("{what}.total")), CLOSE);
                let gradient = masks.grad(&total.backward()).expect("it depends on the masks");
                assert_gradient(&what, values(gradient), &case);
            }
        }
    }
    let plan = one(ImageTermKind::Scores, PromptWeighting::Uniform);
    let scores = floats::<2>(&case, "scores").require_grad();
    let (total, terms) = prompt_loss(&plan, MaskLogits(floats(&case, "masks")), scores.clone(), &targets);
    assert_close("scores_l1", &values(terms[0].1.clone()), &expected(&case, "scores_l1"), CLOSE);
    let gradient = scores.grad(&total.expect("a total").backward()).expect("it depends on the scores");
    assert_gradient("scores_l1", values(gradient), &case);
}

#[test]
fn reconstructions_of_masked_images_and_their_gradients() {
    let case = golden("loss/images");
    let said = floats::<3>(&case, "said").require_grad();
    let distances = masked_features(said.clone(), floats(&case, "features"));
    assert_close("masked_features", &values(distances.clone()), &expected(&case, "masked_features"), CLOSE);
    let gradient = said.grad(&distances.mean().backward()).expect("it depends on what is said");
    assert_gradient("masked_features", values(gradient), &case);

    let said = floats::<3>(&case, "said_pixels").require_grad();
    let distances = masked_pixels(said.clone(), floats(&case, "pixels"), &[vec![2], vec![0, 2, 3]]);
    assert_close("masked_pixels", &values(distances.clone()), &expected(&case, "masked_pixels"), CLOSE);
    let gradient = said.grad(&distances.mean().backward()).expect("it depends on what is said");
    assert_gradient("masked_pixels", values(gradient), &case);
}

#[test]
fn losses_of_proposed_boxes_and_their_gradients() {
    let case = golden("loss/images");
    let targets = ProposalTargets {
        labels: case.f32s("anchor_labels"),
        deltas: case.f32s("anchor_expected"),
        n_positive: vec![2.0, 0.0],
    };
    let scores = floats::<2>(&case, "anchor_scores").require_grad();
    let distances = proposal_focal(scores.clone(), &targets, 0.25, 1.5);
    assert_close("proposal_focal", &values(distances.clone()), &expected(&case, "proposal_focal"), CLOSE);
    let gradient = scores.grad(&distances.mean().backward()).expect("it depends on the scores");
    assert_gradient("proposal_focal", values(gradient), &case);
    let deltas = floats::<3>(&case, "anchor_deltas").require_grad();
    let distances = proposal_huber(deltas.clone(), &targets, 0.1);
    assert_close("proposal_huber", &values(distances.clone()), &expected(&case, "proposal_huber"), CLOSE);
    let gradient = deltas.grad(&distances.mean().backward()).expect("it depends on the boxes");
    assert_gradient("proposal_huber", values(gradient), &case);
}

#[test]
fn what_a_plan_needs_follows_from_its_terms() {
    let mse = ImageTermKind::Embedding { distance: FeatureDistance::Mse, cells: Cells::All };
    let hard = ImageTermKind::Masks { target: MaskTarget::TeacherHard, distance: MaskDistance::Dice };
    let needs = |kind| {
        let needs = one(kind, PromptWeighting::Uniform).needs();
        [needs.embedding, needs.masks, needs.teacher_masks, needs.truth]
    };
    assert_eq!(needs(mse), [true, false, false, false]);
    assert_eq!(needs(hard.clone()), [false, true, true, false]);
    assert_eq!(needs(ImageTermKind::Scores), [false, true, false, true]);
    let weighed = one(hard, PromptWeighting::HardMasks).needs();
    assert!(weighed.truth && weighed.teacher_masks);
}

#[test]
fn plans_that_mean_nothing_are_refused() {
    let mse = ImageTermKind::Embedding { distance: FeatureDistance::Mse, cells: Cells::All };
    let refused = |terms: Vec<ImageTerm>| ImageLossPlan::new(terms, PromptWeighting::Uniform).expect_err("refused");
    assert_eq!(refused(vec![]), LossPlanError::Nothing);
    assert_eq!(refused(vec![ImageTerm { kind: mse.clone(), weight: 0.0 }]), LossPlanError::Nothing);
    let twice = vec![ImageTerm { kind: mse.clone(), weight: 1.0 }, ImageTerm { kind: mse.clone(), weight: 2.0 }];
    assert_eq!(refused(twice), LossPlanError::Twice { term: "embedding_mse".into() });
    let masked = ImageTermKind::Reconstruction { target: ReconstructionTarget::Pixels };
    let both = vec![ImageTerm { kind: mse, weight: 1.0 }, ImageTerm { kind: masked, weight: 1.0 }];
    assert_eq!(refused(both), LossPlanError::NotAlone { term: "masked_pixels_mse" });
    let huber = ImageTermKind::Embedding { distance: FeatureDistance::Huber { delta: 0.0 }, cells: Cells::All };
    let message = refused(vec![ImageTerm { kind: huber, weight: 1.0 }]).to_string();
    assert_eq!(message, "delta: expected a finite number above 0 whose square is above 0 in 32 bits, found 0");
    let between = || ImageTermKind::Features { taps: pair("a"), distance: FeatureDistance::L1, cells: Cells::All };
    let twice = [1.0, 2.0].map(|weight| ImageTerm { kind: between(), weight });
    assert_eq!(refused(twice.into()).to_string(), "features_l1 a-layers.1: expected once, found twice");
    let tiny = ImageTermKind::Features {
        taps: pair("a"),
        distance: FeatureDistance::Huber { delta: 1e-300 },
        cells: Cells::All,
    };
    assert!(
        refused(vec![ImageTerm { kind: tiny, weight: 1.0 }]).to_string().contains("found 0.000"),
        "it would train nothing"
    );
}
