//! The operators of the student family on burn tensors.
//!
//! Each has two implementations: our kernels on burn's Flex backend (`fast.rs`, `block.rs`), burn's own operators elsewhere
//! ([`portable`]). This file is the one place that chooses between them.
//!
//! Between [`to_internal`] and [`to_nchw`] a feature map is in the layout that the device computes fastest in, NHWC for our
//! kernels and NCHW for burn's. So only these functions may look at its dimensions.

use burn::tensor::{Device, Tensor};

use sensei_graph::op::{Activation, ConvShape, Upsampling};

mod block;
mod fast;
pub(crate) mod flex_tensor;
pub(crate) mod layers;
mod optimizer;
pub mod portable;
mod round;

pub use sensei_kernels::memory::keep_freed_memory;

/// Added to the variance by every batch norm, as PyTorch does.
pub const BATCH_NORM_EPSILON: f64 = 1e-5;

/// Statistics that a batch norm took over a batch.
pub struct Statistics {
    /// Mean of each channel over the batch, `[channels]`, without autodiff.
    pub mean: Tensor<1>,
    /// Biased variance of each channel over the batch, `[channels]`, without autodiff.
    pub variance: Tensor<1>,
    /// Values per channel that both were taken over: batch * height * width.
    pub count: usize,
}

/// Geometry of a block: a depthwise convolution that keeps the size, batch norm, activation, a 1x1 convolution, batch norm,
/// activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// How the input is upsampled first, as by [`upsample_2x`], if it is; then the depthwise kernel is 3x3 without dilation.
    pub upsampling: Option<Upsampling>,
    /// Side of the depthwise kernel; odd.
    pub kernel: usize,
    /// Distance between its taps.
    pub dilation: usize,
    /// Channels written.
    pub out_channels: usize,
    /// What follows both batch norms.
    pub activation: Activation,
}

/// What is trained in a block, flat.
pub struct BlockWeights {
    /// Depthwise weight.
    pub depthwise: Tensor<1>,
    /// Scale of the first batch norm.
    pub scale1: Tensor<1>,
    /// Shift of the first batch norm.
    pub shift1: Tensor<1>,
    /// Weight of the 1x1 convolution.
    pub pointwise: Tensor<1>,
    /// Scale of the second batch norm.
    pub scale2: Tensor<1>,
    /// Shift of the second batch norm.
    pub shift2: Tensor<1>,
}

/// Weights and biases of a block whose batch norms are folded into them, flat.
pub struct FoldedBlock {
    /// Depthwise weight.
    pub depthwise: Tensor<1>,
    /// Depthwise bias.
    pub depthwise_bias: Tensor<1>,
    /// Weight of the 1x1 convolution.
    pub pointwise: Tensor<1>,
    /// Bias of the 1x1 convolution.
    pub pointwise_bias: Tensor<1>,
}

/// A skip connection: a 1x1 convolution of another feature map that is added to a block's output.
pub struct Skip {
    /// The other feature map, of the output's height and width.
    pub x: Tensor<4>,
    /// Its weight, flat.
    pub weight: Tensor<1>,
    /// Its bias.
    pub bias: Tensor<1>,
}

/// Whether the device computes a [`Block`] as one operator; elsewhere its operators are called one by one.
pub fn has_blocks(device: &Device) -> bool {
    fast::runs_on(device)
}

/// A block with the statistics of the batch, and those of its two batch norms.
///
/// # Panics
/// If the device has none: [`has_blocks`].
pub fn block_train(
    block: Block,
    x: Tensor<4>,
    weights: BlockWeights,
    skip: Option<Skip>,
) -> (Tensor<4>, [Statistics; 2]) {
    block::train(block, x, weights, skip)
}

/// A block with fixed statistics, without autodiff.
///
/// # Panics
/// If the device has none ([`has_blocks`]) or tracks gradients.
pub fn block_eval(block: Block, x: Tensor<4>, weights: FoldedBlock, skip: Option<Skip>) -> Tensor<4> {
    block::eval(block, x, weights, skip)
}

/// One step of AdamW: its constants, and which step it is.
pub use sensei_kernels::optimizer::AdamW as AdamWConstants;

/// Flat values and their moments after step `step` of AdamW, counted from 1; none of the tensors is tracked.
///
/// # Source
/// Loshchilov and Hutter 2019, algorithm 2; the order of operations is `torch.optim.AdamW`'s.
///
/// # Panics
/// If the lengths differ.
pub fn adamw_step(
    constants: &AdamWConstants,
    step: u64,
    values: Tensor<1>,
    gradient: Tensor<1>,
    [first, second]: [Tensor<1>; 2],
) -> (Tensor<1>, [Tensor<1>; 2]) {
    if fast::runs_on(&values.device()) {
        return optimizer::adamw_step(constants, step, values, gradient, [first, second]);
    }
    portable::adamw_step(constants, step, values, gradient, [first, second])
}

/// Sum of the squares of flat tensors, which are not tracked.
pub fn sum_of_squares(tensors: &[Tensor<1>]) -> f64 {
    match tensors.first() {
        Some(first) if fast::runs_on(&first.device()) => optimizer::sum_of_squares(tensors),
        Some(_) => portable::sum_of_squares(tensors),
        None => 0.0,
    }
}

