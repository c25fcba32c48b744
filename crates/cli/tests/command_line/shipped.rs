//! The models that ship with Sensei.

use std::path::Path;

use super::Place;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/sensei-box");

#[test]
fn the_shipped_model_is_whole_answers_and_is_trained_further() {
    let place = Place::new();
    for (name, n_values) in [("sensei-box", 16384), ("quickstart", 4096)] {
        let model = Path::new(MODEL).with_file_name(name).display().to_string();
        let out = place.does(&["verify", &model]);
        let without = format!("{name}.onnx: not part of this package");
        assert!(out.contains("files are as they were written") && out.contains(&without), "{out}");
        let out = place.does(&["replay", &model, &format!("{model}/test_vectors")]);
        assert!(out.contains(&format!("1 frames, {n_values} values: all are the model's")), "{out}");
    }
    place.does(&["predict", "quickstart", "scenes/images", "--box", "10,10,30,30", "--out", "of-quickstart"]);

    let annotations = place.path("scenes/annotations/instances_val.json");
    let scenes: serde_json::Value = serde_json::from_slice(&std::fs::read(annotations).unwrap()).unwrap();
    let image = format!("scenes/images/{}", scenes["images"][0]["file_name"].as_str().unwrap());
    place.does(&["predict", MODEL, &image, "--box", "10,10,40,40", "--out", "masks"]);
    let found: serde_json::Value =
        serde_json::from_slice(&std::fs::read(place.path("masks/predictions.json")).unwrap()).unwrap();
    let score = found[0]["score"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&score), "{found}");

    let weights = format!("{MODEL}/student.safetensors");
    let data = ["--train", "scenes/annotations/instances_train.json", "--train-images", "scenes/images"];
    let val = ["--val", "scenes/annotations/instances_val.json", "--val-images", "scenes/images"];
    place.does(&[&["init", "my.toml", "--initial-weights", &weights], &data[..], &val[..]].concat());
    let quick = ["--set", "train.stage.0.epochs=1", "--set", "train.stage.0.warmup_steps=0"];
    place.does(&[&["train", "my.toml"], &quick[..]].concat());
}
