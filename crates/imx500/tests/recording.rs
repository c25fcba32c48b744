//! Recorded tensors against the integer model.

#![expect(clippy::disallowed_methods, reason = "tests make the files they read")]
#![allow(clippy::unwrap_used)] // tests

mod sample;

use std::fs;
use std::path::Path;

use sensei_imx500::recording::{compare, write_pair};
use sensei_int8::interpreter::Interpreter;
use sensei_int8::model::IntegerModel;

fn record(model: &IntegerModel, folder: &Path, n: usize) {
    let interpreter = Interpreter::new(model);
    for frame in 0..n {
        let len = model.input().shape.iter().product::<usize>();
        let input: Vec<i16> = (0..len).map(|at| ((at * 37 + frame * 101) % 256) as i16 - 128).collect();
        write_pair(folder, &format!("{frame:04}"), &input, &interpreter.run(&input).unwrap()).unwrap();
    }
}

#[test]
fn what_the_model_wrote_is_what_it_computes() {
    let (folder, model) = (tempfile::tempdir().unwrap(), sample::SMALL3.model());
    record(&model, folder.path(), 3);
    let frames = compare(&model, folder.path()).unwrap();
    assert_eq!(frames.iter().map(|frame| frame.name.as_str()).collect::<Vec<_>>(), ["0000", "0001", "0002"]);
    assert!(frames.iter().all(|frame| frame.values > 1 && frame.mismatches == 0 && frame.first.is_none()));
}

#[test]
fn outputs_lie_column_by_column_and_differences_are_named() {
    let (folder, model) = (tempfile::tempdir().unwrap(), sample::SMALL3.model());
    record(&model, folder.path(), 1);
    let [channels, height, width] = model.output().shape;
    let path = folder.path().join("0000.output");
    let mut sent = fs::read(&path).unwrap();
    // The second value of the second column: row 1, column 1.
    let (column, row) = (1, 1);
    let at = 4 * channels * (column * height + row);
    let step = model.output().grid.step() as f32;
    let value = f32::from_le_bytes(sent[at..at + 4].try_into().unwrap());
    sent[at..at + 4].copy_from_slice(&(value + 2.0 * step).to_le_bytes());
    fs::write(&path, &sent).unwrap();
    let frame = compare(&model, folder.path()).unwrap().remove(0);
    assert_eq!((frame.mismatches, frame.max_steps, frame.values), (1, 2, channels * height * width));
    let (place, expected, found) = frame.first.unwrap();
    assert_eq!((place, found - i32::from(expected)), ([0, row, column], 2));
}

#[test]
fn what_is_no_recording_is_refused() {
    let model = sample::SMALL3.model();
    let refused = |damage: &dyn Fn(&Path), words: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        record(&model, folder.path(), 1);
        damage(folder.path());
        let error = compare(&model, folder.path()).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    refused(&|folder| fs::remove_file(folder.join("0000.input")).unwrap(), &["0000.input", "cannot read"]);
    refused(&|folder| fs::write(folder.join("0000.input"), [0; 3]).unwrap(), &["0000.input", "bytes, found 3"]);
    let off_grid = |folder: &Path| {
        let path = folder.join("0000.output");
        let mut sent = fs::read(&path).unwrap();
        sent[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        fs::write(path, sent).unwrap();
    };
    refused(&off_grid, &["0000.output", "multiples of", "NaN at 0"]);
    let empty = tempfile::tempdir().unwrap();
    assert!(compare(&model, empty.path()).unwrap_err().to_string().contains("found none"));
    assert!(compare(&model, &empty.path().join("none")).unwrap_err().to_string().contains("cannot list"));
}
