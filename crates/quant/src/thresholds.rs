//! The search for thresholds: powers of two for activations, eight-bit mantissas for weights.

use sensei_int8::grid::{ActivationGrid, GridError, WeightThreshold};

use crate::histogram::Histogram;

/// What makes a threshold the best one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThresholdSearch {
    /// It is the smallest that is not below the largest absolute value.
    MinMax,
    /// It has the least mean squared error; cutting off rare large values buys finer steps for the others.
    Mse,
    /// The distribution on its grid is the closest to the one seen, by [`kl_divergence`].
    Kl,
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
    let bins = if search == ThresholdSearch::Kl { seen.counted_bins() } else { vec![] };
    let cost = |grid: ActivationGrid| match search {
        ThresholdSearch::MinMax => None,
        ThresholdSearch::Mse => Some(seen.mean_squared_error(grid)),
        // Within a step of one bin nothing is lost that the histogram could tell.
        ThresholdSearch::Kl if grid.step() < 2.0 * seen.bin_width() => None,
        ThresholdSearch::Kl => Some(divergence_of_many(&bins, grid.step(), grid.qmin(), grid.qmax())),
    };
    let Some(mut least) = cost(widest) else { return Ok(widest) };
    let mut best = widest;
    for log2_threshold in (MIN_EXPONENT.max(covering - ACTIVATION_OCTAVES)..covering).rev() {
        let grid = ActivationGrid::new(bits, signed, log2_threshold)?;
        let Some(error) = cost(grid) else { break };
        if error < least {
            (best, least) = (grid, error);
        }
    }
    Ok(best)
}

/// How far the distribution of values on a grid is from the one seen: the Kullback-Leibler divergence of `seen`, with
/// what the grid cuts off counted at its ends, from what the grid's integers say about it, each integer's count spread
/// evenly over the occupied bins that round to it. 0 if every bin of an integer has the same count and nothing is cut
/// off; infinite if everything is.
///
/// `bins` are centres and counts, ascending by centre, without empty ones.
///
/// # Source
/// Migacz, "8-bit inference with TensorRT" (GTC 2017), which Sony's Model Compression Toolkit uses on power-of-two
/// thresholds too. Two differences: integers are the chip's, on both sides of 0, where TensorRT merges absolute values
/// into 128 equal parts; and what is cut off goes to the outermost *occupied* bin, so that no smoothing of empty ones
/// is needed.
pub fn kl_divergence(bins: &[(f64, u64)], step: f64, qmin: i32, qmax: i32) -> f64 {
    let (low, high) = ((f64::from(qmin) - 0.5) * step, (f64::from(qmax) + 0.5) * step);
    let first = bins.partition_point(|&(centre, _)| centre < low);
    let end = bins.partition_point(|&(centre, _)| centre <= high).max(first);
    let count = |bins: &[(f64, u64)]| bins.iter().map(|&(_, count)| count).sum::<u64>();
    let kept = &bins[first..end];
    let (below, inside, above) = (count(&bins[..first]), count(kept) as f64, count(&bins[end..]));
    let total = count(bins) as f64;
    if kept.is_empty() {
        return if bins.is_empty() { 0.0 } else { f64::INFINITY };
    }
    let last = kept.len() - 1;
    let integer = |centre: f64| (centre / step).round_ties_even();
    let mut divergence = 0.0;
    let mut at = 0;
    while at <= last {
        let here = integer(kept[at].0);
        let n_same = kept[at..].iter().take_while(|(centre, _)| integer(*centre) == here).count();
        let spread = count(&kept[at..at + n_same]) as f64 / n_same as f64 / inside;
        for (idx, &(_, count)) in kept.iter().enumerate().skip(at).take(n_same) {
            let cut_off = if idx == 0 { below } else { 0 } + if idx == last { above } else { 0 };
            let share = (count + cut_off) as f64 / total;
            divergence += share * (share / spread).ln();
        }
        at += n_same;
    }
    // Rounding can leave an exact 0 just below it.
    divergence.max(0.0)
}

/// [`kl_divergence`] of at least as many bins as TensorRT keeps, else infinite: a few bins resemble each other however
/// much is cut off. Channels of a depthwise convolution, with nine weights, therefore keep them all.
fn divergence_of_many(bins: &[(f64, u64)], step: f64, qmin: i32, qmax: i32) -> f64 {
    let (low, high) = ((f64::from(qmin) - 0.5) * step, (f64::from(qmax) + 0.5) * step);
    let n_kept = bins.iter().filter(|(centre, _)| (low..=high).contains(centre)).count();
    if n_kept < KL_MIN_BINS { f64::INFINITY } else { kl_divergence(bins, step, qmin, qmax) }
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
    let histogram = if search == ThresholdSearch::Kl {
        let mut histogram = Histogram::default();
        histogram.observe(weights);
        histogram.counted_bins()
    } else {
        vec![]
    };
    let limit = 1_i32 << (weight_bits - 1);
    let cost = |threshold: WeightThreshold| match search {
        ThresholdSearch::Kl => divergence_of_many(&histogram, threshold.step(weight_bits), -limit, limit - 1),
        ThresholdSearch::MinMax | ThresholdSearch::Mse => weight_error(weights, threshold, weight_bits),
    };
    let mut best = (covering, cost(covering));
    for octave in 0..WEIGHT_OCTAVES {
        for mantissa in (128..=255).rev() {
            let Ok(threshold) = WeightThreshold::new(mantissa, covering.exponent() - octave) else { break };
            if threshold.value() >= covering.value() {
                continue;
            }
            let error = cost(threshold);
            if error < best.1 {
                best = (threshold, error);
            }
        }
    }
    Ok(best.0)
}

