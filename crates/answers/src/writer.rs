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
use crate::record::{MaskAnswer, MaskRecord, RecordFault, RecordId};
use crate::shard::{HEADER_BYTES, Header, INDEX_MAGIC, IndexEntry, SHARD_MAGIC};
use crate::{feature_bytes, mask_bytes};

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
    shard: Vec<u8>,
    n_shard_records: u64,
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
            shard: vec![0; HEADER_BYTES],
            n_shard_records: 0,
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

    /// Adds what the teacher said about an object. Records keep their order in the shards; readers find them by id.
    ///
    /// # Errors
    /// `Duplicate`, `InvalidRecord`, or `File` when a full shard cannot be written.
    pub fn push_masks(&mut self, record: &MaskRecord) -> Result<(), CacheError> {
        let id = RecordId { kind: RecordKind::MaskLogits, id: record.annotation_id };
        record.check_key(&self.key).and_then(|()| record.check()).map_err(|source| invalid(id, source))?;
        self.append(id, |shard| mask_bytes::append(record, shard))?;
        self.n_saturated += record.masks().map(MaskAnswer::n_saturated).sum::<u64>();
        Ok(())
    }

    /// Adds the teacher's features of an image.
    ///
    /// # Errors
    /// As [`push_masks`](Self::push_masks).
    pub fn push_features(&mut self, record: &FeatureRecord) -> Result<(), CacheError> {
        let id = RecordId { kind: RecordKind::ImageFeatures, id: record.image.id };
        record.check_key(&self.key).and_then(|()| record.check()).map_err(|source| invalid(id, source))?;
        self.append(id, |shard| feature_bytes::append(record, shard))
    }

    /// Writes index and manifest and moves the cache to its name.
    ///
    /// # Errors
    /// `File`, or `Exists` if something was put at its name meanwhile. Nothing stands there then that this writer made.
    pub fn finish(mut self) -> Result<Manifest, CacheError> {
        if self.n_shard_records > 0 {
            self.write_shard()?;
        }
        let n_records = self.index.len() as u64;
        let mut index = self.header(INDEX_MAGIC, n_records).to_vec();
        index.extend(self.index.values().flat_map(|entry| entry.to_bytes()));
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

    fn append(&mut self, record: RecordId, append: impl FnOnce(&mut Vec<u8>)) -> Result<(), CacheError> {
        if self.index.contains_key(&record.id) {
            return Err(CacheError::Duplicate { path: self.path.clone(), record });
        }
        let offset = self.shard.len();
        append(&mut self.shard);
        let entry = IndexEntry {
            id: record.id,
            shard_idx: self.shards.len() as u32,
            n_bytes: (self.shard.len() - offset) as u32,
            offset: offset as u64,
        };
        self.index.insert(record.id, entry);
        self.n_shard_records += 1;
        if self.shard.len() >= self.shard_bytes { self.write_shard() } else { Ok(()) }
    }

    fn header(&self, magic: &'static [u8; 8], n_records: u64) -> [u8; HEADER_BYTES] {
        Header { magic, version: FORMAT_VERSION, key_digest: self.key.digest(), n_records }.to_bytes()
    }

    fn write_shard(&mut self) -> Result<(), CacheError> {
        let file = format!("shard-{:05}.stc", self.shards.len());
        let header = self.header(SHARD_MAGIC, self.n_shard_records);
        self.shard[..HEADER_BYTES].copy_from_slice(&header);
        write_synced(&self.partial.join(&file), &self.shard)?;
        self.shards.push(FileEntry::new(file, &self.shard, self.n_shard_records));
        self.shard.truncate(HEADER_BYTES);
        self.n_shard_records = 0;
        Ok(())
    }
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

fn invalid(record: RecordId, source: RecordFault) -> CacheError {
    CacheError::InvalidRecord { record, source }
}

const MASK_SHARD_BYTES: usize = 32 << 20;
const FEATURE_SHARD_BYTES: usize = 128 << 20;
const INDEX: &str = "index.sti";
