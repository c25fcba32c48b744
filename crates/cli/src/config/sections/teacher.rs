//! `[teacher]`: where the teacher's answers come from.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::file_path::FilePath;

/// Where the teacher's answers come from.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TeacherToml {
    /// Digest of the teacher's weights, word for word as in the cache; `sensei teacher stats CACHE` prints it.
    pub digest: String,
    /// How an image became its input, word for word as in the cache.
    pub preprocessing: String,
    /// What it was asked and what was kept, word for word as in the cache.
    pub prompt: String,
    /// Answers for the training split.
    pub train: AnswersToml,
    /// Answers for the validation split.
    pub val: AnswersToml,
}

/// Where answers lie.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum AnswersToml {
    /// A cache's folder: `docs/formats/teacher-cache.md`.
    Cache(FilePath),
    /// A dump, imported into `runs/teacher-cache/` the first time: `docs/formats/teacher-dump.md`.
    Dump(FilePath),
}

/// The teacher's answers for both splits.
pub struct TeacherPlan {
    /// Digest of its weights; a cache of another teacher is refused.
    pub digest: String,
    /// How an image became its input, in the words of the cache.
    pub preprocessing: String,
    /// What it was asked, in the words of the cache.
    pub prompt: String,
    /// Answers for the training split.
    pub train: TeacherAnswers,
    /// Answers for the validation split.
    pub val: TeacherAnswers,
}

/// Where answers lie.
pub enum TeacherAnswers {
    /// In a cache.
    Cache(PathBuf),
    /// In a dump, to be imported.
    Dump(PathBuf),
}

impl TeacherToml {
    /// The plan's teacher.
    pub fn resolve(self) -> TeacherPlan {
        let answers = |answers: AnswersToml| match answers {
            AnswersToml::Cache(path) => TeacherAnswers::Cache(path.0),
            AnswersToml::Dump(path) => TeacherAnswers::Dump(path.0),
        };
        TeacherPlan {
            digest: self.digest,
            preprocessing: self.preprocessing,
            prompt: self.prompt,
            train: answers(self.train),
            val: answers(self.val),
        }
    }
}
