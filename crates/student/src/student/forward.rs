//! The forward pass, step by step along the graph: with running statistics, and with those of the batch.

use burn::tensor::{Device, Tensor};
use sensei_graph::layer_graph::{Conv, Op};
use sensei_graph::op::{ConvShape, Upsampling};
use sensei_graph::steps::{Step, StepKind, block_steps, run_steps, single_steps};
use sensei_tensor::network::{BatchStats, Outputs};
use sensei_tensor::ops::{self, BATCH_NORM_EPSILON, Block, BlockWeights, FoldedBlock, Skip};
use sensei_tensor::profile;

use super::Student;
use crate::features::Features;

impl Student {
    /// Mask logits with the running statistics, without autodiff.
    ///
    /// # Shapes
    /// - `image`: `[batch, 3, height, width]`, values `(pixel - 128) / 128`
    /// - output: `[batch, 1, height, width]`
    pub fn forward_eval(&self, image: Tensor<4>) -> Tensor<4> {
        self.eval(image, &mut Features::none())
    }

    pub(super) fn eval(&self, image: Tensor<4>, features: &mut Features) -> Tensor<4> {
        let image = image.inner();
        let steps = self.steps(&image.device(), features.nodes());
        let output = run_steps(&self.graph, &steps, ops::to_internal(image), |step, inputs| {
            let output = self.step_eval(step, inputs);
            features.see(step.output, &output);
            output
        });
        ops::to_nchw(output)
    }

    fn step_eval(&self, step: &Step, inputs: Vec<Tensor<4>>) -> Tensor<4> {
        match step.kind {
            StepKind::Node => {
                let op = &self.graph.nodes()[step.output].op;
                match op.conv() {
                    Some(conv) => self.conv_eval(step.output, conv, one(inputs)),
                    None => without_weights(op, inputs),
                }
            }
            StepKind::Block { upsampling, depthwise, pointwise, merged } => {
                let (x, skip) = self.block_inputs(inputs, merged, |parameter| self.flat(parameter).inner());
                let (depthwise_weight, depthwise_bias) = self.folded(depthwise);
                let (pointwise_weight, pointwise_bias) = self.folded(pointwise);
                let weights = FoldedBlock {
                    depthwise: depthwise_weight,
                    depthwise_bias,
                    pointwise: pointwise_weight,
                    pointwise_bias,
                };
                ops::block_eval(self.block(upsampling, depthwise, pointwise), x, weights, skip)
            }
        }
    }

    /// Mask logits with the statistics of the batch, and those statistics; shapes as [`Student::forward_eval`].
    ///
    /// # Panics
    /// If a batch norm sees a single value per channel, which has no variance:
    /// [`min_train_batch`](sensei_graph::layer_graph::LayerGraph::min_train_batch).
    pub fn forward_train(&self, image: Tensor<4>) -> Outputs {
        self.train(image, Features::none())
    }

    pub(super) fn train(&self, image: Tensor<4>, mut features: Features) -> Outputs {
        let image = if self.device.is_autodiff() { image.autodiff() } else { image };
        let batch = image.dims()[0] as u64;
        let mut batch_stats = Vec::with_capacity(self.running.len());
        let steps = self.steps(&image.device(), features.nodes());
        let output = run_steps(&self.graph, &steps, ops::to_internal(image), |step, inputs| {
            let _timer = profile::layer(&self.step_name(step), 2 * batch * self.step_macs(step));
            let output = self.step_train(step, inputs, &mut batch_stats);
            features.see(step.output, &output);
            output
        });
        Outputs { norm_stats: batch_stats, ..features.outputs(ops::to_nchw(output), ops::to_nchw) }
    }

    fn step_train(&self, step: &Step, inputs: Vec<Tensor<4>>, batch_stats: &mut Vec<BatchStats>) -> Tensor<4> {
        match step.kind {
            StepKind::Node => {
                let op = &self.graph.nodes()[step.output].op;
                match op.conv() {
                    Some(conv) => self.conv_train(step.output, conv, one(inputs), batch_stats),
                    None => without_weights(op, inputs),
                }
            }
            StepKind::Block { upsampling, depthwise, pointwise, merged } => {
                let (x, skip) = self.block_inputs(inputs, merged, |parameter| self.flat(parameter));
                let (norm1, norm2) = (self.norm(depthwise), self.norm(pointwise));
                let weights = BlockWeights {
                    depthwise: self.flat(self.layer(depthwise).weight),
                    scale1: self.flat(norm1.scale),
                    shift1: self.flat(norm1.shift),
                    pointwise: self.flat(self.layer(pointwise).weight),
                    scale2: self.flat(norm2.scale),
                    shift2: self.flat(norm2.shift),
                };
                let block = self.block(upsampling, depthwise, pointwise);
                let (output, [stats1, stats2]) = ops::block_train(block, x, weights, skip);
                batch_stats.push(self.batch_stats(norm1, stats1));
                batch_stats.push(self.batch_stats(norm2, stats2));
                output
            }
        }
    }

    /// Blocks where the device has an operator for them.
    fn steps(&self, device: &Device, stored: &[usize]) -> Vec<Step> {
        if ops::has_blocks(device) { block_steps(&self.graph, stored) } else { single_steps(&self.graph) }
    }

