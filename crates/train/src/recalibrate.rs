//! Batch norms' running statistics, taken again for the weights that a run results in.
//!
//! In training they follow the last few batches, and those were computed with other weights than the moving average's. One pass over
//! some samples with the resulting weights gives statistics of many samples and of these weights.

use std::collections::BTreeMap;

use sensei_data::sampling::subset;
use sensei_samples::batch::HostBatch;
use sensei_samples::source::SampleSource;
use sensei_tensor::network::{BatchStats, Inputs, NamedWeights, Network, Pass, host_values};

use crate::error::TrainError;
use crate::tensors::input_tensor;

/// The tensors of a group of `network`, with running statistics over `n_instances` randomly chosen samples without augmentation; all
/// samples if there are fewer. `None` if it was asked to stop.
///
/// Each batch is normalised by its own statistics, as in training. The mean is the mean over all values, the variance the mean of the
/// batches' unbiased variances plus the variance of their means.
///
/// # Source
/// Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima", section 3.2.
///
/// # Errors
/// If a sample cannot be had, or the last batch is too small for a batch norm.
///
/// # Panics
/// If there is no such group, or it lacks the statistics of a batch norm.
pub fn recalibrated(
    network: &dyn Network,
    group: &str,
    source: &SampleSource,
    n_instances: usize,
    seed: u64,
    should_stop: &dyn Fn() -> bool,
) -> Result<Option<NamedWeights>, TrainError> {
    let n_instances = n_instances.min(source.instances.len());
    let (found, expected) = ((n_instances + BATCH - 1) % BATCH + 1, network.min_train_batch());
    if found < expected {
        return Err(TrainError::BatchTooSmall { expected, found, n_samples: n_instances });
    }
    let chosen = subset(source.instances.len(), n_instances, seed);
    let mut moments = Moments::default();
    for chunk in chosen.chunks(BATCH) {
        if should_stop() {
            return Ok(None);
        }
        let instances: Vec<usize> = chunk.iter().map(|&at| source.instances[at as usize]).collect();
        let batch = HostBatch::new(&source.samples(&instances)?);
        let images = input_tensor(&batch, network.device());
        let outputs = network.forward(Inputs { images, taps: &[] }, Pass::Train)?;
        outputs.norm_stats.iter().for_each(|stats| moments.add(stats, chunk.len() as f64));
    }
    let mut tensors = network.tensors(group);
    for (norm, (mean, variance)) in moments.finish() {
        for (what, values) in [("running_mean", mean), ("running_var", variance)] {
            tensors.get_mut(&format!("{norm}.{what}")).expect("statistics of each batch norm").values = values;
        }
    }
    Ok(Some(tensors))
}

/// Samples of a batch.
const BATCH: usize = 16;

/// Weighted sums of means, their squares and variances, by batch norm and channel.
#[derive(Default)]
struct Moments {
    weight: BTreeMap<String, f64>,
    sums: BTreeMap<String, Vec<[f64; 3]>>,
}

impl Moments {
    fn add(&mut self, stats: &BatchStats, weight: f64) {
        let (means, variances) = (host_values(&stats.mean), host_values(&stats.variance));
        *self.weight.entry(stats.norm.clone()).or_default() += weight;
        let sums = self.sums.entry(stats.norm.clone()).or_insert_with(|| vec![[0.0; 3]; means.len()]);
        for (sums, (mean, variance)) in sums.iter_mut().zip(means.into_iter().zip(variances)) {
            let (mean, variance) = (f64::from(mean), f64::from(variance));
            for (sum, value) in sums.iter_mut().zip([mean, mean * mean, variance]) {
                *sum += weight * value;
            }
        }
    }

    /// Mean and variance by batch norm.
    fn finish(self) -> impl Iterator<Item = (String, (Vec<f32>, Vec<f32>))> {
        self.sums.into_iter().map(move |(norm, sums)| {
            let weight = self.weight[&norm];
            let of = |[mean, square, variance]: [f64; 3]| {
                let mean = mean / weight;
                (mean as f32, (variance / weight + (square / weight - mean * mean).max(0.0)) as f32)
            };
            (norm, sums.into_iter().map(of).unzip())
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};

    use super::*;

    #[test]
    fn moments_are_those_of_all_values() {
        let stats = |mean: f32, variance: f32| BatchStats {
            norm: "norm".into(),
            mean: Tensor::from_data([mean], &Device::flex()),
            variance: Tensor::from_data([variance], &Device::flex()),
        };
        let mut moments = Moments::default();
        moments.add(&stats(1.0, 2.0), 16.0);
        moments.add(&stats(4.0, 5.0), 8.0);
        let found: Vec<_> = moments.finish().collect();
        // Mean (2 * 1 + 4) / 3; variance (2 * 2 + 5) / 3 plus that of the means, (2 * 1 + 4) / 3 with deviations 1 and 2.
        assert_eq!(found, [("norm".to_string(), (vec![2.0], vec![5.0]))]);
    }
}
