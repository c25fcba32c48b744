//! `[train.stage.quantization]`: training on the chip's grid.

use schemars::JsonSchema;
use sensei_train::quantization::QuantizationPlan;
use serde::{Deserialize, Serialize};

use super::quantize::QuantizePlan;

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
    /// The plan of training on the grid, calibrated as `[quantize]` says.
    pub fn resolve(&self, quantize: &QuantizePlan) -> QuantizationPlan {
        QuantizationPlan {
            calibration: quantize.calibration(),
            calibration_instances: quantize.calibration_instances,
            threshold_learning_rate: self.threshold_learning_rate,
            hold_thresholds_after: self.hold_thresholds_after,
            hold_norms_after: self.hold_norms_after,
        }
    }
}
