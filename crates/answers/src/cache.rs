//! Reading a cache.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sensei_files::error::FileError;

use crate::error::CacheError;
use crate::key::CacheKey;
use crate::manifest::{FileEntry, Manifest, read_manifest};
use crate::record::TeacherRecord;
use crate::record_bytes::{self, RECORD_HEADER_BYTES};
use crate::shard::{HEADER_BYTES, INDEX_ENTRY_BYTES, INDEX_MAGIC, IndexEntry, SHARD_MAGIC, check_header};
use sensei_files::digest::hex;

/// An open, memory-mapped cache. It can be read from many threads at once.
#[derive(Debug)]
pub struct Cache {
    path: PathBuf,
    manifest: Manifest,
    index: Mmap,
    shards: Vec<Mmap>,
}

impl Cache {
    /// Opens the cache in the folder `path`, which must answer to the key `expected`.
    ///
    /// Checked here: manifest, the whole index, and each shard's size and header. Records are checked as they are read.
    ///
    /// # Errors
    /// `Missing`, `KeyMismatch` naming the parts, `Damaged`, `Io`.
    pub fn open(path: &Path, expected: &CacheKey) -> Result<Self, CacheError> {
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
    /// `Missing`, `Damaged`, `Io`.
    pub fn open_any(path: &Path) -> Result<Self, CacheError> {
        Self::open_manifest(path, read_manifest(path)?)
    }

    /// What the cache holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.entries().len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The instances with a record, ascending.
    pub fn annotation_ids(&self) -> impl ExactSizeIterator<Item = u64> {
        self.entries().iter().map(|entry| IndexEntry::from_bytes(entry).annotation_id)
    }

    /// Whether there is a record for an instance.
    pub fn contains(&self, annotation_id: u64) -> bool {
        self.entries().binary_search_by_key(&annotation_id, |entry| IndexEntry::from_bytes(entry).annotation_id).is_ok()
    }

    /// The teacher's answer for an instance.
    ///
    /// # Errors
    /// `NoRecord`, or `Damaged` if the record's bytes are not as they were written.
    pub fn get(&self, annotation_id: u64) -> Result<TeacherRecord, CacheError> {
        let id = |entry: &[u8; INDEX_ENTRY_BYTES]| IndexEntry::from_bytes(entry).annotation_id;
        let Ok(idx) = self.entries().binary_search_by_key(&annotation_id, id) else {
            return Err(CacheError::NoRecord { path: self.path.clone(), annotation_id });
        };
        let entry = IndexEntry::from_bytes(&self.entries()[idx]);
        let file = &self.manifest.shards[entry.shard_idx as usize].file;
        let damaged = |what: String, expected: String, found: String| {
            let what = format!("annotation {annotation_id}: {what}");
            Err(CacheError::Damaged { path: self.path.join(file), what, expected, found })
        };
        let start = entry.offset as usize;
        let bytes = &self.shards[entry.shard_idx as usize][start..start + entry.n_bytes as usize];
        match record_bytes::parse(bytes) {
            Ok(record) if record.annotation_id == annotation_id => Ok(record),
            Ok(other) => damaged("id in the record".into(), annotation_id.to_string(), other.annotation_id.to_string()),
            Err((what, expected, found)) => damaged(what, expected, found),
        }
    }

    pub(crate) fn shard(&self, shard_idx: usize) -> &[u8] {
        &self.shards[shard_idx]
    }

    pub(crate) fn index_entries(&self) -> impl Iterator<Item = IndexEntry> {
        self.entries().iter().map(IndexEntry::from_bytes)
    }

    fn entries(&self) -> &[[u8; INDEX_ENTRY_BYTES]] {
        self.index[HEADER_BYTES..].as_chunks().0
    }

    fn open_manifest(path: &Path, manifest: Manifest) -> Result<Self, CacheError> {
        let key_digest = manifest.key.digest();
        let index = map(path, &manifest.index)?;
        let index_path = path.join(&manifest.index.file);
        check_header(&index_path, &index, INDEX_MAGIC, &key_digest, manifest.n_records)?;
        let mut shards = Vec::with_capacity(manifest.shards.len());
        for entry in &manifest.shards {
            let shard = map(path, entry)?;
            check_header(&path.join(&entry.file), &shard, SHARD_MAGIC, &key_digest, entry.n_records)?;
            shards.push(shard);
        }
        let cache = Cache { path: path.into(), manifest, index, shards };
        cache.check_index(&index_path)?;
        Ok(cache)
    }

    /// Holds the index to what [`Cache::get`] relies on: digest, size, order, and places inside of the shards.
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
        for entry in self.index_entries() {
            let id = entry.annotation_id;
            if previous.is_some_and(|previous| previous >= id) {
                return damaged("order".into(), "ascending ids".into(), format!("{id} after {previous:?}"));
            }
            previous = Some(id);
            let shard_bytes = self.shards.get(entry.shard_idx as usize).map_or(0, |shard| shard.len() as u64);
            let is_inside = entry.offset.checked_add(u64::from(entry.n_bytes)).is_some_and(|end| end <= shard_bytes);
            if !is_inside || entry.offset < HEADER_BYTES as u64 || (entry.n_bytes as usize) < RECORD_HEADER_BYTES {
                return damaged(format!("annotation {id}"), "a place in a shard".into(), format!("{entry:?}"));
            }
        }
        Ok(())
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
