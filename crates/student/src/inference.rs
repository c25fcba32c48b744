//! A student with fixed statistics on the CPU: batch norms folded, weights packed once, no tensors.

use std::sync::Arc;

use sensei_kernels::bilinear;
use sensei_kernels::conv::{ConvShape, PackedConv};
use sensei_kernels::depthwise::{DepthwiseShape, PackedDepthwise};
use sensei_kernels::pixelwise::{self, MapShape};
use sensei_kernels::separable::{FoldedSeparable, PackedSeparable, SeparableShape};

use sensei_tensor::ops::{kernel_activation, kernel_upsampling};

use crate::fold::{FoldedConv, FoldedWeights, fold_batch_norm};
use crate::weights::WeightsError;
use sensei_graph::layer_graph::{Conv, LayerGraph, Node, Op};
use sensei_graph::op::{self, Upsampling};
use sensei_graph::steps::{Step, StepKind, block_steps, merge_head, run_steps};
use sensei_tensor::network::NamedWeights;

/// The fastest way on the CPU from images to mask logits; made for scoring and for answering, not for training.
pub struct InferenceStudent {
    graph: LayerGraph,
    steps: Vec<Step>,
    layers: Vec<Layer>,
}

/// What a step needs besides its inputs.
enum Layer {
    Conv(PackedConv),
    Depthwise(PackedDepthwise),
    Block(Box<PackedSeparable>),
    Other,
}

impl InferenceStudent {
    /// Folds and packs the weights.
    ///
    /// # Errors
    /// If they are not those of `graph`.
    ///
    /// # Panics
    /// If a convolution is grouped but not depthwise, or depthwise with a stride; no network of the U-Net family is.
    pub fn new(graph: LayerGraph, weights: &NamedWeights) -> Result<Self, WeightsError> {
        let folded = fold_batch_norm(&graph, weights)?;
        let mut steps = block_steps(&graph, &[]);
        let head = merge_head(&graph, &mut steps);
        let layers = steps.iter().map(|step| layer(&graph, &folded, step, head)).collect();
        Ok(Self { graph, steps, layers })
    }

    /// The network.
    pub fn graph(&self) -> &LayerGraph {
        &self.graph
    }

    /// Mask logits `[batch, height, width]` of images `[batch, 3, height, width]`, values `(pixel - 128) / 128`.
    ///
    /// Runs on the threads of the current rayon pool; the result is the same bits for the same number of them.
    ///
    /// # Panics
    /// If `images` is not a whole number of images, or none.
    pub fn mask_logits(&self, images: &[f32]) -> Vec<f32> {
        // On a thread of the pool from here on: each kernel would wake one otherwise.
        rayon::scope(|_| self.logits_in_pool(images))
    }

    fn logits_in_pool(&self, images: &[f32]) -> Vec<f32> {
        let input = map_shape(&self.graph.nodes()[0], 1);
        assert!(!images.is_empty() && images.len().is_multiple_of(input.len()), "mask_logits: whole images");
        let batch = images.len() / input.len();
        let images = Arc::new(pixelwise::nhwc_from_nchw(&MapShape { batch, ..input }, images));
        let mut layers = self.layers.iter();
        let output = run_steps(&self.graph, &self.steps, images, |step, inputs| {
            let layer = layers.next().expect("a layer for each step");
            Arc::new(self.compute(step, layer, batch, inputs))
        });
        // One channel: the layout does not matter.
        Arc::unwrap_or_clone(output)
    }

