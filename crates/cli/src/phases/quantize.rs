//! From trained weights to the int8 model of a run.

use std::fs;

use anyhow::Context;
use burn::tensor::{Device, Tensor};
use sensei_imx500::memory::{NetworkShape, memory_estimate};
use sensei_int8::model::IntegerModel;
use sensei_int8::model_file::{read_model, write_model};
use sensei_quant::calibration::{Calibration, CalibrationConfig, calibrate_unless};
use sensei_quant::compare::{LayerComparison, LayerReport, compare_layers};
use sensei_quant::equalize::equalize;
use sensei_quant::error::QuantError;
use sensei_quant::fake_quant::FakeQuantStudent;
use sensei_quant::folded::FoldedStudent;
use sensei_quant::lower::lower;
use sensei_quant::sensitivity::{SensitivityReport, sensitivity};
use sensei_student::weights::read_weights;
use sensei_tensor::network::NamedWeights;
use sensei_train::tensors::pixel_inputs;

use crate::config::RunPlan;
use crate::phases::kept_samples::KeptCrop;
use crate::phases::layers::rows;
use crate::phases::stages::trained_quantizers;
use crate::progress::{phase, say, warn, working};
use crate::run_folder;
use crate::stop;
use sensei_files::whole::write_whole;
use sensei_report::layers::{LayerRow, before_and_after, write_rows};
use sensei_report::run_folder::RunFolder;

/// A quantized student.
pub struct Quantized {
    /// What the chip runs.
    pub model: IntegerModel,
    /// The grids, and what they cut off.
    pub calibration: Calibration,
    /// Float, fake-quantized and integer network, layer by layer, on some of the calibration images.
    pub layers: LayerReport,
    /// The layers of the weights with which training on the grid began, calibrated like a run without such training.
    pub before: Option<Vec<LayerRow>>,
    /// What was measured to choose convolutions for fewer bits, if they were to be chosen.
    pub sensitivity: Option<SensitivityReport>,
}

/// Chooses thresholds on training crops, or takes those that were trained, lowers the student and compares the three networks layer by layer.
///
/// On the CPU wherever the student was trained, so that the integers are the same for the same weights.
///
/// # Errors
/// If a weight or output is not finite, or the chip cannot represent a layer.
pub fn quantize(
    plan: &RunPlan,
    weights: &NamedWeights,
    crops: &[KeptCrop],
    folder: &RunFolder,
) -> anyhow::Result<Quantized> {
    phase("quantizing");
    let _shown = working("quantizing");
    let Prepared { float, batches, mut config } = prepare(plan, weights, crops)?;
    let mut report = None;
    if let Some(budget) = &plan.deployment()?.quantize.budget {
        let saved = |conv: &str| bytes_saved(plan, &config, budget.weight_bits, conv);
        let measured =
            unless_stopped(sensitivity(&float, &batches, &config, budget.weight_bits, saved, &stop::is_asked))?;
        let memory = |narrowed: &[&str]| {
            let bits =
                |name: &str| if narrowed.contains(&name) { budget.weight_bits } else { config.weight_bits_of(name) };
            budget.limit.of(&memory_estimate(&NetworkShape::of_graph(&plan.graph, bits, config.output_bits)))
        };
        let chosen = measured.choose(memory(&[]).1, |narrowed| memory(narrowed).0)?;
        config.weight_bits_of.extend(chosen.into_iter().map(|name| (name, budget.weight_bits)));
        report = Some(measured);
    }
    let calibration = match plan.train.trains_on_grid() {
        true => {
            let file = folder.thresholds();
            run_folder::check(folder, &file)?;
            let thresholds = read_weights(&file)?.tensors;
            let config = plan.deployment()?.quantize.calibration();
            let quantizers = trained_quantizers(&plan.graph, &config, thresholds, float.device());
            let quantizers = quantizers.with_context(|| file.display().to_string())?;
            unless_stopped(quantizers.calibration(&float, &batches, &stop::is_asked))?
        }
        false => unless_stopped(calibrate_unless(&float, &batches, &config, &stop::is_asked))?,
    };
    stop::check("quantizing")?;
    let name = name_of_model(plan, folder)?;
    let (model, layers) = compared(plan, &name, &float, &calibration, &batches)?;
    stop::check("quantizing")?;
    let before = match plan.train.trains_on_grid() {
        true => layers_before(plan, &name, &batches, folder)?,
        false => None,
    };
    Ok(Quantized { model, calibration, layers, before, sensitivity: report })
}

