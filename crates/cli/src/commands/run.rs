//! `run`, `train`, `eval`, `quantize`, `export`, `report`: everything around a run folder.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail, ensure};
use burn::tensor::Device;
use sensei_eval::protocol::ProtocolRules;
use sensei_eval::report::EvalReport;
use sensei_eval::verdict::Verdict;
use sensei_int8::model::IntegerModel;
use sensei_samples::source::SampleSource;
use sensei_student::fold::fold_input_normalization;
use sensei_student::student::WEIGHTS;
use sensei_student::weights::read_weights;
use sensei_tensor::network::{HalfPrecision, NamedWeights, weights_digest};

use crate::arguments::{EvalArguments, RunArguments};
use crate::commands::about::about;
use crate::commands::plan::check_budget;
use crate::config::{RunPlan, check_same_run, load_plan, load_protocol};
use crate::device::{Devices, open as open_devices, start_threads};
use crate::phases::data::{OtherData, Split, check_disjoint, checked_splits, open, open_by, own_rules};
use crate::phases::evaluate::{Networks, robustness, score, score_files, scores_of};
use crate::phases::export::{ConverterChoice, Converting, Origin, int8_model};
use crate::phases::inputs::write_inputs;
use crate::phases::kept_samples::{KeptSamples, calibration_crops, kept_or_made};
use crate::phases::student_onnx::write_student_onnx;
use crate::phases::student_torch::write_student_torch;
use crate::phases::train::{TrainOptions, train, trained_first_weights, trained_weights};
use crate::phases::{export as exporting, quantize as quantizing};
use crate::progress::{on_one_line, phase, say, warn};
use crate::run_folder;
use crate::shipped_models::shipped;
use crate::stop;
use crate::usage;
use sensei_files::lock::Lock;
use sensei_files::whole::write_whole;
use sensei_report::page;
use sensei_report::run_folder::RunFolder;
use sensei_report::tensorboard::write_scores;

/// The whole line.
pub fn run(arguments: &RunArguments) -> anyhow::Result<()> {
    let Trained { plan, folder, lock: _lock, train, val, devices, weights, kept } = prepare_and_train(arguments)?;
    if let Some(kept) = &kept {
        let quantized = quantizing::quantize(&plan, &weights, &kept.calibration, &folder)?;
        quantizing::save(&quantized, &folder)?;
    }
    // What is scored is what was written, read back.
    let (weights, model) = scored_networks(&plan, &folder)?;
    let initial = trained_first_weights(&plan)?;
    let networks = Networks { initial: initial.as_ref(), weights: &weights, int8: model.as_ref(), recorded: None };
    let scores = own_scores(&plan, &folder, &networks, (&train, &val), &devices.main)?;
    if let (Some(deployment), Some(model), Some(kept)) = (&plan.deployment, &model, &kept) {
        write_student_onnx(&plan, &folder, &weights, model)?;
        write_student_torch(&plan, &folder, &weights)?;
        let origin = Origin { data: &kept.data, weights: weights_digest(&weights) };
        let converter = deployment.export.converter.as_deref();
        let choice = converter.map_or(ConverterChoice::None, ConverterChoice::PackerOut);
        let converting = Converting { choice, keeps_input: true };
        exporting::export(&plan, &folder, model, Some(&origin), Some(&scores), &kept.examples, converting)?;
    }
    report(folder.root())
}

/// The run's own networks from its folder: the trained weights and, of a run for the chip, the integer network.
fn scored_networks(plan: &RunPlan, folder: &RunFolder) -> anyhow::Result<(NamedWeights, Option<IntegerModel>)> {
    let model = plan.deployment.as_ref().map(|_| int8_model(folder)).transpose()?;
    Ok((trained_weights(plan, folder)?, model))
}

/// Data, teacher cache and training.
pub fn train_only(arguments: &RunArguments) -> anyhow::Result<()> {
    prepare_and_train(arguments).map(|_| ())
}

