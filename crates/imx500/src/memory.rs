//! What a network takes of the chip's memory, from its shapes alone.

use sensei_graph::layer_graph::{LayerGraph, Node};
use sensei_graph::op::{Activation, ConvShape, GraphOp};
use sensei_int8::model::{IntegerConv, IntegerModel};

/// The shapes of a network: what the budget depends on, known before any training.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkShape {
    /// Inputs before readers; node 0 is the input, the last node the output.
    pub nodes: Vec<NodeShape>,
}

/// One stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeShape {
    /// Unique in the network.
    pub name: String,
    /// What makes it.
    pub op: OpShape,
    /// Indices of the nodes read.
    pub inputs: Vec<usize>,
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// Bits of a stored value: 8, or 16 for the output.
    pub bits: u8,
}

/// An operator without its numbers.
pub type OpShape = GraphOp<ConvKind>;

/// A convolution without its numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvKind {
    /// Its geometry.
    pub shape: ConvShape,
    /// What follows; the chip computes it within the convolution, so it costs nothing.
    pub activation: Activation,
    /// 8, 4 or 2.
    pub weight_bits: u8,
}

/// Estimated memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Weights, biases and rescales.
    pub coefficients: u64,
    /// Tensors, the kept input included.
    pub runtime: u64,
    /// What the chip keeps for itself.
    pub reserved: u64,
    /// What the chip has.
    pub limit: u64,
}

impl MemoryEstimate {
    /// Coefficients, runtime and reserve.
    pub fn total(&self) -> u64 {
        self.coefficients + self.runtime + self.reserved
    }

    /// Whether the chip has that much.
    pub fn fits(&self) -> bool {
        self.total() <= self.limit
    }
}

impl NetworkShape {
    /// Bytes of [`MemoryEstimate::runtime`] that keep the input for the host to read.
    pub fn kept_input(&self) -> u64 {
        self.nodes.first().map_or(0, |input| (planar(input) + KEPT_INPUT) as u64)
    }
}

/// Bytes of the chip's memory.
pub const MEMORY_LIMIT: u64 = 8_388_480;

impl From<&IntegerModel> for NetworkShape {
    fn from(model: &IntegerModel) -> Self {
        let kind = |conv: &IntegerConv| ConvKind {
            shape: *conv.shape(),
            activation: conv.activation(),
            weight_bits: conv.weight_bits(),
        };
        let nodes = model.nodes().iter().map(|node| NodeShape {
            name: node.name.clone(),
            op: node.op.map_conv(kind),
            inputs: node.inputs.clone(),
            shape: node.shape,
            bits: node.grid.bits(),
        });
        Self { nodes: nodes.collect() }
    }
}

impl NetworkShape {
    /// The shapes of a float network that is yet to be quantized; `weight_bits` by the name of a convolution.
    pub fn of_graph(graph: &LayerGraph, weight_bits: impl Fn(&str) -> u8, output_bits: u8) -> Self {
        let last = graph.nodes().len() - 1;
        let node = |(idx, node): (usize, &Node)| NodeShape {
            name: node.name.clone(),
            op: node.op.map_conv(|conv| ConvKind {
                shape: conv.shape,
                activation: conv.activation,
                weight_bits: weight_bits(&node.name),
            }),
            inputs: node.inputs.clone(),
            shape: node.shape,
            bits: if idx == last { output_bits } else { 8 },
        };
        Self { nodes: graph.nodes().iter().enumerate().map(node).collect() }
    }
}

/// Estimates what the converter will report for a network of the student family that keeps its input tensor.
///
/// Fitted to converter 3.19.2; `docs/results/imx500-memory.md` compares it with reports. A dense first convolution was seen with stride 2
/// alone.
///
/// # Panics
/// If a node reads one that does not exist.
pub fn memory_estimate(network: &NetworkShape) -> MemoryEstimate {
    MemoryEstimate {
        coefficients: coefficients(network),
        runtime: runtime(network),
        reserved: 1024,
        limit: MEMORY_LIMIT,
    }
}

/// Weights with both channel counts padded, or per channel an even-sided square of taps for depthwise of several channels; 4 bytes of bias
/// and 2 of mantissa and shift per padded output channel; 512 bytes of table where two tensors are added.
fn coefficients(network: &NetworkShape) -> u64 {
    let bytes = |node: &NodeShape| match node.op {
        OpShape::Conv(ConvKind { shape: conv, weight_bits, .. }) => {
            let outputs = padded(conv.out_channels);
            // Of one channel, depthwise and dense are the same, and the converter stores it dense.
            let values = if conv.groups > 1 && conv.is_depthwise() {
                outputs * conv.kernel.next_multiple_of(2).pow(2)
            } else if turns_taps_to_channels(&conv) {
                outputs * padded(4 * conv.in_channels) * conv.kernel.div_ceil(2).pow(2)
            } else {
                outputs * padded(conv.in_channels / conv.groups) * conv.kernel.pow(2)
            };
            values * usize::from(weight_bits) / 8 + 6 * outputs
        }
        OpShape::Add | OpShape::Sigmoid => 512,
        OpShape::ScaleChannels => 32,
        OpShape::Input | OpShape::Upsample2x(_) | OpShape::GlobalAveragePool => 0,
    };
    COEFFICIENT_ALIGNMENT + network.nodes.iter().map(|node| bytes(node) as u64).sum::<u64>()
}

