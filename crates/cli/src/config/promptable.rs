//! The configuration of a student of the SAM family: it sees whole images, and answers prompts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use schemars::JsonSchema;
use sensei_answers::kept::{FeatureDtype, ScaleSource};
use sensei_loss::{Adapter, ReconstructionTarget, TapPair};
use sensei_sam::masked_vit::MaskedConfig;
use sensei_sam::tiny_vit::TinyVitConfig;
use sensei_samples::source::InstanceChoice;
use sensei_student::pyramid::EMBEDDING_CHANNELS;
use sensei_tensor::network::{Tap, find_tap};
use sensei_train::images::ImageObjective;
use sensei_train::plan::{AveragePlan, TrainPlan};
use serde::{Deserialize, Serialize};

use super::file_path::FilePath;
use super::overrides::Override;
use super::read::{read, text_of};
use super::run::{differing_keys, resolved_toml, run_name};
use super::sections::data::{DataPlan, DataToml};
use super::sections::encoder::{EncoderPlan, EncoderToml, check_width};
use super::sections::image_stage::{ImageStageToml, MaskingToml};
use super::sections::optimizer::OptimizerToml;
use super::sections::train::FirstWeights;
use super::trained_keys::TrainedKeys;

/// A run's configuration whose student sees whole images.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptableToml {
    /// Of initial weights, order of images, drawn prompts and augmentation.
    pub seed: u64,
    /// Where annotations come from.
    pub data: DataToml,
    /// Whose features and masks are learned.
    pub teacher: SamTeacherToml,
    /// The student's network.
    pub student: PromptableStudentToml,
    /// How the student is trained.
    pub train: ImageTrainToml,
    /// What is scored, and how scores are summarised.
    pub eval: PromptEvalToml,
    /// What changes speed, log and files, but no number.
    #[serde(default)]
    pub logging: ImageLoggingToml,
}

/// A teacher that runs here.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SamTeacherToml {
    /// MobileSAM's weights (.safetensors, .pt or .pth). It looks at each image once; its embeddings are kept in `runs/teacher-cache/`.
    pub weights: FilePath,
    /// Digest of the weights; `sensei teacher build` prints it.
    pub digest: String,
    /// How a value of its embeddings is stored: 8 bits lose nothing that masks show, 4 bits hardly anything.
    pub features: FeatureDtypeToml,
    /// Where its embeddings lie, if somebody has made them. Without it, the weights are asked here.
    #[serde(default, skip_serializing_if = "EmbeddingsToml::is_empty")]
    pub embeddings: EmbeddingsToml,
}

/// Embeddings that `sensei teacher build --features embedding` has made. Features at other points are always asked for here.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbeddingsToml {
    /// Of the training images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<EmbeddingPlaceToml>,
    /// Of the validation images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val: Option<EmbeddingPlaceToml>,
}

/// Where embeddings lie.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum EmbeddingPlaceToml {
    /// A cache's folder: `docs/formats/teacher-cache.md`.
    Cache(FilePath),
    /// The place of a sealed store that many machines share, a folder, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or
    /// `az://CONTAINER/PREFIX`: `docs/formats/shared-store.md`. From elsewhere its shards are fetched into `runs/teacher-cache/fetched/`.
    Store(FilePath),
}

impl EmbeddingsToml {
    fn is_empty(&self) -> bool {
        self.train.is_none() && self.val.is_none()
    }
}

/// Where embeddings lie that somebody has made.
pub enum EmbeddingPlace {
    /// A cache's folder.
    Cache(PathBuf),
    /// The place of a sealed store.
    Store(PathBuf),
}

impl From<EmbeddingPlaceToml> for EmbeddingPlace {
    fn from(place: EmbeddingPlaceToml) -> Self {
        match place {
            EmbeddingPlaceToml::Cache(path) => Self::Cache(path.0),
            EmbeddingPlaceToml::Store(path) => Self::Store(path.0),
        }
    }
}

/// How a value of an embedding is stored.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FeatureDtypeToml {
    /// As it is: 4 MiB an image.
    F32,
    /// In half precision: 2 MiB.
    F16,
    /// 8 bits and a scale for each channel: 1 MiB.
    Int8,
    /// 4 bits and a scale for each channel: 0.5 MiB.
    Int4,
}

/// The student's network: an image encoder of its own; prompt encoder and mask decoder start as the teacher's.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "family", rename_all = "snake_case", deny_unknown_fields)]
pub enum PromptableStudentToml {
    /// An encoder whose embedding is SAM's: 256 channels of 64 x 64.
    Promptable {
        /// The image encoder.
        encoder: EncoderToml,
    },
}

