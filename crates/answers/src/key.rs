//! What decides the numbers in a cache, part by part, and the name of the teacher that gave them.

use serde::{Deserialize, Serialize};

use crate::asked::{Preprocessing, Question};
use crate::kept::Kept;

/// Everything that decides the numbers in a cache. Two caches of equal keys are interchangeable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerKey {
    /// Digest of the teacher's weights: SHA-256, hexadecimal, over the lines of its weight files' SHA-256; `named: ...`
    /// where nobody gives a digest.
    pub teacher: String,
    /// How an image becomes the teacher's input.
    pub preprocessing: Preprocessing,
    /// What the teacher was asked.
    pub question: Question,
    /// Which part of its answer is kept, and how it is stored.
    pub kept: Kept,
    /// BLAKE3 of the annotation file's bytes, hexadecimal.
    pub dataset: String,
}

/// The teacher, for manifests and reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherDescription {
    /// Such as `MobileSAM ViT-T`.
    pub name: String,
    /// Licence of the weights, as an SPDX identifier, or `not stated`.
    pub licence: String,
}

/// One part in which two keys differ, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDifference {
    /// `teacher`, `preprocessing`, `question`, `kept`, a part of what is kept (such as `kept grid`), or `dataset`.
    pub part: &'static str,
    /// What this run needs.
    pub expected: String,
    /// What the cache has.
    pub found: String,
}

/// A key that no cache can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part}: expected {expected}, found {found}")]
pub struct InvalidKey {
    /// Which number or word of it.
    pub part: &'static str,
    /// What is allowed.
    pub expected: String,
    /// What it holds.
    pub found: String,
}

impl AnswerKey {
    /// BLAKE3 over all parts; stands in every shard, so that shards of two caches cannot be mixed.
    ///
    /// A part counts with its length and its JSON: no white space, fields in the order of the types, numbers in the
    /// shortest form that reads back as the same number.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(DIGEST_DOMAIN);
        let parts = [
            json(&self.teacher),
            json(&self.preprocessing),
            json(&self.question),
            json(&self.kept),
            json(&self.dataset),
        ];
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(&part);
        }
        *hasher.finalize().as_bytes()
    }

    /// The parts of `found` that are not as in `self`; empty if the keys are equal.
    pub fn differences(&self, found: &AnswerKey) -> Vec<KeyDifference> {
        let found = found.parts();
        let mut differences = Vec::new();
        for (part, expected) in self.parts() {
            // A part without a counterpart belongs to another kind of answer, and `kept` itself differs.
            let Some((_, found)) = found.iter().find(|(other, _)| *other == part) else { continue };
            if *found != expected {
                differences.push(KeyDifference { part, expected, found: found.clone() });
            }
        }
        differences
    }

    /// # Errors
    /// If the parts do not go together, or a number is outside of what a cache can hold.
    pub fn check(&self) -> Result<(), InvalidKey> {
        check_parts(&self.preprocessing, &self.question, &self.kept)
    }

    fn parts(&self) -> Vec<(&'static str, String)> {
        let mut parts = vec![
            ("teacher", self.teacher.clone()),
            ("preprocessing", self.preprocessing.to_string()),
            ("question", self.question.to_string()),
        ];
        parts.extend(self.kept.parts());
        parts.push(("dataset", self.dataset.clone()));
        parts
    }
}

/// [`AnswerKey::check`] of the parts that a run file states.
///
/// # Errors
/// As there.
pub fn check_parts(preprocessing: &Preprocessing, question: &Question, kept: &Kept) -> Result<(), InvalidKey> {
    preprocessing.check()?;
    question.check()?;
    kept.check()?;
    let is_about_objects = matches!(kept, Kept::MaskLogits { .. });
    let goes_together = match question {
        Question::Object { .. } => is_about_objects,
        Question::Image => !is_about_objects,
        Question::Foreign(_) => true,
    };
    if goes_together {
        return Ok(());
    }
    let expected = if is_about_objects { "a question about an object" } else { "the question \"image\"" };
    let expected = format!("{expected} where {} are kept", kept.kind());
    Err(InvalidKey { part: "question", expected, found: question.to_string() })
}

/// Refuses a number that is not finite or not in `[low, high]`. Negative zero is refused: it equals zero and has another digest.
pub(crate) fn check_number(part: &'static str, value: f64, low: f64, high: f64) -> Result<(), InvalidKey> {
    if value >= low && value <= high && !(value == 0.0 && value.is_sign_negative()) {
        return Ok(());
    }
    Err(InvalidKey { part, expected: format!("{low} to {high}"), found: value.to_string() })
}

fn json(part: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(part).expect("strings, numbers, lists and enums have a JSON form")
}

const DIGEST_DOMAIN: &[u8] = b"sensei answer key 2\0";
