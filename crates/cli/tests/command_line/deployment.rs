//! A run for the chip, and one that ends with a float network.

use std::fs;

use sensei_files::digest_list::list_all;

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

#[test]
fn changed_files_of_a_run_and_a_package_are_refused() {
    let place = Place::new();
    place.does(&["run", "tiny.toml"]);
    let out = place.does(&["verify", "runs/tiny"]);
    assert_eq!(out.matches("files are as they were written").count(), 2, "run and package: {out}");
    let flip = |name: &str| {
        let path = place.path(name);
        let before = fs::read(&path).unwrap();
        let mut bytes = before.clone();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        before
    };
    for (name, command) in [
        ("student.safetensors", &["quantize", "runs/tiny"][..]),
        ("student.s8m", &["export", "runs/tiny"]),
        ("layers.json", &["report", "runs/tiny"]),
        ("eval/report.json", &["export", "runs/tiny"]),
        ("plan.toml", &["eval", "runs/tiny"]),
        ("package/tiny.s8m", &["replay", "runs/tiny/package", "runs/tiny/package/test_vectors"]),
        ("package/manifest.json", &["replay", "runs/tiny/package", "runs/tiny/package/test_vectors"]),
        ("package/tiny.onnx", &["inspect", "runs/tiny/package/tiny.onnx"]),
        ("student.safetensors", &["inspect", "runs/tiny/student.safetensors"]),
    ] {
        let path = format!("runs/tiny/{name}");
        let before = flip(&path);
        let output = place.command(command).output().unwrap();
        assert_ne!(output.status.code(), Some(0), "{command:?} with a flipped bit in {name}");
        let output = place.command(&["verify", "runs/tiny"]).output().unwrap();
        let (out, err) = crate::text(&output);
        assert_eq!(output.status.code(), Some(1), "{name}");
        let file = name.rsplit('/').next().unwrap();
        assert!(out.contains(file) && out.contains("changed since it was written"), "{name}: {out}{err}");
        fs::write(place.path(&path), before).unwrap();
    }
    // A file that fits its digest and not the package.
    let package = place.path("runs/tiny/package");
    let list = fs::read(package.join("SHA256SUMS")).unwrap();
    let unfit = |name: &str, change: &dyn Fn(&std::path::Path), words: &[&str]| {
        let path = package.join(name);
        let before = fs::read(&path).unwrap();
        change(&path);
        list_all(&package).unwrap();
        place.verify_names("runs/tiny/package", words);
        fs::write(&path, before).unwrap();
        fs::write(package.join("SHA256SUMS"), &list).unwrap();
    };
    let manifest = |key: &'static str, value: serde_json::Value| {
        move |path: &std::path::Path| {
            let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
            assert_ne!(manifest[key], value, "{key}");
            manifest[key] = value.clone();
            fs::write(path, serde_json::to_vec(&manifest).unwrap()).unwrap();
        }
    };
    let at = |idx: usize| {
        move |path: &std::path::Path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[idx] ^= 0x80;
            fs::write(path, bytes).unwrap();
        }
    };
    for (key, value, words) in [
        ("input_side", 96.into(), "input_side: expected 96, found 32"),
        ("border", "clipped".into(), "border: expected \"clipped\", found \"corrected\""),
        ("crop", "roi-32-pad0.1-reference".into(), "crop: expected the scores' \"roi-32-pad0.1-corrected\""),
        ("crop", "roi-96-pad0.1-corrected".into(), "crop: expected one of the network's 32 x 32 pixels"),
        ("crop", "square".into(), "crop"),
        ("crop_padding", 0.2.into(), "crop_padding: expected 0.2, found 0.1"),
        ("memory_estimate", serde_json::json!({"runtime": 1}), "memory_estimate: expected {\"runtime\":1}"),
        ("onnx_digest", "0".into(), "onnx_digest: expected \"0\""),
        ("int8_model_digest", "0".into(), "expected the model 0 of the manifest"),
        ("test_vectors", serde_json::json!([1]), "test_vectors: expected 1 pairs"),
    ] {
        unfit("manifest.json", &manifest(key, value), &[words]);
    }
    unfit(
        "manifest.json",
        &|path| fs::remove_file(path).unwrap(),
        &["manifest.json: expected the package's manifest, found none"],
    );
    unfit("test_vectors/0000.input", &at(0), &["0000: ", "values are not the integer model's"]);
    unfit("test_vectors/0001.output", &at(3), &["0001: ", "values are not the integer model's"]);
    let out = place.does(&["verify", "runs/tiny"]);
    assert!(!out.contains("not of this package"), "{out}");
    // What lies beside is told, and is not the package's.
    fs::write(place.path("runs/tiny/package/test_vectors/old.rpk"), "from somewhere").unwrap();
    let out = place.does(&["verify", "runs/tiny/package"]);
    assert!(out.contains("old.rpk: not of this package: SHA256SUMS does not name it"), "{out}");
    fs::remove_file(place.path("runs/tiny/package/test_vectors/old.rpk")).unwrap();
    place.refuses(&["verify", "scenes"], 1, &["scenes: expected a run or a package with a SHA256SUMS, found none"]);
    #[cfg(target_os = "linux")]
    {
        let mut command = std::process::Command::new("sha256sum");
        command.args(["-c", "--quiet", "SHA256SUMS"]).current_dir(place.path("runs/tiny/package"));
        assert!(command.status().unwrap().success(), "sha256sum takes the list");
    }
}
