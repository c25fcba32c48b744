//! Turns a float student into the integers of the chip, and compares the masks of the two.
//!
//! `cargo run --release --example lower_a_student`

#![expect(clippy::print_stdout, reason = "a program")]

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use sensei_int8::interpreter::Interpreter;
use sensei_quant::calibration::{CalibrationConfig, calibrate};
use sensei_quant::folded::FoldedStudent;
use sensei_quant::gptq::Rounding;
use sensei_quant::lower::lower;
use sensei_quant::thresholds::ThresholdSearch;
use sensei_student::inference::InferenceStudent;
use sensei_student::init::initial_weights;
use sensei_student::unet::UnetConfig;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = UnetConfig {
        input_size: SIDE,
        encoder_channels: vec![8, 12],
        bottleneck_channels: 16,
        decoder_channels: vec![12, 8],
        ..UnetConfig::picosam3()
    };
    let (graph, device) = (config.graph()?, Device::flex());
    let weights = initial_weights(&graph, 3);

    // Fold batch norms, look at a few images to choose a grid for each tensor, then round.
    let folded = FoldedStudent::new(&graph, &weights, &device)?;
    let images: Vec<f32> = (0..8).flat_map(image).map(|pixel| (f32::from(pixel) - 128.0) / 128.0).collect();
    let batch = Tensor::<4>::from_data(TensorData::new(images, [8, 3, SIDE, SIDE]), &device);
    let calibration = calibrate(
        &folded,
        &[batch],
        &CalibrationConfig {
            method: ThresholdSearch::Mse,
            weight_bits: 8,
            weight_bits_of: BTreeMap::new(),
            output_bits: 8,
            bias_correction: true,
            rounding: Rounding::Nearest,
        },
    )?;
    let model = lower(&folded, &calibration, "example")?;
    println!("{} nodes; the logits have {} bits", model.nodes().len(), model.output().grid.bits());

    // An image that the calibration has not seen.
    let pixels = image(100);
    let input: Vec<i16> = pixels.iter().map(|&pixel| i16::from(pixel) - 128).collect();
    let integers = Interpreter::new(&model).run(&input)?.dequantize();
    let floats: Vec<f32> = input.iter().map(|&q| f32::from(q) / 128.0).collect();
    let floats = InferenceStudent::new(graph, &weights)?.mask_logits(&floats);
    let signal: f32 = floats.iter().map(|x| x * x).sum();
    let noise: f32 = floats.iter().zip(&integers).map(|(x, q)| (x - q) * (x - q)).sum();
    println!("float logits are more than 100 times the power of the difference: {}", signal > 100.0 * noise);
    Ok(())
}

/// A disc on a gradient, `[3, height, width]`.
fn image(seed: usize) -> Vec<u8> {
    let pixel = |idx: usize| {
        let (x, y, channel) = (idx % SIDE, idx / SIDE % SIDE, idx / SIDE / SIDE);
        let (center_x, center_y) = (8 + seed * 7 % 16, 8 + seed * 5 % 16);
        let in_disc = x.abs_diff(center_x).pow(2) + y.abs_diff(center_y).pow(2) < 36;
        let value = 4 * x + 2 * y + if in_disc { 60 + 20 * channel } else { 0 };
        u8::try_from(value).unwrap_or(u8::MAX)
    };
    (0..3 * SIDE * SIDE).map(pixel).collect()
}

/// Side of the crops in pixels.
const SIDE: usize = 32;
