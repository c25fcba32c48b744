//! What is seen of a tensor's values over the calibration images, and what each grid would cost.

use sensei_int8::grid::ActivationGrid;

/// Distribution of one tensor's values: [`N_BINS`] equal bins over `[-2^r, 2^r)`, with `r` growing as needed.
///
/// Zeros are counted apart: after a ReLU they are many, and every grid holds them exactly.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    log2_range: Option<i32>,
    bins: Vec<u64>,
    zeros: u64,
    min: f32,
    max: f32,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { log2_range: None, bins: vec![0; N_BINS], zeros: 0, min: f32::INFINITY, max: f32::NEG_INFINITY }
    }
}

impl Histogram {
    /// Counts these values, all finite.
    pub fn observe(&mut self, values: &[f32]) {
        let (min, max) = values.iter().fold((self.min, self.max), |(min, max), &x| (min.min(x), max.max(x)));
        (self.min, self.max) = (min, max);
        let max_abs = f64::from(self.max_abs());
        if max_abs == 0.0 {
            self.zeros += values.len() as u64;
            return;
        }
        // The smallest power of two above every value; below 2^-60 nothing matters.
        let needed = (max_abs.log2().floor() as i32 + 1).max(-60);
        while *self.log2_range.get_or_insert(needed) < needed {
            self.double_range();
        }
        let per_unit = (N_BINS as f64 / 2.0) / f64::from(self.log2_range.unwrap_or(needed)).exp2();
        for &value in values {
            if value == 0.0 {
                self.zeros += 1;
            } else {
                let bin = (f64::from(value) * per_unit).floor() as i64 + N_BINS as i64 / 2;
                self.bins[bin.clamp(0, N_BINS as i64 - 1) as usize] += 1;
            }
        }
    }

    /// Number of values seen.
    pub fn count(&self) -> u64 {
        self.zeros + self.bins.iter().sum::<u64>()
    }

    /// Smallest value seen; infinite before the first.
    pub fn min(&self) -> f32 {
        self.min
    }

    /// Largest value seen; negative infinite before the first.
    pub fn max(&self) -> f32 {
        self.max
    }

    /// Largest absolute value seen; 0 before the first.
    pub fn max_abs(&self) -> f32 {
        self.max.max(-self.min).max(0.0)
    }

    /// Mean squared difference of the values and their nearest ones on a grid, with the values of each bin taken to be
    /// spread evenly in it.
    pub fn mean_squared_error(&self, grid: ActivationGrid) -> f64 {
        let Some(log2_range) = self.log2_range else { return 0.0 };
        let width = f64::from(log2_range + 1).exp2() / N_BINS as f64;
        let edge = |bin: usize| error_integral(grid, (bin as f64 - N_BINS as f64 / 2.0) * width);
        let counted = self.bins.iter().enumerate().filter(|(_, count)| **count > 0);
        let sum: f64 = counted.map(|(bin, &count)| count as f64 * (edge(bin + 1) - edge(bin)) / width).sum();
        sum / self.count() as f64
    }

    /// Centre and count of every bin that has any, ascending; zeros, which every grid holds, are left out.
    pub fn counted_bins(&self) -> Vec<(f64, u64)> {
        let centre = |bin: usize| (bin as f64 + 0.5 - N_BINS as f64 / 2.0) * self.bin_width();
        let counted = self.bins.iter().enumerate().filter(|(_, count)| **count > 0);
        counted.map(|(bin, &count)| (centre(bin), count)).collect()
    }

    /// Width of a bin; 0 before the first value other than 0.
    pub fn bin_width(&self) -> f64 {
        self.log2_range.map_or(0.0, |log2_range| f64::from(log2_range + 1).exp2() / N_BINS as f64)
    }