/// How the student is trained.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageTrainToml {
    /// Images per forward pass and batch norm; the last batch of an epoch may be smaller.
    #[schemars(range(min = 1, max = 4096))]
    pub batch_size: usize,
    /// Forward passes per optimiser step; gradients are averaged.
    #[schemars(range(min = 1, max = 1024))]
    pub accumulate_batches: usize,
    /// AdamW, as PyTorch's, whose defaults are 0.9, 0.999, 1e-8 and 0.01.
    pub optimizer: OptimizerToml,
    /// Largest global L2 norm of the gradient.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1e-6, max = 1e6))]
    pub clip_gradient_norm: Option<f64>,
    /// Decay, per step, of a moving average of the encoder's weights; the average is then the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 0.999_999))]
    pub ema_decay: Option<f64>,
    /// Start the encoder from published PyTorch weights: of EfficientNet-Lite0, trained on ImageNet, for `lite_fpn`, whose rest is random;
    /// of MobileSAM, which its teacher's file has, for a `tiny_vit` of the same widths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder_weights: Option<FilePath>,
    /// Start from the `student.safetensors` of another run, decoder included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_weights: Option<FilePath>,
    /// What is done one after the other.
    #[schemars(length(min = 1))]
    pub stage: Vec<ImageStageToml>,
}

/// What is scored, and how scores are summarised.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptEvalToml {
    /// Protocols by name or file. The report of the first is in `eval/`, those of others in `eval-NAME/`.
    #[schemars(length(min = 1, max = 8))]
    pub protocols: Vec<String>,
    /// Further clicks, each a random pixel where the last mask is wrong; 0 to 8. Each number of clicks is a row.
    #[schemars(range(min = 0, max = 8))]
    pub clicks: u8,
    /// Score so many instances, drawn once for all, instead of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub instances: Option<usize>,
    /// Resamples of the bootstrap, for the 95 % intervals.
    #[schemars(range(min = 100, max = 10_000_000))]
    pub bootstrap_resamples: usize,
    /// The bootstrap's seed.
    pub bootstrap_seed: u64,
    /// Objects on `overlays.png`.
    #[serde(default = "PromptEvalToml::overlays")]
    #[schemars(range(min = 0, max = 1000))]
    pub overlays: usize,
}

/// What changes speed, log and files, but no number.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ImageLoggingToml {
    /// Steps between lines on the screen and in `events.jsonl`.
    #[schemars(range(min = 1))]
    pub log_every_steps: u64,
    /// Steps between checkpoints; the last step always has one.
    #[schemars(range(min = 1))]
    pub checkpoint_every_steps: u64,
    /// Newest checkpoints kept.
    #[schemars(range(min = 1, max = 1000))]
    pub keep_checkpoints: usize,
    /// Threads that prepare images.
    #[schemars(range(min = 1, max = 256))]
    pub data_threads: usize,
    /// GiB of shards that are kept in `runs/teacher-cache/fetched/`, of stores elsewhere. Less than the embeddings take means that they are
    /// fetched again in every epoch.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub fetched_shards_gib: u64,
}

/// What a run with a student of the SAM family will do.
pub struct PromptablePlan {
    /// Stem of the configuration file; names the run.
    pub name: String,
    /// Where annotations and images come from.
    pub data: DataPlan,
    /// The teacher's weights.
    pub teacher_weights: PathBuf,
    /// Their digest.
    pub teacher_digest: String,
    /// How its embeddings are stored.
    pub features: FeatureDtype,
    /// Where those of the training and the validation images lie, if they are not asked for here.
    pub embeddings: [Option<EmbeddingPlace>; 2],
    /// The student's image encoder.
    pub encoder: EncoderPlan,
    /// What training does.
    pub train: TrainPlan<ImageObjective>,
    /// Points of student and teacher whose features a stage compares, each pair once.
    pub compared: Vec<ComparedTaps>,
    /// By stage the decoder of one that reconstructs masked images.
    pub masked_decoders: Vec<Option<MaskedConfig>>,
    /// Weights that training starts from.
    pub first_weights: FirstWeights,
    /// What is scored.
    pub eval: PromptEvalToml,
    /// What changes the log and the files, but no number.
    pub logging: ImageLoggingToml,
    /// The configuration with absolute paths, as TOML.
    pub resolved_toml: String,
    /// Digest of the keys that change the weights.
    pub train_digest: String,
    trained_keys: TrainedKeys,
}

/// A point of the student and one of the teacher, of the same size.
pub struct ComparedTaps {
    /// Their names, and what is between them.
    pub pair: TapPair,
    /// Channels of the student's features.
    pub channels: usize,
    /// The teacher's point.
    pub teacher: Tap,
}

