//! The integer network in floating point: what it computes on a device, and what training can see of rounding.

use burn::tensor::{Device, Tensor, TensorData};
use sensei_graph::layer_graph::{Conv, LayerGraph};
use sensei_graph::op::Activation;
use sensei_graph::steps::run_graph;
use sensei_int8::grid::ActivationGrid;
use sensei_int8::model::{IntegerConv, IntegerModel};
use sensei_student::features::{Features, taps};
use sensei_student::student::without_weights;
use sensei_tensor::network::{
    BatchStats, Inputs, NamedWeights, Network, NetworkError, Outputs, ParameterGroup, Pass, Tap,
};
use sensei_tensor::ops;

use crate::error::QuantError;
use crate::folded::{bias_tensor, weight_tensor};
use crate::lower::is_lowered_from;

/// Each value's nearest one on the grid, ties to even; beyond the grid's ends, the end.
///
/// The gradient is that of [`ops::round_to_grid`] with a step that is not trained. The output is exactly on the grid, with a
/// gradient and without.
///
/// # Source
/// Straight-through estimator as in PyTorch's `fake_quantize_per_tensor_affine`.
pub fn fake_quantize<const D: usize>(x: Tensor<D>, grid: ActivationGrid) -> Tensor<D> {
    let step = Tensor::from_data(TensorData::from([grid.step() as f32].as_slice()), &x.device());
    ops::round_to_grid(x, step, [grid.qmin() as f32, grid.qmax() as f32])
}

/// An [`IntegerModel`] computed in 32-bit floats on a device.
///
/// Convolutions add up `activation * integer weight`, multiples of the input's step, and are scaled by the channel's
/// weight step afterwards. As long as a sum stays below 2^24 of those steps it is exact, in any order of addition.
/// What is left that can differ from the integers is one rounding to 32 bits where that scale, a mean's division, a
/// sigmoid or a sum of two grids ends close to the middle of two integers:
/// [`compare_layers`](crate::compare::compare_layers) counts those.
pub struct FakeQuantStudent {
    graph: LayerGraph,
    model: IntegerModel,
    convs: Vec<Option<FakeQuantConv>>,
    device: Device,
}

/// A convolution whose weights are integers.
pub(crate) struct FakeQuantConv {
    weight: Tensor<4>,
    /// In units of the output before `scale`.
    bias: Tensor<1>,
    /// Weight step of each channel, `[1, channels, 1, 1]`.
    scale: Tensor<4>,
}

impl FakeQuantStudent {
    /// Puts a model on a device; the device's autodiff is not used.
    ///
    /// # Errors
    /// If the model is not one of this network.
    pub fn new(graph: &LayerGraph, model: IntegerModel, device: &Device) -> Result<Self, QuantError> {
        if let Err(node_idx) = is_lowered_from(&model, graph) {
            return Err(QuantError::OtherNetwork { model: model.name().into(), node_idx });
        }
        let device = device.clone().inner();
        let nodes = model.nodes();
        let conv = |idx: usize| {
            let (int8, conv) = (nodes[idx].op.conv()?, graph.nodes()[idx].op.conv()?);
            Some(FakeQuantConv::new(int8, conv, nodes[nodes[idx].inputs[0]].grid, &device))
        };
        let convs = (0..nodes.len()).map(conv).collect();
        Ok(Self { graph: graph.clone(), convs, model, device })
    }

    /// The integers it stands for.
    pub fn model(&self) -> &IntegerModel {
        &self.model
    }

    /// Mask logits on the output's grid.
    ///
    /// # Shapes
    /// - `image`: `[batch, 3, height, width]`, values `(pixel - 128) / 128`
    /// - output: `[batch, 1, height, width]`
    pub fn forward(&self, image: Tensor<4>) -> Tensor<4> {
        self.forward_observed(image, |_, _, _| ())
    }

