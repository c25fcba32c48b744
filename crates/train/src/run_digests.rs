//! What decides the trained weights, as digests that can be told apart.

use serde::{Deserialize, Serialize};

/// Digests of everything that decides the trained weights, in 64 hex digits each.
///
/// A checkpoint carries them, and training goes on only from one that has the same: otherwise the refusal names the part
/// that differs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunDigests {
    /// Of the configuration's keys that change the weights.
    pub configuration: String,
    /// Of the weights before the first step.
    pub first_weights: String,
    /// Of the bytes of the training split's annotation file, and of those joined to it.
    pub annotations: String,
    /// Of the keys of the teacher's answers for the training split; `None` for a run that has none.
    pub teacher: Option<String>,
}

/// A part in which two runs differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestMismatch {
    /// Its name, in words.
    pub part: &'static str,
    /// This run's digest, or `none`.
    pub expected: String,
    /// The other's digest, or `none`.
    pub found: String,
}

impl RunDigests {
    /// The first part in which `found` differs from these.
    ///
    /// Causes come before consequences: a seed changes the configuration and the first weights, an annotation file changes
    /// itself and the key of the answers to it.
    pub fn first_mismatch(&self, found: &Self) -> Option<DigestMismatch> {
        let parts = self.parts().into_iter().zip(found.parts());
        let mut mismatches = parts.filter(|((_, expected), (_, found))| expected != found);
        mismatches.next().map(|((part, expected), (_, found))| DigestMismatch {
            part,
            expected: expected.unwrap_or("none").to_string(),
            found: found.unwrap_or("none").to_string(),
        })
    }

    fn parts(&self) -> [(&'static str, Option<&str>); 4] {
        [
            ("configuration", Some(&self.configuration)),
            ("first weights", Some(&self.first_weights)),
            ("annotations", Some(&self.annotations)),
            ("teacher answers", self.teacher.as_deref()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests() -> RunDigests {
        RunDigests {
            configuration: "c".into(),
            first_weights: "w".into(),
            annotations: "a".into(),
            teacher: Some("t".into()),
        }
    }

    #[test]
    fn each_part_is_told_and_the_cause_comes_first() {
        let check = |other: RunDigests, expected: Option<(&str, &str, &str)>| {
            let found = digests().first_mismatch(&other);
            let found = found.as_ref().map(|m| (m.part, m.expected.as_str(), m.found.as_str()));
            assert_eq!(found, expected);
        };
        let other = || "x".to_string();
        check(digests(), None);
        check(
            RunDigests { configuration: other(), first_weights: other(), ..digests() },
            Some(("configuration", "c", "x")),
        );
        check(RunDigests { first_weights: other(), ..digests() }, Some(("first weights", "w", "x")));
        check(RunDigests { annotations: other(), teacher: None, ..digests() }, Some(("annotations", "a", "x")));
        check(RunDigests { teacher: None, ..digests() }, Some(("teacher answers", "t", "none")));
    }
}
