//! `run`, `train`, `eval`, `plan` of a student that sees whole images and answers prompts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use burn::tensor::Device;
use sensei_eval::report::EvalReport;
use sensei_files::whole::write_whole;
use sensei_graph::summary::summary;
use sensei_report::run_folder::RunFolder;
use sensei_samples::whole_images::ImageSource;
use sensei_student::pyramid::EMBEDDING;
use sensei_train::plan::TrainPlan;
use serde::Serialize;

use crate::arguments::{EvalArguments, PlanArguments, RunArguments};
use crate::commands::run::{report, say_verdict};
use crate::config::{EncoderPlan, PromptablePlan, check_same_promptable, load_promptable, load_protocol};
use crate::device::open as open_devices;
use crate::phases::answers::OpenQuestion;
use crate::phases::data::Split;
use crate::phases::measure::{StageTime, lines, time_image_stages};
use crate::phases::promptable::{
    SamTeacher, ask_teacher, checked_image_splits, features_bytes, image_splits, train_images, trained_student,
    unasked_features,
};
use crate::phases::promptable_int8::{check_int8, write_int8_encoder};
use crate::phases::promptable_onnx::onnx_files;
use crate::phases::prompted_scores::score_prompted;
use crate::phases::train::TrainOptions;
use crate::progress::{say, say_result};
use crate::run_folder;
use crate::stop;
use crate::usage;

/// Data, teacher, training and scores.
pub fn run(arguments: &RunArguments) -> anyhow::Result<()> {
    let Trained { plan, folder, splits, teacher, .. } = prepare_and_train(arguments)?;
    for (idx, protocol) in plan.eval.protocols.iter().enumerate() {
        score(&plan, &folder, &splits, &teacher, protocol, &eval_folder(&folder, protocol, idx == 0))?;
    }
    report(folder.root())
}

/// Data, teacher and training.
pub fn train_only(arguments: &RunArguments) -> anyhow::Result<()> {
    prepare_and_train(arguments).map(drop)
}

/// Scores a trained run again, by the plan's protocols or another.
pub fn eval(arguments: &EvalArguments) -> anyhow::Result<()> {
    let root =
        std::path::absolute(&arguments.run).with_context(|| format!("{}: no such folder", arguments.run.display()))?;
    let folder = run_folder::open(&root).map_err(usage)?;
    let is_refused = arguments.weights.is_some()
        || arguments.annotations.is_some()
        || arguments.robustness
        || arguments.write_inputs.is_some()
        || arguments.recorded.is_some();
    if is_refused {
        let expected =
            "expected no option but --protocol, --out and those of the machine for a student of whole images";
        return Err(usage(anyhow::anyhow!("{}: {expected}", root.display())));
    }
    let plan = load_promptable(&folder.plan_toml(), &[]).map_err(usage)?;
    let _lock = if arguments.out.is_none() { Some(run_folder::lock(&folder)?) } else { None };
    open_devices(&arguments.machine)?;
    let runs = root.parent().unwrap_or(Path::new("."));
    let splits = checked_image_splits(&plan, runs)?;
    let teacher = SamTeacher::open(&plan)?;
    let protocols = arguments.protocol.as_ref().map_or(plan.eval.protocols.clone(), |protocol| vec![protocol.clone()]);
    if protocols.len() > 1 && arguments.out.is_some() {
        bail!("--out: expected --protocol beside it, as the run has {} protocols", protocols.len());
    }
    for protocol in &protocols {
        let is_first = plan.eval.protocols.first() == Some(protocol);
        let out = arguments.out.clone().unwrap_or_else(|| eval_folder(&folder, protocol, is_first));
        say_verdict(&score(&plan, &folder, &splits, &teacher, protocol, &out)?)?;
    }
    Ok(())
}

