//! `[train] mixed_precision`: convolutions in 16 bits.

use schemars::JsonSchema;
use sensei_tensor::network::HalfPrecision;
use sensei_train::precision::{LossScaling, MixedPrecision};
use serde::{Deserialize, Serialize};

/// Convolutions in 16 bits, on devices that have them.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "compute", rename_all = "snake_case", deny_unknown_fields)]
pub enum MixedPrecisionToml {
    /// IEEE half precision, with a loss scale that follows the gradients.
    F16 {
        /// Factor of the loss at the first step, so that small gradients do not vanish; usually 65536.
        #[schemars(range(min = 1.0, max = 1e30))]
        initial_loss_scale: f64,
        /// Steps without an infinite gradient after which the scale doubles; usually 2000.
        #[schemars(range(min = 1, max = 1_099_511_627_776_u64))]
        growth_interval: u64,
    },
    /// bfloat16, which needs no loss scale.
    Bf16 {},
}

impl MixedPrecisionToml {
    /// What training computes in.
    pub fn resolve(&self) -> MixedPrecision {
        match *self {
            Self::F16 { initial_loss_scale: initial, growth_interval } => {
                MixedPrecision { half: HalfPrecision::F16, scaling: Some(LossScaling { initial, growth_interval }) }
            }
            Self::Bf16 {} => MixedPrecision { half: HalfPrecision::Bf16, scaling: None },
        }
    }
}
