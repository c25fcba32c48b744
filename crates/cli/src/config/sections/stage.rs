//! `[[train.stage]]`: one part of the training schedule.

use anyhow::Context;
use schemars::JsonSchema;
use sensei_student::lite0::ENCODER_PREFIX;
use sensei_student::student::WEIGHTS;
use sensei_train::plan::{GroupPlan, GroupRate, Slower, StagePlan};
use sensei_train::schedule::{Decay, Schedule};
use serde::{Deserialize, Serialize};

use super::augmentation::AugmentationToml;
use super::loss::LossToml;
use super::stage_quantization::StageQuantizationToml;

/// One part of the training schedule.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StageToml {
    /// For events and messages.
    pub name: String,
    /// Passes over the training samples.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub epochs: u64,
    /// After the warm-up.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub learning_rate: f64,
    /// Share of the learning rate at which the encoder of a `lite_unet` learns, whose weights may be good already. Without it, all learn alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub encoder_rate_factor: Option<f64>,
    /// Steps in which the learning rate rises linearly from 0; step 0 has rate 0, as in PicoSAM2's code.
    pub warmup_steps: u64,
    /// What the learning rate does after the warm-up.
    pub decay: DecayToml,
    /// What is minimised.
    pub loss: LossToml,
    /// How samples are varied.
    pub augmentation: AugmentationToml,
    /// Training on the chip's grid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<StageQuantizationToml>,
}

/// What the learning rate does after the warm-up.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum DecayToml {
    /// It stays.
    Constant {},
    /// It falls along half a cosine.
    Cosine {
        /// The learning rate at the stage's end.
        #[schemars(range(min = 0.0, max = 10.0))]
        final_learning_rate: f64,
    },
}

impl DecayToml {
    /// The plan of the decay.
    pub fn resolve(&self) -> Decay {
        match *self {
            Self::Constant {} => Decay::Constant,
            Self::Cosine { final_learning_rate } => Decay::Cosine { final_learning_rate },
        }
    }
}

impl StageToml {
    /// The stage's plan; `also_train` names the parts of the training data after the first.
    ///
    /// # Errors
    /// If its loss or its augmentation means nothing.
    pub fn resolve(self, weight_decay: f64, also_train: &[String]) -> anyhow::Result<StagePlan> {
        let (groups, on_grid) =
            (self.groups(weight_decay), self.quantization.as_ref().map(StageQuantizationToml::resolve));
        let of_stage = || format!("[[train.stage]] {:?}", self.name);
        let loss = self.loss.resolve(also_train).with_context(of_stage)?;
        let augmentation = self.augmentation.resolve().with_context(of_stage)?;
        Ok(StagePlan {
            epochs: self.epochs,
            schedule: Schedule {
                learning_rate: self.learning_rate,
                warmup_steps: self.warmup_steps,
                decay: self.decay.resolve(),
            },
            loss,
            augmentation,
            groups,
            on_grid,
            name: self.name,
        })
    }

    /// The groups of parameters that the stage trains: weights, and on the chip's grid their thresholds.
    fn groups(&self, weight_decay: f64) -> Vec<GroupPlan> {
        let slower = self.encoder_rate_factor.map(|factor| Slower { prefix: ENCODER_PREFIX.into(), factor });
        let (group, rate) = (WEIGHTS.into(), GroupRate::Stage);
        let weights = GroupPlan { group, rate, slower, weight_decay, clipped: true, hold_after: None };
        std::iter::once(weights).chain(self.quantization.as_ref().map(StageQuantizationToml::thresholds)).collect()
    }
}
