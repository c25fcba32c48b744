//! `[train]`: how weights are found.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use schemars::JsonSchema;
use sensei_quant::gptq::Rounding;
use sensei_student::student::WEIGHTS;
use sensei_train::plan::{AveragePlan, TrainPlan};
use serde::{Deserialize, Serialize};

use super::mixed_precision::MixedPrecisionToml;
use super::optimizer::OptimizerToml;
use super::quantize::QuantizePlan;
use super::stage::StageToml;
use crate::config::file_path::FilePath;
use crate::shipped_models::{ShippedModel, shipped};

/// How the student is trained.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainToml {
    /// Samples per forward pass and batch norm; the last batch of an epoch may be smaller (not below 2 where the bottleneck is a single
    /// pixel).
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
    /// Decay, per step, of a moving average of the weights; the average is then the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 0.999_999))]
    pub ema_decay: Option<f64>,
    /// After the last step, batch norms take their running statistics again, with the resulting weights over this many training samples
    /// without augmentation. Without it they are those of the last batches.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub recalibrate_norms: Option<usize>,
    /// Convolutions in 16 bits, on devices that have them: `docs/scale/README.md`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mixed_precision: Option<MixedPrecisionToml>,
    /// Start from this `.safetensors`, or PyTorch `.pt` or `.pth`, instead of random weights. They must expect `(pixel - 128) / 128`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_weights: Option<FilePath>,
    /// Start from a model that ships with the program, by its name: `sensei-box` or `quickstart`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_model: Option<String>,
    /// Start the encoder of `family = "lite_unet"` from the published PyTorch weights of EfficientNet-Lite0, trained on ImageNet; the rest
    /// is random. What differs in them is folded: `docs/formats/weights.md`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder_weights: Option<FilePath>,
    /// What is done one after the other.
    #[schemars(length(min = 1))]
    pub stage: Vec<StageToml>,
}

/// What training starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstWeights {
    /// Random weights.
    Random,
    /// All weights from a file.
    File(PathBuf),
    /// Those of a model that ships with the program.
    Shipped(&'static ShippedModel),
    /// Random ones, but for an encoder from a file of EfficientNet-Lite0.
    PublishedEncoder(PathBuf),
}

impl TrainToml {
    /// The training's plan, and the weights that it starts from. `also_train` names the parts of the training data after the
    /// first.
    ///
    /// # Errors
    /// If stages do not go together, or a stage's loss means nothing.
    pub fn resolve(
        self,
        seed: u64,
        quantize: Option<&QuantizePlan>,
        also_train: &[String],
    ) -> anyhow::Result<(TrainPlan, FirstWeights)> {
        self.check_quantized_stages(quantize)?;
        let first_weights = match (self.initial_weights, self.initial_model, self.encoder_weights) {
            (Some(_), None, Some(_)) => bail!("[train] encoder_weights: expected none beside initial_weights"),
            (None, Some(_), Some(_)) => bail!("[train] encoder_weights: expected none beside initial_model"),
            (Some(_), Some(_), _) => bail!("[train] initial_model: expected none beside initial_weights"),
            (Some(FilePath(path)), None, None) => FirstWeights::File(path),
            (None, Some(name), None) => FirstWeights::Shipped(shipped(&name).context("[train] initial_model")?),
            (None, None, Some(FilePath(path))) => FirstWeights::PublishedEncoder(path),
            (None, None, None) => FirstWeights::Random,
        };
        let optimizer = self.optimizer.resolve();
        let plan = TrainPlan {
            seed,
            batch_size: self.batch_size,
            accumulate_batches: self.accumulate_batches,
            optimizer,
            clip_gradient_norm: self.clip_gradient_norm,
            average: self.ema_decay.map(|decay| AveragePlan { decay, groups: vec![WEIGHTS.into()] }),
            recalibrate_norms: self.recalibrate_norms,
            mixed_precision: self.mixed_precision.as_ref().map(MixedPrecisionToml::resolve),
            stages: self
                .stage
                .into_iter()
                .map(|stage| stage.resolve(optimizer.weight_decay, also_train))
                .collect::<Result<_, _>>()?,
        };
        Ok((plan, first_weights))
    }

    /// Whether a stage trains on the chip's grid: `[quantize]` then decides the weights too.
    pub fn has_quantized_stage(&self) -> bool {
        self.stage.iter().any(|stage| stage.quantization.is_some())
    }

    /// Refuses what does not go with a stage on the chip's grid.
    fn check_quantized_stages(&self, quantize: Option<&QuantizePlan>) -> anyhow::Result<()> {
        let Some(first) = self.stage.iter().position(|stage| stage.quantization.is_some()) else { return Ok(()) };
        let name = &self.stage[first].name;
        let quantize =
            quantize.with_context(|| format!("[[train.stage]] {name:?}: expected [quantize], found none"))?;
        if let Some(later) = self.stage[first..].iter().find(|stage| stage.quantization.is_none()) {
            bail!("[[train.stage]] {:?}: expected quantization, as in the stage before it, found none", later.name);
        }
        ensure!(self.mixed_precision.is_none(), "[train] mixed_precision: expected none in a run with quantization");
        let recalibrates = self.recalibrate_norms.is_some();
        ensure!(
            !recalibrates,
            "[train] recalibrate_norms: expected none in a run with quantization, whose thresholds go with the statistics"
        );
        let is_plain =
            quantize.equalization.is_none() && quantize.budget.is_none() && quantize.rounding == Rounding::Nearest;
        ensure!(
            is_plain,
            "[quantize]: expected equalization = \"none\", rounding = \"nearest\" and no budget where a stage has quantization"
        );
        Ok(())
    }
}
