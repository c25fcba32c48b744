//! The committed schemas, by another program's validator: they accept what this program accepts, and name the key of what it refuses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sensei_testing::{skipped, workspace_root};

use crate::{Place, TINY};

/// Prints a line for each file: its name and, as JSON, what is wrong with it; `-` if nothing is.
const VALIDATE: &str = r#"
import json, sys, tomllib
from jsonschema import Draft7Validator

def words(error):
    # Of alternatives, those of the one that the tag names.
    of_branch = {}
    for below in error.context:
        of_branch.setdefault(below.schema_path[0], []).append(below)
    right = [errors for errors in of_branch.values() if not any(below.validator == "const" for below in errors)]
    below = [word for errors in (right or of_branch.values()) for error in errors for word in words(error)]
    return below or [".".join(str(step) for step in error.absolute_path) + ": " + error.message]

schema = json.load(open(sys.argv[1]))
Draft7Validator.check_schema(schema)
for name in sys.argv[2:]:
    with open(name, "rb") as file:
        errors = Draft7Validator(schema).iter_errors(tomllib.load(file))
    found = [word for error in errors for word in words(error)]
    print(json.dumps(found) if found else "-")
"#;

/// What the validator says of each file; `None` where there is no such program.
fn validated(schema: &str, files: &[PathBuf]) -> Option<Vec<String>> {
    let has_validator = "import jsonschema, tomllib";
    if !Command::new("python3").args(["-c", has_validator]).output().is_ok_and(|done| done.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "python3 has no jsonschema, and CI must not skip");
        skipped("schema", "python3 has no modules jsonschema and tomllib");
        return None;
    }
    let schema = workspace_root().join("configs/schema").join(schema);
    let done = Command::new("python3").args(["-c", VALIDATE]).arg(schema).args(files).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let said = String::from_utf8(done.stdout).unwrap();
    Some(said.lines().map(String::from).collect())
}

fn toml_files(folder: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|ending| ending == "toml")).collect();
    files.sort();
    files
}

#[test]
fn every_shipped_file_is_accepted() {
    let shipped =
        [("run.json", "configs", 10), ("promptable.json", "configs", 5), ("protocol.json", "configs/protocols", 8)];
    for (schema, folder, at_least) in shipped {
        let mut files = toml_files(&workspace_root().join(folder));
        files.retain(|file| fs::read_to_string(file).unwrap().lines().next().unwrap().ends_with(&format!("/{schema}")));
        assert!(files.len() >= at_least, "{folder}");
        let Some(said) = validated(schema, &files) else { return };
        assert_eq!(said.len(), files.len());
        for (file, said) in files.iter().zip(said) {
            assert_eq!(said, "-", "{}", file.display());
        }
    }
}

#[test]
fn wrong_files_are_refused_with_the_key_by_schema_and_program() {
    let place = Place::new();
    // What is changed, what the validator's words and what ours have in them.
    let cases = [
        ("seed = 3", "sead = 3", "'sead' was unexpected", "sead: unknown key"),
        ("seed = 3", "seed = -3", "seed: -3 is less than", "seed: expected a whole number, 0 or above, found -3"),
        ("padding = 0.1", "pading = 0.1", "crop: 'padding' is a required property", "crop: missing key `padding`"),
        ("padding = 0.1", "padding = 4.5", "crop.padding: 4.5 is greater", "crop.padding: expected"),
        (
            "border = \"corrected\"",
            "border = \"none\"",
            "crop.border: 'reference' was expected",
            "crop.border: expected",
        ),
        ("rule = \"roi\"", "rule = \"rio\"", "crop.rule: 'roi' was expected", "crop.rule: expected"),
        ("batch_size = 2", "batch_size = \"2\"", "train.batch_size: '2' is not of type", "train.batch_size: expected"),
        (
            "sharpness = 1.0",
            "sharpness = 0.0",
            "train.stage.0.loss.sharpness: 0.0",
            "train.stage.0.loss.sharpness: expected",
        ),
        (
            "\"truth_dice\", weight = 1.0",
            "\"truth_dice\", wieght = 1.0",
            "train.stage.0.loss.terms.1: Additional properties are not allowed ('wieght'",
            "train.stage.0.loss.terms.1.wieght: unknown key",
        ),
        (
            "encoder_channels = [4, 6]",
            "encoder_channels = []",
            "student.encoder_channels: [] ",
            "encoder_channels: expected",
        ),
        (
            "weight_bits = 8",
            "weight_bits = 3",
            "quantize.weight_bits: 3 is not one of",
            "quantize.weight_bits: expected",
        ),
        ("bootstrap_seed = 0", "", "eval: 'bootstrap_seed' is a required", "eval: missing key `bootstrap_seed`"),
    ];
    let mut files = vec![place.path("right.toml")];
    fs::write(&files[0], TINY).unwrap();
    for (idx, (from, to, _, ours)) in cases.iter().enumerate() {
        let name = format!("wrong-{idx}.toml");
        place.config(&name, &[(from, to)]);
        place.refuses(&["plan", &name], 2, &[&name, ours]);
        files.push(place.path(&name));
    }
    let Some(said) = validated("run.json", &files) else { return };
    assert_eq!((said.len(), said[0].as_str()), (files.len(), "-"));
    for ((_, to, theirs, _), said) in cases.iter().zip(&said[1..]) {
        assert!(said.contains(theirs), "{to}: {said}");
    }
}

#[test]
fn printed_schemas_are_the_committed_ones() {
    let place = Place::new();
    for (option, file) in
        [("--schema", "run.json"), ("--schema=run", "run.json"), ("--schema=protocol", "protocol.json")]
    {
        let committed = fs::read_to_string(workspace_root().join("configs/schema").join(file)).unwrap();
        assert_eq!(place.does(&["plan", option]), committed, "{option}");
    }
    for wrong in [&["plan"][..], &["plan", "--schema", "tiny.toml"], &["plan", "--schema=teacher"]] {
        assert_eq!(place.command(wrong).output().unwrap().status.code(), Some(2), "{wrong:?}");
    }
}
