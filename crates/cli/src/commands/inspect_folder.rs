//! `inspect` of a run's folder, a package and a configuration.

use std::path::Path;

use anyhow::{Context, bail};
use sensei_answers::folder_store::FolderStore;
use sensei_answers::verify::stats;
use sensei_eval::report::EvalReport;
use sensei_files::digest_list::LIST;
use sensei_report::run_folder::RunFolder;
use serde_json::Value;

use crate::commands::teacher::describe;
use crate::commands::verify::read_manifest;
use crate::config::{is_promptable, load_plan, load_promptable};
use crate::progress::{on_one_line, say};
use crate::run_folder;
use crate::usage;

/// Explains a teacher cache, a run's folder or a package.
///
/// # Errors
/// If it is none of them, or a file of it is not as it was written.
pub fn inspect_folder(path: &Path) -> anyhow::Result<()> {
    if path.join("index.sti").is_file() {
        describe(path)?;
        let stats = stats(&FolderStore::open_any(path)?)?;
        say(&format!("teacher cache of {} records on {} images", stats.n_records, stats.n_images));
        return Ok(());
    }
    if path.join("plan.toml").is_file() {
        return show_run(path);
    }
    if path.join("manifest.json").is_file() {
        return show_manifest(&path.join("manifest.json"));
    }
    bail!("{}: expected a file, a run, a package or a teacher cache, found another folder", path.display())
}

/// Prints a configuration as a run would have it.
///
/// # Errors
/// If it is none.
pub fn show_configuration(path: &Path) -> anyhow::Result<()> {
    let (resolved, digest) = if is_promptable(path) {
        let plan = load_promptable(path, &[]).map_err(usage)?;
        (plan.resolved_toml, plan.train_digest)
    } else {
        let plan = load_plan(path, &[]).map_err(usage)?;
        (plan.resolved_toml, plan.train_digest)
    };
    say(&resolved);
    say(&format!("plan digest {digest}"));
    Ok(())
}

/// Prints a package's manifest, a line for each fact.
///
/// # Errors
/// If it cannot be read, or differs from the package's list of digests.
pub fn show_manifest(path: &Path) -> anyhow::Result<()> {
    let manifest = read_manifest(path)?;
    let facts = manifest.as_object().with_context(|| format!("{}: expected an object", path.display()))?;
    for (key, value) in facts.iter().filter(|(key, _)| *key != "scores") {
        say(&format!("{key:<24} {}", on_one_line(&in_words(value))));
    }
    for (name, groups) in facts.get("scores").and_then(Value::as_object).into_iter().flatten() {
        if let Some(all) = groups.get("all") {
            say(&format!("{:<24} {}", format!("scores of {name}, all"), on_one_line(&in_words(all))));
        }
    }
    Ok(())
}

fn show_run(path: &Path) -> anyhow::Result<()> {
    let path = std::path::absolute(path).with_context(|| format!("{}: no such folder", path.display()))?;
    let folder = run_folder::open(&path)?;
    say(&format!("run {}", path.display()));
    for (what, file) in [
        ("configuration", folder.plan_toml()),
        ("trained weights", folder.student()),
        ("crops for calibration and test vectors", folder.samples()),
        ("integer model", folder.int8()),
        ("package", folder.package().join("manifest.json")),
        ("page for people", folder.report()),
    ] {
        let is = if file.exists() { "there" } else { "not there" };
        say(&format!("{what:<40} {is}: {}", file.strip_prefix(&path).unwrap_or(&file).display()));
    }
    say(&format!("{:<40} {}", "checkpoints", n_checkpoints(&folder)?));
    let report = folder.eval().join("report.json");
    if report.exists() {
        run_folder::check(&folder, &report)?;
        say(&EvalReport::read(&report)?.table());
    } else {
        say("not scored yet");
    }
    say(&format!("`sensei verify` holds all of it to {LIST}"));
    Ok(())
}

fn n_checkpoints(folder: &RunFolder) -> anyhow::Result<usize> {
    let place = folder.checkpoints();
    if !place.exists() {
        return Ok(0);
    }
    let entries = std::fs::read_dir(&place).with_context(|| format!("{}: cannot list", place.display()))?;
    Ok(entries.flatten().filter(|entry| entry.path().extension().is_some_and(|ending| ending == "safetensors")).count())
}

/// A value without JSON's quotes.
fn in_words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let fields: Vec<String> = fields.iter().map(|(key, value)| format!("{key} {}", in_words(value))).collect();
            fields.join(", ")
        }
        other => other.to_string(),
    }
}
