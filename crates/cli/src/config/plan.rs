//! What a run will do: paths absolute, choices resolved, ranges checked.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use sensei_data::augment::Augmentation;
use sensei_data::crop_rule::{Border, CropRule};
use sensei_data::synth::SynthConfig;
use sensei_graph::layer_graph::LayerGraph;
use sensei_imx500::memory::MemoryEstimate;
use sensei_loss::{LossPlan, LossTerm, SampleWeighting, TermKind};
use sensei_quant::calibration::CalibrationConfig;
use sensei_quant::equalize::Equalization;
use sensei_quant::gptq::Rounding;
use sensei_quant::qat::THRESHOLDS;
use sensei_quant::thresholds::ThresholdSearch;
use sensei_samples::source::InstanceChoice;
use sensei_student::student::WEIGHTS;
use sensei_student::unet::{UnetActivation, UnetConfig};
use sensei_tensor::network::HalfPrecision;
use sensei_train::optimizer::AdamWConfig;
use sensei_train::plan::{AveragePlan, GroupPlan, GroupRate, OnGrid, StagePlan, TrainPlan};
use sensei_train::precision::{LossScaling, MixedPrecision};
use sensei_train::schedule::{Decay, Schedule};

use super::file::{
    ActivationToml, AnswersToml, AugmentationToml, BorderToml, CropToml, DataToml, DecayToml, EqualizationToml,
    InstancesToml, MemoryLimitToml, MixedPrecisionToml, QuantizeToml, RoundingToml, RunToml, ScenesToml, SearchToml,
    SplitToml, StageToml, StudentToml, TeacherToml, TermToml, TrainToml, WeightBudgetToml, WeightingToml,
};

/// A configuration, resolved.
pub struct RunPlan {
    /// Stem of the configuration file; names the run and the network.
    pub name: String,
    /// Where annotations and images come from.
    pub data: DataPlan,
    /// Which instances are used.
    pub instances: InstanceChoice,
    /// What part of the image the student is shown.
    pub crop: CropRule,
    /// Where the teacher's answers come from, if there is a teacher.
    pub teacher: Option<TeacherPlan>,
    /// The student's network.
    pub graph: LayerGraph,
    /// What training does.
    pub train: TrainPlan,
    /// Weights that training starts from, instead of random ones.
    pub initial_weights: Option<PathBuf>,
    /// How scores are summarised.
    pub eval: EvalPlan,
    /// How the student is quantized.
    pub quantize: QuantizePlan,
    /// How it is exported.
    pub export: ExportPlan,
    /// What changes the log and the files, but no number.
    pub logging: LoggingPlan,
    /// The configuration with absolute paths, as TOML.
    pub resolved_toml: String,
    /// Digest of the keys that change the weights (`[eval]`, `[quantize]`, `[export]`, `[logging]` do not).
    pub train_digest: String,
}

/// Where the two splits come from.
pub enum DataPlan {
    /// COCO files.
    Coco { train: SplitPlan, val: SplitPlan },
    /// LVIS files.
    Lvis { train: SplitPlan, val: SplitPlan },
    /// Scenes rendered by this program.
    Synthetic(SynthConfig),
}

/// One split.
#[derive(Debug, Clone)]
pub struct SplitPlan {
    /// The JSON file.
    pub annotations: PathBuf,
    /// The folder that its file names are in.
    pub images: PathBuf,
}

/// The teacher's answers for both splits.
pub struct TeacherPlan {
    /// Digest of its weights; a cache of another teacher is refused.
    pub digest: String,
    /// How an image became its input, in the words of the cache.
    pub preprocessing: String,
    /// What it was asked, in the words of the cache.
    pub prompt: String,
    /// Answers for the training split.
    pub train: TeacherAnswers,
    /// Answers for the validation split.
    pub val: TeacherAnswers,
}

/// Where answers lie.
pub enum TeacherAnswers {
    /// In a cache.
    Cache(PathBuf),
    /// In a dump, to be imported.
    Dump(PathBuf),
}

/// How scores are summarised.
#[derive(Debug, Clone, Copy)]
pub struct EvalPlan {
    /// Resamples of the bootstrap.
    pub bootstrap_resamples: usize,
    /// Its seed.
    pub bootstrap_seed: u64,
    /// Instances per forward pass.
    pub batch_size: usize,
    /// Instances on the overlay sheet.
    pub overlays: usize,
}

