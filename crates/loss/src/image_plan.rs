//! The loss of students that see whole images: features against the teacher's, masks of prompts, and their scores.

use burn::tensor::{Tensor, TensorData, activation};
use sensei_tensor::mask_sums::MaskSums;
use sensei_tensor::masks::{MaskLogits, MaskProbs};

use crate::distance::dice_of_areas;
use crate::feature_distance::{UsedCells, feature_cosine, feature_huber, feature_l1, feature_mse};
use crate::plan::LossPlanError;
use crate::proposals::{ProposalTargets, proposal_focal, proposal_huber};

/// The loss of a stage: the sum of its terms, each the mean over images or over prompts, times its weight.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageLossPlan {
    terms: Vec<ImageTerm>,
    prompt_weighting: PromptWeighting,
}

/// One distance and its weight.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageTerm {
    /// What is compared, and how.
    pub kind: ImageTermKind,
    /// Its factor in the sum; 0 or above. A term of weight 0 is reported, not minimised.
    pub weight: f64,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ImageTermKind {
    /// The student's embedding with the teacher's.
    Embedding {
        /// How.
        distance: FeatureDistance,
        /// Which cells.
        cells: Cells,
    },
    /// Masks of prompts with a mask.
    Masks {
        /// Which mask.
        target: MaskTarget,
        /// How.
        distance: MaskDistance,
    },
    /// What is said of the patches of a masked image.
    Reconstruction {
        /// With what.
        target: ReconstructionTarget,
    },
    /// Proposed boxes with those of the annotated objects.
    Proposals {
        /// What of them.
        distance: ProposalDistance,
    },
    /// The score of each mask with the IoU that the mask has with the annotation: the mean absolute difference.
    ///
    /// # Source
    /// SAM trains its IoU head with the squared one; TinySAM (arXiv 2312.13789) with this.
    Scores,
}

/// What of proposed boxes is compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ProposalDistance {
    /// Which anchors find an object: [`proposal_focal`](crate::proposal_focal).
    Focal {
        /// Weight of objects; all else has `1 - alpha`.
        alpha: f64,
        /// How much sure anchors count for less.
        gamma: f64,
    },
    /// Where it is: [`proposal_huber`](crate::proposal_huber).
    Huber {
        /// Where the square ends.
        delta: f64,
    },
}

/// What the patches of a masked image are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReconstructionTarget {
    /// The teacher's embedding, averaged over the cells of each patch: [`masked_features`](crate::masked_features).
    TeacherEmbedding,
    /// Their own pixels: [`masked_pixels`](crate::masked_pixels).
    Pixels,
}

/// How features are compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FeatureDistance {
    /// [`feature_mse`].
    Mse,
    /// [`feature_l1`].
    L1,
    /// [`feature_huber`].
    Huber {
        /// Where the square ends.
        delta: f64,
    },
    /// [`feature_cosine`].
    Cosine,
}

/// Which cells of a map count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cells {
    /// All, those of padding too: a decoder reads something from them.
    All,
    /// Those whose centre lies in the image.
    Used,
}

/// What masks are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskTarget {
    /// The teacher's mask (logit above 0) for the same prompt and the same token.
    TeacherHard,
    /// The annotated mask.
    Truth,
}

/// How masks are compared, over the pixels that show the image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MaskDistance {
    /// Binary cross-entropy, mean over pixels.
    Bce,
    /// Soft Dice distance.
    Dice,
    /// Binary cross-entropy times `alpha_t (1 - p_t)^gamma`, mean over pixels.
    ///
    /// # Source
    /// Lin et al. 2017 (arXiv 1708.02002), equation 5; SAM trains with alpha 0.25 and gamma 2.
    Focal {
        /// Weight of foreground; background has `1 - alpha`.
        alpha: f64,
        /// How much sure pixels count for less.
        gamma: f64,
    },
}

