//! Stages that train on the chip's grid: when thresholds are calibrated, trained and held.

use burn::tensor::{Device, Tensor};
use sensei_data::sampling::subset;
use sensei_graph::layer_graph::LayerGraph;
use sensei_quant::calibration::{CalibrationConfig, calibrate};
use sensei_quant::folded::FoldedStudent;
use sensei_quant::qat::{NormStatistics, Quantizers};
use sensei_samples::batch::HostBatch;
use sensei_samples::source::SampleSource;
use sensei_student::student::Student;
use sensei_student::weights::NamedWeights;

use crate::error::TrainError;
use crate::optimizer::{AdamW, AdamWConfig};
use crate::tensors::input_tensor;

/// How a stage trains on the chip's grid.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizationPlan {
    /// How the first thresholds are found, on the student as it is when the first such stage begins.
    pub calibration: CalibrationConfig,
    /// Training instances that they are found on.
    pub calibration_instances: usize,
    /// Learning rate of the thresholds' base-2 logarithms; it follows the stage's schedule in proportion.
    pub threshold_learning_rate: f64,
    /// Steps of the stage after which thresholds are held, so that weights settle on a grid that does not move.
    pub hold_thresholds_after: u64,
    /// Steps of the stage after which batch norms keep their running statistics, as the chip does.
    pub hold_norms_after: u64,
}

impl QuantizationPlan {
    /// What batch norms do in a step of the stage, counted from 0.
    pub fn norm_statistics(&self, step_in_stage: u64) -> NormStatistics {
        if step_in_stage < self.hold_norms_after { NormStatistics::Batch } else { NormStatistics::Running }
    }

    /// Whether thresholds are trained in a step of the stage, counted from 0.
    pub fn trains_thresholds(&self, step_in_stage: u64) -> bool {
        step_in_stage < self.hold_thresholds_after
    }
}

/// Thresholds in training, with their optimiser.
pub struct QuantizerState {
    /// The thresholds.
    pub quantizers: Quantizers,
    /// AdamW without decay.
    pub optimizer: AdamW,
}

impl QuantizerState {
    /// Before the first step on the grid.
    pub fn new(quantizers: Quantizers, config: AdamWConfig) -> Self {
        let optimizer = AdamW::new(without_decay(config), quantizers.parameters());
        Self { quantizers, optimizer }
    }
}

/// A threshold has no reason to be near 1.
pub(crate) fn without_decay(config: AdamWConfig) -> AdamWConfig {
    AdamWConfig { weight_decay: 0.0, ..config }
}

/// Calibrates on the student's present weights.
///
/// # Errors
/// If a sample cannot be had, or the student not be quantized.
pub fn calibrated_quantizers(
    plan: &QuantizationPlan,
    student: &Student,
    source: &SampleSource,
    seed: u64,
) -> Result<Quantizers, TrainError> {
    let batches = calibration_batches(source, plan.calibration_instances, seed)?;
    let cpu = Device::flex();
    let folded = FoldedStudent::new(student.graph(), &student.to_weights(), &cpu)?;
    let calibration = calibrate(&folded, &batches, &plan.calibration)?;
    Ok(Quantizers::new(student.graph(), &calibration, student.device()))
}

/// Quantizers of a network with trained values in them, without a gradient.
///
/// # Errors
/// If the values are not those of this network's quantizers.
pub fn quantizers_of(
    plan: &QuantizationPlan,
    graph: &LayerGraph,
    thresholds: NamedWeights,
    device: &Device,
) -> Result<Quantizers, String> {
    Quantizers::for_config(graph, &plan.calibration, device).with_values(thresholds)
}

/// Inputs of randomly chosen training instances, without augmentation, on the CPU.
///
/// # Errors
/// If a sample cannot be had.
pub fn calibration_batches(source: &SampleSource, n_instances: usize, seed: u64) -> Result<Vec<Tensor<4>>, TrainError> {
    let mut chosen = subset(source.instances.len(), n_instances.min(source.instances.len()), seed);
    chosen.sort_unstable();
    let batch = |chunk: &[u32]| {
        let instances: Vec<usize> = chunk.iter().map(|&at| source.instances[at as usize]).collect();
        Ok(input_tensor(&HostBatch::new(&source.samples(&instances)?), &Device::flex()))
    };
    chosen.chunks(CALIBRATION_BATCH).map(batch).collect()
}

/// Images per pass of a calibration; sums over images are in this order.
const CALIBRATION_BATCH: usize = 16;
