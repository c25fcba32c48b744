//! Mistakes in the command line and the configuration: exit code 2, and no run folder.

use std::fs;

use crate::Place;

/// Each edit is refused with the configuration's name and these words.
fn check(edits: &[(&str, &str, &[&str])]) {
    let place = Place::new();
    for (from, to, words) in edits {
        place.config("tiny.toml", &[(from, to)]);
        place.refuses(&["train", "tiny.toml"], 2, &[&["tiny.toml"], *words].concat());
        place.refuses(&["plan", "tiny.toml"], 2, words);
        assert!(!place.path("runs").exists());
    }
}

#[test]
fn unknown_and_misspelt_keys() {
    check(&[
        ("seed = 3", "seed = 3\nsead = 4", &["tiny.toml:3: unknown field `sead`, expected", "`seed`"]),
        ("[quantize]", "[quantise]", &["unknown field `quantise`", "`quantize`"]),
        ("instances = \"all\"", "instance = \"all\"", &["instance"]),
        ("padding = 0.1", "padding = 0.1\npading = 0.1", &["unknown field `pading`"]),
        ("beta1 = 0.9", "beta1 = 0.9, bata1 = 0.9", &["unknown field `bata1`", "`beta1`"]),
        ("sharpness = 1.0", "sharpnes = 1.0", &["unknown field `sharpnes`", "`sharpness`"]),
        ("{ kind = \"truth_bce\", weight", "{ kind = \"truth_bce\", wieght", &["unknown field `wieght`", "`weight`"]),
        ("roi_scale = 0.1", "roi_scale = 0.1\nroi_sclae = 0.1", &["unknown field `roi_sclae`"]),
        ("refine_head = true", "refine_head = true\nrefine_haed = true", &["unknown field `refine_haed`"]),
        ("kind = \"cosine\"", "kind = \"cosinus\"", &["unknown variant `cosinus`", "`cosine`"]),
        ("border = \"corrected\"", "border = \"correct\"", &["unknown variant `correct`", "`corrected`"]),
    ]);
}

#[test]
fn missing_keys_and_wrong_types() {
    check(&[
        ("seed = 3", "", &["missing field `seed`"]),
        ("epochs = 2\n", "", &["missing field `epochs`"]),
        ("batch_size = 2", "batch_size = \"two\"", &["invalid type: string \"two\", expected usize"]),
        ("batch_size = 2", "batch_size = -2", &["-2", "expected usize"]),
        ("batch_size = 2", "batch_size = 2.5", &["invalid type: floating point `2.5`, expected usize"]),
        ("refine_head = true", "refine_head = 1", &["expected a boolean"]),
        ("bilinear_upsampling = false\n", "", &["missing field `bilinear_upsampling`"]),
        ("activation = \"relu\"\n", "", &["missing field `activation`"]),
        ("activation = \"relu\"", "activation = \"gelu\"", &["unknown variant `gelu`, expected `relu` or `relu6`"]),
        ("encoder_channels = [4, 6]", "encoder_channels = 4", &["expected a sequence"]),
        ("seed = 3", "seed = = 3", &["tiny.toml:2: "]),
    ]);
}

#[test]
fn numbers_out_of_range() {
    check(&[
        ("batch_size = 2", "batch_size = 0", &["[train] batch_size: expected 1 to 4096, found 0"]),
        ("beta1 = 0.9", "beta1 = 1.0", &["[train.optimizer] beta1: expected 0 to 0.999999, found 1"]),
        ("beta1 = 0.9", "beta1 = nan", &["found NaN"]),
        ("padding = 0.1", "padding = -0.1", &["[crop] padding: expected 0 to 4, found -0.1"]),
        ("learning_rate = 1e-2", "learning_rate = inf", &["\"only\"", "learning_rate: expected 0 to 10, found inf"]),
        ("epochs = 2", "epochs = 0", &["\"only\"", "epochs: expected 1 to 1000000, found 0"]),
        ("flip_probability = 0.5", "flip_probability = 1.5", &["flip_probability: expected 0 to 1, found 1.5"]),
        ("sharpness = 1.0", "sharpness = 0.0", &["\"only\"", "sharpness: expected a finite number above 0, found 0"]),
        ("input_size = 32", "input_size = 34", &["[student]", "expected a multiple of 4", "found 34"]),
        ("[4, 6]", "[4, 6, 8]", &["[student]", "decoder_channels: expected 3 widths", "found 2"]),
        ("input_size = 32", "input_size = 1024", &["[student]: expected at most 8388480 bytes on the chip"]),
        ("bootstrap_resamples = 200", "bootstrap_resamples = 1", &["[eval] bootstrap_resamples", "found 1"]),
    ]);
}

