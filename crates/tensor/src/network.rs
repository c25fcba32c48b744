//! What training, checkpoints and predictors see of a network, whatever family it is of.
//!
//! A network is groups of parameters and a forward pass. Chip students, students on the chip's grid and networks of burn modules
//! look the same from above; what ships on the chip is a `LayerGraph`, and that is no concern of this file.

use std::collections::BTreeMap;

use burn::tensor::{Device, FloatDType, Tensor, TensorData};

use crate::masked::Reconstruct;
use crate::masks::MaskLogits;
use crate::prompts::{Adapt, Promptable, Propose};

/// A trained tensor, kept flat so that an optimiser sees one kind of tensor.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// Its published name; unique in its group.
    pub name: String,
    /// Its shape in the network.
    pub shape: Vec<usize>,
    /// The values, flat. On an autodiff device a leaf that requires its gradient; whoever replaces it keeps it so.
    pub values: Tensor<1>,
}

/// Parameters that are trained by one rule: the weights of an encoder, thresholds, an adapter.
#[derive(Debug, Clone)]
pub struct ParameterGroup {
    /// Unique in the network; plans, checkpoints and errors speak of it by this name.
    pub name: String,
    /// Its parameters, in an order that never changes.
    pub parameters: Vec<Parameter>,
}

/// A dense tensor in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct HostTensor {
    /// Length of each dimension; empty for a scalar.
    pub shape: Vec<usize>,
    /// The values, last dimension fastest; as many as the product of `shape`.
    pub values: Vec<f32>,
}

/// Tensors by their published name, running means and variances included.
pub type NamedWeights = BTreeMap<String, HostTensor>;

/// 64 hex digits that two sets of tensors share only if names, shapes and bits are the same: BLAKE3.
pub fn weights_digest(weights: &NamedWeights) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, tensor) in weights {
        hasher.update(format!("{name} {:?}\n", tensor.shape).as_bytes());
        for value in &tensor.values {
            hasher.update(&value.to_le_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}

/// Statistics of one batch norm over one batch, without autodiff.
#[derive(Debug, Clone)]
pub struct BatchStats {
    /// Published path of the batch norm.
    pub norm: String,
    /// Mean of each channel, `[channels]`.
    pub mean: Tensor<1>,
    /// Unbiased variance of each channel, `[channels]`.
    pub variance: Tensor<1>,
}

/// How a forward pass computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// With gradients and the batch's statistics.
    Train,
    /// As [`Train`](Self::Train), with convolutions in 16 bits.
    TrainMixed(HalfPrecision),
    /// With gradients, weights and activations rounded to the chip's grid.
    TrainOnGrid(NormStatistics),
    /// Without gradients, with the running statistics.
    Eval,
}

/// The 16-bit format that convolutions compute in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HalfPrecision {
    /// IEEE 754 half: 11 bits of precision, at most 65504; small gradients need a scaled loss.
    F16,
    /// The upper half of a 32-bit float: 8 bits of precision, the same range.
    Bf16,
}

/// Which statistics batch norms use while they are trained on the grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormStatistics {
    /// The batch's. Weights are rounded as the running ones scale them, so that the grid does not move with each batch.
    Batch,
    /// The running ones, unchanged: the network computes what the chip will.
    Running,
}

/// A named point of a network where features can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tap {
    /// Its name.
    pub name: String,
    /// Channels, height, width.
    pub shape: [usize; 3],
}

/// What a network is asked.
#[derive(Debug, Clone)]
pub struct Inputs<'a> {
    /// `[image, 3, height, width]`, normalised as the network wants it.
    pub images: Tensor<4>,
    /// Names of the taps whose features are wanted besides the masks.
    pub taps: &'a [String],
}

/// What a network answers.
#[derive(Debug, Clone)]
pub struct Outputs {
    /// `[prompt, mask, height, width]`: the prompts of all images one after the other, several masks for each. A chip student has
    /// one prompt an image, its crop, and one mask.
    pub masks: MaskLogits,
    /// The IoU that the network expects of each mask, `[prompt, mask]`, if it says so.
    pub scores: Option<Tensor<2>>,
    /// Features of the taps that were asked for, in that order, each `[image, channels, height, width]`.
    pub taps: Vec<Tensor<4>>,
    /// What the batch norms saw, in the order of the network; empty in a pass that uses the running statistics.
    pub norm_stats: Vec<BatchStats>,
}