/// How much each prompt counts in mask terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptWeighting {
    /// All alike.
    Uniform,
    /// `sigma(IoU(teacher, truth) / (IoU(student, truth) + 1e-6) - 1)`, of hard masks: more where the teacher is better.
    ///
    /// # Source
    /// TinySAM (arXiv 2312.13789), equation 4; the epsilon is not published.
    HardMasks,
}

/// What an image loss reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageNeeds {
    /// The teacher's embedding of every image, as target.
    pub embedding: bool,
    /// Prompts, and the student's masks for them.
    pub masks: bool,
    /// The teacher's masks for the same prompts.
    pub teacher_masks: bool,
    /// Annotated masks.
    pub truth: bool,
    /// Masked images, and nothing else.
    pub reconstruction: Option<ReconstructionTarget>,
    /// Proposed boxes, and those of the annotated objects.
    pub proposals: bool,
}

impl ImageTermKind {
    /// The name in configurations, logs and errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding { distance, .. } => match distance {
                FeatureDistance::Mse => "embedding_mse",
                FeatureDistance::L1 => "embedding_l1",
                FeatureDistance::Huber { .. } => "embedding_huber",
                FeatureDistance::Cosine => "embedding_cosine",
            },
            Self::Masks { target, distance } => match (target, distance) {
                (MaskTarget::TeacherHard, MaskDistance::Bce) => "teacher_mask_bce",
                (MaskTarget::TeacherHard, MaskDistance::Dice) => "teacher_mask_dice",
                (MaskTarget::TeacherHard, MaskDistance::Focal { .. }) => "teacher_mask_focal",
                (MaskTarget::Truth, MaskDistance::Bce) => "truth_mask_bce",
                (MaskTarget::Truth, MaskDistance::Dice) => "truth_mask_dice",
                (MaskTarget::Truth, MaskDistance::Focal { .. }) => "truth_mask_focal",
            },
            Self::Reconstruction { target: ReconstructionTarget::TeacherEmbedding } => "masked_embedding_mse",
            Self::Reconstruction { target: ReconstructionTarget::Pixels } => "masked_pixels_mse",
            Self::Proposals { distance: ProposalDistance::Focal { .. } } => "proposal_focal",
            Self::Proposals { distance: ProposalDistance::Huber { .. } } => "proposal_huber",
            Self::Scores => "scores_l1",
        }
    }

    /// Whether it is about images, not prompts.
    pub fn is_of_images(self) -> bool {
        !matches!(self, Self::Masks { .. } | Self::Scores)
    }
}

impl ImageLossPlan {
    /// A loss of these terms.
    ///
    /// # Errors
    /// If a number is out of range, a term comes twice, or nothing is minimised.
    pub fn new(terms: Vec<ImageTerm>, prompt_weighting: PromptWeighting) -> Result<Self, LossPlanError> {
        let range = |key, expected, found: f64, allowed: bool| match found.is_finite() && allowed {
            true => Ok(()),
            false => Err(LossPlanError::Range { key, expected, found }),
        };
        for (idx, ImageTerm { kind, weight }) in terms.iter().enumerate() {
            let name = kind.name();
            range(name, "a finite weight, 0 or above", *weight, *weight >= 0.0)?;
            match *kind {
                ImageTermKind::Embedding { distance: FeatureDistance::Huber { delta }, .. } => {
                    range("delta", "a finite number above 0", delta, delta > 0.0)?;
                }
                ImageTermKind::Proposals { distance: ProposalDistance::Huber { delta } } => {
                    range("delta", "a finite number above 0", delta, delta > 0.0)?;
                }
                ImageTermKind::Masks { distance: MaskDistance::Focal { alpha, gamma }, .. }
                | ImageTermKind::Proposals { distance: ProposalDistance::Focal { alpha, gamma } } => {
                    range("alpha", "0 to 1", alpha, (0.0..=1.0).contains(&alpha))?;
                    range("gamma", "0 to 10", gamma, (0.0..=10.0).contains(&gamma))?;
                }
                ImageTermKind::Embedding { .. }
                | ImageTermKind::Masks { .. }
                | ImageTermKind::Reconstruction { .. }
                | ImageTermKind::Scores => {}
            }
            if terms[..idx].iter().any(|earlier| earlier.kind.name() == name) {
                return Err(LossPlanError::Twice { term: name });
            }
        }
        let reconstructs = |term: &ImageTerm| matches!(term.kind, ImageTermKind::Reconstruction { .. });
        if let Some(term) = terms.iter().find(|term| reconstructs(term))
            && terms.len() > 1
        {
            return Err(LossPlanError::NotAlone { term: term.kind.name() });
        }
        match terms.iter().any(|term| term.weight > 0.0) {
            true => Ok(Self { terms, prompt_weighting }),
            false => Err(LossPlanError::Nothing),
        }
    }