/// Whether a configuration is of such a student; one that cannot be read is not.
pub fn is_promptable(path: &Path) -> bool {
    let text = fs::read_to_string(path).unwrap_or_default();
    let table: toml::Table = toml::from_str(&text).unwrap_or_default();
    table.get("student").and_then(|student| student.get("family")?.as_str()) == Some("promptable")
}

/// Reads and resolves a configuration, the overridden keys in place of the file's.
///
/// # Errors
/// If the file cannot be read, has an unknown, missing or wrong key, or a number out of range.
pub fn load_promptable(path: &Path, overrides: &[Override]) -> anyhow::Result<PromptablePlan> {
    let shown = path.display();
    let text = text_of(path)?;
    let file: PromptableToml = read(path, &text, overrides)?;
    resolve(file, run_name(path), overrides).with_context(|| shown.to_string())
}

/// Refuses to go on with a run whose configuration would have trained other weights.
///
/// # Errors
/// If `plan_toml`, the run's own configuration, cannot be read or differs, with the keys that do.
pub fn check_same_promptable(plan_toml: &Path, plan: &PromptablePlan) -> anyhow::Result<()> {
    let run = load_promptable(plan_toml, &[])?;
    differing_keys(plan_toml, plan.trained_keys.differences(&run.trained_keys))
}

fn resolve(file: PromptableToml, name: String, overrides: &[Override]) -> anyhow::Result<PromptablePlan> {
    let resolved_toml = resolved_toml(&file, overrides)?;
    let trained_keys =
        TrainedKeys::of_sections(&file, |key| ["seed", "data", "teacher", "student", "train"].contains(&key))?;
    let (data, instances) = file.data.resolve()?;
    ensure!(
        instances == InstanceChoice::All,
        "[data] instances: expected \"all\" for a student of whole images, found \"cached\""
    );
    ensure!(
        data.also_train().iter().all(|part| part.answers.is_none()),
        "[[data.also_train]] answers: expected none for a student of whole images, whose teacher is asked in the loop"
    );
    let PromptableStudentToml::Promptable { encoder } = file.student;
    ensure!(
        file.train.encoder_weights.is_none() || encoder.has_published_weights(),
        "[train] encoder_weights: expected an encoder of kind \"lite_fpn\" or \"tiny_vit\" beside it, found another"
    );
    let encoder = encoder.resolve().context("[student] encoder")?;
    let train_digest = trained_keys.digest();
    let masked_decoders = file.train.masked_decoders(&encoder)?;
    let (train, first_weights) = file.train.resolve(file.seed, matches!(encoder, EncoderPlan::Vit(_)))?;
    let compared = compared_taps(&train, &encoder.taps())?;
    Ok(PromptablePlan {
        name,
        data,
        compared,
        teacher_weights: file.teacher.weights.0,
        teacher_digest: file.teacher.digest,
        features: file.teacher.features.resolve(),
        embeddings: [file.teacher.embeddings.train, file.teacher.embeddings.val].map(|place| place.map(Into::into)),
        encoder,
        train,
        masked_decoders,
        first_weights,
        eval: file.eval,
        logging: file.logging,
        resolved_toml,
        train_digest,
        trained_keys,
    })
}

/// The points that the stages compare.
///
/// # Errors
/// If there is no such point, or two do not fit, with those that do.
fn compared_taps(plan: &TrainPlan<ImageObjective>, of_student: &[Tap]) -> anyhow::Result<Vec<ComparedTaps>> {
    let of_teacher = TinyVitConfig::mobile_sam().published_taps();
    let mut all: Vec<ComparedTaps> = vec![];
    for stage in &plan.stages {
        let at = format!("[[train.stage]] {:?}: terms", stage.name);
        for pair in stage.loss.loss.tap_pairs() {
            let teacher = find_tap(&of_teacher, &pair.teacher).with_context(|| format!("{at}: target"))?;
            let teacher = &of_teacher[teacher];
            let [of_target, side, _] = teacher.shape;
            let (on, target) = (&pair.student, &pair.teacher);
            let Some(student) = of_student.iter().find(|tap| tap.name == *on && tap.shape[1] == side) else {
                let fit = of_student.iter().filter(|tap| tap.shape[1] == side).map(|tap| tap.name.as_str());
                let fit: Vec<&str> = fit.collect();
                let expected = match fit.is_empty() {
                    true => "which no point of this encoder has".to_string(),
                    false => format!("as {}", fit.join(", ")),
                };
                let found = of_student.iter().find(|tap| tap.name == *on);
                let found = found.map_or_else(|| "no such point".into(), |tap| format!("{0} x {0}", tap.shape[1]));
                bail!(
                    "{at}: on {on:?}: expected {side} x {side} cells like target {target:?}, {expected}; found {found}"
                );
            };
            let channels = student.shape[0];
            ensure!(
                pair.adapter == Adapter::Pointwise || channels == of_target,
                "{at}: on {:?}: expected the {of_target} channels of target {:?}, or adapter = \"pointwise\", found {channels}",
                pair.student,
                pair.teacher
            );
            if all.iter().all(|known| known.pair.name() != pair.name() || known.pair.adapter != pair.adapter) {
                all.push(ComparedTaps { pair: pair.clone(), channels, teacher: teacher.clone() });
            }
        }
    }
    Ok(all)
}

