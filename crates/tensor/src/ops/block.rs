//! The students' repeated block as one operator of our CPU kernels, on burn's Flex backend.
//!
//! It is one autodiff node with seven parents: the input, the depthwise weight, scale and shift of the first batch norm, the
//! 1x1 weight, scale and shift of the second. A skip connection adds three: its input, weight and bias. Gradients come in the
//! same order. What the backward pass reads besides is the kernel's to say ([`SavedForBackward`]).

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Flex};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use sensei_kernels::depthwise::DepthwiseShape;
use sensei_kernels::norm::{ChannelStatistics, Norm};
use sensei_kernels::pixelwise::MapShape;
use sensei_kernels::separable::{self, FoldedSeparable, SavedForBackward, SeparableShape, SeparableWeights};

use super::flex_tensor::{Tracked, contiguous, dims, flex, map_shape, tensor, tracked, values};
use super::{
    BATCH_NORM_EPSILON, Block, BlockWeights, FoldedBlock, Skip, Statistics, kernel_activation, kernel_upsampling,
};
use crate::profile::{self, Layer};

/// See [`super::block_train`].
pub(super) fn train(
    block: Block,
    x: Tensor<4>,
    weights: BlockWeights,
    skip: Option<Skip>,
) -> (Tensor<4>, [Statistics; 2]) {
    let device = x.device();
    let [batch, height, width, _] = x.dims();
    let count = batch * height * width * if block.upsampling.is_some() { 4 } else { 1 };
    let BlockWeights { depthwise, scale1, shift1, pointwise, scale2, shift2 } = weights;
    let mut maps = vec![x];
    let mut flat = vec![depthwise, scale1, shift1, pointwise, scale2, shift2];
    if let Some(Skip { x, weight, bias }) = skip {
        maps.push(x);
        flat.extend([weight, bias]);
    }
    if device.is_autodiff() {
        let flat = flat.into_iter().map(tracked).collect();
        let maps: Vec<Tracked> = maps.into_iter().map(tracked).collect();
        let inputs = in_parent_order(maps, flat);
        let (output, saved) = if inputs.len() == 7 { track::<7>(block, inputs) } else { track::<10>(block, inputs) };
        return (Tensor::from_primitive::<Autodiff<Flex>>(output), batch_statistics(&saved, count));
    }
    let inputs = in_parent_order(maps.into_iter().map(flex).collect(), flat.into_iter().map(flex).collect());
    let saved = forward(block, &inputs);
    let output = output(block, &inputs, &saved);
    (Tensor::from_primitive::<Flex>(output), batch_statistics(&saved, count))
}

/// See [`super::block_eval`].
pub(super) fn eval(block: Block, x: Tensor<4>, weights: FoldedBlock, skip: Option<Skip>) -> Tensor<4> {
    let FoldedBlock { depthwise, depthwise_bias, pointwise, pointwise_bias } = weights;
    let x = flex(x);
    let [depthwise, depthwise_bias, pointwise, pointwise_bias] =
        [depthwise, depthwise_bias, pointwise, pointwise_bias].map(flex);
    let shape = kernel_shape(block, &x);
    let folded = FoldedSeparable {
        depthwise: values(&depthwise),
        depthwise_bias: values(&depthwise_bias),
        pointwise: values(&pointwise),
        pointwise_bias: values(&pointwise_bias),
        activation: kernel_activation(block.activation),
    };
    let skip = skip.map(|skip| [flex(skip.x), flex(skip.weight), flex(skip.bias)]);
    let output = separable::infer(&shape, &folded, values(&x), skip.as_ref().map(|skip| kernel_skip(skip)));
    Tensor::from_primitive::<Flex>(tensor(output, output_dims(&shape)))
}

/// The parents of the autodiff node, from feature maps and flat weights.
fn in_parent_order<T>(maps: Vec<T>, flat: Vec<T>) -> Vec<T> {
    let (mut maps, mut flat) = (maps.into_iter(), flat.into_iter());
    let mut inputs: Vec<T> = maps.next().into_iter().collect();
    inputs.extend(flat.by_ref().take(6));
    inputs.extend(maps);
    inputs.extend(flat);
    inputs
}

fn track<const N: usize>(block: Block, inputs: Vec<Tracked>) -> (Tracked, SavedForBackward<FlexTensor>) {
    #[derive(Debug)]
    struct Step(Block, Option<Layer>);
    impl<const N: usize> Backward<Flex, N> for Step {
        type State = (Vec<FlexTensor>, SavedForBackward<FlexTensor>);
        fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
            let _timer = profile::backward(&self.1);
            let grad = contiguous(grads.consume::<Flex>(&ops.node));
            let (inputs, saved) = ops.state;
            for (node, gradient) in ops.parents.into_iter().zip(backward(self.0, &inputs, saved, grad)) {
                if let Some(node) = node {
                    grads.register::<Flex>(node.id, gradient);
                }
            }
        }
    }
    let nodes = std::array::from_fn(|idx| inputs[idx].node());
    let prepared = Backward::<Flex, N>::prepare::<NoCheckpointing>(Step(block, profile::current()), nodes)
        .compute_bound()
        .stateful();
    let inputs: Vec<FlexTensor> = inputs.into_iter().map(|input| contiguous(input.into_primitive())).collect();
    let saved = forward(block, &inputs);
    let output = output(block, &inputs, &saved);
    match prepared {
        OpsKind::Tracked(prep) => (prep.finish((inputs, saved.clone()), output), saved),
        OpsKind::UnTracked(prep) => (prep.finish(output), saved),
    }
}

