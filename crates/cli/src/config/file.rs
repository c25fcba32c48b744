//! How a configuration file is spelt. Unknown keys are errors; a key that changes the numbers has no default.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RunToml {
    pub seed: u64,
    pub data: DataToml,
    pub crop: CropToml,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TeacherToml>,
    pub student: StudentToml,
    pub train: TrainToml,
    pub eval: EvalToml,
    pub quantize: QuantizeToml,
    #[serde(default)]
    pub export: ExportToml,
    #[serde(default)]
    pub logging: LoggingToml,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "source", rename_all = "snake_case", deny_unknown_fields)]
pub enum DataToml {
    Coco { instances: InstancesToml, train: SplitToml, val: SplitToml },
    Lvis { instances: InstancesToml, train: SplitToml, val: SplitToml },
    Synthetic { instances: InstancesToml, scenes: ScenesToml },
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ScenesToml {
    Quickstart,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InstancesToml {
    All,
    Cached,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SplitToml {
    pub annotations: PathBuf,
    pub images: PathBuf,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "rule", rename_all = "snake_case", deny_unknown_fields)]
pub enum CropToml {
    CenterWindow { border: BorderToml },
    Roi { border: BorderToml, padding: f64 },
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BorderToml {
    Reference,
    Corrected,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherToml {
    pub digest: String,
    pub preprocessing: String,
    pub prompt: String,
    pub train: AnswersToml,
    pub val: AnswersToml,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AnswersToml {
    Cache(PathBuf),
    Dump(PathBuf),
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "family", rename_all = "snake_case", deny_unknown_fields)]
pub enum StudentToml {
    Picosam2 {},
    Picosam3 {},
    Unet {
        input_size: usize,
        encoder_channels: Vec<usize>,
        bottleneck_channels: usize,
        decoder_channels: Vec<usize>,
        dilated_bottleneck: bool,
        channel_gate: bool,
        refine_head: bool,
        bilinear_upsampling: bool,
        activation: ActivationToml,
    },
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationToml {
    Relu,
    Relu6,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TrainToml {
    pub batch_size: usize,
    pub accumulate_batches: usize,
    pub optimizer: OptimizerToml,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_gradient_norm: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mixed_precision: Option<MixedPrecisionToml>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_weights: Option<PathBuf>,
    pub stage: Vec<StageToml>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "compute", rename_all = "snake_case", deny_unknown_fields)]
pub enum MixedPrecisionToml {
    F16 { initial_loss_scale: f64, growth_interval: u64 },
    Bf16 {},
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerToml {
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StageToml {
    pub name: String,
    pub epochs: u64,
    pub learning_rate: f64,
    pub warmup_steps: u64,
    pub decay: DecayToml,
    pub loss: LossToml,
    pub augmentation: AugmentationToml,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<QuantizationToml>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct QuantizationToml {
    pub threshold_learning_rate: f64,
    pub hold_thresholds_after: u64,
    pub hold_norms_after: u64,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum DecayToml {
    Constant {},
    Cosine { final_learning_rate: f64 },
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LossToml {
    pub sharpness: f64,
    pub weighting: WeightingToml,
    pub terms: Vec<TermToml>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum WeightingToml {
    TeacherScorePerSample,
    TeacherScoreBatchMean,
    Constant(f64),
    TruthOnly,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TermToml {
    TeacherMse { weight: f64 },
    TeacherDice { weight: f64 },
    TruthBce { weight: f64 },
    TruthDice { weight: f64 },
    AreaShortfall { weight: f64, floor: f64 },
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AugmentationToml {
    pub flip_probability: f64,
    pub roi_shift: f64,
    pub roi_scale: f64,
    pub brightness: f64,
    pub contrast: f64,
    pub saturation: f64,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EvalToml {
    pub bootstrap_resamples: usize,
    pub bootstrap_seed: u64,
    #[serde(default = "EvalToml::batch_size")]
    pub batch_size: usize,
    #[serde(default = "EvalToml::overlays")]
    pub overlays: usize,
}

impl EvalToml {
    fn batch_size() -> usize {
        16
    }

    fn overlays() -> usize {
        12
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct QuantizeToml {
    pub calibration_instances: usize,
    pub threshold_search: SearchToml,
    pub bias_correction: bool,
    pub equalization: EqualizationToml,
    pub rounding: RoundingToml,
    pub weight_bits: u8,
    pub output_bits: u8,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weight_bits_of: BTreeMap<String, u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<WeightBudgetToml>,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EqualizationToml {
    None,
    Weights,
    Activations,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RoundingToml {
    Nearest,
    Gptq,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WeightBudgetToml {
    pub weight_bits: u8,
    pub limit: MemoryLimitToml,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryLimitToml {
    CoefficientBytes(u64),
    TotalBytes(u64),
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SearchToml {
    MinMax,
    Mse,
    Kl,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ExportToml {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub converter: Option<PathBuf>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoggingToml {
    pub log_every_steps: u64,
    pub checkpoint_every_steps: u64,
    pub keep_checkpoints: usize,
    pub validate_every_epochs: u64,
    pub validate_instances: usize,
    pub data_threads: usize,
}

impl Default for LoggingToml {
    fn default() -> Self {
        Self {
            log_every_steps: 10,
            checkpoint_every_steps: 500,
            keep_checkpoints: 2,
            validate_every_epochs: 0,
            validate_instances: 128,
            data_threads: 1,
        }
    }
}
