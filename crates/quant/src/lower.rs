//! From a calibrated student to the integer model, and from any network to the shapes that its memory depends on.

use sensei_imx500::memory::{NetworkShape, NodeShape, OpShape};
use sensei_imx500::model::{ConvShape, FloatConv, Int8Conv, Int8Model, Int8Node, Int8Op};
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
        let op = match &node.op {
            Op::Conv(conv) => {
                let (folded, calibrated) = (&student.weights()[&idx], &calibration.convs[&idx]);
                let input = calibration.nodes[node.inputs[0]].grid;
                let floats = FloatConv { weights: &folded.weight.values, bias: &calibrated.bias };
                let ConvCalibration { thresholds, weight_bits, .. } = calibrated;
                let (int8, _) = Int8Conv::quantize(
                    &node.name,
                    conv_shape(conv),
                    conv.relu,
                    floats,
                    thresholds.clone(),
                    *weight_bits,
                    input,
                )?;
                Int8Op::Conv(int8)
            }
            Op::Input => Int8Op::Input,
            Op::UpsampleNearest2x => Int8Op::UpsampleNearest2x,
            Op::Add => Int8Op::Add,
            Op::GlobalAveragePool => Int8Op::GlobalAveragePool,
            Op::Sigmoid => Int8Op::Sigmoid,
            Op::ScaleChannels => Int8Op::ScaleChannels,
        };
        let grid = calibration.nodes[idx].grid;
        nodes.push(Int8Node { name: node.name.clone(), op, inputs: node.inputs.clone(), shape: node.shape, grid });
    }
    Ok(Int8Model::new(name, nodes)?)
}

/// What the memory budget of a network depends on, before any training.
pub fn network_shape(graph: &LayerGraph, weight_bits: u8, output_bits: u8) -> NetworkShape {
    let last = graph.nodes().len() - 1;
    let node = |(idx, node): (usize, &Node)| NodeShape {
        name: node.name.clone(),
        op: match &node.op {
            Op::Input => OpShape::Input,
            Op::Conv(conv) => OpShape::Conv { conv: conv_shape(conv), relu: conv.relu, weight_bits },
            Op::UpsampleNearest2x => OpShape::UpsampleNearest2x,
            Op::Add => OpShape::Add,
            Op::GlobalAveragePool => OpShape::GlobalAveragePool,
            Op::Sigmoid => OpShape::Sigmoid,
            Op::ScaleChannels => OpShape::ScaleChannels,
        },
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
        let same_op = match (&node.op, &int8.op) {
            (Op::Conv(conv), Int8Op::Conv(int8)) => conv_shape(conv) == *int8.shape() && conv.relu == int8.relu(),
            (Op::Input, Int8Op::Input)
            | (Op::UpsampleNearest2x, Int8Op::UpsampleNearest2x)
            | (Op::Add, Int8Op::Add)
            | (Op::GlobalAveragePool, Int8Op::GlobalAveragePool)
            | (Op::Sigmoid, Int8Op::Sigmoid)
            | (Op::ScaleChannels, Int8Op::ScaleChannels) => true,
            _ => false,
        };
        same_op && node.name == int8.name && node.inputs == int8.inputs && node.shape == int8.shape
    };
    match ours.iter().zip(theirs).position(|pair| !same(pair)) {
        Some(node_idx) => Err(node_idx),
        None if ours.len() != theirs.len() => Err(ours.len().min(theirs.len())),
        None => Ok(()),
    }
}

/// The integer model's words for a convolution's geometry.
pub(crate) fn conv_shape(conv: &Conv) -> ConvShape {
    let Conv { in_channels, out_channels, kernel, stride, padding, dilation, groups, .. } = *conv;
    ConvShape { in_channels, out_channels, kernel, stride, padding, dilation, groups }
}
