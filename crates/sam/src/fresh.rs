//! Draws fresh weights, the same for a seed on every machine.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sensei_tensor::network::{HostTensor, NamedWeights};

/// Draws tensors in a fixed order.
pub(crate) struct Fresh {
    rng: ChaCha8Rng,
    pub(crate) tensors: NamedWeights,
}

/// Standard deviation of a value of MobileSAM's embeddings of photographs, rounded.
pub const EMBEDDING_DEVIATION: f32 = 0.1;

impl Fresh {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed), tensors: NamedWeights::new() }
    }

    /// A layer's `weight` and, if it has one, `bias`.
    pub(crate) fn matrix(&mut self, name: &str, shape: &[usize], has_bias: bool) {
        let (outs, ins) = (shape[0], shape[1..].iter().product::<usize>());
        let taps: usize = shape[2..].iter().product();
        let bound = (6.0 / (ins + outs * taps) as f32).sqrt();
        self.uniform(&format!("{name}.weight"), shape, bound);
        if has_bias {
            self.zeros(&format!("{name}.bias"), &[outs]);
        }
    }

    /// A convolution's `weight`, of variance `gain^2 / inputs`, and `bias`.
    pub(crate) fn conv(&mut self, name: &str, shape: [usize; 4], gain: f32) {
        let [outs, inputs @ ..] = shape;
        let inputs: usize = inputs.iter().product();
        self.uniform(&format!("{name}.weight"), &shape, gain * (3.0 / inputs as f32).sqrt());
        self.zeros(&format!("{name}.bias"), &[outs]);
    }

    pub(crate) fn zeros(&mut self, name: &str, shape: &[usize]) {
        let values = vec![0.0; shape.iter().product()];
        self.tensors.insert(name.into(), HostTensor { shape: shape.to_vec(), values });
    }

    pub(crate) fn norm(&mut self, name: &str, channels: usize) {
        for (part, value) in [("weight", 1.0), ("bias", 0.0)] {
            let tensor = HostTensor { shape: vec![channels], values: vec![value; channels] };
            self.tensors.insert(format!("{name}.{part}"), tensor);
        }
    }

    /// Values in `[-bound, bound)`, 24 bits each.
    pub(crate) fn uniform(&mut self, name: &str, shape: &[usize], bound: f32) {
        let step = 2.0 / (1u32 << 24) as f32;
        let mut value = || ((self.rng.next_u32() >> 8) as f32 * step - 1.0) * bound;
        let values = (0..shape.iter().product()).map(|_| value()).collect();
        self.tensors.insert(name.into(), HostTensor { shape: shape.to_vec(), values });
    }
}
