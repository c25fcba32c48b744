//! `inspect`: what a file is and says.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use sensei_eval::report::EvalReport;
use sensei_files::digest_list::{DigestList, LIST};
use sensei_graph::op::{Activation, Upsampling};
use sensei_imx500::dnn_params::{DnnParams, DnnTensor};
use sensei_imx500::fit_report::FitReport;
use sensei_imx500::memory::{NetworkShape, memory_estimate};
use sensei_imx500::onnx::outline::{Outline, RoundedTensor, read_outline};
use sensei_imx500::onnx::read_onnx;
use sensei_imx500::packer_out::{PackerOut, Part};
use sensei_imx500::rpk::RpkFile;
use sensei_int8::model::{IntegerModel, IntegerOp};
use sensei_int8::model_file::read_model;
use sensei_report::events::Training;
use sensei_student::weights::read_weights;
use sensei_train::checkpoint::{METADATA_HEADER, verified_header};

use crate::commands::inspect_folder::{inspect_folder, show_configuration, show_manifest};
use crate::commands::inspect_json::facts;
use crate::phases::export::memory_line;
use crate::phases::kept_samples::KeptSamples;
use crate::progress::{on_one_line, say, say_result};

/// Explains a file by its ending, or a folder by what is in it.
pub fn inspect(path: &Path, json: bool) -> anyhow::Result<()> {
    if json {
        say_result(&serde_json::to_string_pretty(&facts(path)?)?);
        return Ok(());
    }
    if path.is_dir() {
        return inspect_folder(path);
    }
    check_listed(path)?;
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("s8m") => show_model(&read_model(path)?),
        Some("onnx") => show_onnx(path)?,
        Some("safetensors") if path.file_name().is_some_and(|name| name == "samples.safetensors") => {
            show_samples(&KeptSamples::read_file(path)?);
        }
        Some("safetensors" | "pt" | "pth") => show_weights(path)?,
        Some("jsonl") => show_events(path)?,
        Some("zip") => show_packer_out(&PackerOut::read(path)?),
        Some("xml") => show_params(&DnnParams::read(path)?),
        Some("rpk") => show_rpk(path)?,
        Some("json") if path.to_string_lossy().ends_with("_MemoryReport.json") => {
            let report = FitReport::read(path)?;
            let fits = if report.fits { "fits" } else { "does not fit" };
            say(&format!("memory report of network {:?}, which {fits}", report.name));
            report.sizes.iter().for_each(|(what, size)| say(&format!("{what:<32}{size:>10}")));
        }
        Some("toml") => show_configuration(path)?,
        Some("json") if path.file_name().is_some_and(|name| name == "manifest.json") => show_manifest(path)?,
        Some("json") => say(&EvalReport::read(path)?.table()),
        _ => {
            bail!(
                "{}: expected .s8m, .onnx, .safetensors, .pt, .pth, .json, .jsonl, .toml, .zip, .xml or .rpk, found {}",
                path.display(),
                start(path)?
            )
        }
    }
    Ok(())
}

/// Holds a file to what a run or a package says that it should be.
///
/// # Errors
/// If it was changed.
pub fn check_listed(path: &Path) -> anyhow::Result<()> {
    let absolute = std::path::absolute(path).with_context(|| path.display().to_string())?;
    for folder in absolute.ancestors().skip(1).take(MAX_FOLDERS_UP).filter(|folder| folder.join(LIST).is_file()) {
        DigestList::read(folder)?.check(&absolute)?;
    }
    Ok(())
}

/// From the converter's files to their package.
const MAX_FOLDERS_UP: usize = 3;

fn show_onnx(path: &Path) -> anyhow::Result<()> {
    let outline = read_outline(path)?;
    if !outline.is_dialect() {
        show_outline(&outline);
        return Ok(());
    }
    let file = read_onnx(path)?;
    for (key, value) in &file.metadata {
        say(&format!("{key} = {value}"));
    }
    show_model(&file.model);
    let found = blake3::Hash::from_bytes(file.model.digest()).to_hex().to_string();
    if let Some(expected) = file.metadata.get("sensei.int8_model").filter(|expected| **expected != found) {
        bail!("{}: expected the model {expected} that the file names, found {found}: it was changed", path.display());
    }
    Ok(())
}

