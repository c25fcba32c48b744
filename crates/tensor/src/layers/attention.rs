//! Attention of several heads.

use burn::tensor::{Tensor, activation};
use sensei_kernels::attention::{self as kernels, AttentionShape, HeadRows};

use super::{has_gradients, has_kernels, unwrapped, wrapped};
use crate::ops;
use crate::ops::flex_tensor::values;
use crate::ops::layers::AttentionSettings;

/// Queries, keys or values, and where in a token's channels those of a head are.
pub struct HeadsOf {
    /// `[image, token, channels]`; of one image for all, where others have more.
    pub tokens: Tensor<3>,
    /// The first channel of the first head.
    pub start: usize,
    /// Channels from one head to the next.
    pub stride: usize,
}

/// Sizes of an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionSize {
    /// Heads.
    pub heads: usize,
    /// Channels of a query and of a key in one head.
    pub width: usize,
    /// Channels of a value in one head.
    pub value_width: usize,
}

/// `softmax(scale * Q K^T + bias) V` of each head: `[image, query, heads * value_width]`. `bias` is `[heads, query, key]`.
///
/// # Panics
/// If tokens have too few channels, or the numbers of images, keys and values do not fit.
pub fn attention(
    size: AttentionSize,
    [queries, keys, values_of]: [HeadsOf; 3],
    scale: f64,
    bias: Option<Tensor<3>>,
) -> Tensor<3> {
    let AttentionSize { heads, width, value_width } = size;
    let ([n_query_images, n_queries, _], [n_key_images, n_keys, _]) = (queries.tokens.dims(), keys.tokens.dims());
    let batch = n_query_images.max(n_key_images);
    let fits = |images: usize| images == batch || images == 1;
    assert!(fits(n_query_images) && fits(n_key_images), "attention: images of queries and keys");
    assert_eq!(values_of.tokens.dims()[..2], [n_key_images, n_keys], "attention: keys and values");
    if has_gradients(&queries.tokens.device()) && bias.is_none() {
        let places = [&queries, &keys, &values_of].map(|factor| (factor.start, factor.stride));
        let settings = AttentionSettings { heads, width, value_width, places, scale: scale as f32 };
        return ops::layers::attention([queries.tokens, keys.tokens, values_of.tokens], settings);
    }
    if !has_kernels(&queries.tokens.device()) {
        let scores = queries.heads(heads, width).matmul(keys.heads(heads, width).swap_dims(2, 3)) * scale;
        let scores = match bias {
            Some(bias) => scores + bias.unsqueeze(),
            None => scores,
        };
        let summed = activation::softmax(scores, 3).matmul(values_of.heads(heads, value_width));
        return summed.swap_dims(1, 2).reshape([batch, n_queries, heads * value_width]);
    }
    let shape = AttentionShape { batch, heads, queries: n_queries, keys: n_keys, width, value_width };
    let bias = bias.map(unwrapped);
    let factors = [queries, keys, values_of].map(|HeadsOf { tokens, start, stride }| {
        let [images, rows, channels] = tokens.dims();
        let batch_stride = if images == batch { rows * channels } else { 0 };
        (unwrapped(tokens), start, batch_stride, channels, stride)
    });
    let rows = factors.each_ref().map(|(tokens, start, batch_stride, row_stride, head_stride)| HeadRows {
        values: values(tokens),
        start: *start,
        batch_stride: *batch_stride,
        row_stride: *row_stride,
        head_stride: *head_stride,
    });
    let bias = bias.as_ref().map_or(&[][..], |bias| values(bias));
    wrapped(kernels::attention(&shape, rows, scale as f32, bias), [batch, n_queries, heads * value_width])
}

impl HeadsOf {
    /// `[image, head, token, width]`.
    fn heads(self, heads: usize, width: usize) -> Tensor<4> {
        let [images, rows, channels] = self.tokens.dims();
        // Heads lie side by side within a range of channels, or each begins with other things.
        let (tokens, start) = match self.start + heads * self.stride <= channels {
            true => (self.tokens.narrow(2, self.start, heads * self.stride), 0),
            false => (self.tokens.narrow(2, 0, heads * self.stride), self.start),
        };
        let tokens: Tensor<4> = tokens.reshape([images, rows, heads, self.stride]);
        tokens.narrow(3, start, width).swap_dims(1, 2)
    }
}
