//! `[train.stage.quantization]`: training on the chip's grid.

use schemars::JsonSchema;
use sensei_quant::qat::THRESHOLDS;
use sensei_train::plan::{GroupPlan, GroupRate, OnGrid};
use serde::{Deserialize, Serialize};

/// Training on the chip's grid.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StageQuantizationToml {
    /// AdamW's, without decay, of the thresholds' logarithms; it follows the stage's schedule in proportion.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub threshold_learning_rate: f64,
    /// Steps of the stage after which thresholds stay, so that weights settle on a grid that does not move.
    pub hold_thresholds_after: u64,
    /// Steps of the stage until which batch norms use and collect the batch's statistics; after that they use the running ones, as the
    /// chip does.
    pub hold_norms_after: u64,
}

impl StageQuantizationToml {
    /// How the stage rounds.
    pub fn resolve(&self) -> OnGrid {
        OnGrid { hold_norms_after: self.hold_norms_after }
    }

    /// How the stage trains thresholds.
    pub fn thresholds(&self) -> GroupPlan {
        GroupPlan {
            group: THRESHOLDS.into(),
            rate: GroupRate::Peak(self.threshold_learning_rate),
            slower: None,
            // A threshold has no reason to be near 1.
            weight_decay: 0.0,
            // Of another scale than the weights'; AdamW divides it away.
            clipped: false,
            hold_after: Some(self.hold_thresholds_after),
        }
    }
}
