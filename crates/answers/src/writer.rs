//! Writing a cache: nothing stands under its name before all of it is on disk.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use sensei_files::error::FileError;
use sensei_files::whole::{sync_folder, sync_folder_of, write_synced};

use crate::error::CacheError;
use crate::key::{CacheKey, TeacherDescription};
use crate::manifest::{FileEntry, Manifest, write_manifest};
use crate::record::TeacherRecord;
use crate::record_bytes;
use crate::shard::{HEADER_BYTES, INDEX_MAGIC, IndexEntry, SHARD_MAGIC, header};

/// A cache that is being written, in the folder `<cache>.partial`.
///
/// [`CacheWriter::finish`] moves it to its name. Dropped before, it removes what it wrote; killed, it leaves a `.partial`
/// folder, which the next writer of the same cache removes.
#[derive(Debug)]
pub struct CacheWriter {
    path: PathBuf,
    partial: PathBuf,
    lock: File,
    key: CacheKey,
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
    /// `Exists`, if something stands there; `Busy`, if another process writes the same cache; `Io`.
    pub fn create(
        path: &Path,
        key: CacheKey,
        teacher: TeacherDescription,
        provenance: Vec<String>,
    ) -> Result<Self, CacheError> {
        if path.symlink_metadata().is_ok() {
            return Err(CacheError::Exists { path: path.into() });
        }
        // Without a trailing slash, which would put the partial folder inside of the cache's.
        let mut partial = path.components().collect::<PathBuf>().into_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        fs::create_dir_all(&partial).map_err(FileError::io(&partial, "create"))?;
        let lock_path = partial.join(LOCK);
        #[expect(clippy::disallowed_methods, reason = "a lock has no content")]
        let lock = File::create(&lock_path).map_err(FileError::io(&lock_path, "create"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(CacheError::Busy { path: partial }),
            Err(TryLockError::Error(source)) => return Err(FileError::io(&lock_path, "lock")(source).into()),
        }
        for entry in fs::read_dir(&partial).map_err(FileError::io(&partial, "list"))? {
            let leftover = entry.map_err(FileError::io(&partial, "list"))?.path();
            if leftover != lock_path {
                fs::remove_file(&leftover).map_err(FileError::io(&leftover, "remove"))?;
            }
        }
        Ok(CacheWriter {
            path: path.into(),
            partial,
            lock,
            key,
            teacher,
            provenance,
            shard_bytes: SHARD_BYTES,
            shard: vec![0; HEADER_BYTES],
            n_shard_records: 0,
            shards: Vec::new(),
            index: BTreeMap::new(),
            n_saturated: 0,
            is_finished: false,
        })
    }

    /// Starts a new shard at this many bytes instead of at 32 MiB.
    pub fn with_shard_bytes(mut self, shard_bytes: usize) -> Self {
        self.shard_bytes = shard_bytes;
        self
    }

    /// Adds a record. Records keep their order in the shards; readers find them by id.
    ///
    /// # Errors
    /// `Duplicate`, `InvalidRecord`, or `Io` when a full shard cannot be written.
    pub fn push(&mut self, record: &TeacherRecord) -> Result<(), CacheError> {
        record.check()?;
        let annotation_id = record.annotation_id;
        if self.index.contains_key(&annotation_id) {
            return Err(CacheError::Duplicate { path: self.path.clone(), annotation_id });
        }
        let offset = self.shard.len();
        record_bytes::append(record, &mut self.shard);
        let entry = IndexEntry {
            annotation_id,
            shard_idx: self.shards.len() as u32,
            n_bytes: (self.shard.len() - offset) as u32,
            offset: offset as u64,
        };
        self.index.insert(annotation_id, entry);
        self.n_shard_records += 1;
        self.n_saturated += record.n_saturated();
        if self.shard.len() >= self.shard_bytes { self.write_shard() } else { Ok(()) }
    }

    /// Writes index and manifest and moves the cache to its name.
    ///
    /// # Errors
    /// `Io`, or `Exists` if something was put at its name meanwhile. Nothing stands there then that this writer made.
    pub fn finish(mut self) -> Result<Manifest, CacheError> {
        if self.n_shard_records > 0 {
            self.write_shard()?;
        }
        let n_records = self.index.len() as u64;
        let mut index = header(INDEX_MAGIC, &self.key.digest(), n_records).to_vec();
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
        let lock_path = self.partial.join(LOCK);
        fs::remove_file(&lock_path).map_err(FileError::io(&lock_path, "remove"))?;
        sync_folder(&self.partial)?;
        if self.path.symlink_metadata().is_ok() {
            return Err(CacheError::Exists { path: self.path.clone() });
        }
        fs::rename(&self.partial, &self.path).map_err(FileError::io(&self.path, "move the finished cache to"))?;
        self.is_finished = true;
        sync_folder_of(&self.path)?;
        Ok(manifest)
    }

    fn write_shard(&mut self) -> Result<(), CacheError> {
        let file = format!("shard-{:05}.stc", self.shards.len());
        self.shard[..HEADER_BYTES].copy_from_slice(&header(SHARD_MAGIC, &self.key.digest(), self.n_shard_records));
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
        let _ = self.lock.unlock();
    }
}

const SHARD_BYTES: usize = 32 << 20;
const INDEX: &str = "index.sti";
const LOCK: &str = "writer.lock";
