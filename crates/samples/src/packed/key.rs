//! What decides the content of packed samples, part by part.

use sensei_data::augment::Augmentation;
use sensei_files::digest::blake3_hex;
use serde::{Deserialize, Serialize};

use crate::selection::EmptyTruthRule;
use crate::source::SampleSource;

/// Everything that decides what is packed, but for the image files: of those, a pack has the digests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackKey {
    /// BLAKE3 of the annotation file's bytes, hexadecimal; of several files, one of their digests.
    pub annotations: String,
    /// BLAKE3 of the ids of the instances, each as 8 bytes, little-endian, in the order of the annotations; hexadecimal.
    pub instances: String,
    /// What is given for an object, in words.
    pub prompt: String,
    /// The crop rule, in words.
    pub crop: String,
    /// How far crops move.
    pub jitter: Jitter,
}

/// The largest changes of a crop that the packed pixels are enough for: those of [`Augmentation`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jitter {
    /// [`Augmentation::roi_shift`].
    pub roi_shift: f64,
    /// [`Augmentation::roi_scale`].
    pub roi_scale: f64,
    /// [`Augmentation::roi_aspect`].
    pub roi_aspect: f64,
    /// [`Augmentation::roi_rotation`].
    #[serde(default, skip_serializing_if = "is_none")]
    pub roi_rotation: f64,
    /// [`Augmentation::roi_shear`].
    #[serde(default, skip_serializing_if = "is_none")]
    pub roi_shear: f64,
}

/// Packs of before there were turns have the keys that they had.
fn is_none(range: &f64) -> bool {
    *range == 0.0
}

/// One part in which two keys differ, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDifference {
    /// A field of [`PackKey`].
    pub part: &'static str,
    /// What is needed.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl PackKey {
    /// The key of a source's samples, trained on with any of these augmentations, or none.
    pub fn of(source: &SampleSource, augmentations: &[&Augmentation]) -> Self {
        let ids = source.instances.iter().flat_map(|&idx| source.annotation_id(idx).to_le_bytes());
        let most = Augmentation::largest(augmentations);
        let of_empty_masks = match source.rules.empty_truth {
            EmptyTruthRule::LeftOut => "left out",
            EmptyTruthRule::Scored => "used",
        };
        Self {
            annotations: sensei_files::digest::hex(&source.dataset.digest),
            instances: blake3_hex(&ids.collect::<Vec<u8>>()),
            prompt: format!("{}, empty masks {of_empty_masks}", source.rules.prompt.name()),
            crop: source.crop.name(),
            jitter: Jitter {
                roi_shift: most.roi_shift,
                roi_scale: most.roi_scale,
                roi_aspect: most.roi_aspect,
                roi_rotation: most.roi_rotation,
                roi_shear: most.roi_shear,
            },
        }
    }

    /// BLAKE3 over the key's JSON, hexadecimal: for the name of a folder.
    pub fn digest(&self) -> String {
        blake3_hex(&self.json())
    }

    /// The parts of `found` that are not as in `self`; empty if the keys are equal.
    pub fn differences(&self, found: &Self) -> Vec<KeyDifference> {
        let parts = self.parts().into_iter().zip(found.parts());
        let differing = parts.filter(|((_, expected), (_, found))| expected != found);
        differing.map(|((part, expected), (_, found))| KeyDifference { part, expected, found }).collect()
    }

    pub(crate) fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers have a JSON form")
    }

    fn parts(&self) -> [(&'static str, String); 5] {
        let Jitter { roi_shift, roi_scale, roi_aspect, roi_rotation, roi_shear } = self.jitter;
        let turns = format!("roi_rotation {roi_rotation}, roi_shear {roi_shear}");
        [
            ("annotations", self.annotations.clone()),
            ("instances", self.instances.clone()),
            ("prompt", self.prompt.clone()),
            ("crop", self.crop.clone()),
            ("jitter", format!("roi_shift {roi_shift}, roi_scale {roi_scale}, roi_aspect {roi_aspect}, {turns}")),
        ]
    }
}
