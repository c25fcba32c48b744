//! `[train.stage.loss]` of a student that sees whole images: what is minimised.

use schemars::JsonSchema;
use sensei_loss::{
    Adapter, Cells, FeatureDistance, ImageLossPlan, ImageTerm, ImageTermKind, MaskDistance, MaskTarget,
    PromptWeighting, ProposalDistance, ReconstructionTarget, TapPair,
};
use serde::{Deserialize, Serialize};

/// What is minimised: the sum of all terms, each a mean over images or over prompts, times its weight.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageLossToml {
    /// How much each prompt counts in terms about masks. Without it, all alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_weighting: Option<PromptWeightingToml>,
    /// Distances and their weights; each kind at most once, those of features once for each pair of points.
    #[schemars(length(min = 1))]
    pub terms: Vec<ImageTermToml>,
}

/// How much each prompt counts.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PromptWeightingToml {
    /// All alike.
    Uniform,
    /// More where the teacher's mask is better than the student's (TinySAM).
    HardMasks,
}

/// A distance and its weight in the sum. A weight of 0: logged, not minimised.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum ImageTermToml {
    /// The student's embedding with the teacher's: mean squared difference (MobileSAM, EdgeSAM's first stage).
    EmbeddingMse(EmbeddingToml),
    /// The same, mean absolute difference (TinySAM).
    EmbeddingL1(EmbeddingToml),
    /// The same, mean of 1 - cosine of each cell (EfficientSAM's ablation).
    EmbeddingCosine(EmbeddingToml),
    /// The same, Huber (NanoSAM).
    EmbeddingHuber {
        /// Factor in the sum; 0: logged, not minimised. At least one is above 0.
        #[schemars(range(min = 0.0))]
        weight: f64,
        /// Which cells of the map count.
        cells: CellsToml,
        /// Difference beyond which the distance grows linearly.
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        delta: f64,
    },
    /// The student's features at a point with the teacher's: mean squared difference.
    FeaturesMse(FeaturesToml),
    /// The same, mean absolute difference.
    FeaturesL1(FeaturesToml),
    /// The same, mean of 1 - cosine of each cell.
    FeaturesCosine(FeaturesToml),
    /// The same, Huber.
    FeaturesHuber {
        /// Factor in the sum; 0: logged, not minimised. At least one is above 0.
        #[schemars(range(min = 0.0))]
        weight: f64,
        /// A point of the student.
        on: String,
        /// A point of the teacher.
        target: String,
        /// How the student's channels become the teacher's.
        adapter: AdapterToml,
        /// Which cells of the map count.
        cells: CellsToml,
        /// Difference beyond which the distance grows linearly.
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        delta: f64,
    },
    /// Masks of prompts with the teacher's masks (logit above 0): binary cross-entropy.
    TeacherMaskBce(MaskTermToml),
    /// The same: soft Dice.
    TeacherMaskDice(MaskTermToml),
    /// The same: focal cross-entropy.
    TeacherMaskFocal(FocalToml),
    /// Masks of prompts with the annotated ones: binary cross-entropy.
    TruthMaskBce(MaskTermToml),
    /// The same: soft Dice.
    TruthMaskDice(MaskTermToml),
    /// The same: focal cross-entropy (SAM trains with weight 20, alpha 0.25, gamma 2, and Dice of weight 1).
    TruthMaskFocal(FocalToml),
    /// What is said of all patches of a masked image with the teacher's embedding of the whole one: mean squared difference (EfficientSAM's
    /// SAMI). The one term of its stage.
    MaskedEmbeddingMse(MaskTermToml),
    /// What is said of the hidden patches with their pixels, each patch brought to mean 0 and variance 1 (MAE). The one term of its stage.
    MaskedPixelsMse(MaskTermToml),
    /// Which anchors find an annotated object: focal cross-entropy (EfficientDet: alpha 0.25, gamma 1.5).
    ProposalFocal(FocalToml),
    /// Where it is: Huber (EfficientDet: weight 50, delta 0.1).
    ProposalHuber {
        /// Factor in the sum; 0: logged, not minimised. At least one is above 0.
        #[schemars(range(min = 0.0))]
        weight: f64,
        /// Difference beyond which the distance grows linearly.
        #[schemars(extend("exclusiveMinimum" = 0.0))]
        delta: f64,
    },
    /// The score of each mask with its IoU with the annotation: absolute difference.
    ScoresL1(MaskTermToml),
}

/// A distance of embeddings.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingToml {
    /// Factor in the sum; 0: logged, not minimised. At least one is above 0.
    #[schemars(range(min = 0.0))]
    pub weight: f64,
    /// Which cells of the map count.
    pub cells: CellsToml,
}

/// A distance of features.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeaturesToml {
    /// Factor in the sum; 0: logged, not minimised. At least one is above 0.
    #[schemars(range(min = 0.0))]
    pub weight: f64,
    /// A point of the student: a node of a graph; of `tiny_vit` `patch_embed`, `layers.0` to `layers.3` or `embedding`; of `vit` `embedding`.
    pub on: String,
    /// A point of the teacher whose map has the same size: `patch_embed`, `layers.0` to `layers.3` or `embedding`.
    pub target: String,
    /// How the student's channels become the teacher's.
    pub adapter: AdapterToml,
    /// Which cells of the map count.
    pub cells: CellsToml,
}

