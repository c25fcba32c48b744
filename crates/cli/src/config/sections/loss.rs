//! `[train.stage.loss]`: what is minimised.

use std::collections::BTreeMap;

use anyhow::Context;
use schemars::JsonSchema;
use sensei_loss::{LossPlan, LossTerm, SampleWeighting, TermKind};
use serde::{Deserialize, Serialize};

/// What is minimised: `mean over samples of alpha (teacher terms) + (1 - alpha) (truth terms) + (other terms)`, on probabilities
/// `sigma(sharpness * logit)`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LossToml {
    /// Factor of the logits before the sigmoid; PicoSAM2: 1, PicoSAM3: 5.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub sharpness: f64,
    /// Alpha: how much of a sample's loss is the teacher's.
    pub weighting: WeightingToml,
    /// Another alpha for the samples of some of `[[data.also_train]]`, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weighting_of: BTreeMap<String, WeightingToml>,
    /// Distances and their weights; each kind at most once.
    #[schemars(length(min = 1))]
    pub terms: Vec<TermToml>,
}

/// Alpha: how much of a sample's loss is the teacher's.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum WeightingToml {
    /// The teacher's predicted IoU of each sample, clamped to 0 to 1 (the papers' words).
    TeacherScorePerSample,
    /// Its mean over the batch (what the published code computes).
    TeacherScoreBatchMean,
    /// `alpha` where the teacher's predicted IoU is at least `score`, 0 elsewhere.
    TeacherScoreAtLeast {
        /// The lowest predicted IoU with which the teacher is heard.
        #[schemars(range(min = 0.0, max = 1.0))]
        score: f64,
        /// Its share there.
        #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0.0))]
        alpha: f64,
    },
    /// `alpha` where the teacher's mask and the annotated one have an IoU of at least `iou` in the crop, 0 elsewhere.
    AgreementAtLeast {
        /// The lowest IoU with which the teacher is heard.
        #[schemars(range(min = 0.0, max = 1.0))]
        iou: f64,
        /// Its share there.
        #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0.0))]
        alpha: f64,
    },
    /// The same for all samples.
    Constant(#[schemars(range(min = 0.0, max = 1.0))] f64),
    /// 0, and no teacher terms.
    TruthOnly,
    /// 0, and the teacher's mask (logit above 0) stands in for the annotated one in all terms; no teacher terms.
    TeacherHard,
}

/// A distance and its weight in the sum. A weight of 0: logged, not minimised.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TermToml {
    /// Teacher term: mean squared difference of the probabilities.
    TeacherMse(WeightToml),
    /// Teacher term: soft Dice.
    TeacherDice(WeightToml),
    /// Truth term: binary cross-entropy, from logits.
    TruthBce(WeightToml),
    /// Truth term: soft Dice.
    TruthDice(WeightToml),
    /// Other term: `relu(floor - area / true area)`.
    AreaShortfall {
        /// Factor in the sum; 0: logged, not minimised. At least one is above 0.
        #[schemars(range(min = 0.0))]
        weight: f64,
        /// Share of the true area below which a mask is too small; PicoSAM3: 0.4, with weight 0.4.
        #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0.0))]
        floor: f64,
    },
}

/// A distance without keys of its own.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightToml {
    /// Factor in the sum; 0: logged, not minimised. At least one is above 0.
    #[schemars(range(min = 0.0))]
    pub weight: f64,
}

impl LossToml {
    /// The loss; `also_train` names the parts of the training data after the first.
    ///
    /// # Errors
    /// If it means nothing: no term with a weight, one kind twice, teacher terms without weight of the teacher, a weighting of a part
    /// that there is not.
    pub fn resolve(&self, also_train: &[String]) -> anyhow::Result<LossPlan> {
        let part_weighting = |(name, weighting): (&String, &WeightingToml)| {
            let idx = also_train.iter().position(|known| known == name).with_context(|| {
                let known = if also_train.is_empty() { "none".into() } else { also_train.join(", ") };
                format!("weighting_of: expected a name of [[data.also_train]] ({known}), found {name:?}")
            })?;
            Ok((1 + idx, weighting.resolve()))
        };
        let part_weightings = self.weighting_of.iter().map(part_weighting).collect::<anyhow::Result<_>>()?;
        let terms = self.terms.iter().map(TermToml::resolve).collect();
        Ok(LossPlan::with_parts(self.sharpness, self.weighting.resolve(), part_weightings, terms)?)
    }
}

impl WeightingToml {
    fn resolve(&self) -> SampleWeighting {
        match *self {
            Self::TeacherScorePerSample => SampleWeighting::TeacherScorePerSample,
            Self::TeacherScoreBatchMean => SampleWeighting::TeacherScoreBatchMean,
            Self::Constant(alpha) => SampleWeighting::Constant(alpha),
            Self::TeacherScoreAtLeast { score, alpha } => SampleWeighting::TeacherScoreAtLeast { score, alpha },
            Self::AgreementAtLeast { iou, alpha } => SampleWeighting::AgreementAtLeast { iou, alpha },
            Self::TruthOnly => SampleWeighting::TruthOnly,
            Self::TeacherHard => SampleWeighting::TeacherHard,
        }
    }
}

impl TermToml {
    fn resolve(&self) -> LossTerm {
        let (kind, weight) = match *self {
            Self::TeacherMse(WeightToml { weight }) => (TermKind::TeacherMse, weight),
            Self::TeacherDice(WeightToml { weight }) => (TermKind::TeacherDice, weight),
            Self::TruthBce(WeightToml { weight }) => (TermKind::TruthBce, weight),
            Self::TruthDice(WeightToml { weight }) => (TermKind::TruthDice, weight),
            Self::AreaShortfall { weight, floor } => (TermKind::AreaShortfall { floor }, weight),
        };
        LossTerm { kind, weight }
    }
}