    /// Upper end of the range, a power of two above every value, and the counts of this many equal bins from its negative to it; zeros are left
    /// out. No counts before the first value other than 0.
    ///
    /// # Panics
    /// If `n_bins` does not divide [`N_BINS`].
    pub fn merged(&self, n_bins: usize) -> Option<(f64, Vec<u64>)> {
        assert_eq!(N_BINS % n_bins, 0, "merged: {n_bins} bins of {N_BINS}");
        let counts = self.bins.chunks_exact(N_BINS / n_bins).map(|bins| bins.iter().sum());
        self.log2_range.map(|log2_range| (f64::from(log2_range).exp2(), counts.collect()))
    }

    fn double_range(&mut self) {
        let mut wider = vec![0; N_BINS];
        for (bin, count) in self.bins.iter().enumerate() {
            wider[N_BINS / 4 + bin / 2] += count;
        }
        self.bins = wider;
        self.log2_range = self.log2_range.map(|range| range + 1);
    }
}

/// Integral of the squared rounding error from 0 to `x`.
fn error_integral(grid: ActivationGrid, x: f64) -> f64 {
    let step = grid.step();
    let q = (x / step).round_ties_even().clamp(f64::from(grid.qmin()), f64::from(grid.qmax()));
    // `q` whole steps of `step^3 / 12` each, and the rest, which has no bound where the grid ends.
    q * step.powi(3) / 12.0 + (x - q * step).powi(3) / 3.0
}

/// Number of bins; a grid of 8 bits that spans the whole range has 16 of them per step.
pub const N_BINS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Vec<f32> {
        // A skewed distribution with a tail, by integer arithmetic.
        (0..20_000_u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32)
            .map(|u| u * u * u * 6.0 - 0.5)
            .collect()
    }

    #[test]
    fn the_error_of_a_grid_is_that_of_the_values_themselves() {
        let values = values();
        let mut histogram = Histogram::default();
        histogram.observe(&values);
        for (signed, log2_threshold) in [(true, 3), (true, 2), (true, 1), (true, -2), (false, 3), (false, 0)] {
            let grid = ActivationGrid::new(8, signed, log2_threshold).expect("a grid");
            let error = |&value: &f32| (f64::from(value) - grid.dequantize(grid.quantize(f64::from(value)))).powi(2);
            let expected = values.iter().map(error).sum::<f64>() / values.len() as f64;
            let got = histogram.mean_squared_error(grid);
            assert!((got / expected - 1.0).abs() < 0.03, "{grid:?}: {got:e}, expected {expected:e}");
        }
    }

    #[test]
    fn a_range_that_grows_gives_the_counts_of_one_that_was_wide_from_the_start() {
        let values = values();
        let (mut at_once, mut in_turn) = (Histogram::default(), Histogram::default());
        at_once.observe(&values);
        let mut sorted = values.clone();
        sorted.sort_by(|a, b| a.abs().total_cmp(&b.abs()));
        sorted.chunks(700).for_each(|chunk| in_turn.observe(chunk));
        assert_eq!(at_once, in_turn);
        assert_eq!(at_once.count(), values.len() as u64);
        assert_eq!(at_once.max_abs(), values.iter().fold(0.0_f32, |max, x| max.max(x.abs())));
    }

    #[test]
    fn merged_bins_hold_the_counts_of_their_parts() {
        let mut histogram = Histogram::default();
        histogram.observe(&[-0.9, -0.1, 0.0, 0.1, 0.6, 3.9]);
        let expected = vec![0, 0, 0, 2, 2, 0, 0, 1];
        assert_eq!(histogram.merged(8), Some((4.0, expected)));
        assert_eq!(Histogram::default().merged(8), None);
    }

    #[test]
    fn nothing_but_zeros_costs_nothing() {
        let mut histogram = Histogram::default();
        histogram.observe(&[0.0; 9]);
        assert_eq!((histogram.count(), histogram.max_abs()), (9, 0.0));
        assert_eq!(histogram.mean_squared_error(ActivationGrid::SIGNED_PIXELS), 0.0);
    }
}