/// How channels of features become others.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdapterToml {
    /// They are compared as they are: both have as many.
    None,
    /// By a 1x1 convolution that is trained with the encoder and dropped afterwards (FitNets).
    Pointwise,
}

/// Which cells of a map count.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CellsToml {
    /// All, those of padding too: a decoder reads something from them.
    All,
    /// Those whose centre lies in the image.
    Used,
}

/// A distance of masks.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MaskTermToml {
    /// Factor in the sum; 0: logged, not minimised. At least one is above 0.
    #[schemars(range(min = 0.0))]
    pub weight: f64,
}

/// A focal distance.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FocalToml {
    /// Factor in the sum; 0: logged, not minimised. At least one is above 0.
    #[schemars(range(min = 0.0))]
    pub weight: f64,
    /// Weight of foreground; background has 1 - alpha.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub alpha: f64,
    /// How much sure pixels count for less.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub gamma: f64,
}

impl ImageLossToml {
    /// The loss.
    ///
    /// # Errors
    /// If it means nothing: no term with a weight, or one kind twice.
    pub fn resolve(&self) -> anyhow::Result<ImageLossPlan> {
        let weighting = match self.prompt_weighting {
            None | Some(PromptWeightingToml::Uniform) => PromptWeighting::Uniform,
            Some(PromptWeightingToml::HardMasks) => PromptWeighting::HardMasks,
        };
        Ok(ImageLossPlan::new(self.terms.iter().map(ImageTermToml::resolve).collect(), weighting)?)
    }
}

impl ImageTermToml {
    fn resolve(&self) -> ImageTerm {
        let embedding = |EmbeddingToml { weight, cells }: &EmbeddingToml, distance| {
            (ImageTermKind::Embedding { distance, cells: cells.resolve() }, *weight)
        };
        let features = |FeaturesToml { weight, on, target, adapter, cells }: &FeaturesToml, distance| {
            let taps = adapter.between(on, target);
            (ImageTermKind::Features { taps, distance, cells: cells.resolve() }, *weight)
        };
        let masks = |target, distance, weight| (ImageTermKind::Masks { target, distance }, weight);
        let focal = |FocalToml { weight, alpha, gamma }: &FocalToml, target| {
            masks(target, MaskDistance::Focal { alpha: *alpha, gamma: *gamma }, *weight)
        };
        let (kind, weight) = match self {
            Self::EmbeddingMse(toml) => embedding(toml, FeatureDistance::Mse),
            Self::EmbeddingL1(toml) => embedding(toml, FeatureDistance::L1),
            Self::EmbeddingCosine(toml) => embedding(toml, FeatureDistance::Cosine),
            Self::EmbeddingHuber { weight, cells, delta } => {
                let distance = FeatureDistance::Huber { delta: *delta };
                (ImageTermKind::Embedding { distance, cells: cells.resolve() }, *weight)
            }
            Self::FeaturesMse(toml) => features(toml, FeatureDistance::Mse),
            Self::FeaturesL1(toml) => features(toml, FeatureDistance::L1),
            Self::FeaturesCosine(toml) => features(toml, FeatureDistance::Cosine),
            Self::FeaturesHuber { weight, on, target, adapter, cells, delta } => {
                let (taps, distance) = (adapter.between(on, target), FeatureDistance::Huber { delta: *delta });
                (ImageTermKind::Features { taps, distance, cells: cells.resolve() }, *weight)
            }
            Self::TeacherMaskBce(toml) => masks(MaskTarget::TeacherHard, MaskDistance::Bce, toml.weight),
            Self::TeacherMaskDice(toml) => masks(MaskTarget::TeacherHard, MaskDistance::Dice, toml.weight),
            Self::TeacherMaskFocal(toml) => focal(toml, MaskTarget::TeacherHard),
            Self::TruthMaskBce(toml) => masks(MaskTarget::Truth, MaskDistance::Bce, toml.weight),
            Self::TruthMaskDice(toml) => masks(MaskTarget::Truth, MaskDistance::Dice, toml.weight),
            Self::TruthMaskFocal(toml) => focal(toml, MaskTarget::Truth),
            Self::MaskedEmbeddingMse(toml) => {
                (ImageTermKind::Reconstruction { target: ReconstructionTarget::TeacherEmbedding }, toml.weight)
            }
            Self::MaskedPixelsMse(toml) => {
                (ImageTermKind::Reconstruction { target: ReconstructionTarget::Pixels }, toml.weight)
            }
            Self::ProposalFocal(FocalToml { weight, alpha, gamma }) => {
                let distance = ProposalDistance::Focal { alpha: *alpha, gamma: *gamma };
                (ImageTermKind::Proposals { distance }, *weight)
            }
            Self::ProposalHuber { weight, delta } => {
                (ImageTermKind::Proposals { distance: ProposalDistance::Huber { delta: *delta } }, *weight)
            }
            Self::ScoresL1(toml) => (ImageTermKind::Scores, toml.weight),
        };
        ImageTerm { kind, weight }
    }
}

impl AdapterToml {
    fn between(self, student: &str, teacher: &str) -> TapPair {
        let adapter = match self {
            Self::None => Adapter::None,
            Self::Pointwise => Adapter::Pointwise,
        };
        TapPair { student: student.into(), teacher: teacher.into(), adapter }
    }
}

impl CellsToml {
    fn resolve(self) -> Cells {
        match self {
            Self::All => Cells::All,
            Self::Used => Cells::Used,
        }
    }
}