    fn block(&self, upsampling: Option<Upsampling>, depthwise: usize, pointwise: usize) -> Block {
        let (depthwise, pointwise) = (self.conv(depthwise), self.conv(pointwise));
        let ConvShape { kernel, dilation, .. } = depthwise.shape;
        let (out_channels, activation) = (pointwise.shape.out_channels, pointwise.activation);
        Block { upsampling, kernel, dilation, out_channels, activation }
    }

    /// The input of a block, and what is added to its output.
    fn block_inputs(
        &self,
        inputs: Vec<Tensor<4>>,
        merged: Option<usize>,
        flat: impl Fn(usize) -> Tensor<1>,
    ) -> (Tensor<4>, Option<Skip>) {
        let Some(merged) = merged else { return (one(inputs), None) };
        let [x, skip] = <[_; 2]>::try_from(inputs).expect("a merging block has two inputs");
        let layer = self.layer(merged);
        let bias = layer.bias.expect("a merged convolution has a bias");
        (x, Some(Skip { x: skip, weight: flat(layer.weight), bias: flat(bias) }))
    }

    /// Flat weight and bias of a convolution with its batch norm, whose running statistics are used, in them.
    fn folded(&self, idx: usize) -> (Tensor<1>, Tensor<1>) {
        let (layer, conv, norm) = (self.layer(idx), self.conv(idx), self.norm(idx));
        let BatchStats { mean, variance, .. } = self.running[norm.running].clone();
        let scale = self.flat(norm.scale).inner() / (variance + BATCH_NORM_EPSILON).sqrt();
        let mean = layer.bias.map_or(mean.clone(), |bias| mean - self.flat(bias).inner());
        let weight = self.flat(layer.weight).inner().reshape([conv.shape.out_channels as isize, -1]);
        let weight = weight * scale.clone().reshape([conv.shape.out_channels, 1]);
        (weight.reshape([-1]), self.flat(norm.shift).inner() - mean * scale)
    }

    /// Batch norm goes into weight and bias here, so that a node is one pass over its output.
    fn conv_eval(&self, idx: usize, conv: &Conv, x: Tensor<4>) -> Tensor<4> {
        let layer = self.layer(idx);
        let (weight, bias) = match layer.norm {
            Some(_) => {
                let (weight, bias) = self.folded(idx);
                (weight, Some(bias))
            }
            None => (self.flat(layer.weight).inner(), layer.bias.map(|bias| self.flat(bias).inner())),
        };
        let weight = weight.reshape(conv.shape.weight_shape());
        ops::conv2d_activated(x, weight, bias, &conv.shape, conv.activation)
    }

    fn conv_train(&self, idx: usize, conv: &Conv, x: Tensor<4>, batch_stats: &mut Vec<BatchStats>) -> Tensor<4> {
        let (weight, bias) = self.conv_weights(idx, conv);
        let Some(norm) = self.layer(idx).norm else {
            return ops::conv2d_activated(x, weight, bias, &conv.shape, conv.activation);
        };
        let y = ops::conv2d(x, weight, bias, &conv.shape);
        let (output, stats) = ops::batch_norm_train(y, self.flat(norm.scale), self.flat(norm.shift), conv.activation);
        batch_stats.push(self.batch_stats(norm, stats));
        output
    }

    /// What a step is called in a profile: its convolutions, or its node.
    fn step_name(&self, step: &Step) -> String {
        let name = |idx: usize| self.graph.nodes()[idx].name.as_str();
        match step.kind {
            StepKind::Node => name(step.output).into(),
            StepKind::Block { depthwise, pointwise, merged, .. } => {
                let merged = merged.map_or(String::new(), |skip| format!(" + {}", name(skip)));
                format!("{} + {}{merged}", name(depthwise), name(pointwise))
            }
        }
    }

    /// Multiply-accumulates of a step for one image.
    fn step_macs(&self, step: &Step) -> u64 {
        let macs = |idx: usize| self.graph.nodes()[idx].macs();
        match step.kind {
            StepKind::Node => macs(step.output),
            StepKind::Block { depthwise, pointwise, merged, .. } => {
                macs(depthwise) + macs(pointwise) + merged.map_or(0, macs)
            }
        }
    }
}

/// Runs an operator that has no weights.
///
/// # Panics
/// If `op` is the input or a convolution, or `inputs` are not as many as it reads.
pub fn without_weights(op: &Op, inputs: Vec<Tensor<4>>) -> Tensor<4> {
    match op {
        Op::Input | Op::Conv(_) => panic!("without_weights: expected an operator without weights, found {op:?}"),
        Op::Upsample2x(upsampling) => ops::upsample_2x(one(inputs), *upsampling),
        Op::GlobalAveragePool => ops::global_average_pool(one(inputs)),
        Op::Sigmoid => ops::sigmoid(one(inputs)),
        Op::Add => two(inputs, ops::add),
        Op::ScaleChannels => two(inputs, ops::scale_channels),
    }
}

fn one(inputs: Vec<Tensor<4>>) -> Tensor<4> {
    let [x] = <[_; 1]>::try_from(inputs).expect("an operator with one input");
    x
}

fn two(inputs: Vec<Tensor<4>>, op: fn(Tensor<4>, Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    let [a, b] = <[_; 2]>::try_from(inputs).expect("an operator with two inputs");
    op(a, b)
}
