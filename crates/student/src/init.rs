//! Initial weights: equal in distribution to PyTorch's defaults, equal in bits on every machine.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use sensei_graph::layer_graph::{LayerGraph, TensorRole};
use sensei_tensor::network::{HostTensor, NamedWeights};

/// Fresh weights of a network.
///
/// Convolution weights and biases are uniform in `±1 / sqrt(fan_in)`, `fan_in` being `in_channels / groups * kernel²`;
/// batch norm starts as scale 1, shift 0, mean 0, variance 1. Tensors are drawn in the order of
/// [`LayerGraph::tensors`], one 24-bit draw per value.
///
/// # Source
/// PyTorch `nn.Conv2d.reset_parameters`: `kaiming_uniform_(a = sqrt(5))`, whose bound `sqrt(6 / ((1 + 5) fan_in))` is
/// the same, and `nn.BatchNorm2d`.
pub fn initial_weights(graph: &LayerGraph, seed: u64) -> NamedWeights {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut weights = NamedWeights::new();
    let mut bound = 0.0;
    for spec in graph.tensors() {
        let n_values: usize = spec.shape.iter().product();
        let values = match spec.role {
            TensorRole::Weight => {
                let fan_in: usize = spec.shape[1..].iter().product();
                bound = 1.0 / (fan_in as f32).sqrt();
                uniform(&mut rng, bound, n_values)
            }
            // A bias follows the weight of its convolution and shares its bound.
            TensorRole::Bias => uniform(&mut rng, bound, n_values),
            TensorRole::NormScale | TensorRole::RunningVariance => vec![1.0; n_values],
            TensorRole::NormShift | TensorRole::RunningMean => vec![0.0; n_values],
        };
        weights.insert(spec.name, HostTensor { shape: spec.shape, values });
    }
    weights
}

/// Values in `[-bound, bound)`. Written out because a library's distribution may change its bits with its version.
fn uniform(rng: &mut ChaCha8Rng, bound: f32, n_values: usize) -> Vec<f32> {
    let step = 2.0 / (1u32 << 24) as f32;
    (0..n_values).map(|_| ((rng.next_u32() >> 8) as f32 * step - 1.0) * bound).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unet::UnetConfig;

    #[test]
    fn values_spread_as_in_pytorch() {
        let graph = UnetConfig::picosam3().graph().expect("a valid setting");
        let weights = initial_weights(&graph, 7);
        // down4 reads 256 channels with 3 x 3 taps: 589,824 draws, variance bound² / 3.
        let values = &weights["down4.weight"].values;
        let bound = 1.0 / (256.0f64 * 9.0).sqrt();
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let variance = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n;
        assert!(values.iter().all(|v| f64::from(v.abs()) <= bound * (1.0 + 1e-6)));
        assert!(mean.abs() < 4.0 * bound / (3.0 * n).sqrt(), "mean {mean}");
        assert!((variance * 3.0 / (bound * bound) - 1.0).abs() < 0.01, "variance {variance}");
        // A depthwise convolution reads one channel: bound 1/3, whatever its width.
        let depthwise = &weights["bottleneck.1.weight"].values;
        let widest = depthwise.iter().fold(0.0f32, |max, v| max.max(v.abs()));
        assert!((0.32..=0.333_334).contains(&widest), "{widest}");
        // The bias of a 1 x 1 convolution: bound 1 / sqrt(in_channels).
        let bias = &weights["skip_conn4.bias"].values;
        assert!(bias.iter().all(|v| v.abs() <= 1.0 / 16.0) && bias.iter().any(|v| v.abs() > 0.9 / 16.0));
        assert_eq!(weights["up1.1.4.weight"].values, vec![1.0; 192]);
        assert_eq!(weights["up1.1.4.running_mean"].values, vec![0.0; 192]);
    }

    #[test]
    fn a_seed_gives_the_same_bits_for_ever() {
        let graph = UnetConfig::picosam2().graph().expect("a valid setting");
        let weights = initial_weights(&graph, 1);
        let mut hasher = blake3::Hasher::new();
        for tensor in weights.values() {
            tensor.values.iter().for_each(|value| {
                hasher.update(&value.to_le_bytes());
            });
        }
        assert_eq!(
            hasher.finalize().to_hex().as_str(),
            "093085cb4d531818288a3a80019d72dc8b55ceefbd5a5359c76b8809ed176705"
        );
        assert_ne!(weights, initial_weights(&graph, 2));
    }
}
