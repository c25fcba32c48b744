//! A network with weights on a device: forward pass, batch statistics, named weights in and out.

use burn::tensor::{Device, Tensor, TensorData};
use sensei_graph::layer_graph::{Conv, LayerGraph, Op};
use sensei_graph::op::{ConvShape, Upsampling};
use sensei_graph::steps::{Step, StepKind, block_steps, run_steps, single_steps};
use sensei_tensor::network::{
    BatchStats, HostTensor, Inputs, NamedWeights, Network, NetworkError, Outputs, Parameter, ParameterGroup, Pass, Tap,
    host_values,
};
use sensei_tensor::ops::{self, BATCH_NORM_EPSILON, Block, BlockWeights, FoldedBlock, Skip, Statistics};
use sensei_tensor::profile;

use crate::features::{Features, taps};
use crate::init::initial_weights;
use crate::weights::{WeightsError, match_weights};

/// The one group of a student: its weights.
pub const WEIGHTS: &str = "weights";

/// Share of the batch's statistics in the running ones, as in PyTorch.
pub const BATCH_NORM_MOMENTUM: f64 = 0.1;

/// A network and its weights on a device.
#[derive(Debug, Clone)]
pub struct Student {
    graph: LayerGraph,
    device: Device,
    weights: ParameterGroup,
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
        for parameter in &self.weights.parameters {
            weights.insert(parameter.name.clone(), parameter.to_host());
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
        &self.weights.parameters
    }

    /// The trained tensors, for an optimiser.
    pub fn parameters_mut(&mut self) -> &mut [Parameter] {
        &mut self.weights.parameters
    }

    /// Mask logits with the running statistics, without autodiff.
    ///
    /// # Shapes
    /// - `image`: `[batch, 3, height, width]`, values `(pixel - 128) / 128`
    /// - output: `[batch, 1, height, width]`
    pub fn forward_eval(&self, image: Tensor<4>) -> Tensor<4> {
        self.eval(image, &mut Features::none())
    }

