//! Models that must be refused, and what the interpreter does with inputs and ends of grids.

use sensei_graph::op::{Activation, ConvShape, Upsampling};
use sensei_int8::grid::{ActivationGrid, WeightThreshold};
use sensei_int8::interpreter::Interpreter;
use sensei_int8::model::{FloatConv, IntegerConv, IntegerModel, IntegerNode, IntegerOp, ModelError};

mod sample;
use sample::SMALL3;

const SHAPE: ConvShape =
    ConvShape { in_channels: 3, out_channels: 5, kernel: 3, stride: 1, padding: 1, dilation: 1, groups: 1 };

fn grid(bits: u8, signed: bool, exponent: i32) -> ActivationGrid {
    ActivationGrid::new(bits, signed, exponent).expect("a grid")
}

fn node(name: &str, op: IntegerOp, inputs: &[usize], shape: [usize; 3], grid: ActivationGrid) -> IntegerNode {
    IntegerNode { name: name.into(), op, inputs: inputs.to_vec(), shape, grid }
}

fn image(shape: [usize; 3]) -> IntegerNode {
    node("input", IntegerOp::Input, &[], shape, ActivationGrid::SIGNED_PIXELS)
}

#[test]
fn rounding_ties_go_to_even_and_ends_clamp() {
    let threshold = WeightThreshold::new(128, 0).expect("on the grid");
    let shape = ConvShape { in_channels: 1, out_channels: 1, kernel: 1, padding: 0, ..SHAPE };
    // Weight 64/128 and equal steps: every output is half its input.
    let conv = IntegerConv::from_integers("conv", shape, Activation::None, vec![64], vec![0], vec![threshold], 8)
        .expect("fits");
    let output = node("conv", IntegerOp::Conv(conv), &[0], [1, 1, 6], ActivationGrid::SIGNED_PIXELS);
    let model = IntegerModel::new("half", vec![image([1, 1, 6]), output]).expect("a valid network");
    let got = Interpreter::new(&model).run(&[1, 3, 5, -1, -3, -128]).expect("the right input");
    assert_eq!(got.values, [0, 2, 2, 0, -2, -64]);
}

#[test]
fn batches_and_single_runs_agree() {
    let model = SMALL3.model();
    let interpreter = Interpreter::new(&model);
    let first = interpreter.from_pixels(&SMALL3.pixels()).expect("its size");
    let second: Vec<i16> = first.iter().rev().copied().collect();
    let batch = interpreter.run_batch(&[first.clone(), second.clone()]).expect("the right inputs");
    let single = [first, second].map(|input| interpreter.run(&input).expect("the right input"));
    assert_eq!(batch, single);
    assert_ne!(batch[0].values, batch[1].values);
    assert_eq!(batch[0].dequantize()[0], f32::from(batch[0].values[0]) * 16.0 / 32768.0);
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let model = SMALL3.model();
    let interpreter = Interpreter::new(&model);
    assert!(matches!(interpreter.run(&[0; 5]), Err(ModelError::Input { .. })));
    assert!(matches!(interpreter.run(&vec![128; 3 * 32 * 32]), Err(ModelError::Input { .. })), "128 is off the grid");
    assert!(matches!(interpreter.from_pixels(&[0; 5]), Err(ModelError::Input { .. })));
    assert!(interpreter.run_node(1, &[]).is_err());
}

