//! Every operator by burn's own ones, NCHW: runs on all of burn's devices and is what the faster path is held to.

use burn::tensor::ops::{ConvOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{Tensor, activation, module};

use super::{BATCH_NORM_EPSILON, Statistics};
use crate::graph::Conv;

/// Convolution; `weight` and `bias` as in [`super::conv2d`].
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, conv: &Conv) -> Tensor<4> {
    let square = |side: usize| [side, side];
    let options = ConvOptions::new(square(conv.stride), square(conv.padding), square(conv.dilation), conv.groups);
    module::conv2d(x, weight, bias, options)
}

/// Batch norm with the statistics of the batch, then ReLU if `with_relu`.
pub fn batch_norm_train(x: Tensor<4>, scale: Tensor<1>, shift: Tensor<1>, with_relu: bool) -> (Tensor<4>, Statistics) {
    let [batch, _, height, width] = x.dims();
    let normalised = module::batch_norm_train(x, scale, shift, BATCH_NORM_EPSILON);
    let output = if with_relu { relu(normalised.output) } else { normalised.output };
    let (mean, variance) = (normalised.mean.inner(), normalised.variance.inner());
    (output, Statistics { mean, variance, count: batch * height * width })
}

/// The greater of each value and 0.
pub fn relu(x: Tensor<4>) -> Tensor<4> {
    activation::relu(x)
}

/// Sum of two feature maps.
pub fn add(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    a + b
}

/// Nearest upsampling by two.
pub fn upsample_2x(x: Tensor<4>) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let options = InterpolateOptions::new(InterpolateMode::Nearest).with_output_size([height * 2, width * 2]);
    module::interpolate(x, options)
}

/// Mean over height and width.
pub fn global_average_pool(x: Tensor<4>) -> Tensor<4> {
    x.mean_dim(2).mean_dim(3)
}

/// Logistic function.
pub fn sigmoid(x: Tensor<4>) -> Tensor<4> {
    activation::sigmoid(x)
}

/// Each channel of `x` times its value in `scale`.
pub fn scale_channels(x: Tensor<4>, scale: Tensor<4>) -> Tensor<4> {
    x * scale
}
