//! A number that is not finite ends a run with its step, what it was and whose, and leaves no checkpoint of it.

use sensei_loss::{LossPlan, LossTerm, SampleWeighting, TermKind};
use sensei_student::student::Student;
use sensei_student::unet::UnetConfig;
use sensei_train::error::TrainError;
use sensei_train::plan::TrainPlan;

use crate::{Fixture, N_SAMPLES, Run, device, graph, listed, plan, student, text};

fn refused(plan: &TrainPlan, student: Student) -> (u64, String, f64, Vec<u64>) {
    let fixture = Fixture::new();
    let dir = fixture.checkpoints("run");
    let run = Run { checkpoint_every_steps: 1, ..Run::new(&dir) };
    let Err(error) = run.fit(plan, student, &fixture.source) else { panic!("expected an error") };
    let line = text(&error);
    let TrainError::NotFinite { step, what, value, annotation_ids } = error else { panic!("{line}") };
    assert!(line.starts_with(&format!("step {step}: {what} is ")) && !line.contains('\n'), "{line}");
    // Only steps before it have left something.
    assert_eq!(listed(&dir).len() as u64, step.min(2));
    (step, what, value, annotation_ids)
}

/// The student with one tensor set to a value throughout.
fn with_tensor(name: &str, value: f32) -> Student {
    let mut weights = student().to_weights();
    weights.get_mut(name).unwrap().values.fill(value);
    Student::from_weights(graph(), &weights, &device()).unwrap()
}

#[test]
fn overflowing_output_is_named_with_its_term_and_sample() {
    let (step, what, value, ids) = refused(&plan(), with_tensor("refine.3.bias", 3e38));
    assert_eq!((step, what.as_str()), (0, "loss term truth_bce"));
    assert!(!value.is_finite());
    assert_eq!(ids.len(), 1);
    assert!((1..=N_SAMPLES as u64).contains(&ids[0]));
}

#[test]
fn overflowing_gradient_is_named_with_all_samples_of_the_step() {
    let mut plan = plan();
    // The loss itself is finite, its gradient's length is not.
    let terms = vec![LossTerm { kind: TermKind::TruthBce, weight: 1e30 }];
    plan.stages[0].loss = LossPlan::new(1.0, SampleWeighting::TruthOnly, terms).unwrap();
    let (step, what, value, ids) = refused(&plan, student());
    assert_eq!((step, what.as_str(), ids.len()), (0, "gradient norm", 4));
    assert!(!value.is_finite());
}

#[test]
fn overflowing_total_is_named() {
    let mut plan = plan();
    let terms =
        vec![LossTerm { kind: TermKind::TruthBce, weight: 3e38 }, LossTerm { kind: TermKind::TruthDice, weight: 3e38 }];
    plan.stages[0].loss = LossPlan::new(1.0, SampleWeighting::TruthOnly, terms).unwrap();
    let (step, what, _, ids) = refused(&plan, student());
    assert_eq!((step, what.as_str(), ids.len()), (0, "loss", 2));
}

#[test]
fn diverging_run_stops_at_its_step() {
    let mut plan = plan();
    plan.stages[0].schedule.warmup_steps = 0;
    plan.stages[0].schedule.learning_rate = 1e30;
    let (step, ..) = refused(&plan, student());
    assert!(step > 0, "the first step is sound");
}

#[test]
fn initial_weights_that_are_not_finite_are_refused() {
    let mut weights = student().to_weights();
    weights.get_mut("down1.weight").unwrap().values[3] = f32::NAN;
    let Err(error) = Student::from_weights(graph(), &weights, &device()) else { panic!("expected an error") };
    assert_eq!(error.to_string(), "weights: down1.weight[3]: expected a finite 32-bit float, found NaN");
}

#[test]
fn batch_too_small_for_a_batch_norm_is_an_error() {
    let fixture = Fixture::new();
    // Two stages down from 4 x 4, the bottleneck is one pixel: a batch of one has no variance there.
    let config = UnetConfig {
        input_size: 4,
        encoder_channels: vec![4, 6],
        bottleneck_channels: 8,
        decoder_channels: vec![6, 4],
        ..UnetConfig::picosam2()
    };
    let student = Student::new(config.graph().unwrap(), 0, &device());
    let Err(error) = Run::new(&fixture.checkpoints("run")).fit(&plan(), student, &fixture.source) else {
        panic!("expected an error")
    };
    assert!(matches!(error, TrainError::BatchTooSmall { expected: 2, found: 1, n_samples: N_SAMPLES }), "{error}");
}
