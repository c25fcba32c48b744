//! `[train.stage.augmentation]`: how samples are varied.

use anyhow::ensure;
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
    /// The picture turns about the middle of the object's box by up to about this many radians, each way, and the box is drawn anew around the
    /// turned mask. Without it, by none. An object that would lose two fifths of its pixels beyond the image's border stays as it is. What lies
    /// beyond the border is mirrored at it. Needs `crop.rule = "box"`, and no answers of a teacher to train on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 0.9))]
    pub roi_rotation: Option<f64>,
    /// Before it turns, the picture is sheared: x grows by up to this share of y, each way. Without it, by none. Needs what `roi_rotation` needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 0.5))]
    pub roi_shear: Option<f64>,
    /// Share of the samples whose crop is jittered at all, by `roi_shift`, `roi_scale` and `roi_aspect`, one of which has to be above 0. Without
    /// it, of every sample. The others see the box as it is annotated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub roi_jitter_probability: Option<f64>,
    /// Share of the samples that turn at all, by `roi_rotation` and `roi_shear`, one of which has to be above 0. Without it, of every sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub roi_turn_probability: Option<f64>,
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
    ///
    /// # Errors
    /// If a share of the samples is given for a change that is not switched on.
    pub fn resolve(&self) -> anyhow::Result<Augmentation> {
        let &Self { flip_probability, roi_shift, roi_scale, brightness, contrast, saturation, .. } = self;
        let [roi_aspect, roi_rotation, roi_shear] =
            [self.roi_aspect, self.roi_rotation, self.roi_shear].map(|range| range.unwrap_or(0.0));
        let [jitter_probability, turn_probability] =
            [self.roi_jitter_probability, self.roi_turn_probability].map(|probability| probability.unwrap_or(1.0));
        let jitters = [roi_shift, roi_scale, roi_aspect].iter().any(|&range| range > 0.0);
        let expected = "expected one of them above 0, found none";
        ensure!(
            jitters || self.roi_jitter_probability.is_none(),
            "augmentation: roi_jitter_probability is of roi_shift, roi_scale and roi_aspect: {expected}"
        );
        let turns = roi_rotation > 0.0 || roi_shear > 0.0;
        ensure!(
            turns || self.roi_turn_probability.is_none(),
            "augmentation: roi_turn_probability is of roi_rotation and roi_shear: {expected}"
        );
        Ok(Augmentation {
            flip_probability,
            roi_shift,
            roi_scale,
            roi_aspect,
            roi_rotation,
            roi_shear,
            jitter_probability,
            turn_probability,
            brightness,
            contrast,
            saturation,
        })
    }
}
