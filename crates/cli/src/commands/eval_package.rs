//! `eval --package`: the integer model of a package, on annotations that are there, without the data it was trained on.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use sensei_data::crop_rule::CropRule;
use sensei_data::dataset::{Dataset, UnusableRule};
use sensei_data::image_file::ImageLimits;
use sensei_eval::bootstrap::BootstrapConfig;
use sensei_eval::metric::{Group, Metric};
use sensei_eval::protocol::{ProtocolRules, Space};
use sensei_eval::report::EvalReport;
use sensei_files::digest_list::DigestList;
use sensei_int8::model::IntegerModel;
use sensei_report::run_folder::RunFolder;
use sensei_samples::source::{InstanceChoice, SampleSource};
use serde_json::Value;

use crate::arguments::EvalArguments;
use crate::commands::run::say_verdict;
use crate::commands::verify::{model_of, read_manifest};
use crate::config::{load_plan, load_protocol};
use crate::device::start_threads;
use crate::phases::data::{Split, check_annotated, dataset, load};
use crate::phases::evaluate::{PackageScores, score_package};
use crate::progress::{say, warn};
use crate::{run_folder, usage};

/// Scores a package's model, read from the package, and says whether the score is the one that its manifest has.
///
/// # Errors
/// If the package cannot be read or was changed, there are no annotations to score on, or a sample cannot be scored.
pub fn eval_package(arguments: &EvalArguments) -> anyhow::Result<()> {
    start_threads(arguments.machine.threads)?;
    let root =
        std::path::absolute(&arguments.run).with_context(|| format!("{}: no such folder", arguments.run.display()))?;
    let is_run = root.join("plan.toml").is_file();
    let package = if is_run { root.join("package") } else { root.clone() };
    let file = package.join("manifest.json");
    if !file.is_file() {
        return Err(usage(anyhow!("{}: expected a package, or a run that has one, found none", root.display())));
    }
    let manifest = read_manifest(&file)?;
    let model = model_of(&package, &manifest)?;
    DigestList::read(&package)?.check(&package.join(format!("{}.s8m", model.name())))?;
    let crop =
        manifest["crop"].as_str().with_context(|| format!("{}: expected \"crop\", found none", file.display()))?;
    let crop = CropRule::from_name(crop).with_context(|| file.display().to_string())?;

    // Scores that go elsewhere leave a run as it is.
    let is_written = is_run && arguments.out.is_none();
    let _lock = is_written.then(|| run_folder::lock(&RunFolder::at(&root))).transpose()?;

    let rules = match &arguments.protocol {
        Some(protocol) => load_protocol(protocol).map_err(usage)?,
        // By the same rules and name as the scores that the manifest has.
        None => ProtocolRules::of_student(manifest["protocol"]["name"].as_str().unwrap_or(UNNAMED).into(), crop),
    };
    if rules.selection.crop.is_some_and(|asked| asked != crop) {
        let asked = rules.selection.crop.map(|crop| crop.name()).unwrap_or_default();
        return Err(usage(anyhow!(
            "protocol {}: expected the package's crop {}, found {asked}",
            rules.name,
            crop.name()
        )));
    }
    let dataset = annotations(arguments, &root, is_run)?;
    check_annotated(&dataset)?;
    let limits = ImageLimits::default();
    let val = SampleSource::new(dataset, None, rules.selection.clone(), crop, limits, InstanceChoice::All)?;
    say(&format!("scored: {} instances", val.instances.len()));
    say("no rows constant_mask and centred_disc: they are fitted to training data, which is not opened");

    let out = arguments.out.clone().unwrap_or_else(|| {
        let parts = [Some("eval-package".to_string()), arguments.protocol.as_ref().map(|_| rules.name.clone())];
        let name: Vec<String> = parts.into_iter().flatten().collect();
        place_of_scores(&root, is_run).join(name.join("-"))
    });
    let report = score_package(&PackageScores { model: &model, rules: &rules, val: &val, bootstrap: BOOTSTRAP }, &out)?;
    say_verdict(&report)?;
    say_whether_it_is_the_manifests(&manifest, &report, &model)
}

/// A run takes its scores; a package is as it was delivered, and they go beside it.
fn place_of_scores(root: &Path, is_run: bool) -> PathBuf {
    if is_run { root.into() } else { root.parent().unwrap_or(Path::new(".")).into() }
}

/// What is scored on: what the command line names, or the validation split of the run that the package is of.
fn annotations(arguments: &EvalArguments, root: &Path, is_run: bool) -> anyhow::Result<Dataset> {
    if let (Some(annotations), Some(images)) = (&arguments.annotations, &arguments.images) {
        return Ok(load(annotations, images, arguments.format, UnusableRule::Refuse)?);
    }
    if !is_run {
        let expected = "expected --annotations and --images to score a package on; found none";
        return Err(usage(anyhow!("{}: {expected}", root.display())));
    }
    let plan = load_plan(&root.join("plan.toml"), &[]).map_err(usage)?;
    dataset(&plan.data, Split::Val, root.parent().unwrap_or(Path::new(".")))
        .context("the run's validation split; --annotations and --images name other files")
}

/// Compares with the score that stands in the manifest, where both are by one protocol on the same instances.
fn say_whether_it_is_the_manifests(manifest: &Value, report: &EvalReport, model: &IntegerModel) -> anyhow::Result<()> {
    let expected_hash = manifest["protocol_hash"].as_str();
    if expected_hash != Some(report.protocol_hash.as_str()) {
        let has = expected_hash.map_or("no scores".into(), |hash| format!("scores by {hash}"));
        warn(&format!("the manifest has {has}; these are by {}, and are not compared", report.protocol_hash));
        return Ok(());
    }
    let (metric, key) = match report.protocol.space {
        Space::Crop => (Metric::MeanIouInCrop, "mean_iou_in_crop"),
        Space::Image => (Metric::MeanIouInImage, "mean_iou_in_image"),
    };
    let found = report.predictor("int8")?.groups.get(&Group::All).and_then(|all| all.estimates.get(&metric));
    let found = found.map(|estimate| estimate.value);
    let expected = manifest["scores"]["int8"]["all"]["estimates"][key]["value"].as_f64();
    if expected != found {
        let shown = |score: Option<f64>| score.map_or("none".into(), |score| score.to_string());
        bail!("{}: {key}: expected the manifest's {}, found {}", model.name(), shown(expected), shown(found));
    }
    say(&format!("{key} is the manifest's, to the last bit"));
    Ok(())
}

/// Where a manifest has no scores, and so no name of a protocol.
const UNNAMED: &str = "package";

/// As in the configurations that ship: a package does not say with which its own intervals were made.
const BOOTSTRAP: BootstrapConfig = BootstrapConfig { seed: 0, n_resamples: 10_000 };
