//! A configuration that is written for somebody's own data.

use std::fs;
use std::process::Stdio;

use sensei_eval::report::EvalReport;

use super::{Place, text as text_of};

const TRAIN: [&str; 4] = ["--train", "scenes/annotations/instances_train.json", "--train-images", "scenes/images"];
const VAL: [&str; 4] = ["--val", "scenes/annotations/instances_val.json", "--val-images", "scenes/images"];

#[test]
fn a_configuration_for_own_data_is_planned_and_trained() {
    let place = Place::new();
    let both = [&["init", "my.toml"], &TRAIN[..], &VAL[..]].concat();
    let shipped = [&["init", "shipped.toml"], &TRAIN[..], &VAL[..]].concat();
    place.does(&shipped);
    let text = fs::read_to_string(place.path("shipped.toml")).unwrap();
    assert!(text.contains("\ninitial_model = \"sensei-box\"\n"), "{text}");
    let random = [&both[..], &["--from-random"]].concat();
    let out = place.does(&random);
    assert!(out.contains("my.toml: written. Next: sensei plan my.toml"), "{out}");
    place.refuses(&random, 1, &["my.toml: expected no such file yet"]);
    let text = fs::read_to_string(place.path("my.toml")).unwrap();
    // 64 of the sensor's 4056 pixels, of scenes that are 64 wide.
    assert!(text.contains("min_side = 1.0\n") && text.contains("epochs = 40\n"), "{text}");
    place.does(&["plan", "my.toml"]);
    place.does(&["train", "my.toml", "--set", "train.stage.0.epochs=1", "--set", "train.stage.0.warmup_steps=0"]);

    // The model that ships is what a run starts from, wherever the program stands.
    let step = ["--set", "train.stage.0.epochs=1", "--set", "train.stage.0.warmup_steps=0"];
    let out = place.does(&[&["train", "shipped.toml"], &step[..]].concat());
    assert!(out.contains("weights of sensei-box, which ships with Sensei"), "{out}");
    // The run is told beside what it started from, which may have been better.
    place.does(&["quantize", "runs/shipped"]);
    let out = place.does(&["eval", "runs/shipped"]);
    let report = EvalReport::read(&place.path("runs/shipped/eval/report.json")).unwrap();
    let rows: Vec<&str> = report.predictors.iter().map(|row| row.scores.predictor.as_str()).collect();
    assert_eq!(rows[5..], ["initial", "float", "fake_quant", "int8"], "{rows:?}");
    assert!(out.contains("what it started from") && out.contains("float - initial"), "{out}");
    place.does(&["eval", "runs/shipped", "--weights", "sensei-box"]);
    let alone = EvalReport::read(&place.path("runs/shipped/eval-weights-sensei-box/report.json")).unwrap();
    let instances = |report: &EvalReport, row: &str| report.predictor(row).unwrap().scores.instances.clone();
    assert!(instances(&alone, "float") == instances(&report, "initial"), "the same weights");
    assert!(alone.predictor("initial").is_err(), "other weights than the run's started from nothing that it knows");
    let pair = ["gate", "runs/shipped/eval-weights-sensei-box", "runs/shipped", "--predictor", "float"];
    let output = place.command(&pair).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "of three images nobody can tell: {:?}", text_of(&output));
    for (key, words) in [
        (
            "train.initial_model=sensei-bx",
            "[train] initial_model: expected a model that ships with Sensei (sensei-box, quickstart), found \"sensei-bx\"",
        ),
        ("train.initial_weights=x.safetensors", "[train] initial_model: expected none beside initial_weights"),
        ("train.encoder_weights=x.pth", "[train] encoder_weights: expected none beside initial_model"),
    ] {
        place.refuses(&["plan", "shipped.toml", "--set", key], 2, &[words]);
    }
    // And what answers.
    place.does(&["predict", "sensei-box", "scenes/images", "--box", "10,10,30,30", "--out", "masks"]);
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/sensei-box");
    place.does(&["predict", root, "scenes/images", "--box", "10,10,30,30", "--out", "masks-of-package"]);
    let masks = |folder: &str| fs::read(place.path(folder).join("predictions.json")).unwrap();
    assert!(masks("masks") == masks("masks-of-package"), "the same integers");
    place.refuses(
        &["predict", "sensei-box", "scenes/images", "--box", "1,1,9,9", "--network", "float", "--out", "no"],
        2,
        &["expected int8"],
    );

    // The weights that were named are those that a run starts from.
    let from =
        [&["init", "again.toml"], &TRAIN[..], &VAL[..], &["--initial-weights", "runs/my/student.safetensors"]].concat();
    place.does(&from);
    let text = fs::read_to_string(place.path("again.toml")).unwrap();
    let weights = place.path("runs/my/student.safetensors").canonicalize().unwrap();
    assert!(text.contains(&format!("initial_weights = \"{}\"", weights.display())), "{text}");
    place.does(&["plan", "again.toml"]);
    // Where that file is gone, the run can still be scored, and says what is missing.
    place.does(&[&["train", "again.toml"], &step[..]].concat());
    place.does(&["quantize", "runs/again"]);
    place.does(&["eval", "runs/again"]);
    fs::rename(place.path("runs/my"), place.path("elsewhere")).unwrap();
    let output = place.command(&["eval", "runs/again"]).output().unwrap();
    let (out, err) = text_of(&output);
    assert!(output.status.success() && err.contains("no row initial, the student before the training: "), "{out}{err}");
    assert!(!out.contains("what it started from"), "{out}");
    place.refuses(&["init", "no/such/my.toml"], 1, &["no/such: expected a folder to write no/such/my.toml into"]);
}

#[test]
fn data_that_cannot_be_used_leave_no_configuration() {
    let place = Place::new();
    let refuses = |more: &[&str], code: i32, words: &[&str]| {
        let arguments = [&["init", "my.toml", "--from-random"], more].concat();
        let output = place.command(&arguments).stdin(Stdio::null()).output().unwrap();
        place.refused(&output, code, words);
        assert!(!place.path("my.toml").exists(), "{arguments:?}");
    };
    refuses(&TRAIN, 2, &["--val: expected it, as there is no terminal to ask on"]);
    let same = ["--val", "scenes/annotations/instances_train.json", "--val-images", "scenes/images"];
    refuses(&[TRAIN, same].concat(), 1, &["expected no image of the training split"]);
    let nowhere = ["--val", "scenes/annotations/instances_val.json", "--val-images", "elsewhere"];
    refuses(&[TRAIN, nowhere].concat(), 1, &["elsewhere: expected a folder of images"]);
    let missing = ["--val", "scenes/annotations/instances_val.json", "--val-images", "scenes/annotations"];
    refuses(&[TRAIN, missing].concat(), 1, &["expected the files of all images"]);
    fs::write(place.path("no.json"), "[]").unwrap();
    refuses(&[TRAIN, ["--val", "no.json", "--val-images", "scenes/images"]].concat(), 1, &["no.json"]);
}
