//! Everything that fixes a score besides the predictor, with a hash to print beside every number.

use std::path::PathBuf;

use sensei_data::crop::CropGeometry;
use sensei_data::dataset::{Dataset, Instance};
use sensei_data::geometry::PointInImage;
use sensei_data::mask::Mask;
use sensei_data::prompt::{Border, PromptError, PromptRule};
use sensei_data::prompt_source::{Prompt, PromptSource};
use sensei_data::sampling::subset;
use serde::{Deserialize, Serialize};

use crate::evaluate::{LeftOut, LeftOutReason};

/// A description of how numbers came about. Two numbers may be compared if the hashes of their protocols are equal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalProtocol {
    /// A short name for people, as `picosam3-roi96`. Not part of the hash.
    pub name: String,
    /// Digest of the annotation file, hexadecimal.
    pub dataset: String,
    /// Which of its instances, as `all` or `first 1000`.
    pub subset: String,
    /// What is given for an object: [`PromptSource::name`].
    pub prompt: String,
    /// The crop that a student is shown: [`PromptRule::name`]. Without it that is the predictor's own affair, and there are no numbers
    /// in crop space.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<String>,
    /// Where the number is computed that the protocol is quoted by.
    pub space: Space,
    /// Annotations with a smaller `area` are left out, in square image pixels.
    pub min_area: f64,
    /// What happens to crowd regions.
    pub crowd: CrowdRule,
    /// What happens to annotations without a single mask pixel.
    pub empty_truth: EmptyTruthRule,
    /// Which of several masks for one prompt counts.
    pub mask_choice: MaskChoice,
    /// The definitions of metrics, strata and thresholds this was scored by: [`SCORING`].
    pub scoring: u32,
}

/// A protocol before it is applied to a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct ProtocolRules {
    /// A short name for people.
    pub name: String,
    /// What is given for an object.
    pub prompt: PromptSource,
    /// The crop that every student is shown, if it is fixed.
    pub crop: Option<PromptRule>,
    /// Where the number is computed that the protocol is quoted by; [`Space::Crop`] only with a crop.
    pub space: Space,
    /// Which instances.
    pub subset: Subset,
    /// Smallest `area` in square image pixels.
    pub min_area: f64,
    /// Crowd regions.
    pub crowd: CrowdRule,
    /// Annotations without a mask pixel.
    pub empty_truth: EmptyTruthRule,
    /// Several masks for one prompt.
    pub mask_choice: MaskChoice,
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

/// Where a prediction is compared with the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Space {
    /// On the crop's grid.
    Crop,
    /// At the image's own resolution.
    Image,
}

/// Which of several masks for one prompt counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskChoice {
    /// There is one; several are an error.
    Single,
    /// The one with the highest score of its own; of equally scored ones the first.
    HighestScore,
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

/// The version of `docs/metrics.md`; goes up when a definition there changes.
pub const SCORING: u32 = 2;

impl EvalProtocol {
    /// BLAKE3 of the canonical JSON, 64 hexadecimal digits.
    pub fn hash(&self) -> String {
        blake3::hash(self.canonical_json().as_bytes()).to_hex().to_string()
    }

    /// The first 12 digits of [`EvalProtocol::hash`], for tables.
    pub fn short_hash(&self) -> String {
        self.hash()[..12].to_string()
    }

    /// JSON with keys in alphabetical order and no spaces, without the name.
    pub fn canonical_json(&self) -> String {
        // A map sorts; serde_json's own map only does while no crate of the build turns `preserve_order` on.
        let value = serde_json::to_value(self).expect("strings, integers and unit variants are JSON");
        let fields = value.as_object().expect("a struct is a JSON object");
        let sorted: std::collections::BTreeMap<&String, &serde_json::Value> =
            fields.iter().filter(|(key, _)| *key != "name").collect();
        serde_json::to_string(&sorted).expect("JSON values are JSON")
    }
}

impl ProtocolRules {
    /// The rules by which a student is trained and scored in its run: prompted as it is trained to be, on all instances.
    pub fn of_student(name: String, crop: PromptRule) -> Self {
        // A window that must lie around the object cannot be laid where there is none.
        let is_strict = matches!(crop, PromptRule::CenterWindow { border: Border::Corrected, .. });
        Self {
            name,
            prompt: crop.source(),
            crop: Some(crop),
            space: Space::Crop,
            subset: Subset::All,
            min_area: 0.0,
            crowd: CrowdRule::LeftOut,
            empty_truth: if is_strict { EmptyTruthRule::LeftOut } else { EmptyTruthRule::Scored },
            mask_choice: MaskChoice::Single,
        }
    }

