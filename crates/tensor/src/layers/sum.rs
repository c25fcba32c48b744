//! A sum of maps or tokens of several images and those of one.

use burn::tensor::Tensor;
use sensei_kernels::linear::Then;
use sensei_kernels::pixelwise;

use super::{end, has_gradients, has_kernels, unwrapped, wrapped};
use crate::ops;
use crate::ops::flex_tensor::values;

/// `x`, whose first dimension counts images, plus `one`, of as many images or of one that is added to each.
///
/// # Panics
/// If the sizes do not fit.
pub fn add_to_each<const D: usize>(x: Tensor<D>, one: Tensor<D>) -> Tensor<D> {
    add_then(x, one, Then::Nothing)
}

/// The same, and what ends it.
///
/// # Panics
/// If the sizes do not fit.
pub fn add_then<const D: usize>(x: Tensor<D>, one: Tensor<D>, then: Then) -> Tensor<D> {
    let (dims, one_dims) = (x.dims(), one.dims());
    assert!(dims[1..] == one_dims[1..] && (one_dims[0] == 1 || one_dims[0] == dims[0]), "sum: {dims:?}, {one_dims:?}");
    if has_gradients(&x.device()) {
        return end(ops::layers::sum_with_each(x, one), then);
    }
    if !has_kernels(&x.device()) {
        return end(x + one, then);
    }
    let (x, one) = (unwrapped(x), unwrapped(one));
    wrapped(pixelwise::add_to_each(values(&x), values(&one), then), dims)
}
