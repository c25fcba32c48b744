//! What the vendor's converter compiles, against our integer model: the same weights, biases, mantissas and shifts.

#![expect(clippy::disallowed_methods, reason = "tests make the files they read")]

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use sensei_imx500::coefficients::{Compiled, CompiledConv, compiled_bias, read_coefficients};
use sensei_imx500::converter::{ConvertOptions, Converter};
use sensei_imx500::onnx::write_onnx;
use sensei_imx500::packer_out::PackerOut;
use sensei_int8::model::{IntegerModel, IntegerOp};
use sha2::{Digest, Sha256};

mod sample;
use sample::{BILINEAR, LITE, MOBILE, PICOSAM2, PICOSAM3, QUICKSTART_W4, RELU6, Random, SMALL2, SMALL3, Sample};

/// What a network should be compiled to.
fn expected(model: &IntegerModel) -> Vec<CompiledConv> {
    let compiled = |node: &sensei_int8::model::IntegerNode| {
        let IntegerOp::Conv(conv) = &node.op else { return None };
        let input = model.nodes()[node.inputs[0]].grid;
        Some(CompiledConv {
            node: node.name.clone(),
            bias: compiled_bias(conv, input),
            rescale: conv.rescale(input, node.grid),
            weights: conv.weights().to_vec(),
        })
    };
    model.nodes().iter().filter_map(compiled).collect()
}

fn digest(convs: &[CompiledConv]) -> String {
    let mut hash = Sha256::new();
    for conv in convs {
        hash.update(conv.node.as_bytes());
        conv.bias.iter().for_each(|bias| hash.update(bias.to_le_bytes()));
        conv.rescale.iter().for_each(|(mantissa, shift)| hash.update([*mantissa, *shift as u8]));
        hash.update(conv.weights.iter().map(|weight| *weight as u8).collect::<Vec<_>>());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digests were taken of what [`read_coefficients`] found in files that converter 3.19.2 made of these networks.
#[test]
fn the_integer_model_is_what_was_compiled() {
    for (sample, compiled) in COMPILED {
        assert_eq!(digest(&expected(&sample.model())), compiled, "{}", sample.name);
    }
}

const COMPILED: [(Sample, &str); 8] = [
    (PICOSAM2, "baded8eee97e8af7dbb3b788c585c974301c15497e3ae2dbe55443ac6960bde5"),
    (PICOSAM3, "43f0e768e7d7b97f9e2b0fa3b4065510ee7bda02346b9d4af1c58bd5e48a0c2c"),
    (SMALL2, "925235f41761703c9b76f67fd361f1a0b205c217468539874d6c0d909cce6835"),
    (SMALL3, "45646c855f0f04e144c3783c603eed69f1288f25dc6ce26d61af0fce7599f1b8"),
    // How pixels are upsampled is in the program, not in the coefficients.
    (BILINEAR, "45646c855f0f04e144c3783c603eed69f1288f25dc6ce26d61af0fce7599f1b8"),
    (RELU6, "b40970d15d00c6c8d5e2daf5f4f0949b0930651b25621930202d8ecf5e567aef"),
    (LITE, "02a3af96febfcdf3af8114c0a94c8092d56b6cd6ecbdf35aea89fb4db9de128d"),
    (MOBILE, "52cf8f1d0a7a5f63053b5dcdfb53db5163ec28c2195b4db3e588b3f54a641663"),
];

/// The same, on the spot.
#[test]
fn the_converter_compiles_the_integer_model() {
    let test = "the_converter_compiles_the_integer_model";
    let explicit = std::env::var_os("IMXCONV_PT").map(PathBuf::from);
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    let converter = match Converter::find(explicit.as_deref(), &search_path) {
        Ok(converter) => converter,
        Err(error) if explicit.is_none() => return sensei_testing::skipped(test, &error.to_string()),
        Err(error) => panic!("IMXCONV_PT: {error}"),
    };
    for sample in [SMALL2, SMALL3, BILINEAR, RELU6, MOBILE, LITE, QUICKSTART_W4] {
        let (model, bytes) = convert(&converter, &sample);
        let compiled = read_coefficients(&model, &bytes).unwrap_or_else(|refusal| panic!("{}: {refusal}", sample.name));
        for (found, expected) in compiled.convs.iter().zip(expected(&model)) {
            assert_eq!(*found, expected, "{}", sample.name);
        }
        check_sigmoids(&model, &compiled);
        damage(&model, &bytes);
    }
}

fn convert(converter: &Converter, sample: &Sample) -> (IntegerModel, Vec<u8>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (model, onnx) = (sample.model(), folder.path().join(OsString::from(format!("{}.onnx", sample.name))));
    std::fs::write(&onnx, write_onnx(&model, &[].into())).expect("writable");
    let options =
        ConvertOptions { time_limit: Duration::from_secs(1800), memory_report_only: false, keeps_input: true };
    let conversion = converter.convert(&onnx, &folder.path().join("out"), &options, &|| false);
    let conversion = conversion.unwrap_or_else(|error| panic!("{}: {error}", sample.name));
    let network = PackerOut::read(&conversion.packer_out.expect("a full conversion")).expect("checked before");
    (model, network.coefficients.bytes)
}

/// The chip's table is the logistic function with 15 bits, truncated.
fn check_sigmoids(model: &IntegerModel, compiled: &Compiled) {
    let sigmoids = model.nodes().iter().filter(|node| node.op == IntegerOp::Sigmoid);
    let inputs: Vec<_> = sigmoids.map(|node| model.nodes()[node.inputs[0]].grid).collect();
    assert_eq!(inputs.len(), compiled.sigmoids.len());
    for (grid, table) in inputs.iter().zip(&compiled.sigmoids) {
        let value = |q: i32| (32768.0 / (1.0 + (-grid.dequantize(q)).exp())) as u16;
        let expected: Vec<u16> = (-128..128).map(value).collect();
        assert_eq!(*table, expected);
    }
}

/// Cut or changed files are refused, or read as other numbers; nothing panics.
fn damage(model: &IntegerModel, bytes: &[u8]) {
    let whole = read_coefficients(model, bytes).expect("checked before");
    let mut random = Random(bytes.len() as u64);
    let mut n_refused = 0;
    for _ in 0..200 {
        let at = random.bits() as usize % bytes.len();
        let mut changed = bytes.to_vec();
        changed[at] ^= 1 << (random.bits() % 8);
        match read_coefficients(model, &changed) {
            Ok(other) => assert_ne!(other, whole, "a change at byte {at} went unnoticed"),
            Err(_) => n_refused += 1,
        }
        assert!(read_coefficients(model, &bytes[..at]).is_err(), "cut to {at} bytes");
    }
    assert!(n_refused > 0);
    assert!(read_coefficients(model, &[bytes, &[0]].concat()).is_err(), "one byte more");
}

#[test]
fn what_is_not_established_is_refused() {
    let bytes = vec![0; 4096];
    let text = read_coefficients(&SMALL2.model(), &bytes).expect_err("no network").to_string();
    assert!(text.starts_with("at byte "), "{text}");
    let two_bits = Sample { dense_bits: 2, ..SMALL2 }.model();
    let text = read_coefficients(&two_bits, &bytes).expect_err("a refusal").to_string();
    assert_eq!(text, "down1: expected 8-bit weights, or 4-bit ones of a dense convolution of stride 2, found 2 bits");
}
