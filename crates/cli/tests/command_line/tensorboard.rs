//! Event files, read by TensorBoard's own reader.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use sensei_testing::python_has;
use serde_json::Value;

use crate::Place;
use crate::resume::{LONG, interrupted};

/// Prints what a folder's event files hold: scalars as [step, value] by tag, curves as the six rows, pictures as [width, height].
const READ: &str = r#"
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
read = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "tensors": 0, "images": 0})
read.Reload()
tags = read.Tags()
print(json.dumps({
    "scalars": {tag: [[e.step, e.value] for e in read.Scalars(tag)] for tag in tags["scalars"]},
    "curves": {tag: make_ndarray(read.Tensors(tag)[0].tensor_proto).tolist() for tag in tags["tensors"]},
    "curve_plugins": {tag: read.SummaryMetadata(tag).plugin_data.plugin_name for tag in tags["tensors"]},
    "images": {tag: [read.Images(tag)[0].width, read.Images(tag)[0].height] for tag in tags["images"]},
}))
"#;

/// What TensorBoard's reader finds in a folder.
fn read(folder: &Path) -> Value {
    let output = Command::new("python3").args(["-c", READ]).arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Step and value of a field of the log's `step` events.
fn logged(run: &Path, field: impl Fn(&Value) -> f64) -> BTreeMap<u64, f64> {
    let log = fs::read_to_string(run.join("events.jsonl")).unwrap();
    let events = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let steps = events.filter(|event| event["event"] == "step");
    steps.map(|event| (event["step"].as_u64().unwrap(), field(&event))).collect()
}

fn scalars(found: &Value, tag: &str) -> BTreeMap<u64, f64> {
    let points = found["scalars"][tag].as_array().unwrap_or_else(|| panic!("{tag}: {found}"));
    let by_step: BTreeMap<u64, f64> =
        points.iter().map(|point| (point[0].as_u64().unwrap(), point[1].as_f64().unwrap())).collect();
    assert_eq!(by_step.len(), points.len(), "{tag}: a step twice");
    by_step
}

fn assert_equal_as_32_bit_floats(found: &BTreeMap<u64, f64>, expected: &BTreeMap<u64, f64>) {
    let rounded: BTreeMap<u64, f64> = expected.iter().map(|(step, value)| (*step, f64::from(*value as f32))).collect();
    let differ = found.iter().zip(&rounded).find(|(found, expected)| found != expected);
    assert!(
        differ.is_none() && found.len() == rounded.len(),
        "{differ:?}; {} and {} steps",
        found.len(),
        rounded.len()
    );
}

#[test]
fn tensorboard_reads_a_run_that_was_killed_and_resumed() {
    if !python_has(&["tensorboard"], "tensorboard_reads_a_run_that_was_killed_and_resumed") {
        return;
    }
    let place = Place::new();
    place.config(
        "tiny.toml",
        &[LONG[0], ("[eval]", "[logging]\nlog_every_steps = 1\ncheckpoint_every_steps = 7\n\n[eval]")],
    );
    assert_eq!(interrupted(&place, "killed", "-KILL"), None);
    place.does(&["train", "tiny.toml", "--name", "killed", "--resume"]);
    let run = place.path("runs/killed");
    let training = run.join("tensorboard/training");
    assert_eq!(fs::read_dir(&training).unwrap().count(), 2, "a file for each start");
    let found = read(&training);
    let loss = logged(&run, |event| event["loss"].as_f64().unwrap());
    assert!(loss.len() > 20 && loss.keys().copied().eq(1..=loss.len() as u64), "{loss:?}");
    // Steps that ran again behind the resume stand once, as in the log.
    assert_equal_as_32_bit_floats(&scalars(&found, "loss/minimised"), &loss);
    let rate = logged(&run, |event| event["learning_rate"].as_f64().unwrap());
    assert_equal_as_32_bit_floats(&scalars(&found, "optimizer/learning_rate"), &rate);
    let term = logged(&run, |event| event["terms"][0][1].as_f64().unwrap());
    let log = fs::read_to_string(run.join("events.jsonl")).unwrap();
    let line = log.lines().find(|line| line.contains("\"step\",") && line.contains("\"terms\"")).unwrap();
    let name = serde_json::from_str::<Value>(line).unwrap()["terms"][0][0].as_str().unwrap().to_string();
    assert_equal_as_32_bit_floats(&scalars(&found, &format!("terms/{name}")), &term);
}

#[test]
fn tensorboard_reads_the_scores() {
    if !python_has(&["tensorboard"], "tensorboard_reads_the_scores") {
        return;
    }
    let place = Place::new();
    place.does(&["run", "tiny.toml"]);
    // Written anew, not beside what is there.
    place.does(&["report", "runs/tiny"]);
    let report: Value = serde_json::from_slice(&fs::read(place.path("runs/tiny/eval/report.json")).unwrap()).unwrap();
    let scores = place.path("runs/tiny/tensorboard/scores");
    for predictor in report["predictors"].as_array().unwrap() {
        let name = predictor["scores"]["predictor"].as_str().unwrap();
        let found = read(&scores.join(name));
        let mean = predictor["groups"]["all"]["estimates"]["mean_iou_in_image"]["value"].as_f64().unwrap();
        assert_eq!(
            found["scalars"]["scores/mean_iou_in_image"],
            serde_json::json!([[0, f64::from(mean as f32)]]),
            "{name}"
        );
        let shares = scalars(&found, "scores/share_of_masks_by_least_iou_percent");
        // The mean over ten thresholds is the hit rate.
        let hits: f64 = (10..20).map(|twentieths| shares[&(5 * twentieths)]).sum::<f64>() / 10.0;
        let expected = predictor["groups"]["all"]["estimates"]["hit_rate_in_image"]["value"].as_f64().unwrap();
        assert!((hits - expected).abs() < 1e-6, "{name}: {hits} and {expected}");
        assert_eq!(found["curve_plugins"]["scores/found_by_least_iou"], "pr_curves");
        let rows = found["curves"]["scores/found_by_least_iou"].as_array().unwrap();
        let n = predictor["scores"]["instances"].as_array().unwrap().len() as f64;
        let at = |row: usize, percent: u64| rows[row][percent as usize].as_f64().unwrap();
        assert_eq!((rows.len(), at(0, 0), at(1, 0)), (6, n, 0.0), "{name}: every mask has an IoU of at least 0");
        for percent in 0..=100 {
            assert_eq!(at(0, percent) + at(1, percent), n);
            assert!((at(4, percent) - shares[&percent]).abs() < 1e-6 && at(4, percent) == at(5, percent));
        }
    }
    let sheet = fs::read(place.path("runs/tiny/eval/overlays.png")).unwrap();
    let size = |at: usize| u32::from_be_bytes(sheet[at..at + 4].try_into().unwrap());
    assert_eq!(read(&scores.join("pictures"))["images"]["overlays"], serde_json::json!([size(16), size(20)]));
}