/// An ONNX file that stock runtimes open.
fn show_outline(outline: &Outline) {
    let Outline { producer, name, opsets, metadata, inputs, outputs, operators, constants, rounded } = outline;
    for (key, value) in metadata {
        say(&on_one_line(&format!("{key} = {value}")));
    }
    let opsets = opsets.iter().map(|(domain, version)| match domain.as_str() {
        "" => format!("opset {version}"),
        domain => format!("{domain} {version}"),
    });
    let opsets: Vec<String> = opsets.collect();
    say(&on_one_line(&format!("ONNX network {name:?} by {producer}, {}", opsets.join(", "))));
    for (what, ends) in [("input", inputs), ("output", outputs)] {
        ends.iter().for_each(|end| say(&on_one_line(&format!("{what} {end}"))));
    }
    let operators: Vec<String> = operators.iter().map(|(name, n)| format!("{n} {name}")).collect();
    say(&on_one_line(&format!("operators: {}", operators.join(", "))));
    for (element, (n, values)) in constants {
        say(&format!("constants of {element}: {n}, with {values} values"));
    }
    for RoundedTensor { name, element, step, zero_point } in rounded {
        say(&on_one_line(&format!("{name:<40} {element}, step {step}, zero point {zero_point}")));
    }
}

/// The crops that a run keeps.
fn show_samples(samples: &KeptSamples) {
    let KeptSamples { calibration, examples, data } = samples;
    for (what, crops) in [("calibration", calibration), ("examples", examples)] {
        let ids: Vec<String> = crops.iter().take(SHOWN_IDS).map(|crop| crop.annotation_id.to_string()).collect();
        let more = if crops.len() > SHOWN_IDS { ", ..." } else { "" };
        say(&format!("{what}: {} crops, of annotations {}{more}", crops.len(), ids.join(", ")));
    }
    say(&format!("training data {}", data.train));
    say(&format!("validation data {}", data.val));
    say(&format!("teacher key {}", data.teacher.as_deref().unwrap_or("none")));
}

/// Ids that are named of a run's crops.
const SHOWN_IDS: usize = 8;

/// What a training's log tells.
fn show_events(path: &Path) -> anyhow::Result<()> {
    let training = Training::read(path)?;
    let Some(total) = training.total_steps() else {
        bail!("{}: expected a training's log, found no start in it", path.display());
    };
    say(&format!(
        "{}: step {} of {total}, {:.0} s of computation",
        path.display(),
        training.last_step,
        training.seconds
    ));
    let ended = match training.stopped {
        Some(true) => "stopped as asked",
        Some(false) => "ended",
        None => "goes on, or was killed",
    };
    say(&format!("starts and resumes: {}; {ended}", training.starts.len()));
    for (step, name) in &training.stages {
        say(&on_one_line(&format!("stage {name} from step {step}")));
    }
    say(&format!("loss terms: {}", on_one_line(&training.terms.join(", "))));
    if training.n_broken > 0 {
        say(&format!("lines that are no events: {}", training.n_broken));
    }
    Ok(())
}

fn show_weights(path: &Path) -> anyhow::Result<()> {
    let file = read_weights(path)?;
    let values: usize = file.tensors.values().map(|tensor| tensor.values.len()).sum();
    say(&format!("{}: {} tensors, {values} values", path.display(), file.tensors.len()));
    for (key, value) in &file.metadata {
        say(&format!("{key} = {value}"));
    }
    for (name, tensor) in &file.tensors {
        say(&format!("{} {:?}", on_one_line(name), tensor.shape));
    }
    if file.metadata.contains_key(METADATA_HEADER) {
        let header = verified_header(path)?;
        say(&format!("checkpoint after step {}: as it was written (state {})", header.step, header.state_digest));
    }
    for entry in file.left_out() {
        say(&format!("left out: {} ({})", on_one_line(&entry.name), entry.found));
    }
    Ok(())
}

