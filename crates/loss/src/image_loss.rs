//! The loss of students that see whole images, as their plan says it.

use std::borrow::Cow;

use burn::tensor::{Tensor, TensorData, activation};
use sensei_tensor::mask_sums::MaskSums;
use sensei_tensor::masks::{MaskLogits, MaskProbs};

use crate::distance::dice_of_areas;
use crate::feature_distance::{UsedCells, feature_cosine, feature_huber, feature_l1, feature_mse};
use crate::image_plan::{
    Cells, FeatureDistance, ImageLossPlan, ImageTerm, ImageTermKind, MaskDistance, MaskTarget, PromptWeighting,
    ProposalDistance,
};
use crate::proposals::{ProposalTargets, proposal_focal, proposal_huber};

/// A term's distances: its label and values, detached from the gradient.
pub type TermValues = (Cow<'static, str>, Tensor<1>);

/// The weighed sum of the terms about images, a mean over them, and the distances of each image. `None` where a plan has no such terms.
///
/// # Shapes
/// - `student`, `teacher`: `[batch, channels, height, width]`; `used`: one for each image
/// - total: `[1]`; each term: `[batch]`
/// # Panics
/// If the shapes differ: a bug in the caller.
pub fn embedding_loss(
    plan: &ImageLossPlan,
    student: &Tensor<4>,
    teacher: &Tensor<4>,
    used: &[UsedCells],
) -> (Option<Tensor<1>>, Vec<TermValues>) {
    let terms = plan.terms().iter().filter_map(|term| match term.kind {
        ImageTermKind::Embedding { distance, cells } => {
            Some((term, compared(distance, cells, [student.clone(), teacher.clone()], used)))
        }
        _ => None,
    });
    summed(terms, None)
}

/// The weighed sum of the terms about [`tap_pairs`](ImageLossPlan::tap_pairs), a mean over images, and the distances of each image.
///
/// # Shapes
/// - `features`: of each pair the student's, adapted, and the teacher's, `[batch, channels, height, width]`; `used`: of each pair, one for
///   each image
/// - total: `[1]`; each term: `[batch]`
/// # Panics
/// If there are not as many as pairs, or shapes differ: a bug in the caller.
pub fn tap_loss(
    plan: &ImageLossPlan,
    features: Vec<[Tensor<4>; 2]>,
    used: &[Vec<UsedCells>],
) -> (Option<Tensor<1>>, Vec<TermValues>) {
    assert_eq!([features.len(), used.len()], [plan.tap_pairs().count(); 2], "tap loss: pairs of features");
    let mut pairs = features.into_iter().zip(used);
    let terms = plan.terms().iter().filter_map(|term| match term.kind {
        ImageTermKind::Features { distance, cells, .. } => {
            let (features, used) = pairs.next().expect("as many as pairs");
            Some((term, compared(distance, cells, features, used)))
        }
        _ => None,
    });
    summed(terms, None)
}

fn compared(
    distance: FeatureDistance,
    cells: Cells,
    [student, teacher]: [Tensor<4>; 2],
    used: &[UsedCells],
) -> Tensor<1> {
    let used = if cells == Cells::Used { used } else { &[] };
    match distance {
        FeatureDistance::Mse => feature_mse(student, teacher, used),
        FeatureDistance::L1 => feature_l1(student, teacher, used),
        FeatureDistance::Huber { delta } => feature_huber(student, teacher, delta, used),
        FeatureDistance::Cosine => feature_cosine(student, teacher, used),
    }
}

/// The weighed sum of the terms about proposed boxes, a mean over images, and the distances of each image.
///
/// # Shapes
/// - `scores`: `[image, anchor]`; `deltas`: `[image, anchor, 4]`
/// - total: `[1]`; each term: `[image]`
/// # Panics
/// If there are not as many targets.
pub fn proposal_loss(
    plan: &ImageLossPlan,
    scores: &Tensor<2>,
    deltas: &Tensor<3>,
    targets: &ProposalTargets,
) -> (Option<Tensor<1>>, Vec<TermValues>) {
    let terms = plan.terms().iter().filter_map(|term| match term.kind {
        ImageTermKind::Proposals { distance: ProposalDistance::Focal { alpha, gamma } } => {
            Some((term, proposal_focal(scores.clone(), targets, alpha, gamma)))
        }
        ImageTermKind::Proposals { distance: ProposalDistance::Huber { delta } } => {
            Some((term, proposal_huber(deltas.clone(), targets, delta)))
        }
        _ => None,
    });
    summed(terms, None)
}

/// What the masks of some prompts are compared with.
pub struct PromptTargets {
    /// The teacher's mask logits for the same prompts and tokens, `[prompt, mask, height, width]`, if a term needs them.
    pub teacher: Option<MaskLogits>,
    /// The annotated masks, `[prompt, 1, height, width]`, if a term needs them.
    pub truth: Option<MaskProbs>,
    /// The pixels that show the image.
    pub used: UsedCells,
}

/// The weighed sum of the terms about masks and scores, a mean over prompts and masks, and the distances, prompt by prompt.
///
/// # Shapes
/// - `masks`: `[prompt, mask, height, width]`; `scores`: `[prompt, mask]`
/// - total: `[1]`; each term: `[prompt * mask]`
/// # Panics
/// If the shapes differ, or a target is missing: bugs in the caller.
pub fn prompt_loss(
    plan: &ImageLossPlan,
    masks: MaskLogits,
    scores: Tensor<2>,
    targets: &PromptTargets,
) -> (Option<Tensor<1>>, Vec<TermValues>) {
    let [n_prompts, n_masks, ..] = masks.0.dims();
    let UsedCells { rows, columns } = targets.used;
    // Each mask as a sample of its own, and of it only what shows the image.
    let flat =
        |x: Tensor<4>| x.narrow(2, 0, rows).narrow(3, 0, columns).reshape([n_prompts * n_masks, 1, rows, columns]);
    let student = flat(masks.0);
    let is_set = |x: Tensor<4>| x.detach().greater_elem(0.0).float();
    let teacher = targets.teacher.as_ref().map(|teacher| is_set(flat(teacher.0.clone())));
    let truth = targets.truth.as_ref().map(|truth| {
        let [_, _, height, width] = truth.0.dims();
        flat(truth.0.clone().expand([n_prompts, n_masks, height, width]))
    });
    let of = |target: MaskTarget| {
        let found = match target {
            MaskTarget::TeacherHard => &teacher,
            MaskTarget::Truth => &truth,
        };
        found.clone().expect("a target that the plan needs: ImageLossPlan::needs")
    };
    let sums = |target: MaskTarget| MaskSums::new(1.0, MaskLogits(student.clone()), None, MaskProbs(of(target)));
    let weights = match plan.prompt_weighting() {
        PromptWeighting::Uniform => None,
        PromptWeighting::HardMasks => {
            let truth = of(MaskTarget::Truth);
            let better = hard_iou(of(MaskTarget::TeacherHard), truth.clone())
                / (hard_iou(is_set(student.clone()), truth) + HARD_MASK_EPSILON);
            Some(activation::sigmoid(better - 1.0))
        }
    };
    let distance = |kind: &ImageTermKind| match *kind {
        ImageTermKind::Embedding { .. }
        | ImageTermKind::Features { .. }
        | ImageTermKind::Reconstruction { .. }
        | ImageTermKind::Proposals { .. } => None,
        ImageTermKind::Masks { target, distance: MaskDistance::Bce } => {
            let sums = sums(target);
            Some(sums.cross_entropy / sums.pixels)
        }
        ImageTermKind::Masks { target, distance: MaskDistance::Dice } => {
            let sums = sums(target);
            Some(dice_of_areas(sums.student_truth, sums.student, sums.truth))
        }
        ImageTermKind::Masks { target, distance: MaskDistance::Focal { alpha, gamma } } => {
            Some(focal_distance(MaskLogits(student.clone()), MaskProbs(of(target)), alpha, gamma))
        }
        ImageTermKind::Scores => {
            let iou = hard_iou(is_set(student.clone()), of(MaskTarget::Truth));
            Some((scores.clone().reshape([n_prompts * n_masks]) - iou).abs())
        }
    };
    let terms = plan.terms().iter().filter_map(|term| Some((term, distance(&term.kind)?)));
    summed(terms, weights)
}

/// Mean over each sample's pixels of `alpha_t (1 - p_t)^gamma` times the cross-entropy.
///
/// # Shapes
/// - `student`, `truth`: `[batch, 1, height, width]`; output: `[batch]`
/// # Panics
/// If the shapes differ.
/// # Source
/// Lin et al. 2017, equation 5; torchvision `sigmoid_focal_loss`, which SAM's trainers use.
pub fn focal_distance(student: MaskLogits, truth: MaskProbs, alpha: f64, gamma: f64) -> Tensor<1> {
    assert_eq!(student.0.dims(), truth.0.dims(), "focal_distance: shapes of the student's mask and of the other");
    let (x, y) = (student.0, truth.0);
    // Of +x for foreground and -x for background, so that one formula serves both.
    let sign = y.clone() * 2.0 - 1.0;
    let toward = x * sign;
    let cross_entropy = activation::log_sigmoid(toward.clone()).neg();
    let right: Tensor<4> = activation::sigmoid(toward);
    let unsure = (right.neg() + 1.0).powf_scalar(gamma);
    let share = y * (2.0 * alpha - 1.0) + (1.0 - alpha);
    (share * unsure * cross_entropy).flatten::<2>(1, 3).mean_dim(1).squeeze_dim::<1>(1)
}

/// IoU of masks of zeros and ones, `[batch]`; two empty ones have 1.
fn hard_iou(a: Tensor<4>, b: Tensor<4>) -> Tensor<1> {
    let sum = |x: Tensor<4>| x.flatten::<2>(1, 3).sum_dim(1).squeeze_dim::<1>(1);
    let both = sum(a.clone() * b.clone());
    let either = sum(a) + sum(b) - both.clone();
    let empty = either.clone().equal_elem(0.0).float();
    (both + empty.clone()) / (either + empty)
}

/// The weighed sum of means, and each term's own distances.
fn summed<'a>(
    terms: impl Iterator<Item = (&'a ImageTerm, Tensor<1>)>,
    weights: Option<Tensor<1>>,
) -> (Option<Tensor<1>>, Vec<TermValues>) {
    let (mut total, mut values): (Option<Tensor<1>>, _) = (None, vec![]);
    for (term, distance) in terms {
        values.push((term.kind.label(), distance.clone().detach()));
        if term.weight == 0.0 {
            continue;
        }
        let weighed = match &weights {
            Some(weights) if matches!(term.kind, ImageTermKind::Masks { .. }) => distance * weights.clone(),
            _ => distance,
        };
        let weighed = weighed.mean() * term.weight;
        total = Some(match total {
            Some(total) => total + weighed,
            None => weighed,
        });
    }
    (total, values)
}

/// A mask `[batch, 1, height, width]` of bits.
///
/// # Panics
/// If there are not as many.
pub fn mask_of_bits(bits: &[u8], shape: [usize; 4], device: &burn::tensor::Device) -> MaskProbs {
    let values: Vec<f32> = bits.iter().map(|&bit| f32::from(bit)).collect();
    MaskProbs(Tensor::from_data(TensorData::new(values, shape), device))
}

/// Keeps the ratio of IoUs finite.
const HARD_MASK_EPSILON: f64 = 1e-6;
