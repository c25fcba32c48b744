//! Training on the chip's grid: it resumes to the bit in every phase, and holds what it says it holds.

use std::collections::BTreeMap;

use burn::tensor::Device;
use sensei_quant::calibration::{CalibrationConfig, calibrate};
use sensei_quant::folded::FoldedStudent;
use sensei_quant::gptq::Rounding;
use sensei_quant::grid_student::GridStudent;
use sensei_quant::qat::{Quantizers, THRESHOLDS};
use sensei_quant::thresholds::ThresholdSearch;
use sensei_samples::source::SampleSource;
use sensei_student::student::{Student, WEIGHTS};
use sensei_tensor::network::{NamedWeights, Network};
use sensei_train::fit::Fitted;
use sensei_train::plan::{GroupPlan, GroupRate, OnGrid, TrainPlan};
use sensei_train::stages::{StageError, StageNetworks};
use sensei_train::tensors::random_inputs;

use crate::{Fixture, Run, graph, plan, student};

/// Float in the first stage; on the grid in the second: three steps with the batch's statistics, five with trained thresholds.
pub(crate) fn on_grid() -> TrainPlan {
    let mut plan = plan();
    plan.stages[1].on_grid = Some(OnGrid { hold_norms_after: 3 });
    plan.stages[1].groups.push(GroupPlan {
        group: THRESHOLDS.into(),
        rate: GroupRate::Peak(0.02),
        slower: None,
        weight_decay: 0.0,
        clipped: false,
        hold_after: Some(5),
    });
    plan
}

/// Puts the student on the grid where the second stage begins.
pub(crate) struct OntoGrid<'a>(pub &'a SampleSource);

impl OntoGrid<'_> {
    fn config() -> CalibrationConfig {
        CalibrationConfig {
            method: ThresholdSearch::Mse,
            weight_bits: 8,
            weight_bits_of: [("down1".to_string(), 4)].into(),
            output_bits: 8,
            bias_correction: false,
            rounding: Rounding::Nearest,
        }
    }
}

impl StageNetworks for OntoGrid<'_> {
    fn enter(
        &mut self,
        stage_idx: usize,
        network: &mut Box<dyn Network>,
        result: &BTreeMap<String, NamedWeights>,
    ) -> Result<(), StageError> {
        if stage_idx == 1 {
            assert!(result.keys().eq([WEIGHTS]), "the groups of the stage before");
            let student = Student::from_weights(graph(), &network.tensors(WEIGHTS), network.device())?;
            let folded = FoldedStudent::new(student.graph(), &student.to_weights(), &Device::flex())?;
            let calibration = calibrate(&folded, &random_inputs(self.0, 4, 5)?, &Self::config())?;
            let quantizers = Quantizers::new(student.graph(), &calibration, student.device());
            *network = Box::new(GridStudent::new(student, quantizers));
        }
        Ok(())
    }

    fn shape(&mut self, stage_idx: usize, network: &mut Box<dyn Network>) -> Result<(), StageError> {
        if stage_idx == 1 {
            let student = Student::from_weights(graph(), &network.tensors(WEIGHTS), network.device())?;
            let quantizers = Quantizers::for_config(student.graph(), &Self::config(), student.device());
            *network = Box::new(GridStudent::new(student, quantizers));
        }
        Ok(())
    }
}

#[test]
fn resumed_and_shared_runs_end_as_the_straight_one() {
    let fixture = Fixture::new();
    let plan = on_grid();
    let run = |name: &str, other_devices: &[Device]| {
        let dir = fixture.checkpoints(name);
        Run { other_devices, ..Run::new(&dir) }
            .fit_through(&mut OntoGrid(&fixture.source), &plan, student(), &fixture.source)
            .unwrap()
    };
    let straight = run("straight", &[]);
    let thresholds = &straight.fitted.groups[THRESHOLDS];
    assert!(thresholds["activations"].values.iter().any(|log2| log2.fract() != 0.0), "trained, not calibrated alone");
    assert_eq!(run("shared", &[Device::flex()]).fitted.state_digest, straight.fitted.state_digest);
    let first_on_grid = plan.stages[0].epochs * plan.steps_per_epoch(fixture.source.instances.len());
    for after in [0, 1, 3, 4, 5] {
        let dir = fixture.checkpoints(&format!("stopped-{after}"));
        let stop_after = first_on_grid + after;
        let stopped = Run { stop_after, ..Run::new(&dir) }
            .fit_through(&mut OntoGrid(&fixture.source), &plan, student(), &fixture.source)
            .unwrap();
        assert_eq!((stopped.fitted.step, stopped.fitted.stopped), (stop_after, true));
        let resumed =
            Run::resumed(&dir).fit_through(&mut OntoGrid(&fixture.source), &plan, student(), &fixture.source).unwrap();
        assert_eq!(resumed.fitted.state_digest, straight.fitted.state_digest, "{after} steps into the stage");
    }
}

#[test]
fn thresholds_and_statistics_are_held_when_it_is_time() {
    let fixture = Fixture::new();
    let plan = on_grid();
    let first_on_grid = plan.stages[0].epochs * plan.steps_per_epoch(fixture.source.instances.len());
    let after = |steps: u64| {
        let dir = fixture.checkpoints(&format!("after-{steps}"));
        let run = Run { stop_after: first_on_grid + steps, ..Run::new(&dir) };
        run.fit_through(&mut OntoGrid(&fixture.source), &plan, student(), &fixture.source).unwrap().fitted
    };
    let [begun, norms_held, thresholds_held, later] = [1, 3, 5, 7].map(after);
    let running = |fitted: &Fitted| {
        let names = fitted.groups[WEIGHTS].iter().filter(|(name, _)| name.ends_with("running_mean"));
        names.map(|(_, tensor)| tensor.values.clone()).collect::<Vec<_>>()
    };
    assert_ne!(running(&begun), running(&norms_held));
    assert_eq!(running(&norms_held), running(&later));
    assert_ne!(norms_held.groups[THRESHOLDS], thresholds_held.groups[THRESHOLDS]);
    assert_eq!(thresholds_held.groups[THRESHOLDS], later.groups[THRESHOLDS]);
    assert_ne!(thresholds_held.groups[WEIGHTS], later.groups[WEIGHTS]);
}
