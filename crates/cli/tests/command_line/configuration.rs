//! Mistakes in the command line and the configuration: exit code 2, and no run folder.

use std::fs;

use crate::{LITE, Place};

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
fn a_published_encoder_goes_with_its_family_alone() {
    let batches = "accumulate_batches = 2";
    let encoder = "accumulate_batches = 2\nencoder_weights = \"lite0.pth\"";
    let both = format!("{encoder}\ninitial_weights = \"student.safetensors\"");
    check(&[
        (batches, encoder, &["[train] encoder_weights: expected [student] family = \"lite_unet\" beside it"]),
        (batches, &both, &["encoder_weights"]),
        (
            "epochs = 2",
            "epochs = 2\nencoder_rate_factor = 0.3",
            &["encoder_rate_factor: expected [student] family = \"lite_unet\""],
        ),
    ]);
    let place = Place::new();
    let lite = |blocks: usize, encoder: &str| {
        let mut edits = LITE.to_vec();
        let blocks = format!("encoder_blocks = {blocks}");
        edits.extend([("encoder_channels = [4, 6]", blocks.as_str()), (batches, encoder)]);
        place.config("tiny.toml", &edits);
    };
    lite(3, &both);
    place.refuses(&["plan", "tiny.toml"], 2, &["[train] encoder_weights: expected none beside initial_weights"]);
    lite(5, batches);
    let words = ["[student]", "decoder_channels: expected 3 widths, one for each halving of 5 encoder blocks, found 2"];
    place.refuses(&["plan", "tiny.toml"], 2, &words);
}

#[test]
fn unknown_and_misspelt_keys() {
    check(&[
        (
            "seed = 3",
            "seed = 3\nsead = 4",
            &["tiny.toml:3: sead: unknown key, perhaps `seed`; the keys here are `crop`, ", "`seed`"],
        ),
        (
            "seed = 3",
            "seed = 3\nanother_thing = 4",
            &["tiny.toml:3: another_thing: unknown key; the keys here are `crop`"],
        ),
        ("[quantize]", "[quantise]", &["quantise: unknown key, perhaps `quantize`; the keys here are ", "`quantize`"]),
        ("instances = \"all\"", "instance = \"all\"", &["data.instance: unknown key", "data: missing key `instances`"]),
        (
            "padding = 0.1",
            "padding = 0.1\npading = 0.1",
            &["crop.pading: unknown key, perhaps `padding`; the keys here are `border`, `padding`, `rule`"],
        ),
        ("beta1 = 0.9", "beta1 = 0.9, bata1 = 0.9", &["train.optimizer.bata1: unknown key", "`beta1`"]),
        ("sharpness = 1.0", "sharpnes = 1.0", &["train.stage.0.loss.sharpnes: unknown key", "`sharpness`"]),
        (
            "{ kind = \"truth_bce\", weight",
            "{ kind = \"truth_bce\", wieght",
            &["train.stage.0.loss.terms.0.wieght: unknown key, perhaps `weight`; the keys here are `kind`, `weight`"],
        ),
        ("roi_scale = 0.1", "roi_scale = 0.1\nroi_sclae = 0.1", &["train.stage.0.augmentation.roi_sclae: unknown key"]),
        ("refine_head = true", "refine_head = true\nrefine_haed = true", &["student.refine_haed: unknown key"]),
        (
            "kind = \"cosine\"",
            "kind = \"cosinus\"",
            &["train.stage.0.decay.kind: expected \"constant\" or \"cosine\", found \"cosinus\""],
        ),
        (
            "border = \"corrected\"",
            "border = \"correct\"",
            &["crop.border: expected \"reference\" or \"corrected\", found \"correct\""],
        ),
        (
            "family = \"unet\"",
            "family = \"net\"",
            &["student.family: expected \"picosam2\", \"picosam3\", \"unet\" or \"lite_unet\", found \"net\""],
        ),
        (
            "weighting = \"truth_only\"",
            "weighting = \"truth\"",
            &[
                "train.stage.0.loss.weighting: expected ",
                "{ constant = ... }, \"truth_only\" or \"teacher_hard\", found \"truth\"",
            ],
        ),
    ]);
}