#[test]
fn floats_are_quantized_as_the_onnx_operator_does() {
    let shape = ConvShape { in_channels: 1, out_channels: 1, kernel: 2, padding: 0, ..SHAPE };
    let threshold = vec![WeightThreshold::new(128, 0).expect("on the grid")];
    let weights = [0.5 / 128.0, 1.5 / 128.0, 0.999, -1.02];
    let floats = FloatConv { weights: &weights, bias: &[0.3] };
    let input = ActivationGrid::SIGNED_PIXELS;
    let (conv, clipped) =
        IntegerConv::quantize("conv", shape, Activation::None, floats, threshold, 8, input).expect("fits");
    assert_eq!(conv.weights(), [0, 2, 127, -128]);
    assert_eq!(clipped.weights, 1, "0.999 is within half a step of the end, -1.02 is not");
    assert_eq!(conv.bias(), [4915], "0.3 * 2^14 = 4915.2");
    assert_eq!(conv.float_weights(), [0.0, 2.0 / 128.0, 127.0 / 128.0, -1.0]);
    assert_eq!(conv.float_bias(input), [4915.0 / 16384.0]);
}

#[test]
fn floats_that_are_no_numbers_or_too_large_are_refused_by_place() {
    let shape = ConvShape { in_channels: 1, out_channels: 2, kernel: 1, padding: 0, ..SHAPE };
    let thresholds = vec![WeightThreshold::at_least(0.0).expect("the smallest"); 2];
    let quantize = |weights: [f32; 2], bias: [f32; 2]| {
        let floats = FloatConv { weights: &weights, bias: &bias };
        IntegerConv::quantize(
            "head",
            shape,
            Activation::None,
            floats,
            thresholds.clone(),
            8,
            ActivationGrid::SIGNED_PIXELS,
        )
        .map(|_| ())
        .map_err(|error| error.to_string())
    };
    assert_eq!(quantize([0.0, f32::NAN], [0.0; 2]), Err("head: weights[1] is NaN, expected a finite number".into()));
    assert_eq!(quantize([0.0; 2], [f32::INFINITY, 0.0]), Err("head: bias[0] is inf, expected a finite number".into()));
    let overflow = quantize([0.0; 2], [0.0, 1.0]).expect_err("2^38 accumulator steps");
    assert!(overflow.starts_with("head: channel 1 can reach 274877906944 in its accumulator"), "{overflow}");
}

