//! `[logging]`: what changes speed, log and files, but no number.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
}

/// What changes the log and the files, but no number.
#[derive(Debug, Clone, Copy)]
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
}

impl LoggingToml {
    /// The plan of the logs.
    pub fn resolve(&self) -> LoggingPlan {
        let &Self {
            log_every_steps,
            checkpoint_every_steps,
            keep_checkpoints,
            validate_every_epochs,
            validate_instances,
            data_threads,
            fetched_shards_gib,
        } = self;
        LoggingPlan {
            log_every_steps,
            checkpoint_every_steps,
            keep_checkpoints,
            validate_every_epochs,
            validate_instances,
            data_threads,
            fetched_shards_gib,
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
        }
    }
}
