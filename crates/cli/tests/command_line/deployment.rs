//! A run for the chip, and one that ends with a float network.

use std::fs;

use crate::{Place, TINY};

#[test]
fn without_quantize_a_run_ends_with_the_float_network_and_its_scores() {
    let place = Place::new();
    let (_, quantize) = TINY.split_once("[quantize]").unwrap();
    place.config("tiny.toml", &[(&format!("[quantize]{quantize}"), "")]);
    let out = place.does(&["plan", "tiny.toml"]);
    assert!(
        out.contains("no [quantize]: the run ends with the float network") && !out.contains("memory on the chip"),
        "{out}"
    );
    let out = place.does(&["run", "tiny.toml"]);
    assert!(out.contains("\nfloat ") && out.contains("inscribed_ellipse") && !out.contains("int8"), "{out}");
    for file in ["student.safetensors", "eval/report.json", "report.html"] {
        assert!(place.path("runs/tiny").join(file).is_file(), "{file}");
    }
    for file in ["student.s8m", "layers.json", "package"] {
        assert!(!place.path("runs/tiny").join(file).exists(), "{file}");
    }
    place.does(&["eval", "runs/tiny"]);
    let words = ["run tiny: expected [quantize], found none", "docs/configuration.md"];
    place.refuses(&["quantize", "runs/tiny"], 2, &words);
    place.refuses(&["export", "runs/tiny"], 2, &words);
}

#[test]
fn what_only_the_chip_needs_is_refused_without_quantize() {
    let place = Place::new();
    let (head, quantize) = TINY.split_once("[quantize]").unwrap();
    let refused = |text: String, words: &[&str]| {
        fs::write(place.path("tiny.toml"), text).unwrap();
        place.refuses(&["plan", "tiny.toml"], 2, words);
    };
    refused(
        format!("{head}[export]\nconverter = \"imxconv-pt\"\n"),
        &["[export]: expected [quantize] beside it, found none"],
    );
    let on_grid = "[train.stage.quantization]\nthreshold_learning_rate = 1e-2\nhold_thresholds_after = 1\nhold_norms_after = 1\n\n[eval]";
    let with_grid = TINY.replace("[eval]", on_grid);
    refused(
        with_grid.replace(&format!("[quantize]{quantize}"), ""),
        &["[[train.stage]] \"only\": expected [quantize], found none"],
    );
}
