//! Groups of parameters: trained by their rule, frozen without one, listed in a checkpoint.

use std::fs;

use safetensors::SafeTensors;
use sensei_quant::qat::THRESHOLDS;
use sensei_student::student::WEIGHTS;
use sensei_train::checkpoint::{CheckpointHeader, latest};
use sensei_train::error::TrainError;

use crate::quantization::{OntoGrid, on_grid};
use crate::{Fixture, Run, plan, student, text};

#[test]
fn a_stage_that_trains_nothing_or_what_is_not_there_is_refused_before_its_first_step() {
    let fixture = Fixture::new();
    let refused = |name: &str, edit: fn(&mut sensei_train::plan::StagePlan)| {
        let mut plan = plan();
        edit(&mut plan.stages[0]);
        let ran = Run::new(&fixture.checkpoints(name)).fit(&plan, student(), &fixture.source);
        let Err(error) = ran else { panic!("{name}: expected an error") };
        assert!(!fixture.checkpoints(name).exists(), "{name}: nothing was trained");
        error
    };
    let error = refused("nothing", |stage| stage.groups.clear());
    assert!(matches!(error, TrainError::NothingTrained { .. }));
    assert_eq!(text(&error), "stage first: expected a group to train, found all frozen: weights");
    let error = refused("unknown", |stage| stage.groups[0].group = "encoder".into());
    assert_eq!(text(&error), "stage first: trains \"encoder\", expected one of the network's groups: weights");
}

#[test]
fn a_frozen_group_keeps_its_values_and_has_no_optimiser() {
    let fixture = Fixture::new();
    let mut plan = on_grid();
    let (trained, frozen) = (plan.clone(), &mut plan);
    frozen.stages[1].groups.retain(|rule| rule.group == WEIGHTS);
    let first_on_grid = trained.stages[0].epochs * trained.steps_per_epoch(fixture.source.instances.len());
    let run = |name: &str, plan: &sensei_train::plan::TrainPlan, steps: u64| {
        let dir = fixture.checkpoints(name);
        let run = Run { stop_after: first_on_grid + steps, ..Run::new(&dir) };
        run.fit_through(&mut OntoGrid(&fixture.source), plan, student(), &fixture.source).unwrap().fitted.groups
    };
    let (one, five) = (run("one", &plan, 1), run("five", &plan, 5));
    assert_eq!(one[THRESHOLDS], five[THRESHOLDS]);
    assert_ne!(one[WEIGHTS], five[WEIGHTS]);
    assert_ne!(run("trained", &trained, 5)[THRESHOLDS], five[THRESHOLDS]);

    let groups = |name: &str| {
        let path = latest(&fixture.checkpoints(name)).unwrap().unwrap();
        let bytes = fs::read(path).unwrap();
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        let header = &metadata.metadata().as_ref().unwrap()["sensei_checkpoint"];
        let header: CheckpointHeader = serde_json::from_str(header).unwrap();
        let moments =
            metadata.tensors().into_keys().filter(|name| name.starts_with("first_moment/thresholds/")).count();
        let groups = header.groups.into_iter().map(|group| (group.name, group.optimizer_steps, group.averaged));
        (groups.collect::<Vec<_>>(), moments > 0)
    };
    let steps = first_on_grid + 5;
    let weights = (WEIGHTS.to_string(), Some(steps), true);
    assert_eq!(groups("five"), (vec![weights.clone(), (THRESHOLDS.to_string(), None, false)], false));
    assert_eq!(groups("trained"), (vec![weights, (THRESHOLDS.to_string(), Some(5), false)], true));
    // Resumed with the other rule, the checkpoint is of another plan; with a forged plan digest it is still not taken.
    let dir = fixture.checkpoints("five");
    let resumed = Run::resumed(&dir).fit_through(&mut OntoGrid(&fixture.source), &trained, student(), &fixture.source);
    let Err(error) = resumed else { panic!("expected an error") };
    assert!(text(&error).ends_with("group thresholds: expected trained, found frozen"), "{}", text(&error));
}
