//! From a calibrated student to the integer model.

use sensei_graph::layer_graph::{Conv, LayerGraph, Node};
use sensei_int8::grid::ActivationGrid;
use sensei_int8::model::{FloatConv, IntegerConv, IntegerModel, IntegerNode, ModelError};

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
pub fn lower(student: &FoldedStudent, calibration: &Calibration, name: &str) -> Result<IntegerModel, QuantError> {
    let graph = student.graph();
    assert_eq!(calibration.nodes.len(), graph.nodes().len(), "lower: nodes of the calibration and of the network");
    let mut nodes = Vec::with_capacity(graph.nodes().len());
    for (idx, node) in graph.nodes().iter().enumerate() {
        let op = node.op.try_map_conv(|conv| {
            integer_conv(node, conv, &calibration.convs[&idx], calibration.nodes[node.inputs[0]].grid)
        })?;
        let grid = calibration.nodes[idx].grid;
        nodes.push(IntegerNode { name: node.name.clone(), op, inputs: node.inputs.clone(), shape: node.shape, grid });
    }
    Ok(IntegerModel::new(name, nodes)?)
}

/// One convolution on its grid.
pub(crate) fn integer_conv(
    node: &Node,
    conv: &Conv,
    calibrated: &ConvCalibration,
    input: ActivationGrid,
) -> Result<IntegerConv, ModelError> {
    let ConvCalibration { weights, bias, thresholds, weight_bits, .. } = calibrated;
    let floats = FloatConv { weights, bias };
    let (shape, thresholds) = (conv.shape, thresholds.clone());
    let int8 = IntegerConv::quantize(&node.name, shape, conv.activation, floats, thresholds, *weight_bits, input);
    int8.map(|(int8, _)| int8)
}

/// Whether a model has this network's nodes, or else the first that differs.
pub(crate) fn is_lowered_from(model: &IntegerModel, graph: &LayerGraph) -> Result<(), usize> {
    let (ours, theirs) = (graph.nodes(), model.nodes());
    let same = |(node, int8): (&Node, &IntegerNode)| {
        let ours = node.op.map_conv(|conv| (conv.shape, conv.activation));
        let same_op = ours == int8.op.map_conv(|conv| (*conv.shape(), conv.activation()));
        same_op && node.name == int8.name && node.inputs == int8.inputs && node.shape == int8.shape
    };
    match ours.iter().zip(theirs).position(|pair| !same(pair)) {
        Some(node_idx) => Err(node_idx),
        None if ours.len() != theirs.len() => Err(ours.len().min(theirs.len())),
        None => Ok(()),
    }
}