/// The layers of the weights with which training on the grid began.
fn layers_before(
    plan: &RunPlan,
    name: &str,
    batches: &[Tensor<4>],
    folder: &RunFolder,
) -> anyhow::Result<Option<Vec<LayerRow>>> {
    let file = folder.before_quantization();
    if !file.exists() {
        warn(&format!("{}: not there; what training on the grid changed is left out", file.display()));
        return Ok(None);
    }
    run_folder::check(folder, &file)?;
    let weights = read_weights(&file)?.for_graph(&plan.graph)?;
    let float = folded(plan, &weights, batches)?;
    let config = plan.deployment()?.quantize.calibration();
    let calibration = unless_stopped(calibrate_unless(&float, batches, &config, &stop::is_asked))?;
    let (model, layers) = compared(plan, name, &float, &calibration, batches)?;
    Ok(Some(rows(&layers, &calibration, &model)))
}

/// The integers of a calibration, and how they differ from the floats on the first images.
fn compared(
    plan: &RunPlan,
    name: &str,
    float: &FoldedStudent,
    calibration: &Calibration,
    batches: &[Tensor<4>],
) -> anyhow::Result<(IntegerModel, LayerReport)> {
    let model = lower(float, calibration, name)?;
    let fake = FakeQuantStudent::new(&plan.graph, model.clone(), float.device())?;
    let n_compared = COMPARED_IMAGES.min(batches[0].dims()[0]);
    let layers = compare_layers(float, &fake, &batches[0].clone().narrow(0, 0, n_compared))?;
    Ok((model, layers))
}

/// What it costs to give single convolutions this many bits.
///
/// # Errors
/// As [`quantize`].
pub fn sensitivities(
    plan: &RunPlan,
    weights: &NamedWeights,
    crops: &[KeptCrop],
    bits: u8,
) -> anyhow::Result<SensitivityReport> {
    let Prepared { float, batches, config } = prepare(plan, weights, crops)?;
    let saved = |conv: &str| bytes_saved(plan, &config, bits, conv);
    unless_stopped(sensitivity(&float, &batches, &config, bits, saved, &stop::is_asked))
}

/// What was made, or that the program was asked to stop meanwhile.
fn unless_stopped<T>(made: Result<T, QuantError>) -> anyhow::Result<T> {
    stop::check("quantizing")?;
    Ok(made?)
}

/// Bytes of the chip's memory that fewer bits for one convolution's weights save.
fn bytes_saved(plan: &RunPlan, config: &CalibrationConfig, narrow_bits: u8, conv: &str) -> u64 {
    let coefficients = |narrowed: Option<&str>| {
        let bits = |name: &str| if Some(name) == narrowed { narrow_bits } else { config.weight_bits_of(name) };
        memory_estimate(&NetworkShape::of_graph(&plan.graph, bits, config.output_bits)).coefficients
    };
    coefficients(None) - coefficients(Some(conv))
}

/// What calibration starts from.
struct Prepared {
    float: FoldedStudent,
    batches: Vec<Tensor<4>>,
    config: CalibrationConfig,
}

fn prepare(plan: &RunPlan, weights: &NamedWeights, crops: &[KeptCrop]) -> anyhow::Result<Prepared> {
    stop::check("quantizing")?;
    let pixels: Vec<&[u8]> = crops.iter().map(|crop| crop.pixels.as_slice()).collect();
    let batches = pixel_inputs(&pixels);
    let float = folded(plan, weights, &batches)?;
    stop::check("quantizing")?;
    Ok(Prepared { float, batches, config: plan.deployment()?.quantize.calibration() })
}

/// The network without batch norms, equalised if it is to be.
fn folded(plan: &RunPlan, weights: &NamedWeights, batches: &[Tensor<4>]) -> anyhow::Result<FoldedStudent> {
    let float = FoldedStudent::new(&plan.graph, weights, &Device::flex())?;
    Ok(match plan.deployment()?.quantize.equalization {
        Some(by) => equalize(&float, batches, by)?,
        None => float,
    })
}