    fn eval(&self, image: Tensor<4>, features: &mut Features) -> Tensor<4> {
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
    /// If a batch norm sees a single value per channel, which has no variance: [`LayerGraph::min_train_batch`].
    pub fn forward_train(&self, image: Tensor<4>) -> Outputs {
        self.train(image, Features::none())
    }

    fn train(&self, image: Tensor<4>, mut features: Features) -> Outputs {
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

    /// The same student on another device, with leaves of its own where that device tracks gradients.
    pub fn to_device(&self, device: &Device) -> Self {
        let plain = device.clone().inner();
        Self {
            graph: self.graph.clone(),
            device: device.clone(),
            weights: self.weights.to_device(device),
            running: self.running.iter().map(|stats| stats.to_device(&plain)).collect(),
            layers: self.layers.clone(),
        }
    }

    /// Puts matched weights on the device.
    fn assemble(graph: LayerGraph, mut weights: NamedWeights, device: &Device) -> Self {
        let group = ParameterGroup { name: WEIGHTS.into(), parameters: vec![] };
        let mut student =
            Self { device: device.clone(), weights: group, running: vec![], layers: vec![], graph: graph.clone() };
        for node in graph.nodes() {
            let Some(conv) = node.op.conv() else {
                student.layers.push(None);
                continue;
            };
            let mut trained = |name: String| student.push_parameter(name, &mut weights);
            let weight = trained(format!("{}.weight", node.name));
            let bias = conv.bias.then(|| trained(format!("{}.bias", node.name)));
            let norm = conv.batch_norm.as_ref().map(|norm| {
                let scale = trained(format!("{norm}.weight"));
                let shift = trained(format!("{norm}.bias"));
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

    fn push_parameter(&mut self, name: String, weights: &mut NamedWeights) -> usize {
        let values = take(weights, &name);
        self.weights.parameters.push(Parameter::new(name, values, &self.device));
        self.weights.parameters.len() - 1
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

    /// With the variance that the running one moves towards: the unbiased one.
    fn batch_stats(&self, norm: NormLayer, Statistics { mean, variance, count }: Statistics) -> BatchStats {
        let norm = self.running[norm.running].norm.clone();
        assert!(count > 1, "{norm}: a batch of one value per channel has no variance");
        BatchStats { norm, mean, variance: variance * (count as f64 / (count - 1) as f64) }
    }

    /// Weight `[out, in / groups, kernel, kernel]` and bias `[out]` of a convolution node.
    ///
    /// # Panics
    /// If the node is not a convolution, or not `conv`.
    pub fn conv_weights(&self, idx: usize, conv: &Conv) -> (Tensor<4>, Option<Tensor<1>>) {
        let layer = self.layer(idx);
        (self.flat(layer.weight).reshape(conv.shape.weight_shape()), layer.bias.map(|bias| self.flat(bias)))
    }

    /// Scale and shift, `[out]` each, of a convolution node's batch norm, if it has one.
    ///
    /// # Panics
    /// If the node is not a convolution.
    pub fn norm_weights(&self, idx: usize) -> Option<(Tensor<1>, Tensor<1>)> {
        self.layer(idx).norm.map(|norm| (self.flat(norm.scale), self.flat(norm.shift)))
    }

    /// What a convolution node's batch norm saw, under its name and with the unbiased variance.
    ///
    /// # Panics
    /// If the node has no batch norm, or it saw one value per channel.
    pub fn norm_stats(&self, idx: usize, stats: Statistics) -> BatchStats {
        self.batch_stats(self.norm(idx), stats)
    }

    /// The running statistics of a convolution node's batch norm, if it has one.
    ///
    /// # Panics
    /// If the node is not a convolution.
    pub fn running_stats(&self, idx: usize) -> Option<&BatchStats> {
        self.layer(idx).norm.map(|norm| &self.running[norm.running])
    }

    /// Number of batch norms.
    pub(crate) fn n_norms(&self) -> usize {
        self.running.len()
    }

    fn flat(&self, parameter: usize) -> Tensor<1> {
        self.weights.parameters[parameter].values.clone()
    }

    fn conv(&self, idx: usize) -> &Conv {
        self.graph.nodes()[idx].op.conv().unwrap_or_else(|| panic!("node {idx} is not a convolution"))
    }

    fn norm(&self, idx: usize) -> NormLayer {
        self.layer(idx).norm.expect("a convolution with batch norm")
    }

    fn layer(&self, idx: usize) -> &ConvLayer {
        self.layers[idx].as_ref().expect("convolution nodes have a layer")
    }
}

impl Network for Student {
    fn device(&self) -> &Device {
        &self.device
    }

    fn groups(&self) -> Vec<&ParameterGroup> {
        vec![&self.weights]
    }

    fn groups_mut(&mut self) -> Vec<&mut ParameterGroup> {
        vec![&mut self.weights]
    }

    fn tensors(&self, group: &str) -> NamedWeights {
        assert_eq!(group, WEIGHTS, "tensors: groups of a student");
        self.to_weights()
    }

    fn set_tensors(&mut self, group: &str, tensors: NamedWeights) -> Result<(), NetworkError> {
        if group != WEIGHTS {
            return Err(NetworkError::NoSuchGroup { name: group.into(), groups: vec![WEIGHTS.into()] });
        }
        let student = Self::from_weights(self.graph.clone(), &tensors, &self.device);
        *self = student.map_err(|error| NetworkError::Tensors { group: group.into(), source: error.into() })?;
        Ok(())
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
        let mut features = Features::new(&self.graph, inputs.taps)?;
        Ok(match pass {
            Pass::Train => self.train(inputs.images, features),
            Pass::TrainMixed(half) => self.train_mixed(inputs.images, half, features),
            Pass::TrainOnGrid(_) => return Err(NetworkError::Pass { network: "a student in floating point", pass }),
            Pass::Eval => {
                let logits = self.eval(inputs.images, &mut features);
                features.outputs(logits, ops::to_nchw)
            }
        })
    }

    fn update_running_stats(&mut self, stats: &[BatchStats]) {
        Student::update_running_stats(self, stats);
    }

    fn to_device(&self, device: &Device) -> Box<dyn Network> {
        Box::new(Student::to_device(self, device))
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

fn take(weights: &mut NamedWeights, name: &str) -> HostTensor {
    weights.remove(name).unwrap_or_else(|| panic!("{name}: matched weights have every tensor of the graph"))
}