/// Scores the run's own networks or other weights, by the run's or another protocol.
pub fn eval(arguments: &EvalArguments) -> anyhow::Result<()> {
    let (plan, folder) = open_run(&arguments.run)?;
    // Scores that go elsewhere leave the folder as it is.
    let _lock = if arguments.out.is_none() { Some(run_folder::lock(&folder)?) } else { None };
    if arguments.annotations.is_some() && arguments.protocol.is_none() {
        return Err(usage(anyhow::anyhow!(
            "--annotations: expected --protocol beside it, or --package; found neither"
        )));
    }
    let rules = arguments.protocol.as_deref().map(load_protocol).transpose().map_err(usage)?;
    let Devices { main: device, others, .. } = open_devices(&arguments.machine)?;
    if !others.is_empty() {
        let found = 1 + others.len();
        return Err(usage(anyhow::anyhow!("--device: expected one device to score on, found {found}")));
    }
    let (weights, model) = match &arguments.weights {
        Some(path) => (foreign_weights(&plan, path, arguments.imagenet_normalised)?, None),
        None => scored_networks(&plan, &folder)?,
    };
    if arguments.recorded.is_some() && model.is_none() {
        bail!("--recorded: expected a run with an integer model, found none");
    }
    let initial = match &arguments.weights {
        Some(_) => None,
        // A copied run can be scored where the file that it started from is not.
        None => trained_first_weights(&plan).unwrap_or_else(|error| {
            warn(&format!("no row initial, the student before the training: {error:#}"));
            None
        }),
    };
    let recorded = arguments.recorded.as_deref();
    let networks = Networks { initial: initial.as_ref(), weights: &weights, int8: model.as_ref(), recorded };

    let runs = runs_of(&folder);
    let other = arguments.annotations.as_deref().zip(arguments.images.as_deref());
    let other = other.map(|(annotations, images)| OtherData { annotations, images, format: arguments.format });
    let open_by = |rules: &ProtocolRules| {
        let train = open_by(&plan, rules, Split::Train, None, runs)?;
        let val = open_by(&plan, rules, Split::Val, other.as_ref(), runs)?;
        check_disjoint(&train, &val)?;
        anyhow::Ok((train, val))
    };
    let out = arguments.out.clone().unwrap_or_else(|| {
        let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let parts = [
            // Beside the run's own scores a page must not take them for its own.
            arguments.weights.as_deref().map(|path| format!("weights-{}", stem(path))),
            rules.as_ref().map(|rules| rules.name.clone()),
            arguments.annotations.as_deref().map(stem),
            arguments.robustness.then(|| "robustness".to_string()),
            arguments.recorded.as_ref().map(|_| "recorded".to_string()),
        ];
        let name: Vec<String> = std::iter::once("eval".to_string()).chain(parts.into_iter().flatten()).collect();
        folder.root().join(name.join("-"))
    });
    if let Some(inputs) = &arguments.write_inputs {
        let model = model.as_ref().context("--write-inputs: expected a run with an integer model, found none")?;
        let (_, val) = rules.as_ref().map_or_else(|| splits(&plan, runs), &open_by)?;
        return write_inputs(model, &val, inputs);
    }
    match rules {
        _ if arguments.robustness => {
            let rules = rules.unwrap_or_else(|| ProtocolRules::of_student(plan.crop.name(), plan.crop));
            robustness(&plan, &networks, &rules, open_by, &device, &out)?;
        }
        Some(rules) => {
            let (train, val) = open_by(&rules)?;
            say_verdict(&score(&plan, &networks, &rules, (&train, &val), &device, &out)?)?;
        }
        None => {
            let (train, val) = splits(&plan, runs)?;
            let report = if out == folder.eval() {
                own_scores(&plan, &folder, &networks, (&train, &val), &device)?
            } else {
                score(&plan, &networks, &own_rules(&plan), (&train, &val), &device, &out)?
            };
            say_verdict(&report)?;
        }
    }
    if arguments.weights.is_some() {
        say(&format!("weights digest {}", weights_digest(&weights)));
    }
    Ok(())
}

/// Scores a run's own networks by its own rules, into its folder.
fn own_scores(
    plan: &RunPlan,
    folder: &RunFolder,
    networks: &Networks,
    splits: (&SampleSource, &SampleSource),
    device: &Device,
) -> anyhow::Result<EvalReport> {
    let files = score_files(&folder.eval());
    run_folder::forget(folder, &files)?;
    let report = score(plan, networks, &own_rules(plan), splits, device, &folder.eval())?;
    run_folder::record(folder, &files)?;
    Ok(report)
}