/// Writes model and layer table into the run folder, and says what matters of them.
///
/// # Errors
/// If they cannot be written.
pub fn save(quantized: &Quantized, folder: &RunFolder) -> anyhow::Result<()> {
    let table_file = folder.layers().with_extension("txt");
    let files = [folder.int8(), folder.layers(), folder.layers_before(), table_file.clone()];
    run_folder::forget(folder, &files)?;
    write_model(&folder.int8(), &quantized.model)?;
    let calibration = &quantized.calibration;
    let after = rows(&quantized.layers, calibration, &quantized.model);
    write_rows(&folder.layers(), &after)?;
    let divergence = first_divergences(&quantized.layers);
    let mut table = format!("{}{}\n", quantized.layers.table(), divergence.join("\n"));
    if let Some(before) = &quantized.before {
        write_rows(&folder.layers_before(), before)?;
        table = format!("{table}\n{}", before_and_after(before, &after));
    } else if folder.layers_before().exists() {
        fs::remove_file(folder.layers_before())
            .with_context(|| format!("{}: cannot remove", folder.layers_before().display()))?;
    }
    write_whole(&table_file, table.as_bytes())?;
    run_folder::record(folder, &files)?;
    let saturated: u64 = calibration.nodes.iter().map(|node| node.saturated).sum();
    let values: u64 = calibration.nodes.iter().map(|node| node.seen.count()).sum();
    let clipped: usize = calibration.convs.values().map(|conv| conv.clipped_weights).sum();
    say(&format!(
        "int8: calibrated on {} crops; {saturated} of {values} activations saturate, {clipped} weights are clipped",
        calibration.n_images
    ));
    if calibration.clamped_thresholds > 0 {
        warn(&format!(
            "int8: {} trained thresholds had left the chip's range and lie at its end",
            calibration.clamped_thresholds
        ));
    }
    if let Some(report) = &quantized.sensitivity {
        let narrowed: Vec<&str> = report
            .convs
            .iter()
            .map(|conv| conv.name.as_str())
            .filter(|name| {
                let bits =
                    |layer: &LayerComparison| layer.weight_bits == Some(report.narrow_bits) && layer.name == *name;
                quantized.layers.layers.iter().any(bits)
            })
            .collect();
        say(&format!("{}int8: {} bits for {}", report.table(), report.narrow_bits, narrowed.join(", ")));
    }
    divergence.iter().for_each(|line| say(line));
    Ok(())
}

/// Which layer diverges first: float and int8, fake-quant and integers.
fn first_divergences(layers: &LayerReport) -> [String; 2] {
    let from_float = match layers.first_below(DIVERGED_DB) {
        Some(layer) => format!(
            "int8: float and int8 first diverge in {}: {:.1} dB, below {DIVERGED_DB} dB",
            layer.name, layer.sqnr_db
        ),
        None => format!("int8: float and int8 stay above {DIVERGED_DB} dB in every layer"),
    };
    let from_fake = match layers.first_divergent(1e-5) {
        Some(layer) => format!(
            "int8: fake-quant and integers first diverge in {}: {} of {} values, at most {} steps",
            layer.name, layer.integer_mismatches, layer.values, layer.max_integer_mismatch
        ),
        None => "int8: fake-quant and integers agree in every layer (at most 1 step in 1e-5 of the values)".into(),
    };
    [from_float, from_fake]
}

/// The name that goes into the integer model, and so into its digest: the one that the folder's model has, so that a copied or renamed run
/// gives the same file again; else the run's.
fn name_of_model(plan: &RunPlan, folder: &RunFolder) -> anyhow::Result<String> {
    let file = folder.int8();
    if !file.exists() {
        return Ok(network_name(&plan.name));
    }
    run_folder::check(folder, &file)?;
    Ok(read_model(&file)?.name().to_string())
}

/// A run's name as the chip's tools take it: letters, digits, `-` and `_`.
fn network_name(run: &str) -> String {
    let clean = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
    run.chars().map(clean).take(64).collect()
}

/// Noise of a hundredth of the signal: what a layer report names the first layer below.
const DIVERGED_DB: f64 = 20.0;
/// Images of the layer comparison.
const COMPARED_IMAGES: usize = 8;
