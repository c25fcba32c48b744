//! A network with weights on a device: forward pass, batch statistics, named weights in and out.

use burn::tensor::{Device, Tensor, TensorData};

use crate::graph::{Conv, LayerGraph, Op, TensorRole};
use crate::init::initial_weights;
use crate::ops::{self, BATCH_NORM_EPSILON};
use crate::run::run_graph;
use crate::weights::{HostTensor, NamedWeights, WeightsError, match_weights};

/// Share of the batch's statistics in the running ones, as in PyTorch.
pub const BATCH_NORM_MOMENTUM: f64 = 0.1;

/// A trained tensor, kept flat so that an optimiser sees one kind of tensor.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// PyTorch name.
    pub name: String,
    /// What it is to the optimiser.
    pub role: TensorRole,
    /// Its shape in the network.
    pub shape: Vec<usize>,
    /// The values, flat. On an autodiff device a leaf that requires its gradient; whoever replaces it keeps it so.
    pub values: Tensor<1>,
}

/// Statistics of one batch norm over one batch, without autodiff.
#[derive(Debug, Clone)]
pub struct BatchStats {
    /// PyTorch module path of the batch norm.
    pub norm: String,
    /// Mean of each channel, `[channels]`.
    pub mean: Tensor<1>,
    /// Unbiased variance of each channel, `[channels]`.
    pub variance: Tensor<1>,
}

/// Output of [`Student::forward_train`].
#[derive(Debug, Clone)]
pub struct TrainForward {
    /// Mask logits, `[batch, 1, height, width]`.
    pub mask_logits: Tensor<4>,
    /// One entry per batch norm, in node order.
    pub batch_stats: Vec<BatchStats>,
}

/// A network and its weights on a device.
#[derive(Debug, Clone)]
pub struct Student {
    graph: LayerGraph,
    device: Device,
    parameters: Vec<Parameter>,
    running: Vec<BatchStats>,
    layers: Vec<Option<ConvLayer>>,
}

/// Where the tensors of a convolution node are: indices into `parameters` and `running`.
#[derive(Debug, Clone)]
struct ConvLayer {
    weight: usize,
    bias: Option<usize>,
    norm: Option<NormLayer>,
}

#[derive(Debug, Clone, Copy)]
struct NormLayer {
    scale: usize,
    shift: usize,
    running: usize,
}

impl Student {
    /// A student with PyTorch's default initial weights, the same for a seed on all devices.
    pub fn new(graph: LayerGraph, seed: u64, device: &Device) -> Self {
        let weights = initial_weights(&graph, seed);
        Self::assemble(graph, weights, device)
    }

    /// A student with the given weights.
    ///
    /// # Errors
    /// If a tensor is missing, is not of this network, or has another shape or a value that is not finite.
    pub fn from_weights(graph: LayerGraph, weights: &NamedWeights, device: &Device) -> Result<Self, WeightsError> {
        let weights = match_weights(&graph, weights, "weights")?;
        Ok(Self::assemble(graph, weights, device))
    }

    /// All tensors, running statistics included.
    pub fn to_weights(&self) -> NamedWeights {
        let mut weights = NamedWeights::new();
        for parameter in &self.parameters {
            let values = host_values(&parameter.values);
            weights.insert(parameter.name.clone(), HostTensor { shape: parameter.shape.clone(), values });
        }
        for stats in &self.running {
            for (name, tensor) in [("running_mean", &stats.mean), ("running_var", &stats.variance)] {
                let values = host_values(tensor);
                weights.insert(format!("{}.{name}", stats.norm), HostTensor { shape: vec![values.len()], values });
            }
        }
        weights
    }

    /// The network.
    pub fn graph(&self) -> &LayerGraph {
        &self.graph
    }

    /// Where the weights are; an autodiff device for a student that is trained.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The trained tensors, in the order of [`LayerGraph::tensors`].
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The trained tensors, for an optimiser.
    pub fn parameters_mut(&mut self) -> &mut [Parameter] {
        &mut self.parameters
    }

    /// Mask logits with the running statistics, without autodiff.
    ///
    /// # Shapes
    /// - `image`: `[batch, 3, height, width]`, values `(pixel - 128) / 128`
    /// - output: `[batch, 1, height, width]`
    pub fn forward_eval(&self, image: Tensor<4>) -> Tensor<4> {
        let input = ops::to_internal(image.inner());
        let output = run_graph(&self.graph, input, |idx, node, inputs| match &node.op {
            Op::Conv(conv) => self.conv_eval(idx, conv, one(inputs)),
            op => without_weights(op, inputs),
        });
        ops::to_nchw(output)
    }

    /// Mask logits with the statistics of the batch, and those statistics; shapes as [`Student::forward_eval`].
    ///
    /// # Panics
    /// If a batch norm sees a single value per channel, which has no variance: [`LayerGraph::min_train_batch`].
    pub fn forward_train(&self, image: Tensor<4>) -> TrainForward {
        let image = if self.device.is_autodiff() { image.autodiff() } else { image };
        let mut batch_stats = Vec::with_capacity(self.running.len());
        let output = run_graph(&self.graph, ops::to_internal(image), |idx, node, inputs| match &node.op {
            Op::Conv(conv) => self.conv_train(idx, conv, one(inputs), &mut batch_stats),
            op => without_weights(op, inputs),
        });
        TrainForward { mask_logits: ops::to_nchw(output), batch_stats }
    }

