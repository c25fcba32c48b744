//! From a run to `network.rpk`, with a stand-in for the vendor's converter.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use sensei_files::digest_list::list_all;
use sensei_imx500::dnn_params::{Dimension, DnnParams, DnnTensor, MemoryMap, Network};
use sensei_imx500::packer_out::{PackerOut, Part};
use sensei_imx500::rpk::{InputFormat, Intrinsics, Rpk};

use sensei_imx500::recording::write_pair;
use sensei_int8::interpreter::Interpreter;
use sensei_int8::model_file::read_model;

use super::{Place, files_below, text};

fn packer_out() -> PackerOut {
    let side = |size, serialization| Dimension { size, serialization, padding: 0 };
    let tensor = |name: &str, orders: [u8; 3], channels, kept| DnnTensor {
        ordinal: 0,
        name: name.into(),
        l2_offset: 4096,
        bits: 8,
        shift: 0,
        scale: 0.125,
        signed: true,
        kept,
        dimensions: vec![side(channels, orders[0]), side(32, orders[1]), side(32, orders[2])],
    };
    let network = Network {
        name: "tiny".into(),
        kind: String::new(),
        inputs: vec![tensor("input", [2, 1, 0], 3, true)],
        outputs: vec![tensor("output", [0, 1, 2], 1, false)],
    };
    let part = |address| Part { address, bytes: vec![7; 1000] };
    PackerOut {
        release: [3, 19, 1],
        network_id: "tiny".into(),
        params: DnnParams {
            networks: vec![network],
            memory: MemoryMap { total: 8_388_480, coefficients: 1000, reserved: 1024, runtime: 9000 },
        },
        config_1: part(0x500_0000),
        config_2: part(0x600_0000),
        program_a: part(0x504_0000),
        program_c: part(0x608_0000),
        coefficients: part(0x46b_d0e0),
    }
}

/// A folder with `imxconv-pt` and `java`, and the value of `PATH` that has it first.
fn stand_in(place: &Place, script: &str) -> String {
    let folder = place.path("bin");
    fs::create_dir_all(&folder).unwrap();
    packer_out().write(&folder.join("made.zip")).unwrap();
    fs::write(folder.join("dnnParams.xml"), packer_out().params.to_xml()).unwrap();
    let report = r#"{"Memory Report": {"Name": "tiny", "Runtime Memory Physical Size": "9KB",
        "Model Memory Physical Size": "1KB", "Reserved Memory": "1.00KB", "Memory Usage": "11KB",
        "Total Memory Available On Chip": "8.00MB", "Memory Utilization": "1%", "Fit In Chip": true}}"#;
    fs::write(folder.join("report.json"), report).unwrap();
    for (name, script) in [("imxconv-pt", script), ("java", "")] {
        fs::write(folder.join(name), format!("#!/bin/sh\nD='{}'\n{script}\n", folder.display())).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    format!("{}:/bin:/usr/bin", folder.display())
}

const CONVERT: &str = r#"mkdir -p "$4"; cp "$D/made.zip" "$4/packerOut.zip"; cp "$D/dnnParams.xml" "$4"
cp "$D/report.json" "$4/$(basename "$2" .onnx)_MemoryReport.json""#;

