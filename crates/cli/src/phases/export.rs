//! The deployment package of a run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use sensei_data::image_file::encode_png;
use sensei_eval::report::EvalReport;
use sensei_imx500::converter::{ConvertOptions, Converter, MemoryReport};
use sensei_imx500::memory::{MemoryEstimate, NetworkShape, memory_estimate};
use sensei_imx500::onnx::write_onnx;
use sensei_imx500::packer_out::PackerOut;
use sensei_imx500::recording::write_pair;
use sensei_imx500::rpk::{InputFormat, Intrinsics, Rpk};
use sensei_int8::interpreter::Interpreter;
use sensei_int8::model::IntegerModel;
use sensei_int8::model_file::{read_model, write_model};
use serde_json::json;

use crate::config::RunPlan;
use crate::phases::kept_samples::{DataDigests, KeptCrop};
use crate::phases::model_card::{ModelCard, picture};
use crate::progress::{note, phase, say, working};
use crate::run_folder;
use crate::stop;
use sensei_files::digest_list::list_all;
use sensei_files::folder::replace;
use sensei_files::whole::write_whole;
use sensei_report::events::Training;
use sensei_report::run_folder::RunFolder;

/// Digests of what made a student, for the package's manifest.
pub struct Origin<'a> {
    /// Its data.
    pub data: &'a DataDigests,
    /// The trained weights.
    pub weights: String,
}

/// Whether the vendor's converter runs, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Converting<'a> {
    /// Which, and how far.
    pub choice: ConverterChoice<'a>,
    /// Whether the chip keeps its input tensor for the host; without, it has more memory.
    pub keeps_input: bool,
}

/// Whether the vendor's converter runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConverterChoice<'a> {
    /// It does not: the package ends with the ONNX file.
    None,
    /// This one, as far as `packerOut.zip`.
    PackerOut(&'a Path),
    /// This one, or one on `PATH`, and `network.rpk` of what it makes.
    Rpk(Option<&'a Path>),
}

/// Writes the package: ONNX, int8 model, memory, manifest and, with a converter, its `packerOut.zip` and `network.rpk`.
/// It appears under its name when it is complete.
///
/// # Errors
/// If the model does not fit the chip, the converter is missing or refuses it, or a file cannot be written.
pub fn export(
    plan: &RunPlan,
    folder: &RunFolder,
    model: &IntegerModel,
    origin: Option<&Origin<'_>>,
    scores: Option<&EvalReport>,
    examples: &[KeptCrop],
    converting: Converting,
) -> anyhow::Result<PathBuf> {
    phase("exporting");
    let Converting { choice, keeps_input } = converting;
    let installed = installed_converter(choice)?; // before anything is written
    let partial = empty_folder(folder.root().join("package.partial"))?;
    let estimate = checked_estimate(model, keeps_input)?;

    let onnx = partial.join(format!("{}.onnx", model.name()));
    let onnx_bytes = write_onnx(model, &metadata(plan, origin));
    write_whole(&onnx, &onnx_bytes)?;
    write_model(&partial.join(format!("{}.s8m", model.name())), model)?;
    write_test_vectors(&partial.join("test_vectors"), model, examples)?;
    write_whole(&partial.join("camera.py"), CAMERA_PROGRAM.as_bytes())?;

    let mut manifest = manifest_of_model(plan, model, &onnx_bytes, &estimate, examples);
    manifest["input_kept"] = json!(keeps_input);
    manifest["licence"] = json!(plan.deployment()?.export.licence);
    add_origin_and_scores(&mut manifest, origin, scores);
    let mut converted = None;
    if let Some(installed) = installed {
        let (zip, report) = convert(&installed, &onnx, &partial, &estimate, keeps_input)?;
        manifest["converter_memory"] = memory_json(&report);
        converted = Some(report);
        manifest["packer_out_digest"] = json!(digest(&zip)?);
        if let ConverterChoice::Rpk(_) = choice {
            let file = partial.join("network.rpk");
            let inside = package_rpk(&zip, &file, InputFormat::Rgb, Some(Intrinsics::of_student()))?;
            say(&format!("network.rpk: {inside}"));
            manifest["rpk_digest"] = json!(digest(&file)?);
        }
    }
    let trained = if folder.events().exists() { Training::read(&folder.events())?.last_time } else { None };
    let card = ModelCard { plan, model, origin, scores, estimate: &estimate, converted: converted.as_ref(), trained };
    write_whole(&partial.join("MODEL_CARD.md"), card.text()?.as_bytes())?;
    write_whole(&partial.join("picture.png"), &encode_png(&picture(model, examples)?))?;
    write_whole(&partial.join("manifest.json"), &serde_json::to_vec_pretty(&manifest)?)?;
    list_all(&partial)?;

    let package = folder.package();
    stop::check("exporting")?;
    replace(&partial, &package)?;
    say(&format!("package: {}", package.display()));
    Ok(package)
}

/// The converter that was chosen, or one on `PATH`.
fn installed_converter(choice: ConverterChoice) -> anyhow::Result<Option<Converter>> {
    let program = match choice {
        ConverterChoice::None => return Ok(None),
        ConverterChoice::PackerOut(program) => Some(program),
        ConverterChoice::Rpk(program) => program,
    };
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    Ok(Some(Converter::find(program, &search_path)?))
}

/// Makes the folder, and removes what an export that was stopped left there.
fn empty_folder(folder: PathBuf) -> anyhow::Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("{}: cannot remove", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("{}: cannot make the folder", folder.display()))?;
    Ok(folder)
}

