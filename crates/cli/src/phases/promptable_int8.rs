//! The image encoder of a student that answers prompts, in integers, and how far it is from its floats.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use burn::tensor::{Device, Tensor, TensorData};
use sensei_data::image_file::ImageLimits;
use sensei_data::rle::Rle;
use sensei_eval::protocol::MaskChoice;
use sensei_files::whole::write_whole;
use sensei_graph::layer_graph::LayerGraph;
use sensei_int8::interpreter::Interpreter;
use sensei_int8::model::IntegerModel;
use sensei_onnx::quantized::quantized_network;
use sensei_quant::calibration::{CalibrationConfig, calibrate_unless};
use sensei_quant::folded::FoldedStudent;
use sensei_quant::gptq::Rounding;
use sensei_quant::lower::lower;
use sensei_quant::thresholds::ThresholdSearch;
use sensei_report::run_folder::RunFolder;
use sensei_samples::whole_images::ImageSource;
use sensei_student::weights::read_weights;
use sensei_tensor::network::{Inputs, NamedWeights, Pass, host_values, weights_digest};
use sensei_tensor::prompts::{Decode, PromptPoint, Promptable};
use sensei_train::images::box_points;
use serde::Serialize;

use crate::config::{EncoderPlan, PromptablePlan};
use crate::phases::data::{Split, dataset};
use crate::phases::promptable::{IMAGE_ENCODER, trained_student};
use crate::phases::promptable_onnx::{ENCODER_ENDS, encoder_metadata};
use crate::phases::prompted_masks::Answers;
use crate::phases::prompted_scores::{AT_ONCE, image_tensor};
use crate::progress::{say, working};
use crate::run_folder;
use crate::stop;
use crate::usage;

/// What `onnx/encoder-int8.json` holds.
#[derive(Debug, Serialize)]
struct Int8Report {
    /// Digest of the trained weights.
    weights: String,
    /// Digest of the integer encoder.
    int8_model: String,
    /// Training images on which its grids were chosen.
    calibration_images: usize,
    /// Share of the values on them that the grids cut off.
    saturated_share: f64,
    #[serde(flatten)]
    comparison: Comparison,
}

/// How far the integer encoder is from the trained one.
#[derive(Debug, Serialize)]
struct Comparison {
    /// Validation images compared.
    val_images: usize,
    /// By image: length of the difference of both embeddings over that of the float one.
    embedding_relative_error: Spread,
    /// Objects asked about by their annotated boxes.
    objects: usize,
    /// By object: IoU of the masks that the decoder makes of both embeddings, in the image.
    mask_agreement: Spread,
}

/// Of several numbers.
#[derive(Debug, Serialize)]
struct Spread {
    mean: f64,
    smallest: f64,
    largest: f64,
}

/// The graph of an encoder that can be written in integers.
///
/// # Errors
/// If it is not one of convolutions.
pub fn check_int8<'a>(plan: &'a PromptablePlan, folder: &RunFolder) -> anyhow::Result<&'a LayerGraph> {
    match &plan.encoder {
        EncoderPlan::Graph(graph) => Ok(graph),
        EncoderPlan::TinyVit(_) | EncoderPlan::Vit(_) => {
            let expected = "--int8: expected an encoder of convolutions, found a vision transformer";
            Err(usage(anyhow::anyhow!("{}: {expected}", folder.root().display())))
        }
    }
}