/// Weights of another program, for a run's network.
///
/// # Errors
/// If the file cannot be read, or is not of this network.
pub fn foreign_weights(plan: &RunPlan, path: &Path, imagenet_normalised: bool) -> anyhow::Result<NamedWeights> {
    let file = match path.to_str().filter(|_| !path.exists()).map(shipped) {
        Some(Ok(model)) => model.weights()?,
        _ => read_weights(path)?,
    };
    if !file.converted.is_empty() {
        say(&format!("{}: {} tensors were converted to 32-bit floats", path.display(), file.converted.len()));
    }
    let weights = file.for_graph(&plan.graph)?;
    if let Some(note) = file.note(&plan.graph) {
        say(&format!("{}: {}", path.display(), on_one_line(&note)));
    }
    if !imagenet_normalised {
        return Ok(weights);
    }
    let (folded, note) = fold_input_normalization(&plan.graph, &weights, IMAGENET_MEAN, IMAGENET_STD)?;
    say(&format!(
        "normalisation folded into {}; {} of {} output pixels read padding and differ by at most {:.3}",
        note.conv, note.border_pixels, note.pixels, note.max_difference
    ));
    Ok(folded)
}

/// The int8 model of a trained run.
///
/// With `reuse` on the crops that the run kept, without its data.
pub fn quantize(run: &Path, reuse: bool, sensitivity_bits: Option<u8>, threads: usize) -> anyhow::Result<()> {
    let (plan, folder) = open_run(run)?;
    let _lock = run_folder::lock(&folder)?;
    plan.deployment().map_err(usage)?;
    start_threads(threads)?;
    let weights = trained_weights(&plan, &folder)?;
    let crops = match reuse {
        true => KeptSamples::read(&folder, plan.graph.input_size())?.calibration,
        false => calibration_crops(&plan, &open(&plan, Split::Train, runs_of(&folder))?)?,
    };
    if let Some(bits) = sensitivity_bits {
        say(&quantizing::sensitivities(&plan, &weights, &crops, bits)?.table());
    }
    let quantized = quantizing::quantize(&plan, &weights, &crops, &folder)?;
    quantizing::save(&quantized, &folder)?;
    say(&quantized.layers.table());
    Ok(())
}

/// The package of a quantized run, and its ONNX files for stock runtimes.
pub fn export(run: &Path, converter: Option<&Path>, rpk: bool, keeps_input: bool) -> anyhow::Result<()> {
    let (plan, folder) = open_run(run)?;
    let _lock = run_folder::lock(&folder)?;
    let deployment = plan.deployment().map_err(usage)?;
    let model = int8_model(&folder)?;
    let kept = kept_or_made(&plan, &folder, || splits(&plan, runs_of(&folder)))?;
    let weights = trained_weights(&plan, &folder)?;
    write_student_onnx(&plan, &folder, &weights, &model)?;
    write_student_torch(&plan, &folder, &weights)?;
    let origin = Origin { data: &kept.data, weights: weights_digest(&weights) };
    score_files(&folder.eval()).iter().try_for_each(|file| run_folder::check(&folder, file))?;
    let scores = scores_of(&folder.eval(), &model)?;
    let choice = match converter.or(deployment.export.converter.as_deref()) {
        program if rpk => ConverterChoice::Rpk(program),
        program => program.map_or(ConverterChoice::None, ConverterChoice::PackerOut),
    };
    let converting = Converting { choice, keeps_input };
    exporting::export(&plan, &folder, &model, Some(&origin), scores.as_ref(), &kept.examples, converting)?;
    Ok(())
}

