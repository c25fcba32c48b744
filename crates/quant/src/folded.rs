//! A float network with its batch norms folded into the convolutions: what is quantized.

use burn::tensor::{Device, Tensor, TensorData};
use sensei_graph::layer_graph::{Conv, LayerGraph, Node};
use sensei_graph::steps::run_graph;
use sensei_student::fold::{FoldedWeights, fold_batch_norm};
use sensei_student::student::without_weights;
use sensei_tensor::network::NamedWeights;
use sensei_tensor::ops;

use crate::error::QuantError;

/// A network of convolutions with bias, on a device without autodiff.
pub struct FoldedStudent {
    graph: LayerGraph,
    weights: FoldedWeights,
    device: Device,
    /// Weight and bias of each convolution node on the device, by node.
    tensors: Vec<Option<(Tensor<4>, Tensor<1>)>>,
}

impl FoldedStudent {
    /// Folds the batch norms of `weights`, with their running statistics.
    ///
    /// # Errors
    /// If the weights are not those of the graph, or a weight is not finite before or after folding.
    pub fn new(graph: &LayerGraph, weights: &NamedWeights, device: &Device) -> Result<Self, QuantError> {
        Self::from_folded(graph, fold_batch_norm(graph, weights)?, device)
    }

    /// A network of weights that are folded already.
    pub(crate) fn from_folded(graph: &LayerGraph, weights: FoldedWeights, device: &Device) -> Result<Self, QuantError> {
        for (&idx, conv) in &weights {
            for (what, values) in [("folded weights", &conv.weight.values), ("folded bias", &conv.bias)] {
                check_finite(&graph.nodes()[idx].name, what, values)?;
            }
        }
        let device = device.clone().inner();
        let to_device = |idx: usize, node: &Node| {
            let (conv, folded) = (node.op.conv()?, &weights[&idx]);
            Some((weight_tensor(folded.weight.values.clone(), conv, &device), bias_tensor(&folded.bias, &device)))
        };
        let tensors = graph.nodes().iter().enumerate().map(|(idx, node)| to_device(idx, node)).collect();
        Ok(Self { graph: graph.clone(), weights, device, tensors })
    }

    /// The network.
    pub fn graph(&self) -> &LayerGraph {
        &self.graph
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Weight and bias of each convolution, by node index.
    pub fn weights(&self) -> &FoldedWeights {
        &self.weights
    }

    /// Mask logits; `hook` sees the output of every node, the input included, and returns what its readers get.
    ///
    /// # Shapes
    /// - `image`: `[batch, 3, height, width]`, values `(pixel - 128) / 128`
    /// - the tensors of `hook`: in the layout of [`sensei_tensor::ops`]
    /// - output: `[batch, 1, height, width]`
    pub fn forward(&self, image: Tensor<4>, mut hook: impl FnMut(usize, Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        let input = hook(0, ops::to_internal(image.inner()));
        let output = run_graph(&self.graph, input, |idx, node, inputs| hook(idx, self.node_output(idx, node, inputs)));
        ops::to_nchw(output)
    }

    /// The output of one node.
    pub(crate) fn node_output(&self, idx: usize, node: &Node, inputs: Vec<Tensor<4>>) -> Tensor<4> {
        let Some(conv) = node.op.conv() else { return without_weights(&node.op, inputs) };
        let [x] = <[_; 1]>::try_from(inputs).expect("a convolution has one input");
        let (weight, bias) = self.tensors[idx].clone().expect("convolution nodes have weights");
        ops::conv2d_activated(x, weight, Some(bias), &conv.shape, conv.activation)
    }
}

/// Fails with the first number that is infinite or not a number.
pub(crate) fn check_finite(node: &str, what: &'static str, values: &[f32]) -> Result<(), QuantError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(idx) => Err(QuantError::NotFinite { node: node.into(), what, idx, found: values[idx] }),
        None => Ok(()),
    }
}

/// Fails unless a batch has the shape of the network's input; returns its number of images.
pub(crate) fn check_images(graph: &LayerGraph, images: &Tensor<4>) -> Result<usize, QuantError> {
    let (expected, found) = (graph.nodes()[0].shape, images.dims());
    if found[1..] == expected { Ok(found[0]) } else { Err(QuantError::ImageShape { expected, found }) }
}

/// Convolution weights on a device.
pub(crate) fn weight_tensor(values: Vec<f32>, conv: &Conv, device: &Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(values, conv.shape.weight_shape()), device)
}

/// One value per channel on a device.
pub(crate) fn bias_tensor(values: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::from(values), device)
}

/// A feature map's values, `[batch, channels, height, width]`, flat.
pub(crate) fn host_values(internal: Tensor<4>) -> Vec<f32> {
    ops::to_nchw(internal).into_data().try_to_vec::<f32>().expect("a 32-bit float tensor that its device can read back")
}
