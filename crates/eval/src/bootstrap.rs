//! Percentile intervals from resampling whole images: instances of one image are not independent.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// What fixes an interval besides the instances. The level is 95 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootstrapConfig {
    /// Resample `r` draws from ChaCha8 with this seed and stream `r`, on any machine and any number of threads.
    pub seed: u64,
    /// Number of resamples; 10,000 in reports.
    pub n_resamples: u32,
}

/// The 2.5 and 97.5 percentiles of a statistic over the resamples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// 2.5 percentile.
    pub low: f64,
    /// 97.5 percentile.
    pub high: f64,
    /// Resamples without a single contributing instance (possible in a rare stratum); the percentiles are of the others.
    pub n_undefined: u32,
}

/// The `q`-th quantile, `q` in `[0, 1]`, of ascending values, linear between neighbours.
///
/// # Panics
/// If there are no values.
/// # Source
/// `numpy.percentile`'s default method (Hyndman and Fan's type 7).
pub fn quantile(ascending: &[f64], q: f64) -> f64 {
    let position = q * (ascending.len() - 1) as f64;
    let below = position.floor();
    let low = ascending[below as usize];
    let high = ascending[position.ceil() as usize];
    low + (high - low) * (position - below)
}

/// Sums of the same columns for every cluster (image), in a fixed order.
pub(crate) struct ClusterSums {
    n_columns: usize,
    /// `n_clusters * n_columns`.
    rows: Vec<f64>,
}

impl ClusterSums {
    pub(crate) fn new(n_columns: usize, rows: impl Iterator<Item = Vec<f64>>) -> Self {
        let rows: Vec<f64> = rows.flatten().collect();
        assert_eq!(rows.len() % n_columns, 0, "ClusterSums: values per cluster");
        Self { n_columns, rows }
    }

    /// Each column summed over all clusters.
    pub(crate) fn total(&self) -> Vec<f64> {
        let mut total = vec![0.0; self.n_columns];
        self.rows.chunks_exact(self.n_columns).for_each(|row| add_scaled(&mut total, row, 1.0));
        total
    }

    /// Clusters whose value of `column` is not zero.
    pub(crate) fn n_clusters_with(&self, column: usize) -> usize {
        self.rows.chunks_exact(self.n_columns).filter(|row| row[column] != 0.0).count()
    }

    /// One interval for each `statistic(column sums of a resample, idx)`, `idx < n_statistics`; `None` where no resample
    /// defines it.
    pub(crate) fn intervals(
        &self,
        n_statistics: usize,
        statistic: impl Fn(&[f64], usize) -> f64 + Sync,
        config: &BootstrapConfig,
    ) -> Vec<Option<Interval>> {
        let n_clusters = self.rows.len() / self.n_columns;
        if n_clusters == 0 {
            return vec![None; n_statistics];
        }
        let mut values = vec![0.0; n_statistics * config.n_resamples as usize];
        let scratch = || (vec![0u32; n_clusters], vec![0.0; self.n_columns]);
        values.par_chunks_mut(n_statistics).enumerate().for_each_init(scratch, |(counts, sums), (resample, values)| {
            draw_counts(counts, config.seed, resample as u64);
            sums.fill(0.0);
            for (row, &count) in self.rows.chunks_exact(self.n_columns).zip(counts.iter()) {
                if count > 0 {
                    add_scaled(sums, row, f64::from(count));
                }
            }
            for (idx, value) in values.iter_mut().enumerate() {
                *value = statistic(sums, idx);
            }
        });
        let interval = |idx| interval_of(values.iter().skip(idx).step_by(n_statistics).copied().collect());
        (0..n_statistics).into_par_iter().map(interval).collect()
    }
}

/// How often each of `counts.len()` clusters is drawn when as many are drawn with replacement.
fn draw_counts(counts: &mut [u32], seed: u64, resample: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(resample);
    counts.fill(0);
    let n_clusters = counts.len() as u64;
    for _ in 0..n_clusters {
        // Multiply and shift: the bias is n_clusters / 2^32, and the draw is the same on every machine.
        let cluster = (u64::from(rng.next_u32()) * n_clusters) >> 32;
        counts[cluster as usize] += 1;
    }
}

fn add_scaled(sums: &mut [f64], row: &[f64], scale: f64) {
    for (sum, value) in sums.iter_mut().zip(row) {
        *sum += scale * value;
    }
}

