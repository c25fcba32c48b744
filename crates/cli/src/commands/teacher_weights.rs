//! `teacher weights`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::ensure;
use burn::tensor::Device;
use sensei_imx500::onnx::constants::{ConstantUse, read_constants};
use sensei_sam::exported::{ExportedConstant, ExportedPart, add_exported};
use sensei_student::weights::{read_weights, write_weights};
use sensei_teacher::teacher::Teacher;
use sensei_tensor::network::NamedWeights;

use crate::progress::say;

/// Writes the weights of a pair of ONNX files, after they were held to the network.
///
/// # Errors
/// If a file cannot be read, has a tensor whose name cannot be told, or lacks one; if the new file is there or cannot be written.
pub fn execute(encoder: &Path, decoder: &Path, out: &Path) -> anyhow::Result<()> {
    ensure!(!out.exists(), "{}: exists already", out.display());
    let mut weights = NamedWeights::new();
    for (path, part) in [(encoder, ExportedPart::Encoder), (decoder, ExportedPart::Decoder)] {
        let constants = read_constants(path)?.into_iter().map(exported).collect();
        add_exported(&path.display().to_string(), part, constants, &mut weights)?;
    }
    let origin = format!("{} and {}", encoder.display(), decoder.display());
    let teacher = Teacher::native(&origin, &weights, String::new(), &Device::flex())?;
    write_weights(out, &weights, &BTreeMap::new())?;
    let n_values: usize = read_weights(out)?.tensors.values().map(|tensor| tensor.values.len()).sum();
    say(&format!("{}: {}, {} tensors of {n_values} values", out.display(), teacher.name(), weights.len()));
    Ok(())
}

fn exported(constant: ConstantUse) -> ExportedConstant {
    let ConstantUse { node, op, input_idx, name, is_initializer, shape, values } = constant;
    ExportedConstant { node, op, input_idx, name, is_initializer, shape, values }
}
