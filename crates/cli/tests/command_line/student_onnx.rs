//! A chip student as ONNX for stock runtimes: what onnxruntime says is what the networks say.

use std::fs;
use std::path::Path;
use std::process::Command;

use burn::tensor::{Device, Tensor, TensorData};
use sensei_graph::layer_graph::LayerGraph;
use sensei_int8::interpreter::Interpreter;
use sensei_int8::model_file::read_model;
use sensei_onnx::builder::{Ends, NamedValues};
use sensei_onnx::encoder::{BatchNorms, float_network};
use sensei_student::fold::fold_batch_norm;
use sensei_student::lite_unet::LiteUnetConfig;
use sensei_student::student::Student;
use sensei_student::weights::read_weights;
use sensei_tensor::network::{NamedWeights, host_values};
use sensei_testing::python_has;

use crate::{LITE, Place, tiny_student};

/// Asks a float file about an image of bytes.
const ASK_FLOAT: &str = r#"
import sys
import numpy as np
import onnxruntime as ort
folder, input = sys.argv[1:]
image = np.fromfile(input, np.int8).reshape(1, 3, 128, 128) / np.float32(128)
session = ort.InferenceSession(f"{folder}/float.onnx", providers=["CPUExecutionProvider"])
session.run(["logits"], {"image": image})[0].tofile(f"{folder}/float.f32")
"#;