#[test]
fn a_run_is_exported_as_far_as_the_cameras_file() {
    let place = Place::new();
    place.does(&["run", "tiny.toml"]);
    let package = place.path("runs/tiny/package");
    let before = fs::read(package.join("manifest.json")).unwrap();
    let export = |path: &str, more: &[&str]| {
        let arguments = [&["export", "runs/tiny"], more].concat();
        place.command(&arguments).env("PATH", path).output().unwrap()
    };

    // Nothing is on PATH: the package stays as it is.
    let output = export("/nowhere", &["--rpk"]);
    place.refused(&output, 1, &["imxconv-pt: expected an installed program"]);
    assert_eq!(fs::read(package.join("manifest.json")).unwrap(), before);

    // The converter fails, or makes something that cannot be packaged: no package of this, the old one stays.
    for script in ["echo 'ERROR : CODE: [USOP] no' >&2; exit 2", &CONVERT.replace("made.zip", "report.json")] {
        let path = stand_in(&place, script);
        let output = export(&path, &["--rpk"]);
        let (_, err) = text(&output);
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert_eq!(fs::read(package.join("manifest.json")).unwrap(), before);
        assert!(!package.join("network.rpk").exists());
    }

    let path = stand_in(&place, CONVERT);
    let output = export(&path, &["--rpk"]);
    assert!(output.status.success(), "{:?}", text(&output));
    let rpk = Rpk::read(&package.join("network.rpk")).unwrap();
    assert_eq!(rpk, Rpk::new(&packer_out(), InputFormat::Rgb, Some(Intrinsics::of_student())).unwrap());
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(package.join("manifest.json")).unwrap()).unwrap();
    let digest = |name: &str| blake3::hash(&fs::read(package.join(name)).unwrap()).to_hex().to_string();
    // What camera.py makes of a region at the sensor's border.
    assert_eq!(manifest["border"], "corrected");
    assert_eq!(manifest["crop"], "roi-32-pad0.1-corrected");
    assert_eq!(manifest["rpk_digest"], digest("network.rpk"));
    assert_eq!(manifest["packer_out_digest"], digest("imx500/packerOut.zip"));

    place.does(&["verify", "runs/tiny/package"]);
    // What does not belong together, each file with a digest that fits it.
    let unfit = |name: &str, edit: &dyn Fn(&mut Vec<u8>), words: &[&str]| {
        let path = package.join(name);
        let before = fs::read(&path).unwrap();
        let mut bytes = before.clone();
        edit(&mut bytes);
        assert_ne!(bytes, before, "{name}");
        fs::write(&path, bytes).unwrap();
        let list = fs::read(package.join("SHA256SUMS")).unwrap();
        list_all(&package).unwrap();
        place.verify_names("runs/tiny/package", words);
        fs::write(&path, before).unwrap();
        fs::write(package.join("SHA256SUMS"), list).unwrap();
    };
    let text_for = |from: &'static str, to: &'static str| {
        move |bytes: &mut Vec<u8>| *bytes = String::from_utf8(bytes.clone()).unwrap().replacen(from, to, 1).into_bytes()
    };
    let last = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
    unfit("network.rpk", &last, &["rpk_digest: expected", "network.rpk: expected what"]);
    let without = |bytes: &mut Vec<u8>| {
        let mut manifest: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        manifest.as_object_mut().unwrap().remove("rpk_digest");
        *bytes = serde_json::to_vec_pretty(&manifest).unwrap();
    };
    unfit("manifest.json", &without, &["rpk_digest: ", "network.rpk is in this package, and there is no digest of it"]);
    let digest_of_rpk = |bytes: &mut Vec<u8>| {
        let mut manifest: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        manifest["rpk_digest"] = "0".repeat(64).into();
        *bytes = serde_json::to_vec_pretty(&manifest).unwrap();
    };
    unfit("manifest.json", &digest_of_rpk, &["rpk_digest: expected"]);
    unfit("imx500/dnnParams.xml", &text_for("1000", "1001"), &["converter_memory: expected"]);
    place.does(&["verify", "runs/tiny/package"]);

    // The same from the zip alone, and a converter that is named needs no PATH entry of its own.
    place.does(&["rpk", "runs/tiny/package/imx500/packerOut.zip", "bare.rpk"]);
    assert_eq!(Rpk::read(&place.path("bare.rpk")).unwrap().intrinsics(), None);
    let named = place.path("bin/imxconv-pt");
    let output = export("/bin:/usr/bin", &["--converter", named.to_str().unwrap()]);
    assert!(output.status.success(), "{:?}", text(&output));
    assert!(package.join("imx500/packerOut.zip").exists() && !package.join("network.rpk").exists());
}

