//! Our ONNX in onnxruntime against our interpreter, layer by layer (tests/golden/imx500/*/make.py).

use std::collections::BTreeMap;
use std::path::Path;

use sensei_graph::op::Activation;
use sensei_imx500::onnx::{from_bytes, write_onnx};
use sensei_int8::interpreter::{IntTensor, Interpreter};

mod sample;
use sample::{BILINEAR, RELU6, SMALL2, SMALL3, Sample};

fn check(sample: &Sample) {
    let model = sample.model();
    let bytes = write_onnx(&model, &BTreeMap::new());
    let case = sensei_testing::golden(&format!("imx500/{}", sample.name));
    assert_eq!(case.u8s("model"), model.digest(), "the golden data belong to another model: run make.py again");
    assert_eq!(case.u8s("pixels"), sample.pixels());

    let interpreter = Interpreter::new(&model);
    let layers: Vec<IntTensor> = model
        .nodes()
        .iter()
        .enumerate()
        .map(|(idx, node)| {
            let bytes = case.u8s(&format!("{idx:03}"));
            let values = match (node.grid.bits(), node.grid.signed()) {
                (16, _) => bytes.as_chunks::<2>().0.iter().map(|pair| i16::from_le_bytes(*pair)).collect(),
                (_, true) => bytes.iter().map(|&byte| i16::from(byte as i8)).collect(),
                (_, false) => bytes.iter().map(|&byte| i16::from(byte)).collect(),
            };
            IntTensor { shape: node.shape, grid: node.grid, values }
        })
        .collect();
    assert_eq!(interpreter.from_pixels(&sample.pixels()).expect("its size"), layers[0].values);
    let (mut elements, mut mismatches) = (0, 0);
    for (idx, node) in model.nodes().iter().enumerate().skip(1) {
        let inputs: Vec<IntTensor> = node.inputs.iter().map(|&input| layers[input].clone()).collect();
        let got = interpreter.run_node(idx, &inputs).expect("inputs of the right shape");
        let differences = got.values.iter().zip(&layers[idx].values).map(|(got, expected)| got.abs_diff(*expected));
        let largest = differences.clone().max().expect("not empty");
        assert!(largest <= 1, "{}: {largest} steps from onnxruntime", node.name);
        assert!(
            layers[idx].values.iter().any(|&q| q != layers[idx].values[0]),
            "{}: a constant tests little",
            node.name
        );
        mismatches += differences.filter(|&difference| difference != 0).count();
        elements += got.values.len();
    }
    assert!(mismatches as f64 <= 1e-5 * elements as f64, "{mismatches} of {elements} differ");
    assert_eq!(interpreter.run(&layers[0].values).expect("the right input").values.len(), sample.size * sample.size);

    let again = from_bytes(Path::new("again.onnx"), &bytes).expect("our own file");
    assert_eq!((again.model, again.clipped.weights), (model, 0));
    assert_eq!(again.producer, "pytorch 2.6.0");
}

#[test]
fn picosam2_layers_equal_onnxruntimes() {
    check(&SMALL2);
}

#[test]
fn picosam3_layers_with_gate_4_bit_weights_and_16_bit_output_equal_onnxruntimes() {
    check(&SMALL3);
}

#[test]
fn layers_upsampled_between_pixels_equal_onnxruntimes() {
    check(&BILINEAR);
}

#[test]
fn layers_with_relu6_equal_onnxruntimes() {
    check(&RELU6);
    // Grids that end before 6, at 8 and at 16 all have values that were cut off: at their end, at 192 and at 96.
    let (model, case) = (RELU6.model(), sensei_testing::golden("imx500/relu6"));
    let mut cut_off = BTreeMap::new();
    for (idx, node) in model.nodes().iter().enumerate() {
        if node.op.conv().is_some_and(|conv| conv.activation() == Activation::Relu6) {
            let end = case.u8s(&format!("{idx:03}")).into_iter().max().expect("not empty");
            *cut_off.entry((node.grid.threshold() as u32, end)).or_insert(0) += 1;
        }
    }
    assert_eq!(cut_off, BTreeMap::from([((4, 255), 2), ((8, 183), 1), ((8, 192), 7), ((16, 96), 8)]));
}

#[test]
fn only_a_clip_from_0_to_6_is_relu6() {
    let bytes = write_onnx(&RELU6.model(), &BTreeMap::new());
    let read = |bytes: &[u8]| from_bytes(Path::new("relu6.onnx"), bytes).map(|_| ()).map_err(|error| error.to_string());
    assert_eq!(read(&bytes), Ok(()));
    // The first constant of 6 behind the name of the clip's end.
    let name = b"encoder_stage1.0/max";
    let at = bytes.windows(name.len()).position(|window| window == name).expect("a constant of that name");
    let six = bytes[..at + 200].windows(4).rposition(|window| window == 6.0_f32.to_le_bytes()).expect("its value");
    let mut other = bytes.clone();
    other[six..six + 4].copy_from_slice(&5.0_f32.to_le_bytes());
    let error = "relu6.onnx: encoder_stage1.0.relu6: limits: expected [0.0, 6.0], found [0.0, 5.0]";
    assert_eq!(read(&other), Err(error.into()));
}

#[test]
fn picosam2_is_written_as_147_nodes() {
    let bytes = write_onnx(&sample::PICOSAM2.model(), &BTreeMap::new());
    let count = |op: &str| {
        let field = [&[0x22, op.len() as u8], op.as_bytes()].concat();
        bytes.windows(field.len()).filter(|window| *window == field.as_slice()).count()
    };
    let counts = ["ActivationPOTQuantizer", "WeightsSymmetricQuantizer", "Conv", "Relu", "Resize", "Add", "Constant"];
    assert_eq!(counts.map(count), [36, 27, 27, 18, 4, 4, 31]);
}

#[test]
fn damaged_onnx_is_refused_without_panic() {
    let bytes = write_onnx(&SMALL2.model(), &BTreeMap::new());
    let mut random = sample::Random(9);
    for _ in 0..1500 {
        let mut damaged = bytes.clone();
        for _ in 0..=random.bits() % 4 {
            let at = random.bits() as usize % damaged.len();
            damaged[at] = random.bits() as u8;
        }
        if random.bits().is_multiple_of(4) {
            damaged.truncate(random.bits() as usize % damaged.len());
        }
        if let Ok(file) = from_bytes(Path::new("damaged.onnx"), &damaged) {
            assert!(!file.model.nodes().is_empty());
        }
    }
    let many_empty_nodes = [[0x3a, 0x80, 0x89, 0x7a].as_slice(), &[0x0a, 0x00].repeat(1_000_000)].concat();
    let error = from_bytes(Path::new("many.onnx"), &many_empty_nodes).expect_err("too many parts").to_string();
    assert!(error.starts_with("many.onnx: not an ONNX file: "), "{error}");
}