#[test]
fn missing_keys_and_wrong_types() {
    check(&[
        ("seed = 3", "", &["tiny.toml: missing key `seed`"]),
        ("epochs = 2\n", "", &["tiny.toml:35: train.stage.0: missing key `epochs`"]),
        (
            "batch_size = 2",
            "batch_size = \"two\"",
            &["train.batch_size: expected a whole number from 1 to 4096, found \"two\""],
        ),
        ("batch_size = 2", "batch_size = -2", &["train.batch_size: expected a whole number from 1 to 4096, found -2"]),
        (
            "batch_size = 2",
            "batch_size = 2.5",
            &["train.batch_size: expected a whole number from 1 to 4096, found 2.5"],
        ),
        ("refine_head = true", "refine_head = 1", &["student.refine_head: expected true or false, found 1"]),
        ("bilinear_upsampling = false\n", "", &["student: missing key `bilinear_upsampling`"]),
        ("downsampling = \"dense\"\n", "", &["student: missing key `downsampling`"]),
        ("activation = \"relu\"\n", "", &["student: missing key `activation`"]),
        (
            "activation = \"relu\"",
            "activation = \"gelu\"",
            &["student.activation: expected \"relu\" or \"relu6\", found \"gelu\""],
        ),
        (
            "encoder_channels = [4, 6]",
            "encoder_channels = 4",
            &["encoder_channels: expected a list of 1 to 6 elements, found 4"],
        ),
        ("rule = \"roi\"\n", "", &["crop: missing key `rule`: expected \"center_window\", \"roi\" or \"box\""]),
        ("seed = 3", "seed = = 3", &["tiny.toml:2: "]),
    ]);
}

/// No mistake hides another.
#[test]
fn all_mistakes_are_said_at_once() {
    check(&[
        (
            "batch_size = 2\naccumulate_batches = 2",
            "batch_size = 0",
            &[
                "train: missing key `accumulate_batches`; ",
                "train.batch_size: expected a whole number from 1 to 4096, found 0",
            ],
        ),
        (
            "flip_probability = 0.5\nroi_shift = 0.1\n",
            "",
            &["train.stage.0.augmentation: missing keys `flip_probability`, `roi_shift`"],
        ),
    ]);
}

#[test]
fn numbers_out_of_range() {
    check(&[
        ("batch_size = 2", "batch_size = 0", &["train.batch_size: expected a whole number from 1 to 4096, found 0"]),
        ("beta1 = 0.9", "beta1 = 1.0", &["train.optimizer.beta1: expected a number from 0 to 0.999999, found 1.0"]),
        ("beta1 = 0.9", "beta1 = nan", &["train.optimizer.beta1: expected a number from 0 to 0.999999, found nan"]),
        ("padding = 0.1", "padding = -0.1", &["crop.padding: expected a number from 0 to 4, found -0.1"]),
        (
            "learning_rate = 1e-2",
            "learning_rate = inf",
            &["train.stage.0.learning_rate: expected a number from 0 to 10, found inf"],
        ),
        ("epochs = 2", "epochs = 0", &["train.stage.0.epochs: expected a whole number from 1 to 1000000, found 0"]),
        (
            "flip_probability = 0.5",
            "flip_probability = 1.5",
            &["flip_probability: expected a number from 0 to 1, found 1.5"],
        ),
        ("sharpness = 1.0", "sharpness = 0.0", &["train.stage.0.loss.sharpness: expected a number above 0, found 0.0"]),
        ("input_size = 32", "input_size = 34", &["[student]", "expected a multiple of 4", "found 34"]),
        ("[4, 6]", "[4, 6, 8]", &["[student]", "decoder_channels: expected 3 widths", "found 2"]),
        ("input_size = 32", "input_size = 1024", &["[student]: expected at most 8388480 bytes on the chip"]),
        ("bootstrap_resamples = 200", "bootstrap_resamples = 1", &["eval.bootstrap_resamples: expected", "found 1"]),
        ("weight_bits = 8", "weight_bits = 3", &["quantize.weight_bits: expected 8, 4 or 2, found 3"]),
    ]);
}

