//! A cache in a folder, memory-mapped.

use std::borrow::Cow;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sensei_files::error::FileError;
use sensei_store::place::Place;

use crate::error::CacheError;
use crate::index::Index;
use crate::key::AnswerKey;
use crate::manifest::{FORMAT_VERSION, FileEntry, Manifest, read_manifest};
use crate::shard::{HEADER_BYTES, Header, IndexEntry, SHARD_MAGIC};
use crate::shared::fetched_store::of_key;
use crate::shared::seal::sealed_manifest;
use crate::shared::{folder_of, store_of};
use crate::store::{Store, StoredRecord};

/// An open cache.
#[derive(Debug)]
pub struct FolderStore {
    path: PathBuf,
    manifest: Manifest,
    index: Index<Mmap>,
    shards: Vec<(PathBuf, Mmap)>,
}

impl FolderStore {
    /// Opens the cache in the folder `path`, which must answer to the key `expected`.
    ///
    /// Checked here: manifest, the whole index, and each shard's size and header. Records are checked as they are read.
    ///
    /// # Errors
    /// `Missing`, `OldFormat`, `KeyMismatch` naming the parts, `Damaged`, `File`.
    pub fn open(path: &Path, expected: &AnswerKey) -> Result<Self, CacheError> {
        let manifest = read_manifest(path)?;
        let differences = expected.differences(&manifest.key);
        if !differences.is_empty() {
            return Err(CacheError::KeyMismatch { path: path.into(), differences });
        }
        Self::open_manifest(path, manifest)
    }

    /// Opens the sealed store of the key `expected` in `place`, which is the folder `path`: it is a cache.
    ///
    /// # Errors
    /// As [`open`](Self::open); `NotBegun`, `NotSealed`.
    pub fn open_sealed(place: &Place, path: &Path, expected: &AnswerKey) -> Result<Self, CacheError> {
        sealed_manifest(&store_of(place, expected)).map_err(|error| of_key(place, expected, error))?;
        Self::open(&path.join(folder_of(expected)), expected)
    }

    /// Opens the cache in the folder `path`, whatever its key: for tools that describe caches.
    ///
    /// # Errors
    /// `Missing`, `OldFormat`, `Damaged`, `File`.
    pub fn open_any(path: &Path) -> Result<Self, CacheError> {
        Self::open_manifest(path, read_manifest(path)?)
    }

    pub(crate) fn shards(&self) -> &[(PathBuf, Mmap)] {
        &self.shards
    }

    pub(crate) fn index_entries(&self) -> impl ExactSizeIterator<Item = IndexEntry> {
        self.index.entries()
    }

    fn open_manifest(path: &Path, manifest: Manifest) -> Result<Self, CacheError> {
        let key_digest = manifest.key.digest();
        let mut shards = Vec::with_capacity(manifest.shards.len());
        for entry in &manifest.shards {
            let (shard_path, shard) = (path.join(&entry.file), map(path, entry)?);
            let header = Header { magic: SHARD_MAGIC, version: FORMAT_VERSION, key_digest, n_records: entry.n_records };
            header.check(&shard_path, &shard)?;
            shards.push((shard_path, shard));
        }
        let index = Index::open(&path.join(&manifest.index.file), map(path, &manifest.index)?, &manifest)?;
        Ok(FolderStore { path: path.into(), manifest, index, shards })
    }
}

impl Store for FolderStore {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn location(&self) -> &Path {
        &self.path
    }

    fn ids(&self) -> Vec<u64> {
        self.index_entries().map(|entry| entry.id).collect()
    }

    fn contains(&self, id: u64) -> bool {
        self.index.entry(id).is_some()
    }

    fn stored(&self, id: u64) -> Result<Option<StoredRecord<'_>>, CacheError> {
        let Some(IndexEntry { shard_idx, n_bytes, offset, .. }) = self.index.entry(id) else { return Ok(None) };
        let (place, shard) = &self.shards[shard_idx as usize];
        let bytes = &shard[offset as usize..][..n_bytes as usize];
        Ok(Some(StoredRecord { bytes: Cow::Borrowed(bytes), place }))
    }
}

/// Maps a file of the cache, which must have the length that the manifest gives.
fn map(cache: &Path, entry: &FileEntry) -> Result<Mmap, CacheError> {
    let path = cache.join(&entry.file);
    let io = |source| CacheError::from(FileError::io(&path, "open")(source));
    let file = File::open(&path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    if bytes != entry.bytes || bytes < HEADER_BYTES as u64 {
        let (expected, found) = (format!("{} bytes", entry.bytes.max(HEADER_BYTES as u64)), format!("{bytes} bytes"));
        return Err(CacheError::Damaged { path, what: "size".into(), expected, found });
    }
    // SAFETY: files of a finished cache are never written again (the writer refuses to touch an existing cache). Cutting
    // a file behind our back would kill the process with SIGBUS, as with every mapped file; it cannot corrupt memory.
    unsafe { Mmap::map(&file) }.map_err(io)
}
