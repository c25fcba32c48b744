//! Everything that fixes a score besides the predictor, with a hash to print beside every number.

use serde::{Deserialize, Serialize};

/// A description of how numbers came about. Two numbers may be compared if the hashes of their protocols are equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalProtocol {
    /// A short name for people, as `picosam3-roi96`.
    pub name: String,
    /// Digest of the annotation file, hexadecimal.
    pub dataset: String,
    /// Which of its instances, as `all` or `first 1000`.
    pub subset: String,
    /// The prompt rule with its parameters: what becomes the crop, what happens at the border.
    pub prompt: String,
    /// Side of the crop's grid, in crop pixels.
    pub crop_grid: u32,
    /// What happens to crowd regions.
    pub crowd: CrowdRule,
    /// What happens to annotations without a single mask pixel.
    pub empty_truth: EmptyTruthRule,
    /// The definitions of metrics, strata and thresholds this was scored by: [`SCORING`].
    pub scoring: u32,
}

/// What happens to crowd regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CrowdRule {
    /// They are left out and counted.
    LeftOut,
}

/// What happens to annotations without a single mask pixel in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmptyTruthRule {
    /// They are left out and counted: there is nothing to prompt at.
    LeftOut,
    /// They are scored; an empty prediction is right (IoU 1), any other is wrong (IoU 0).
    Scored,
}

/// The version of `docs/metrics.md`; goes up when a definition there changes.
pub const SCORING: u32 = 1;

impl EvalProtocol {
    /// BLAKE3 of the canonical JSON, 64 hexadecimal digits.
    pub fn hash(&self) -> String {
        blake3::hash(self.canonical_json().as_bytes()).to_hex().to_string()
    }

    /// The first 12 digits of [`EvalProtocol::hash`], for tables.
    pub fn short_hash(&self) -> String {
        self.hash()[..12].to_string()
    }

    /// JSON with keys in alphabetical order and no spaces.
    pub fn canonical_json(&self) -> String {
        // A map sorts; serde_json's own map only does while no crate of the build turns `preserve_order` on.
        let value = serde_json::to_value(self).expect("strings, integers and unit variants are JSON");
        let fields = value.as_object().expect("a struct is a JSON object");
        let sorted: std::collections::BTreeMap<&String, &serde_json::Value> = fields.iter().collect();
        serde_json::to_string(&sorted).expect("JSON values are JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::protocol;

    #[test]
    fn the_hash_is_of_the_sorted_fields() {
        let expected = concat!(
            r#"{"crop_grid":96,"crowd":"left_out","dataset":"00ff","empty_truth":"left_out","name":"picosam3-roi96","#,
            r#""prompt":"roi, padding 0.1, reference border","scoring":1,"subset":"all"}"#
        );
        assert_eq!(protocol().canonical_json(), expected);
        // `printf '%s' JSON | b3sum`
        assert_eq!(protocol().short_hash(), "66a999b27129");
        assert_eq!(protocol().hash()[..12], protocol().short_hash());
    }

    #[test]
    fn every_field_changes_the_hash() {
        let changes: [fn(&mut EvalProtocol); 7] = [
            |p| p.name.push('x'),
            |p| p.dataset.push('x'),
            |p| p.subset.push('x'),
            |p| p.prompt.push('x'),
            |p| p.crop_grid += 1,
            |p| p.empty_truth = EmptyTruthRule::Scored,
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
        assert_eq!(hashes.len(), 8);
    }
}