fn interval_of(mut values: Vec<f64>) -> Option<Interval> {
    let n_resamples = values.len();
    values.retain(|value| value.is_finite());
    if values.is_empty() {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    let n_undefined = (n_resamples - values.len()) as u32;
    Some(Interval { low: quantile(&values, 0.025), high: quantile(&values, 0.975), n_undefined })
}

#[cfg(test)]
mod tests {
    use sensei_testing::golden;

    use super::*;

    fn ratio(sums: &[f64], idx: usize) -> f64 {
        sums[2 * idx] / sums[2 * idx + 1]
    }

    #[test]
    fn quantiles_are_numpys() {
        let case = golden("eval/quantile");
        for idx in 0..5 {
            let values = case.f64s(&format!("values_{idx}"));
            for (q, expected) in [0.0, 0.025, 0.5, 0.975, 1.0].into_iter().zip(case.f64s(&format!("quantiles_{idx}"))) {
                let got = quantile(&values, q);
                assert!((got - expected).abs() < 1e-12, "{} values at {q}: {got}, expected {expected}", values.len());
            }
        }
    }

    #[test]
    fn threads_do_not_change_an_interval() {
        let rows = (0..50).map(|idx| vec![f64::from(idx * idx) * 0.1, f64::from(1 + idx % 3)]);
        let sums = ClusterSums::new(2, rows);
        let config = BootstrapConfig { seed: 7, n_resamples: 500 };
        let on = |n_threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            pool.install(|| sums.intervals(1, ratio, &config))
        };
        assert_eq!(on(1), on(5));
        assert_ne!(on(1), sums.intervals(1, ratio, &BootstrapConfig { seed: 8, ..config }));
    }

    /// Fixes the draws: another generator, stream rule or draw rule would change every stored interval.
    #[test]
    fn draws_are_fixed() {
        let mut counts = [0; 8];
        draw_counts(&mut counts, 1, 2);
        assert_eq!(counts.iter().sum::<u32>(), 8);
        assert_eq!(counts, DRAWS_OF_SEED_1_STREAM_2);
    }

    #[test]
    fn resamples_that_miss_a_rare_group_are_counted() {
        let rows =
            (0..10).map(|idx| vec![0.5, if idx < 2 { 1.0 } else { 0.0 }]).map(|row| vec![row[0] * row[1], row[1]]);
        let interval = ClusterSums::new(2, rows).intervals(1, ratio, &BootstrapConfig { seed: 3, n_resamples: 1000 });
        let interval = interval[0].unwrap();
        // (8/10)^10 of the resamples draw neither of the two images: 107 of 1000, standard deviation 10.
        assert!((60..160).contains(&interval.n_undefined), "{interval:?}");
        assert_eq!((interval.low, interval.high), (0.5, 0.5));
    }

    /// Images with a common effect on their instances: an interval that takes instances for independent is far too short.
    #[test]
    fn intervals_cover_the_truth_as_often_as_they_say() {
        let (n_trials, n_images, mut n_covered, mut n_covered_unclustered) = (1000, 80, 0, 0);
        let mut rng = ChaCha8Rng::seed_from_u64(99);
        let mut uniform = || f64::from(rng.next_u32()) / f64::from(u32::MAX) - 0.5;
        for trial in 0..n_trials {
            let images: Vec<Vec<f64>> = (0..n_images)
                .map(|image| {
                    let effect = uniform();
                    (0..1 + image % 7).map(|_| effect + uniform()).collect()
                })
                .collect();
            let by_image = images.iter().map(|values| vec![values.iter().sum(), values.len() as f64]);
            let by_instance = images.iter().flatten().map(|&value| vec![value, 1.0]);
            let config = BootstrapConfig { seed: trial, n_resamples: 400 };
            let covers = |sums: ClusterSums| {
                let interval = sums.intervals(1, ratio, &config)[0].unwrap();
                interval.low <= 0.0 && 0.0 <= interval.high
            };
            n_covered += u32::from(covers(ClusterSums::new(2, by_image)));
            n_covered_unclustered += u32::from(covers(ClusterSums::new(2, by_instance)));
        }
        // The standard deviation of 950 of 1000 is 7.
        assert!((930..=970).contains(&n_covered), "covered {n_covered} of {n_trials}");
        assert!(n_covered_unclustered < 850, "unclustered {n_covered_unclustered} of {n_trials}");
    }

    /// Computed with a ChaCha8 of 20 lines of Python, from RFC 8439's quarter round and rand_core's seed expansion.
    const DRAWS_OF_SEED_1_STREAM_2: [u32; 8] = [0, 1, 2, 0, 2, 1, 0, 2];
}
