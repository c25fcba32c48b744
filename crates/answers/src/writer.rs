//! Writing a cache: nothing stands under its name before all of it is on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sensei_files::error::FileError;
use sensei_files::lock::{Lock, LockError};
use sensei_files::whole::{beside, sync_folder, sync_folder_of, write_synced};

use crate::error::CacheError;
use crate::features::FeatureRecord;
use crate::kept::RecordKind;
use crate::key::{AnswerKey, TeacherDescription};
use crate::manifest::{FORMAT_VERSION, FileEntry, Manifest, write_manifest};
use crate::record::{MaskRecord, RecordId};
use crate::shard::{Header, INDEX_MAGIC, IndexEntry};
use crate::shard_buffer::{ShardBuffer, Span};

/// Where records go.
pub trait RecordSink {
    /// Adds what the teacher said about an object. Records keep their order; readers find them by id.
    ///
    /// # Errors
    /// `Duplicate`, `InvalidRecord`, or `File` when a full shard cannot be written.
    fn push_masks(&mut self, record: &MaskRecord) -> Result<(), CacheError>;

    /// Adds the teacher's features of an image.
    ///
    /// # Errors
    /// As [`push_masks`](Self::push_masks).
    fn push_features(&mut self, record: &FeatureRecord) -> Result<(), CacheError>;
}

/// A cache that is being written, in the folder `<cache>.partial`.
///
/// [`CacheWriter::finish`] moves it to its name. Dropped before, it removes what it wrote; killed, it leaves a `.partial`
/// folder, which the next writer of the same cache removes. One writer at a time holds the lock `.<cache>.lock`.
#[derive(Debug)]
pub struct CacheWriter {
    path: PathBuf,
    partial: PathBuf,
    /// Some until the writer ends.
    lock: Option<Lock>,
    key: AnswerKey,
    teacher: TeacherDescription,
    provenance: Vec<String>,
    shard_bytes: usize,
    shard: ShardBuffer,
    shards: Vec<FileEntry>,
    index: BTreeMap<u64, IndexEntry>,
    n_saturated: u64,
    is_finished: bool,
}