#[test]
fn the_converter_is_asked_without_a_trace_in_the_package() {
    let place = Place::new();
    place.does(&["run", "tiny.toml"]);
    let path = stand_in(&place, &format!("echo \"$*\" > \"$D/arguments\"; {CONVERT}"));
    let before = files_below(&place.path("runs"));
    let convert = |more: &[&str]| {
        let arguments = [&["convert", "runs/tiny"], more].concat();
        place.command(&arguments).env("PATH", &path).output().unwrap()
    };
    let said = || fs::read_to_string(place.path("bin/arguments")).unwrap();
    let output = convert(&[]);
    let (out, err) = text(&output);
    assert!(output.status.success(), "{err}");
    for words in ["tiny.onnx: accepted in", "coefficients          1000", "runtime               9000", "0.1 % used"] {
        assert!(out.contains(words), "expected {words:?} in: {out}");
    }
    assert!(said().contains("--memory-report") && !said().contains("persistency"), "{}", said());
    assert_eq!(files_below(&place.path("runs")), before, "nothing is left beside or in the package");

    let output = convert(&["--packer-out", "--out", "converted", "--no-input-persistency"]);
    assert!(output.status.success(), "{:?}", text(&output));
    assert!(said().contains("--no-input-persistency") && !said().contains("--memory-report"), "{}", said());
    assert!(place.path("converted/packerOut.zip").is_file());
    place.refused(&convert(&["--out", "converted"]), 1, &["converted: exists already"]);
    place.refused(&convert(&["--packer-out"]), 2, &["--packer-out: expected --out"]);
    let arguments = ["convert", "scenes"];
    place.refused(&place.command(&arguments).env("PATH", &path).output().unwrap(), 1, &["found 0 of them"]);

    // A package whose input is dropped says so.
    let arguments = ["export", "runs/tiny", "--rpk", "--no-input-persistency"];
    let output = place.command(&arguments).env("PATH", &path).output().unwrap();
    assert!(output.status.success(), "{:?}", text(&output));
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(place.path("runs/tiny/package/manifest.json")).unwrap()).unwrap();
    assert_eq!((&manifest["input_kept"], &manifest["converter_memory"]["runtime"]), (&false.into(), &9000.into()));
    let card = fs::read_to_string(place.path("runs/tiny/package/MODEL_CARD.md")).unwrap();
    assert!(card.contains("By the vendor's converter: coefficients 1000 B, runtime 9000 B"), "{card}");
    // 32 lines of 3 planes and 4,096 bytes less.
    let (kept, dropped) = (estimate(&out), manifest["memory_estimate"]["runtime"].as_u64().unwrap());
    assert_eq!(kept - dropped, 3 * 32 * 32 + 4096);
}

/// The estimated bytes at run time, in the table of `convert`.
fn estimate(table: &str) -> u64 {
    let line = table.lines().find(|line| line.starts_with("runtime")).unwrap();
    line.split_whitespace().nth(2).unwrap().parse().unwrap()
}

#[test]
fn files_of_the_sensor_are_explained_or_refused() {
    let place = Place::new();
    stand_in(&place, CONVERT);
    let explains = |file: &str, words: &[&str]| {
        let out = place.does(&["inspect", file]);
        words.iter().for_each(|word| assert!(out.contains(word), "expected {word:?} in: {out}"));
    };
    place.does(&["rpk", "bin/made.zip", "bgr.rpk", "--input-format", "BGR"]);
    fs::rename(place.path("bin/report.json"), place.path("bin/tiny_MemoryReport.json")).unwrap();
    explains("bin/made.zip", &["network \"tiny\"", "coefficients         1000 B at 0x046bd0e0", "input [3, 32, 32]"]);
    explains("bin/dnnParams.xml", &["dimensions from fastest to slowest [2, 1, 0]", "total 11024 of 8388480 B"]);
    explains("bgr.rpk", &["colours BGR", "inputTensorFormat=BGR", "output [1, 32, 32] signed 8 bit"]);
    explains("bin/tiny_MemoryReport.json", &["which fits", "11KB"]);

    let damage = |from: &str, to: &str, at: usize| {
        let mut bytes = fs::read(place.path(from)).unwrap();
        bytes[at] ^= 0x20;
        fs::write(place.path(to), bytes).unwrap();
    };
    damage("bgr.rpk", "damaged.rpk", 68);
    place.refuses(
        &["inspect", "damaged.rpk"],
        1,
        &["damaged.rpk: at byte 68: expected address 0x8000f000, found 0xa000f000"],
    );
    // The version that most public files have, and zeros behind the archive, as GNU cpio leaves them.
    let mut bytes = fs::read(place.path("bgr.rpk")).unwrap();
    bytes[60..64].copy_from_slice(b"0010");
    bytes.resize(bytes.len() + 300, 0);
    fs::write(place.path("other.rpk"), bytes).unwrap();
    let words = [
        "readable, but not byte for byte what Sensei writes:\n",
        "  version 0100 of the network, not 0000\n",
        "  300 zeros follow the archive\n",
        "colours BGR",
        "inputTensorFormat=BGR",
    ];
    explains("other.rpk", &words);
    assert!(!place.does(&["inspect", "bgr.rpk"]).contains("not byte for byte"));
    damage("bin/made.zip", "damaged.zip", 45);
    place.refuses(&["inspect", "damaged.zip"], 1, &["damaged.zip: cfgA.bin: at byte", "expected", "found"]);
    place.refuses(&["rpk", "damaged.zip", "none.rpk"], 1, &["damaged.zip: cfgA.bin"]);
    assert!(!place.path("none.rpk").exists());
    fs::write(place.path("half.xml"), &packer_out().params.to_xml()[..300]).unwrap();
    place.refuses(&["inspect", "half.xml"], 1, &["half.xml: line ", "well-formed XML"]);
    place.refuses(&["rpk", "bin/made.zip", "y.rpk", "--input-format", "Y"], 2, &["expected RGB or BGR", "found Y"]);
}

