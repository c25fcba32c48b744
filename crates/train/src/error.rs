//! What can go wrong in a run, with the sample or file concerned.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use sensei_data::dataset::DatasetError;
use sensei_data::image_file::ImageError;
use sensei_data::prompt::PromptError;
use sensei_eval::evaluate::{EvalError, LeftOutReason};
use sensei_eval::protocol::SelectionError;
use sensei_quant::error::QuantError;
use sensei_student::weights::WeightsError;
use sensei_answers::error::CacheError;

/// A run that cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// An image could not be read or decoded.
    #[error("sample {annotation_id}: cannot read its image")]
    Image {
        /// The annotation.
        annotation_id: u64,
        /// Why.
        source: ImageError,
    },
    /// An annotation has no usable mask.
    #[error("sample {annotation_id}: cannot read its mask")]
    Mask {
        /// The annotation.
        annotation_id: u64,
        /// Why.
        source: DatasetError,
    },
    /// The data set is not as large as a protocol's subset.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// A prompt could not be made from an annotation.
    #[error("sample {annotation_id}: no prompt")]
    Prompt {
        /// The annotation.
        annotation_id: u64,
        /// Why.
        source: PromptError,
    },
    /// The teacher cache has no usable answer.
    #[error("sample {annotation_id}: no teacher answer")]
    Teacher {
        /// The annotation.
        annotation_id: u64,
        /// Why.
        source: CacheError,
    },
    /// The teacher answered on another image file than the one in the data set.
    #[error("{path}: digest {found}, but the teacher answered on an image of digest {expected}")]
    OtherImage {
        /// The image file.
        path: PathBuf,
        /// Digest in the cache.
        expected: String,
        /// Digest of the file.
        found: String,
    },
    /// An image file has another size than its annotation says.
    #[error("{path}: annotated as {expected}, decoded as {found}")]
    ImageSize {
        /// The image file.
        path: PathBuf,
        /// Size in the annotation file.
        expected: String,
        /// Size of the file.
        found: String,
    },
    /// Nothing to train or score on.
    #[error("{path}: expected instances to use, found none of {n_instances}; left out: {left_out:?}")]
    NoSamples {
        /// The annotation file.
        path: PathBuf,
        /// Instances in it.
        n_instances: usize,
        /// Why they are left out.
        left_out: BTreeMap<LeftOutReason, usize>,
    },
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
    /// A checkpoint of another run.
    #[error("{path}: checkpoint of {what} {found}, this run has {expected}")]
    OtherCheckpoint {
        /// The checkpoint.
        path: PathBuf,
        /// `plan` or `student`.
        what: &'static str,
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
    /// Weights that do not fit the student.
    #[error("the weights do not fit the student")]
    Weights {
        /// Which and why.
        source: Box<WeightsError>,
    },
    /// A student that cannot be put on the chip's grid.
    #[error("the student cannot be quantized")]
    Quantize {
        /// Why.
        source: Box<QuantError>,
    },
    /// A prediction that cannot be scored.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A predictor that cannot answer.
    #[error("predictor {predictor}: cannot answer")]
    Predict {
        /// Its name.
        predictor: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file could not be read or written.
    #[error("{path}: cannot {action}")]
    Io {
        /// The file.
        path: PathBuf,
        /// `read`, `write`, ...
        action: &'static str,
        /// Why.
        source: io::Error,
    },
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

impl From<QuantError> for TrainError {
    fn from(source: QuantError) -> Self {
        TrainError::Quantize { source: Box::new(source) }
    }
}

impl From<WeightsError> for TrainError {
    fn from(source: WeightsError) -> Self {
        TrainError::Weights { source: Box::new(source) }
    }
}