/// Writes `onnx/encoder-int8.onnx`, calibrated on training images, and beside it how far it is from the floats on validation images.
///
/// # Errors
/// If the encoder is not one of convolutions, the run has no trained student, its data cannot be read, or a file cannot be written.
pub fn write_int8_encoder(plan: &PromptablePlan, folder: &RunFolder, runs: &Path) -> anyhow::Result<()> {
    let graph = check_int8(plan, folder)?;
    run_folder::expect_trained(folder)?;
    let tensors = read_weights(&folder.student())?.tensors;
    let (train, val) = (images(plan, Split::Train, runs)?, images(plan, Split::Val, runs)?);
    let shown = working("quantizing");
    let (model, saturated_share) = quantized(graph, &tensors, &train)?;
    drop(shown);

    let out = folder.root().join("onnx");
    std::fs::create_dir_all(&out).with_context(|| format!("{}: cannot make the folder", out.display()))?;
    let [onnx, json] = ["encoder-int8.onnx", "encoder-int8.json"].map(|name| out.join(name));
    let bytes = quantized_network(&model, ENCODER_ENDS, &encoder_metadata(plan, &tensors));
    let report = Int8Report {
        weights: weights_digest(&tensors),
        int8_model: blake3::Hash::from_bytes(model.digest()).to_hex().to_string(),
        calibration_images: CALIBRATION_IMAGES.min(train.images.len()),
        saturated_share,
        comparison: compared(plan, folder, &model, &val)?,
    };
    run_folder::forget(folder, &[onnx.clone(), json.clone()])?;
    write_whole(&onnx, &bytes)?;
    write_whole(&json, &serde_json::to_vec_pretty(&report)?)?;
    say(&format!("{}: {} bytes", onnx.display(), bytes.len()));
    let Comparison { val_images, embedding_relative_error, objects, mask_agreement } = &report.comparison;
    say(&format!(
        "int8 encoder: on {val_images} validation images the embedding is {:.4} of its length from the float one (farthest {:.4}); \
         {objects} masks agree by IoU {:.4} (smallest {:.4})",
        embedding_relative_error.mean, embedding_relative_error.largest, mask_agreement.mean, mask_agreement.smallest
    ));
    run_folder::record(folder, &[onnx, json])
}

/// A split's images without what a teacher says of them.
fn images(plan: &PromptablePlan, split: Split, runs: &Path) -> anyhow::Result<ImageSource> {
    let side = u32::try_from(plan.encoder.input_size()).context("[student] input_size")?;
    Ok(ImageSource::new(dataset(&plan.data, split, runs)?, None, side, ImageLimits::default())?)
}

/// The integer encoder, and the share of values that its grids cut off.
fn quantized(graph: &LayerGraph, tensors: &NamedWeights, train: &ImageSource) -> anyhow::Result<(IntegerModel, f64)> {
    let of_encoder =
        |(name, tensor): (&String, _)| Some((name.strip_prefix(IMAGE_ENCODER)?.strip_prefix('.')?.to_string(), tensor));
    let of_encoder = tensors.iter().filter_map(of_encoder).map(|(name, tensor)| (name, Clone::clone(tensor)));
    let float = FoldedStudent::new(graph, &of_encoder.collect(), &Device::flex())?;
    let batches: Vec<Tensor<4>> = spread(train.images.len(), CALIBRATION_IMAGES)
        .map(|idx| {
            stop::check_command("quantizing")?;
            Ok(image_tensor(&train.image(train.images[idx].image_idx)?.pixels, train.side()))
        })
        .collect::<anyhow::Result<_>>()?;
    let config = CalibrationConfig {
        method: ThresholdSearch::Mse,
        weight_bits: 8,
        weight_bits_of: BTreeMap::new(),
        output_bits: OUTPUT_BITS,
        bias_correction: true,
        rounding: Rounding::Nearest,
    };
    let calibration = calibrate_unless(&float, &batches, &config, &stop::is_asked);
    stop::check_command("quantizing")?;
    let calibration = calibration?;
    let saturated: u64 = calibration.nodes.iter().map(|node| node.saturated).sum();
    let values: u64 = calibration.nodes.iter().map(|node| node.seen.count()).sum();
    Ok((lower(&float, &calibration, IMAGE_ENCODER)?, saturated as f64 / values as f64))
}

