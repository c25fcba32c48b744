//! What students that see whole images minimise: features against the teacher's, masks of prompts, and their scores.

use std::borrow::Cow;

use crate::plan::LossPlanError;

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
#[derive(Debug, Clone, PartialEq)]
pub enum ImageTermKind {
    /// The student's embedding with the teacher's.
    Embedding {
        /// How.
        distance: FeatureDistance,
        /// Which cells.
        cells: Cells,
    },
    /// Features at a point of the student with those at a point of the teacher.
    Features {
        /// Which points.
        taps: TapPair,
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

/// A point of the student and one of the teacher whose features are compared; their maps have the same size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapPair {
    /// The student's, by its name.
    pub student: String,
    /// The teacher's.
    pub teacher: String,
    /// How the student's channels become the teacher's.
    pub adapter: Adapter,
}

/// How channels of features become others, in training alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adapter {
    /// They are compared as they are.
    None,
    /// By a 1x1 convolution that learns with the student and is dropped afterwards.
    ///
    /// # Source
    /// Romero et al. 2015, "FitNets" (arXiv 1412.6550), section 2.2, whose regressor may have larger kernels.
    Pointwise,
}

impl TapPair {
    /// Both names, for logs and the adapter's tensors.
    pub fn name(&self) -> String {
        format!("{}-{}", self.student, self.teacher)
    }
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
    /// [`feature_mse`](crate::feature_mse).
    Mse,
    /// [`feature_l1`](crate::feature_l1).
    L1,
    /// [`feature_huber`](crate::feature_huber).
    Huber {
        /// Where the square ends.
        delta: f64,
    },
    /// [`feature_cosine`](crate::feature_cosine).
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
    /// The name in configurations and errors.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Features { distance, .. } => match distance {
                FeatureDistance::Mse => "features_mse",
                FeatureDistance::L1 => "features_l1",
                FeatureDistance::Huber { .. } => "features_huber",
                FeatureDistance::Cosine => "features_cosine",
            },
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

    /// The name in logs, which terms of one kind about several points do not share.
    pub fn label(&self) -> Cow<'static, str> {
        match self {
            Self::Features { taps, .. } => format!("{} {}", self.name(), taps.name()).into(),
            Self::Embedding { .. }
            | Self::Masks { .. }
            | Self::Reconstruction { .. }
            | Self::Proposals { .. }
            | Self::Scores => self.name().into(),
        }
    }

    /// Whether it is about images, not prompts.
    pub fn is_of_images(&self) -> bool {
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
                ImageTermKind::Embedding { distance: FeatureDistance::Huber { delta }, .. }
                | ImageTermKind::Features { distance: FeatureDistance::Huber { delta }, .. } => {
                    range("delta", DELTA, delta, is_delta(delta))?;
                }
                ImageTermKind::Proposals { distance: ProposalDistance::Huber { delta } } => {
                    range("delta", DELTA, delta, is_delta(delta))?;
                }
                ImageTermKind::Masks { distance: MaskDistance::Focal { alpha, gamma }, .. }
                | ImageTermKind::Proposals { distance: ProposalDistance::Focal { alpha, gamma } } => {
                    range("alpha", "0 to 1", alpha, (0.0..=1.0).contains(&alpha))?;
                    range("gamma", "0 to 10", gamma, (0.0..=10.0).contains(&gamma))?;
                }
                ImageTermKind::Embedding { .. }
                | ImageTermKind::Features { .. }
                | ImageTermKind::Masks { .. }
                | ImageTermKind::Reconstruction { .. }
                | ImageTermKind::Scores => {}
            }
            if terms[..idx].iter().any(|earlier| earlier.kind.label() == kind.label()) {
                return Err(LossPlanError::Twice { term: kind.label() });
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

    /// The points whose features are compared, in the order of their terms.
    pub fn tap_pairs(&self) -> impl Iterator<Item = &TapPair> {
        self.terms.iter().filter_map(|term| match &term.kind {
            ImageTermKind::Features { taps, .. } => Some(taps),
            _ => None,
        })
    }

    /// What has to be fetched or computed for this plan.
    pub fn needs(&self) -> ImageNeeds {
        let any = |is: fn(&ImageTermKind) -> bool| self.terms.iter().any(|term| is(&term.kind));
        let compares = |target| {
            let is =
                |kind: &ImageTermKind| matches!(kind, ImageTermKind::Masks { target: found, .. } if *found == target);
            self.terms.iter().any(|term| is(&term.kind))
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

/// What a Huber distance's end of the square must be.
const DELTA: &str = "a finite number above 0 whose square is above 0 in 32 bits";

fn is_delta(delta: f64) -> bool {
    delta > 0.0 && (delta as f32).powi(2) > 0.0
}
