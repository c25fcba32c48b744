//! `verify`: whether a run or a package is as it was written.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use sensei_data::crop_rule::CropRule;
use sensei_files::digest_list::{DigestList, LIST};
use sensei_imx500::converter::MemoryReport;
use sensei_imx500::dnn_params::DnnParams;
use sensei_imx500::memory::{MemoryEstimate, NetworkShape, memory_estimate};
use sensei_imx500::onnx::read_onnx;
use sensei_imx500::packer_out::PackerOut;
use sensei_imx500::recording::compare;
use sensei_imx500::rpk::{InputFormat, Intrinsics, Rpk};
use sensei_int8::model::IntegerModel;
use sensei_int8::model_file::read_model;
use serde_json::Value;

use crate::phases::export::memory_json;
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
    let is_run = folder.join("plan.toml").exists();
    if manifest.exists() && problems.is_empty() {
        problems.extend(package_problems(folder, &manifest, &list)?);
    } else if !is_run && !manifest.exists() {
        problems.push(format!("{}: expected the package's manifest, found none", manifest.display()));
    }
    problems.iter().for_each(|problem| say(problem));
    // A run has files that change, and are in no list.
    if !is_run {
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

/// What a manifest says of the package's files and does not hold. Its digests are BLAKE3.
fn package_problems(folder: &Path, manifest_file: &Path, list: &DigestList) -> anyhow::Result<Vec<String>> {
    let manifest = read_manifest(manifest_file)?;
    let model = model_of(folder, &manifest)?;
    let lists = |file: &Path| list.names().any(|name| folder.join(name) == *file);
    let mut facts = Facts { of: manifest_file, manifest: &manifest, problems: vec![] };
    facts.holds("int8_model_digest", &digest(&model).into());
    facts.holds("input_side", &model.input().shape[1].into());
    facts.crop(model.input().shape[1])?;
    facts.memory(&model);

    // Its list says what belongs to a package: one that is published may come without what the converter reads and makes.
    let onnx = folder.join(format!("{}.onnx", model.name()));
    if lists(&onnx) {
        facts.holds("onnx_digest", &blake3_of(&onnx)?.into());
        facts.holds("int8_model_digest", &digest(&read_onnx(&onnx)?.model).into());
    } else {
        say(&format!("{}: not part of this package", onnx.display()));
    }
    let [zip, rpk] = ["imx500/packerOut.zip", "network.rpk"].map(|name| folder.join(name));
    for (key, file) in [("packer_out_digest", &zip), ("rpk_digest", &rpk)] {
        match (manifest.get(key).is_some(), lists(file)) {
            (false, false) => {}
            (true, false) => say(&format!("{}: not part of this package", file.display())),
            (false, true) => {
                let (shown, file) = (manifest_file.display(), file.display());
                facts.problems.push(format!("{shown}: {key}: {file} is in this package, and there is no digest of it"));
            }
            (true, true) => facts.holds(key, &blake3_of(file)?.into()),
        }
    }
    let params = folder.join("imx500/dnnParams.xml");
    if lists(&params) {
        let MemoryReport { coefficients, runtime, reserved, limit } = DnnParams::read(&params)?.memory.into();
        let memory = MemoryEstimate { coefficients, runtime, reserved, limit };
        facts.holds("converter_memory", &memory_json(&memory));
    }
    if lists(&zip) && lists(&rpk) {
        let network = PackerOut::read(&zip)?;
        let made = Rpk::new(&network, InputFormat::Rgb, Some(Intrinsics::of_student())).and_then(|rpk| rpk.to_bytes());
        let made = made.map_err(|refusal| anyhow::anyhow!("{}: {refusal}", zip.display()))?;
        if made != std::fs::read(&rpk).with_context(|| format!("{}: cannot read", rpk.display()))? {
            facts.problems.push(format!(
                "{}: expected what {} gives, found another file",
                rpk.display(),
                zip.display()
            ));
        }
    }
    facts.test_vectors(&model, &folder.join("test_vectors"))?;
    Ok(facts.problems)
}

/// A manifest, held to what is there.
struct Facts<'a> {
    of: &'a Path,
    manifest: &'a Value,
    problems: Vec<String>,
}

impl Facts<'_> {
    fn holds(&mut self, key: &str, found: &Value) {
        if self.manifest[key] != *found {
            let expected = &self.manifest[key];
            self.problems.push(format!("{}: {key}: expected {expected}, found {found}", self.of.display()));
        }
    }

    /// The crop is what its own name, its parts and the network's input say.
    fn crop(&mut self, input_side: usize) -> anyhow::Result<()> {
        let name = self.manifest["crop"].as_str().unwrap_or_default();
        let crop = CropRule::from_name(name).with_context(|| format!("{}: crop", self.of.display()))?;
        self.holds("border", &crop.border_name().into());
        self.holds("crop_padding", &crop.padding().into());
        if crop.grid() as usize != input_side {
            let side = format!("crop: expected one of the network's {input_side} x {input_side} pixels");
            self.problems.push(format!("{}: {side}, found {name}", self.of.display()));
        }
        let scored = &self.manifest["protocol"]["crop"];
        if scored.is_string() && scored != name {
            self.problems.push(format!("{}: crop: expected the scores' {scored}, found {name:?}", self.of.display()));
        }
        Ok(())
    }

    /// Memory as it is estimated today, with or without the input that the chip keeps for the host.
    fn memory(&mut self, model: &IntegerModel) {
        // Before there was a choice, it was kept.
        let keeps_input = self.manifest["input_kept"].as_bool().unwrap_or(true);
        let shape = NetworkShape::from(model);
        let mut estimate = memory_estimate(&shape);
        if !keeps_input {
            estimate.runtime -= shape.kept_input();
        }
        self.holds("memory_estimate", &memory_json(&estimate));
    }

    /// The integers answer the test vectors as they say, and there are as many as the manifest names annotations, if it does.
    fn test_vectors(&mut self, model: &IntegerModel, folder: &Path) -> anyhow::Result<()> {
        let n_named = self.manifest["test_vectors"].as_array().map_or(0, Vec::len);
        if n_named == 0 && !folder.exists() {
            return Ok(());
        }
        let frames = compare(model, folder)?;
        // A package that is published may show the network on a picture of nobody's data.
        if n_named > 0 && frames.len() != n_named {
            let shown = self.of.display();
            self.problems.push(format!("{shown}: test_vectors: expected {n_named} pairs, found {}", frames.len()));
        }
        for frame in frames.iter().filter(|frame| frame.mismatches > 0) {
            let (name, n, of) = (&frame.name, frame.mismatches, frame.values);
            let shown = folder.display();
            self.problems.push(format!("{shown}: {name}: {n} of {of} values are not the integer model's"));
        }
        Ok(())
    }
}

fn blake3_of(file: &Path) -> anyhow::Result<String> {
    let bytes = std::fs::read(file).with_context(|| format!("{}: cannot read", file.display()))?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
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
