//! The interpreter against onnxruntime's own layers on a PicoSAM2 that other hands wrote.

use std::io::Read;
use std::path::Path;

use sensei_imx500::onnx::{OnnxError, read_onnx, write_onnx};
use sensei_int8::grid::{ActivationGrid, GridError};
use sensei_int8::interpreter::{IntTensor, Interpreter};
use sensei_int8::model::{IntegerModel, IntegerOp};

#[test]
fn every_layer_equals_onnxruntime_given_its_inputs() {
    let Some(shared) = sensei_testing::shared_dir("every_layer_equals_onnxruntime_given_its_inputs") else { return };
    let folder = shared.join("golden/imx500/hand_grid");
    let file = read_onnx(&folder.join("hand_grid.onnx")).expect("a file of the dialect");
    assert_eq!(file.clipped.weights, 0);
    let model = &file.model;
    assert_eq!(model.nodes().len(), 36);
    let interpreter = Interpreter::new(model);
    let expected =
        golden_layers(&folder.join("golden_layers.npz"), model.nodes().iter().map(|node| (node.shape, node.grid)));
    let (mut elements, mut mismatches) = (0, 0);
    for (idx, node) in model.nodes().iter().enumerate().skip(1) {
        let inputs: Vec<IntTensor> = node.inputs.iter().map(|&input| expected[input].clone()).collect();
        let got = interpreter.run_node(idx, &inputs).expect("inputs of the right shape");
        let differences = got.values.iter().zip(&expected[idx].values).map(|(got, expected)| got.abs_diff(*expected));
        let largest = differences.clone().max().expect("not empty");
        assert!(largest <= 1, "{}: {largest} steps from onnxruntime", node.name);
        mismatches += differences.filter(|&difference| difference != 0).count();
        elements += got.values.len();
    }
    assert!(elements > 2_500_000, "{elements}");
    // That file's biases are floats; the chip's are rounded to accumulator steps. A bias that is off by d steps moves
    // a share of d * (output steps per accumulator step) of the channel's values over a rounding boundary, and the mean
    // of d is a quarter. Everything else is exact: tests/golden.rs, whose biases are whole, allows no such share.
    let expected_mismatches = expected_from_bias_rounding(model);
    assert!((mismatches as f64) < 1.1 * expected_mismatches, "{mismatches} differ, {expected_mismatches} expected");

    let all = interpreter.run_all(&expected[0].values).expect("the right input");
    let last = interpreter.run(&expected[0].values).expect("the right input");
    assert_eq!(all.last(), Some(&last));
    // Two exact simulators that round biases differently lose each other's rounding after 27 layers; both stay as close
    // to the float network as its quantization noise, 1.46 steps (shared/reference/imx500.md, 5.2).
    let square = |(got, want): (&i16, &i16)| f64::from(got.abs_diff(*want)).powi(2);
    let sum: f64 = last.values.iter().zip(&expected[35].values).map(square).sum();
    let rms = (sum / last.values.len() as f64).sqrt();
    assert!(rms < 1.46, "{rms} steps from onnxruntime end to end");
}

#[test]
fn what_is_written_reads_back_as_the_same_model() {
    let Some(shared) = sensei_testing::shared_dir("what_is_written_reads_back_as_the_same_model") else { return };
    let file = read_onnx(&shared.join("golden/imx500/hand_grid/hand_grid.onnx")).expect("a file of the dialect");
    let bytes = write_onnx(&file.model, &[("key".into(), "value".into())].into());
    let again = sensei_imx500::onnx::from_bytes(Path::new("again.onnx"), &bytes).expect("our own file");
    assert_eq!(again.model, file.model);
    assert_eq!(again.metadata["key"], "value");
    assert_eq!(again.metadata["sensei.int8_model"].len(), 64);
}

#[test]
fn thresholds_off_the_grid_are_refused_by_name() {
    let Some(shared) = sensei_testing::shared_dir("thresholds_off_the_grid_are_refused_by_name") else { return };
    for case in ["hand/hand.onnx", "mct/imx500_mctq.onnx"] {
        match read_onnx(&shared.join("golden/imx500").join(case)) {
            Err(OnnxError::OffGrid { source: GridError::Threshold { .. }, .. }) => {}
            other => panic!("{case}: expected an error about a threshold, found {other:?}"),
        }
    }
}

fn expected_from_bias_rounding(model: &IntegerModel) -> f64 {
    let mut expected = 0.0;
    for node in model.nodes() {
        let IntegerOp::Conv(conv) = &node.op else { continue };
        let area = (node.shape[1] * node.shape[2]) as f64;
        let rescale = conv.rescale(model.nodes()[node.inputs[0]].grid, node.grid);
        expected +=
            rescale.iter().map(|&(m, shift)| 0.25 * area * f64::from(m) * f64::from(-shift).exp2()).sum::<f64>();
    }
    expected
}

/// The `qNN__name` arrays of an npz, in order.
fn golden_layers(npz: &Path, nodes: impl Iterator<Item = ([usize; 3], ActivationGrid)>) -> Vec<IntTensor> {
    let mut zip = zip::ZipArchive::new(std::fs::File::open(npz).expect("the golden file")).expect("an npz");
    let names: Vec<String> = zip.file_names().map(|name| name.expect("a readable name").into_owned()).collect();
    nodes
        .enumerate()
        .map(|(idx, (shape, grid))| {
            let prefix = format!("q{idx:02}__");
            let name = names.iter().find(|name| name.starts_with(&prefix)).expect("one array per quantizer");
            let mut bytes = vec![];
            zip.by_name(name).expect("listed").read_to_end(&mut bytes).expect("readable");
            let header_len = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
            let header = String::from_utf8_lossy(&bytes[10..10 + header_len]).into_owned();
            let data = &bytes[10 + header_len..];
            let [c, h, w] = shape;
            assert!(header.contains(&format!("(1, {c}, {h}, {w})")), "{name}: {header}");
            let values = if header.contains("|i1") {
                data.iter().map(|&byte| i16::from(byte as i8)).collect()
            } else {
                assert!(header.contains("|u1"), "{name}: {header}");
                data.iter().map(|&byte| i16::from(byte)).collect()
            };
            IntTensor { shape, grid, values }
        })
        .collect()
}
