//! Layers of SAM-type networks: weights with what is computed of them.
//!
//! Each has three implementations. On a CPU without autodiff they are our kernels; linear layers pack their weights the first time they are used,
//! convolutions each time. On a CPU with autodiff they are our kernels and their gradients (`ops/layers.rs`). Elsewhere they are burn's
//! operators, which run on every device; so do a group norm, windows and an attention's bias under autodiff, which no student has.
//!
//! Maps are `[image, height, width, channels]` and tokens `[image, token, channels]` on all devices.

use burn::backend::Flex;
use burn::tensor::{Device, Tensor, activation};
use burn_flex::FlexTensor;

use crate::ops;
use crate::ops::flex_tensor::{flex, tensor};

mod attention;
mod conv;
mod group_norm;
mod layer_norm;
mod linear;
mod masks;
mod sum;
#[cfg(test)]
mod tests;
mod windows;

pub use attention::{AttentionSize, HeadsOf, attention};
pub use conv::{Conv, Depthwise, Upconv};
pub use group_norm::GroupNorm;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use masks::mask_products;
pub use sensei_kernels::linear::Then;
pub use sum::{add_then, add_to_each};
pub use windows::{add_windows, cut_windows};

/// Whether our kernels compute the layers here, without gradients.
fn has_kernels(device: &Device) -> bool {
    !device.is_autodiff() && ops::has_blocks(device)
}

/// Whether our kernels compute the layers and their gradients here.
fn has_gradients(device: &Device) -> bool {
    device.is_autodiff() && ops::has_blocks(device)
}

/// What ends a layer, as an operator of its own.
fn end<const D: usize>(x: Tensor<D>, then: Then) -> Tensor<D> {
    match then {
        Then::Nothing => x,
        Then::Relu => activation::relu(x),
        Then::Gelu if has_gradients(&x.device()) => ops::layers::gelu_of(x),
        Then::Gelu => activation::gelu(x),
    }
}

/// A tensor of our kernels' values.
fn wrapped<const D: usize>(values: Vec<f32>, dims: [usize; D]) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(tensor(values, dims))
}

/// The tensor as our kernels take it.
fn unwrapped<const D: usize>(x: Tensor<D>) -> FlexTensor {
    flex(x)
}