/// The page for people.
pub fn report(run: &Path) -> anyhow::Result<()> {
    phase("writing the report");
    let folder = run_folder::open(run)?;
    let others = page::other_report_files(&folder)?.into_iter().map(|(_, file)| file);
    for file in [folder.layers(), folder.layers_before()].into_iter().chain(score_files(&folder.eval())).chain(others) {
        run_folder::check(&folder, &file)?;
    }
    let page = page::page(&folder, &about(&folder.plan_toml())?)?;
    write_whole(&folder.report(), page.as_bytes())?;
    say(&format!("report: {}", folder.report().display()));
    let scores = folder.scores();
    if !scores.exists() {
        return Ok(());
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    write_scores(&folder, now.as_secs_f64())?;
    say_verdict(&EvalReport::read(&scores)?)
}

/// A run's last words: where its student stands beside floors and teacher.
///
/// # Errors
/// If rows of the report are not of the same instances.
pub fn say_verdict(report: &EvalReport) -> anyhow::Result<()> {
    if let Some(verdict) = Verdict::of(report)? {
        say(&verdict.sentence());
    }
    Ok(())
}

struct Trained {
    plan: RunPlan,
    folder: RunFolder,
    /// Held as long as the folder is written.
    lock: Lock,
    train: SampleSource,
    val: SampleSource,
    devices: Devices,
    weights: NamedWeights,
    /// Of a run for the chip.
    kept: Option<KeptSamples>,
}

/// Everything up to the trained weights.
fn prepare_and_train(arguments: &RunArguments) -> anyhow::Result<Trained> {
    let mut plan = load_plan(&arguments.config, &arguments.set.overrides).map_err(usage)?;
    if let Some(name) = &arguments.place.name {
        plan.name.clone_from(name);
    }
    check_budget(&plan).with_context(|| arguments.config.display().to_string()).map_err(usage)?;
    let devices = open_devices(&arguments.machine)?;
    check_devices(&plan, &devices).with_context(|| arguments.config.display().to_string()).map_err(usage)?;
    let runs = std::path::absolute(&arguments.place.runs)
        .with_context(|| format!("{}: no such folder", arguments.place.runs.display()))?;
    let root = runs.join(&plan.name);
    // Before anything costly happens.
    run_folder::check_name(&plan.name).map_err(usage)?;
    run_folder::check_free(&root, arguments.resume)?;
    let (train_split, val_split) =
        checked_splits(&plan, &runs).with_context(|| arguments.config.display().to_string())?;
    let (folder, lock) = run_folder::create(root, arguments.resume)?;
    if folder.plan_toml().exists() {
        run_folder::check(&folder, &folder.plan_toml())?;
        check_same_run(&folder.plan_toml(), &plan).map_err(usage)?;
    }
    run_folder::write_plan(&folder, &plan.resolved_toml)?;
    let how = TrainOptions { resume: arguments.resume, profile: arguments.profile };
    let mut fitted = train(&plan, &folder, &train_split, &val_split, &devices, how)?;
    if fitted.stopped {
        stop::check("training")?;
    }
    let weights = fitted.groups.remove(WEIGHTS).context("a trained student has weights")?;
    let kept = plan.deployment.as_ref().map(|_| KeptSamples::of(&plan, &train_split, &val_split)).transpose()?;
    if let Some(kept) = &kept {
        kept.write(&folder, plan.graph.input_size())?;
    }
    Ok(Trained { plan, folder, lock, train: train_split, val: val_split, devices, weights, kept })
}

/// Refuses devices that would have nothing to do, or that cannot compute in the plan's precision.
fn check_devices(plan: &RunPlan, devices: &Devices) -> anyhow::Result<()> {
    devices.check_batches(plan.train.accumulate_batches)?;
    if let Some(mixed) = plan.train.mixed_precision {
        for device in std::iter::once(&devices.main).chain(&devices.others) {
            ensure!(
                device.supports_dtype(mixed.half.dtype()),
                "[train.mixed_precision]: a device of --device cannot compute in {}",
                match mixed.half {
                    HalfPrecision::F16 => "f16",
                    HalfPrecision::Bf16 => "bf16",
                }
            );
        }
    }
    Ok(())
}

fn open_run(run: &Path) -> anyhow::Result<(RunPlan, RunFolder)> {
    let run = std::path::absolute(run).with_context(|| format!("{}: no such folder", run.display()))?;
    let folder = run_folder::open(&run).map_err(usage)?;
    let plan = load_plan(&folder.plan_toml(), &[]).map_err(usage)?;
    Ok((plan, folder))
}

/// The folder that holds all runs, where shared inputs are.
fn runs_of(folder: &RunFolder) -> &Path {
    folder.root().parent().unwrap_or(Path::new("."))
}

fn splits(plan: &RunPlan, runs: &Path) -> anyhow::Result<(SampleSource, SampleSource)> {
    let (train, val) = (open(plan, Split::Train, runs)?, open(plan, Split::Val, runs)?);
    check_disjoint(&train, &val)?;
    Ok((train, val))
}

/// The normalisation of most published weights: mean and standard deviation of `pixel / 255`, red, green, blue.
const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];
