//! From a calibrated student to the integer model, and from any network to the shapes that its memory depends on.

use sensei_imx500::grid::ActivationGrid;
use sensei_imx500::memory::{ConvKind, NetworkShape, NodeShape};
use sensei_imx500::model::{ConvShape, FloatConv, Int8Conv, Int8Model, Int8Node, Int8Op, ModelError};
use sensei_student::graph::{Conv, LayerGraph, Node, Op};

use crate::calibration::{Calibration, ConvCalibration};
use crate::error::QuantError;
use crate::folded::FoldedStudent;

/// The integer model of a student on its calibrated grids.
///
/// # Errors
/// If the chip cannot hold it; each error names the node.
///
/// # Panics
/// If the calibration is of another network.
pub fn lower(student: &FoldedStudent, calibration: &Calibration, name: &str) -> Result<Int8Model, QuantError> {
    let graph = student.graph();
    assert_eq!(calibration.nodes.len(), graph.nodes().len(), "lower: nodes of the calibration and of the network");
    let mut nodes = Vec::with_capacity(graph.nodes().len());
    for (idx, node) in graph.nodes().iter().enumerate() {
        let op = chip_op(&node.op).try_map_conv(|conv| {
            integer_conv(node, conv, &calibration.convs[&idx], calibration.nodes[node.inputs[0]].grid)
        })?;
        let grid = calibration.nodes[idx].grid;
        nodes.push(Int8Node { name: node.name.clone(), op, inputs: node.inputs.clone(), shape: node.shape, grid });
    }
    Ok(Int8Model::new(name, nodes)?)
}

/// One convolution on its grid.
pub(crate) fn integer_conv(
    node: &Node,
    conv: &Conv,
    calibrated: &ConvCalibration,
    input: ActivationGrid,
) -> Result<Int8Conv, ModelError> {
    let ConvCalibration { weights, bias, thresholds, weight_bits, .. } = calibrated;
    let floats = FloatConv { weights, bias };
    let (shape, thresholds) = (conv_shape(conv), thresholds.clone());
    Int8Conv::quantize(&node.name, shape, conv.relu, floats, thresholds, *weight_bits, input).map(|(int8, _)| int8)
}

/// What the memory budget of a network depends on, before any training; `weight_bits` by the name of a convolution.
pub fn network_shape(graph: &LayerGraph, weight_bits: impl Fn(&str) -> u8, output_bits: u8) -> NetworkShape {
    let last = graph.nodes().len() - 1;
    let node = |(idx, node): (usize, &Node)| NodeShape {
        name: node.name.clone(),
        op: chip_op(&node.op).map_conv(|conv| ConvKind {
            shape: conv_shape(conv),
            relu: conv.relu,
            weight_bits: weight_bits(&node.name),
        }),
        inputs: node.inputs.clone(),
        shape: node.shape,
        bits: if idx == last { output_bits } else { 8 },
    };
    NetworkShape { nodes: graph.nodes().iter().enumerate().map(node).collect() }
}

/// Whether a model has this network's nodes, or else the first that differs.
pub(crate) fn is_lowered_from(model: &Int8Model, graph: &LayerGraph) -> Result<(), usize> {
    let (ours, theirs) = (graph.nodes(), model.nodes());
    let same = |(node, int8): (&Node, &Int8Node)| {
        let ours = chip_op(&node.op).map_conv(|conv| (conv_shape(conv), conv.relu));
        let same_op = ours == int8.op.map_conv(|conv| (*conv.shape(), conv.relu()));
        same_op && node.name == int8.name && node.inputs == int8.inputs && node.shape == int8.shape
    };
    match ours.iter().zip(theirs).position(|pair| !same(pair)) {
        Some(node_idx) => Err(node_idx),
        None if ours.len() != theirs.len() => Err(ours.len().min(theirs.len())),
        None => Ok(()),
    }
}

/// The integer model's word for an operator.
fn chip_op(op: &Op) -> Int8Op<&Conv> {
    match op {
        Op::Input => Int8Op::Input,
        Op::Conv(conv) => Int8Op::Conv(conv),
        Op::UpsampleNearest2x => Int8Op::UpsampleNearest2x,
        Op::UpsampleBilinear2x => Int8Op::UpsampleBilinear2x,
        Op::Add => Int8Op::Add,
        Op::GlobalAveragePool => Int8Op::GlobalAveragePool,
        Op::Sigmoid => Int8Op::Sigmoid,
        Op::ScaleChannels => Int8Op::ScaleChannels,
    }
}

/// The integer model's words for a convolution's geometry.
pub(crate) fn conv_shape(conv: &Conv) -> ConvShape {
    let Conv { in_channels, out_channels, kernel, stride, padding, dilation, groups, .. } = *conv;
    ConvShape { in_channels, out_channels, kernel, stride, padding, dilation, groups }
}
