//! A network of convolutions in floating point.

use std::collections::BTreeMap;

use sensei_graph::layer_graph::{LayerGraph, Node};
use sensei_graph::op::{Activation, GraphOp, Upsampling};

use crate::builder::{GraphBuilder, Length, NamedValues, OnnxTensorError, float, int, ints, text};

/// The ONNX file of a graph and its weights, batch norms' running statistics among them. Input `input`, `[1, channels, size, size]`, and output
/// `output` are those of the graph.
///
/// # Errors
/// If a tensor is missing or of another shape.
pub fn encoder(
    graph: &LayerGraph,
    tensors: &NamedValues,
    epsilon: f64,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, OnnxTensorError> {
    let mut g = GraphBuilder::default();
    let mut values: Vec<String> = vec![];
    for node in graph.nodes() {
        let inputs: Vec<String> = node.inputs.iter().map(|&input| values[input].clone()).collect();
        let value = match &node.op {
            GraphOp::Input => g.input("input", &fixed(node)),
            GraphOp::Conv(_) => conv(&mut g, node, &inputs[0], tensors, epsilon)?,
            GraphOp::Upsample2x(upsampling) => upsample(&mut g, &inputs[0], *upsampling),
            GraphOp::Add => g.node("Add", &[&inputs[0], &inputs[1]]),
            GraphOp::GlobalAveragePool => g.node("GlobalAveragePool", &[&inputs[0]]),
            GraphOp::Sigmoid => g.node("Sigmoid", &[&inputs[0]]),
            GraphOp::ScaleChannels => g.node("Mul", &[&inputs[0], &inputs[1]]),
        };
        values.push(value);
    }
    if let (Some(node), Some(value)) = (graph.nodes().last(), values.last()) {
        g.output("output", value, &fixed(node));
    }
    Ok(g.finish("image_encoder", metadata))
}

fn fixed(node: &Node) -> Vec<Length> {
    std::iter::once(1).chain(node.shape).map(Length::Fixed).collect()
}

fn conv(
    g: &mut GraphBuilder,
    node: &Node,
    input: &str,
    tensors: &NamedValues,
    epsilon: f64,
) -> Result<String, OnnxTensorError> {
    let conv = node.op.conv().expect("a convolution");
    let (shape, outs) = (&conv.shape, conv.shape.out_channels);
    let weight = g.tensor(tensors, &format!("{}.weight", node.name), &shape.weight_shape())?;
    let mut inputs = vec![input.to_string(), weight];
    if conv.bias {
        inputs.push(g.tensor(tensors, &format!("{}.bias", node.name), &[outs])?);
    }
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let square = |value: usize| [value as i64; 2];
    let attributes = vec![
        ints("dilations", &square(shape.dilation)),
        int("group", shape.groups as i64),
        ints("kernel_shape", &square(shape.kernel)),
        ints("pads", &[shape.padding as i64; 4]),
        ints("strides", &square(shape.stride)),
    ];
    let mut value = g.node_with("Conv", &inputs, attributes);
    if let Some(norm) = &conv.batch_norm {
        let mut of_norm = |part: &str| g.tensor(tensors, &format!("{norm}.{part}"), &[outs]);
        let (scale, shift) = (of_norm("weight")?, of_norm("bias")?);
        let (mean, variance) = (of_norm("running_mean")?, of_norm("running_var")?);
        let inputs = [value.as_str(), &scale, &shift, &mean, &variance];
        value = g.node_with("BatchNormalization", &inputs, vec![float("epsilon", epsilon as f32)]);
    }
    Ok(match conv.activation {
        Activation::None => value,
        Activation::Relu => g.node("Relu", &[&value]),
        Activation::Relu6 => {
            let (low, high) = (g.floats(&[], &[0.0]), g.floats(&[], &[6.0]));
            g.node("Clip", &[&value, &low, &high])
        }
    })
}

fn upsample(g: &mut GraphBuilder, value: &str, upsampling: Upsampling) -> String {
    let scales = g.floats(&[4], &[1.0, 1.0, 2.0, 2.0]);
    let attributes = match upsampling {
        Upsampling::Nearest => {
            vec![
                text("coordinate_transformation_mode", "asymmetric"),
                text("mode", "nearest"),
                text("nearest_mode", "floor"),
            ]
        }
        Upsampling::Bilinear => vec![text("coordinate_transformation_mode", "half_pixel"), text("mode", "linear")],
    };
    g.node_with("Resize", &[value, "", &scales], attributes)
}