/// Embeddings and masks of both encoders on validation images.
fn compared(
    plan: &PromptablePlan,
    folder: &RunFolder,
    model: &IntegerModel,
    val: &ImageSource,
) -> anyhow::Result<Comparison> {
    let _shown = working("comparing");
    let student = trained_student(plan, folder, &Device::flex())?;
    let interpreter = Interpreter::new(model);
    let (mut errors, mut agreements) = (vec![], vec![]);
    for idx in spread(val.images.len(), COMPARED_IMAGES) {
        stop::check_command("comparing")?;
        let used = &val.images[idx];
        let sample = val.image(used.image_idx)?;
        let inputs = Inputs { images: image_tensor(&sample.pixels, val.side()), taps: &[] };
        let float = student.encode(inputs, Pass::Eval)?.embedding;
        let int8 = interpreter.run(&interpreter.from_pixels(&sample.pixels)?)?.dequantize();
        errors.push(relative_error(&int8, &host_values(&float.clone().reshape([int8.len()]))));
        let int8 = Tensor::from_data(TensorData::new(int8, float.dims()), &Device::flex());
        for instances in used.instances.chunks(AT_ONCE) {
            let points = |&idx: &usize| {
                box_points(val.dataset.instances[idx].bbox, sample.letterbox, student.prompt_side()).to_vec()
            };
            let prompts: Vec<Vec<PromptPoint>> = instances.iter().map(points).collect();
            let ask = |embedding: &Tensor<4>| {
                Answers::of(&student, embedding, &prompts, MaskChoice::Single).chosen(sample.letterbox)
            };
            agreements.extend(ask(&float).iter().zip(&ask(&int8)).map(|(float, int8)| agreement(float, int8)));
        }
    }
    Ok(Comparison {
        val_images: errors.len(),
        embedding_relative_error: Spread::of(&errors),
        objects: agreements.len(),
        mask_agreement: Spread::of(&agreements),
    })
}

impl Spread {
    /// Of at least one number.
    fn of(numbers: &[f64]) -> Self {
        Self {
            mean: numbers.iter().sum::<f64>() / numbers.len() as f64,
            smallest: numbers.iter().copied().fold(f64::INFINITY, f64::min),
            largest: numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

/// Indices of at most `most` of `n` things, evenly over all of them.
fn spread(n: usize, most: usize) -> impl Iterator<Item = usize> {
    let count = n.min(most);
    (0..count).map(move |idx| idx * n / count)
}

fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    let square = |value: f64| value * value;
    let difference = |(found, expected): (&f32, &f32)| square(f64::from(*found) - f64::from(*expected));
    let error: f64 = found.iter().zip(expected).map(difference).sum();
    (error / expected.iter().map(|value| square(f64::from(*value))).sum::<f64>()).sqrt()
}

/// IoU of two masks; 1 where both are empty.
fn agreement(a: &Rle, b: &Rle) -> f64 {
    let both = a.intersection_area(b);
    let either = a.area() + b.area() - both;
    if either == 0 { 1.0 } else { both as f64 / either as f64 }
}

/// Training images that decide the grids: a whole image has many more values than a crop.
const CALIBRATION_IMAGES: usize = 32;
/// Validation images on which both encoders are compared.
const COMPARED_IMAGES: usize = 64;
/// Bits of the embedding, which the decoder reads in floats.
const OUTPUT_BITS: u8 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_taken_from_all_over_a_split() {
        let of = |n, most| spread(n, most).collect::<Vec<_>>();
        assert_eq!(of(3, 5), [0, 1, 2]);
        assert_eq!(of(10, 4), [0, 2, 5, 7]);
        assert!(of(0, 4).is_empty());
    }

    #[test]
    fn an_error_is_of_the_length_of_what_is_expected() {
        assert!((relative_error(&[3.0, 4.5], &[3.0, 4.0]) - 0.1).abs() < 1e-12);
        assert_eq!(relative_error(&[1.0, -2.0], &[1.0, -2.0]), 0.0);
    }
}