/// The estimated memory, if the chip has that much.
fn checked_estimate(model: &IntegerModel, keeps_input: bool) -> anyhow::Result<MemoryEstimate> {
    let shape = NetworkShape::from(model);
    let mut estimate = memory_estimate(&shape);
    if !keeps_input {
        estimate.runtime -= shape.kept_input();
    }
    say(&format!("memory estimate: {}", memory_line(&estimate)));
    ensure!(
        estimate.fits(),
        "{}: expected at most {} bytes on the chip, estimated {}",
        model.name(),
        estimate.limit,
        estimate.total()
    );
    Ok(estimate)
}

/// What the ONNX file says of its origin.
fn metadata(plan: &RunPlan, origin: Option<&Origin<'_>>) -> BTreeMap<String, String> {
    let mut metadata = BTreeMap::from([("sensei.plan".to_string(), plan.train_digest.clone())]);
    if let Some(origin) = origin {
        metadata.insert("sensei.weights".to_string(), origin.weights.clone());
    }
    metadata
}

fn manifest_of_model(
    plan: &RunPlan,
    model: &IntegerModel,
    onnx_bytes: &[u8],
    estimate: &MemoryEstimate,
    examples: &[KeptCrop],
) -> serde_json::Value {
    json!({
        "format": 2,
        "digest_algorithm": "BLAKE3",
        "network": model.name(),
        "sensei_version": env!("CARGO_PKG_VERSION"),
        "plan_digest": plan.train_digest,
        "int8_model_digest": blake3::Hash::from_bytes(model.digest()).to_hex().to_string(),
        "onnx_digest": blake3::hash(onnx_bytes).to_hex().to_string(),
        "memory_estimate": memory_json(estimate),
        "input": "int8, pixel - 128, channels x height x width",
        "input_side": model.input().shape[1],
        "crop": plan.crop.name(),
        "border": plan.crop.border_name(),
        "crop_padding": plan.crop.padding(),
        "output": "mask logits; foreground where greater than 0",
        "test_vectors": examples.iter().map(|example| example.annotation_id).collect::<Vec<_>>(),
    })
}

fn add_origin_and_scores(manifest: &mut serde_json::Value, origin: Option<&Origin<'_>>, scores: Option<&EvalReport>) {
    if let Some(origin) = origin {
        manifest["train_data_digest"] = json!(origin.data.train);
        manifest["val_data_digest"] = json!(origin.data.val);
        manifest["teacher_key_digest"] = json!(origin.data.teacher);
        manifest["weights_digest"] = json!(origin.weights);
    }
    if let Some(scores) = scores {
        manifest["protocol"] = json!(scores.protocol);
        manifest["protocol_hash"] = json!(scores.protocol_hash);
        let summary = |name: &str| scores.predictor(name).ok().map(|predictor| json!(predictor.groups));
        manifest["scores"] = json!({ "float": summary("float"), "int8": summary("int8") });
    }
}

