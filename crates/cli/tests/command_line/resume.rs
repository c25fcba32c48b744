//! Runs that exist, that were killed, stopped, changed, or belong to another student.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use sensei_student::weights::read_weights;

use crate::{Place, files_below, weights_digest};

/// Enough steps to be killed in: 5 a second would still do.
pub const LONG: &[(&str, &str)] =
    &[("epochs = 2", "epochs = 150"), ("[eval]", "[logging]\ncheckpoint_every_steps = 7\n\n[eval]")];

/// Starts a training and sends it a signal when it has written a checkpoint. Returns its exit code, if it had one.
pub fn interrupted(place: &Place, name: &str, signal: &str) -> Option<i32> {
    let mut command = place.command(&["train", "tiny.toml", "--name", name]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let run = place.path("runs").join(name);
    while !files_below(&run.join("checkpoints")).iter().any(|path| path.extension().unwrap() == "safetensors") {
        assert!(child.try_wait().unwrap().is_none(), "the training has ended before its first checkpoint");
        sleep(Duration::from_millis(5));
    }
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    let code = child.wait().unwrap().code();
    assert!(!run.join("student.safetensors").exists(), "the training was to be interrupted before its end");
    code
}

/// The first steps in a run's log: one for each start.
fn starts(run: &Path) -> Vec<u64> {
    let log = fs::read_to_string(run.join("events.jsonl")).unwrap();
    let events = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    events.filter(|event| event["event"] == "started").map(|event| event["step"].as_u64().unwrap()).collect()
}

#[test]
fn killed_and_stopped_runs_end_as_the_straight_run() {
    let place = Place::new();
    place.config("tiny.toml", LONG);
    let out = place.does(&["train", "tiny.toml", "--name", "straight"]);
    let digest = weights_digest(&out);
    let weights = fs::read(place.path("runs/straight/student.safetensors")).unwrap();

    assert_eq!(interrupted(&place, "killed", "-KILL"), None);
    assert_eq!(interrupted(&place, "stopped", "-TERM"), Some(4), "asked to stop, it saves and ends well");
    for name in ["killed", "stopped"] {
        let out = place.does(&["train", "tiny.toml", "--name", name, "--resume"]);
        assert_eq!(weights_digest(&out), digest, "{name}");
        let run = place.path("runs").join(name);
        assert!(fs::read(run.join("student.safetensors")).unwrap() == weights, "{name}: the same bytes");
        assert!(matches!(starts(&run)[..], [0, later] if later >= 7), "{name}: {:?}", starts(&run));
    }
}

#[test]
fn recalibration_changes_statistics_alone_and_is_the_same_after_a_resume() {
    let place = Place::new();
    let tensors =
        |name: &str| read_weights(&place.path("runs").join(name).join("student.safetensors")).unwrap().tensors;
    place.config("tiny.toml", LONG);
    place.does(&["train", "tiny.toml", "--name", "plain"]);
    let plain = tensors("plain");

    let recalibrate = ("ema_decay = 0.9", "ema_decay = 0.9\nrecalibrate_norms = 6");
    place.config("tiny.toml", &[LONG, &[recalibrate]].concat());
    let out = place.does(&["train", "tiny.toml", "--name", "straight"]);
    assert!(out.contains("batch norms: statistics of 6 samples"), "{out}");
    for (name, tensor) in tensors("straight") {
        let is_statistic = name.ends_with(".running_mean") || name.ends_with(".running_var");
        assert_eq!(tensor != plain[&name], is_statistic, "{name}");
    }

    assert_eq!(interrupted(&place, "stopped", "-TERM"), Some(4));
    place.does(&["train", "tiny.toml", "--name", "stopped", "--resume"]);
    assert_eq!(tensors("stopped"), tensors("straight"));

    let on_grid = "epochs = 2\nquantization = { threshold_learning_rate = 1e-3, hold_thresholds_after = 1, hold_norms_after = 1 }";
    place.config("tiny.toml", &[("epochs = 2", on_grid), recalibrate]);
    place.refuses(&["plan", "tiny.toml"], 2, &["[train] recalibrate_norms: expected none in a run with quantization"]);
}

/// Waits until a training has written a checkpoint.
fn wait_for_checkpoint(run: &Path, child: &mut std::process::Child) {
    while !files_below(&run.join("checkpoints")).iter().any(|path| path.extension().unwrap() == "safetensors") {
        assert!(child.try_wait().unwrap().is_none(), "the training has ended before its first checkpoint");
        sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_signal_that_was_ignored_stays_ignored() {
    let place = Place::new();
    place.config("tiny.toml", LONG);
    let inner = place.command(&["train", "tiny.toml"]);
    let mut command = Command::new("nohup");
    command.arg(inner.get_program()).args(inner.get_args()).current_dir(place.dir.path());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_checkpoint(&place.path("runs/tiny"), &mut child);
    assert!(Command::new("kill").args(["-HUP", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(place.path("runs/tiny/student.safetensors").exists());
}

#[test]
fn a_run_has_one_holder() {
    let place = Place::new();
    place.config("tiny.toml", LONG);
    let mut command = place.command(&["train", "tiny.toml"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for_checkpoint(&place.path("runs/tiny"), &mut child);
    let holder = format!("process {} (sensei train tiny.toml", child.id());
    let output = place.command(&["train", "tiny.toml", "--resume"]).output().unwrap();
    let (_, err) = crate::text(&output);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("runs/tiny: this run is in the hands of") && err.contains(&holder), "{err}");
    child.kill().unwrap();
    child.wait().unwrap();
    // A dead holder holds nothing.
    place.does(&["train", "tiny.toml", "--resume"]);
}

#[test]
fn two_runs_at_once_share_their_scenes() {
    let place = Place::new();
    let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/ci-regression.toml");
    let start = |name: &str| {
        let mut command = place.command(&["plan", quickstart.to_str().unwrap()]);
        command.args(["--runs", name]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let all: Vec<_> = (0..3).map(|_| start("runs")).collect();
    let outs: Vec<String> = all
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            let (out, err) = crate::text(&output);
            assert!(output.status.success(), "{out}\n{err}");
            out
        })
        .collect();
    assert_eq!(outs.iter().filter(|out| out.contains("rendered ")).count(), 1, "one makes them");
    let names: Vec<_> =
        fs::read_dir(place.path("runs/synthetic")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[test]
fn equal_runs_are_equal_and_other_seeds_are_not() {
    let place = Place::new();
    let digest = |name: &str| {
        let out = place.does(&["train", "tiny.toml", "--name", name]);
        weights_digest(&out).to_string()
    };
    let (first, second) = (digest("first"), digest("second"));
    assert_eq!(first, second);
    place.config("tiny.toml", &[("seed = 3", "seed = 4")]);
    assert_ne!(digest("third"), first);
}

#[test]
fn run_folder_that_exists_is_not_touched() {
    let place = Place::new();
    place.does(&["train", "tiny.toml"]);
    let contents =
        || files_below(&place.path("runs")).into_iter().map(|path| (fs::read(&path).ok(), path)).collect::<Vec<_>>();
    let before = contents();
    let words = ["runs/tiny: expected no such run yet, found one", "--resume", "--name"];
    place.refuses(&["train", "tiny.toml"], 2, &words);
    place.refuses(&["run", "tiny.toml"], 2, &words);
    assert!(contents() == before);
    fs::write(place.path("runs/file"), "").unwrap();
    place.refuses(&["train", "tiny.toml", "--name", "file"], 2, &["runs/file: expected no such run yet, found one"]);
}

#[test]
fn changed_configuration_is_not_resumed() {
    let place = Place::new();
    place.does(&["train", "tiny.toml"]);
    let plan = fs::read(place.path("runs/tiny/plan.toml")).unwrap();
    place.config("tiny.toml", &[("learning_rate = 1e-2", "learning_rate = 2e-2")]);
    place.refuses(
        &["train", "tiny.toml", "--resume"],
        2,
        &[
            "runs/tiny/plan.toml: expected the configuration that the run began with",
            "train.stage.0.learning_rate was 0.01 and is now 0.02",
        ],
    );
    assert!(fs::read(place.path("runs/tiny/plan.toml")).unwrap() == plan, "the run's own configuration stays");
    // What does not change the weights may change.
    place.config("tiny.toml", &[("bootstrap_resamples = 200", "bootstrap_resamples = 300")]);
    place.does(&["train", "tiny.toml", "--resume"]);
}

#[test]
fn moved_data_is_resumed() {
    let place = Place::new();
    let digest = weights_digest(&place.does(&["train", "tiny.toml"])).to_string();
    fs::rename(place.path("scenes"), place.path("elsewhere")).unwrap();
    place.refuses(&["train", "tiny.toml", "--resume"], 1, &["scenes/annotations/instances_train.json", "No such file"]);
    let (here, there) = ("\"scenes/", "\"elsewhere/");
    place.config("tiny.toml", &[(here, there); 4]);
    assert_eq!(weights_digest(&place.does(&["train", "tiny.toml", "--resume"])), digest);
}

#[test]
fn annotations_that_changed_are_not_resumed() {
    let place = Place::new();
    place.does(&["train", "tiny.toml"]);
    let weights = fs::read(place.path("runs/tiny/student.safetensors")).unwrap();
    place.annotations(|file| file["info"] = serde_json::json!({ "description": "edited" }));
    let words = ["runs/tiny/checkpoints/step-", "a run that differs in its annotations: expected ", ", found "];
    place.refuses(&["train", "tiny.toml", "--resume"], 1, &words);
    assert!(fs::read(place.path("runs/tiny/student.safetensors")).unwrap() == weights);
}

#[test]
fn other_initial_weights_are_not_resumed() {
    let place = Place::new();
    for seed in ["4", "5"] {
        let name = format!("start-{seed}");
        place.config(&format!("{name}.toml"), &[("seed = 3", &format!("seed = {seed}"))]);
        place.does(&["train", &format!("{name}.toml")]);
    }
    let start = place.path("start.safetensors");
    let take = |name: &str| fs::copy(place.path("runs").join(name).join("student.safetensors"), &start).unwrap();
    place.config("tiny.toml", &[("accumulate_batches", "initial_weights = \"start.safetensors\"\naccumulate_batches")]);
    take("start-4");
    place.does(&["train", "tiny.toml"]);
    take("start-5");
    let words = ["runs/tiny/checkpoints/step-", "a run that differs in its first weights: expected ", ", found "];
    place.refuses(&["train", "tiny.toml", "--resume"], 1, &words);
}

#[test]
fn run_with_keys_set_is_resumed_with_the_same_ones() {
    let place = Place::new();
    let train = |batch: &'static str, more: &[&'static str]| {
        [&["train", "tiny.toml", "--set", batch, "--set", "eval.overlays=3"], more].concat()
    };
    let out = place.does(&train("train.batch_size=4", &[]));
    let plan = fs::read_to_string(place.path("runs/tiny/plan.toml")).unwrap();
    let head =
        "# Set on the command line; the values below are those:\n# --set train.batch_size=4\n# --set eval.overlays=3\n";
    assert!(plan.starts_with(head) && plan.contains("batch_size = 4\n") && plan.contains("overlays = 3\n"), "{plan}");
    // The file with the value in it trains the same weights.
    place.config("other.toml", &[("batch_size = 2", "batch_size = 4")]);
    assert_eq!(weights_digest(&place.does(&["train", "other.toml"])), weights_digest(&out));

    assert_eq!(weights_digest(&place.does(&train("train.batch_size=4", &["--resume"]))), weights_digest(&out));
    let begun = "; the run began with --set train.batch_size=4 --set eval.overlays=3";
    place.refuses(&train("train.batch_size=1", &["--resume"]), 2, &["train.batch_size was 4 and is now 1", begun]);
    place.refuses(&["train", "tiny.toml", "--resume"], 2, &["train.batch_size was 4 and is now 2", begun]);
    let both = train("train.batch_size=4", &["--resume", "--set", "train.ema_decay=0.5"]);
    place.refuses(&both, 2, &["train.ema_decay was 0.9 and is now 0.5"]);
    place.config("tiny.toml", &[("clip_gradient_norm = 5.0\n", "")]);
    place.refuses(&both[..4], 2, &["expected no such run yet"]);
    let cleared = train("train.batch_size=4", &["--resume"]);
    place.refuses(&cleared, 2, &["train.clip_gradient_norm was 5.0 and is now not set"]);
    assert_eq!(fs::read_to_string(place.path("runs/tiny/plan.toml")).unwrap(), plan);
    // The run's other commands take the values from its folder.
    place.does(&["quantize", "runs/tiny"]);
}

#[test]
fn checkpoint_of_another_student() {
    let place = Place::new();
    place.does(&["train", "tiny.toml"]);
    place.config("other.toml", &[("bottleneck_channels = 8", "bottleneck_channels = 10")]);
    let theirs = files_below(&place.path("runs/tiny/checkpoints")).pop().unwrap();
    let ours = place.path("runs/other/checkpoints").join(theirs.file_name().unwrap());
    fs::create_dir_all(ours.parent().unwrap()).unwrap();
    fs::copy(&theirs, &ours).unwrap();
    let name = ours.file_name().unwrap().to_string_lossy().into_owned();
    place.refuses(
        &["train", "other.toml", "--resume"],
        1,
        &[&name, "a run that differs in its network: expected ", ", found "],
    );
    assert!(!place.path("runs/other/student.safetensors").exists());

    let bytes = fs::read(&theirs).unwrap();
    fs::write(&theirs, &bytes[..bytes.len() / 2]).unwrap();
    place.refuses(&["train", "tiny.toml", "--resume"], 1, &["runs/tiny/checkpoints", &name]);
}

#[test]
fn weights_of_another_student() {
    let place = Place::new();
    place.does(&["train", "tiny.toml"]);
    let start = "initial_weights = \"runs/tiny/student.safetensors\"\naccumulate_batches";
    let other = [("bottleneck_channels = 8", "bottleneck_channels = 10"), ("accumulate_batches", start)];
    place.config("other.toml", &other);
    place.refuses(&["train", "other.toml"], 1, &["runs/tiny/student.safetensors: ", "expected", "found"]);
    place.config("same.toml", &other[1..]);
    place.does(&["train", "same.toml"]);
    place.refuses(
        &["quantize", "runs/other"],
        1,
        &["runs/other: expected a trained student (student.safetensors), found none"],
    );
}

#[test]
fn profile_changes_nothing_and_has_every_layer() {
    let place = Place::new();
    let short = place.command(&["train", "tiny.toml", "--name", "short", "--profile"]).output().unwrap();
    assert!(String::from_utf8_lossy(&short.stderr).contains("there is no profile"), "four steps are too few");
    place.config("tiny.toml", &[("epochs = 2", "epochs = 10")]);
    let plain = place.does(&["train", "tiny.toml", "--name", "plain"]);
    let printed = place.does(&["train", "tiny.toml", "--name", "profiled", "--profile"]);
    assert_eq!(weights_digest(&plain), weights_digest(&printed));
    for line in ["encoder_stage1.0 + encoder_stage1.3 ", "down1 ", "all layers ", "waiting for data ", "optimiser "] {
        assert!(printed.lines().any(|found| found.starts_with(line)), "{line}: {printed}");
    }
    let trace = fs::read(place.path("runs/profiled/profile.json")).unwrap();
    let trace: serde_json::Value = serde_json::from_slice(&trace).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    for category in ["step", "forward", "backward"] {
        assert!(events.iter().any(|event| event["cat"] == category && event["ph"] == "X"), "{category}");
    }
}