#[test]
fn keys_that_the_command_line_sets() {
    let place = Place::new();
    let set = |pairs: &[&str]| {
        let sets = pairs.iter().flat_map(|pair| ["--set", pair]);
        let arguments: Vec<String> = ["plan", "tiny.toml"].into_iter().chain(sets).map(String::from).collect();
        arguments
    };
    let shown = |pairs: &[&str]| {
        let arguments = set(pairs);
        place.does(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let printed =
        shown(&["train.batch_size=3", "train.stage.0.epochs = 5", "crop.border=reference", "eval.overlays=4"]);
    for line in ["batch_size = 3", "epochs = 5", "border = \"reference\"", "overlays = 4", "# --set train.batch_size=3"]
    {
        assert!(printed.lines().any(|found| found == line), "{line}: {printed}");
    }
    // What is missing in the file may come from the command line.
    place.config("tiny.toml", &[("seed = 3", "")]);
    assert!(shown(&["seed=9"]).contains("seed = 9"));
    place.config("tiny.toml", &[]);

    let refused = |pairs: &[&str], words: &[&str]| {
        let arguments = set(pairs);
        place.refuses(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), 2, words);
    };
    let keys = [
        "--set train.bach_size: unknown key, perhaps `batch_size`; the keys here are `accumulate_batches`, `batch_size`",
    ];
    refused(&["train.bach_size=4"], &keys);
    refused(
        &["trian.batch_size=4"],
        &["--set trian.batch_size: trian: unknown key, perhaps `train`; the keys here are `crop`, `data`"],
    );
    refused(
        &["train.batch_size=many"],
        &["--set train.batch_size: expected a whole number from 1 to 4096, found \"many\""],
    );
    refused(&["train.batch_size=0"], &["--set train.batch_size: expected a whole number from 1 to 4096, found 0"]);
    refused(&["train.stage.1.epochs=2"], &["--set train.stage.1.epochs: expected an index from 0 to 0, found `1`"]);
    refused(&["seed.low=2"], &["--set seed.low: `low`: there are no keys below this value"]);
    refused(&["crop.rule=rio"], &["--set crop.rule: expected \"center_window\", \"roi\" or \"box\", found \"rio\""]);
    refused(
        &["train.optimizer={ beta1 = 2.0 }"],
        &["--set train.optimizer: missing keys `beta2`, ", "--set train.optimizer: train.optimizer.beta1: expected"],
    );
    refused(&["quantize.budget.weight_bits=4"], &["quantize.budget: missing key `limit`"]);
    // These have lines of usage, as other arguments that cannot be.
    for pair in ["train.batch_size", "seed=[1", "=4"] {
        let output = place.command(&["plan", "tiny.toml", "--set", pair]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{pair}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("--set <KEY=VALUE>"), "{pair}");
    }
    assert!(!place.path("runs").exists());
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
    place.refuses(&["plan", "scenes"], 2, &["scenes: expected a configuration file, found a folder"]);
    fs::write(place.path("tiny.toml"), b"seed = \"\xff\"").unwrap();
    place.refuses(&["train", "tiny.toml"], 2, &["tiny.toml: cannot read the configuration", "UTF-8"]);
    fs::write(place.path("tiny.toml"), "").unwrap();
    place.refuses(
        &["train", "tiny.toml"],
        2,
        &["tiny.toml: missing keys `seed`, `data`, `crop`, `student`, `train`, `eval`"],
    );
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
    fs::write(place.path("notes.txt"), "\nseed = 3").unwrap();
    place.refuses(&["inspect", "notes.txt"], 1, &["notes.txt: expected .s8m, ", "found a file that starts with `seed"]);
    place.refuses(&["inspect", "scenes"], 1, &["scenes: expected a file, a run, a package or a teacher cache"]);
    // 1 is for a candidate that is worse.
    place.refuses(&["gate", "none.json", "none.json"], 2, &["none.json", "No such file"]);
    place.refuses(
        &["teacher", "verify", "empty"],
        1,
        &["empty: no teacher cache: expected a folder with manifest.json"],
    );
    place.refuses(&["teacher", "stats", "none"], 1, &["none: no teacher cache"]);
    place.refuses(&["data", "fetch", "none.toml", "out"], 2, &["none.toml: cannot read the manifest", "No such file"]);
    place.refuses(&["data", "fetch", "tiny.toml", "out"], 2, &["tiny.toml", "missing keys `name`, `archives`"]);
    place.refuses(&["data", "synth", "scenes"], 1, &["scenes: expected a new or empty folder, found files"]);
    let import =
        ["teacher", "import", "none.safetensors", "scenes/annotations/instances_train.json", "scenes/images", "out"];
    place.refuses(&import, 1, &["none.safetensors"]);
    assert!(!place.path("out").exists() && !place.path("runs").exists());
}