/// How the student is quantized.
#[derive(Debug, Clone)]
pub struct QuantizePlan {
    /// Training instances that thresholds are chosen on.
    pub calibration_instances: usize,
    /// How thresholds are chosen.
    pub threshold_search: ThresholdSearch,
    /// Whether biases are corrected for the mean error of the rounded weights.
    pub bias_correction: bool,
    /// What scales between convolutions are chosen by, if they are.
    pub equalization: Option<Equalization>,
    /// How weights become integers.
    pub rounding: Rounding,
    /// Bits of the weights.
    pub weight_bits: u8,
    /// Bits of the weights of single convolutions, by name.
    pub weight_bits_of: BTreeMap<String, u8>,
    /// Bits of the logits.
    pub output_bits: u8,
    /// What the weights may take, if fewer bits are to be chosen by it.
    pub budget: Option<WeightBudget>,
}

/// Which convolutions get fewer bits: as many as it takes.
#[derive(Debug, Clone, Copy)]
pub struct WeightBudget {
    /// The bits they get.
    pub weight_bits: u8,
    /// What must not be exceeded.
    pub limit: MemoryLimit,
}

/// Bytes of the chip's memory, as estimated.
#[derive(Debug, Clone, Copy)]
pub enum MemoryLimit {
    /// Weights, biases and rescales.
    Coefficients(u64),
    /// Everything.
    Total(u64),
}

impl QuantizePlan {
    /// How grids are chosen.
    pub fn calibration(&self) -> CalibrationConfig {
        CalibrationConfig {
            method: self.threshold_search,
            weight_bits: self.weight_bits,
            weight_bits_of: self.weight_bits_of.clone(),
            output_bits: self.output_bits,
            bias_correction: self.bias_correction,
            rounding: self.rounding,
        }
    }

    /// Bits of a convolution's weights as configured.
    pub fn weight_bits_of(&self, conv: &str) -> u8 {
        self.weight_bits_of.get(conv).copied().unwrap_or(self.weight_bits)
    }
}

impl MemoryLimit {
    /// What counts of an estimate, and its limit.
    pub fn of(self, estimate: &MemoryEstimate) -> (u64, u64) {
        match self {
            Self::Coefficients(limit) => (estimate.coefficients, limit),
            Self::Total(limit) => (estimate.total(), limit),
        }
    }
}

/// How the student is exported.
pub struct ExportPlan {
    /// The vendor's converter; without it, export ends with the ONNX file.
    pub converter: Option<PathBuf>,
}

/// What changes the log and the files, but no number.
#[derive(Debug, Clone, Copy)]
pub struct LoggingPlan {
    /// Steps between events on the screen and in the log.
    pub log_every_steps: u64,
    /// Steps between checkpoints.
    pub checkpoint_every_steps: u64,
    /// Newest checkpoints kept.
    pub keep_checkpoints: usize,
    /// Epochs between scores during training; 0 for none.
    pub validate_every_epochs: u64,
    /// Validation instances scored then.
    pub validate_instances: usize,
    /// Threads that prepare samples.
    pub data_threads: usize,
}

/// Reads and resolves a configuration. Relative paths are relative to the file's folder.
///
/// # Errors
/// If the file cannot be read, has an unknown, missing or wrong key, or a number out of range.
pub fn load_plan(path: &Path) -> anyhow::Result<RunPlan> {
    let text =
        fs::read_to_string(path).with_context(|| format!("{}: cannot read the configuration", path.display()))?;
    let mut file: RunToml = toml::from_str(&text).map_err(|error| one_line(path, &text, &error))?;
    let folder = std::path::absolute(path).ok().and_then(|path| path.parent().map(Path::to_path_buf));
    let folder = folder.with_context(|| format!("{}: expected a file in a folder", path.display()))?;
    make_absolute(&mut file, &folder);
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    // A run folder keeps its configuration as plan.toml; the run is named after the folder then.
    let name = match (name.as_str(), folder.file_name()) {
        ("plan", Some(run)) => run.to_string_lossy().into_owned(),
        _ => name,
    };
    resolve(file, name).with_context(|| format!("{}", path.display()))
}

