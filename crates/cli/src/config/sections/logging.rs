//! `[logging]`: what changes speed, log and files, but no number.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::file_path::FilePath;

/// What changes speed, log and files, but no number.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoggingToml {
    /// Steps between lines on the screen and in `events.jsonl`.
    #[schemars(range(min = 1))]
    pub log_every_steps: u64,
    /// Steps between checkpoints; the last step always has one.
    #[schemars(range(min = 1))]
    pub checkpoint_every_steps: u64,
    /// Newest checkpoints kept.
    #[schemars(range(min = 1, max = 1000))]
    pub keep_checkpoints: usize,
    /// Epochs between scores during training; 0: none.
    pub validate_every_epochs: u64,
    /// Validation instances scored then.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub validate_instances: usize,
    /// Threads that prepare samples.
    #[schemars(range(min = 1, max = 256))]
    pub data_threads: usize,
    /// GiB of shards that are kept in `runs/teacher-cache/fetched/`, of stores elsewhere. Less than the answers take means that they are
    /// fetched again in every epoch.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub fetched_shards_gib: u64,
    /// Whether training and the run's own scores take their samples from image files, or packed, without decoding an image. They are the
    /// same, bit for bit.
    pub packed_samples: PackedSamplesToml,
}

/// Where samples come from: `docs/formats/packed-samples.md`.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PackedSamplesToml {
    /// Packed, if `sensei data pack` or a run has packed just these into `runs/packed/`.
    #[default]
    IfMade,
    /// Packed, into `runs/packed/` the first time.
    Make,
    /// From image files.
    Never,
    /// Packed, in a folder of `sensei data pack --out`; others than these samples are refused.
    Folder(FilePath),
}

/// What changes the log and the files, but no number.
#[derive(Debug, Clone)]
pub struct LoggingPlan {
    /// Steps between events on the screen and in the log.
    pub log_every_steps: u64,
    /// Steps between checkpoints.
    pub checkpoint_every_steps: u64,
    /// Newest checkpoints kept.
    pub keep_checkpoints: usize,
    /// Epochs between scores during training; 0 for none.
    pub validate_every_epochs: u64,
    /// Validation instances scored then.
    pub validate_instances: usize,
    /// Threads that prepare samples.
    pub data_threads: usize,
    /// GiB of fetched shards that are kept.
    pub fetched_shards_gib: u64,
    /// Where samples come from.
    pub packed_samples: PackedSamplesPlan,
}

/// Where samples come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackedSamplesPlan {
    /// Packed, if that was done.
    IfMade,
    /// Packed, now if need be.
    Make,
    /// From image files.
    Never,
    /// Packed, in a folder with one for each split.
    Folder(PathBuf),
}

impl LoggingToml {
    /// The plan of the logs.
    pub fn resolve(self) -> LoggingPlan {
        let Self {
            log_every_steps,
            checkpoint_every_steps,
            keep_checkpoints,
            validate_every_epochs,
            validate_instances,
            data_threads,
            fetched_shards_gib,
            packed_samples,
        } = self;
        let packed_samples = match packed_samples {
            PackedSamplesToml::IfMade => PackedSamplesPlan::IfMade,
            PackedSamplesToml::Make => PackedSamplesPlan::Make,
            PackedSamplesToml::Never => PackedSamplesPlan::Never,
            PackedSamplesToml::Folder(folder) => PackedSamplesPlan::Folder(folder.0),
        };
        LoggingPlan {
            log_every_steps,
            checkpoint_every_steps,
            keep_checkpoints,
            validate_every_epochs,
            validate_instances,
            data_threads,
            fetched_shards_gib,
            packed_samples,
        }
    }
}

impl Default for LoggingToml {
    fn default() -> Self {
        Self {
            log_every_steps: 10,
            checkpoint_every_steps: 500,
            keep_checkpoints: 2,
            validate_every_epochs: 0,
            validate_instances: 128,
            data_threads: 1,
            fetched_shards_gib: 64,
            packed_samples: PackedSamplesToml::IfMade,
        }
    }
}