impl CacheWriter {
    /// Starts a cache that will stand at `path`.
    ///
    /// # Errors
    /// `InvalidKey`; `Exists`, if something stands there; `Busy`, if another process writes the same cache; `File`.
    pub fn create(
        path: &Path,
        key: AnswerKey,
        teacher: TeacherDescription,
        provenance: Vec<String>,
    ) -> Result<Self, CacheError> {
        key.check().map_err(|source| CacheError::InvalidKey { path: path.into(), source })?;
        let shard_bytes = match key.kept.kind() {
            RecordKind::MaskLogits => MASK_SHARD_BYTES,
            RecordKind::ImageFeatures => FEATURE_SHARD_BYTES,
        };
        // Without a trailing slash, which would put what is beside the cache inside of it.
        let path: PathBuf = path.components().collect();
        let (partial, lock_path) = (beside(&path, "", ".partial")?, beside(&path, ".", ".lock")?);
        if let Some(parent) = path.parent().filter(|parent| *parent != Path::new("")) {
            fs::create_dir_all(parent).map_err(FileError::io(&path, "create"))?;
        }
        // The lock lies beside the folder, and stays until the cache is published: in the folder, it would move or go with it, and a
        // second writer could take the folder over while the first one publishes it.
        let lock = Lock::take(&lock_path, "writing the cache").map_err(|error| match error {
            LockError::File(source) => CacheError::File(source),
            _ => CacheError::Busy { path: partial.clone() },
        })?;
        if path.symlink_metadata().is_ok() {
            lock.remove();
            return Err(CacheError::Exists { path });
        }
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(FileError::io(&partial, "remove"))?;
        }
        fs::create_dir_all(&partial).map_err(FileError::io(&partial, "create"))?;
        Ok(CacheWriter {
            path,
            partial,
            lock: Some(lock),
            key,
            teacher,
            provenance,
            shard_bytes,
            shard: ShardBuffer::new(),
            shards: Vec::new(),
            index: BTreeMap::new(),
            n_saturated: 0,
            is_finished: false,
        })
    }

    /// Starts a new shard at this many bytes instead of at 32 MiB, or 128 MiB where features are kept.
    pub fn with_shard_bytes(mut self, shard_bytes: usize) -> Self {
        self.shard_bytes = shard_bytes;
        self
    }

    /// Writes index and manifest and moves the cache to its name.
    ///
    /// # Errors
    /// `File`, or `Exists` if something was put at its name meanwhile. Nothing stands there then that this writer made.
    pub fn finish(mut self) -> Result<Manifest, CacheError> {
        if self.shard.n_records > 0 {
            self.write_shard()?;
        }
        let n_records = self.index.len() as u64;
        let index = index_bytes(self.key.digest(), self.index.values());
        write_synced(&self.partial.join(INDEX), &index)?;
        let manifest = Manifest {
            key: self.key.clone(),
            teacher: self.teacher.clone(),
            provenance: std::mem::take(&mut self.provenance),
            n_records,
            n_saturated: self.n_saturated,
            index: FileEntry::new(INDEX.into(), &index, n_records),
            shards: std::mem::take(&mut self.shards),
        };
        write_manifest(&self.partial, manifest.clone())?;
        sync_folder(&self.partial)?;
        if self.path.symlink_metadata().is_ok() {
            return Err(CacheError::Exists { path: self.path.clone() });
        }
        fs::rename(&self.partial, &self.path).map_err(FileError::io(&self.path, "move the finished cache to"))?;
        self.is_finished = true;
        sync_folder_of(&self.path)?;
        Ok(manifest)
    }

    fn check_new(&self, record: RecordId) -> Result<(), CacheError> {
        match self.index.contains_key(&record.id) {
            true => Err(CacheError::Duplicate { path: self.path.clone(), record }),
            false => Ok(()),
        }
    }

    fn added(&mut self, id: u64, Span { offset, n_bytes }: Span) -> Result<(), CacheError> {
        self.index.insert(id, IndexEntry { id, shard_idx: self.shards.len() as u32, n_bytes, offset });
        if self.shard.len() >= self.shard_bytes { self.write_shard() } else { Ok(()) }
    }

    fn write_shard(&mut self) -> Result<(), CacheError> {
        let file = format!("shard-{:05}.stc", self.shards.len());
        write_synced(&self.partial.join(&file), self.shard.finish(self.key.digest()))?;
        self.shards.push(self.shard.entry(file));
        self.n_saturated += self.shard.n_saturated;
        self.shard = ShardBuffer::new();
        Ok(())
    }
}

impl RecordSink for CacheWriter {
    fn push_masks(&mut self, record: &MaskRecord) -> Result<(), CacheError> {
        self.check_new(RecordId { kind: RecordKind::MaskLogits, id: record.annotation_id })?;
        let span = self.shard.push_masks(&self.key, record)?;
        self.added(record.annotation_id, span)
    }

    fn push_features(&mut self, record: &FeatureRecord) -> Result<(), CacheError> {
        self.check_new(RecordId { kind: RecordKind::ImageFeatures, id: record.image.id })?;
        let span = self.shard.push_features(&self.key, record)?;
        self.added(record.image.id, span)
    }
}

/// The index of these entries, ascending by id.
pub(crate) fn index_bytes<'e>(key_digest: [u8; 32], entries: impl ExactSizeIterator<Item = &'e IndexEntry>) -> Vec<u8> {
    let n_records = entries.len() as u64;
    let mut index = Header { magic: INDEX_MAGIC, version: FORMAT_VERSION, key_digest, n_records }.to_bytes().to_vec();
    index.extend(entries.flat_map(|entry| entry.to_bytes()));
    index
}

impl Drop for CacheWriter {
    fn drop(&mut self) {
        if !self.is_finished {
            // Best effort: what stays has no manifest under the cache's name and is removed by the next writer.
            let _ = fs::remove_dir_all(&self.partial);
        }
        if let Some(lock) = self.lock.take() {
            lock.remove();
        }
    }
}

const MASK_SHARD_BYTES: usize = 32 << 20;
const FEATURE_SHARD_BYTES: usize = 128 << 20;
const INDEX: &str = "index.sti";