#[test]
fn networks_that_cannot_run_exactly_are_refused() {
    let refuse = |nodes: Vec<IntegerNode>, words: &str| {
        let error = IntegerModel::new("net", nodes).expect_err(words).to_string();
        assert!(error.contains(words), "expected {words:?} in {error:?}");
    };
    let threshold = WeightThreshold::new(128, 0).expect("on the grid");
    let conv =
        IntegerConv::from_integers("conv", SHAPE, Activation::None, vec![1; 135], vec![0; 5], vec![threshold; 5], 8);
    let conv = conv.expect("fits");
    let out = grid(8, true, 1);
    let conv_node = |shape, grid| node("conv", IntegerOp::Conv(conv.clone()), &[0], shape, grid);
    let add = |inputs: &[usize], grid| node("add", IntegerOp::Add, inputs, [3, 4, 4], grid);

    refuse(vec![image([3, 4, 4])], "2 to 4096 nodes");
    refuse(vec![image([3, 4, 4]), conv_node([5, 4, 3], out)], "conv: shape: expected [5, 4, 4], found [5, 4, 3]");
    refuse(vec![image([2, 4, 4]), conv_node([5, 4, 4], out)], "conv: in_channels: expected 2, found 3");
    refuse(vec![image([3, 4, 4]), add(&[0, 1], out)], "add reading node 1");
    refuse(vec![image([3, 4, 4]), add(&[0], out)], "number of inputs: expected 2, found 1");
    refuse(vec![image([3, 4, 4]), conv_node([5, 4, 4], out), add(&[0, 0], out)], "conv read by none");
    refuse(vec![image([3, 4, 4]), node("input", IntegerOp::Add, &[0, 0], [3, 4, 4], out)], "\"input\" twice");
    refuse(vec![image([3, 4, 4]), node("a/b", IntegerOp::Add, &[0, 0], [3, 4, 4], out)], "without `/`");
    refuse(vec![add(&[], out), add(&[0, 0], out)], "twice");
    let up = node("up", IntegerOp::Upsample2x(Upsampling::Nearest), &[0], [3, 8, 8], out);
    refuse(vec![image([3, 4, 4]), up], "up: grid: expected its input's");
    let wide = node("wide", IntegerOp::Add, &[0, 0], [3, 4, 4], grid(16, true, 1));
    refuse(vec![image([3, 4, 4]), wide, add(&[1, 1], out)], "wide: bits of an inner tensor: expected 8, found 16");
    let coarse = node("coarse", IntegerOp::Add, &[0, 0], [3, 4, 4], grid(8, true, 24));
    let fine = node("fine", IntegerOp::Add, &[0, 0], [3, 4, 4], grid(8, true, -24));
    refuse(vec![image([3, 4, 4]), coarse, fine, add(&[1, 2], out)], "add: grids");
    let gate = node("gate", IntegerOp::ScaleChannels, &[0, 0], [3, 4, 4], out);
    refuse(vec![image([3, 4, 4]), gate], "shape of the second input: expected [3, 1, 1], found [3, 4, 4]");
    let huge = node("input", IntegerOp::Input, &[], [8192, 8192, 8192], ActivationGrid::SIGNED_PIXELS);
    refuse(vec![huge, add(&[0, 0], out)], "input: shape");
    refuse(vec![image([3, 0, 4]), add(&[0, 0], out)], "input: shape");

    let shape = ConvShape { in_channels: 3, out_channels: 1, kernel: 1, padding: 0, ..SHAPE };
    let threshold = vec![WeightThreshold::new(128, 0).expect("on the grid")];
    let bias = vec![i32::MAX - 100];
    let conv =
        IntegerConv::from_integers("top", shape, Activation::None, vec![1, 0, 0], bias, threshold, 8).expect("fits");
    let top = node("top", IntegerOp::Conv(conv), &[0], [1, 4, 4], out);
    refuse(vec![image([3, 4, 4]), top], "top: channel 0 can reach 2147483675 in its accumulator");
    assert!(IntegerModel::new("a name", vec![image([3, 4, 4]), add(&[0, 0], out)]).is_err());
    assert!(IntegerModel::new("name", vec![image([3, 4, 4]), add(&[0, 0], out)]).is_ok());
}

#[test]
fn convolutions_the_chip_does_not_have_are_refused() {
    let refuse = |shape: ConvShape, bits: u8, words: &str| {
        let (n, channels) = (shape.n_weights(), shape.out_channels);
        let thresholds = vec![WeightThreshold::new(128, 0).expect("on the grid"); channels];
        let result = IntegerConv::from_integers(
            "conv",
            shape,
            Activation::None,
            vec![0; n],
            vec![0; channels],
            thresholds,
            bits,
        );
        let error = result.expect_err(words).to_string();
        assert!(error.contains(words), "expected {words:?} in {error:?}");
    };
    refuse(SHAPE, 3, "weight bits: expected 8, 4 or 2, found 3");
    refuse(ConvShape { padding: 3, ..SHAPE }, 8, "padding: expected less than the kernel's extent 3, found 3");
    refuse(ConvShape { stride: 0, ..SHAPE }, 8, "stride: expected 1 to 31, found 0");
    refuse(ConvShape { groups: 2, ..SHAPE }, 8, "groups: expected a divisor of 3 and 5, found 2");
    let thresholds = vec![WeightThreshold::new(128, 0).expect("on the grid"); 5];
    let result =
        IntegerConv::from_integers("conv", SHAPE, Activation::None, vec![8; 135], vec![0; 5], thresholds.clone(), 4);
    let error = result.expect_err("8 needs five bits").to_string();
    assert_eq!(error, "conv: weight: expected -8 to 7, found 8");
    let result = IntegerConv::from_integers("conv", SHAPE, Activation::None, vec![0; 134], vec![0; 5], thresholds, 8);
    assert_eq!(result.expect_err("one short").to_string(), "conv: number of weights: expected 135, found 134");
}
