//! A network of convolutions in floating point.

use std::collections::BTreeMap;

use sensei_graph::layer_graph::{LayerGraph, Node};
use sensei_graph::op::GraphOp;

use crate::builder::{Ends, GraphBuilder, NamedValues, OnnxTensorError, float};
use crate::operators::{activation, conv_attributes, fixed, upsample, without_weights};

/// Where a network's batch norms are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BatchNorms {
    /// Operators of their own, on running statistics.
    Separate {
        /// What is added to a variance.
        epsilon: f64,
    },
    /// In weight and bias of the convolution before them; every convolution has a bias.
    Folded,
}

/// The ONNX file of a graph and its weights, under the names of [`LayerGraph::tensors`]. Input and output, `[1, channels, height, width]`, are those of
/// the graph.
///
/// # Errors
/// If a tensor is missing or of another shape.
pub fn float_network(
    name: &str,
    graph: &LayerGraph,
    tensors: &NamedValues,
    norms: BatchNorms,
    ends: Ends,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, OnnxTensorError> {
    let mut g = GraphBuilder::default();
    let mut values: Vec<String> = vec![];
    for node in graph.nodes() {
        let inputs: Vec<&str> = node.inputs.iter().map(|&input| values[input].as_str()).collect();
        let value = match &node.op {
            GraphOp::Input => g.input(ends.input, &fixed(node.shape)),
            GraphOp::Conv(_) => conv(&mut g, node, inputs[0], tensors, norms)?,
            GraphOp::Upsample2x(upsampling) => upsample(&mut g, inputs[0], *upsampling),
            GraphOp::Add | GraphOp::GlobalAveragePool | GraphOp::Sigmoid | GraphOp::ScaleChannels => {
                g.node(without_weights(&node.op), &inputs)
            }
        };
        values.push(value);
    }
    if let (Some(node), Some(value)) = (graph.nodes().last(), values.last()) {
        g.output(ends.output, value, &fixed(node.shape));
    }
    Ok(g.finish(name, metadata))
}

fn conv(
    g: &mut GraphBuilder,
    node: &Node,
    input: &str,
    tensors: &NamedValues,
    norms: BatchNorms,
) -> Result<String, OnnxTensorError> {
    let conv = node.op.conv().expect("a convolution");
    let (shape, outs) = (&conv.shape, conv.shape.out_channels);
    let weight = g.tensor(tensors, &format!("{}.weight", node.name), &shape.weight_shape())?;
    let mut inputs = vec![input.to_string(), weight];
    if conv.bias || norms == BatchNorms::Folded {
        inputs.push(g.tensor(tensors, &format!("{}.bias", node.name), &[outs])?);
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let mut value = g.node_with("Conv", &inputs, conv_attributes(shape));
    if let (Some(norm), BatchNorms::Separate { epsilon }) = (&conv.batch_norm, norms) {
        let mut of_norm = |part: &str| g.tensor(tensors, &format!("{norm}.{part}"), &[outs]);
        let (scale, shift) = (of_norm("weight")?, of_norm("bias")?);
        let (mean, variance) = (of_norm("running_mean")?, of_norm("running_var")?);
        let inputs = [value.as_str(), &scale, &shift, &mean, &variance];
        value = g.node_with("BatchNormalization", &inputs, vec![float("epsilon", epsilon as f32)]);
    }
    Ok(activation(g, &value, conv.activation))
}