/// `decay * average + (1 - decay) * values`; neither is tracked.
pub fn moving_average(average: Tensor<1>, values: Tensor<1>, decay: f64) -> Tensor<1> {
    if fast::runs_on(&average.device()) {
        return optimizer::moving_average(average, values, decay);
    }
    average * decay + values * (1.0 - decay)
}

/// `[batch, channels, height, width]` to the layout of the other functions.
pub fn to_internal(nchw: Tensor<4>) -> Tensor<4> {
    if fast::runs_on(&nchw.device()) { fast::to_internal(nchw) } else { nchw }
}

/// Back to `[batch, channels, height, width]`.
pub fn to_nchw(internal: Tensor<4>) -> Tensor<4> {
    if fast::runs_on(&internal.device()) { fast::to_nchw(internal) } else { internal }
}

/// Convolution.
///
/// # Shapes
/// - `weight`: `[out, in / groups, kernel, kernel]`, PyTorch's order
/// - `bias`: `[out]`
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, conv: &ConvShape) -> Tensor<4> {
    if fast::runs_on(&x.device()) {
        return fast::conv2d(x, weight, bias, conv, Activation::None);
    }
    portable::conv2d(x, weight, bias, conv)
}

/// [`conv2d`] and [`activate`] in one pass over the output where the device can.
pub fn conv2d_activated(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    conv: &ConvShape,
    activation: Activation,
) -> Tensor<4> {
    if fast::runs_on(&x.device()) {
        return fast::conv2d(x, weight, bias, conv, activation);
    }
    portable::activate(portable::conv2d(x, weight, bias, conv), activation)
}

/// Batch norm with the statistics of the batch itself ([`BATCH_NORM_EPSILON`]), then the activation.
///
/// # Shapes
/// - `scale`, `shift`: `[channels]`
pub fn batch_norm_train(
    x: Tensor<4>,
    scale: Tensor<1>,
    shift: Tensor<1>,
    activation: Activation,
) -> (Tensor<4>, Statistics) {
    if fast::runs_on(&x.device()) {
        return fast::batch_norm_train(x, scale, shift, activation);
    }
    portable::batch_norm_train(x, scale, shift, activation)
}

/// The activation of each value; its gradient passes between the activation's limits and not at them.
pub fn activate(x: Tensor<4>, activation: Activation) -> Tensor<4> {
    portable::activate(x, activation)
}

/// Fake quantization: each value's nearest one on the grid `q * step`, `q` an integer in `range`, ties to even; beyond its
/// ends, the end. `x` in memory order is cut into as many rows of one length as there are steps, a step for each.
///
/// The gradient of `x` passes straight through where the nearest integer is on the grid and is 0 elsewhere. The step's is
/// `q - x / step` inside the grid and the end's `q` outside.
///
/// # Source
/// Esser et al. 2020, "Learned Step Size Quantization", equations 2 and 3.
///
/// # Panics
/// If the values cannot be cut into rows of one length.
pub fn round_to_grid<const D: usize>(x: Tensor<D>, steps: Tensor<1>, range: [f32; 2]) -> Tensor<D> {
    if fast::runs_on(&x.device()) {
        return round::round_to_grid(x, steps, range);
    }
    portable::round_to_grid(x, steps, range)
}

/// Sum of two feature maps of one shape.
pub fn add(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    if fast::runs_on(&a.device()) { fast::add(a, b) } else { portable::add(a, b) }
}

/// 2x upsampling, nearest or bilinear with half-pixel centres.
pub fn upsample_2x(x: Tensor<4>, upsampling: Upsampling) -> Tensor<4> {
    if fast::runs_on(&x.device()) { fast::upsample_2x(x, upsampling) } else { portable::upsample_2x(x, upsampling) }
}

/// The kernels' type for a kind of upsampling.
pub fn kernel_upsampling(upsampling: Upsampling) -> sensei_kernels::pixelwise::Upsampling {
    match upsampling {
        Upsampling::Nearest => sensei_kernels::pixelwise::Upsampling::Nearest,
        Upsampling::Bilinear => sensei_kernels::pixelwise::Upsampling::Bilinear,
    }
}

/// The kernels' word for an activation.
pub fn kernel_activation(activation: Activation) -> sensei_kernels::activation::Activation {
    match activation {
        Activation::None => sensei_kernels::activation::Activation::None,
        Activation::Relu => sensei_kernels::activation::Activation::Relu,
        Activation::Relu6 => sensei_kernels::activation::Activation::Relu6,
    }
}

/// Mean of each channel of each image; height and width become 1.
pub fn global_average_pool(x: Tensor<4>) -> Tensor<4> {
    if fast::runs_on(&x.device()) { fast::global_average_pool(x) } else { portable::global_average_pool(x) }
}

/// Logistic function of each value, in `(0, 1)`.
pub fn sigmoid(x: Tensor<4>) -> Tensor<4> {
    portable::sigmoid(x)
}

/// Each channel of `x` times its value in `scale`, whose height and width are 1.
pub fn scale_channels(x: Tensor<4>, scale: Tensor<4>) -> Tensor<4> {
    if fast::runs_on(&x.device()) { fast::scale_channels(x, scale) } else { portable::scale_channels(x, scale) }
}
