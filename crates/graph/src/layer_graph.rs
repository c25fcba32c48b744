//! The one description of a network: what is trained, counted, folded, quantized and exported is read from it.

use serde::Serialize;

use crate::op::{Activation, ConvShape, GraphOp, Upsampling};

/// A feed-forward network: nodes in an order in which every input comes before its reader.
///
/// Node 0 is the input, the last node the output. Every node's output is one tensor that the chip stores, so a
/// convolution with its batch norm and activation is one node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerGraph {
    nodes: Vec<Node>,
}

/// One stored tensor and the operator that makes it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Node {
    /// The published PyTorch module path for convolutions (`encoder_stage1.0`); unique in the graph.
    pub name: String,
    /// What makes the output.
    pub op: Op,
    /// Indices of the nodes read, all smaller than this node's.
    pub inputs: Vec<usize>,
    /// Output shape without the batch: channels, height, width.
    pub shape: [usize; 3],
}

/// An operator of a float network.
pub type Op = GraphOp<Conv>;

/// A convolution of a float network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conv {
    /// Its geometry.
    pub shape: ConvShape,
    /// Whether there is a trained bias.
    pub bias: bool,
    /// PyTorch module path of the batch norm that follows, if any.
    pub batch_norm: Option<String>,
    /// What ends the node.
    #[serde(rename = "relu")]
    pub activation: Activation,
}

impl Op {
    /// What ends the node.
    pub fn activation(&self) -> Activation {
        self.conv().map_or(Activation::None, |conv| conv.activation)
    }
}

impl Conv {
    /// A convolution that keeps the size, without bias, batch norm and activation.
    pub fn new(in_channels: usize, out_channels: usize, kernel: usize) -> Self {
        let (stride, padding, dilation, groups) = (1, kernel / 2, 1, 1);
        let shape = ConvShape { in_channels, out_channels, kernel, stride, padding, dilation, groups };
        Self { shape, bias: false, batch_norm: None, activation: Activation::None }
    }

    /// The same with another step between output pixels.
    #[must_use]
    pub fn stride(self, stride: usize) -> Self {
        Self { shape: ConvShape { stride, ..self.shape }, ..self }
    }

    /// The same with one group a channel.
    #[must_use]
    pub fn depthwise(self) -> Self {
        Self { shape: ConvShape { groups: self.shape.in_channels, ..self.shape }, ..self }
    }

    /// The same with taps that far apart, and as many times the padding.
    #[must_use]
    pub fn dilation(self, dilation: usize) -> Self {
        Self { shape: ConvShape { dilation, padding: self.shape.padding * dilation, ..self.shape }, ..self }
    }

    /// The same with a trained bias.
    #[must_use]
    pub fn with_bias(self) -> Self {
        Self { bias: true, ..self }
    }

    /// The same, followed by the batch norm of this name and an activation.
    #[must_use]
    pub fn norm(self, name: &str, activation: Activation) -> Self {
        Self { batch_norm: Some(name.into()), activation, ..self }
    }
}

/// A trained tensor or a batch-norm statistic of a network, by its PyTorch name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name in a PyTorch state dict.
    pub name: String,
    /// Its shape there.
    pub shape: Vec<usize>,
    /// How it is trained.
    pub role: TensorRole,
}

/// What a named tensor is to the optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorRole {
    /// Convolution weight.
    Weight,
    /// Convolution bias.
    Bias,
    /// Batch-norm scale.
    NormScale,
    /// Batch-norm shift.
    NormShift,
    /// Batch-norm running mean: kept, not trained.
    RunningMean,
    /// Batch-norm running variance: kept, not trained.
    RunningVariance,
}

impl TensorRole {
    /// Whether the optimiser changes it.
    pub fn is_trained(self) -> bool {
        !matches!(self, TensorRole::RunningMean | TensorRole::RunningVariance)
    }
}

impl LayerGraph {
    /// The nodes, inputs before readers.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Side of the square input in pixels.
    pub fn input_size(&self) -> usize {
        self.nodes[0].shape[1]
    }

    /// Every named tensor, in node order; within a node as PyTorch lists them.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        self.nodes.iter().flat_map(Node::tensors).collect()
    }

    /// Number of trained values.
    pub fn parameters(&self) -> usize {
        self.nodes.iter().map(Node::parameters).sum()
    }

    /// Multiply-accumulates of the convolutions for one image. Batch norm, upsampling and additions are not
    /// counted; counters that do count them report 336 M for PicoSAM2 at 96 x 96 where this reports 323.05 M.
    pub fn macs(&self) -> u64 {
        self.nodes.iter().map(Node::macs).sum()
    }

    /// The smallest batch that can be trained on: 2 if a batch norm sees one pixel per image, whose variance needs a
    /// second image, else 1.
    pub fn min_train_batch(&self) -> usize {
        let one_pixel = |node: &&Node| {
            node.op.conv().is_some_and(|conv| conv.batch_norm.is_some()) && node.shape[1] * node.shape[2] == 1
        };
        1 + usize::from(self.nodes.iter().any(|node| one_pixel(&node)))
    }

    /// Index of the node of a name.
    pub fn node_idx(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }

    /// 64 hex digits that two graphs share only if they are the same, names included: BLAKE3 of their JSON.
    pub fn digest(&self) -> String {
        let json = serde_json::to_vec(self).expect("a graph is plain data");
        blake3::hash(&json).to_hex().to_string()
    }
}

