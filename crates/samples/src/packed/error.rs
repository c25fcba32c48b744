//! What can go wrong with packed samples.

use std::path::PathBuf;

use sensei_files::error::FileError;

use super::key::KeyDifference;

/// Packed samples that cannot be written, opened or trusted, or that lack an instance.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// A file that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The pack is of other samples.
    #[error("{}: packed samples of another kind: {}", path.display(), describe(differences))]
    KeyMismatch {
        /// The file.
        path: PathBuf,
        /// In what the keys differ; not empty.
        differences: Vec<KeyDifference>,
    },
    /// The file is not as its format says, or not as it was written.
    #[error("{}: damaged: {what}: expected {expected}, found {found}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which part of it.
        what: String,
        /// By the format, or as written.
        expected: String,
        /// In the file.
        found: String,
    },
    /// An instance is not in the pack.
    #[error("{}: no packed sample of annotation {annotation_id}", path.display())]
    NoRecord {
        /// The file.
        path: PathBuf,
        /// The instance.
        annotation_id: u64,
    },
    /// A crop needs pixels that were not packed.
    #[error("{}: annotation {annotation_id}: the crop needs {needed}, packed are {packed}", path.display())]
    NotCovered {
        /// The file.
        path: PathBuf,
        /// The instance.
        annotation_id: u64,
        /// Pixels of the image, in words.
        needed: String,
        /// Pixels of the image, in words.
        packed: String,
    },
    /// An image file is not the one that was packed.
    #[error(
        "{}: digest {found}, but an image of digest {expected} is packed in {}; remove the pack, or make it again elsewhere",
        image.display(), path.display()
    )]
    ImageChanged {
        /// The pack.
        path: PathBuf,
        /// The image file.
        image: PathBuf,
        /// Digest in the pack.
        expected: String,
        /// Digest of the file.
        found: String,
    },
    /// An image of the pack is not in the data set.
    #[error("{}: packed image {image_id}: expected an image of {}, found none", path.display(), annotations.display())]
    UnknownImage {
        /// The pack.
        path: PathBuf,
        /// The image's id.
        image_id: u64,
        /// The annotation file.
        annotations: PathBuf,
    },
}

fn describe(differences: &[KeyDifference]) -> String {
    let one = |d: &KeyDifference| format!("{}: expected `{}`, found `{}`", d.part, d.expected, d.found);
    differences.iter().map(one).collect::<Vec<_>>().join("; ")
}
