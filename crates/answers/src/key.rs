//! What decides the content of a cache, and the name of the teacher that gave it.

use serde::{Deserialize, Serialize};

/// Everything that decides the numbers in a cache. Two caches of equal keys are interchangeable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheKey {
    /// [`TeacherDescription::digest`]: which weights answered.
    pub teacher: String,
    /// How an image becomes the teacher's input, in words.
    pub preprocessing: String,
    /// The prompt, and the crop of the answer that is kept, in words.
    pub prompt: String,
    /// BLAKE3 of the annotation file's bytes, hexadecimal.
    pub dataset: String,
    /// Version of the file format, [`FORMAT_VERSION`].
    pub format: u32,
}

/// The teacher, for manifests and reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherDescription {
    /// Such as `MobileSAM ViT-T`.
    pub name: String,
    /// Licence of the weights, as an SPDX identifier, or `not stated`.
    pub licence: String,
    /// SHA-256, hexadecimal, over the lines of its weight files' SHA-256; `named: ...` for dumps that give no digest.
    pub digest: String,
}

/// One part in which two keys differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDifference {
    /// `teacher`, `preprocessing`, `prompt`, `dataset` or `format`.
    pub part: &'static str,
    /// The value this run needs.
    pub expected: String,
    /// The value in the cache.
    pub found: String,
}

impl CacheKey {
    /// BLAKE3 over all parts; stands in every shard, so that shards of two caches cannot be mixed.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"sensei teacher cache key\0");
        for (_, value) in self.parts() {
            hasher.update(&(value.len() as u64).to_le_bytes());
            hasher.update(value.as_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// The parts of `found` that are not as in `self`; empty if the keys are equal.
    pub fn differences(&self, found: &CacheKey) -> Vec<KeyDifference> {
        let pairs = self.parts().into_iter().zip(found.parts());
        pairs
            .filter(|((_, expected), (_, found))| expected != found)
            .map(|((part, expected), (_, found))| KeyDifference { part, expected, found })
            .collect()
    }

    fn parts(&self) -> [(&'static str, String); 5] {
        [
            ("teacher", self.teacher.clone()),
            ("preprocessing", self.preprocessing.clone()),
            ("prompt", self.prompt.clone()),
            ("dataset", self.dataset.clone()),
            ("format", self.format.to_string()),
        ]
    }
}

/// Version of the cache's file format that this crate reads and writes.
pub const FORMAT_VERSION: u32 = 1;
