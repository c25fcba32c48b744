//! Everything that fixes a score besides the predictor, with a hash to print beside every number.

use sensei_data::crop_rule::CropRule;
use sensei_data::dataset::Dataset;
use sensei_files::digest::hex;
use sensei_samples::selection::{CrowdRule, EmptyTruthRule, SelectionRules};
use serde::{Deserialize, Serialize};

use crate::metric::Metric;

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
    /// What is given for an object: [`PromptSource::name`](sensei_data::prompt_source::PromptSource::name).
    pub prompt: String,
    /// The crop that a student is shown: [`CropRule::name`]. Without it that is the predictor's own affair, and there are no numbers
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
    /// Annotations that were left out because the file says nothing that can be used.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub n_unusable: usize,
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
    /// Which instances, and what is given for them.
    pub selection: SelectionRules,
    /// Where the number is computed that the protocol is quoted by; [`Space::Crop`] only with a crop.
    pub space: Space,
    /// Several masks for one prompt.
    pub mask_choice: MaskChoice,
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

fn is_zero(n: &usize) -> bool {
    *n == 0
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

    /// The number that the protocol is quoted by: `mean_iou` in its space.
    pub fn headline(&self) -> Metric {
        match self.space {
            Space::Crop => Metric::MeanIouInCrop,
            Space::Image => Metric::MeanIouInImage,
        }
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
    /// The rules by which a student is scored in its run: as it is trained, in its crop. In that of a box, which is stretched, pixels of
    /// long and short boxes weigh differently, so that such a student is scored in the image.
    pub fn of_student(name: String, crop: CropRule) -> Self {
        let selection = SelectionRules::of_student(crop);
        let space = match crop {
            CropRule::Box { .. } => Space::Image,
            CropRule::CenterWindow { .. } | CropRule::Roi { .. } => Space::Crop,
        };
        Self { name, selection, space, mask_choice: MaskChoice::Single }
    }

    /// The protocol on a data set; `subset` names the instances, as [`Subset::name`](sensei_samples::selection::Subset::name) does.
    pub fn on(&self, dataset: &Dataset, subset: String) -> EvalProtocol {
        let SelectionRules { prompt, crop, subset: _, min_area, crowd, empty_truth } = &self.selection;
        EvalProtocol {
            name: self.name.clone(),
            dataset: hex(&dataset.digest),
            subset,
            prompt: prompt.name(),
            crop: crop.map(|crop| crop.name()),
            space: self.space,
            min_area: *min_area,
            crowd: *crowd,
            empty_truth: *empty_truth,
            n_unusable: dataset.unusable.len(),
            mask_choice: self.mask_choice,
            scoring: SCORING,
        }
    }
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
