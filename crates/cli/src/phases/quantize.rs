//! From trained weights to the int8 model of a run.

use burn::tensor::Device;
use sensei_imx500::model::Int8Model;
use sensei_imx500::model_file::write_model;
use sensei_quant::calibration::{Calibration, calibrate};
use sensei_quant::compare::{LayerReport, compare_layers};
use sensei_quant::fake_quant::FakeQuantStudent;
use sensei_quant::folded::FoldedStudent;
use sensei_quant::lower::lower;
use sensei_student::weights::{NamedWeights, read_weights};
use sensei_train::quantization::{calibration_batches, quantizers_of};
use sensei_train::source::SampleSource;

use crate::config::RunPlan;
use crate::progress::say;
use crate::run_folder::{RunFolder, write_whole};

/// A quantized student.
pub struct Quantized {
    /// What the chip runs.
    pub model: Int8Model,
    /// The grids, and what they cut off.
    pub calibration: Calibration,
    /// Float, fake-quantized and integer network, layer by layer, on some of the calibration images.
    pub layers: LayerReport,
}

/// Chooses thresholds on training instances, or takes those that were trained, lowers the student and compares the three networks layer by layer.
///
/// On the CPU wherever the student was trained, so that the integers are the same for the same weights.
///
/// # Errors
/// If a sample cannot be had, a weight or output is not finite, or the chip cannot represent a layer.
pub fn quantize(
    plan: &RunPlan,
    weights: &NamedWeights,
    train: &SampleSource,
    folder: &RunFolder,
) -> anyhow::Result<Quantized> {
    let device = &Device::flex();
    let batches = calibration_batches(train, plan.quantize.calibration_instances, plan.train.seed)?;
    let float = FoldedStudent::new(&plan.graph, weights, device)?;
    let calibration = match plan.train.quantization() {
        Some(quantization) => {
            let file = folder.thresholds();
            let thresholds = read_weights(&file)?.tensors;
            let quantizers = quantizers_of(quantization, &plan.graph, thresholds, device);
            let quantizers = quantizers.map_err(|problem| anyhow::anyhow!("{}: {problem}", file.display()))?;
            quantizers.calibration(&float, &batches)?
        }
        None => calibrate(&float, &batches, &plan.quantize.config)?,
    };
    let model = lower(&float, &calibration, &network_name(&plan.name))?;
    let fake = FakeQuantStudent::new(&plan.graph, model.clone(), device)?;
    let n_compared = COMPARED_IMAGES.min(batches[0].dims()[0]);
    let layers = compare_layers(&float, &fake, &batches[0].clone().narrow(0, 0, n_compared))?;
    Ok(Quantized { model, calibration, layers })
}

/// Writes model and layer table into the run folder, and says what matters of them.
///
/// # Errors
/// If they cannot be written.
pub fn save(quantized: &Quantized, folder: &RunFolder) -> anyhow::Result<()> {
    write_model(&folder.int8(), &quantized.model)?;
    let rows: Vec<serde_json::Value> = quantized
        .layers
        .layers
        .iter()
        .map(|layer| {
            serde_json::json!({
                "name": layer.name,
                "bits": layer.grid.bits(),
                "signed": layer.grid.signed(),
                "threshold": layer.grid.threshold(),
                "sqnr_db": layer.sqnr_db.is_finite().then_some(layer.sqnr_db),
                "max_abs_diff": layer.max_abs_diff,
                "saturated_share": layer.saturated_share(),
                "integer_mismatches": layer.integer_mismatches,
                "max_integer_mismatch_steps": layer.max_integer_mismatch,
                "values": layer.values,
            })
        })
        .collect();
    write_whole(&folder.layers(), &serde_json::to_vec_pretty(&rows)?)?;
    write_whole(&folder.layers().with_extension("txt"), quantized.layers.table().as_bytes())?;
    let calibration = &quantized.calibration;
    let saturated: u64 = calibration.nodes.iter().map(|node| node.saturated).sum();
    let values: u64 = calibration.nodes.iter().map(|node| node.values).sum();
    let clipped: usize = calibration.convs.values().map(|conv| conv.clipped_weights).sum();
    say(&format!(
        "int8: calibrated on {} images; {saturated} of {values} activations saturate, {clipped} weights are clipped",
        calibration.n_images
    ));
    match quantized.layers.first_divergent(1e-5) {
        Some(layer) => say(&format!(
            "int8: fake-quant and integers first diverge in {}: {} of {} values, at most {} steps",
            layer.name, layer.integer_mismatches, layer.values, layer.max_integer_mismatch
        )),
        None => say("int8: fake-quant and integers agree in every layer (at most 1 step in 1e-5 of the values)"),
    }
    Ok(())
}

/// A run's name as the chip's tools take it: letters, digits, `-` and `_`.
fn network_name(run: &str) -> String {
    let clean = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
    run.chars().map(clean).take(64).collect()
}

/// Images of the layer comparison.
const COMPARED_IMAGES: usize = 8;
