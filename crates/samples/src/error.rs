//! Why a sample cannot be had, with the annotation or file concerned.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sensei_answers::error::CacheError;
use sensei_data::crop_rule::CropError;
use sensei_data::dataset::DatasetError;
use sensei_data::image_file::ImageError;

use crate::packed::error::PackError;
use crate::selection::{LeftOutReason, SelectionError, in_words};

/// A sample, or a whole split, that cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// The caller asked to stop.
    #[error("the check was interrupted")]
    Interrupted,
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
    /// An annotation gives no prompt, or its prompt no crop.
    #[error("sample {annotation_id}: no crop")]
    Crop {
        /// The annotation.
        annotation_id: u64,
        /// Why.
        source: CropError,
    },
    /// The teacher cache has no usable answer.
    #[error("sample {annotation_id}: no teacher answer")]
    Teacher {
        /// The annotation.
        annotation_id: u64,
        /// Why.
        source: CacheError,
    },
    /// The store has no usable features of an image.
    #[error("image {image_id}: no features of the teacher")]
    Features {
        /// The image.
        image_id: u64,
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
    /// An image file is not the one that was decoded before: samples of one run would differ.
    #[error(
        "{path}: digest {found}, but it was {expected} when the file was first read; images must not change during a run"
    )]
    ImageChanged {
        /// The image file.
        path: PathBuf,
        /// Digest when it was first read.
        expected: String,
        /// Digest now.
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
    /// Packed samples that cannot be written, opened or trusted, or that lack an instance.
    #[error(transparent)]
    Packed(#[from] PackError),
    /// Nothing to train or score on.
    #[error("{path}: expected instances to use, found none of {n_instances}; left out: {}", in_words(left_out))]
    NoSamples {
        /// The annotation file.
        path: PathBuf,
        /// Instances in it.
        n_instances: usize,
        /// Why they are left out.
        left_out: BTreeMap<LeftOutReason, usize>,
    },
}
