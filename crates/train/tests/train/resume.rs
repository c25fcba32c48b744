//! A run is a function of plan, data and initial weights: stopped, killed, resumed or not, to the bit.

use sensei_student::student::WEIGHTS;
use sensei_tensor::network::weights_digest;
use sensei_train::event::Event;

use crate::{Fixture, N_STEPS, Ran, Run, graph, listed, plan, student};

fn assert_same(got: &Ran, expected: &Ran) {
    let (got, expected) = (&got.fitted, &expected.fitted);
    assert_eq!((got.step, got.stopped), (N_STEPS, false));
    assert_eq!(got.state_digest, expected.state_digest);
    assert_eq!(weights_digest(&got.groups[WEIGHTS]), weights_digest(&expected.groups[WEIGHTS]));
}

#[test]
fn stopped_in_an_epoch_and_resumed_is_the_straight_run() {
    let fixture = Fixture::new();
    let straight = Run::new(&fixture.checkpoints("straight")).fit(&plan(), student(), &fixture.source).unwrap();
    assert_same(&straight, &straight);
    assert_eq!(listed(&fixture.checkpoints("straight")), ["step-00000012.safetensors"]);
    // Steps 1 to 3 are the first epoch, 7 is the first of the second stage.
    for stop_after in [1, 2, 3, 5, 7, 11] {
        let dir = fixture.checkpoints(&format!("stopped-{stop_after}"));
        let stopped = Run { stop_after, ..Run::new(&dir) }.fit(&plan(), student(), &fixture.source).unwrap();
        assert_eq!((stopped.fitted.step, stopped.fitted.stopped), (stop_after, true));
        assert_ne!(stopped.fitted.state_digest, straight.fitted.state_digest);
        let resumed = Run::resumed(&dir).fit(&plan(), student(), &fixture.source).unwrap();
        assert!(matches!(resumed.events[0], Event::Started { step, .. } if step == stop_after));
        assert_same(&resumed, &straight);
        let losses = [stopped.losses(), resumed.losses()].concat();
        assert_eq!(losses, straight.losses(), "stopped after {stop_after}");
    }
}

/// What a kill leaves: the last checkpoint and half of the next one.
#[test]
fn killed_while_it_writes_a_checkpoint_and_resumed_is_the_straight_run() {
    let fixture = Fixture::new();
    let (straight, killed) = (fixture.checkpoints("straight"), fixture.checkpoints("killed"));
    let every = |dir| Run { checkpoint_every_steps: 5, keep_checkpoints: 100, ..Run::new(dir) };
    let straight_run = every(&straight).fit(&plan(), student(), &fixture.source).unwrap();
    assert_eq!(listed(&straight).len(), 3, "{:?}", listed(&straight));
    std::fs::create_dir(&killed).unwrap();
    std::fs::copy(straight.join("step-00000005.safetensors"), killed.join("step-00000005.safetensors")).unwrap();
    let next = std::fs::read(straight.join("step-00000010.safetensors")).unwrap();
    let unfinished = ".step-00000010.safetensors.77-0.tmp";
    std::fs::write(killed.join(unfinished), &next[..next.len() / 2]).unwrap();
    let resumed = Run { resume: true, ..every(&killed) }.fit(&plan(), student(), &fixture.source).unwrap();
    assert_same(&resumed, &straight_run);
    std::fs::remove_file(killed.join(unfinished)).unwrap();
    assert_eq!(listed(&killed), listed(&straight));
    for name in listed(&straight) {
        let (a, b) = (std::fs::read(straight.join(&name)).unwrap(), std::fs::read(killed.join(&name)).unwrap());
        assert!(a == b, "{name}: the same bytes");
    }
}

#[test]
fn resumed_twice_and_after_the_end_changes_nothing() {
    let fixture = Fixture::new();
    let straight = Run::new(&fixture.checkpoints("straight")).fit(&plan(), student(), &fixture.source).unwrap();
    let dir = fixture.checkpoints("twice");
    for _ in 0..2 {
        Run { stop_after: 5, ..Run::resumed(&dir) }.fit(&plan(), student(), &fixture.source).unwrap();
    }
    let resumed = Run::resumed(&dir).fit(&plan(), student(), &fixture.source).unwrap();
    assert_same(&resumed, &straight);
    let again = Run::resumed(&dir).fit(&plan(), student(), &fixture.source).unwrap();
    assert_same(&again, &straight);
    assert!(again.losses().is_empty(), "no step is left to take");
}

#[test]
fn equal_runs_are_equal_and_data_threads_change_nothing() {
    let fixture = Fixture::new();
    let run = |name: &str, data_threads| {
        let dir = fixture.checkpoints(name);
        Run { data_threads, ..Run::new(&dir) }.fit(&plan(), student(), &fixture.source).unwrap()
    };
    let one = run("one", 1);
    assert_same(&run("again", 1), &one);
    assert_same(&run("two", 2), &one);
    assert_same(&run("five", 5), &one);
    assert_eq!(run("losses", 2).losses(), one.losses());
}

#[test]
fn another_seed_is_another_run() {
    let fixture = Fixture::new();
    let run = |name: &str, seed| {
        let plan = sensei_train::plan::TrainPlan { seed, ..plan() };
        Run::new(&fixture.checkpoints(name)).fit(&plan, student(), &fixture.source).unwrap().fitted.state_digest
    };
    assert_ne!(run("five", 5), run("six", 6));
}

#[test]
fn moving_average_is_the_result() {
    let fixture = Fixture::new();
    let dir = fixture.checkpoints("average");
    let averaged = Run::new(&dir).fit(&plan(), student(), &fixture.source).unwrap();
    let plain = sensei_train::plan::TrainPlan { average: None, ..plan() };
    let plain = Run::new(&fixture.checkpoints("plain")).fit(&plain, student(), &fixture.source).unwrap();
    let (averaged, plain) = (averaged.weights(), plain.weights());
    let names: Vec<_> = graph().tensors().into_iter().map(|spec| spec.name).collect();
    assert!(averaged.keys().eq(plain.keys()) && averaged.len() == names.len());
    for name in names {
        // The statistics of the last steps belong to both.
        let is_statistic = name.contains("running_");
        assert_eq!(averaged[&name] == plain[&name], is_statistic, "{name}");
    }
}
