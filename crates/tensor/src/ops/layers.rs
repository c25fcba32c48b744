//! Layers of SAM-type networks by our own CPU kernels, with their gradients, as an extension of burn's Flex backend.
//!
//! [`LayerOps`] is implemented twice, as [`FastOps`](super::fast::FastOps) is: on [`Flex`] it computes, on [`Autodiff`] it records what the
//! gradient needs (`layers/autodiff.rs`). Gradients of gradients are not defined.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use sensei_kernels::attention::{self as attention_kernels, AttentionShape, HeadRows};
use sensei_kernels::linear::{PackedLinear, PackedUpconv, Then};
use sensei_kernels::pixelwise::{self, MapShape, nchw_from_nhwc};
use sensei_kernels::{gelu, layer_norm};

use super::flex_tensor::{contiguous, dims, dims4, map_shape, tensor, values};

mod autodiff;

/// What a layer norm needs besides its tensors.
#[derive(Debug, Clone, Copy)]
pub struct NormSettings {
    pub(crate) epsilon: f32,
    pub(crate) then: Then,
}

/// What an attention needs besides its three factors.
#[derive(Debug, Clone, Copy)]
pub struct AttentionSettings {
    pub(crate) heads: usize,
    pub(crate) width: usize,
    pub(crate) value_width: usize,
    /// Of queries, keys and values: the first channel of the first head, and channels from one head to the next.
    pub(crate) places: [(usize, usize); 3],
    pub(crate) scale: f32,
}

/// Layer norm over the last dimension.
pub(crate) fn normalised<const D: usize>(
    x: Tensor<D>,
    scale: Tensor<1>,
    shift: Tensor<1>,
    settings: NormSettings,
) -> Tensor<D> {
    let (scale, shift) = (scale.into_dispatch(), shift.into_dispatch());
    Tensor::from_dispatch(Dispatch::layer_norm(x.into_dispatch(), scale, shift, settings))
}

/// GELU of each value.
pub(crate) fn gelu_of<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::gelu(x.into_dispatch()))
}

/// `x` plus `one`, of as many images or of one that is added to each.
pub(crate) fn sum_with_each<const D: usize>(x: Tensor<D>, one: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::sum_with_each(x.into_dispatch(), one.into_dispatch()))
}

/// A transposed convolution of 2x2 taps and stride 2.
pub(crate) fn upconv(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::upconv(x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()))
}

/// Mask logits, `[prompt, mask, height, width]`.
pub(crate) fn mask_products(vectors: Tensor<3>, map: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::mask_products(vectors.into_dispatch(), map.into_dispatch()))
}

/// Attention without a bias.
pub(crate) fn attention(factors: [Tensor<3>; 3], settings: AttentionSettings) -> Tensor<3> {
    let [queries, keys, values] = factors.map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::attention(queries, keys, values, settings))
}

/// The layers on tensor primitives.
#[backend_extension(Flex, Autodiff)]
pub trait LayerOps: Backend {
    fn layer_norm(
        x: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        settings: NormSettings,
    ) -> FloatTensor<Self>;
    fn gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn sum_with_each(x: FloatTensor<Self>, one: FloatTensor<Self>) -> FloatTensor<Self>;
    fn upconv(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;
    fn mask_products(vectors: FloatTensor<Self>, map: FloatTensor<Self>) -> FloatTensor<Self>;
    fn attention(
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        settings: AttentionSettings,
    ) -> FloatTensor<Self>;
}

impl LayerOps for Flex {
    fn layer_norm(x: FlexTensor, scale: FlexTensor, shift: FlexTensor, settings: NormSettings) -> FlexTensor {
        let [x, scale, shift] = [x, scale, shift].map(contiguous);
        let NormSettings { epsilon, then } = settings;
        tensor(layer_norm::layer_norm(values(&x), values(&scale), values(&shift), epsilon, then), dims(&x))
    }

    fn gelu(x: FlexTensor) -> FlexTensor {
        let x = contiguous(x);
        tensor(gelu::gelu(values(&x)), dims(&x))
    }

    fn sum_with_each(x: FlexTensor, one: FlexTensor) -> FlexTensor {
        let [x, one] = [x, one].map(contiguous);
        tensor(pixelwise::add_to_each(values(&x), values(&one), Then::Nothing), dims(&x))
    }

    fn upconv(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        let [x, weight, bias] = [x, weight, bias].map(contiguous);
        let ([ins, outs, ..], small) = (dims4(&weight), map_shape(&x));
        let packed = PackedUpconv::new([ins, outs], values(&weight), Some(values(&bias)), Then::Nothing);
        let MapShape { batch, height, width, .. } = small;
        tensor(packed.forward(&small, values(&x)), [batch, 2 * height, 2 * width, outs])
    }

    fn mask_products(vectors: FlexTensor, map: FlexTensor) -> FlexTensor {
        let [vectors, map] = [vectors, map].map(contiguous);
        let ([prompts, masks, channels], MapShape { height, width, .. }) = (dims3(&vectors), map_shape(&map));
        let pixels = values(&map).chunks_exact(height * width * channels);
        let shape = MapShape { batch: 1, height, width, channels: masks };
        let products = values(&vectors).chunks_exact(masks * channels).zip(pixels).map(|(vectors, pixels)| {
            let products = PackedLinear::new([masks, channels], vectors, None, Then::Nothing).forward(pixels);
            if masks == 1 { products } else { nchw_from_nhwc(&shape, &products) }
        });
        tensor(products.collect::<Vec<_>>().concat(), [prompts, masks, height, width])
    }

    fn attention(
        queries: FlexTensor,
        keys: FlexTensor,
        values_of: FlexTensor,
        settings: AttentionSettings,
    ) -> FlexTensor {
        let factors = [queries, keys, values_of].map(contiguous);
        let shape = settings.shape(&factors);
        let attended = attention_kernels::attention(&shape, settings.rows(&shape, &factors), settings.scale, &[]);
        tensor(attended, [shape.batch, shape.queries, shape.heads * shape.value_width])
    }
}

impl AttentionSettings {
    /// Of queries, keys and values, `[image, token, channels]`.
    fn shape(&self, [queries, keys, _]: &[FlexTensor; 3]) -> AttentionShape {
        let ([query_images, queries, _], [key_images, keys, _]) = (dims3(queries), dims3(keys));
        let Self { heads, width, value_width, .. } = *self;
        AttentionShape { batch: query_images.max(key_images), heads, queries, keys, width, value_width }
    }

    /// The factors as the kernels take them.
    fn rows<'a>(&self, shape: &AttentionShape, factors: &'a [FlexTensor; 3]) -> [HeadRows<'a>; 3] {
        std::array::from_fn(|idx| {
            let ([images, rows, channels], (start, head_stride)) = (dims3(&factors[idx]), self.places[idx]);
            let batch_stride = if images == shape.batch { rows * channels } else { 0 };
            HeadRows { values: values(&factors[idx]), start, batch_stride, row_stride: channels, head_stride }
        })
    }
}

fn dims3(tensor: &FlexTensor) -> [usize; 3] {
    dims(tensor).try_into().expect("a tensor of three dimensions")
}
