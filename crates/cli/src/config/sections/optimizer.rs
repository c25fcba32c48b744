//! `[train] optimizer`: AdamW.

use schemars::JsonSchema;
use sensei_train::optimizer::AdamWConfig;
use serde::{Deserialize, Serialize};

/// AdamW, as PyTorch's, whose defaults are 0.9, 0.999, 1e-8 and 0.01.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OptimizerToml {
    /// Decay of the gradient's average, per step.
    #[schemars(range(min = 0.0, max = 0.999_999))]
    pub beta1: f64,
    /// Decay of the squared gradient's average, per step.
    #[schemars(range(min = 0.0, max = 0.999_999_9))]
    pub beta2: f64,
    /// Added to the root of the squared gradient's average.
    #[schemars(range(min = 1e-12, max = 1.0))]
    pub epsilon: f64,
    /// Of every trained tensor, times the learning rate.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub weight_decay: f64,
}

impl OptimizerToml {
    /// The optimiser.
    pub fn resolve(&self) -> AdamWConfig {
        let &Self { beta1, beta2, epsilon, weight_decay } = self;
        AdamWConfig { beta1, beta2, epsilon, weight_decay }
    }
}