/// Writes the student as two ONNX files, in the layout of SAM's official exports: `onnx/encoder.onnx` and `onnx/decoder.onnx`; with `int8` the encoder
/// in integers too.
pub fn export(run: &Path, for_chip: bool, int8: bool) -> anyhow::Result<()> {
    let root = std::path::absolute(run).with_context(|| format!("{}: no such folder", run.display()))?;
    let folder = run_folder::open(&root).map_err(usage)?;
    if for_chip {
        let found = "found a converter for the chip";
        return Err(usage(anyhow::anyhow!(
            "{}: a student of whole images has no package: expected no option but --int8, {found}",
            root.display()
        )));
    }
    let plan = load_promptable(&folder.plan_toml(), &[]).map_err(usage)?;
    let _lock = run_folder::lock(&folder)?;
    if int8 {
        check_int8(&plan, &folder)?;
    }
    let [encoder, decoder] = onnx_files(&plan, &folder)?;
    let out = root.join("onnx");
    std::fs::create_dir_all(&out).with_context(|| format!("{}: cannot make the folder", out.display()))?;
    let files = ["encoder.onnx", "decoder.onnx"].map(|name| out.join(name));
    run_folder::forget(&folder, &files)?;
    for (file, bytes) in files.iter().zip([encoder, decoder]) {
        write_whole(file, &bytes)?;
        say(&format!("{}: {} bytes", file.display(), bytes.len()));
    }
    run_folder::record(&folder, &files)?;
    if int8 {
        write_int8_encoder(&plan, &folder, root.parent().unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// What a run would do and cost.
#[derive(Debug, Serialize)]
struct PlanFacts<'a> {
    name: &'a str,
    plan_digest: &'a str,
    /// Multiply-accumulates of the encoder for one image.
    encoder_macs: u64,
    train_images: usize,
    val_images: usize,
    teachers_embeddings_bytes: u64,
    /// By further point of the teacher, the bytes of its features of the training images.
    teachers_features_bytes: BTreeMap<String, u64>,
    /// Data sets that the teacher would be asked about first.
    open_questions: Vec<OpenQuestion>,
    stages: Vec<StageCost>,
    /// How long they take on this machine, if that was asked for.
    measured: Option<Vec<StageTime>>,
    /// The configuration with everything in it that `--set` changed.
    resolved_toml: &'a str,
}

/// Prints the plan of a configuration and checks what can be checked without training.
pub fn plan(arguments: &PlanArguments, config: &Path) -> anyhow::Result<()> {
    let mut plan = load_promptable(config, &arguments.set.overrides).map_err(usage)?;
    let devices = if arguments.measure { Some(open_devices(&arguments.machine)?) } else { None };
    say(&plan.resolved_toml);
    match &plan.encoder {
        EncoderPlan::Graph(graph) => say(&summary(graph)),
        EncoderPlan::TinyVit(_) | EncoderPlan::Vit(_) => {
            let (parameters, macs) = (plan.encoder.parameters() as f64, plan.encoder.macs() as f64);
            let kind = if matches!(plan.encoder, EncoderPlan::TinyVit(_)) { "TinyViT" } else { "a vision transformer" };
            say(&format!("{kind}: {:.2} M parameters, {:.2} GMAC an image", parameters / 1e6, macs / 1e9));
        }
    }
    let runs = &arguments.place.runs;
    let runs = std::path::absolute(runs).with_context(|| format!("{}: no such folder", runs.display()))?;
    SamTeacher::open(&plan)?;
    let (mut train, mut val) = image_splits(&plan, &runs).with_context(|| config.display().to_string())?;
    let open_questions = unasked_features(&plan, (&train, &val), &runs);
    for OpenQuestion { annotations, n_images, .. } in &open_questions {
        say(&format!("{}: the teacher would be asked about {n_images} images first", annotations.display()));
    }
    let mut further = features_bytes(&plan, &train);
    let bytes = further.remove(EMBEDDING).unwrap_or(0);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    say(&format!("the teacher's embeddings of the training images: {:.1} MiB", mib(bytes)));
    for (name, bytes) in &further {
        say(&format!("the teacher's features of the training images at {name}: {:.1} MiB", mib(*bytes)));
    }
    let stages = costs(&plan.train, plan.encoder.macs(), &train, train.images.len());
    for StageCost { name, steps, encoder_tmacs, decoder_tmacs } in &stages {
        say(&format!(
            "stage {name:?}: {steps} steps, about {encoder_tmacs:.1} TMAC in the encoder and {decoder_tmacs:.1} in decoders, with gradients"
        ));
    }
    if open_questions.is_empty() {
        for (split, source) in [(Split::Train, &mut train), (Split::Val, &mut val)] {
            ask_teacher(&plan, split, source, &runs)?;
        }
    }
    let measured = match &devices {
        Some(_) if !open_questions.is_empty() => {
            let advice = "`sensei train` asks it";
            return Err(usage(anyhow::anyhow!("--measure: expected a teacher that has answered; {advice}")));
        }
        Some(devices) => {
            devices.check_batches(plan.train.accumulate_batches).map_err(usage)?;
            Some(time_image_stages(&mut plan, &train, devices).with_context(|| config.display().to_string())?)
        }
        None => None,
    };
    if let Some(times) = &measured {
        lines(times, plan.logging.keep_checkpoints, plan.train.samples_per_step()).iter().for_each(|line| say(line));
    }
    say(&format!("plan digest {}", plan.train_digest));
    if arguments.json {
        let facts = PlanFacts {
            name: &plan.name,
            plan_digest: &plan.train_digest,
            encoder_macs: plan.encoder.macs(),
            train_images: train.images.len(),
            val_images: val.images.len(),
            teachers_embeddings_bytes: bytes,
            teachers_features_bytes: further,
            open_questions,
            stages,
            measured,
            resolved_toml: &plan.resolved_toml,
        };
        say_result(&serde_json::to_string_pretty(&facts)?);
    }
    Ok(())
}

/// What a stage costs.
#[derive(Debug, Serialize)]
struct StageCost {
    name: String,
    steps: u64,
    /// Multiply-accumulates with gradients, in millions of millions.
    encoder_tmacs: f64,
    decoder_tmacs: f64,
}

fn costs(
    train: &TrainPlan<sensei_train::images::ImageObjective>,
    encoder_macs: u64,
    source: &ImageSource,
    n_images: usize,
) -> Vec<StageCost> {
    let stage = |stage: &sensei_train::plan::StagePlan<sensei_train::images::ImageObjective>| {
        let images = (stage.epochs as usize * n_images) as f64;
        let of_decoder = stage.loss.prompts.as_ref().map_or(0.0, |prompts| {
            let per_epoch: usize =
                source.images.iter().map(|used| used.instances.len().min(prompts.ask.per_image)).sum();
            let decodes = (stage.epochs as usize * per_epoch) as f64 * (1.0 + f64::from(prompts.rounds));
            let teacher = if stage.loss.asks_teacher() { 1.0 } else { 0.0 };
            decodes * DECODE_MACS * (3.0 + teacher)
        });
        StageCost {
            name: stage.name.clone(),
            steps: stage.epochs * train.steps_per_epoch(n_images),
            // A backward pass costs twice its forward pass.
            encoder_tmacs: 3.0 * images * encoder_macs as f64 / 1e12,
            decoder_tmacs: of_decoder / 1e12,
        }
    };
    train.stages.iter().map(stage).collect()
}

/// Multiply-accumulates of a decode of one prompt on 64 x 64 cells, those of all four masks.
const DECODE_MACS: f64 = 1.811e9;

struct Trained {
    plan: PromptablePlan,
    folder: RunFolder,
    /// Training and validation.
    splits: (ImageSource, ImageSource),
    teacher: SamTeacher,
    /// Held as long as the folder is written.
    _lock: sensei_files::lock::Lock,
}

fn prepare_and_train(arguments: &RunArguments) -> anyhow::Result<Trained> {
    let mut plan = load_promptable(&arguments.config, &arguments.set.overrides).map_err(usage)?;
    if let Some(name) = &arguments.place.name {
        plan.name.clone_from(name);
    }
    for protocol in &plan.eval.protocols {
        load_protocol(protocol).map_err(usage)?;
    }
    let devices = open_devices(&arguments.machine)?;
    devices
        .check_batches(plan.train.accumulate_batches)
        .with_context(|| arguments.config.display().to_string())
        .map_err(usage)?;
    let runs = std::path::absolute(&arguments.place.runs)
        .with_context(|| format!("{}: no such folder", arguments.place.runs.display()))?;
    let root = runs.join(&plan.name);
    run_folder::check_name(&plan.name).map_err(usage)?;
    run_folder::check_free(&root, arguments.resume)?;
    let teacher = SamTeacher::open(&plan)?;
    let splits = checked_image_splits(&plan, &runs).with_context(|| arguments.config.display().to_string())?;
    let (folder, lock) = run_folder::create(root, arguments.resume)?;
    if folder.plan_toml().exists() {
        run_folder::check(&folder, &folder.plan_toml())?;
        check_same_promptable(&folder.plan_toml(), &plan).map_err(usage)?;
    }
    run_folder::write_plan(&folder, &plan.resolved_toml)?;
    let how = TrainOptions { resume: arguments.resume, profile: arguments.profile };
    let fitted = train_images(&plan, &folder, &splits.0, &teacher, &devices, how)?;
    if fitted.stopped {
        stop::check("training")?;
    }
    Ok(Trained { plan, folder, splits, teacher, _lock: lock })
}

/// Scores what was written, read back.
fn score(
    plan: &PromptablePlan,
    folder: &RunFolder,
    (train, val): &(ImageSource, ImageSource),
    teacher: &SamTeacher,
    protocol: &str,
    out: &Path,
) -> anyhow::Result<EvalReport> {
    let rules = load_protocol(protocol).map_err(usage)?;
    let student = trained_student(plan, folder, &Device::flex())?;
    let files: Vec<PathBuf> =
        ["report.json", "table.txt", "overlays.png", "gallery.json"].map(|name| out.join(name)).into();
    let is_own = out.starts_with(folder.root());
    if is_own {
        run_folder::forget(folder, &files)?;
    }
    let runs = folder.root().parent().unwrap_or(Path::new("."));
    let splits = (&train.dataset, val);
    let report = score_prompted(&plan.eval, &rules, splits, &student, &teacher.decoder()?, [runs, out])?;
    if is_own {
        run_folder::record(folder, &files)?;
    }
    Ok(report)
}

fn eval_folder(folder: &RunFolder, protocol: &str, is_first: bool) -> PathBuf {
    let stem = Path::new(protocol).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    if is_first { folder.eval() } else { folder.root().join(format!("eval-{stem}")) }
}
