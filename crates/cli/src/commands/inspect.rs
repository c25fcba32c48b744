//! `inspect`: what a file is and says.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use sensei_eval::report::EvalReport;
use sensei_imx500::memory::{NetworkShape, memory_estimate};
use sensei_imx500::model::{Int8Model, Int8Op};
use sensei_imx500::model_file::read_model;
use sensei_imx500::onnx::read_onnx;
use sensei_student::weights::read_weights;
use sensei_teacher::verify::stats;

use crate::commands::teacher::describe;
use crate::phases::export::memory_line;
use crate::progress::say;

/// Explains a file by its ending, or a cache folder.
pub fn inspect(path: &Path) -> anyhow::Result<()> {
    if path.is_dir() {
        if path.join("index.sti").is_file() {
            describe(path)?;
            let stats = stats(path)?;
            say(&format!("teacher cache of {} records on {} images", stats.n_records, stats.n_images));
            return Ok(());
        }
        bail!("{}: expected a file or a teacher cache, found another folder", path.display());
    }
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("s8m") => show_model(&read_model(path)?),
        Some("onnx") => {
            let file = read_onnx(path)?;
            for (key, value) in &file.metadata {
                say(&format!("{key} = {value}"));
            }
            show_model(&file.model);
        }
        Some("safetensors" | "pt" | "pth") => {
            let file = read_weights(path)?;
            let values: usize = file.tensors.values().map(|tensor| tensor.values.len()).sum();
            say(&format!("{}: {} tensors, {values} values", path.display(), file.tensors.len()));
            for (key, value) in &file.metadata {
                say(&format!("{key} = {value}"));
            }
            for (name, tensor) in &file.tensors {
                say(&format!("{name} {:?}", tensor.shape));
            }
        }
        Some("json") => say(&EvalReport::read(path)?.table()),
        _ => {
            bail!("{}: expected .s8m, .onnx, .safetensors, .pt, .pth or .json, found {}", path.display(), start(path)?)
        }
    }
    Ok(())
}

fn show_model(model: &Int8Model) {
    let digest = blake3::Hash::from_bytes(model.digest()).to_hex();
    say(&format!("int8 model {:?}, digest {digest}", model.name()));
    say(&format!("memory, estimated: {}", memory_line(&memory_estimate(&NetworkShape::from(model)))));
    for node in model.nodes() {
        let op = match &node.op {
            Int8Op::Conv(conv) => format!("conv, {}-bit weights", conv.weight_bits()),
            Int8Op::Input => "input".into(),
            Int8Op::UpsampleNearest2x => "upsample".into(),
            Int8Op::Add => "add".into(),
            Int8Op::GlobalAveragePool => "mean".into(),
            Int8Op::Sigmoid => "sigmoid".into(),
            Int8Op::ScaleChannels => "scale".into(),
        };
        let sign = if node.grid.signed() { "signed" } else { "unsigned" };
        say(&format!(
            "{:<20} {:?} {sign} {} bit, threshold {}; {op}",
            node.name,
            node.shape,
            node.grid.bits(),
            node.grid.threshold()
        ));
    }
}

/// The first bytes of a file, for the message about an unknown one.
fn start(path: &Path) -> anyhow::Result<String> {
    let mut bytes = [0; 8];
    let n = File::open(path)
        .and_then(|mut file| file.read(&mut bytes))
        .with_context(|| format!("{}: cannot read", path.display()))?;
    Ok(format!("a file that starts with {:?}", String::from_utf8_lossy(&bytes[..n])))
}