/// A parser's message on one line, with the place in the file.
pub(super) fn one_line(path: &Path, text: &str, error: &toml::de::Error) -> anyhow::Error {
    let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
    let message = error.message().trim().replace('\n', "; ");
    anyhow::anyhow!("{}:{line}: {message}", path.display())
}

fn make_absolute(file: &mut RunToml, folder: &Path) {
    for_each_path(file, |path| *path = normal(&folder.join(&*path)));
}

fn for_each_path(file: &mut RunToml, mut change: impl FnMut(&mut PathBuf)) {
    if let DataToml::Coco { train, val, .. } | DataToml::Lvis { train, val, .. } = &mut file.data {
        for SplitToml { annotations, images } in [train, val] {
            change(annotations);
            change(images);
        }
    }
    if let Some(TeacherToml { train, val, .. }) = &mut file.teacher {
        for AnswersToml::Cache(path) | AnswersToml::Dump(path) in [train, val] {
            change(path);
        }
    }
    file.train.initial_weights.as_mut().map(&mut change);
    file.export.converter.as_mut().map(&mut change);
}

/// The path without `a/..` detours, so that messages stay short. Links are not followed.
fn normal(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::ParentDir => {
                result.pop();
            }
            std::path::Component::CurDir => {}
            other => result.push(other),
        }
    }
    result
}

fn resolve(file: RunToml, name: String) -> anyhow::Result<RunPlan> {
    let resolved_toml = toml::to_string(&file).context("cannot write the resolved configuration")?;
    let train_digest = train_digest(&resolved_toml)?;

    let unet = unet(&file.student);
    let graph = unet.graph().context("[student]")?;
    let grid = u32::try_from(unet.input_size).context("[student] input_size")?;
    let instances = match &file.data {
        DataToml::Coco { instances, .. } | DataToml::Lvis { instances, .. } | DataToml::Synthetic { instances, .. } => {
            *instances
        }
    };
    let quantize = quantize(file.quantize, &graph)?;
    let train = train(&file.train, &quantize, file.seed)?;
    if file.teacher.is_none() {
        ensure!(matches!(instances, InstancesToml::All), "[data] instances: \"cached\" needs a [teacher]");
        let wants_teacher = train.stages.iter().find(|stage| stage.loss.needs().teacher_masks);
        if let Some(stage) = wants_teacher {
            bail!("[train] stage {:?}: its loss needs a [teacher], found none", stage.name);
        }
    }
    let eval = EvalPlan {
        bootstrap_resamples: in_range("[eval] bootstrap_resamples", file.eval.bootstrap_resamples, 100, 10_000_000)?,
        bootstrap_seed: file.eval.bootstrap_seed,
        batch_size: in_range("[eval] batch_size", file.eval.batch_size, 1, 4096)?,
        overlays: in_range("[eval] overlays", file.eval.overlays, 0, 1000)?,
    };
    Ok(RunPlan {
        name,
        data: data(file.data),
        instances: match instances {
            InstancesToml::All => InstanceChoice::All,
            InstancesToml::Cached => InstanceChoice::Cached,
        },
        crop: crop(&file.crop, grid)?,
        teacher: file.teacher.map(|teacher| TeacherPlan {
            digest: teacher.digest,
            preprocessing: teacher.preprocessing,
            prompt: teacher.prompt,
            train: answers(teacher.train),
            val: answers(teacher.val),
        }),
        graph,
        train,
        initial_weights: file.train.initial_weights,
        eval,
        quantize,
        export: ExportPlan { converter: file.export.converter },
        logging: LoggingPlan {
            log_every_steps: in_range("[logging] log_every_steps", file.logging.log_every_steps, 1, u64::MAX)?,
            checkpoint_every_steps: in_range(
                "[logging] checkpoint_every_steps",
                file.logging.checkpoint_every_steps,
                1,
                u64::MAX,
            )?,
            keep_checkpoints: in_range("[logging] keep_checkpoints", file.logging.keep_checkpoints, 1, 1000)?,
            validate_every_epochs: file.logging.validate_every_epochs,
            validate_instances: in_range("[logging] validate_instances", file.logging.validate_instances, 1, 1 << 20)?,
            data_threads: in_range("[logging] data_threads", file.logging.data_threads, 1, 256)?,
        },
        resolved_toml,
        train_digest,
    })
}

