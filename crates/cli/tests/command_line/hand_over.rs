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
