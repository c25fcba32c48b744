//! `verify`: whether a run or a package is as it was written.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use sensei_files::digest_list::{DigestList, LIST};
use sensei_imx500::onnx::read_onnx;
use sensei_int8::model::IntegerModel;
use sensei_int8::model_file::read_model;
use serde_json::Value;

use crate::progress::{on_one_line, say};

/// Holds every file of a folder to its list of digests, and what a package's manifest says to its files.
///
/// # Errors
/// If the folder has no list, or something differs; each difference is printed.
pub fn verify(folder: &Path) -> anyhow::Result<()> {
    let list = DigestList::read(folder)?;
    ensure!(!list.is_empty(), "{}: expected a run or a package with a {LIST}, found none", folder.display());
    let mut problems: Vec<String> = list.check_all().iter().map(ToString::to_string).collect();
    let n_files = list.names().count();
    let manifest = folder.join("manifest.json");
    if manifest.exists() && problems.is_empty() {
        problems.extend(package_problems(folder, &manifest)?);
    }
    problems.iter().for_each(|problem| say(problem));
    // A run has files that change, and are in no list.
    if !folder.join("plan.toml").exists() {
        for other in unlisted(folder, folder, &list)? {
            let other = on_one_line(&folder.join(other).display().to_string());
            say(&format!("{other}: not of this package: {LIST} does not name it"));
        }
    }
    if !problems.is_empty() {
        bail!("{}: expected no differences, found {}", folder.display(), problems.len());
    }
    say(&format!("{}: {n_files} files are as they were written (SHA-256)", folder.display()));
    let package = folder.join("package");
    if package.join(LIST).exists() { verify(&package) } else { Ok(()) }
}

/// Files below a package that its list does not name, sorted.
fn unlisted(package: &Path, folder: &Path, list: &DigestList) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).with_context(|| format!("{}: cannot list", folder.display()))? {
        let path = entry.with_context(|| format!("{}: cannot list", folder.display()))?.path();
        let name = path.strip_prefix(package).unwrap_or(&path).to_path_buf();
        if path.is_dir() && !path.is_symlink() {
            found.extend(unlisted(package, &path, list)?);
            continue;
        }
        // Files behind a link to a folder are held to the list by their names.
        if path.is_dir() && list.names().any(|listed| Path::new(listed).starts_with(&name)) {
            continue;
        }
        if name != Path::new(LIST) && !list.names().any(|listed| Path::new(listed) == name) {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

/// What a manifest says of the network's files and does not hold.
fn package_problems(folder: &Path, manifest_file: &Path) -> anyhow::Result<Vec<String>> {
    let manifest = read_manifest(manifest_file)?;
    let model = model_of(folder, &manifest)?;
    let onnx = folder.join(format!("{}.onnx", model.name()));
    let mut facts = vec![("int8_model_digest", digest(&model))];
    // Its list says what belongs to a package: one that is published may come without the converter's input.
    if DigestList::read(folder)?.names().any(|name| folder.join(name) == onnx) {
        let file = std::fs::read(&onnx).with_context(|| format!("{}: cannot read", onnx.display()))?;
        facts.push(("onnx_digest", blake3::hash(&file).to_hex().to_string()));
        facts.push(("int8_model_digest", digest(&read_onnx(&onnx)?.model)));
    } else {
        say(&format!("{}: not part of this package", onnx.display()));
    }
    let differ = facts.into_iter().filter(|(key, found)| manifest[*key].as_str() != Some(found));
    let shown = manifest_file.display();
    Ok(differ.map(|(key, found)| format!("{shown}: {key}: expected {}, found {found}", manifest[key])).collect())
}

/// The manifest of a package.
///
/// # Errors
/// If it cannot be read, is no JSON, or differs from the package's list of digests.
pub fn read_manifest(file: &Path) -> anyhow::Result<Value> {
    if let Some(folder) = file.parent() {
        DigestList::read(folder)?.check(file)?;
    }
    let text = std::fs::read_to_string(file).with_context(|| format!("{}: cannot read", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{}: expected JSON", file.display()))
}

/// The integer model of a package, which must be the one that the manifest names.
///
/// # Errors
/// If it cannot be read, or is another.
pub fn model_of(package: &Path, manifest: &Value) -> anyhow::Result<IntegerModel> {
    let network = manifest["network"].as_str();
    let network = network.with_context(|| format!("{}: expected a network's name, found none", package.display()))?;
    let file = package.join(format!("{network}.s8m"));
    let model = read_model(&file)?;
    if let Some(expected) = manifest["int8_model_digest"].as_str() {
        let found = digest(&model);
        ensure!(found == expected, "{}: expected the model {expected} of the manifest, found {found}", file.display());
    }
    Ok(model)
}

fn digest(model: &IntegerModel) -> String {
    blake3::Hash::from_bytes(model.digest()).to_hex().to_string()
}