/// Digest of the keys that change the weights; `[quantize]` does where a stage trains on the chip's grid. Paths do not: what the files hold is digested when they are opened.
fn train_digest(resolved_toml: &str) -> anyhow::Result<String> {
    let mut file: RunToml = toml::from_str(resolved_toml).context("cannot digest the configuration")?;
    for_each_path(&mut file, |path| path.clear());
    let trained_by = (&file.seed, &file.data, &file.crop, &file.teacher, &file.student, &file.train);
    // Where training goes on on the grid, the first thresholds decide the weights.
    let quantized = file.train.stage.iter().any(|stage| stage.quantization.is_some());
    let canonical = match quantized {
        true => serde_json::to_vec(&(trained_by, &file.quantize)),
        false => serde_json::to_vec(&trained_by),
    };
    let canonical = canonical.context("cannot digest the configuration")?;
    Ok(blake3::hash(&canonical).to_hex().to_string())
}

fn unet(student: &StudentToml) -> UnetConfig {
    match student {
        StudentToml::Picosam2 {} => UnetConfig::picosam2(),
        StudentToml::Picosam3 {} => UnetConfig::picosam3(),
        StudentToml::Unet {
            input_size,
            encoder_channels,
            bottleneck_channels,
            decoder_channels,
            dilated_bottleneck,
            channel_gate,
            refine_head,
            bilinear_upsampling,
            activation,
        } => UnetConfig {
            input_size: *input_size,
            encoder_channels: encoder_channels.clone(),
            bottleneck_channels: *bottleneck_channels,
            decoder_channels: decoder_channels.clone(),
            dilated_bottleneck: *dilated_bottleneck,
            channel_gate: *channel_gate,
            refine_head: *refine_head,
            bilinear_upsampling: *bilinear_upsampling,
            activation: match activation {
                ActivationToml::Relu => UnetActivation::Relu,
                ActivationToml::Relu6 => UnetActivation::Relu6,
            },
        },
    }
}

fn data(data: DataToml) -> DataPlan {
    let split = |split: SplitToml| SplitPlan { annotations: split.annotations, images: split.images };
    match data {
        DataToml::Coco { train, val, .. } => DataPlan::Coco { train: split(train), val: split(val) },
        DataToml::Lvis { train, val, .. } => DataPlan::Lvis { train: split(train), val: split(val) },
        DataToml::Synthetic { scenes: ScenesToml::Quickstart, .. } => DataPlan::Synthetic(SynthConfig::quickstart()),
    }
}

fn answers(answers: AnswersToml) -> TeacherAnswers {
    match answers {
        AnswersToml::Cache(path) => TeacherAnswers::Cache(path),
        AnswersToml::Dump(path) => TeacherAnswers::Dump(path),
    }
}

pub(super) fn border(border: BorderToml) -> Border {
    match border {
        BorderToml::Reference => Border::Reference,
        BorderToml::Corrected => Border::Corrected,
    }
}

fn crop(crop: &CropToml, grid: u32) -> anyhow::Result<CropRule> {
    Ok(match *crop {
        CropToml::CenterWindow { border: at } => CropRule::CenterWindow { grid, border: border(at) },
        CropToml::Roi { border: at, padding } => {
            let padding = in_range("[crop] padding", padding, 0.0, 4.0)?;
            CropRule::Roi { padding, grid, border: border(at) }
        }
    })
}