    /// [`FakeQuantStudent::forward`], showing `observe` every node's output before and after its rounding, in the
    /// layout of [`sensei_tensor::ops`].
    pub fn forward_observed(
        &self,
        image: Tensor<4>,
        mut observe: impl FnMut(usize, &Tensor<4>, &Tensor<4>),
    ) -> Tensor<4> {
        let [batch, ..] = image.dims();
        let mut round = |idx: usize, real: Tensor<4>| {
            let rounded = fake_quantize(real.clone(), self.model.nodes()[idx].grid);
            observe(idx, &real, &rounded);
            rounded
        };
        let input = round(0, ops::to_internal(image.inner()));
        let output = run_graph(&self.graph, input, |idx, node, inputs| {
            let real = match self.convs[idx].as_ref().zip(node.op.conv()) {
                Some((integers, conv)) => integers.apply(inputs, conv, batch),
                None => without_weights(&node.op, inputs),
            };
            round(idx, real)
        });
        ops::to_nchw(output)
    }
}

/// Nothing of it is trained: it has no groups, and [`Pass::Eval`] is its one pass.
impl Network for FakeQuantStudent {
    fn device(&self) -> &Device {
        &self.device
    }

    fn groups(&self) -> Vec<&ParameterGroup> {
        vec![]
    }

    fn groups_mut(&mut self) -> Vec<&mut ParameterGroup> {
        vec![]
    }

    fn tensors(&self, group: &str) -> NamedWeights {
        panic!("tensors: an integer network has no group {group}")
    }

    fn set_tensors(&mut self, group: &str, _tensors: NamedWeights) -> Result<(), NetworkError> {
        Err(NetworkError::NoSuchGroup { name: group.into(), groups: vec![] })
    }

    fn structure_digest(&self) -> String {
        self.graph.digest()
    }

    fn min_train_batch(&self) -> usize {
        self.graph.min_train_batch()
    }

    fn taps(&self) -> Vec<Tap> {
        taps(&self.graph)
    }

    fn forward(&self, inputs: Inputs<'_>, pass: Pass) -> Result<Outputs, NetworkError> {
        if pass != Pass::Eval {
            return Err(NetworkError::Pass { network: "an integer network in floating point", pass });
        }
        let mut features = Features::new(&self.graph, inputs.taps)?;
        let logits = self.forward_observed(inputs.images, |idx, _, rounded| features.see(idx, rounded));
        Ok(features.outputs(logits, ops::to_nchw))
    }

    fn update_running_stats(&mut self, stats: &[BatchStats]) {
        assert!(stats.is_empty(), "update_running_stats: an integer network has no batch norms");
    }

    fn to_device(&self, device: &Device) -> Box<dyn Network> {
        let moved = Self::new(&self.graph, self.model.clone(), device);
        Box::new(moved.expect("a model that fitted its network still does"))
    }
}

impl FakeQuantConv {
    pub(crate) fn new(int8: &IntegerConv, conv: &Conv, input: ActivationGrid, device: &Device) -> Self {
        let weights = int8.weights().iter().map(|&q| f32::from(q)).collect();
        let bias: Vec<f32> = int8.bias().iter().map(|&q| (f64::from(q) * input.step()) as f32).collect();
        let scale: Vec<f32> = int8.thresholds().iter().map(|t| t.step(int8.weight_bits()) as f32).collect();
        Self {
            weight: weight_tensor(weights, conv, device),
            bias: bias_tensor(&bias, device),
            scale: bias_tensor(&scale, device).reshape([1, conv.shape.out_channels, 1, 1]),
        }
    }

    /// The lower end of an activation is in the rounding: its grid starts at 0.
    pub(crate) fn apply(&self, inputs: Vec<Tensor<4>>, conv: &Conv, batch: usize) -> Tensor<4> {
        let [x] = <[_; 1]>::try_from(inputs).expect("a convolution has one input");
        let sums = ops::conv2d(x, self.weight.clone(), Some(self.bias.clone()), &conv.shape);
        let scale = self.scale.clone().expand([batch, conv.shape.out_channels, 1, 1]);
        let real = ops::scale_channels(sums, ops::to_internal(scale));
        match conv.activation {
            Activation::None | Activation::Relu => real,
            Activation::Relu6 => ops::activate(real, Activation::Relu6),
        }
    }
}
