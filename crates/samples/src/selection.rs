//! Which instances of a data set are used, and what is given for each: the same in training and scoring.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sensei_data::crop::CropGeometry;
use sensei_data::crop_rule::{Border, CropError, CropRule};
use sensei_data::dataset::{Dataset, Entry, Instance};
use sensei_data::geometry::PointInImage;
use sensei_data::prompt_source::{Prompt, PromptError, PromptSource};
use sensei_data::rle::Rle;
use sensei_data::sampling::subset;
use serde::{Deserialize, Serialize};

/// Which instances are used, and what is given for them.
#[derive(Debug, Clone, PartialEq)]
pub struct SelectionRules {
    /// What is given for an object.
    pub prompt: PromptSource,
    /// The crop that every student is shown, if it is fixed.
    pub crop: Option<CropRule>,
    /// Which of the instances that the other rules let pass.
    pub subset: Subset,
    /// Annotations with a smaller `area` are left out, in square image pixels.
    pub min_area: f64,
    /// Crowd regions.
    pub crowd: CrowdRule,
    /// Annotations without a mask pixel.
    pub empty_truth: EmptyTruthRule,
}

/// Which of the instances that the other rules let pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subset {
    /// Every one.
    All,
    /// As many in the order of the annotation file.
    First(usize),
    /// As many, drawn by [`subset`] with a seed.
    Random {
        /// How many.
        count: usize,
        /// Of the random numbers.
        seed: u64,
    },
    /// Those of images whose file name begins so, as `val2017/` for the part of LVIS's validation split that is no COCO training image.
    ImagesIn(String),
}

/// What happens to crowd regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CrowdRule {
    /// They are left out and counted.
    LeftOut,
    /// They are scored like any object.
    Scored,
}

/// What happens to annotations without a single mask pixel in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmptyTruthRule {
    /// They are left out and counted: there is nothing to prompt at.
    LeftOut,
    /// They are scored; an empty prediction is right (IoU 1), any other is wrong (IoU 0). Where a mask is needed for the prompt, it is
    /// the middle of the image, as in PicoSAM2's code.
    Scored,
}

/// An instance that is neither trained nor scored on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// COCO id of the annotation.
    pub annotation_id: u64,
    /// Why.
    pub reason: LeftOutReason,
}

/// Why an instance is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LeftOutReason {
    /// A crowd region is not one object.
    Crowd,
    /// The prompt's box or region has no extent, lies outside of the image or is larger than any image.
    DegenerateRoi,
    /// The prompt's region has too few image pixels to show anything.
    RoiTooSmall,
    /// The annotated mask has no pixel, so there is no prompt.
    EmptyTruth,
    /// The teacher has no answer, and the protocol says to go on without.
    NoTeacherRecord,
    /// The annotation's area is smaller than the protocol's smallest.
    BelowMinArea,
    /// The annotation file says nothing that can be used: [`Dataset::unusable`].
    Unusable,
}

impl SelectionRules {
    /// The rules by which a student is trained, and scored in its run: prompted as it is trained to be, on all instances.
    pub fn of_student(crop: CropRule) -> Self {
        // A window that must lie around the object cannot be laid where there is none.
        let is_strict = matches!(crop, CropRule::CenterWindow { border: Border::Corrected, .. });
        Self {
            prompt: crop.source(),
            crop: Some(crop),
            subset: Subset::All,
            min_area: 0.0,
            crowd: CrowdRule::LeftOut,
            empty_truth: if is_strict { EmptyTruthRule::LeftOut } else { EmptyTruthRule::Scored },
        }
    }

    /// The instances that may be scored, as indices into the data set in its order, and those of the subset that crowd rule and area
    /// leave out.
    ///
    /// A subset of a number of instances is chosen among those that are not left out. An instance may still turn out to have no
    /// [prompt](Self::prompt_of).
    ///
    /// # Errors
    /// If the subset has more instances than there are.
    pub fn select(&self, dataset: &Dataset) -> Result<(Vec<usize>, Vec<LeftOut>), SelectionError> {
        let mut chosen = vec![];
        let unusable = dataset.unusable.iter().filter_map(|bad| match bad.entry {
            Entry::Id { id, .. } => Some(LeftOut { annotation_id: id, reason: LeftOutReason::Unusable }),
            Entry::Place { .. } => None,
        });
        let mut left_out: Vec<LeftOut> = unusable.collect();
        for (idx, instance) in dataset.instances.iter().enumerate() {
            if let Subset::ImagesIn(folder) = &self.subset
                && !dataset.images[instance.image_idx].file_name.starts_with(folder.as_str())
            {
                continue;
            }
            let reason = if instance.is_crowd && self.crowd == CrowdRule::LeftOut {
                LeftOutReason::Crowd
            } else if instance.area < self.min_area {
                LeftOutReason::BelowMinArea
            } else {
                chosen.push(idx);
                continue;
            };
            left_out.push(LeftOut { annotation_id: instance.id, reason });
        }
        let n_wanted = match self.subset {
            Subset::First(count) | Subset::Random { count, .. } => count,
            Subset::All | Subset::ImagesIn(_) => 1,
        };
        if n_wanted > chosen.len() {
            let (subset, path) = (self.subset.name(), dataset.annotations_path.clone());
            let (expected, found, left_out) = (n_wanted, chosen.len(), in_words(&count_by_reason(&left_out)));
            return Err(SelectionError { path, subset, expected, found, left_out });
        }
        match self.subset {
            Subset::First(count) => chosen.truncate(count),
            Subset::Random { count, seed } => {
                chosen = subset(chosen.len(), count, seed).iter().map(|&at| chosen[at as usize]).collect();
            }
            Subset::All | Subset::ImagesIn(_) => {}
        }
        Ok((chosen, left_out))
    }

