//! What can go wrong with a cache.

use std::path::PathBuf;

use sensei_files::error::FileError;
use sensei_store::error::StoreError;

use crate::kept::RecordKind;
use crate::key::{InvalidKey, KeyDifference};
use crate::record::{RecordFault, RecordId};

/// A cache that cannot be written, opened or trusted, or that lacks an answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// A file that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// An object of a shared store that cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody has begun to fill a store here.
    #[error("{}: no shared store: expected one that `sensei teacher build --store` has begun{}", place.display(), expected_key(key))]
    NotBegun {
        /// The place.
        place: PathBuf,
        /// The folder of the key that was asked for, if one was.
        key: Option<String>,
    },
    /// A place holds several stores, and none was named.
    #[error("{}: expected one shared store, found {}: name one of them by its folder", place.display(), keys.join(", "))]
    SeveralStores {
        /// The place.
        place: PathBuf,
        /// Their folders.
        keys: Vec<String>,
    },
    /// A worker would fill the store otherwise than the one that began it.
    #[error(
        "{}: the store was begun with other settings: {what}: expected {expected}, found {found}; a worker with these settings \
         needs another place", place.display()
    )]
    OtherPlan {
        /// The store.
        place: PathBuf,
        /// In what they differ.
        what: &'static str,
        /// By the store's plan.
        expected: String,
        /// Of this worker.
        found: String,
    },
    /// Units of a store that are not there.
    #[error(
        "{}: {n_missing} of {n_units} units are missing, the first of them {first} (number {first_idx}); more workers of the same \
         command fill them", place.display()
    )]
    Incomplete {
        /// The store.
        place: PathBuf,
        /// How many are missing.
        n_missing: usize,
        /// How many it will have.
        n_units: usize,
        /// The first missing one.
        first: String,
        /// Its number, from 0.
        first_idx: usize,
    },
    /// A store that is being filled, where a finished one is needed.
    #[error("{}: expected a sealed store, found one that is not; `sensei teacher seal` ends it", place.display())]
    NotSealed {
        /// The store.
        place: PathBuf,
    },
    /// More images could not be used than are allowed.
    #[error("{}: {} images could not be used, at most {allowed} are allowed: {}", place.display(), reasons.len(), reasons.join("; "))]
    Unusable {
        /// The store.
        place: PathBuf,
        /// Each with its unit and the reason.
        reasons: Vec<String>,
        /// How many may fail.
        allowed: usize,
    },
    /// A shard is larger than the room for shards.
    #[error("{}: {bytes} bytes; expected at most {room}, which is the room for shards that are fetched", path.display())]
    NoRoom {
        /// The shard.
        path: PathBuf,
        /// Its length.
        bytes: u64,
        /// Bytes allowed.
        room: u64,
    },
    /// There is no finished cache at this place.
    #[error("{path}: no teacher cache: expected a folder with manifest.json")]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// The cache is of a format that is only read to be converted.
    #[error(
        "{path}: expected a teacher cache of format {expected}, found format {found}; `sensei teacher import {path} ANNOTATIONS \
         IMAGES NEW` converts it"
    )]
    OldFormat {
        /// The folder.
        path: PathBuf,
        /// What this version reads.
        expected: u32,
        /// What the cache is.
        found: u32,
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
    /// A key that no cache can have.
    #[error("{path}: no teacher cache can have this key")]
    InvalidKey {
        /// The cache.
        path: PathBuf,
        /// Which part, and why.
        source: InvalidKey,
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
    /// The cache holds no answer about an object or an image.
    #[error("{path}: no teacher answer for {record}")]
    NoRecord {
        /// The cache.
        path: PathBuf,
        /// What was asked for.
        record: RecordId,
    },
    /// The cache holds answers of another kind than is asked for.
    #[error("{path}: expected a teacher cache of {expected}, found one of {found}")]
    OtherKind {
        /// The cache.
        path: PathBuf,
        /// What was asked for.
        expected: RecordKind,
        /// What it holds.
        found: RecordKind,
    },
    /// A record was given to the writer twice.
    #[error("{path}: {record} is given twice")]
    Duplicate {
        /// The cache.
        path: PathBuf,
        /// Whose.
        record: RecordId,
    },
    /// A record that no cache, or none of this key, can hold.
    #[error("{record}: no record of this cache")]
    InvalidRecord {
        /// Whose.
        record: RecordId,
        /// Which field, and why.
        source: RecordFault,
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

fn expected_key(key: &Option<String>) -> String {
    key.as_ref().map_or_else(String::new, |key| format!(", with this key in the folder {key}"))
}

fn describe(differences: &[KeyDifference]) -> String {
    let one = |d: &KeyDifference| format!("{}: expected `{}`, found `{}`", d.part, d.expected, d.found);
    differences.iter().map(one).collect::<Vec<_>>().join("; ")
}