fn train(train: &TrainToml, quantize: &QuantizePlan, seed: u64) -> anyhow::Result<TrainPlan> {
    ensure!(!train.stage.is_empty(), "[[train.stage]]: expected at least one stage, found none");
    let first_quantized = train.stage.iter().position(|stage| stage.quantization.is_some());
    if let Some(first) = first_quantized {
        let later = train.stage[first..].iter().find(|stage| stage.quantization.is_none());
        if let Some(later) = later {
            bail!("[[train.stage]] {:?}: expected quantization, as in the stage before it, found none", later.name);
        }
        ensure!(train.mixed_precision.is_none(), "[train] mixed_precision: expected none in a run with quantization");
        let plain =
            quantize.equalization.is_none() && quantize.budget.is_none() && quantize.rounding == Rounding::Nearest;
        ensure!(
            plain,
            "[quantize]: expected equalization = \"none\", rounding = \"nearest\" and no budget where a stage has quantization"
        );
    }
    let optimizer = &train.optimizer;
    Ok(TrainPlan {
        seed,
        batch_size: in_range("[train] batch_size", train.batch_size, 1, 4096)?,
        accumulate_batches: in_range("[train] accumulate_batches", train.accumulate_batches, 1, 1024)?,
        optimizer: AdamWConfig {
            beta1: in_range("[train.optimizer] beta1", optimizer.beta1, 0.0, 0.999_999)?,
            beta2: in_range("[train.optimizer] beta2", optimizer.beta2, 0.0, 0.999_999_9)?,
            epsilon: in_range("[train.optimizer] epsilon", optimizer.epsilon, 1e-12, 1.0)?,
            weight_decay: in_range("[train.optimizer] weight_decay", optimizer.weight_decay, 0.0, 10.0)?,
        },
        clip_gradient_norm: optional_in_range("[train] clip_gradient_norm", train.clip_gradient_norm, 1e-6, 1e6)?,
        average: optional_in_range("[train] ema_decay", train.ema_decay, 0.0, 0.999_999)?
            .map(|decay| AveragePlan { decay, groups: vec![WEIGHTS.into()] }),
        mixed_precision: train.mixed_precision.as_ref().map(mixed_precision).transpose()?,
        stages: train.stage.iter().map(|toml| stage(toml, optimizer.weight_decay)).collect::<Result<_, _>>()?,
    })
}

fn mixed_precision(mixed: &MixedPrecisionToml) -> anyhow::Result<MixedPrecision> {
    Ok(match *mixed {
        MixedPrecisionToml::F16 { initial_loss_scale, growth_interval } => MixedPrecision {
            half: HalfPrecision::F16,
            scaling: Some(LossScaling {
                initial: in_range("[train.mixed_precision] initial_loss_scale", initial_loss_scale, 1.0, 1e30)?,
                growth_interval: in_range("[train.mixed_precision] growth_interval", growth_interval, 1, 1 << 40)?,
            }),
        },
        MixedPrecisionToml::Bf16 {} => MixedPrecision { half: HalfPrecision::Bf16, scaling: None },
    })
}

fn stage(stage: &StageToml, weight_decay: f64) -> anyhow::Result<StagePlan> {
    let within = || format!("[[train.stage]] {:?}", stage.name);
    let weighting = match stage.loss.weighting {
        WeightingToml::TeacherScorePerSample => SampleWeighting::TeacherScorePerSample,
        WeightingToml::TeacherScoreBatchMean => SampleWeighting::TeacherScoreBatchMean,
        WeightingToml::Constant(alpha) => SampleWeighting::Constant(alpha),
        WeightingToml::TruthOnly => SampleWeighting::TruthOnly,
    };
    let term = |term: &TermToml| match *term {
        TermToml::TeacherMse { weight } => LossTerm { kind: TermKind::TeacherMse, weight },
        TermToml::TeacherDice { weight } => LossTerm { kind: TermKind::TeacherDice, weight },
        TermToml::TruthBce { weight } => LossTerm { kind: TermKind::TruthBce, weight },
        TermToml::TruthDice { weight } => LossTerm { kind: TermKind::TruthDice, weight },
        TermToml::AreaShortfall { weight, floor } => LossTerm { kind: TermKind::AreaShortfall { floor }, weight },
    };
    let terms = stage.loss.terms.iter().map(term).collect();
    let learning_rate = |key, value| in_range(key, value, 0.0, 10.0);
    Ok(StagePlan {
        name: stage.name.clone(),
        epochs: in_range("epochs", stage.epochs, 1, 1_000_000).with_context(within)?,
        schedule: Schedule {
            learning_rate: learning_rate("learning_rate", stage.learning_rate).with_context(within)?,
            warmup_steps: stage.warmup_steps,
            decay: match stage.decay {
                DecayToml::Constant {} => Decay::Constant,
                DecayToml::Cosine { final_learning_rate: last } => Decay::Cosine {
                    final_learning_rate: learning_rate("final_learning_rate", last).with_context(within)?,
                },
            },
        },
        loss: LossPlan::new(stage.loss.sharpness, weighting, terms).with_context(within)?,
        augmentation: augmentation(&stage.augmentation).with_context(within)?,
        groups: groups(stage, weight_decay).with_context(within)?,
        on_grid: stage.quantization.as_ref().map(|on_grid| OnGrid { hold_norms_after: on_grid.hold_norms_after }),
    })
}

