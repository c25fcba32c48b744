//! `[[train.stage]]` of a student that sees whole images.

use anyhow::{Context, bail, ensure};
use schemars::JsonSchema;
use sensei_data::augment::Augmentation;
use sensei_loss::{Adapter, ImageTermKind};
use sensei_sam::adapters::ADAPTERS;
use sensei_sam::granularity::GRANULARITY;
use sensei_sam::masked_vit::MASKED_DECODER;
use sensei_sam::prompted::MASK_DECODER;
use sensei_sam::student::SCORE_HEAD;
use sensei_sam::vit::NECK;
use sensei_samples::whole_images::AskPlan;
use sensei_student::student::WEIGHTS;
use sensei_train::images::{ErrorRegion, ImageObjective, PromptPlan};
use sensei_train::plan::{GroupPlan, GroupRate, StagePlan};
use sensei_train::schedule::Schedule;
use serde::{Deserialize, Serialize};

use super::image_loss::ImageLossToml;
use super::stage::DecayToml;

/// One part of the training schedule.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageStageToml {
    /// For events and messages.
    pub name: String,
    /// Passes over the training images.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub epochs: u64,
    /// After the warm-up.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub learning_rate: f64,
    /// Steps in which the learning rate rises linearly from 0.
    pub warmup_steps: u64,
    /// What the learning rate does after the warm-up.
    pub decay: DecayToml,
    /// What is trained; all else is frozen, the prompt encoder and the decoder's own tokens always.
    #[schemars(length(min = 1))]
    pub train: Vec<TrainedPartToml>,
    /// What is asked about each image; needed by terms about masks and scores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompts: Option<PromptsToml>,
    /// What is hidden of each image, in a first stage that pretrains an encoder of kind `vit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masking: Option<MaskingToml>,
    /// What is minimised.
    pub loss: ImageLossToml,
    /// How images are varied. Their geometry is not, as the teacher's features are of the image as it is.
    pub augmentation: ColoursToml,
}

/// A part of the student that can be trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrainedPartToml {
    /// The image encoder.
    Encoder,
    /// The mask decoder, without its tokens; the part of it that scores masks learns only from terms about scores.
    MaskDecoder,
    /// A part that proposes boxes of whole objects, so that a click finds its object (EdgeSAM's granularity prior).
    Granularity,
}

/// Prompts in the loop.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptsToml {
    /// Most objects of an image in an epoch; of more, so many are drawn (EdgeSAM: 16).
    #[schemars(range(min = 1, max = 1024))]
    pub per_image: usize,
    /// Probability that an object is prompted by its box; else by a random pixel of its mask (EdgeSAM: 0.5).
    #[schemars(range(min = 0.0, max = 1.0))]
    pub box_probability: f64,
    /// Further rounds, each with a point more where the student is wrong (EdgeSAM: 1).
    #[schemars(range(min = 0, max = 8))]
    pub rounds: u8,
    /// Where that point is drawn.
    pub next_point: NextPointToml,
    /// Fewest pixels of the 256 x 256 grid that an error must have; where it has fewer, there is no further point.
    #[schemars(range(min = 1, max = 65536))]
    pub min_error_pixels: u32,
}

/// What is hidden of each image, and the decoder that says what it was. The decoder is dropped afterwards.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MaskingToml {
    /// Share of the patches (MAE and EfficientSAM: 0.75).
    #[schemars(range(min = 0.05, max = 0.95))]
    pub hidden_share: f64,
    /// Channels of the decoder's tokens (EfficientSAM: 512).
    #[schemars(range(min = 4, max = 4096))]
    pub channels: usize,
    /// Heads of each attention.
    #[schemars(range(min = 1, max = 64))]
    pub heads: usize,
    /// Blocks (EfficientSAM: 8).
    #[schemars(range(min = 1, max = 64))]
    pub blocks: usize,
}

/// Where the next point is drawn, uniformly.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NextPointToml {
    /// Where student and teacher disagree (EdgeSAM).
    TeacherDisagreement,
    /// Where the student's mask is not the annotated one.
    TruthDisagreement,
}

/// How an image's colours are varied. Drawn per image and epoch; all zeros change nothing.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ColoursToml {
    /// Brightness changes by a factor of up to `1 +- brightness`.
    #[schemars(range(min = 0.0, max = 0.9))]
    pub brightness: f64,
    /// Contrast changes by a factor of up to `1 +- contrast`.
    #[schemars(range(min = 0.0, max = 0.9))]
    pub contrast: f64,
    /// Saturation changes by a factor of up to `1 +- saturation`.
    #[schemars(range(min = 0.0, max = 0.9))]
    pub saturation: f64,
}