    /// Moves the running statistics towards those of a batch by [`BATCH_NORM_MOMENTUM`].
    ///
    /// # Panics
    /// If `stats` are not those of this network's [`Student::forward_train`].
    pub fn update_running_stats(&mut self, stats: &[BatchStats]) {
        assert_eq!(stats.len(), self.running.len(), "update_running_stats: batch norms given and in the network");
        for (running, batch) in self.running.iter_mut().zip(stats) {
            assert_eq!(running.norm, batch.norm, "update_running_stats: order of the batch norms");
            let moved = |running: &Tensor<1>, batch: &Tensor<1>| {
                running.clone() * (1.0 - BATCH_NORM_MOMENTUM) + batch.clone() * BATCH_NORM_MOMENTUM
            };
            running.mean = moved(&running.mean, &batch.mean);
            running.variance = moved(&running.variance, &batch.variance);
        }
    }

    /// Puts matched weights on the device.
    fn assemble(graph: LayerGraph, mut weights: NamedWeights, device: &Device) -> Self {
        let mut student =
            Self { device: device.clone(), parameters: vec![], running: vec![], layers: vec![], graph: graph.clone() };
        for node in graph.nodes() {
            let Op::Conv(conv) = &node.op else {
                student.layers.push(None);
                continue;
            };
            let mut trained = |name: String, role| student.push_parameter(name, role, &mut weights);
            let weight = trained(format!("{}.weight", node.name), TensorRole::Weight);
            let bias = conv.bias.then(|| trained(format!("{}.bias", node.name), TensorRole::Bias));
            let norm = conv.batch_norm.as_ref().map(|norm| {
                let scale = trained(format!("{norm}.weight"), TensorRole::NormScale);
                let shift = trained(format!("{norm}.bias"), TensorRole::NormShift);
                (norm, scale, shift)
            });
            let norm = norm.map(|(norm, scale, shift)| {
                let mut kept = |name: &str| {
                    let values = take(&mut weights, &format!("{norm}.{name}")).values;
                    Tensor::from_data(TensorData::from(values.as_slice()), &device.clone().inner())
                };
                let (mean, variance) = (kept("running_mean"), kept("running_var"));
                student.running.push(BatchStats { norm: norm.clone(), mean, variance });
                NormLayer { scale, shift, running: student.running.len() - 1 }
            });
            student.layers.push(Some(ConvLayer { weight, bias, norm }));
        }
        student
    }

    fn push_parameter(&mut self, name: String, role: TensorRole, weights: &mut NamedWeights) -> usize {
        let HostTensor { shape, values } = take(weights, &name);
        let values = Tensor::from_data(TensorData::from(values.as_slice()), &self.device);
        let values = if self.device.is_autodiff() { values.require_grad() } else { values };
        self.parameters.push(Parameter { name, role, shape, values });
        self.parameters.len() - 1
    }

    /// Batch norm goes into weight and bias here, so that a node is one pass over its output.
    fn conv_eval(&self, idx: usize, conv: &Conv, x: Tensor<4>) -> Tensor<4> {
        let layer = self.layer(idx);
        let flat = |parameter: usize| self.parameters[parameter].values.clone().inner();
        let mut weight = flat(layer.weight).reshape(conv.weight_shape());
        let mut bias = layer.bias.map(flat);
        if let Some(norm) = layer.norm {
            let BatchStats { mean, variance, .. } = self.running[norm.running].clone();
            let scale = flat(norm.scale) / (variance + BATCH_NORM_EPSILON).sqrt();
            let mean = bias.map_or(mean.clone(), |bias| mean - bias);
            weight = weight * scale.clone().reshape([conv.out_channels, 1, 1, 1]);
            bias = Some(flat(norm.shift) - mean * scale);
        }
        if conv.relu { ops::conv2d_relu(x, weight, bias, conv) } else { ops::conv2d(x, weight, bias, conv) }
    }

    fn conv_train(&self, idx: usize, conv: &Conv, x: Tensor<4>, batch_stats: &mut Vec<BatchStats>) -> Tensor<4> {
        let layer = self.layer(idx);
        let flat = |parameter: usize| self.parameters[parameter].values.clone();
        let weight = flat(layer.weight).reshape(conv.weight_shape());
        let bias = layer.bias.map(flat);
        let Some(norm) = layer.norm else {
            return if conv.relu {
                ops::conv2d_relu(x, weight, bias, conv)
            } else {
                ops::conv2d(x, weight, bias, conv)
            };
        };
        let y = ops::conv2d(x, weight, bias, conv);
        let normalised = ops::batch_norm_train(y, flat(norm.scale), flat(norm.shift), conv.relu);
        let (norm, count) = (&self.running[norm.running].norm, normalised.count);
        assert!(count > 1, "{norm}: a batch of one value per channel has no variance");
        let variance = normalised.variance * (count as f64 / (count - 1) as f64);
        batch_stats.push(BatchStats { norm: norm.clone(), mean: normalised.mean, variance });
        normalised.output
    }

    fn layer(&self, idx: usize) -> &ConvLayer {
        self.layers[idx].as_ref().expect("convolution nodes have a layer")
    }
}

/// Runs an operator that has no weights.
///
/// # Panics
/// If `op` is the input or a convolution, or `inputs` are not as many as it reads.
pub fn without_weights(op: &Op, inputs: Vec<Tensor<4>>) -> Tensor<4> {
    match op {
        Op::Input | Op::Conv(_) => panic!("without_weights: expected an operator without weights, found {op:?}"),
        Op::UpsampleNearest2x => ops::upsample_2x(one(inputs)),
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

fn take(weights: &mut NamedWeights, name: &str) -> HostTensor {
    weights.remove(name).unwrap_or_else(|| panic!("{name}: matched weights have every tensor of the graph"))
}

fn host_values(tensor: &Tensor<1>) -> Vec<f32> {
    tensor.clone().inner().try_to_vec_as::<f32>().expect("a tensor that its device can read back")
}
