//! A run's folder on a machine that has not its data.

use std::fs;

use super::{Place, files_below};

/// Contents of the files below a folder of a place, by name.
fn contents(place: &Place, folder: &str) -> Vec<(String, Vec<u8>)> {
    let root = place.path(folder);
    let name = |path: &std::path::Path| path.strip_prefix(&root).unwrap().display().to_string();
    let below = files_below(&root);
    let files = below.iter().filter(|path| path.is_file());
    let mut found: Vec<_> = files.map(|path| (name(path), fs::read(path).unwrap())).collect();
    found.sort();
    found
}

#[test]
fn a_run_is_quantized_and_exported_where_its_data_are_not() {
    let place = Place::new();
    place.does(&["run", "tiny.toml"]);
    let (model, package) =
        (fs::read(place.path("runs/tiny/student.s8m")).unwrap(), contents(&place, "runs/tiny/package"));
    fs::rename(place.path("scenes"), place.path("elsewhere")).unwrap();
    fs::create_dir(place.path("handed")).unwrap();
    fs::rename(place.path("runs/tiny"), place.path("handed/tiny")).unwrap();
    fs::remove_file(place.path("handed/tiny/student.s8m")).unwrap();
    fs::remove_dir_all(place.path("handed/tiny/package")).unwrap();

    place.refuses(&["quantize", "handed/tiny"], 1, &["scenes/annotations/instances_train.json", "cannot read"]);
    place.does(&["quantize", "handed/tiny", "--reuse"]);
    assert!(model == fs::read(place.path("handed/tiny/student.s8m")).unwrap(), "the same integers");
    place.does(&["export", "handed/tiny"]);
    assert!(package == contents(&place, "handed/tiny/package"), "the same package");
    place.does(&["verify", "handed/tiny"]);
    // Under another name it is still the same network: its name is in the files and in their digests.
    fs::rename(place.path("handed/tiny"), place.path("handed/other")).unwrap();
    place.does(&["quantize", "handed/other", "--reuse"]);
    assert!(model == fs::read(place.path("handed/other/student.s8m")).unwrap(), "the same integers");
    place.does(&["export", "handed/other"]);
    assert!(package == contents(&place, "handed/other/package"), "the same package");
    fs::rename(place.path("handed/other"), place.path("handed/tiny")).unwrap();

    // Damaged, gone, or of a version that kept none: that one needs its data.
    let (samples, list) = (place.path("handed/tiny/samples.safetensors"), place.path("handed/tiny/SHA256SUMS"));
    let (whole, listed) = (fs::read(&samples).unwrap(), fs::read_to_string(&list).unwrap());
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&samples, damaged).unwrap();
    let (quantize, export) = (["quantize", "handed/tiny", "--reuse"], ["export", "handed/tiny"]);
    place.refuses(&quantize, 1, &["samples.safetensors", "changed since it was written"]);
    place.refuses(&export, 1, &["samples.safetensors", "changed since it was written"]);
    fs::remove_file(&samples).unwrap();
    place.refuses(&quantize, 1, &["samples.safetensors", "SHA256SUMS names, found none"]);
    place.refuses(&export, 1, &["samples.safetensors", "SHA256SUMS names, found none"]);
    let without: Vec<&str> = listed.lines().filter(|line| !line.ends_with("samples.safetensors")).collect();
    fs::write(&list, without.join("\n") + "\n").unwrap();
    place.refuses(&quantize, 1, &["samples.safetensors", "cannot read"]);
    place.refuses(&export, 1, &["instances_train.json", "cannot read"]);
    fs::rename(place.path("elsewhere"), place.path("scenes")).unwrap();
    let out = place.does(&export);
    assert!(out.contains("samples.safetensors: none in this run; crops are taken from its data"), "{out}");
    assert!(package == contents(&place, "handed/tiny/package"), "the same package");
}

#[test]
fn a_package_is_scored_where_its_training_data_are_not() {
    let place = Place::new();
    place.does(&["run", "tiny.toml"]);
    let report =
        |file: &str| -> serde_json::Value { serde_json::from_slice(&fs::read(place.path(file)).unwrap()).unwrap() };
    let own = report("runs/tiny/eval/report.json");
    fs::remove_file(place.path("scenes/annotations/instances_train.json")).unwrap();
    place.refuses(&["eval", "runs/tiny"], 1, &["instances_train.json"]);

    let out = place.does(&["eval", "runs/tiny", "--package"]);
    assert!(out.contains("mean_iou_in_crop is the manifest's, to the last bit"), "{out}");
    assert!(out.contains("no rows constant_mask and centred_disc"), "{out}");
    let found = report("runs/tiny/eval-package/report.json");
    let row = |report: &serde_json::Value, name: &str| {
        let rows = report["predictors"].as_array().unwrap();
        rows.iter().find(|row| row["scores"]["predictor"] == name).map(|row| row["scores"]["instances"].clone())
    };
    for name in ["filled_box", "inscribed_ellipse", "grid_ceiling", "int8"] {
        assert!(row(&found, name).is_some() && row(&found, name) == row(&own, name), "{name}");
    }
    assert_eq!(row(&found, "float"), None);
    assert_eq!(found["protocol_hash"], own["protocol_hash"]);
    assert!(place.path("runs/tiny/eval-package/overlays.png").is_file());

    // The package alone, elsewhere, on annotations that are named.
    fs::rename(place.path("runs/tiny/package"), place.path("delivered")).unwrap();
    fs::remove_dir_all(place.path("runs")).unwrap();
    let on = ["--annotations", "scenes/annotations/instances_val.json", "--images", "scenes/images"];
    let eval = |more: &[&'static str]| [&["eval", "delivered", "--package"], more].concat();
    let out = place.does(&eval(&[&on[..], &["--out", "scores"]].concat()));
    assert!(out.contains("is the manifest's, to the last bit"), "{out}");
    assert_eq!(row(&report("scores/report.json"), "int8"), row(&own, "int8"));
    let out = place.does(&eval(&[&on[..], &["--protocol", "sensei-box", "--out", "other"]].concat()));
    assert!(!out.contains("is the manifest's"), "another protocol is not compared: {out}");

    place.refuses(&eval(&[]), 2, &["delivered: expected --annotations and --images"]);
    place.refuses(&["eval", "scenes", "--package"], 2, &["scenes: expected a package, or a run that has one"]);
    let mut model = fs::read(place.path("delivered/tiny.s8m")).unwrap();
    let at = model.len() / 2;
    model[at] ^= 1;
    fs::write(place.path("delivered/tiny.s8m"), model).unwrap();
    place.refuses(&eval(&on), 1, &["delivered/tiny.s8m"]);
}
