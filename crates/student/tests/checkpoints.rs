//! Checkpoints as users have them: the weights are found whatever lies beside them, and what else there is is said.
//!
//! The files are PyTorch's own (`tests/golden/checkpoints/make.py`); their tensors are given there.

#![expect(clippy::disallowed_methods, reason = "tests make the files they read")]

use std::error::Error;
use std::path::{Path, PathBuf};

use sensei_student::weights::{ElementType, WeightsFile, read_weights};
use sensei_testing::workspace_root;
use tempfile::TempDir;

#[test]
fn weights_are_found_whatever_lies_beside_them() {
    check("beside_loss", Some("model_state_dict"), &["epoch", "optimizer", "loss"]);
    check("beside_rng", Some("state_dict"), &["rng_state", "cuda"]);
    check("beside_class_weights", Some("model"), &["class_weights"]);
    check("beside_in_a_dictionary", Some("student"), &["rng"]);
    check("wrapper_of_another_name", Some("generator"), &["loss", "steps"]);
    check("wrapper_in_a_wrapper", Some("checkpoint.model.state_dict"), &["epoch", "checkpoint.mean"]);
    check("beside_ema", Some("model"), &["ema"]);
    check("beside_larger", Some("state_dict"), &["teacher"]);
    check("only_ema", Some("ema"), &["epoch"]);
    check("keys_that_are_no_names", Some("model"), &[]);
}

#[test]
fn objects_of_other_classes_are_skipped() {
    check("counter", Some("model"), &["scheduler"]);
    check("device_and_type", Some("model"), &["device", "dtype", "size"]);
    check("numpy", Some("model"), &["scalar", "array", "legacy", "pcg", "python"]);
    check("namespace", Some("model"), &["args"]);
    check("defaultdict", Some("state_dict"), &["log"]);
    check("own_dictionary", Some("model"), &[]);
    let objects =
        ["set", "frozen", "bytes", "long", "path", "day", "choice", "settings", "queue", "function", "complex"];
    let file = check("objects", Some("model"), &objects);
    let found = |name: &str| file.ignored.iter().find(|entry| entry.name == name).unwrap().found.as_str();
    assert_eq!(found("path"), "an object of pathlib.PurePosixPath");
    assert_eq!(found("settings"), "an object of __main__.Settings");
    assert_eq!(found("function"), "the class or function __builtin__.print");
    assert_eq!(found("long"), "an integer");
    check("rare_tensors", Some("model"), &["quantized", "complex", "sparse", "float8", "uint16"]);
}

#[test]
fn a_tensor_is_read_however_it_was_written() {
    check("parameters", None, &[]);
    check("attributes", None, &[]);
    for protocol in 3..=5 {
        check(&format!("protocol_{protocol}"), Some("model"), &["long", "set"]);
    }
}

#[test]
fn the_layout_before_torch_1_6_is_read() {
    check("legacy", None, &[]);
    check("legacy_beside", Some("model"), &["epoch", "optimizer", "loss"]);
    check("legacy_protocol_4", None, &[]);
    check("python2", None, &[]);
    let views = read("legacy_views");
    assert_eq!(views.tensors["a.weight"].values, [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(views.tensors["a.bias"].values, [5.0, 6.0]);
    assert_eq!(views.converted["double"], ElementType::F64);
    assert_eq!(views.ignored[0].found, "a tensor of shape [3]");
}

#[test]
fn files_without_one_set_of_weights_are_refused_with_what_they_hold() {
    let advice = "nothing of it was executed. Save model.state_dict(), not the model";
    refuses(
        "refused_module",
        &["expected a dictionary of tensors, found an object of torch.nn.modules.linear.Linear", advice],
    );
    refuses("refused_module_legacy", &["found model (an object of torch.nn.modules.linear.Linear)", advice]);
    refuses(
        "refused_two",
        &["or one under a name such as state_dict or model, found left and right, of 3 tensors each"],
    );
    refuses(
        "refused_other_pickle",
        &["the magic number: expected the one of torch.save, found a list, so not its work"],
    );
}

#[test]
fn what_a_download_left_in_the_place_of_weights_is_named() {
    let dir = TempDir::new().unwrap();
    let check = |content: &str, expected: &str| {
        for name in ["w.pt", "w.pth", "w.safetensors"] {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            let message = chain(&read_weights(&path).unwrap_err());
            assert!(message.starts_with(&path.display().to_string()) && message.contains(expected), "{message}");
        }
    };
    let page = "found a web page (HTML); download the file itself";
    check("<!DOCTYPE html><html><title>Virus scan warning</title>", page);
    check("\u{feff}\n  <HTML lang=\"en\">\n<head>", page);
    check("<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", page);
    let pointer = "found a Git LFS pointer; `git lfs pull` fetches the file itself";
    check("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", pointer);
    check(
        "{\"error\": \"Repository not found\"}\n",
        "found a text that begins \"{\\\"error\\\": \\\"Repository not found\\\"}\"",
    );
    // What is neither stays an error of its format.
    check("PK\u{3}\u{4} and no archive", "not a whole zip archive; if the file was cut, fetch or save it again");
    check("\u{1}\u{0}\u{0}", "expected safetensors or a PyTorch checkpoint");
}

/// Reads a file of `make.py`, whose tensors are those of `state` there.
fn check(name: &str, path_inside: Option<&str>, left_out: &[&str]) -> WeightsFile {
    let file = read(name);
    assert_eq!(file.tensors.keys().collect::<Vec<_>>(), ["a.bias", "a.weight"], "{name}");
    assert_eq!(
        (&file.tensors["a.weight"].shape[..], &file.tensors["a.bias"].shape[..]),
        (&[2, 2][..], &[2][..]),
        "{name}"
    );
    assert_eq!(file.tensors["a.weight"].values, [1.0, 2.0, 3.0, 4.0], "{name}");
    assert_eq!(file.tensors["a.bias"].values, [5.0, 6.0], "{name}");
    assert_eq!(file.path_inside.as_deref(), path_inside, "{name}");
    assert_eq!(file.left_out().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), left_out, "{name}");
    file
}

fn read(name: &str) -> WeightsFile {
    read_weights(&golden(name)).unwrap_or_else(|error| panic!("{}", chain(&error)))
}

fn refuses(name: &str, words: &[&str]) {
    let message = chain(&read_weights(&golden(name)).expect_err(name));
    for word in words {
        assert!(message.contains(word), "{name}: {message}");
    }
}

fn golden(name: &str) -> PathBuf {
    workspace_root().join("tests/golden/checkpoints").join(Path::new(name).with_extension("pt"))
}

/// The error and its sources, as a user sees them.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