fn forward(block: Block, inputs: &[FlexTensor]) -> SavedForBackward<FlexTensor> {
    let shape = kernel_shape(block, &inputs[0]);
    let saved = separable::forward(&shape, &kernel_weights(block, inputs), values(&inputs[0]));
    let MapShape { batch, height, width, .. } = output_shape(&shape);
    // What the backward pass does without has no images.
    let map = |values: Vec<f32>, channels| {
        let batch = if values.is_empty() { 0 } else { batch };
        tensor(values, [batch, height, width, channels])
    };
    let (ins, outs) = (saved.statistics1.mean.len(), saved.statistics2.mean.len());
    let statistics = |of: ChannelStatistics<Vec<f32>>, channels| ChannelStatistics {
        mean: tensor(of.mean, [channels]),
        variance: tensor(of.variance, [channels]),
    };
    SavedForBackward {
        depthwise: map(saved.depthwise, ins),
        statistics1: statistics(saved.statistics1, ins),
        pointwise: map(saved.pointwise, outs),
        statistics2: statistics(saved.statistics2, outs),
    }
}

fn output(block: Block, inputs: &[FlexTensor], saved: &SavedForBackward<FlexTensor>) -> FlexTensor {
    let shape = kernel_shape(block, &inputs[0]);
    let skip = <&[FlexTensor; 3]>::try_from(&inputs[7..]).ok().map(kernel_skip);
    let output = separable::output(&shape, &kernel_weights(block, inputs), &saved_slices(saved), skip);
    tensor(output, output_dims(&shape))
}

fn backward(
    block: Block,
    inputs: &[FlexTensor],
    saved: SavedForBackward<FlexTensor>,
    grad: FlexTensor,
) -> Vec<FlexTensor> {
    let shape = kernel_shape(block, &inputs[0]);
    let weights = kernel_weights(block, inputs);
    let skip = <&[FlexTensor; 3]>::try_from(&inputs[7..]).ok().map(kernel_skip);
    let gradients =
        separable::backward(&shape, &weights, values(&inputs[0]), skip, &saved_slices(&saved), values(&grad));
    drop(saved);
    let block_gradients = [
        gradients.input,
        gradients.depthwise,
        gradients.norm1.scale,
        gradients.norm1.shift,
        gradients.pointwise,
        gradients.norm2.scale,
        gradients.norm2.shift,
    ];
    let skip_gradients = gradients.skip.into_iter().flat_map(|skip| [skip.input, skip.weight, skip.bias]);
    let in_order = block_gradients.into_iter().chain(skip_gradients);
    in_order.zip(inputs).map(|(gradient, input)| tensor(gradient, dims(input))).collect()
}

/// Of a block that upsamples, the kernels take 3x3 taps without dilation; `sensei_graph::steps::block_steps` makes no other.
fn kernel_shape(block: Block, x: &FlexTensor) -> SeparableShape {
    let MapShape { batch, height, width, channels } = map_shape(x);
    let Block { upsampling, kernel, dilation, out_channels, .. } = block;
    let (scale, padding) = (1 + usize::from(upsampling.is_some()), dilation * (kernel - 1) / 2);
    let (height, width) = (height * scale, width * scale);
    let depthwise = DepthwiseShape { batch, height, width, channels, kernel, dilation, padding };
    SeparableShape { depthwise, upsampling: upsampling.map(kernel_upsampling), out_channels }
}

fn output_shape(shape: &SeparableShape) -> MapShape {
    let DepthwiseShape { batch, height, width, .. } = shape.depthwise;
    MapShape { batch, height, width, channels: shape.out_channels }
}

fn output_dims(shape: &SeparableShape) -> [usize; 4] {
    let MapShape { batch, height, width, channels } = output_shape(shape);
    [batch, height, width, channels]
}

fn kernel_weights(block: Block, inputs: &[FlexTensor]) -> SeparableWeights<'_> {
    let norm = |first: usize| Norm {
        scale: values(&inputs[first]),
        shift: values(&inputs[first + 1]),
        epsilon: BATCH_NORM_EPSILON as f32,
        activation: kernel_activation(block.activation),
    };
    let (depthwise, pointwise) = (values(&inputs[1]), values(&inputs[4]));
    SeparableWeights { depthwise, norm1: norm(2), pointwise, norm2: norm(5) }
}

fn kernel_skip([x, weight, bias]: &[FlexTensor; 3]) -> separable::Skip<'_> {
    separable::Skip { input: values(x), weight: values(weight), bias: values(bias) }
}

fn saved_slices(saved: &SavedForBackward<FlexTensor>) -> SavedForBackward<&[f32]> {
    SavedForBackward {
        depthwise: values(&saved.depthwise),
        statistics1: statistics_slices(&saved.statistics1),
        pointwise: values(&saved.pointwise),
        statistics2: statistics_slices(&saved.statistics2),
    }
}

fn statistics_slices(statistics: &ChannelStatistics<FlexTensor>) -> ChannelStatistics<&[f32]> {
    ChannelStatistics { mean: values(&statistics.mean), variance: values(&statistics.variance) }
}

/// Of both batch norms; `count` is the number of pixels.
fn batch_statistics(saved: &SavedForBackward<FlexTensor>, count: usize) -> [Statistics; 2] {
    [&saved.statistics1, &saved.statistics2].map(|statistics| Statistics {
        mean: Tensor::from_primitive::<Flex>(statistics.mean.clone()),
        variance: Tensor::from_primitive::<Flex>(statistics.variance.clone()),
        count,
    })
}