    /// The terms.
    pub fn terms(&self) -> &[ImageTerm] {
        &self.terms
    }

    /// How much each prompt counts.
    pub fn prompt_weighting(&self) -> PromptWeighting {
        self.prompt_weighting
    }

    /// What has to be fetched or computed for this plan.
    pub fn needs(&self) -> ImageNeeds {
        let any = |is: fn(&ImageTermKind) -> bool| self.terms.iter().any(|term| is(&term.kind));
        let compares = |target| {
            self.terms
                .iter()
                .any(|term| matches!(term.kind, ImageTermKind::Masks { target: found, .. } if found == target))
        };
        let weighs = self.prompt_weighting == PromptWeighting::HardMasks;
        let reconstruction = self.terms.iter().find_map(|term| match term.kind {
            ImageTermKind::Reconstruction { target } => Some(target),
            _ => None,
        });
        ImageNeeds {
            reconstruction,
            proposals: any(|kind| matches!(kind, ImageTermKind::Proposals { .. })),
            embedding: any(|kind| matches!(kind, ImageTermKind::Embedding { .. })),
            masks: any(|kind| !kind.is_of_images()),
            teacher_masks: compares(MaskTarget::TeacherHard) || weighs,
            truth: compares(MaskTarget::Truth) || weighs || any(|kind| matches!(kind, ImageTermKind::Scores)),
        }
    }
}

/// A term's distances: name and values, detached from the gradient.
pub type TermValues = (&'static str, Tensor<1>);

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
    let distance = |kind: FeatureDistance, cells: Cells| {
        let used = if cells == Cells::Used { used } else { &[] };
        let (student, teacher) = (student.clone(), teacher.clone());
        match kind {
            FeatureDistance::Mse => feature_mse(student, teacher, used),
            FeatureDistance::L1 => feature_l1(student, teacher, used),
            FeatureDistance::Huber { delta } => feature_huber(student, teacher, delta, used),
            FeatureDistance::Cosine => feature_cosine(student, teacher, used),
        }
    };
    let terms = plan.terms.iter().filter_map(|term| match term.kind {
        ImageTermKind::Embedding { distance: kind, cells } => Some((term, distance(kind, cells))),
        ImageTermKind::Masks { .. }
        | ImageTermKind::Reconstruction { .. }
        | ImageTermKind::Proposals { .. }
        | ImageTermKind::Scores => None,
    });
    summed(terms, None)
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
    let terms = plan.terms.iter().filter_map(|term| match term.kind {
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
    let weights = match plan.prompt_weighting {
        PromptWeighting::Uniform => None,
        PromptWeighting::HardMasks => {
            let truth = of(MaskTarget::Truth);
            let better = hard_iou(of(MaskTarget::TeacherHard), truth.clone())
                / (hard_iou(is_set(student.clone()), truth) + HARD_MASK_EPSILON);
            Some(activation::sigmoid(better - 1.0))
        }
    };
    let distance = |kind: ImageTermKind| match kind {
        ImageTermKind::Embedding { .. } | ImageTermKind::Reconstruction { .. } | ImageTermKind::Proposals { .. } => {
            None
        }
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
    let terms = plan.terms.iter().filter_map(|term| Some((term, distance(term.kind)?)));
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
        values.push((term.kind.name(), distance.clone().detach()));
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
