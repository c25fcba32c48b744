//! What can go wrong with a cache.

use std::path::PathBuf;

use sensei_files::error::FileError;

use crate::key::KeyDifference;

/// A cache that cannot be written, opened or trusted, or that lacks an answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// A file that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no finished cache at this place.
    #[error("{path}: no teacher cache: expected a folder with manifest.json")]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// A cache, or anything else, is already there: caches are never changed.
    #[error("{path}: already exists; a teacher cache is never changed, choose another folder or remove this one")]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// Another process is writing this cache.
    #[error("{path}: another writer is at work here")]
    Busy {
        /// Its temporary folder.
        path: PathBuf,
    },
    /// The cache answers another question than this run asks.
    #[error("{path}: stale teacher cache: {}", describe(differences))]
    KeyMismatch {
        /// The cache.
        path: PathBuf,
        /// In what the keys differ; not empty.
        differences: Vec<KeyDifference>,
    },
    /// A file is not as its format says, or not as it was written.
    #[error("{path}: damaged: {what}: expected {expected}, found {found}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which part of it.
        what: String,
        /// By the format or the manifest.
        expected: String,
        /// In the file.
        found: String,
    },
    /// The cache holds no answer for an instance.
    #[error("{path}: no teacher answer for annotation {annotation_id}")]
    NoRecord {
        /// The cache.
        path: PathBuf,
        /// The instance.
        annotation_id: u64,
    },
    /// A record was given to the writer twice.
    #[error("{path}: annotation {annotation_id} is given twice")]
    Duplicate {
        /// The cache.
        path: PathBuf,
        /// The instance.
        annotation_id: u64,
    },
    /// A record that no cache can hold.
    #[error("annotation {annotation_id}: {what}: expected {expected}, found {found}")]
    InvalidRecord {
        /// The instance.
        annotation_id: u64,
        /// Which field.
        what: &'static str,
        /// What is allowed.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// A crop asks for a part of the image of which the teacher's answer was not kept.
    #[error(
        "annotation {annotation_id}: the crop needs the teacher's answer in {needed}, the cache has only {stored}: less \
         jitter, or a cache with a larger context"
    )]
    NotCovered {
        /// The instance.
        annotation_id: u64,
        /// Part of the crop inside the image, as `x0,y0..x1,y1`.
        needed: String,
        /// Area of the record, as `x0,y0..x1,y1`.
        stored: String,
    },
}

fn describe(differences: &[KeyDifference]) -> String {
    let one = |d: &KeyDifference| format!("{}: expected `{}`, found `{}`", d.part, d.expected, d.found);
    differences.iter().map(one).collect::<Vec<_>>().join("; ")
}
