//! Why a teacher could not be asked.

use std::path::PathBuf;

use sensei_answers::error::CacheError;
use sensei_data::dataset::DatasetError;
use sensei_data::image_file::ImageError;
use sensei_sam::error::SamError;

use crate::onnx_error::OnnxError;

/// An annotation that the teacher cannot be asked about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{annotation_id} ({reason})")]
pub struct BadAnnotation {
    /// The annotation.
    pub annotation_id: u64,
    /// Why.
    pub reason: String,
}

/// A build that ended before its end. What it had written is gone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TeacherError {
    /// What is kept is nothing that this teacher answers.
    #[error("{what}: expected {expected}, found {found}")]
    Question {
        /// Which part of the question.
        what: &'static str,
        /// What the teacher can answer.
        expected: String,
        /// What was asked.
        found: String,
    },
    /// A file of weights that no network here has.
    #[error(
        "{origin}: expected the tensors of MobileSAM, EfficientSAM-Ti or -S, or SAM 2.1 Tiny, Small, Base+ or Large under their published names, \
         found none of their first layers"
    )]
    UnknownNetwork {
        /// The file.
        origin: String,
    },
    /// Weights that are not those of the network that their names tell.
    #[error("taken for {taken_for}: {source}")]
    Weights {
        /// The network.
        taken_for: &'static str,
        /// What is wrong with them.
        source: SamError,
    },
    /// A pair of ONNX files or the onnxruntime for it.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// An image cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An image is not of the size that the annotations say.
    #[error("{}: expected {expected} pixels, as annotated, found {found}", path.display())]
    ImageSize {
        /// The file.
        path: PathBuf,
        /// By the annotations.
        expected: String,
        /// In the file.
        found: String,
    },
    /// More images cannot be used than are allowed, or none can.
    #[error(
        "{} of {n_images} images so far cannot be used, at most {allowed} are allowed: {}", reasons.len(), reasons.join("; ")
    )]
    Failures {
        /// What is wrong with each.
        reasons: Vec<String>,
        /// Images asked about.
        n_images: usize,
        /// How many may fail.
        allowed: usize,
    },
    /// An annotated mask cannot be read.
    #[error(transparent)]
    Mask(#[from] DatasetError),
    /// Annotations that the teacher cannot be asked about.
    #[error("annotations that cannot be asked about: {}", annotations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Annotations {
        /// Each, with the reason.
        annotations: Vec<BadAnnotation>,
    },
    /// The teacher answered with numbers that are none.
    #[error("{subject}: expected finite {what} of the teacher, found {found}")]
    NotFinite {
        /// The annotation or image.
        subject: String,
        /// Logits, predicted IoU or features.
        what: &'static str,
        /// The first such number.
        found: f32,
    },
    /// The cache cannot be written.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The data set has nothing to ask about.
    #[error("{}: expected objects that are not crowd regions, found none", path.display())]
    Nothing {
        /// The annotation file.
        path: PathBuf,
    },
    /// The caller asked to stop.
    #[error("asking the teacher was interrupted")]
    Interrupted,
}
