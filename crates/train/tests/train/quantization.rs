//! Training on the chip's grid: it resumes to the bit in every phase, and holds what it says it holds.

use burn::tensor::Device;
use sensei_quant::calibration::CalibrationConfig;
use sensei_quant::gptq::Rounding;
use sensei_quant::thresholds::ThresholdSearch;
use sensei_train::plan::TrainPlan;
use sensei_train::quantization::QuantizationPlan;

use crate::{Fixture, Run, plan, student};

/// Float in the first stage; on the grid in the second: three steps with the batch's statistics, five with trained thresholds.
fn on_grid() -> TrainPlan {
    let mut plan = plan();
    plan.stages[1].quantization = Some(QuantizationPlan {
        calibration: CalibrationConfig {
            method: ThresholdSearch::Mse,
            weight_bits: 8,
            weight_bits_of: [("down1".to_string(), 4)].into(),
            output_bits: 8,
            bias_correction: false,
            rounding: Rounding::Nearest,
        },
        calibration_instances: 4,
        threshold_learning_rate: 0.02,
        hold_thresholds_after: 5,
        hold_norms_after: 3,
    });
    plan
}

#[test]
fn resumed_and_shared_runs_end_as_the_straight_one() {
    let fixture = Fixture::new();
    let plan = on_grid();
    let run = |name: &str, other_devices: &[Device]| {
        let dir = fixture.checkpoints(name);
        Run { other_devices, ..Run::new(&dir) }.fit(&plan, student(), &fixture.source).unwrap()
    };
    let straight = run("straight", &[]);
    let thresholds = straight.fitted.thresholds.as_ref().expect("trained thresholds");
    assert!(thresholds["activations"].values.iter().any(|log2| log2.fract() != 0.0), "trained, not calibrated alone");
    assert_eq!(run("shared", &[Device::flex()]).fitted.state_digest, straight.fitted.state_digest);
    let first_on_grid = plan.stages[0].epochs * plan.steps_per_epoch(fixture.source.instances.len());
    for after in [0, 1, 3, 4, 5] {
        let dir = fixture.checkpoints(&format!("stopped-{after}"));
        let stop_after = first_on_grid + after;
        let stopped = Run { stop_after, ..Run::new(&dir) }.fit(&plan, student(), &fixture.source).unwrap();
        assert_eq!((stopped.fitted.step, stopped.fitted.stopped), (stop_after, true));
        let resumed = Run::resumed(&dir).fit(&plan, student(), &fixture.source).unwrap();
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
        run.fit(&plan, student(), &fixture.source).unwrap().fitted
    };
    let [begun, norms_held, thresholds_held, later] = [1, 3, 5, 7].map(after);
    let running = |fitted: &sensei_train::fit::Fitted| {
        let names = fitted.weights.iter().filter(|(name, _)| name.ends_with("running_mean"));
        names.map(|(_, tensor)| tensor.values.clone()).collect::<Vec<_>>()
    };
    assert_ne!(running(&begun), running(&norms_held));
    assert_eq!(running(&norms_held), running(&later));
    assert_ne!(norms_held.thresholds, thresholds_held.thresholds);
    assert_eq!(thresholds_held.thresholds, later.thresholds);
    assert_ne!(thresholds_held.weights, later.weights);
}
