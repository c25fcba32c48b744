//! A network in integers, as `QuantizeLinear` and `DequantizeLinear` around standard operators.

use std::collections::BTreeMap;

use sensei_graph::op::{Activation, GraphOp};
use sensei_int8::grid::ActivationGrid;
use sensei_int8::model::{IntegerConv, IntegerModel, IntegerNode};

use crate::builder::{Ends, GraphBuilder, Integers, int};
use crate::operators::{conv_attributes, fixed, upsample, without_weights};

/// The ONNX file of an integer network, between float values: input and output, `[1, channels, height, width]`, are those of the network.
///
/// Every scale is the network's own. A tensor is of unsigned bytes, those of a signed grid with 128 as zero point, because onnxruntime computes a
/// convolution in integers only where its input and its output have one type; those of node `N` are `N/integers`. Weights are 8-bit integers
/// whatever their bits, with a scale for each output channel; biases are 32-bit integers of the accumulator. An activation is where the
/// integers are cut off. Opset 17 has no 16-bit integers: an output of 16 bits is rounded and cut off in floats.
///
/// `metadata` is completed by `sensei.int8_model`, the digest of `model`. The same arguments give the same bytes.
pub fn quantized_network(model: &IntegerModel, ends: Ends, metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut g = GraphBuilder::default();
    let mut values: Vec<String> = vec![];
    for node in model.nodes() {
        let inputs: Vec<&str> = node.inputs.iter().map(|&input| values[input].as_str()).collect();
        let exact = match &node.op {
            GraphOp::Input => g.input(ends.input, &fixed(node.shape)),
            GraphOp::Conv(of_conv) => conv(&mut g, &node.name, of_conv, inputs[0], model.nodes()[node.inputs[0]].grid),
            GraphOp::Upsample2x(upsampling) => upsample(&mut g, inputs[0], *upsampling),
            GraphOp::Add | GraphOp::GlobalAveragePool | GraphOp::Sigmoid | GraphOp::ScaleChannels => {
                g.node(without_weights(&node.op), &inputs)
            }
        };
        let end = node.op.conv().map_or(Activation::None, IntegerConv::activation);
        values.push(on_grid(&mut g, node, &exact, end));
    }
    g.output(ends.output, &values[values.len() - 1], &fixed(model.output().shape));
    let digest = model.digest().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut metadata = metadata.clone();
    metadata.insert("sensei.int8_model".into(), digest);
    g.finish(model.name(), &metadata)
}

/// A convolution of integers, before its result is rounded.
fn conv(g: &mut GraphBuilder, name: &str, conv: &IntegerConv, input: &str, grid: ActivationGrid) -> String {
    let (shape, outs) = (conv.shape(), [conv.shape().out_channels]);
    let of = |part: &str| format!("{name}/{part}");
    let weight_steps: Vec<f64> = conv.thresholds().iter().map(|threshold| threshold.step(conv.weight_bits())).collect();
    // Both are powers of two times eight bits: exact in 32-bit floats.
    let weight_scales: Vec<f32> = weight_steps.iter().map(|&step| step as f32).collect();
    let bias_scales: Vec<f32> = weight_steps.iter().map(|&step| (step * grid.step()) as f32).collect();
    let channels = || vec![int("axis", 0)];

    let weight = g.named_integers(of("weight"), &shape.weight_shape(), Integers::I8(conv.weights()));
    let scales = g.named_floats(of("weight_scales"), &outs, &weight_scales);
    // Zeros that could be left out: without them onnxruntime's `x64quantprecision` makes a network that it refuses.
    let zeros = g.named_integers(of("weight_zeros"), &outs, Integers::I8(&vec![0; shape.out_channels]));
    let weight = g.named(&of("weight_values"), "DequantizeLinear", &[&weight, &scales, &zeros], channels());
    let bias = g.named_integers(of("bias"), &outs, Integers::I32(conv.bias()));
    let scales = g.named_floats(of("bias_scales"), &outs, &bias_scales);
    let bias = g.named(&of("bias_values"), "DequantizeLinear", &[&bias, &scales], channels());
    g.node_with("Conv", &[input, &weight, &bias], conv_attributes(shape))
}

/// The value of a node, rounded to the node's grid and cut off where its activation does.
fn on_grid(g: &mut GraphBuilder, node: &IntegerNode, exact: &str, end: Activation) -> String {
    let grid = node.grid;
    let of = |part: &str| format!("{}/{part}", node.name);
    let step = g.named_floats(of("scale"), &[], &[grid.step() as f32]);
    let range = grid.range_after(end);
    if grid.bits() == 16 {
        let [low, high] = range.map(|limit| g.floats(&[], &[limit as f32]));
        let steps = g.node("Div", &[exact, &step]);
        let rounded = g.node("Round", &[&steps]);
        let integers = g.named(&of("integers"), "Clip", &[&rounded, &low, &high], vec![]);
        return g.named(&of("value"), "Mul", &[&integers, &step], vec![]);
    }
    let byte = |q: i32| (q - grid.qmin()) as u8;
    let zero = g.named_integers(of("zero_point"), &[], Integers::U8(&[byte(0)]));
    let mut integers = of("integers");
    if range == [grid.qmin(), grid.qmax()] {
        g.named(&integers, "QuantizeLinear", &[exact, &step, &zero], vec![]);
    } else {
        let rounded = g.node("QuantizeLinear", &[exact, &step, &zero]);
        let [low, high] = [("low", range[0]), ("high", range[1])]
            .map(|(part, limit)| g.named_integers(of(part), &[], Integers::U8(&[byte(limit)])));
        integers = g.named(&integers, "Clip", &[&rounded, &low, &high], vec![]);
    }
    g.named(&of("value"), "DequantizeLinear", &[&integers, &step, &zero], vec![])
}