/// The weights, and on the chip's grid their thresholds.
fn groups(stage: &StageToml, weight_decay: f64) -> anyhow::Result<Vec<GroupPlan>> {
    let weights =
        GroupPlan { group: WEIGHTS.into(), rate: GroupRate::Stage, weight_decay, clipped: true, hold_after: None };
    let Some(on_grid) = &stage.quantization else { return Ok(vec![weights]) };
    let peak = in_range("threshold_learning_rate", on_grid.threshold_learning_rate, 0.0, 10.0)?;
    let thresholds = GroupPlan {
        group: THRESHOLDS.into(),
        rate: GroupRate::Peak(peak),
        // A threshold has no reason to be near 1.
        weight_decay: 0.0,
        // Of another scale than the weights'; AdamW divides it away.
        clipped: false,
        hold_after: Some(on_grid.hold_thresholds_after),
    };
    Ok(vec![weights, thresholds])
}

fn augmentation(augmentation: &AugmentationToml) -> anyhow::Result<Augmentation> {
    Ok(Augmentation {
        flip_probability: in_range("flip_probability", augmentation.flip_probability, 0.0, 1.0)?,
        roi_shift: in_range("roi_shift", augmentation.roi_shift, 0.0, 0.5)?,
        roi_scale: in_range("roi_scale", augmentation.roi_scale, 0.0, 0.9)?,
        brightness: in_range("brightness", augmentation.brightness, 0.0, 0.9)?,
        contrast: in_range("contrast", augmentation.contrast, 0.0, 0.9)?,
        saturation: in_range("saturation", augmentation.saturation, 0.0, 0.9)?,
    })
}

fn quantize(quantize: QuantizeToml, graph: &LayerGraph) -> anyhow::Result<QuantizePlan> {
    let weight_bits = |key: &str, bits: u8| {
        ensure!([8, 4, 2].contains(&bits), "{key}: expected 8, 4 or 2, found {bits}");
        Ok(bits)
    };
    for (name, &bits) in &quantize.weight_bits_of {
        let is_conv = graph.nodes().iter().any(|node| node.name == *name && node.op.conv().is_some());
        ensure!(
            is_conv,
            "[quantize.weight_bits_of] {name:?}: expected the name of a convolution (`sensei plan` lists them)"
        );
        weight_bits(&format!("[quantize.weight_bits_of] {name:?}"), bits)?;
    }
    let output_bits = quantize.output_bits;
    ensure!([8, 16].contains(&output_bits), "[quantize] output_bits: expected 8 or 16, found {output_bits}");
    let budget = |budget: WeightBudgetToml| -> anyhow::Result<WeightBudget> {
        Ok(WeightBudget {
            weight_bits: weight_bits("[quantize.budget] weight_bits", budget.weight_bits)?,
            limit: match budget.limit {
                MemoryLimitToml::CoefficientBytes(limit) => MemoryLimit::Coefficients(limit),
                MemoryLimitToml::TotalBytes(limit) => MemoryLimit::Total(limit),
            },
        })
    };
    let calibration = quantize.calibration_instances;
    Ok(QuantizePlan {
        calibration_instances: in_range("[quantize] calibration_instances", calibration, 1, 1_000_000)?,
        threshold_search: match quantize.threshold_search {
            SearchToml::MinMax => ThresholdSearch::MinMax,
            SearchToml::Mse => ThresholdSearch::Mse,
            SearchToml::Kl => ThresholdSearch::Kl,
        },
        bias_correction: quantize.bias_correction,
        equalization: match quantize.equalization {
            EqualizationToml::None => None,
            EqualizationToml::Weights => Some(Equalization::Weights),
            EqualizationToml::Activations => Some(Equalization::Activations),
        },
        rounding: match quantize.rounding {
            RoundingToml::Nearest => Rounding::Nearest,
            RoundingToml::Gptq => Rounding::Gptq,
        },
        weight_bits: weight_bits("[quantize] weight_bits", quantize.weight_bits)?,
        weight_bits_of: quantize.weight_bits_of,
        output_bits,
        budget: quantize.budget.map(budget).transpose()?,
    })
}

