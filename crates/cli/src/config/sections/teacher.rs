//! `[teacher]`: where the teacher's answers come from.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use schemars::JsonSchema;
use sensei_answers::asked::{Preprocessing, Question};
use sensei_answers::kept::{Kept, RecordKind};
use sensei_answers::key::check_parts;
use serde::{Deserialize, Serialize};

use crate::config::file_path::FilePath;

/// Where the teacher's answers come from.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TeacherToml {
    /// Digest of the teacher's weights; `sensei teacher stats CACHE` prints this and the next three.
    pub digest: String,
    /// How an image became its input.
    pub preprocessing: Preprocessing,
    /// What it was asked.
    pub question: Question,
    /// Which part of its answer is kept.
    pub kept: Kept,
    /// Answers for the training split; needed unless all stages weigh its samples `truth_only` and all instances are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<AnswersToml>,
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
    /// Weights of a teacher that runs here (.safetensors, .pt or .pth; `sensei teacher build --help` names the networks). It is asked the
    /// first time; its answers are kept in `runs/teacher-cache/`.
    Native(FilePath),
    /// A teacher in two ONNX files, which is asked the first time, as `native` is.
    Onnx(OnnxToml),
    /// The place of a sealed store that many machines share, a folder, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or
    /// `az://CONTAINER/PREFIX`: `docs/formats/shared-store.md`. From elsewhere its shards are fetched into `runs/teacher-cache/fetched/`.
    Store(FilePath),
}

/// An image encoder and a decoder in the layout of SAM's exports, and what runs them.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnnxToml {
    /// The image encoder.
    pub encoder: FilePath,
    /// The prompt encoder and mask decoder.
    pub decoder: FilePath,
    /// The library: `libonnxruntime.so.*`, `onnxruntime.dll` or `libonnxruntime.*.dylib`.
    pub onnxruntime: FilePath,
}

/// The teacher's answers for both splits.
pub struct TeacherPlan {
    /// Digest of its weights; a cache of another teacher is refused.
    pub digest: String,
    /// How an image became its input.
    pub preprocessing: Preprocessing,
    /// What it was asked.
    pub question: Question,
    /// Which part of its answer is kept.
    pub kept: Kept,
    /// Answers for the training split, if they are needed.
    pub train: Option<TeacherAnswers>,
    /// Answers for the validation split.
    pub val: TeacherAnswers,
}

/// Where answers lie.
pub enum TeacherAnswers {
    /// In a cache.
    Cache(PathBuf),
    /// In a dump, to be imported.
    Dump(PathBuf),
    /// Nowhere yet: the teacher of these files is asked.
    Asked(TeacherFiles),
    /// In a shared store of this address.
    Store(PathBuf),
}

/// The files of a teacher that can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TeacherFiles {
    /// Weights of a network that runs here.
    Native(PathBuf),
    /// Two ONNX files.
    Onnx {
        /// The image encoder.
        encoder: PathBuf,
        /// The prompt encoder and mask decoder.
        decoder: PathBuf,
        /// The library that runs them.
        onnxruntime: PathBuf,
    },
}

impl TeacherFiles {
    /// All of them.
    pub fn paths(&self) -> Vec<&Path> {
        match self {
            Self::Native(weights) => vec![weights],
            Self::Onnx { encoder, decoder, onnxruntime } => vec![encoder, decoder, onnxruntime],
        }
    }
}

impl fmt::Display for TeacherFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native(weights) => write!(f, "{}", weights.display()),
            Self::Onnx { encoder, decoder, .. } => write!(f, "{}, {}", encoder.display(), decoder.display()),
        }
    }
}

impl AnswersToml {
    /// Where the answers lie.
    pub fn resolve(self) -> TeacherAnswers {
        match self {
            Self::Cache(path) => TeacherAnswers::Cache(path.0),
            Self::Dump(path) => TeacherAnswers::Dump(path.0),
            Self::Native(path) => TeacherAnswers::Asked(TeacherFiles::Native(path.0)),
            Self::Onnx(OnnxToml { encoder, decoder, onnxruntime }) => TeacherAnswers::Asked(TeacherFiles::Onnx {
                encoder: encoder.0,
                decoder: decoder.0,
                onnxruntime: onnxruntime.0,
            }),
            Self::Store(path) => TeacherAnswers::Store(path.0),
        }
    }
}

impl TeacherToml {
    /// The plan's teacher.
    ///
    /// # Errors
    /// If a number is out of range, or what is kept is not what the losses compare with.
    pub fn resolve(self) -> anyhow::Result<TeacherPlan> {
        let Self { digest, preprocessing, question, kept, train, val } = self;
        check_parts(&preprocessing, &question, &kept).context("[teacher]")?;
        ensure!(
            kept.kind() == RecordKind::MaskLogits,
            "[teacher] kept: expected mask_logits, which the losses compare with, found {}",
            kept.kind()
        );
        let train = train.map(AnswersToml::resolve);
        Ok(TeacherPlan { digest, preprocessing, question, kept, train, val: val.resolve() })
    }
}
