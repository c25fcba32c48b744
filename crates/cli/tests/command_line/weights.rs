//! Weights of other programs: scored, explained, and what is no weights named. `crates/student/tests` has the kinds.

use std::collections::BTreeMap;
use std::fs;

use sensei_student::weights::{read_weights, write_weights};
use sensei_tensor::network::{HostTensor, NamedWeights};
use sensei_testing::{shared_dir, skipped};

use crate::{LITE, Place, text};

#[test]
fn weights_behind_prefixes_score_as_without_and_what_is_left_out_is_said() {
    let place = Place::new();
    place.does(&["train", "tiny.toml"]);
    let own = read_weights(&place.path("runs/tiny/student.safetensors")).unwrap().tensors;
    let mut prefixed: NamedWeights =
        own.into_iter().map(|(name, tensor)| (format!("student._orig_mod.{name}"), tensor)).collect();
    prefixed.insert("class\nweights".into(), HostTensor { shape: vec![2], values: vec![1.0, 2.0] });
    write_weights(&place.path("other.safetensors"), &prefixed, &BTreeMap::new()).unwrap();

    let plain = place.does(&["eval", "runs/tiny", "--weights", "runs/tiny/student.safetensors"]);
    let other = place.does(&["eval", "runs/tiny", "--weights", "other.safetensors"]);
    assert_eq!(row(&plain, "float"), row(&other, "float"));
    assert!(!plain.contains("left out: class"), "{plain}");
    let note = r"other.safetensors: the weights are those named student.*; left out: class\nweights [2]";
    assert!(other.lines().any(|line| line == note), "{other}");

    // Training that begins with them says it, too.
    let begin = "accumulate_batches = 2\ninitial_weights = \"other.safetensors\"";
    place.config("begin.toml", &[("accumulate_batches = 2", begin)]);
    let begun = place.does(&["train", "begin.toml"]);
    assert!(begun.lines().any(|line| line.ends_with(note)), "{begun}");
}

/// From published weights of an encoder to a package whose integers are scored.
#[test]
fn a_student_starts_from_a_published_encoder() {
    let place = Place::new();
    let mut edits = LITE.to_vec();
    edits.push(("encoder_channels = [4, 6]", "encoder_blocks = 3"));
    place.config("lite.toml", &edits);
    place.does(&["train", "lite.toml"]);
    // What a file of the whole published network has: these names without the student's prefix, and more blocks.
    let own = read_weights(&place.path("runs/lite/student.safetensors")).unwrap().tensors;
    let mut published: NamedWeights = own
        .into_iter()
        .filter_map(|(name, tensor)| Some((name.strip_prefix("encoder.")?.to_string(), tensor)))
        .collect();
    let later = HostTensor { shape: vec![2], values: vec![1.0, 2.0] };
    published.insert("_blocks.3._bn1.bias".into(), later);
    write_weights(&place.path("lite0.safetensors"), &published, &BTreeMap::new()).unwrap();

    let start = "accumulate_batches = 2\nencoder_weights = \"lite0.safetensors\"";
    edits.push(("accumulate_batches = 2", start));
    place.config("begun.toml", &edits);
    let begun = place.does(&["run", "begun.toml"]);
    let note = format!(
        "lite0.safetensors: {} tensors of the encoder taken, 1 of later layers left out; ",
        published.len() - 1
    );
    assert!(begun.contains(&note), "{begun}");
    assert!(row(&begun, "int8").contains("int8"), "{begun}");

    // Weights of something else are refused before the first step, by the first name that is missing.
    published.remove("_conv_stem.weight");
    write_weights(&place.path("lite0.safetensors"), &published, &BTreeMap::new()).unwrap();
    fs::remove_dir_all(place.path("runs/begun")).unwrap();
    let words = ["lite0.safetensors: _conv_stem.weight: expected a tensor of shape [32, 3, 3, 3], found "];
    place.refuses(&["run", "begun.toml"], 1, &words);
    assert!(!place.path("runs/begun/checkpoints").exists());
}

#[test]
fn names_of_tensors_cannot_steer_a_terminal() {
    let place = Place::new();
    let hostile = HostTensor { shape: vec![1], values: vec![0.0] };
    let tensors = NamedWeights::from([("a\u{1b}[2J\u{1b}]0;title\u{7}\n".to_string(), hostile)]);
    write_weights(&place.path("w.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    let shown = r"a\u{1b}[2J\u{1b}]0;title\u{7}";
    let out = place.does(&["inspect", "w.safetensors"]);
    assert!(out.contains(&format!("{shown}\\n [1]")) && !out.contains('\u{1b}'), "{out:?}");
    place.does(&["train", "tiny.toml"]);
    let output = place.command(&["eval", "runs/tiny", "--weights", "w.safetensors"]).output().unwrap();
    let (_, err) = text(&output);
    assert!(err.contains(shown) && !err.contains('\u{1b}') && !err.contains('\u{7}'), "{err:?}");
}

#[test]
fn the_shared_cases_score_or_are_named() {
    let test = "the_shared_cases_score_or_are_named";
    let Some(shared) = shared_dir(test) else { return };
    let cases = shared.join("cases/checkpoints");
    if !cases.is_dir() {
        skipped(test, &format!("no cases at {}", cases.display()));
        return;
    }
    let place = Place::new();
    fs::create_dir(place.path("img")).unwrap();
    for name in ["img", "."] {
        for entry in fs::read_dir(cases.join(name)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::write(place.path(name).join(path.file_name().unwrap()), fs::read(&path).unwrap()).unwrap();
            }
        }
    }
    // The configuration of the cases is older than these keys.
    let config = fs::read_to_string(cases.join("tiny.toml")).unwrap().replace("[prompt]", "[crop]");
    let config = match config.contains("activation") {
        true => config,
        false => config.replace("[train]\n", "activation = \"relu\"\ndownsampling = \"dense\"\n[train]\n"),
    };
    fs::write(place.path("tiny.toml"), config).unwrap();
    place.does(&["train", "tiny.toml", "--runs", "runs"]);

    let plain = read_weights(&cases.join("plain.safetensors")).unwrap().tensors;
    for prefix in ["", "_orig_mod.", "module._orig_mod.", "student.", "model."] {
        let prefixed = plain.iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor.clone())).collect();
        write_weights(&place.path("w.safetensors"), &prefixed, &BTreeMap::new()).unwrap();
        let out = place.does(&["eval", "runs/tiny", "--weights", "w.safetensors"]);
        assert!(row(&out, "float").contains("0.8014"), "{prefix}: {out}");
    }
    fs::write(place.path("w.pth"), "<!DOCTYPE html><html><title>Virus scan warning</title>").unwrap();
    place.refuses(&["eval", "runs/tiny", "--weights", "w.pth"], 1, &["w.pth", "HTML"]);
    fs::write(place.path("w.safetensors"), "version https://git-lfs.github.com/spec/v1\noid sha256:00\n").unwrap();
    place.refuses(&["inspect", "w.safetensors"], 1, &["w.safetensors", "Git LFS pointer", "git lfs pull"]);
    let hostile = shared.join("cases/hostile/control-characters.safetensors");
    let out = place.does(&["inspect", hostile.to_str().unwrap()]);
    assert!(out.contains(r"a\u{1b}[2J\u{1b}]0;title\u{7}\n [2]") && !out.contains('\u{1b}'), "{out:?}");
}

/// The line of a table that begins with this word.
fn row<'a>(out: &'a str, predictor: &str) -> &'a str {
    let line = out.lines().find(|line| line.split_whitespace().next() == Some(predictor));
    line.unwrap_or_else(|| panic!("no row {predictor} in: {out}"))
}
