//! What brings a student's features to a teacher's width, in training alone.

use sensei_tensor::layers::Linear;
use sensei_tensor::network::NamedWeights;

use crate::error::SamError;
use crate::fresh::Fresh;
use crate::scope::Scope;

/// An adapter: a 1x1 convolution with a bias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterConfig {
    /// Its name, unique in the network.
    pub name: String,
    /// Channels of the student's features.
    pub ins: usize,
    /// Channels of the teacher's.
    pub outs: usize,
}

/// The group of parameters, and what the names of its tensors begin with, before a dot.
pub const ADAPTERS: &str = "adapters";

/// Fresh tensors of some adapters, the same for a seed on every machine: uniform within `sqrt(6 / (ins + outs))`, biases 0.
pub fn fresh_adapters(adapters: &[AdapterConfig], seed: u64) -> NamedWeights {
    let mut fresh = Fresh::new(seed ^ 0x6164_6170);
    for AdapterConfig { name, ins, outs } in adapters {
        fresh.matrix(&format!("{ADAPTERS}.{name}"), &[*outs, *ins, 1, 1], true);
    }
    fresh.tensors
}

/// The adapter's layer, from tensors behind its name.
pub(crate) fn layer(adapter: &AdapterConfig, root: &Scope) -> Result<Linear, SamError> {
    root.at(ADAPTERS).at(&adapter.name).pointwise_with_bias(adapter.ins, adapter.outs)
}