impl ImageStageToml {
    /// The stage's plan; `is_vit` says whether the encoder is a vision transformer.
    ///
    /// # Errors
    /// If its loss means nothing, asks about masks without prompts, or reaches nothing that is trained.
    pub fn resolve(self, weight_decay: f64, is_vit: bool) -> anyhow::Result<StagePlan<ImageObjective>> {
        let at = format!("[[train.stage]] {:?}", self.name);
        let loss = self.loss.resolve().with_context(|| at.clone())?;
        let needs = loss.needs();
        ensure!(
            !needs.masks || self.prompts.is_some(),
            "{at}: its loss has terms about masks: expected [train.stage.prompts], found none"
        );
        ensure!(
            needs.masks || self.prompts.is_none(),
            "{at}: [train.stage.prompts]: expected a term about masks or scores beside it, found none"
        );
        ensure!(
            needs.reconstruction.is_none() || self.masking.is_some(),
            "{at}: its loss is about masked images: expected masking, found none"
        );
        let trains = |part| self.train.contains(&part);
        ensure!(
            needs.proposals == trains(TrainedPartToml::Granularity),
            "{at}: train: expected \"granularity\" with terms about proposals, and neither without the other"
        );
        if !needs.masks && !needs.proposals && !trains(TrainedPartToml::Encoder) {
            bail!("{at}: train: expected \"encoder\", which all terms of its loss are about, found only the decoder");
        }
        let untrained = loss.terms().iter().find(|term| match &term.kind {
            ImageTermKind::Features { taps, .. } => taps.adapter == Adapter::Pointwise && term.weight == 0.0,
            _ => false,
        });
        if let Some(term) = untrained {
            bail!(
                "{at}: {}: weight: expected more than 0, as nothing else trains its adapter, found 0",
                term.kind.label()
            );
        }
        let adapts = loss.tap_pairs().any(|pair| pair.adapter == Adapter::Pointwise);
        ensure!(
            loss.tap_pairs().next().is_none() || trains(TrainedPartToml::Encoder),
            "{at}: train: expected \"encoder\" with terms about its features, found it frozen"
        );
        let group = |group: &str| GroupPlan {
            group: group.into(),
            rate: GroupRate::Stage,
            slower: None,
            weight_decay,
            clipped: true,
            hold_after: None,
        };
        if trains(TrainedPartToml::MaskDecoder) && !needs.masks {
            bail!("{at}: train: expected terms about masks beside \"mask_decoder\", found none");
        }
        let mut parts = vec![(TrainedPartToml::Encoder, WEIGHTS)];
        if self.masking.is_some() {
            parts.push((TrainedPartToml::Encoder, MASKED_DECODER));
        } else if is_vit {
            parts.push((TrainedPartToml::Encoder, NECK));
        }
        if adapts {
            parts.push((TrainedPartToml::Encoder, ADAPTERS));
        }
        parts.push((TrainedPartToml::MaskDecoder, MASK_DECODER));
        if loss.terms().iter().any(|term| term.kind == ImageTermKind::Scores && term.weight > 0.0) {
            parts.push((TrainedPartToml::MaskDecoder, SCORE_HEAD));
        }
        parts.push((TrainedPartToml::Granularity, GRANULARITY));
        let groups = parts.into_iter().filter(|(part, _)| trains(*part)).map(|(_, name)| group(name)).collect();
        let ColoursToml { brightness, contrast, saturation } = self.augmentation;
        Ok(StagePlan {
            epochs: self.epochs,
            schedule: Schedule {
                learning_rate: self.learning_rate,
                warmup_steps: self.warmup_steps,
                decay: self.decay.resolve(),
            },
            loss: ImageObjective {
                loss,
                prompts: self.prompts.as_ref().map(PromptsToml::resolve),
                hidden_share: self.masking.as_ref().map(|masking| masking.hidden_share),
            },
            augmentation: Augmentation { brightness, contrast, saturation, ..Augmentation::NONE },
            groups,
            on_grid: None,
            name: self.name,
        })
    }
}

impl PromptsToml {
    fn resolve(&self) -> PromptPlan {
        PromptPlan {
            ask: AskPlan { per_image: self.per_image, box_probability: self.box_probability },
            rounds: self.rounds,
            next_point: match self.next_point {
                NextPointToml::TeacherDisagreement => ErrorRegion::TeacherDisagreement,
                NextPointToml::TruthDisagreement => ErrorRegion::TruthDisagreement,
            },
            min_error_pixels: self.min_error_pixels,
        }
    }
}