/// The kept input, and the largest sum of tensors that are alive together. A convolution whose only reader is an
/// addition is computed within it and never stored.
fn runtime(network: &NetworkShape) -> u64 {
    let nodes = &network.nodes;
    let readers = readers(network);
    let fused_into = fused_into(network);
    // A fused convolution's inputs are read when the addition runs.
    let runs_at = |idx: usize| fused_into[idx].unwrap_or(idx);
    let last_use = |idx: usize| readers[idx].iter().map(|&reader| runs_at(reader)).max().unwrap_or(idx);
    let alive = |before: usize, until: usize| {
        let alive = (0..before).filter(|&idx| fused_into[idx].is_none() && last_use(idx) >= until);
        alive.map(|idx| stored(&nodes[idx])).sum::<usize>()
    };
    let peak_at = |now: usize| {
        let node = &nodes[now];
        // What the allocation loses grows with the channels of the tensor being made.
        let lost = ALLOCATION_PER_32_CHANNELS * padded(node.shape[0]) / 32;
        let made = alive(now + 1, now) + if is_planar(node) { LAYOUT_CHANGE.max(lost) } else { lost };
        let Some(conv) = node.op.conv() else { return made };
        match turns_taps_to_channels(&conv.shape) {
            true => made.max(alive(now, now + 1) + taps_to_channels(&conv.shape, nodes[node.inputs[0]].shape)),
            false => made,
        }
    };
    let peak = (0..nodes.len()).filter(|&idx| fused_into[idx].is_none()).map(peak_at).max().unwrap_or(0);
    let (Some(input), Some(output)) = (nodes.first(), nodes.last()) else { return peak as u64 };
    let at_start = LAYOUT_CHANGE + in_blocks(input) + 2 * planar(output);
    peak.max(at_start) as u64 + network.kept_input()
}

/// The most that lies beside the tensors that are alive while the taps of a stride-2 convolution are turned into channels: the padded
/// input, the half of it that a quarter is cut from, and the quarters that are cut already; each in whole KiB.
fn taps_to_channels(conv: &ConvShape, [channels, height, width]: [usize; 3]) -> usize {
    let (height, width) = (height + 2 * conv.padding, width + 2 * conv.padding);
    let [half_height, half_width] = [height.div_ceil(2), width.div_ceil(2)];
    let planar = |lines: usize, line: usize| (channels * lines * padded(line)).next_multiple_of(1024);
    let in_blocks = |height: usize, width: usize| (padded(channels) * height * width).next_multiple_of(1024);
    let quarter = planar(half_height, half_width).min(in_blocks(half_height, half_width));
    if channels <= MOST_PLANAR {
        // The half lies there twice, columns by columns and lines by lines.
        return planar(width, height) + planar(half_width, height) + planar(height, half_width) + 2 * quarter;
    }
    let third = quarter.max(in_blocks(half_height, half_width));
    in_blocks(height, width) + in_blocks(height, half_width) + 2 * quarter + third
}

/// Half as many taps a side on four times the channels.
fn turns_taps_to_channels(conv: &ConvShape) -> bool {
    conv.stride == 2 && conv.kernel > 1 && conv.in_channels <= 32 && conv.groups == 1
}

/// For each node the addition that it is computed within: the last convolution before an addition, if nothing else reads
/// it.
pub(crate) fn fused_into(network: &NetworkShape) -> Vec<Option<usize>> {
    let (nodes, readers) = (&network.nodes, readers(network));
    let mut fused_into: Vec<Option<usize>> = vec![None; nodes.len()];
    for (idx, node) in nodes.iter().enumerate().filter(|(_, node)| node.op == OpShape::Add) {
        let is_linear = |conv: &ConvKind| conv.activation == Activation::None;
        let fits = |&input: &usize| nodes[input].op.conv().is_some_and(is_linear) && readers[input] == [idx];
        if let Some(input) = node.inputs.iter().copied().filter(fits).max() {
            fused_into[input] = Some(idx);
        }
    }
    fused_into
}

/// For each node the nodes that read it.
fn readers(network: &NetworkShape) -> Vec<Vec<usize>> {
    let mut readers: Vec<Vec<usize>> = vec![vec![]; network.nodes.len()];
    for (idx, node) in network.nodes.iter().enumerate() {
        node.inputs.iter().for_each(|&input| readers[input].push(idx));
    }
    readers
}

/// Bytes of a stored tensor.
fn stored(node: &NodeShape) -> usize {
    let bytes = if is_planar(node) { planar(node).min(in_blocks(node)) } else { in_blocks(node) };
    bytes * usize::from(node.bits) / 8
}

/// Whether a tensor is stored channel by channel: of few channels, out of a dense convolution or an addition.
fn is_planar(node: &NodeShape) -> bool {
    let may_be = match node.op {
        OpShape::Conv(conv) => conv.shape.groups == 1,
        OpShape::Add => true,
        OpShape::Input
        | OpShape::Upsample2x(_)
        | OpShape::GlobalAveragePool
        | OpShape::Sigmoid
        | OpShape::ScaleChannels => false,
    };
    may_be && node.shape[0] <= MOST_PLANAR
}

/// Values with the width padded to 32.
fn planar(node: &NodeShape) -> usize {
    let [channels, height, width] = node.shape;
    channels * height * padded(width)
}

/// Values with the channels padded to 32.
fn in_blocks(node: &NodeShape) -> usize {
    let [channels, height, width] = node.shape;
    padded(channels) * height * width
}

fn padded(count: usize) -> usize {
    count.next_multiple_of(32)
}

/// Fitted: 320 to 896 bytes in nine reports.
const COEFFICIENT_ALIGNMENT: u64 = 384;
/// Fitted: 8,256 bytes at 64 channels, 12,384 at 96.
const ALLOCATION_PER_32_CHANNELS: usize = 4128;
/// What keeping an input takes beyond its values.
const KEPT_INPUT: usize = 4096;
/// What changing a layout takes beside the tensors.
const LAYOUT_CHANGE: usize = 65536;
/// Fitted: tensors of 6, 8, 12 and 16 channels are, those of 20 and 24 are not.
const MOST_PLANAR: usize = 16;