/// Asks both files about the crop of the package's first test vector.
const ASK: &str = r#"
import sys
import numpy as np
import onnxruntime as ort
run = sys.argv[1]
image = np.fromfile(f"{run}/package/test_vectors/0000.input", np.int8).reshape(1, 3, 32, 32) / np.float32(128)
options = ort.SessionOptions()
# Before VNNI, x86 processors saturate sums of two products otherwise.
options.add_session_config_entry("session.x64quantprecision", "1")
for name in ("float", "int8"):
    session = ort.InferenceSession(f"{run}/onnx/student-{name}.onnx", options, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": image})
    assert logits.shape == (1, 1, 32, 32), logits.shape
    logits.tofile(f"{run}/{name}.f32")
"#;

fn read(path: &Path) -> Vec<f32> {
    fs::read(path).unwrap().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// What onnxruntime says of integers of an image, and what our floats say.
fn check_floats(run: &str, graph: LayerGraph, weights: &NamedWeights, input: &[i16], said: &[f32]) {
    let (device, side) = (Device::flex(), graph.input_size());
    let student = Student::from_weights(graph, weights, &device).unwrap();
    let image: Vec<f32> = input.iter().map(|&q| f32::from(q) / 128.0).collect();
    let image = Tensor::from_data(TensorData::new(image, [1, 3, side, side]), &device);
    let expected = host_values(&student.forward_eval(image).reshape([side * side]));
    let farthest = said.iter().zip(&expected).map(|(said, ours)| (said - ours).abs()).fold(0.0, f32::max);
    let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    assert_eq!(said.len(), expected.len(), "{run}");
    assert!(farthest <= 1e-4 && largest > 0.01, "{run}: float: {farthest} of {largest}");
}

fn integers(file: &Path) -> Vec<i16> {
    fs::read(file).unwrap().iter().map(|byte| i16::from(byte.cast_signed())).collect()
}

fn check(place: &Place, run: &str, graph: LayerGraph) {
    let folder = place.path(&format!("runs/{run}"));
    place.does(&["run", &format!("{run}.toml")]);
    let files = ["student-float.onnx", "student-int8.onnx"].map(|name| folder.join("onnx").join(name));
    let made = files.each_ref().map(|file| fs::read(file).unwrap());
    place.does(&["export", &format!("runs/{run}")]);
    assert!(files.each_ref().map(|file| fs::read(file).unwrap()) == made, "exported again to the same bytes");
    place.does(&["verify", &format!("runs/{run}")]);

    let done = Command::new("python3").args(["-c", ASK]).arg(&folder).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let input = integers(&folder.join("package/test_vectors/0000.input"));
    let weights = read_weights(&folder.join("student.safetensors")).unwrap().tensors;
    check_floats(run, graph, &weights, &input, &read(&folder.join("float.f32")));

    let model = read_model(&folder.join("student.s8m")).unwrap();
    let integers = Interpreter::new(&model).run(&input).unwrap();
    let step = integers.grid.step() as f32;
    let said: Vec<i16> = read(&folder.join("int8.f32")).iter().map(|value| (value / step) as i16).collect();
    let differ = said.iter().zip(&integers.values).filter(|(said, ours)| said != ours).count();
    assert_eq!(differ, 0, "{run}: of {} integers", said.len());
    assert!(said.iter().any(|&q| q != said[0]), "{run}: a constant tests little");

    let out = place.does(&["inspect", &format!("runs/{run}/onnx/student-int8.onnx")]);
    let digest = blake3::Hash::from_bytes(model.digest()).to_hex();
    for words in [
        &format!("sensei.int8_model = {digest}"),
        "opset 17",
        "input image float32 [1, 3, 32, 32]",
        "output logits float32 [1, 1, 32, 32]",
        "input/integers                           uint8, step 0.0078125, zero point 128",
        "QuantizeLinear",
        "constants of int8: ",
    ] {
        assert!(out.contains(words), "{words}: {out}");
    }
    let out = place.does(&["inspect", &format!("runs/{run}/onnx/student-float.onnx")]);
    assert!(out.contains("operators: ") && !out.contains("BatchNormalization"), "{out}");
}

#[test]
fn onnxruntime_says_what_both_networks_of_a_chip_student_say() {
    if !python_has(&["numpy", "onnxruntime"], "onnxruntime_says_what_both_networks_of_a_chip_student_say") {
        return;
    }
    let place = Place::new();
    check(&place, "tiny", tiny_student().graph().unwrap());
    let others = [
        ("encoder_channels = [4, 6]", "encoder_blocks = 3"),
        ("bilinear_upsampling = false", "decoder_blocks = [1, 0]\nbilinear_upsampling = true"),
    ];
    place.config("lite.toml", &[LITE, &others].concat());
    let lite = LiteUnetConfig {
        input_size: 32,
        encoder_blocks: 3,
        decoder_channels: vec![6, 4],
        decoder_blocks: vec![1, 0],
        bilinear_upsampling: true,
    };
    check(&place, "lite", lite.graph().unwrap());
}

#[test]
fn the_shipped_students_floats_are_the_same_in_onnxruntime() {
    if !python_has(&["numpy", "onnxruntime"], "the_shipped_students_floats_are_the_same_in_onnxruntime") {
        return;
    }
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/sensei-box");
    let config = LiteUnetConfig {
        input_size: 128,
        encoder_blocks: 12,
        decoder_channels: vec![160, 128, 96, 64, 32],
        decoder_blocks: vec![],
        bilinear_upsampling: true,
    };
    let graph = config.graph().unwrap();
    let weights = read_weights(&model.join("student.safetensors")).unwrap().tensors;
    let mut convs = NamedValues::new();
    for (idx, conv) in fold_batch_norm(&graph, &weights).unwrap() {
        let name = &graph.nodes()[idx].name;
        convs.insert(format!("{name}.weight"), (conv.weight.shape, conv.weight.values));
        convs.insert(format!("{name}.bias"), (vec![conv.bias.len()], conv.bias));
    }
    let ends = Ends { input: "image", output: "logits" };
    let bytes = float_network("sensei-box", &graph, &convs, BatchNorms::Folded, ends, &[].into()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("float.onnx"), bytes).unwrap();
    let input = model.join("test_vectors/0000.input");
    let done = Command::new("python3").args(["-c", ASK_FLOAT]).arg(folder.path()).arg(&input).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    check_floats("sensei-box", graph, &weights, &integers(&input), &read(&folder.path().join("float.f32")));
}
