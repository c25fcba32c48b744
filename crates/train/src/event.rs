//! What a run tells while it trains; one JSON object each in `events.jsonl`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Training starts, or goes on from a checkpoint.
    Started {
        /// First step that will run.
        step: u64,
        /// Steps of the whole plan.
        total_steps: u64,
        /// Training samples per epoch.
        n_samples: usize,
        /// The devices, the student's own first.
        devices: Vec<String>,
        /// Threads of the CPU's computation: part of what decides the bits.
        threads: usize,
    },
    /// An optimiser step was taken.
    Step {
        /// Steps taken so far, this one included.
        step: u64,
        /// Steps of the whole plan.
        total_steps: u64,
        /// Name of the stage.
        stage: String,
        /// Epoch over all stages, from 0.
        epoch: u64,
        /// The minimised loss, mean over the step's batches.
        loss: f64,
        /// Batch mean of each loss term, unweighted.
        terms: Vec<(String, f64)>,
        /// Learning rate of this step.
        learning_rate: f64,
        /// Global L2 norm of the gradient before clipping; not finite, `null` in JSON, in a skipped step.
        gradient_norm: f64,
        /// Factor of the loss in this step's backward pass, in a run of mixed precision that scales it.
        #[serde(skip_serializing_if = "Option::is_none")]
        loss_scale: Option<f64>,
        /// Steps of the run so far that changed no weight because their 16-bit gradients overflowed.
        #[serde(skip_serializing_if = "Option::is_none")]
        skipped_steps: Option<u64>,
        /// Samples in this step.
        n_samples: usize,
        /// Teacher's predicted IoUs that were clamped to `[0, 1]` in this step.
        clamped_predicted_ious: usize,
    },
    /// An epoch ended.
    Epoch {
        /// Steps taken so far.
        step: u64,
        /// Epoch over all stages, from 0.
        epoch: u64,
        /// Mean loss of its steps since the start or the resume.
        mean_loss: f64,
    },
    /// The student was scored between two epochs.
    Validation {
        /// Steps taken so far.
        step: u64,
        /// Epoch that has just ended.
        epoch: u64,
        /// Mean IoU in the crop over the validation subset.
        mean_iou_in_crop: f64,
        /// Instances scored.
        n_instances: usize,
    },
    /// A checkpoint was written.
    Checkpoint {
        /// Steps it contains.
        step: u64,
        /// The file.
        path: PathBuf,
    },
    /// Training ended: all steps done, or asked to stop.
    Ended {
        /// Steps taken.
        step: u64,
        /// True if it was asked to stop before the last step.
        stopped: bool,
        /// Digest of the resulting tensors of each group of parameters.
        digests: BTreeMap<String, String>,
    },
}