    /// The protocol on a data set.
    pub fn on(&self, dataset: &Dataset) -> EvalProtocol {
        EvalProtocol {
            name: self.name.clone(),
            dataset: blake3::Hash::from_bytes(dataset.digest).to_hex().to_string(),
            subset: self.subset.name(),
            prompt: self.prompt.name(),
            crop: self.crop.map(|crop| crop.name()),
            space: self.space,
            min_area: self.min_area,
            crowd: self.crowd,
            empty_truth: self.empty_truth,
            mask_choice: self.mask_choice,
            scoring: SCORING,
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
        let (mut chosen, mut left_out) = (vec![], vec![]);
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
            return Err(SelectionError { path, subset, expected: n_wanted, found: chosen.len() });
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

    /// The prompt for an instance, and the crop for it if the protocol has one. The mask is of the image's size.
    ///
    /// # Errors
    /// As [`prompt_of`](Self::prompt_of), and if there is no sensible crop.
    pub fn prompt_and_crop(
        &self,
        instance: &Instance,
        mask: &Mask,
    ) -> Result<(Prompt, Option<CropGeometry>), PromptError> {
        let prompt = self.prompt_of(instance, mask)?;
        Ok((prompt, self.crop.map(|crop| crop.crop(prompt, mask.size)).transpose()?))
    }

    /// The prompt for an instance.
    ///
    /// # Errors
    /// If the mask is empty and the protocol leaves such instances out, or a box around it is asked for.
    pub fn prompt_of(&self, instance: &Instance, mask: &Mask) -> Result<Prompt, PromptError> {
        if self.empty_truth == EmptyTruthRule::LeftOut && mask.bits.iter().all(|&bit| bit == 0) {
            return Err(PromptError::EmptyMask);
        }
        match self.prompt.prompt(instance.id, instance.bbox, mask) {
            Err(PromptError::EmptyMask) if !self.prompt.is_box() => {
                let middle = |len: u32| f64::from(len / 2) + 0.5;
                Ok(Prompt::Point(PointInImage { x: middle(mask.size.width), y: middle(mask.size.height) }))
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

/// A subset that a data set does not have.
#[derive(Debug, thiserror::Error)]
#[error("{}: subset \"{subset}\": expected at least {expected} instances to choose from, found {found}", path.display())]
pub struct SelectionError {
    /// The annotation file.
    pub path: PathBuf,
    /// [`Subset::name`].
    pub subset: String,
    /// Instances wanted.
    pub expected: usize,
    /// Instances that no other rule leaves out.
    pub found: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::protocol;

    #[test]
    fn the_hash_is_of_the_sorted_fields() {
        let expected = concat!(
            r#"{"crop":"roi-96-pad0.1-reference","crowd":"left_out","dataset":"00ff","empty_truth":"left_out","#,
            r#""mask_choice":"single","min_area":0.0,"prompt":"box","scoring":2,"space":"crop","subset":"all"}"#
        );
        assert_eq!(protocol().canonical_json(), expected);
        // `printf '%s' JSON | b3sum`
        assert_eq!(protocol().short_hash(), "28f9e78648cd");
        assert_eq!(protocol().hash()[..12], protocol().short_hash());
    }

    #[test]
    fn every_field_but_the_name_changes_the_hash() {
        let renamed = EvalProtocol { name: "ours".to_string(), ..protocol() };
        assert_eq!(renamed.hash(), protocol().hash());
        let changes: [fn(&mut EvalProtocol); 10] = [
            |p| p.dataset.push('x'),
            |p| p.subset.push('x'),
            |p| p.prompt.push('x'),
            |p| p.crop = None,
            |p| p.space = Space::Image,
            |p| p.min_area = 1.0,
            |p| p.crowd = CrowdRule::Scored,
            |p| p.empty_truth = EmptyTruthRule::Scored,
            |p| p.mask_choice = MaskChoice::HighestScore,
            |p| p.scoring += 1,
        ];
        let mut hashes: Vec<String> = changes
            .iter()
            .map(|change| {
                let mut changed = protocol();
                change(&mut changed);
                changed.hash()
            })
            .chain([protocol().hash()])
            .collect();
        hashes.sort();
        hashes.dedup();
        assert_eq!(hashes.len(), 11);
    }
}
