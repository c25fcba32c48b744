//! The forms of a chip student from stage to stage: in floating point, then on the chip's grid.

use std::collections::BTreeMap;

use burn::tensor::Device;
use sensei_graph::layer_graph::LayerGraph;
use sensei_quant::calibration::{CalibrationConfig, calibrate};
use sensei_quant::error::QuantError;
use sensei_quant::folded::FoldedStudent;
use sensei_quant::grid_student::GridStudent;
use sensei_quant::qat::Quantizers;
use sensei_report::run_folder::RunFolder;
use sensei_samples::source::SampleSource;
use sensei_student::student::{Student, WEIGHTS};
use sensei_student::weights::write_weights;
use sensei_tensor::network::{NamedWeights, Network};
use sensei_train::stages::{StageError, StageNetworks};
use sensei_train::tensors::random_inputs;

use crate::config::RunPlan;

/// Puts a student on the chip's grid where the first stage that trains on it begins.
pub struct ChipStages<'a> {
    plan: &'a RunPlan,
    train: &'a SampleSource,
    folder: &'a RunFolder,
}

impl<'a> ChipStages<'a> {
    /// Thresholds are calibrated on training instances; the weights before are kept in the run's folder.
    pub fn new(plan: &'a RunPlan, train: &'a SampleSource, folder: &'a RunFolder) -> Self {
        Self { plan, train, folder }
    }

    fn is_on_grid(&self, stage_idx: usize) -> bool {
        self.plan.train.stages[stage_idx].on_grid.is_some()
    }

    /// The network's float student, which a group of its holds, on the network's device.
    fn student(&self, network: &dyn Network) -> Result<Student, StageError> {
        Ok(Student::from_weights(self.plan.graph.clone(), &network.tensors(WEIGHTS), network.device())?)
    }
}

impl StageNetworks for ChipStages<'_> {
    fn enter(
        &mut self,
        stage_idx: usize,
        network: &mut Box<dyn Network>,
        result: &BTreeMap<String, NamedWeights>,
    ) -> Result<(), StageError> {
        let was_on_grid = stage_idx > 0 && self.is_on_grid(stage_idx - 1);
        if !self.is_on_grid(stage_idx) || was_on_grid {
            return Ok(());
        }
        write_weights(&self.folder.before_quantization(), &result[WEIGHTS], &BTreeMap::new())?;
        let student = self.student(&**network)?;
        let (quantize, seed) = (&self.plan.deployment()?.quantize, self.plan.train.seed);
        let batches = random_inputs(self.train, quantize.calibration_instances, seed)?;
        // On the CPU wherever the student is trained, so that the thresholds are the same for the same weights.
        let folded = FoldedStudent::new(student.graph(), &student.to_weights(), &Device::flex())?;
        // A stop is seen after the next step, whose checkpoint then has it.
        let calibration = calibrate(&folded, &batches, &quantize.calibration())?;
        let quantizers = Quantizers::new(student.graph(), &calibration, student.device());
        *network = Box::new(GridStudent::new(student, quantizers));
        Ok(())
    }

    fn shape(&mut self, stage_idx: usize, network: &mut Box<dyn Network>) -> Result<(), StageError> {
        if self.is_on_grid(stage_idx) {
            let student = self.student(&**network)?;
            let config = self.plan.deployment()?.quantize.calibration();
            let quantizers = Quantizers::for_config(student.graph(), &config, student.device());
            *network = Box::new(GridStudent::new(student, quantizers));
        }
        Ok(())
    }
}

/// Quantizers of a network with trained values in them, without a gradient.
///
/// # Errors
/// If the values are not those of this network's quantizers.
pub fn trained_quantizers(
    graph: &LayerGraph,
    config: &CalibrationConfig,
    thresholds: NamedWeights,
    device: &Device,
) -> Result<Quantizers, QuantError> {
    Quantizers::for_config(graph, config, device).with_values(thresholds)
}
