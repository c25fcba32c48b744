//! Mask logits as products of a map's pixels with a vector for each mask.

use burn::tensor::Tensor;

use crate::ops;

/// `vectors`, `[prompt, mask, channels]`, times each pixel of `map`, `[prompt, height, width, channels]`: `[prompt, mask, height, width]`.
///
/// # Panics
/// If the sizes do not fit.
pub fn mask_products(vectors: Tensor<3>, map: Tensor<4>) -> Tensor<4> {
    let ([prompts, masks, channels], dims @ [_, height, width, _]) = (vectors.dims(), map.dims());
    assert_eq!([dims[0], dims[3]], [prompts, channels], "mask products: vectors and map");
    if ops::has_blocks(&map.device()) {
        return ops::layers::mask_products(vectors, map);
    }
    let pixels: Tensor<3> = map.reshape([prompts, height * width, channels]);
    vectors.matmul(pixels.swap_dims(1, 2)).reshape([prompts, masks, height, width])
}
