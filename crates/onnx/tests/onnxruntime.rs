//! Quantized files in stock onnxruntime against our interpreter: every operator, and the student that ships.

#![expect(clippy::disallowed_methods, reason = "tests make the files they read")]
#![allow(clippy::unwrap_used)] // tests

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use prost::Message;
use sensei_int8::interpreter::{IntTensor, Interpreter};
use sensei_int8::model::IntegerModel;
use sensei_int8::model_file::read_model;
use sensei_onnx::builder::Ends;
use sensei_onnx::proto::{FLOAT, Model, TensorType, UINT8, ValueInfo, ValueType};
use sensei_onnx::quantized::quantized_network;
use sensei_testing::{python_has, workspace_root};

#[path = "../../imx500/tests/sample/mod.rs"]
mod sample;
use sample::{ALL, Random};

const ENDS: Ends = Ends { input: "image", output: "logits" };

/// Asks a file about images, graph optimisations off and on: the logits, and the integers of every node.
const ASK: &str = r#"
import sys
import numpy as np
import onnxruntime as ort
folder = sys.argv[1]
for level in ("off", "on"):
    for name in ("network", "layers"):
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # Before VNNI, x86 processors saturate sums of two products otherwise.
        options.add_session_config_entry("session.x64quantprecision", "1")
        if level == "off":
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(f"{folder}/{name}.onnx", options, providers=["CPUExecutionProvider"])
        (image,), outputs = session.get_inputs(), session.get_outputs()
        assert (image.name, image.type) == ("image", "tensor(float)"), image
        assert (outputs[0].name, outputs[0].type) == ("logits", "tensor(float)"), outputs[0]
        images = np.fromfile(f"{folder}/images.f32", np.float32).reshape(-1, *image.shape)
        for idx, one in enumerate(images):
            with open(f"{folder}/{name}.{level}.{idx}", "wb") as file:
                for value in session.run(None, {"image": one}):
                    file.write(value.astype(np.float32).tobytes())
"#;

/// Images of waves, with more noise in each.
fn pixels(model: &IntegerModel, n: usize) -> Vec<Vec<u8>> {
    let [channels, height, width] = model.input().shape;
    let mut random = Random(41);
    let mut image = |seed: usize| {
        let mut pixel = |idx: usize| {
            let (y, x, c) = (idx / channels / width, idx / channels % width, idx % channels);
            let wave = x * (c + 2 + seed % 3) + y * (3 + seed / 3);
            ((wave as u64 * 96 / height as u64 + random.bits() % (16 + 16 * seed as u64)) % 256) as u8
        };
        (0..height * width * channels).map(&mut pixel).collect()
    };
    (0..n).map(&mut image).collect()
}

/// The file with every node's integers as further outputs.
fn with_layers(bytes: &[u8], model: &IntegerModel) -> Vec<u8> {
    let mut file = Model::decode(bytes).unwrap();
    for node in model.nodes() {
        let elem_type = Some(if node.grid.bits() == 16 { FLOAT } else { UINT8 });
        let kind = ValueType { tensor: Some(TensorType { elem_type, shape: None }) };
        let info = ValueInfo { name: Some(format!("{}/integers", node.name)), kind: Some(kind) };
        file.graph.as_mut().unwrap().output.push(info);
    }
    file.encode_to_vec()
}

