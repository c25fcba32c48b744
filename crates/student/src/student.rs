//! A network with weights on a device: batch statistics, named weights in and out.

mod forward;

use burn::tensor::{Device, Tensor, TensorData};
use sensei_graph::layer_graph::{Conv, LayerGraph};
use sensei_tensor::network::{
    BatchStats, HostTensor, Inputs, NamedWeights, Network, NetworkError, Outputs, Parameter, ParameterGroup, Pass, Tap,
    host_values,
};
use sensei_tensor::ops::{self, Statistics};

use crate::features::{Features, taps};
use crate::init::initial_weights;
use crate::weights::{WeightsError, match_weights};

pub use forward::without_weights;

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

fn take(weights: &mut NamedWeights, name: &str) -> HostTensor {
    weights.remove(name).unwrap_or_else(|| panic!("{name}: matched weights have every tensor of the graph"))
}