fn show_model(model: &IntegerModel) {
    let digest = blake3::Hash::from_bytes(model.digest()).to_hex();
    say(&format!("int8 model {:?}, digest {digest}", model.name()));
    say(&format!("memory, estimated: {}", memory_line(&memory_estimate(&NetworkShape::from(model)))));
    for node in model.nodes() {
        let op = match &node.op {
            IntegerOp::Conv(conv) => match conv.activation() {
                Activation::None => format!("conv, {}-bit weights", conv.weight_bits()),
                end @ (Activation::Relu | Activation::Relu6) => {
                    format!("conv + {}, {}-bit weights", end.name(), conv.weight_bits())
                }
            },
            IntegerOp::Input => "input".into(),
            IntegerOp::Upsample2x(Upsampling::Nearest) => "upsample".into(),
            IntegerOp::Upsample2x(Upsampling::Bilinear) => "upsample bilinear".into(),
            IntegerOp::Add => "add".into(),
            IntegerOp::GlobalAveragePool => "mean".into(),
            IntegerOp::Sigmoid => "sigmoid".into(),
            IntegerOp::ScaleChannels => "scale".into(),
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

fn show_packer_out(network: &PackerOut) {
    let [major, minor, patch] = network.release;
    say(&format!(
        "network {:?}, compiled by release {major}.{minor}.{patch}; sizes and digests fit",
        network.network_id
    ));
    let PackerOut { config_1, config_2, program_a, program_c, coefficients, .. } = network;
    for (what, part) in [
        ("configuration 1", config_1),
        ("configuration 2", config_2),
        ("program A", program_a),
        ("program C", program_c),
        ("coefficients", coefficients),
    ] {
        show_part(what, part);
    }
    show_params(&network.params);
}

fn show_rpk(path: &Path) -> anyhow::Result<()> {
    let RpkFile { rpk, differences } = RpkFile::read(path)?;
    let [major, minor, patch] = rpk.release();
    say(&format!(
        "camera network of release {major}.{minor}.{patch}, colours {}; its layout is right, and its parts have no checksum",
        rpk.format().name()
    ));
    if !differences.is_empty() {
        say("readable, but not byte for byte what Sensei writes:");
        differences.iter().for_each(|difference| say(&format!("  {difference}")));
    }
    rpk.parts().for_each(|(what, part)| show_part(what, part));
    show_params(rpk.params());
    if let Some(intrinsics) = rpk.intrinsics() {
        say(&format!("intrinsics {}", visible(intrinsics)));
    }
    let info = rpk.network_info().map_err(|refusal| anyhow::anyhow!("{}: {refusal}", path.display()))?;
    info.lines().for_each(say);
    Ok(())
}

/// Control characters escaped, which JSON may hold: they are not for the terminal.
fn visible(text: &str) -> String {
    let escaped = |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

fn show_part(what: &str, part: &Part) {
    say(&format!("{what:<16}{:>9} B at {:#010x}", part.bytes.len(), part.address));
}

fn show_params(params: &DnnParams) {
    for network in &params.networks {
        network.inputs.iter().for_each(|tensor| show_tensor(&network.name, "input", tensor));
        let outputs = network.outputs_by_ordinal();
        outputs.iter().for_each(|tensor| show_tensor(&network.name, "output", tensor));
        if !network.outputs.iter().eq(outputs) {
            let listed: Vec<String> = network.outputs.iter().map(|output| output.ordinal.to_string()).collect();
            say(&format!(
                "{}: outputs above as the host gets them; listed in the order {}",
                network.name,
                listed.join(", ")
            ));
        }
    }
    let map = params.memory;
    let used = u64::from(map.coefficients) + u64::from(map.runtime) + u64::from(map.reserved);
    say(&format!(
        "memory: coefficients {} B, runtime {} B, reserved {} B, total {used} of {} B ({:.1} %)",
        map.coefficients,
        map.runtime,
        map.reserved,
        map.total,
        100.0 * used as f64 / f64::from(map.total)
    ));
}

fn show_tensor(network: &str, what: &str, tensor: &DnnTensor) {
    let mut order: Vec<usize> = (0..tensor.dimensions.len()).collect();
    order.sort_by_key(|side| tensor.dimensions[*side].serialization);
    let sides: Vec<String> = tensor.dimensions.iter().map(|side| side.size.to_string()).collect();
    let sign = if tensor.signed { "signed" } else { "unsigned" };
    say(&format!(
        "{network}: {what} {} [{}] {sign} {} bit, value (q - {}) * {}, dimensions from fastest to slowest {order:?}, at {}{}",
        tensor.name,
        sides.join(", "),
        tensor.bits,
        tensor.shift,
        tensor.scale,
        tensor.l2_offset,
        if tensor.kept { ", kept for the host" } else { "" }
    ));
}

/// Text as it is, other bytes in hexadecimal.
fn first_bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        _ if bytes.is_empty() => "an empty file".into(),
        Ok(text) if text.chars().all(|c| !c.is_control() || c.is_whitespace()) => {
            format!("a file that starts with `{}`", text.split_whitespace().collect::<Vec<&str>>().join(" "))
        }
        _ => format!("a file that starts with the bytes {}", sensei_files::digest::hex(bytes)),
    }
}

/// The first bytes of a file, for the message about an unknown one.
fn start(path: &Path) -> anyhow::Result<String> {
    let mut bytes = [0; 8];
    let n = File::open(path)
        .and_then(|mut file| file.read(&mut bytes))
        .with_context(|| format!("{}: cannot read", path.display()))?;
    Ok(first_bytes(&bytes[..n]))
}
