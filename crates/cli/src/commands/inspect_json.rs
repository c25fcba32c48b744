//! `inspect --json`: what a file or folder is and says, for other programs.

use std::path::Path;

use anyhow::{Context, anyhow};
use sensei_answers::folder_store::FolderStore;
use sensei_answers::manifest::read_manifest as read_cache_manifest;
use sensei_answers::verify::stats;
use sensei_eval::report::EvalReport;
use sensei_imx500::memory::{NetworkShape, memory_estimate};
use sensei_imx500::onnx::outline::read_outline;
use sensei_imx500::onnx::read_onnx;
use sensei_int8::model::IntegerModel;
use sensei_int8::model_file::read_model;
use sensei_report::run_folder::RunFolder;
use sensei_student::weights::read_weights;
use serde_json::{Map, Value, json};

use crate::commands::inspect::check_listed;
use crate::commands::verify::read_manifest;
use crate::config::{is_promptable, load_plan, load_promptable};
use crate::phases::export::memory_json;
use crate::{run_folder, usage};

/// The facts as one document; its `kind` says what else there is.
///
/// # Errors
/// If it is of no kind that has facts, or is broken.
pub fn facts(path: &Path) -> anyhow::Result<Value> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if path.is_dir() {
        return match path {
            path if path.join("index.sti").is_file() => cache(path),
            path if path.join("plan.toml").is_file() => run(path),
            path => manifest(&path.join("manifest.json")).with_context(|| format!("{}: {FOLDERS}", path.display())),
        };
    }
    check_listed(path)?;
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("s8m") => Ok(model("int8_model", &read_model(path)?)),
        Some("onnx") => onnx(path),
        Some("safetensors" | "pt" | "pth") => weights(path),
        Some("toml") => configuration(path),
        Some("json") if name == "manifest.json" => manifest(path),
        Some("json") => scores(path).map(|scores| json!({ "kind": "report", "scores": scores })),
        _ => Err(usage(anyhow!("{}: --json: expected {KINDS}, found another file", path.display()))),
    }
}

fn cache(path: &Path) -> anyhow::Result<Value> {
    let manifest = read_cache_manifest(path)?;
    let stats = stats(&FolderStore::open_any(path)?)?;
    Ok(json!({
        "kind": "teacher_cache",
        "teacher": manifest.teacher,
        "key": manifest.key,
        "records": stats.n_records,
        "images": stats.n_images,
        "shards": stats.n_shards,
        "bytes": stats.bytes,
        "masks": stats.n_masks,
    }))
}

fn run(path: &Path) -> anyhow::Result<Value> {
    let root = std::path::absolute(path).with_context(|| format!("{}: no such folder", path.display()))?;
    let folder = run_folder::open(&root)?;
    let mut facts = configuration(&folder.plan_toml())?;
    facts["kind"] = json!("run");
    let report = folder.scores();
    if report.exists() {
        run_folder::check(&folder, &report)?;
        facts["scores"] = scores(&report)?;
    }
    facts["has"] = json!(has(&folder));
    Ok(facts)
}

/// Which files of a run are there.
fn has(folder: &RunFolder) -> Map<String, Value> {
    let files = [
        ("student", folder.student()),
        ("samples", folder.samples()),
        ("int8_model", folder.int8()),
        ("package", folder.package().join("manifest.json")),
        ("report", folder.report()),
    ];
    files.into_iter().map(|(name, file)| (name.to_string(), json!(file.exists()))).collect()
}

fn configuration(path: &Path) -> anyhow::Result<Value> {
    let (name, family, digest, toml) = if is_promptable(path) {
        let plan = load_promptable(path, &[]).map_err(usage)?;
        (plan.name, "promptable", plan.train_digest, plan.resolved_toml)
    } else {
        let plan = load_plan(path, &[]).map_err(usage)?;
        (plan.name, "chip", plan.train_digest, plan.resolved_toml)
    };
    Ok(json!({ "kind": "configuration", "name": name, "family": family, "plan_digest": digest, "resolved_toml": toml }))
}

fn manifest(path: &Path) -> anyhow::Result<Value> {
    let facts = read_manifest(path)?;
    Ok(json!({ "kind": "package", "manifest": facts }))
}

/// Every number of a report, by row; not those of single instances.
fn scores(path: &Path) -> anyhow::Result<Value> {
    let report = EvalReport::read(path)?;
    let rows: Map<String, Value> =
        report.predictors.iter().map(|row| (row.scores.predictor.clone(), json!(row.groups))).collect();
    Ok(json!({ "protocol": report.protocol, "protocol_hash": report.protocol_hash, "rows": rows }))
}

fn onnx(path: &Path) -> anyhow::Result<Value> {
    let outline = read_outline(path)?;
    if outline.is_dialect() {
        let file = read_onnx(path)?;
        let mut facts = model("onnx_of_the_converter", &file.model);
        facts["metadata"] = json!(file.metadata);
        return Ok(facts);
    }
    let rounded = outline.rounded.iter().map(|tensor| {
        json!({ "name": tensor.name, "element": tensor.element, "step": tensor.step, "zero_point": tensor.zero_point })
    });
    Ok(json!({
        "kind": "onnx",
        "producer": outline.producer,
        "name": outline.name,
        "opsets": outline.opsets,
        "metadata": outline.metadata,
        "inputs": outline.inputs,
        "outputs": outline.outputs,
        "operators": outline.operators,
        "constants": outline.constants,
        "rounded": rounded.collect::<Vec<_>>(),
    }))
}

fn weights(path: &Path) -> anyhow::Result<Value> {
    let file = read_weights(path)?;
    let shapes: Map<String, Value> =
        file.tensors.iter().map(|(name, tensor)| (name.clone(), json!(tensor.shape))).collect();
    let left_out: Vec<String> = file.left_out().map(|entry| entry.name.clone()).collect();
    Ok(json!({ "kind": "weights", "metadata": file.metadata, "tensors": shapes, "left_out": left_out }))
}

fn model(kind: &str, model: &IntegerModel) -> Value {
    let node = |node: &sensei_int8::model::IntegerNode| {
        json!({
            "name": node.name,
            "shape": node.shape,
            "inputs": node.inputs,
            "signed": node.grid.signed(),
            "bits": node.grid.bits(),
            "threshold": node.grid.threshold(),
        })
    };
    json!({
        "kind": kind,
        "name": model.name(),
        "digest": blake3::Hash::from_bytes(model.digest()).to_hex().to_string(),
        "memory_estimate": memory_json(&memory_estimate(&NetworkShape::from(model))),
        "nodes": model.nodes().iter().map(node).collect::<Vec<_>>(),
    })
}

const FOLDERS: &str = "--json: expected a run, a package or a teacher cache";

const KINDS: &str = "a run, a package, a teacher cache, or a file .s8m, .onnx, .safetensors, .pt, .pth, .toml or .json";