impl Node {
    /// The named tensors of this node, as PyTorch lists them; none unless it is a convolution.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let Some(conv) = self.op.conv() else { return vec![] };
        let mut specs = Vec::new();
        let mut push = |name: String, shape: Vec<usize>, role| specs.push(TensorSpec { name, shape, role });
        let channels = vec![conv.shape.out_channels];
        push(format!("{}.weight", self.name), conv.shape.weight_shape().to_vec(), TensorRole::Weight);
        if conv.bias {
            push(format!("{}.bias", self.name), channels.clone(), TensorRole::Bias);
        }
        if let Some(norm) = &conv.batch_norm {
            push(format!("{norm}.weight"), channels.clone(), TensorRole::NormScale);
            push(format!("{norm}.bias"), channels.clone(), TensorRole::NormShift);
            push(format!("{norm}.running_mean"), channels.clone(), TensorRole::RunningMean);
            push(format!("{norm}.running_var"), channels, TensorRole::RunningVariance);
        }
        specs
    }

    /// Number of trained values of this node.
    pub fn parameters(&self) -> usize {
        let trained = self.tensors().into_iter().filter(|spec| spec.role.is_trained());
        trained.map(|spec| spec.shape.iter().product::<usize>()).sum()
    }

    /// Multiply-accumulates of this node for one image; 0 unless it is a convolution.
    pub fn macs(&self) -> u64 {
        self.op.conv().map_or(0, |conv| (conv.shape.n_weights() * self.shape[1] * self.shape[2]) as u64)
    }
}

/// Builds a graph node by node; each method returns the index of the node it adds.
///
/// ```
/// use sensei_graph::layer_graph::{Conv, GraphBuilder};
/// use sensei_graph::op::Activation;
///
/// let mut g = GraphBuilder::new(3, 64);
/// let depthwise = g.conv("depthwise", 0, Conv::new(3, 3, 3).depthwise().norm("norm", Activation::Relu));
/// g.conv("head", depthwise, Conv::new(3, 1, 1).with_bias());
/// let graph = g.finish();
/// assert_eq!(graph.parameters(), 3 * 9 + 2 * 3 + 3 + 1);
/// assert_eq!(graph.nodes()[2].shape, [1, 64, 64]);
/// ```
pub struct GraphBuilder {
    nodes: Vec<Node>,
}

impl GraphBuilder {
    /// Starts with the input `[channels, size, size]`.
    pub fn new(channels: usize, size: usize) -> Self {
        let input = Node { name: "input".into(), op: Op::Input, inputs: vec![], shape: [channels, size, size] };
        Self { nodes: vec![input] }
    }

    /// Channels of a node's output.
    pub fn channels(&self, node: usize) -> usize {
        self.nodes[node].shape[0]
    }

    /// Adds a convolution; `conv.shape.in_channels` must be the channels of `input`.
    ///
    /// # Panics
    /// If they differ, or the name is taken.
    pub fn conv(&mut self, name: &str, input: usize, conv: Conv) -> usize {
        let [channels, height, width] = self.nodes[input].shape;
        assert_eq!(channels, conv.shape.in_channels, "{name}: channels of its input and of its weights");
        let shape = [conv.shape.out_channels, conv.shape.output_size(height), conv.shape.output_size(width)];
        self.push(name, Op::Conv(conv), vec![input], shape)
    }

    /// Adds upsampling by two.
    pub fn upsample_2x(&mut self, name: &str, input: usize, upsampling: Upsampling) -> usize {
        let [channels, height, width] = self.nodes[input].shape;
        self.push(name, Op::Upsample2x(upsampling), vec![input], [channels, height * 2, width * 2])
    }

    /// Adds the sum of two nodes.
    ///
    /// # Panics
    /// If their shapes differ.
    pub fn add(&mut self, name: &str, a: usize, b: usize) -> usize {
        assert_eq!(self.nodes[a].shape, self.nodes[b].shape, "{name}: shapes of the two inputs");
        self.push(name, Op::Add, vec![a, b], self.nodes[a].shape)
    }

    /// Adds the mean over the pixels of a node.
    pub fn global_average_pool(&mut self, name: &str, input: usize) -> usize {
        let shape = [self.channels(input), 1, 1];
        self.push(name, Op::GlobalAveragePool, vec![input], shape)
    }

    /// Adds the logistic function of a node.
    pub fn sigmoid(&mut self, name: &str, input: usize) -> usize {
        self.push(name, Op::Sigmoid, vec![input], self.nodes[input].shape)
    }

    /// Adds `input` scaled channel by channel.
    ///
    /// # Panics
    /// If `scale` is not `[channels of input, 1, 1]`.
    pub fn scale_channels(&mut self, name: &str, input: usize, scale: usize) -> usize {
        assert_eq!(self.nodes[scale].shape, [self.channels(input), 1, 1], "{name}: shape of the scale");
        self.push(name, Op::ScaleChannels, vec![input, scale], self.nodes[input].shape)
    }

    /// The graph; its output is the node added last.
    pub fn finish(self) -> LayerGraph {
        LayerGraph { nodes: self.nodes }
    }

    fn push(&mut self, name: &str, op: Op, inputs: Vec<usize>, shape: [usize; 3]) -> usize {
        assert!(self.nodes.iter().all(|node| node.name != name), "{name}: two nodes of one name");
        self.nodes.push(Node { name: name.into(), op, inputs, shape });
        self.nodes.len() - 1
    }
}