#[test]
fn intrinsics_that_picamera2_refuses_are_named_by_their_file() {
    let place = Place::new();
    stand_in(&place, CONVERT);
    let write = |name: &str, text: &str| fs::write(place.path(name), text).unwrap();
    write("good.json", r#"{"task": "segmentation", "preserve_aspect_ratio": true}"#);
    write("not-json.json", "{task: x}");
    write("unknown-task.json", r#"{"task": "instance segmentation"}"#);
    let refuses = |name: &str, words: &[&str]| {
        place.refuses(&["rpk", "bin/made.zip", "x.rpk", "--intrinsics", name], 1, words);
        assert!(!place.path("x.rpk").exists());
    };
    refuses("not-json.json", &["error: not-json.json: line 1: expected a JSON object"]);
    let tasks = "\"classification\", \"object detection\", \"pose estimation\" or \"segmentation\"";
    refuses("unknown-task.json", &["error: unknown-task.json: task: ", tasks, "found \"instance segmentation\""]);
    refuses("none.json", &["error: none.json: cannot read"]);
    place.does(&["rpk", "bin/made.zip", "x.rpk", "--intrinsics", "good.json"]);
    assert!(place.does(&["inspect", "x.rpk"]).contains("intrinsics {\"task\": \"segmentation\""));
}

#[test]
fn outputs_in_any_order_are_shown_as_the_host_gets_them() {
    let place = Place::new();
    let mut network = packer_out();
    let outputs = &mut network.params.networks[0].outputs;
    let mut second = outputs[0].clone();
    (second.ordinal, second.name) = (1, "second".into());
    outputs.insert(0, second);
    network.write(&place.path("two.zip")).unwrap();
    place.does(&["rpk", "two.zip", "two.rpk"]);
    for file in ["two.zip", "two.rpk"] {
        let out = place.does(&["inspect", file]);
        let at = |words: &str| out.find(words).unwrap_or_else(|| panic!("expected {words:?} in: {out}"));
        assert!(at("tiny: output output [") < at("tiny: output second ["), "{out}");
        at("listed in the order 1, 0");
        assert!(!out.contains("not byte for byte"), "{out}");
    }
}

#[test]
fn test_vectors_replay_as_the_model_and_damage_does_not() {
    let place = Place::new();
    place.does(&["run", "tiny.toml"]);
    let package = place.path("runs/tiny/package");
    let card = fs::read_to_string(package.join("MODEL_CARD.md")).unwrap();
    let known = [
        "# tiny",
        "inscribed_ellipse",
        "int8",
        "plan ",
        "multiply-accumulates a mask",
        "its training ended 20",
        "Data: COCO files instances_train.json (training), instances_val.json (validation). Teacher: none.",
        "The vendor's converter has not been asked.",
        "None is stated by the run.",
    ];
    for words in known {
        assert!(card.contains(words), "expected {words:?} in: {card}");
    }
    // Four crops of 32 pixels and their answers, each pixel drawn as four.
    let picture = fs::read(package.join("picture.png")).unwrap();
    let size = |at: usize| u32::from_be_bytes(picture[at..at + 4].try_into().unwrap());
    assert!(size(16) > 2 * 64 && size(20) > 4 * 64, "{} x {}", size(16), size(20));
    let out = place.does(&["replay", "runs/tiny/package", "runs/tiny/package/test_vectors"]);
    assert!(out.contains("4 frames, 4096 values: all are the model's"), "{out}");
    let layers = fs::read(package.join("test_vectors/0000.layers.safetensors")).unwrap();
    let layers = safetensors::SafeTensors::deserialize(&layers).unwrap();
    assert_eq!(layers.tensor("input").map_or(0, |tensor| tensor.data().len()), 2 * 3 * 32 * 32, "{:?}", layers.names());

    // What camera.py writes, here from the test vectors as its camera; it needs numpy.
    if sensei_testing::python_has(&["numpy"], "camera.py on recorded tensors") {
        let mut camera = Command::new("python3");
        camera.arg(package.join("camera.py")).args(["record", "recorded", "4"]).current_dir(place.path("."));
        let recorded = camera.env("SENSEI_TENSORS", package.join("test_vectors")).output().unwrap();
        assert!(recorded.status.success(), "{:?}", text(&recorded));
        place.does(&["replay", "runs/tiny/package", "recorded"]);
    }

    let vectors = package.join("test_vectors");
    let mut sent = fs::read(vectors.join("0002.output")).unwrap();
    sent[4..8].copy_from_slice(&0f32.to_le_bytes());
    sent[8..12].copy_from_slice(&0f32.to_le_bytes());
    fs::write(vectors.join("0002.output"), sent).unwrap();
    let replay = ["replay", "runs/tiny/package", "runs/tiny/package/test_vectors"];
    place.refuses(&replay, 1, &["of 4096 recorded values are not the model's"]);
    fs::remove_file(vectors.join("0001.input")).unwrap();
    place.refuses(&replay, 1, &["0001.input", "cannot read"]);
    place.refuses(&["replay", "runs/tiny", "runs/tiny"], 1, &["manifest.json"]);
}

/// The camera's part is the interpreter's here.
#[test]
fn what_a_camera_answers_to_the_inputs_is_a_row_of_its_own() {
    let place = Place::new();
    place.does(&["run", "tiny.toml"]);
    let out = place.does(&["eval", "runs/tiny", "--write-inputs", "inputs"]);
    assert!(out.contains("inputs: 7 inputs; next, on the camera: camera.py inject inputs"), "{out}");
    place.refuses(&["eval", "runs/tiny", "--write-inputs", "inputs"], 1, &["expected an empty folder"]);

    let model = read_model(&place.path("runs/tiny/student.s8m")).unwrap();
    let interpreter = Interpreter::new(&model);
    let answers = place.path("answers");
    fs::create_dir(&answers).unwrap();
    let inputs = files_below(&place.path("inputs"));
    for file in &inputs {
        let input: Vec<i16> = fs::read(file).unwrap().into_iter().map(|byte| i16::from(byte as i8)).collect();
        let name = file.file_stem().unwrap().to_str().unwrap();
        write_pair(&answers, name, &input, &interpreter.run(&input).unwrap()).unwrap();
    }
    let eval = ["eval", "runs/tiny", "--recorded", "answers"];
    let out = place.does(&eval);
    let row = |name: &str| {
        let line = out.lines().find(|line| line.split_whitespace().next() == Some(name)).unwrap();
        line.split_whitespace().skip(1).map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(row("device"), row("int8"));
    assert!(out.contains("device - int8"), "{out}");
    assert!(place.path("runs/tiny/eval-recorded/report.json").exists());

    // Another picture's answer, and one that is missing.
    let name = inputs[3].file_name().unwrap();
    let mut other = fs::read(answers.join(name)).unwrap();
    other[5] ^= 1;
    fs::write(answers.join(name), other).unwrap();
    let name = name.to_str().unwrap();
    place.refuses(&eval, 1, &[name, "expected this sample's input", "at byte 5"]);
    fs::remove_file(answers.join(name)).unwrap();
    place.refuses(&eval, 1, &[name, "cannot read"]);
}

#[test]
fn a_student_with_every_option_goes_the_whole_way() {
    let place = Place::new();
    let on_the_grid = "[train.stage.quantization]
threshold_learning_rate = 1e-2
hold_thresholds_after = 4
hold_norms_after = 2

[eval]";
    let options = [
        ("bilinear_upsampling = false", "bilinear_upsampling = true"),
        ("activation = \"relu\"", "activation = \"relu6\""),
        ("downsampling = \"dense\"", "downsampling = \"depthwise\""),
        ("[eval]", on_the_grid),
    ];
    place.config("tiny.toml", &options);
    let out = place.does(&["run", "tiny.toml"]);
    assert!(out.contains("int8: fake-quant and integers agree in every layer"), "{out}");
    let nodes = place.does(&["inspect", "runs/tiny/package/tiny.onnx"]);
    assert_eq!(nodes.matches("upsample bilinear").count(), 2, "{nodes}");
    let blocks = 2 + 2 + 2 + 2; // of encoder, downsampling, bottleneck and decoder, two convolutions each
    assert_eq!(nodes.matches("conv + ReLU6").count(), 2 * blocks + 1, "{nodes}");
    let scores = place.does(&["eval", "runs/tiny"]);
    assert!(scores.contains("int8 - float"), "{scores}");
    place.does(&["inspect", "runs/tiny/student.safetensors"]);
}
