//! `[eval]`: how scores are summarised.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How scores are summarised.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvalToml {
    /// Resamples of the bootstrap, for the 95 % intervals.
    #[schemars(range(min = 100, max = 10_000_000))]
    pub bootstrap_resamples: usize,
    /// The bootstrap's seed.
    pub bootstrap_seed: u64,
    /// Instances per forward pass.
    #[serde(default = "EvalToml::batch_size")]
    #[schemars(range(min = 1, max = 4096))]
    pub batch_size: usize,
    /// Instances on `overlays.png`.
    #[serde(default = "EvalToml::overlays")]
    #[schemars(range(min = 0, max = 1000))]
    pub overlays: usize,
}

/// How scores are summarised.
#[derive(Debug, Clone, Copy)]
pub struct EvalPlan {
    /// Resamples of the bootstrap.
    pub bootstrap_resamples: usize,
    /// Its seed.
    pub bootstrap_seed: u64,
    /// Instances per forward pass.
    pub batch_size: usize,
    /// Instances on the overlay sheet.
    pub overlays: usize,
}

impl EvalToml {
    /// The plan of scoring.
    pub fn resolve(&self) -> EvalPlan {
        let &Self { bootstrap_resamples, bootstrap_seed, batch_size, overlays } = self;
        EvalPlan { bootstrap_resamples, bootstrap_seed, batch_size, overlays }
    }

    fn batch_size() -> usize {
        16
    }

    fn overlays() -> usize {
        20
    }
}
