//! Devices by name: several of them, those that are not there, and in builds with `wgpu` a software one.

use crate::{Place, weights_digest};

#[test]
fn two_devices_train_the_same_weights() {
    let place = Place::new();
    let one = place.does(&["train", "tiny.toml", "--name", "one"]);
    let two = place.does(&["train", "tiny.toml", "--name", "two", "--device", "flex,flex"]);
    assert_eq!(weights_digest(&one), weights_digest(&two));
    // Scoring has no batches to share: a second device would idle unsaid.
    place.refuses(&["eval", "runs/one", "--device", "flex,flex"], 2, &["expected one device", "found 2"]);
}

#[test]
fn devices_that_cannot_be_had_are_refused() {
    let place = Place::new();
    let refused = |device: &str, code, words: &[&str]| {
        place.refuses(&["train", "tiny.toml", "--device", device], code, words);
        assert!(!place.path("runs/tiny").exists(), "nothing was begun");
    };
    refused("flex,flex,flex", 2, &["tiny.toml", "names 3 devices", "accumulate_batches is 2"]);
    refused("flex,ndarray", 2, &["devices of one kind"]);
    refused("cuda:0,cuda:0", 2, &["named twice"]);
    if cfg!(not(feature = "wgpu")) {
        refused("wgpu", 2, &["--device wgpu", "not in this build", "--features wgpu"]);
    }
    if cfg!(not(feature = "cuda")) {
        refused("cuda:1", 2, &["--device cuda", "not in this build", "--features cuda"]);
    }
    if cfg!(not(feature = "ndarray")) {
        refused("ndarray", 2, &["--device ndarray", "not in this build", "--features ndarray"]);
    }
    let output = place.command(&["train", "tiny.toml", "--device", "gpu"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(crate::text(&output).1.contains("expected flex, ndarray, wgpu"));
}

/// Needs a software Vulkan device, such as Mesa's lavapipe: `scripts/check/wgpu.sh` installs one.
#[cfg(feature = "wgpu")]
mod wgpu {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// One value of each event of a kind in a run's log.
    fn logged(run: &Path, event: &str, key: &str) -> Vec<f64> {
        let log = fs::read_to_string(run.join("events.jsonl")).unwrap();
        let events = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        events.filter(|found| found["event"] == event).map(|found| found[key].as_f64().unwrap()).collect()
    }

    /// Rounding differs, and AdamW's first steps divide by it; a wrong operator is off from the first step on.
    const LOSS_OFF: f64 = 1e-4;

    #[test]
    fn training_and_scores_follow_the_cpu() {
        check_training("false");
    }

    #[test]
    fn training_between_pixels_follows_the_cpu() {
        check_training("true");
    }

    fn check_training(bilinear_upsampling: &str) {
        let place = Place::new();
        place.config(
            "tiny.toml",
            &[
                ("bilinear_upsampling = false", &format!("bilinear_upsampling = {bilinear_upsampling}")),
                ("input_size = 32", "input_size = 16"),
                ("epochs = 2", "epochs = 3"),
                ("[eval]", "[logging]\nlog_every_steps = 1\nvalidate_every_epochs = 1\n\n[eval]"),
            ],
        );
        for (name, device) in [("cpu", "flex"), ("gpu", "wgpu:software")] {
            place.does(&["train", "tiny.toml", "--name", name, "--device", device]);
        }
        let both = |event: &str, key: &str| {
            let [cpu, gpu] = ["cpu", "gpu"].map(|name| logged(&place.path("runs").join(name), event, key));
            assert!(!cpu.is_empty() && cpu.len() == gpu.len(), "{event}: {} and {}", cpu.len(), gpu.len());
            cpu.into_iter().zip(gpu)
        };
        for (step, (cpu, gpu)) in both("step", "loss").enumerate() {
            println!("step {step}: loss {cpu:.6} on the CPU, {gpu:.6} by wgpu");
            assert!((gpu / cpu - 1.0).abs() < LOSS_OFF, "step {step}: {gpu}, on the CPU {cpu}");
        }
        for (epoch, (cpu, gpu)) in both("validation", "mean_iou_in_crop").enumerate() {
            assert!((gpu - cpu).abs() < 0.02, "epoch {epoch}: mean IoU {gpu}, on the CPU {cpu}");
        }
    }

    #[test]
    fn software_is_not_taken_for_a_gpu() {
        let place = Place::new();
        let output = place.command(&["train", "tiny.toml", "--device", "wgpu"]).output().unwrap();
        // On a machine with a GPU it trains.
        if !output.status.success() {
            place.refused(&output, 1, &["found no GPU", "wgpu:software"]);
        }
        place.refuses(&["train", "tiny.toml", "--device", "wgpu:7"], 1, &["--device wgpu"]);
    }

    #[test]
    fn eval_scores_on_the_device() {
        let place = Place::new();
        place.does(&["run", "tiny.toml"]);
        let scores = |out: &str, device: &str| {
            place.does(&["eval", "runs/tiny", "--out", out, "--device", device]);
            let report = fs::read(place.path(out).join("report.json")).unwrap();
            let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
            ["float", "fake_quant", "int8"].map(|name| {
                let predictors = report["predictors"].as_array().unwrap();
                let predictor = predictors.iter().find(|predictor| predictor["scores"]["predictor"] == name).unwrap();
                predictor["groups"]["all"]["estimates"]["mean_iou_in_crop"]["value"].as_f64().unwrap()
            })
        };
        let (cpu, gpu) = (scores("cpu", "flex"), scores("gpu", "wgpu:software"));
        assert!((cpu[0] - gpu[0]).abs() < 0.01, "float: {} on the CPU, {} by wgpu", cpu[0], gpu[0]);
        assert_eq!(cpu[1..], gpu[1..], "integers do not depend on the device");
    }
}
