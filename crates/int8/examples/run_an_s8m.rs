//! Writes an `.s8m` file, reads it back and runs it, as a browser or a test bench does: no burn, no float weights.
//!
//! The network is one 1x1 convolution that fires where a pixel is redder than it is green and blue.
//! `cargo run --release --example run_an_s8m`

#![expect(clippy::print_stdout, reason = "a program")]

use sensei_graph::op::{Activation, ConvShape};
use sensei_int8::grid::{ActivationGrid, WeightThreshold};
use sensei_int8::interpreter::Interpreter;
use sensei_int8::model::{FloatConv, IntegerConv, IntegerModel, IntegerNode, IntegerOp};
use sensei_int8::model_file::{read_model, write_model};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("red.s8m");
    write_model(&path, &redder_than_the_rest()?)?;

    let model = read_model(&path)?;
    let interpreter = Interpreter::new(&model);
    // Rows of RGB: red, grey, blue, orange.
    let pixels = [255, 0, 0, 128, 128, 128, 0, 0, 255, 255, 160, 0];
    let output = interpreter.run(&interpreter.from_pixels(&pixels)?)?;
    println!("{}: {} nodes, output {:?}", model.name(), model.nodes().len(), output.shape);
    println!("integers {:?}, one step is {}", output.values, output.grid.step());
    println!("logits {:?}", output.dequantize());
    println!("foreground {:?}", output.values.iter().map(|&q| q > 0).collect::<Vec<_>>());
    Ok(())
}

fn redder_than_the_rest() -> Result<IntegerModel, Box<dyn std::error::Error>> {
    let shape = ConvShape { in_channels: 3, out_channels: 1, kernel: 1, stride: 1, padding: 0, dilation: 1, groups: 1 };
    let input = ActivationGrid::SIGNED_PIXELS;
    let floats = FloatConv { weights: &[1.0, -0.5, -0.5], bias: &[-0.25] };
    let thresholds = vec![WeightThreshold::at_least(1.0)?];
    let (conv, _) = IntegerConv::quantize("red", shape, Activation::None, floats, thresholds, 8, input)?;
    let node = |name: &str, op, inputs, channels, grid| IntegerNode {
        name: name.into(),
        op,
        inputs,
        shape: [channels, 2, 2],
        grid,
    };
    let output = ActivationGrid::new(8, true, 1)?;
    let nodes =
        vec![node("input", IntegerOp::Input, vec![], 3, input), node("red", IntegerOp::Conv(conv), vec![0], 1, output)];
    Ok(IntegerModel::new("red", nodes)?)
}