/// Input and output of each example as the chip has them, and every layer's integers.
fn write_test_vectors(folder: &Path, model: &IntegerModel, examples: &[KeptCrop]) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("{}: cannot make the folder", folder.display()))?;
    let interpreter = Interpreter::new(model);
    for (idx, example) in examples.iter().enumerate() {
        stop::check("exporting")?;
        let name = format!("{idx:04}");
        let input = interpreter.from_pixels(&example.pixels)?;
        let layers = interpreter.run_all(&input)?;
        let output = layers.last().context("a network has an output")?;
        write_pair(folder, &name, &input, output)?;
        let bytes: Vec<Vec<u8>> =
            layers.iter().map(|layer| layer.values.iter().flat_map(|q| q.to_le_bytes()).collect()).collect();
        let tensors = model.nodes().iter().zip(&layers).zip(&bytes).map(|((node, layer), bytes)| {
            Ok((node.name.as_str(), TensorView::new(Dtype::I16, layer.shape.to_vec(), bytes)?))
        });
        let tensors = tensors.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        let metadata = [("annotation_id".to_string(), example.annotation_id.to_string())].into();
        let file = safetensors::serialize(tensors, Some(metadata))?;
        write_whole(&folder.join(format!("{name}.layers.safetensors")), &file)?;
    }
    Ok(())
}

/// Runs the converter on `onnx`: the `packerOut.zip` that it made, and what it says of memory.
fn convert(
    converter: &Converter,
    onnx: &Path,
    package: &Path,
    estimate: &MemoryEstimate,
    keeps_input: bool,
) -> anyhow::Result<(PathBuf, MemoryEstimate)> {
    let options = ConvertOptions { time_limit: CONVERTER_TIME_LIMIT, memory_report_only: false, keeps_input };
    note("running the vendor's converter (minutes)");
    let shown = working("converting");
    let conversion = converter.convert(onnx, &package.join("imx500"), &options, &stop::is_asked);
    drop(shown);
    stop::check("converting")?;
    let conversion = conversion?;
    let report = conversion.memory;
    let difference = 100.0 * (estimate.total() as f64 / report.total() as f64 - 1.0);
    say(&format!(
        "converter: accepted in {:.0} s; coefficients {} B, runtime {} B, total {} B; our estimate is {difference:+.2} %",
        conversion.duration.as_secs_f64(),
        report.coefficients,
        report.runtime,
        report.total()
    ));
    let MemoryReport { coefficients, runtime, reserved, limit } = report;
    let zip = conversion.packer_out.context("a full conversion has a packerOut.zip")?;
    Ok((zip, MemoryEstimate { coefficients, runtime, reserved, limit }))
}

fn digest(path: &Path) -> anyhow::Result<String> {
    let bytes = fs::read(path).with_context(|| format!("{}: cannot read", path.display()))?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

/// Makes `network.rpk` of a `packerOut.zip`; what is in it, in words.
///
/// # Errors
/// If the zip is broken or holds something whose layout in a `network.rpk` is not known, or the file cannot be written.
pub fn package_rpk(
    zip: &Path,
    out: &Path,
    format: InputFormat,
    intrinsics: Option<Intrinsics>,
) -> anyhow::Result<String> {
    let network = PackerOut::read(zip)?;
    let rpk =
        Rpk::new(&network, format, intrinsics).map_err(|refusal| anyhow::anyhow!("{}: {refusal}", zip.display()))?;
    rpk.write(out)?;
    Ok(format!("network {:?} for {} input", network.network_id, format.name()))
}

/// The int8 model of a run, read back from its file: what is scored is what ships.
///
/// # Errors
/// If it has none yet, or the file is broken.
pub fn int8_model(folder: &RunFolder) -> anyhow::Result<IntegerModel> {
    run_folder::check(folder, &folder.int8())?;
    let advice = "`sensei run CONFIG --resume` finishes a run, `sensei quantize RUN` makes it of a trained student";
    run_folder::expect(folder, &folder.int8(), "an integer model", advice)?;
    Ok(read_model(&folder.int8())?)
}

/// Memory in words.
pub fn memory_line(estimate: &MemoryEstimate) -> String {
    format!(
        "coefficients {} B, runtime {} B, total {} of {} B ({:.1} %)",
        estimate.coefficients,
        estimate.runtime,
        estimate.total(),
        estimate.limit,
        100.0 * estimate.total() as f64 / estimate.limit as f64
    )
}

/// Memory as an object of bytes.
pub fn memory_json(estimate: &MemoryEstimate) -> serde_json::Value {
    json!({
        "coefficients": estimate.coefficients,
        "runtime": estimate.runtime,
        "reserved": estimate.reserved,
        "limit": estimate.limit,
    })
}

/// PicoSAM2 takes about 90 s on two cores.
pub const CONVERTER_TIME_LIMIT: Duration = Duration::from_secs(30 * 60);

/// What runs on the Raspberry Pi.
const CAMERA_PROGRAM: &str = include_str!("../../../../scripts/imx500/camera.py");