    fn compute(&self, step: &Step, layer: &Layer, batch: usize, mut inputs: Vec<Arc<Vec<f32>>>) -> Vec<f32> {
        let nodes = self.graph.nodes();
        let input_shape = map_shape(&nodes[step.inputs[0]], batch);
        match layer {
            Layer::Conv(conv) => return conv.forward(batch, &inputs[0]),
            Layer::Depthwise(conv) => return conv.forward(batch, &inputs[0]),
            Layer::Block(block) => return block.forward(batch, &inputs[0], inputs.get(1).map(|skip| &skip[..])),
            Layer::Other => {}
        }
        match &nodes[step.output].op {
            Op::Input | Op::Conv(_) => unreachable!("the input is not a step, and convolutions have a layer"),
            Op::Upsample2x(Upsampling::Nearest) => pixelwise::upsample_2x(&input_shape, &inputs[0]),
            Op::Upsample2x(Upsampling::Bilinear) => bilinear::upsample_2x(&input_shape, &inputs[0]),
            Op::GlobalAveragePool => pixelwise::global_average_pool(&input_shape, &inputs[0]),
            Op::Sigmoid => pixelwise::sigmoid(&inputs[0]),
            Op::ScaleChannels => pixelwise::scale_channels(&input_shape, &inputs[0], &inputs[1]),
            Op::Add => {
                let mut sum = Arc::unwrap_or_clone(inputs.remove(0));
                pixelwise::add_assign(&mut sum, &inputs[0]);
                sum
            }
        }
    }
}

/// The layer of a step; `head` is the node that was taken into the last block, if one was.
fn layer(graph: &LayerGraph, folded: &FoldedWeights, step: &Step, head: Option<usize>) -> Layer {
    let nodes = graph.nodes();
    match step.kind {
        StepKind::Block { upsampling, depthwise, pointwise, merged } => {
            let [FoldedConv { weight: w1, bias: b1 }, FoldedConv { weight: w2, bias: b2 }] =
                [&folded[&depthwise], &folded[&pointwise]];
            let conv = nodes[depthwise].op.conv().expect("blocks are made of convolutions");
            let shape = SeparableShape {
                depthwise: depthwise_shape(conv, nodes[depthwise].shape),
                upsampling: upsampling.map(kernel_upsampling),
                out_channels: nodes[pointwise].shape[0],
            };
            let weights = FoldedSeparable {
                depthwise: &w1.values,
                depthwise_bias: b1,
                pointwise: &w2.values,
                pointwise_bias: b2,
                activation: kernel_activation(conv.activation),
            };
            let pointwise = |node: usize| (&folded[&node].weight.values[..], &folded[&node].bias[..]);
            let head = head.filter(|head| *head == step.output);
            Layer::Block(Box::new(PackedSeparable::new(&shape, &weights, merged.map(pointwise), head.map(pointwise))))
        }
        StepKind::Node => {
            let Some(conv) = nodes[step.output].op.conv() else { return Layer::Other };
            let FoldedConv { weight, bias } = &folded[&step.output];
            let (input, activation) = (nodes[step.inputs[0]].shape, kernel_activation(conv.activation));
            if conv.shape.groups == 1 {
                Layer::Conv(PackedConv::new(&conv_shape(conv, input), &weight.values, Some(bias), activation))
            } else {
                assert!(
                    conv.shape.is_depthwise() && conv.shape.stride == 1,
                    "{}: a grouped convolution",
                    nodes[step.output].name
                );
                let shape = depthwise_shape(conv, input);
                Layer::Depthwise(PackedDepthwise::new(&shape, &weight.values, Some(bias), activation))
            }
        }
    }
}

fn map_shape(node: &Node, batch: usize) -> MapShape {
    let [channels, height, width] = node.shape;
    MapShape { batch, height, width, channels }
}

fn conv_shape(conv: &Conv, [_, height, width]: [usize; 3]) -> ConvShape {
    let op::ConvShape { in_channels, out_channels, kernel, stride, padding, dilation, .. } = conv.shape;
    ConvShape { batch: 1, height, width, in_channels, out_channels, kernel, stride, padding, dilation }
}

fn depthwise_shape(conv: &Conv, [_, height, width]: [usize; 3]) -> DepthwiseShape {
    let op::ConvShape { in_channels: channels, kernel, padding, dilation, .. } = conv.shape;
    DepthwiseShape { batch: 1, height, width, channels, kernel, padding, dilation }
}
