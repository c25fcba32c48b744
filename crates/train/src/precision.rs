//! Mixed precision: what convolutions compute in, and how gradients stay above the smallest 16-bit number.

use sensei_tensor::network::HalfPrecision;
use serde::{Deserialize, Serialize};

/// Convolutions in 16 bits; weights, moments and losses stay in 32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MixedPrecision {
    /// The format.
    pub half: HalfPrecision,
    /// How the loss is scaled before the backward pass; `None` for a format with the range of 32 bits.
    pub scaling: Option<LossScaling>,
}

/// Constants of the dynamic loss scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossScaling {
    /// Scale of the first step.
    pub initial: f64,
    /// Steps without an overflow after which the scale is doubled.
    pub growth_interval: u64,
}

/// The loss scale between two steps.
///
/// # Source
/// Micikevicius et al. 2018, section 3.2; factors as in `torch.amp.GradScaler`: twice and half.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossScale {
    /// Factor of the loss.
    pub scale: f64,
    /// Steps since it last changed.
    pub unchanged_steps: u64,
    /// Steps of the run whose gradients overflowed and that changed no weight.
    pub skipped_steps: u64,
}

impl LossScale {
    /// Before the first step.
    pub fn new(scaling: LossScaling) -> Self {
        Self { scale: scaling.initial, unchanged_steps: 0, skipped_steps: 0 }
    }

    /// Takes note of a step; `overflowed` if its gradients were not finite.
    pub fn update(&mut self, scaling: LossScaling, overflowed: bool) {
        if overflowed {
            self.scale /= 2.0;
            self.skipped_steps += 1;
            self.unchanged_steps = 0;
            return;
        }
        self.unchanged_steps += 1;
        if self.unchanged_steps >= scaling.growth_interval {
            self.scale *= 2.0;
            self.unchanged_steps = 0;
        }
    }

    /// Whether halving it again would be no help: gradients that overflow at 1 are not numbers.
    pub fn is_exhausted(&self) -> bool {
        self.scale < 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scale_doubles_after_quiet_steps_and_halves_on_an_overflow() {
        let scaling = LossScaling { initial: 4.0, growth_interval: 2 };
        let mut scale = LossScale::new(scaling);
        let walked: Vec<f64> = [false, false, false, true, false, false, true, true, true, true, true]
            .into_iter()
            .map(|overflowed| {
                scale.update(scaling, overflowed);
                scale.scale
            })
            .collect();
        assert_eq!(walked, [4.0, 8.0, 8.0, 4.0, 4.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25]);
        assert_eq!((scale.skipped_steps, scale.is_exhausted()), (6, true));
    }
}