/// The value if it lies in `[low, high]`; NaN does not.
fn in_range<T: PartialOrd + std::fmt::Display>(key: &str, value: T, low: T, high: T) -> anyhow::Result<T> {
    ensure!(value >= low && value <= high, "{key}: expected {low} to {high}, found {value}");
    Ok(value)
}

fn optional_in_range(key: &str, value: Option<f64>, low: f64, high: f64) -> anyhow::Result<Option<f64>> {
    value.map(|value| in_range(key, value, low, high)).transpose()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make the files they read")]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_configuration_loads() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        let mut n_loaded = 0;
        for entry in fs::read_dir(&folder).expect("the repository's configurations") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                let plan = load_plan(&path).unwrap_or_else(|error| panic!("{error:#}"));
                assert_eq!(Some(plan.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
                crate::commands::plan::check_budget(&plan).unwrap_or_else(|error| panic!("{}: {error:#}", plan.name));
                n_loaded += 1;
            }
        }
        assert!(n_loaded > 0, "{}: no configurations", folder.display());
    }

    #[test]
    fn weight_bits_that_the_chip_or_the_network_does_not_have_are_refused() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/quickstart.toml");
        let text = fs::read_to_string(shipped).expect("a shipped configuration");
        let folder = tempfile::tempdir().expect("a folder");
        let load = |from: &str, to: &str, appended: &str| {
            assert!(text.contains(from), "{from}");
            let path = folder.path().join("changed.toml");
            fs::write(&path, text.replace(from, to) + appended).expect("a writable folder");
            let plan = load_plan(&path)?;
            crate::commands::plan::check_budget(&plan).map(|_| plan)
        };
        let bits = "\nweight_bits = 8";
        let of = |table: &str| format!("\n[quantize.weight_bits_of]\n{table}\n");
        let budget = |limit: &str| format!("\n[quantize.budget]\nweight_bits = 4\nlimit = {{ {limit} }}\n");
        let plan = load(bits, "\nweight_bits = 4", &of("down1 = 8")).unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!((plan.quantize.weight_bits_of("down1"), plan.quantize.weight_bits_of("down2")), (8, 4));
        assert!(load(bits, bits, &budget("coefficient_bytes = 1000000")).is_ok());
        for (to, appended, expected) in [
            ("\nweight_bits = 3", String::new(), "[quantize] weight_bits: expected 8, 4 or 2, found 3"),
            (bits, of("down9 = 4"), "[quantize.weight_bits_of] \"down9\""),
            (bits, of("add1 = 4"), "[quantize.weight_bits_of] \"add1\""),
            (bits, of("down1 = 6"), "[quantize.weight_bits_of] \"down1\": expected 8, 4 or 2, found 6"),
            (bits, budget("coefficient_bytes = 1000"), "[quantize.budget]"),
            (bits, budget("bytes = 1000"), "unknown variant"),
            ("", String::new(), "missing field `weight_bits`"),
        ] {
            let error = load(bits, to, &appended).err().unwrap_or_else(|| panic!("{to}{appended}: accepted"));
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
    }

    /// A run folder's plan.toml is the configuration, also when it is read again.
    #[test]
    fn resolved_configuration_is_the_same_plan() {
        let folder = tempfile::tempdir().expect("a folder");
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/coco-sample-picosam3.toml");
        let plan = load_plan(&shipped).unwrap_or_else(|error| panic!("{error:#}"));
        let path = folder.path().join("plan.toml");
        fs::write(&path, &plan.resolved_toml).expect("a writable folder");
        let again = load_plan(&path).unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!((again.train_digest, again.resolved_toml), (plan.train_digest, plan.resolved_toml));
        assert_eq!(Some(again.name.as_str()), folder.path().file_name().and_then(|name| name.to_str()));
    }
}