impl ImageTrainToml {
    /// By stage the decoder of one that reconstructs masked images.
    fn masked_decoders(&self, encoder: &EncoderPlan) -> anyhow::Result<Vec<Option<MaskedConfig>>> {
        let decoder = |stage: &ImageStageToml| {
            let Some(masking) = &stage.masking else { return Ok(None) };
            let at = format!("[[train.stage]] {:?}: masking", stage.name);
            let EncoderPlan::Vit(config) = encoder else {
                bail!("{at}: expected [student] encoder of kind \"vit\", found another");
            };
            let n_outputs = match stage.loss.resolve()?.needs().reconstruction {
                Some(ReconstructionTarget::TeacherEmbedding) => EMBEDDING_CHANNELS,
                Some(ReconstructionTarget::Pixels) => 3 * config.patch * config.patch,
                None => bail!("{at}: expected the one term masked_embedding_mse or masked_pixels_mse beside it"),
            };
            let MaskingToml { channels, heads, blocks, .. } = *masking;
            check_width(&format!("{at}.channels"), channels, heads)?;
            Ok(Some(MaskedConfig { channels, heads, blocks, n_outputs }))
        };
        let decoders: Vec<Option<MaskedConfig>> = self.stage.iter().map(decoder).collect::<anyhow::Result<_>>()?;
        let n_first = decoders.iter().take_while(|decoder| decoder.is_some()).count();
        ensure!(
            decoders[n_first..].iter().all(Option::is_none) && n_first <= 1,
            "[[train.stage]]: expected masking in the first stage alone"
        );
        ensure!(
            n_first < decoders.len(),
            "[[train.stage]]: expected one after the masked images that learns embeddings or masks"
        );
        Ok(decoders)
    }

    fn resolve(self, seed: u64, is_vit: bool) -> anyhow::Result<(TrainPlan<ImageObjective>, FirstWeights)> {
        let first_weights = match (self.initial_weights, self.encoder_weights) {
            (Some(_), Some(_)) => bail!("[train] encoder_weights: expected none beside initial_weights"),
            (Some(FilePath(path)), None) => FirstWeights::File(path),
            (None, Some(FilePath(path))) => FirstWeights::PublishedEncoder(path),
            (None, None) => FirstWeights::Random,
        };
        let optimizer = self.optimizer.resolve();
        let stages = self.stage.into_iter().map(|stage| stage.resolve(optimizer.weight_decay, is_vit));
        let groups = vec![sensei_student::student::WEIGHTS.into()];
        let plan = TrainPlan {
            seed,
            batch_size: self.batch_size,
            accumulate_batches: self.accumulate_batches,
            optimizer,
            clip_gradient_norm: self.clip_gradient_norm,
            average: self.ema_decay.map(|decay| AveragePlan { decay, groups }),
            recalibrate_norms: None,
            mixed_precision: None,
            stages: stages.collect::<anyhow::Result<_>>()?,
        };
        let mut names = BTreeMap::new();
        for stage in &plan.stages {
            ensure!(
                names.insert(stage.name.clone(), ()).is_none(),
                "[[train.stage]] name: expected one that no other has, found {:?} twice",
                stage.name
            );
        }
        Ok((plan, first_weights))
    }
}

impl FeatureDtypeToml {
    fn resolve(self) -> FeatureDtype {
        let scales = ScaleSource::Image;
        match self {
            Self::F32 => FeatureDtype::F32,
            Self::F16 => FeatureDtype::F16,
            Self::Int8 => FeatureDtype::Int8 { scales },
            Self::Int4 => FeatureDtype::Int4 { scales },
        }
    }
}

impl PromptEvalToml {
    fn overlays() -> usize {
        12
    }
}

impl Default for ImageLoggingToml {
    fn default() -> Self {
        Self {
            log_every_steps: 10,
            checkpoint_every_steps: 500,
            keep_checkpoints: 2,
            data_threads: 1,
            fetched_shards_gib: 64,
        }
    }
}
