//! Every operator by burn's own ones, NCHW: runs on all of burn's devices, and is the reference that our kernels are tested
//! against.

use burn::tensor::ops::{ConvOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{Tensor, activation, module};

use super::{AdamWConstants, BATCH_NORM_EPSILON, Statistics};
use sensei_graph::op::{Activation, ConvShape, Upsampling};

/// Convolution; `weight` and `bias` as in [`super::conv2d`].
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, conv: &ConvShape) -> Tensor<4> {
    let square = |side: usize| [side, side];
    let options = ConvOptions::new(square(conv.stride), square(conv.padding), square(conv.dilation), conv.groups);
    module::conv2d(x, weight, bias, options)
}

/// Batch norm with the statistics of the batch, then the activation.
pub fn batch_norm_train(
    x: Tensor<4>,
    scale: Tensor<1>,
    shift: Tensor<1>,
    activation: Activation,
) -> (Tensor<4>, Statistics) {
    let [batch, _, height, width] = x.dims();
    let normalised = module::batch_norm_train(x, scale, shift, BATCH_NORM_EPSILON);
    let output = activate(normalised.output, activation);
    let (mean, variance) = (normalised.mean.inner(), normalised.variance.inner());
    (output, Statistics { mean, variance, count: batch * height * width })
}

/// See [`super::activate`].
pub fn activate(x: Tensor<4>, activation: Activation) -> Tensor<4> {
    match activation {
        Activation::None => x,
        Activation::Relu => activation::relu(x),
        // By a mask, which has no gradient at 6 either; PyTorch's has none there.
        Activation::Relu6 => {
            let is_above = x.clone().greater_equal_elem(6.0);
            activation::relu(x).mask_fill(is_above, 6.0)
        }
    }
}

/// See [`super::round_to_grid`].
pub fn round_to_grid<const D: usize>(x: Tensor<D>, steps: Tensor<1>, [low, high]: [f32; 2]) -> Tensor<D> {
    let (dims, rows) = (x.dims(), steps.dims()[0]);
    let x = x.reshape([rows, dims.iter().product::<usize>() / rows]);
    let steps = steps.reshape([rows, 1]);
    let in_steps = x / steps.clone();
    let nearest = in_steps.clone().detach().round();
    let rounded = nearest.clone().clamp(low, high);
    // Straight through: `x - x` is 0 with the gradient of `x`, which passes where nothing is cut off.
    let inside = in_steps.mask_fill(nearest.not_equal(rounded.clone()), 0.0);
    let passed = inside.clone() - inside.detach();
    ((rounded + passed) * steps).reshape(dims)
}

/// Sum of two feature maps.
pub fn add(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    a + b
}

/// 2x upsampling.
pub fn upsample_2x(x: Tensor<4>, upsampling: Upsampling) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    match upsampling {
        Upsampling::Nearest => {
            let options = InterpolateOptions::new(InterpolateMode::Nearest).with_output_size([height * 2, width * 2]);
            module::interpolate(x, options)
        }
        // burn's own has no gradient on a GPU.
        Upsampling::Bilinear => bilinear_axis(bilinear_axis(x, 2), 3),
    }
}

/// Twice as many values along an axis: 3/4 of each plus 1/4 of its neighbour on either side, at an end of itself.
fn bilinear_axis(x: Tensor<4>, axis: usize) -> Tensor<4> {
    let mut dims = x.dims();
    let len = dims[axis];
    let slice = |start: usize, len: usize| x.clone().narrow(axis, start, len);
    let (before, after) = match len {
        1 => (x.clone(), x.clone()),
        _ => (
            Tensor::cat(vec![slice(0, 1), slice(0, len - 1)], axis),
            Tensor::cat(vec![slice(1, len - 1), slice(len - 1, 1)], axis),
        ),
    };
    let interpolated = |neighbour: Tensor<4>| (x.clone() * 0.75 + neighbour * 0.25).unsqueeze_dim::<5>(axis + 1);
    dims[axis] = 2 * len;
    Tensor::cat(vec![interpolated(before), interpolated(after)], axis + 1).reshape(dims)
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

/// See [`super::adamw_step`].
pub fn adamw_step(
    constants: &AdamWConstants,
    step: u64,
    values: Tensor<1>,
    gradient: Tensor<1>,
    [first, second]: [Tensor<1>; 2],
) -> (Tensor<1>, [Tensor<1>; 2]) {
    let AdamWConstants { learning_rate, beta1, beta2, epsilon, weight_decay } = *constants;
    let correction1 = 1.0 - beta1.powi(step as i32);
    let correction2_root = (1.0 - beta2.powi(step as i32)).sqrt();
    let first = first * beta1 + gradient.clone() * (1.0 - beta1);
    let second = second * beta2 + gradient.clone() * gradient * (1.0 - beta2);
    let denominator = second.clone().sqrt() / correction2_root + epsilon;
    let decayed = values * (1.0 - learning_rate * weight_decay);
    (decayed - first.clone() * (learning_rate / correction1) / denominator, [first, second])
}

/// See [`super::sum_of_squares`].
pub fn sum_of_squares(tensors: &[Tensor<1>]) -> f64 {
    let sums = tensors.iter().map(|values| (values.clone() * values.clone()).sum()).collect();
    let sums: Vec<f32> = Tensor::cat(sums, 0).try_to_vec_as().expect("a float tensor that its device can read back");
    sums.into_iter().map(f64::from).sum()
}
