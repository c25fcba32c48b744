//! `[train.stage.augmentation]`: how samples are varied.

use schemars::JsonSchema;
use sensei_data::augment::Augmentation;
use serde::{Deserialize, Serialize};

/// How samples are varied. Drawn per sample and epoch; all zeros change nothing.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AugmentationToml {
    /// Probability of mirroring left to right.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub flip_probability: f64,
    /// The crop moves by up to this share of its sides, each way. The teacher's record must cover it.
    #[schemars(range(min = 0.0, max = 0.5))]
    pub roi_shift: f64,
    /// The crop's sides change by a factor of up to about `exp(+-roi_scale)`. The teacher's record must cover it.
    #[schemars(range(min = 0.0, max = 0.9))]
    pub roi_scale: f64,
    /// The crop's width changes by a factor of up to about `exp(+-roi_aspect)` and its height by the inverse, so that each side is wrong by
    /// itself, as a detector's are. Without it, by none. The teacher's record must cover it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 0.9))]
    pub roi_aspect: Option<f64>,
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

impl AugmentationToml {
    /// The augmentation.
    pub fn resolve(&self) -> Augmentation {
        let &Self { flip_probability, roi_shift, roi_scale, roi_aspect, brightness, contrast, saturation } = self;
        let roi_aspect = roi_aspect.unwrap_or(0.0);
        Augmentation { flip_probability, roi_shift, roi_scale, roi_aspect, brightness, contrast, saturation }
    }
}
