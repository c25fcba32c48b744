//! A sum of maps or tokens of several images and those of one.

use burn::backend::Flex;
use burn::tensor::Tensor;
use sensei_kernels::pixelwise;

use super::{has_kernels, unwrapped, wrapped};
use crate::ops::flex_tensor::{owned_values, values};

/// `x`, `[image, token, channels]`, plus `one`, of as many images or of one that is added to each.
///
/// # Panics
/// If the sizes do not fit.
pub fn add_to_each(x: Tensor<3>, one: Tensor<3>) -> Tensor<3> {
    let (dims, [images, tokens, channels]) = (x.dims(), one.dims());
    assert_eq!(dims[1..], [tokens, channels], "sum: tokens and channels");
    assert!(images == 1 || images == dims[0], "sum: images");
    if !has_kernels(&x.device()) {
        return x + one;
    }
    let (mut x, one) = (unwrapped(x), unwrapped(one));
    match owned_values(&mut x) {
        Some(sum) => {
            sum.chunks_exact_mut(values(&one).len()).for_each(|sum| pixelwise::add_assign(sum, values(&one)));
            Tensor::from_primitive::<Flex>(x)
        }
        None => wrapped(pixelwise::add_to_each(values(&x), values(&one)), dims),
    }
}