/// Sum of squared differences of the weights and their nearest ones on the grid, in the arithmetic of
/// [`IntegerConv::quantize`](sensei_int8::model::IntegerConv::quantize).
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

/// TensorRT's search starts with this many.
const KL_MIN_BINS: usize = 128;
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

    /// `n` equal bins in `[0, 1)`, of which a grid from 0 keeps those below `kept`: on the grid's side each has `1/kept`,
    /// on the seen side `1/n` and the last one what is cut off.
    #[test]
    fn the_divergence_of_a_clipped_uniform_distribution_is_the_one_by_hand() {
        let n = 1024;
        let bins: Vec<(f64, u64)> = (0..n).map(|bin| ((f64::from(bin) + 0.5) / f64::from(n), 7)).collect();
        for (kept, step) in [(1024, 1.0 / 256.0), (512, 1.0 / 512.0), (256, 1.0 / 256.0)] {
            let qmax = (f64::from(kept) / f64::from(n) / step).round() as i32 - 1;
            // Half a step beyond the last integer is kept too: move the grid's values to the middle of its steps.
            let shifted: Vec<(f64, u64)> = bins.iter().map(|&(centre, count)| (centre - step / 2.0, count)).collect();
            let got = kl_divergence(&shifted, step, 0, qmax);
            let (n, kept) = (f64::from(n), f64::from(kept));
            let last = 1.0 / n + (n - kept) / n;
            let expected = (kept - 1.0) / n * (kept / n).ln() + last * (last * kept).ln();
            assert!((got - expected).abs() < 1e-12, "{kept}: {got}, expected {expected}");
        }
        // Two bins of one integer, 3 and 1: 3/4 ln(3/2) + 1/4 ln(1/2).
        let got = kl_divergence(&[(0.9, 3), (1.1, 1)], 1.0, -128, 127);
        assert!((got - (0.75 * 1.5_f64.ln() + 0.25 * 0.5_f64.ln())).abs() < 1e-15);
        assert_eq!(kl_divergence(&[(300.0, 1)], 1.0, -128, 127), f64::INFINITY);
    }

    /// A bell in `[-1, 1]`, sums of six uniform values, by integer arithmetic.
    fn bell(n: usize) -> Vec<f32> {
        let mut state = 1_u64;
        let mut uniform = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        (0..n).map(|_| (0..6).map(|_| uniform()).sum::<f32>() / 3.0 - 1.0).collect()
    }

    #[test]
    fn divergence_keeps_a_whole_distribution_and_cuts_a_lone_outlier_off() {
        let grid = |values: &[f32], signed| {
            activation_grid(&seen(values), 8, signed, ThresholdSearch::Kl).expect("a grid").log2_threshold()
        };
        let even: Vec<f32> = (0..100_000).map(|i| (i as f32 / 100_000.0) * 0.996).collect();
        assert_eq!(grid(&even, false), 0);
        let mut bell = bell(100_000);
        assert_eq!(grid(&bell, true), 0);
        bell.push(-7.9);
        assert_eq!(grid(&bell, true), 0, "one value in 100,000");
        let sixteen = activation_grid(&seen(&bell), 16, true, ThresholdSearch::Kl).expect("a grid");
        assert_eq!(sixteen.log2_threshold(), 3, "steps finer than the histogram lose nothing that it can tell");
    }

    #[test]
    fn divergence_covers_a_few_distinct_weights_and_cuts_off_an_outlier_of_many() {
        let kl =
            |weights: &[f32], bits| weight_threshold(weights, bits, ThresholdSearch::Kl).expect("a threshold").value();
        // Nine taps are too few to compare distributions.
        let taps = [0.9, -0.7, 0.5, -0.3, 0.1, 0.2, 0.4, -0.6, 0.8];
        assert!(kl(&taps, 8) >= 0.9 && kl(&taps, 8) < 0.91);
        let mut weights: Vec<f32> = bell(2000).iter().map(|weight| weight * 0.1).collect();
        weights.push(0.39);
        assert!(kl(&weights, 4) < 0.2, "{}", kl(&weights, 4));
    }

    #[test]
    fn a_dead_channel_has_a_threshold() {
        for search in [ThresholdSearch::MinMax, ThresholdSearch::Mse, ThresholdSearch::Kl] {
            let threshold = weight_threshold(&[0.0; 9], 8, search).expect("a threshold");
            assert!(threshold.value() >= 1e-6 && threshold.value() < 1.01e-6);
        }
        assert!(weight_threshold(&[1e9], 8, ThresholdSearch::Mse).is_err());
    }
}