/// What a network cannot do, or tensors that are not its own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// A tap that the network does not have.
    #[error("tap {name:?}: expected one of {}", listed(taps))]
    NoSuchTap {
        /// The name.
        name: String,
        /// Those that there are.
        taps: Vec<Tap>,
    },
    /// A pass that the network does not know.
    #[error("{network}: expected a pass that it computes, found {pass:?}")]
    Pass {
        /// What the network is.
        network: &'static str,
        /// The pass.
        pass: Pass,
    },
    /// Masks without a prompt, of a network that [answers prompts](Network::promptable).
    #[error("{network}: expected prompts, which say what a mask is asked for, found none")]
    NoPrompts {
        /// What the network is.
        network: &'static str,
    },
    /// A group that the network does not have.
    #[error("group {name:?}: expected one of {}", groups.join(", "))]
    NoSuchGroup {
        /// The name.
        name: String,
        /// Those that there are.
        groups: Vec<String>,
    },
    /// A group's tensors do not fit.
    #[error("group {group}: expected the tensors of this network")]
    Tensors {
        /// The group.
        group: String,
        /// Which tensor, what was expected and found.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A network as training, checkpoints and predictors see it.
pub trait Network: Send + Sync {
    /// Where its tensors are; an autodiff device for a network that is trained.
    fn device(&self) -> &Device;

    /// Its groups, in an order that never changes.
    fn groups(&self) -> Vec<&ParameterGroup>;

    /// The same, for an optimiser.
    fn groups_mut(&mut self) -> Vec<&mut ParameterGroup>;

    /// Every tensor of a group by its published name: parameters and, where it has any, running statistics.
    ///
    /// # Panics
    /// If there is no such group.
    fn tensors(&self, group: &str) -> NamedWeights;

    /// Takes the values of every tensor of a group.
    ///
    /// # Errors
    /// If there is no such group, or a tensor is missing, is not of it, or has another shape or a value that is not finite.
    fn set_tensors(&mut self, group: &str, tensors: NamedWeights) -> Result<(), NetworkError>;

    /// 64 hex digits that two networks share only if they have the same structure and tensor names.
    fn structure_digest(&self) -> String;

    /// The smallest batch that can be trained on.
    fn min_train_batch(&self) -> usize;

    /// Where features can be read.
    fn taps(&self) -> Vec<Tap>;

    /// The forward pass.
    ///
    /// # Errors
    /// If a tap does not exist, the network does not compute such a pass, or it answers prompts instead.
    ///
    /// # Panics
    /// If the images are not of the network's size, or a batch norm sees a single value per channel in training.
    fn forward(&self, inputs: Inputs<'_>, pass: Pass) -> Result<Outputs, NetworkError>;

    /// The network as one that answers prompts, if it is one.
    fn promptable(&self) -> Option<&dyn Promptable> {
        None
    }

    /// The part that proposes boxes, if the network has one.
    fn proposer(&self) -> Option<&dyn Propose> {
        None
    }

    /// The parts that adapt its features to a teacher's, if the network has some.
    fn adapters(&self) -> Option<&dyn Adapt> {
        None
    }

    /// The network as one that reconstructs what is hidden of an image, if it is one.
    fn masked(&self) -> Option<&dyn Reconstruct> {
        None
    }

    /// Moves running statistics towards those of a batch.
    ///
    /// # Panics
    /// If `stats` are not those of this network's own pass.
    fn update_running_stats(&mut self, stats: &[BatchStats]);

    /// The same network on another device, with leaves of its own where that device tracks gradients.
    fn to_device(&self, device: &Device) -> Box<dyn Network>;
}

impl HalfPrecision {
    /// Its type on a device.
    pub fn dtype(self) -> FloatDType {
        match self {
            Self::F16 => FloatDType::F16,
            Self::Bf16 => FloatDType::BF16,
        }
    }
}

impl Parameter {
    /// A parameter with these values on a device.
    ///
    /// # Panics
    /// If there are not as many values as the shape has places.
    pub fn new(name: String, HostTensor { shape, values }: HostTensor, device: &Device) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "{name}: values and places of its shape");
        Self { name, shape, values: leaf(Tensor::from_data(TensorData::from(values.as_slice()), device), device) }
    }

    /// The values on the host, in their shape.
    pub fn to_host(&self) -> HostTensor {
        HostTensor { shape: self.shape.clone(), values: host_values(&self.values) }
    }

    /// The same parameter on another device, a leaf of its own where that device tracks gradients.
    pub fn to_device(&self, device: &Device) -> Self {
        let values = self.values.clone().inner().to_device(&device.clone().inner());
        let values = if device.is_autodiff() { Tensor::from_inner(values).require_grad() } else { values };
        Self { name: self.name.clone(), shape: self.shape.clone(), values }
    }
}

impl ParameterGroup {
    /// The same group on another device.
    pub fn to_device(&self, device: &Device) -> Self {
        let parameters = self.parameters.iter().map(|parameter| parameter.to_device(device)).collect();
        Self { name: self.name.clone(), parameters }
    }
}

impl BatchStats {
    /// The same statistics on another device, which tracks no gradients.
    pub fn to_device(&self, device: &Device) -> Self {
        let moved = |values: &Tensor<1>| values.clone().inner().to_device(device);
        Self { norm: self.norm.clone(), mean: moved(&self.mean), variance: moved(&self.variance) }
    }
}

/// The tap of a name among those that there are, by its place.
///
/// # Errors
/// If there is none, with those that there are.
pub fn find_tap(taps: &[Tap], name: &str) -> Result<usize, NetworkError> {
    let no_such = || NetworkError::NoSuchTap { name: name.into(), taps: taps.to_vec() };
    taps.iter().position(|tap| tap.name == name).ok_or_else(no_such)
}

/// Values of a flat tensor on the host, without autodiff.
///
/// # Panics
/// If the device cannot read them back, or holds another element type: both are faults of the device.
pub fn host_values(values: &Tensor<1>) -> Vec<f32> {
    values.clone().inner().try_to_vec_as::<f32>().expect("a tensor that its device can read back")
}

/// A tensor that requires its gradient where its device tracks them.
fn leaf(values: Tensor<1>, device: &Device) -> Tensor<1> {
    if device.is_autodiff() { values.require_grad() } else { values }
}

/// Taps in words: `name [channels, height, width]`.
fn listed(taps: &[Tap]) -> String {
    let words: Vec<String> = taps.iter().map(|tap| format!("{} {:?}", tap.name, tap.shape)).collect();
    words.join(", ")
}