    /// The prompt for an instance with this mask, and the crop for it if the protocol has one.
    ///
    /// # Errors
    /// As [`prompt_of`](Self::prompt_of), and if there is no sensible crop.
    pub fn prompt_and_crop(
        &self,
        instance: &Instance,
        mask: &Rle,
    ) -> Result<(Prompt, Option<CropGeometry>), CropError> {
        let prompt = self.prompt_of(instance, mask)?;
        let crop = self.crop.map(|crop| crop.crop(prompt.clone(), mask.size())).transpose()?;
        Ok((prompt, crop))
    }

    /// The prompt for an instance.
    ///
    /// # Errors
    /// If the mask is empty and the protocol leaves such instances out, or a box around it is asked for.
    pub fn prompt_of(&self, instance: &Instance, mask: &Rle) -> Result<Prompt, PromptError> {
        if self.empty_truth == EmptyTruthRule::LeftOut && mask.is_empty() {
            return Err(PromptError::EmptyMask);
        }
        match self.prompt.prompt(instance.id, instance.bbox, mask) {
            Err(PromptError::EmptyMask) if !self.prompt.is_box() => {
                let middle = |len: u32| f64::from(len / 2) + 0.5;
                Ok(Prompt::Point(PointInImage { x: middle(mask.size().width), y: middle(mask.size().height) }))
            }
            prompt => prompt,
        }
    }
}

impl Subset {
    /// Name for protocols.
    pub fn name(&self) -> String {
        match self {
            Self::All => "all".to_string(),
            Self::First(count) => format!("first {count}"),
            Self::Random { count, seed } => format!("random {count}, seed {seed}"),
            Self::ImagesIn(folder) => format!("images in {folder}"),
        }
    }
}

impl LeftOutReason {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Crowd => "crowd",
            Self::DegenerateRoi => "degenerate ROI",
            Self::RoiTooSmall => "ROI too small",
            Self::EmptyTruth => "empty truth",
            Self::NoTeacherRecord => "no teacher record",
            Self::BelowMinArea => "below the smallest area",
            Self::Unusable => "unusable annotation",
        }
    }
}

impl From<CropError> for LeftOutReason {
    fn from(error: CropError) -> Self {
        match error {
            CropError::TooSmall { .. } => Self::RoiTooSmall,
            // A point in place of a box is what an empty mask has.
            CropError::NoPrompt(PromptError::EmptyMask) | CropError::NotABox { .. } => Self::EmptyTruth,
            _ => Self::DegenerateRoi,
        }
    }
}

/// How many instances are left out for each reason.
pub fn count_by_reason(left_out: &[LeftOut]) -> BTreeMap<LeftOutReason, usize> {
    let mut counts = BTreeMap::new();
    for left_out in left_out {
        *counts.entry(left_out.reason).or_default() += 1;
    }
    counts
}

/// `7 (5 crowd, 2 empty truth)`, or `none`.
pub fn in_words(counts: &BTreeMap<LeftOutReason, usize>) -> String {
    if counts.is_empty() {
        return String::from("none");
    }
    let reasons: Vec<String> = counts.iter().map(|(reason, n)| format!("{n} {}", reason.words())).collect();
    format!("{} ({})", counts.values().sum::<usize>(), reasons.join(", "))
}

/// A subset that a data set does not have.
#[derive(Debug, thiserror::Error)]
#[error(
    "{}: subset \"{subset}\": expected at least {expected} instances to choose from, found {found}; left out: {left_out}",
    path.display()
)]
pub struct SelectionError {
    /// The annotation file.
    pub path: PathBuf,
    /// [`Subset::name`].
    pub subset: String,
    /// Instances wanted.
    pub expected: usize,
    /// Instances that no other rule leaves out.
    pub found: usize,
    /// How many other rules leave out, and why: [`in_words`].
    pub left_out: String,
}
