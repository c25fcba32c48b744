//! What can go wrong in a run, with the sample or file concerned.

use std::path::PathBuf;

use sensei_files::error::FileError;
use sensei_samples::error::SampleError;
use sensei_tensor::network::NetworkError;

/// A run that cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A sample that cannot be had.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// A batch from which a batch norm of the student could not take a variance.
    #[error(
        "batch_size: the last of {n_samples} samples are a batch of {found}, this student needs at least {expected} in each"
    )]
    BatchTooSmall {
        /// Fewest samples of a batch, see `LayerGraph::min_train_batch`.
        expected: usize,
        /// Samples in the smallest batch of an epoch.
        found: usize,
        /// Training samples.
        n_samples: usize,
    },
    /// A loss or a gradient is not a finite number.
    #[error("step {step}: {what} is {value}; samples {annotation_ids:?}")]
    NotFinite {
        /// The optimiser step.
        step: u64,
        /// The loss term or the tensor whose gradient it is.
        what: String,
        /// NaN or an infinity.
        value: f64,
        /// The annotations in the batch.
        annotation_ids: Vec<u64>,
    },
    /// Prompts for a network that answers none.
    #[error("expected a network that answers prompts, found one that sees crops")]
    NotPromptable,
    /// Boxes of a network that proposes none.
    #[error("expected a network that proposes boxes, found one that does not")]
    NoProposals,
    /// Masked images for a network that reconstructs none, or a stage that does not say how much is hidden.
    #[error("expected a network that reconstructs masked images, found another")]
    NotMasked,
    /// A stage that asks a teacher in the loop where there is none.
    #[error("stage {stage:?}: expected a teacher to ask in the loop, found none")]
    NoTeacher {
        /// The stage.
        stage: String,
    },
    /// A stage that reads the teacher's features where there are none.
    #[error("image {image_id}: expected features of the teacher, found none")]
    NoFeatures {
        /// The image.
        image_id: u64,
    },
    /// A checkpoint of another run.
    #[error("{path}: checkpoint of a run that differs in its {part}: expected {expected}, found {found}")]
    OtherCheckpoint {
        /// The checkpoint.
        path: PathBuf,
        /// The part that differs: `network`, or one of [`RunDigests`](crate::run_digests::RunDigests).
        part: &'static str,
        /// This run's digest.
        expected: String,
        /// The checkpoint's digest.
        found: String,
    },
    /// A checkpoint that lacks a tensor or has one too many.
    #[error("{path}: {problem}")]
    BrokenCheckpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A network that cannot do what the plan asks of it.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A stage that cannot begin.
    #[error("stage {stage}: cannot begin")]
    Stage {
        /// The stage.
        stage: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A stage that trains a group that the network does not have.
    #[error("stage {stage}: trains {group:?}, expected one of the network's groups: {}", groups.join(", "))]
    NoSuchGroup {
        /// The stage.
        stage: String,
        /// The group.
        group: String,
        /// Those that there are.
        groups: Vec<String>,
    },
    /// A stage that trains nothing.
    #[error("stage {stage}: expected a group to train, found all frozen: {}", groups.join(", "))]
    NothingTrained {
        /// The stage.
        stage: String,
        /// The groups that there are.
        groups: Vec<String>,
    },
    /// Features of the teacher that the images do not have.
    #[error("features of the teacher at {name:?}: expected stored ones of every image, found none")]
    NoTap {
        /// The teacher's tap.
        name: String,
    },
    /// A term that adapts features, of a network that has no adapters.
    #[error("a loss that adapts features: expected a network with adapters, found none")]
    NoAdapters,
    /// A file that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The thread that loads samples is gone without a word: a fault of this program.
    #[error("the sample loader stopped unexpectedly")]
    LoaderGone,
    /// Scoring between epochs failed.
    #[error("validation failed")]
    Validation {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
