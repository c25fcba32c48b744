//! Mask logits as products of a map's pixels with a vector for each mask.

use burn::tensor::Tensor;
use sensei_kernels::linear::{PackedLinear, Then};
use sensei_kernels::pixelwise::{MapShape, nchw_from_nhwc};

use super::{has_kernels, unwrapped, wrapped};
use crate::ops::flex_tensor::values;

/// `vectors`, `[prompt, mask, channels]`, times each pixel of `map`, `[prompt, height, width, channels]`: `[prompt, mask, height, width]`.
///
/// # Panics
/// If the sizes do not fit.
pub fn mask_products(vectors: Tensor<3>, map: Tensor<4>) -> Tensor<4> {
    let ([prompts, masks, channels], dims @ [_, height, width, _]) = (vectors.dims(), map.dims());
    assert_eq!([dims[0], dims[3]], [prompts, channels], "mask products: vectors and map");
    if !has_kernels(&map.device()) {
        let pixels: Tensor<3> = map.reshape([prompts, height * width, channels]);
        return vectors.matmul(pixels.swap_dims(1, 2)).reshape([prompts, masks, height, width]);
    }
    let (vectors, map) = (unwrapped(vectors), unwrapped(map));
    let pixels = values(&map).chunks_exact(height * width * channels);
    let shape = MapShape { batch: 1, height, width, channels: masks };
    let products = values(&vectors).chunks_exact(masks * channels).zip(pixels).map(|(vectors, pixels)| {
        let products = PackedLinear::new([masks, channels], vectors, None, Then::Nothing).forward(pixels);
        if masks == 1 { products } else { nchw_from_nhwc(&shape, &products) }
    });
    wrapped(products.collect::<Vec<_>>().concat(), [prompts, masks, height, width])
}
