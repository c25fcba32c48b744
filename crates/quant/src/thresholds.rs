//! The search for thresholds: powers of two for activations, eight-bit mantissas for weights.

use sensei_imx500::grid::{ActivationGrid, GridError, WeightThreshold};

use crate::histogram::Histogram;

/// What makes a threshold the best one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThresholdSearch {
    /// It is the smallest that is not below the largest absolute value.
    MinMax,
    /// It has the least mean squared error; cutting off rare large values buys finer steps for the others.
    Mse,
}

/// The grid for a tensor of this distribution. A tensor that was always 0 gets the threshold 1.
///
/// # Errors
/// If the values are beyond every grid, or `bits` is not a width of the chip.
pub fn activation_grid(
    seen: &Histogram,
    bits: u8,
    signed: bool,
    search: ThresholdSearch,
) -> Result<ActivationGrid, GridError> {
    if seen.max_abs() == 0.0 {
        return ActivationGrid::new(bits, signed, 0);
    }
    let covering = (f64::from(seen.max_abs()).log2().ceil() as i32).max(MIN_EXPONENT);
    let widest = ActivationGrid::new(bits, signed, covering)?;
    if search == ThresholdSearch::MinMax {
        return Ok(widest);
    }
    let mut best = (widest, seen.mean_squared_error(widest));
    for log2_threshold in (MIN_EXPONENT.max(covering - ACTIVATION_OCTAVES)..covering).rev() {
        let grid = ActivationGrid::new(bits, signed, log2_threshold)?;
        let error = seen.mean_squared_error(grid);
        if error < best.1 {
            best = (grid, error);
        }
    }
    Ok(best.0)
}

/// The threshold for the weights of one output channel, all finite.
///
/// A channel without weights other than 0 gets the smallest threshold that is not below 1e-6: quantizers need one
/// above 0.
///
/// # Errors
/// If the weights are beyond the grid.
pub fn weight_threshold(
    weights: &[f32],
    weight_bits: u8,
    search: ThresholdSearch,
) -> Result<WeightThreshold, GridError> {
    let max_abs = weights.iter().fold(0.0_f32, |max, weight| max.max(weight.abs()));
    let covering = WeightThreshold::at_least(f64::from(max_abs).max(DEAD_CHANNEL))?;
    if search == ThresholdSearch::MinMax || f64::from(max_abs) <= DEAD_CHANNEL {
        return Ok(covering);
    }
    let mut best = (covering, weight_error(weights, covering, weight_bits));
    for octave in 0..WEIGHT_OCTAVES {
        for mantissa in (128..=255).rev() {
            let Ok(threshold) = WeightThreshold::new(mantissa, covering.exponent() - octave) else { break };
            if threshold.value() >= covering.value() {
                continue;
            }
            let error = weight_error(weights, threshold, weight_bits);
            if error < best.1 {
                best = (threshold, error);
            }
        }
    }
    Ok(best.0)
}

/// Sum of squared differences of the weights and their nearest ones on the grid, in the arithmetic of
/// [`Int8Conv::quantize`](sensei_imx500::model::Int8Conv::quantize).
fn weight_error(weights: &[f32], threshold: WeightThreshold, weight_bits: u8) -> f64 {
    let step = threshold.step(weight_bits) as f32;
    let limit = f32::from(1_i16 << (weight_bits - 1));
    let error = |&weight: &f32| {
        // Adding and subtracting 1.5 * 2^23 rounds half to even at the units, without a function call.
        let q = ((weight / step).clamp(-limit, limit - 1.0) + ROUND) - ROUND;
        let difference = weight - q * step;
        difference * difference
    };
    // Blocks keep the sum of many small numbers accurate, and the inner one vectorised.
    weights.chunks(64).map(|block| f64::from(block.iter().map(error).sum::<f32>())).sum()
}

const ROUND: f32 = 12_582_912.0;
/// Thresholds this many octaves below the covering one are tried; further down more is cut off than kept.
const ACTIVATION_OCTAVES: i32 = 8;
const WEIGHT_OCTAVES: i32 = 2;
/// Smallest exponent of the chip's grids.
const MIN_EXPONENT: i32 = -24;
/// Weights up to here count as none. A quantizer's threshold must be above 0; 1e-6 is the chip toolchain's floor.
const DEAD_CHANNEL: f64 = 1e-6;

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(values: &[f32]) -> Histogram {
        let mut histogram = Histogram::default();
        histogram.observe(values);
        histogram
    }

    #[test]
    fn min_max_covers_every_value() {
        let grid = |values: &[f32]| {
            activation_grid(&seen(values), 8, true, ThresholdSearch::MinMax).expect("a grid").log2_threshold()
        };
        assert_eq!(grid(&[0.1, -0.9]), 0);
        assert_eq!(grid(&[1.0, -0.2]), 0);
        assert_eq!(grid(&[1.01]), 1);
        assert_eq!(grid(&[-4.5, 3.0]), 3);
        assert_eq!(grid(&[0.0]), 0);
        assert_eq!(grid(&[1e-12]), -24);
        assert!(activation_grid(&seen(&[1e9]), 8, true, ThresholdSearch::Mse).is_err());
        assert!(activation_grid(&seen(&[1.0]), 7, true, ThresholdSearch::Mse).is_err());
    }

    #[test]
    fn least_squares_cuts_a_lone_outlier_off_and_nothing_else() {
        let mut values: Vec<f32> = (0..10_000).map(|i| (i as f32 / 10_000.0) * 0.99).collect();
        let grid = |values: &[f32]| activation_grid(&seen(values), 8, false, ThresholdSearch::Mse).expect("a grid");
        assert_eq!(grid(&values).log2_threshold(), 0);
        values.push(1.15);
        assert_eq!(grid(&values).log2_threshold(), 0, "one value of 1.15 costs less than coarser steps for 10,000");
        values.extend([1.9; 500]);
        assert_eq!(grid(&values).log2_threshold(), 1);
    }

    #[test]
    fn weight_thresholds_are_the_best_of_all_tried() {
        // Many small weights and one large.
        let mut weights: Vec<f32> = (0..512).map(|i| (i * 7919 % 521) as f32 / 521.0 * 0.6 - 0.3).collect();
        weights.push(1.0);
        for bits in [8, 4, 2] {
            let min_max = weight_threshold(&weights, bits, ThresholdSearch::MinMax).expect("a threshold");
            let best = weight_threshold(&weights, bits, ThresholdSearch::Mse).expect("a threshold");
            let max_abs = weights.iter().fold(0.0_f32, |max, weight| max.max(weight.abs()));
            assert!(min_max.value() >= f64::from(max_abs) && min_max.value() < f64::from(max_abs) * 1.01);
            assert!(weight_error(&weights, best, bits) <= weight_error(&weights, min_max, bits));
            assert!(
                bits == 8 || best.value() < min_max.value(),
                "few steps are better spent on the many small weights"
            );
        }
    }

    #[test]
    fn a_dead_channel_has_a_threshold() {
        for search in [ThresholdSearch::MinMax, ThresholdSearch::Mse] {
            let threshold = weight_threshold(&[0.0; 9], 8, search).expect("a threshold");
            assert!(threshold.value() >= 1e-6 && threshold.value() < 1.01e-6);
        }
        assert!(weight_threshold(&[1e9], 8, ThresholdSearch::Mse).is_err());
    }
}