/// Found only when the samples have been counted.
#[test]
fn batch_too_small_for_a_batch_norm() {
    let place = Place::new();
    let edits = [("input_size = 32", "input_size = 4"), ("batch_size = 2", "batch_size = 1")];
    place.config("tiny.toml", &edits);
    place.refuses(&["train", "tiny.toml"], 2, &["tiny.toml: batch_size: ", "a batch of 1", "at least 2"]);
    assert!(!place.path("runs/tiny").exists());
}

#[test]
fn teacher_that_is_needed_and_not_there() {
    check(&[
        ("instances = \"all\"", "instances = \"cached\"", &["\"cached\" needs a [teacher]"]),
        (
            "weighting = \"truth_only\"",
            "weighting = \"teacher_score_per_sample\"",
            &["\"only\": its loss needs a [teacher]"],
        ),
        ("kind = \"truth_bce\"", "kind = \"teacher_mse\"", &["teacher_mse: expected no teacher terms"]),
    ]);
}

#[test]
fn configuration_that_cannot_be_read() {
    let place = Place::new();
    place.refuses(&["run", "none.toml"], 2, &["none.toml: cannot read the configuration", "No such file"]);
    place.refuses(&["plan", "scenes"], 2, &["scenes: cannot read the configuration"]);
    fs::write(place.path("tiny.toml"), b"seed = \"\xff\"").unwrap();
    place.refuses(&["train", "tiny.toml"], 2, &["tiny.toml: cannot read the configuration", "UTF-8"]);
    fs::write(place.path("tiny.toml"), "").unwrap();
    place.refuses(&["train", "tiny.toml"], 2, &["tiny.toml", "missing field"]);
    assert!(!place.path("runs").exists());
}

/// The argument parser prints its own usage, over several lines.
#[test]
fn unknown_arguments_are_mistakes() {
    let place = Place::new();
    for arguments in [&["trian", "tiny.toml"][..], &["train"], &["plan", "tiny.toml", "--fast"], &["gate", "a"]] {
        let output = place.command(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stderr.starts_with(b"error: "));
    }
    assert_eq!(place.command(&["--help"]).output().unwrap().status.code(), Some(0));
}

#[test]
fn folders_and_files_that_are_not_there() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    for command in ["eval", "quantize", "export", "report"] {
        let code = if command == "report" { 1 } else { 2 };
        place.refuses(&[command, "empty"], code, &["empty: expected a run folder with a plan.toml, found none"]);
        place.refuses(&[command, "none"], code, &["none: expected a run folder with a plan.toml, found none"]);
    }
    place.refuses(&["inspect", "none.s8m"], 1, &["none.s8m", "No such file"]);
    place.refuses(&["inspect", "none.safetensors"], 1, &["none.safetensors", "No such file"]);
    place.refuses(
        &["inspect", "tiny.toml"],
        1,
        &["tiny.toml: expected .s8m, ", "found a file that starts with \"\\nseed"],
    );
    place.refuses(&["inspect", "scenes"], 1, &["scenes: expected a file or a teacher cache"]);
    // 1 is for a candidate that is worse.
    place.refuses(&["gate", "none.json", "none.json"], 2, &["none.json", "No such file"]);
    place.refuses(
        &["teacher", "verify", "empty"],
        1,
        &["empty: no teacher cache: expected a folder with manifest.json"],
    );
    place.refuses(&["teacher", "stats", "none"], 1, &["none: no teacher cache"]);
    place.refuses(&["data", "fetch", "none.toml", "out"], 2, &["none.toml: cannot read the manifest", "No such file"]);
    place.refuses(&["data", "fetch", "tiny.toml", "out"], 2, &["tiny.toml", "field"]);
    place.refuses(&["data", "synth", "scenes"], 1, &["scenes: expected a new or empty folder, found files"]);
    let import =
        ["teacher", "import", "none.safetensors", "scenes/annotations/instances_train.json", "scenes/images", "out"];
    place.refuses(&import, 1, &["none.safetensors"]);
    assert!(!place.path("out").exists() && !place.path("runs").exists());
}
