//! A search: candidates within a cost, trained in rounds, stopped and gone on with.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime};

use sensei_eval::report::EvalReport;
use serde_json::Value;

use crate::{Place, files_below};

const SEARCH: &str = r#"
config = "tiny.toml"
limits = { parameters = 2000 }
[space]
"student.bottleneck_channels" = [8, 10, 400]
"student.refine_head" = [true, false]
[[round]]
seeds = [1]
set = { "train.stage.0.epochs" = 1 }
keep = 2
[[round]]
seeds = [1, 2]
"#;

fn search(place: &Place, more: &[&str]) -> (String, Value) {
    let out = place.does(&[&["search", "width.toml", "--threads", "1"], more].concat());
    let file = fs::read(place.path("runs/search-width/search.json")).unwrap();
    (out, serde_json::from_slice(&file).unwrap())
}

/// A search whose first training, of so many epochs, has begun.
fn begun(place: &Place, epochs: u32) -> Child {
    let text = SEARCH.replace("epochs\" = 1", &format!("epochs\" = {epochs}"));
    fs::write(place.path("width.toml"), text).unwrap();
    let mut command = place.command(&["search", "width.toml", "--threads", "1"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let has_trained = || files_below(&place.path("runs")).iter().any(|path| path.ends_with("events.jsonl"));
    while !has_trained() {
        assert!(child.try_wait().unwrap().is_none(), "the search has ended before its first training");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn score(place: &Place, run: &str) -> f64 {
    let report = EvalReport::read(&place.path("runs").join(run).join("eval/report.json")).unwrap();
    sensei_eval::verdict::Verdict::of(&report).unwrap().unwrap().score.value
}

#[test]
fn the_best_within_the_limits_are_trained_longer() {
    let place = Place::new();
    fs::write(place.path("width.toml"), SEARCH).unwrap();
    let planned = place.does(&["search", "width.toml", "--plan"]);
    assert!(
        planned.contains("4 of 6 combinations") && planned.contains("left out: 2: over 2000 parameters"),
        "{planned}"
    );
    assert!(!place.path("runs").exists(), "a plan writes nothing");

    let (out, file) = search(&place, &["--jobs", "2"]);
    assert!(out.contains("round 1 of 2: 4 trainings, 0 of them done before"), "{out}");
    let rounds = file["rounds"].as_array().unwrap();
    assert_eq!(rounds.iter().map(|round| round.as_array().unwrap().len()).collect::<Vec<_>>(), [4, 2]);
    for round in rounds {
        let scores: Vec<f64> = round.as_array().unwrap().iter().map(|one| one["score"].as_f64().unwrap()).collect();
        assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
        for one in round.as_array().unwrap() {
            let runs: Vec<f64> =
                one["runs"].as_array().unwrap().iter().map(|run| score(&place, run.as_str().unwrap())).collect();
            let mean = runs.iter().sum::<f64>() / runs.len() as f64;
            assert_eq!(one["score"].as_f64().unwrap(), mean, "the mean of its runs");
        }
    }
    let ids = |round: &Value| round.as_array().unwrap().iter().map(|one| one["candidate"].clone()).collect::<Vec<_>>();
    let (first, second) = (ids(&rounds[0]), ids(&rounds[1]));
    assert!(second.iter().all(|id| first[..2].contains(id)), "{first:?} {second:?}");
    assert_eq!(rounds[1][0]["runs"].as_array().unwrap().len(), 2, "one of each seed");
    // What a search names is a configuration of its own.
    let best = fs::read_to_string(place.path("runs/search-width/best.toml")).unwrap();
    let channels = rounds[1][0]["keys"]["student.bottleneck_channels"].as_str().unwrap();
    assert!(best.contains(&format!("bottleneck_channels = {channels}")) && best.contains("epochs = 2"), "{best}");
    place.does(&["plan", "runs/search-width/best.toml"]);

    // Again: nothing is trained, and the file is the same.
    let times = |place: &Place| -> Vec<SystemTime> {
        let files = files_below(&place.path("runs")).into_iter().filter(|path| path.ends_with("student.safetensors"));
        files.map(|path| fs::metadata(path).unwrap().modified().unwrap()).collect()
    };
    let before = times(&place);
    let (out, again) = search(&place, &[]);
    assert!(out.contains("round 1 of 2: 4 trainings, 4 of them done before"), "{out}");
    assert!(out.contains("round 2 of 2: 4 trainings, 4 of them done before"), "{out}");
    assert!(again == file && times(&place) == before && before.len() == 8);

    // Runs of another configuration are not taken for these.
    place.config("tiny.toml", &[("learning_rate = 1e-2", "learning_rate = 2e-2")]);
    place.refuses(&["search", "width.toml"], 1, &["width-r1-c0-s1", "learning_rate"]);
}

#[test]
fn one_that_is_stopped_goes_on() {
    let place = Place::new();
    let mut child = begun(&place, 40);
    let status = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    assert_eq!(child.wait().unwrap().code(), Some(4));
    // Its training has stopped with it: the folder is free, and goes on.
    let (out, file) = search(&place, &[]);
    assert!(out.contains("best: "), "{out}");
    assert!(file["rounds"][0].as_array().unwrap().iter().all(|one| one["score"].is_number()), "{file}");
}

/// Calls a search until the training that a killed one has left is over; how often it was refused for it.
fn called_until_it_goes_on(place: &Place) -> u32 {
    let mut n_refused = 0;
    loop {
        let output = place.command(&["search", "width.toml", "--threads", "1"]).output().unwrap();
        let (out, err) = crate::text(&output);
        if output.status.success() {
            assert!(out.contains("best: ") && !out.contains("failed"), "nobody takes it for one that failed: {out}");
            return n_refused;
        }
        assert!(err.contains("in the hands of") || err.contains("still runs: wait for it"), "{out}{err}");
        n_refused += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn one_that_is_killed_goes_on_when_its_training_has_ended() {
    let place = Place::new();
    let mut child = begun(&place, 150);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(called_until_it_goes_on(&place) > 0, "the training was to be met while it runs");

    // Before the training has a folder.
    fs::remove_dir_all(place.path("runs")).unwrap();
    let mut command = place.command(&["search", "width.toml", "--threads", "1"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while files_below(&place.path("runs/search-width/logs")).is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    called_until_it_goes_on(&place);
}

#[test]
fn a_training_that_somebody_else_ended_is_none_that_failed() {
    let place = Place::new();
    for signal in ["-KILL", "-TERM"] {
        let child = begun(&place, 150);
        // Its lock says which process it is.
        let run = files_below(&place.path("runs")).into_iter().find(|path| path.ends_with("events.jsonl")).unwrap();
        let holder = fs::read_to_string(run.with_file_name("run.lock")).unwrap();
        let trial = holder.split_whitespace().nth(1).unwrap().to_string();
        let killed = std::process::Command::new("kill").args([signal, &trial]).status().unwrap();
        assert!(killed.success(), "{trial}");
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{signal}");
        assert!(!place.path("runs/search-width/search.json").exists(), "no round has ended");
        let (out, file) = search(&place, &[]);
        assert!(out.contains("best: ") && !out.contains("failed"), "{signal}: {out}");
        assert!(file["rounds"][0].as_array().unwrap().iter().all(|one| one["score"].is_number()), "{file}");
        fs::remove_dir_all(place.path("runs")).unwrap();
    }
}

#[test]
fn scores_stay_with_the_configuration_that_made_them() {
    let place = Place::new();
    let bits = |values: &str| SEARCH.replace("\"student.bottleneck_channels\" = [8, 10, 400]", values);
    let first = r#""quantize.weight_bits" = [8, 4]"#;
    fs::write(place.path("width.toml"), bits(first)).unwrap();
    search(&place, &[]);
    // Training does not depend on it, the score does.
    fs::write(place.path("width.toml"), bits(r#""quantize.weight_bits" = [4, 8]"#)).unwrap();
    place.refuses(&["search", "width.toml"], 1, &["expected the configuration that the search has now", "weight_bits"]);
    // Nothing of the first call is left to be taken for the second one's.
    assert!(!place.path("runs/search-width/best.toml").exists());
    // Two ways to write one value are one candidate.
    let twice = r#""train.stage.0.warmup_steps" = [1, 2]
"train.stage.0.learning_rate" = [0.01, 1e-2]"#;
    fs::write(place.path("width.toml"), bits(twice)).unwrap();
    let error = place.command(&["search", "width.toml", "--plan"]).output().unwrap();
    assert_eq!(error.status.code(), Some(2), "equal values are refused");
    let twice = twice.replace("[0.01, 1e-2]", "[1, 1.0]");
    fs::write(place.path("width.toml"), bits(&twice)).unwrap();
    let planned = place.does(&["search", "width.toml", "--plan"]);
    assert!(planned.contains("left out: 4: the same configuration as another"), "{planned}");
    let planned: Value = serde_json::from_str(&place.does(&["search", "width.toml", "--plan", "--json"])).unwrap();
    assert_eq!(planned["rounds"][0].as_array().unwrap().len(), 4);
}

#[test]
fn what_is_no_search_is_refused() {
    let place = Place::new();
    let refuses = |text: &str, words: &[&str]| {
        fs::write(place.path("width.toml"), text).unwrap();
        place.refuses(&["search", "width.toml"], 2, words);
    };
    refuses(&SEARCH.replace("2000", "20"), &["expected a combination within the limits", "6: over 20 parameters"]);
    refuses(&SEARCH.replace("refine_head", "refine_heads"), &["refine_heads"]);
    refuses(&SEARCH.replace("keep = 2", "keep = 0"), &["width.toml", "keep"]);
    refuses(&SEARCH.replace("tiny.toml", "none.toml"), &["none.toml"]);
    place.refuses(&["search", "none.toml"], 2, &["none.toml: cannot read"]);
    // So is a device that no training finds.
    fs::write(place.path("width.toml"), SEARCH).unwrap();
    let device = ["search", "width.toml", "--threads", "1", "--device", "cuda"];
    let output = place.command(&device).output().unwrap();
    let (out, err) = crate::text(&output);
    assert_eq!(output.status.code(), Some(2), "{out}{err}");
    assert!(err.contains("cuda") && !out.contains("failed"), "{out}{err}");
    // A training that fails is named, and a round of failures ends the search.
    fs::write(place.path("width.toml"), SEARCH).unwrap();
    let image = files_below(&place.path("scenes/images")).into_iter().find(|path| path.is_file()).unwrap();
    fs::write(&image, "no picture").unwrap();
    let output = place.command(&["search", "width.toml", "--threads", "1"]).output().unwrap();
    let (out, err) = crate::text(&output);
    assert_eq!(output.status.code(), Some(1), "{out}");
    let file: Value = serde_json::from_slice(&fs::read(place.path("runs/search-width/search.json")).unwrap()).unwrap();
    assert!(file["rounds"][0][0]["failed"].as_str().is_some(), "a round of failures is listed: {file}");
    let name = image.file_name().unwrap().to_string_lossy().into_owned();
    assert!(out.contains("failed: ") && out.contains(&name), "{out}");
    assert!(err.contains("round 1: every training failed"), "{err}");
}
