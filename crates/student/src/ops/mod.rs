//! The operators of the student family on burn tensors.
//!
//! Between [`to_internal`] and [`to_nchw`] a feature map is in whatever layout the device computes fastest in, so
//! only these functions may look at its dimensions. This file is the one place that chooses an implementation.

use burn::tensor::Tensor;

use crate::graph::Conv;

mod fast;
pub mod portable;

/// Added to the variance by every batch norm, as PyTorch does.
pub const BATCH_NORM_EPSILON: f64 = 1e-5;

/// Output and statistics of [`batch_norm_train`].
pub struct BatchNorm {
    /// The normalised feature map.
    pub output: Tensor<4>,
    /// Mean of each channel over the batch, `[channels]`, without autodiff.
    pub mean: Tensor<1>,
    /// Biased variance of each channel over the batch, `[channels]`, without autodiff.
    pub variance: Tensor<1>,
    /// Values per channel that both were taken over: batch x height x width.
    pub count: usize,
}

/// `[batch, channels, height, width]` to the layout of the other functions.
pub fn to_internal(nchw: Tensor<4>) -> Tensor<4> {
    if fast::runs_on(&nchw.device()) { fast::to_internal(nchw) } else { nchw }
}

/// Back to `[batch, channels, height, width]`.
pub fn to_nchw(internal: Tensor<4>) -> Tensor<4> {
    if fast::runs_on(&internal.device()) { fast::to_nchw(internal) } else { internal }
}

/// Convolution; of `conv` only the geometry is read, not batch norm and ReLU.
///
/// # Shapes
/// - `weight`: `[out, in / groups, kernel, kernel]`, PyTorch's order
/// - `bias`: `[out]`
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, conv: &Conv) -> Tensor<4> {
    if fast::runs_on(&x.device()) {
        return fast::conv2d(x, weight, bias, conv, false);
    }
    portable::conv2d(x, weight, bias, conv)
}

/// [`conv2d`] and [`relu`] in one pass over the output where the device can.
pub fn conv2d_relu(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, conv: &Conv) -> Tensor<4> {
    if fast::runs_on(&x.device()) {
        return fast::conv2d(x, weight, bias, conv, true);
    }
    portable::relu(portable::conv2d(x, weight, bias, conv))
}

/// Batch norm with the statistics of the batch itself ([`BATCH_NORM_EPSILON`]), then ReLU if `relu`.
///
/// # Shapes
/// - `scale`, `shift`: `[channels]`
pub fn batch_norm_train(x: Tensor<4>, scale: Tensor<1>, shift: Tensor<1>, relu: bool) -> BatchNorm {
    if fast::runs_on(&x.device()) {
        return fast::batch_norm_train(x, scale, shift, relu);
    }
    portable::batch_norm_train(x, scale, shift, relu)
}

/// The greater of each value and 0.
pub fn relu(x: Tensor<4>) -> Tensor<4> {
    portable::relu(x)
}

/// Sum of two feature maps of one shape.
pub fn add(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    if fast::runs_on(&a.device()) { fast::add(a, b) } else { portable::add(a, b) }
}

/// Nearest upsampling: output pixel `(y, x)` is input pixel `(y / 2, x / 2)`.
pub fn upsample_2x(x: Tensor<4>) -> Tensor<4> {
    if fast::runs_on(&x.device()) { fast::upsample_2x(x) } else { portable::upsample_2x(x) }
}

/// Mean of each channel of each image; height and width become 1.
pub fn global_average_pool(x: Tensor<4>) -> Tensor<4> {
    if fast::runs_on(&x.device()) { fast::global_average_pool(x) } else { portable::global_average_pool(x) }
}

/// Logistic function of each value.
pub fn sigmoid(x: Tensor<4>) -> Tensor<4> {
    portable::sigmoid(x)
}

/// Each channel of `x` times its value in `scale`, whose height and width are 1.
pub fn scale_channels(x: Tensor<4>, scale: Tensor<4>) -> Tensor<4> {
    if fast::runs_on(&x.device()) { fast::scale_channels(x, scale) } else { portable::scale_channels(x, scale) }
}