fn floats(path: &Path) -> Vec<f32> {
    fs::read(path).unwrap().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// How many of how many values differ; none by more than a step.
#[derive(Default)]
struct Differences {
    differ: usize,
    values: usize,
}

impl Differences {
    fn add(&mut self, what: &str, found: &[i16], expected: &[i16]) {
        assert_eq!(found.len(), expected.len(), "{what}");
        let differences = found.iter().zip(expected).map(|(found, expected)| found.abs_diff(*expected));
        let largest = differences.clone().max().unwrap();
        assert!(largest <= 1, "{what}: {largest} steps from the interpreter");
        self.differ += differences.filter(|&difference| difference > 0).count();
        self.values += found.len();
    }
}

/// The output of eight images, and every node given onnxruntime's inputs to it.
fn check(model: &IntegerModel) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let bytes = quantized_network(model, ENDS, &BTreeMap::new());
    fs::write(path("network.onnx"), &bytes).unwrap();
    fs::write(path("layers.onnx"), with_layers(&bytes, model)).unwrap();
    let interpreter = Interpreter::new(model);
    let images: Vec<Vec<i16>> =
        pixels(model, 8).iter().map(|pixels| interpreter.from_pixels(pixels).unwrap()).collect();
    let step = model.input().grid.step() as f32;
    let inputs: Vec<u8> = images.iter().flatten().flat_map(|&q| (f32::from(q) * step).to_le_bytes()).collect();
    fs::write(path("images.f32"), inputs).unwrap();
    let done = Command::new("python3").args(["-c", ASK]).arg(folder.path()).output().unwrap();
    assert!(done.status.success(), "{}: {}", model.name(), String::from_utf8_lossy(&done.stderr));

    for level in ["off", "on"] {
        let (mut ends, mut layers) = (Differences::default(), Differences::default());
        for (idx, image) in images.iter().enumerate() {
            let what = format!("{}: optimisations {level}, image {idx}", model.name());
            let output = model.output().grid;
            let logits = floats(&path(&format!("network.{level}.{idx}")));
            let steps: Vec<f64> = logits.iter().map(|&value| f64::from(value) / output.step()).collect();
            assert!(steps.iter().all(|steps| steps.fract() == 0.0), "{what}: a value off the grid");
            let found: Vec<i16> = steps.iter().map(|&steps| steps as i16).collect();
            assert!(found.iter().any(|&q| q != found[0]), "{what}: a constant tests little");
            ends.add(&what, &found, &interpreter.run(image).unwrap().values);
            compare_layers(&what, &interpreter, &floats(&path(&format!("layers.{level}.{idx}"))), &mut layers);
        }
        assert!(ends.differ as f64 <= 1e-4 * ends.values as f64, "{}: {level}: {} outputs", model.name(), ends.differ);
        let share = layers.differ as f64 / layers.values as f64;
        assert!(share <= 1e-6, "{}: {level}: {} of {} integers", model.name(), layers.differ, layers.values);
    }
}

/// Each node on what onnxruntime gives it.
fn compare_layers(what: &str, interpreter: &Interpreter<'_>, said: &[f32], differences: &mut Differences) {
    let nodes = interpreter.model().nodes();
    let mut at = nodes[nodes.len() - 1].shape.iter().product::<usize>();
    let mut layers: Vec<IntTensor> = vec![];
    for (idx, node) in nodes.iter().enumerate() {
        let n_values = node.shape.iter().product::<usize>();
        let zero = if node.grid.bits() == 8 { node.grid.qmin() } else { 0 };
        let values: Vec<i16> = said[at..at + n_values].iter().map(|&value| (value as i32 + zero) as i16).collect();
        at += n_values;
        if idx > 0 {
            let inputs: Vec<IntTensor> = node.inputs.iter().map(|&input| layers[input].clone()).collect();
            let expected = interpreter.run_node(idx, &inputs).unwrap();
            differences.add(&format!("{what}, {}", node.name), &values, &expected.values);
        }
        layers.push(IntTensor { shape: node.shape, grid: node.grid, values });
    }
    assert_eq!(at, said.len(), "{what}: values of all layers");
}

#[test]
fn every_operator_is_what_the_interpreter_says() {
    if python_has(&["numpy", "onnxruntime"], "every_operator_is_what_the_interpreter_says") {
        let small = ALL.iter().filter(|sample| sample.size < 96).map(|sample| sample.model());
        small.for_each(|model| check(&model));
    }
}

#[test]
fn the_shipped_student_is_what_the_interpreter_says() {
    if python_has(&["numpy", "onnxruntime"], "the_shipped_student_is_what_the_interpreter_says") {
        check(&read_model(&workspace_root().join("models/sensei-box/sensei-box.s8m")).unwrap());
    }
}
