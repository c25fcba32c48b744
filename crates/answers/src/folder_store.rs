//! A cache in a folder, memory-mapped.

use std::borrow::Cow;
use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sensei_files::digest::hex;
use sensei_files::error::FileError;

use crate::error::CacheError;
use crate::key::AnswerKey;
use crate::manifest::{FORMAT_VERSION, FileEntry, Manifest, read_manifest};
use crate::record::RecordId;
use crate::record_bytes::START_BYTES;
use crate::shard::{HEADER_BYTES, Header, INDEX_ENTRY_BYTES, INDEX_MAGIC, IndexEntry, SHARD_MAGIC};
use crate::store::{Store, StoredRecord};

/// An open cache.
#[derive(Debug)]
pub struct FolderStore {
    path: PathBuf,
    manifest: Manifest,
    index: Mmap,
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
        self.entries().iter().map(IndexEntry::from_bytes)
    }

    fn entries(&self) -> &[[u8; INDEX_ENTRY_BYTES]] {
        self.index[HEADER_BYTES..].as_chunks().0
    }

    fn entry(&self, id: u64) -> Option<IndexEntry> {
        let entries = self.entries();
        let idx = entries.binary_search_by_key(&id, |entry| IndexEntry::from_bytes(entry).id).ok()?;
        Some(IndexEntry::from_bytes(&entries[idx]))
    }

    fn open_manifest(path: &Path, manifest: Manifest) -> Result<Self, CacheError> {
        let key_digest = manifest.key.digest();
        let header = |magic, n_records| Header { magic, version: FORMAT_VERSION, key_digest, n_records };
        let index = map(path, &manifest.index)?;
        let index_path = path.join(&manifest.index.file);
        header(INDEX_MAGIC, manifest.n_records).check(&index_path, &index)?;
        let mut shards = Vec::with_capacity(manifest.shards.len());
        for entry in &manifest.shards {
            let (shard_path, shard) = (path.join(&entry.file), map(path, entry)?);
            header(SHARD_MAGIC, entry.n_records).check(&shard_path, &shard)?;
            shards.push((shard_path, shard));
        }
        let store = FolderStore { path: path.into(), manifest, index, shards };
        store.check_index(&index_path)?;
        Ok(store)
    }

    /// Holds the index to what reading a record relies on: digest, size, order, and places inside of the shards.
    fn check_index(&self, path: &Path) -> Result<(), CacheError> {
        let damaged = |what: String, expected: String, found: String| {
            Err(CacheError::Damaged { path: path.into(), what, expected, found })
        };
        let digest = hex(blake3::hash(&self.index).as_bytes());
        if digest != self.manifest.index.blake3 {
            return damaged("digest".into(), self.manifest.index.blake3.clone(), digest);
        }
        let expected = (self.manifest.n_records as usize).checked_mul(INDEX_ENTRY_BYTES);
        if expected != Some(self.index.len() - HEADER_BYTES) {
            let n_records = self.manifest.n_records;
            return damaged("size".into(), format!("{n_records} entries"), format!("{} bytes", self.index.len()));
        }
        let mut previous = None;
        for IndexEntry { id, shard_idx, n_bytes, offset } in self.index_entries() {
            if let Some(previous) = previous.filter(|&previous| previous >= id) {
                return damaged("order".into(), "ascending ids".into(), format!("{id} after {previous}"));
            }
            previous = Some(id);
            let shard_bytes = self.shards.get(shard_idx as usize).map_or(0, |(_, shard)| shard.len() as u64);
            let is_inside = offset.checked_add(u64::from(n_bytes)).is_some_and(|end| end <= shard_bytes);
            if !is_inside || offset < HEADER_BYTES as u64 || (n_bytes as usize) < START_BYTES {
                let record = RecordId { kind: self.manifest.key.kept.kind(), id };
                let found = format!("{n_bytes} bytes at {offset} of shard {shard_idx}");
                return damaged(record.to_string(), "a place in a shard".into(), found);
            }
        }
        Ok(())
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
        self.entry(id).is_some()
    }

    fn stored(&self, id: u64) -> Result<Option<StoredRecord<'_>>, CacheError> {
        let Some(IndexEntry { shard_idx, n_bytes, offset, .. }) = self.entry(id) else { return Ok(None) };
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
