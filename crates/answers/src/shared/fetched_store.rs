//! A sealed store elsewhere, whose shards are fetched whole into a folder here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::Mmap;
use sensei_files::error::FileError;
use sensei_files::whole::write_whole;
use sensei_store::place::Place;

use super::verify::{check_shard, read_shard};
use super::{folder_of, seal, store_of};
use crate::error::CacheError;
use crate::index::Index;
use crate::key::AnswerKey;
use crate::manifest::{FileEntry, Manifest};
use crate::store::{Store, StoredRecord};

/// Where fetched shards lie, and how many bytes of them.
#[derive(Debug, Clone)]
pub struct ShardRoom {
    /// The folder; several stores and several processes may share it. Shards are named by their digest.
    pub folder: PathBuf,
    /// Bytes of all shards in it. When a shard does not fit, those go that this process has not used for the longest time; those it has never used go first.
    pub max_bytes: u64,
}

/// A sealed store. A shard is fetched when one of its records is first asked for, checked against its digest, and mapped.
#[derive(Debug)]
pub struct FetchedStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Place,
    location: PathBuf,
    manifest: Manifest,
    index: Index<Vec<u8>>,
    /// Addresses of the shards, for messages.
    places: Vec<PathBuf>,
    room: ShardRoom,
    /// Whoever fetches a shard holds its slot.
    shards: Vec<Mutex<Option<Arc<Mmap>>>>,
    /// When each file of the room was last used, counted in uses.
    uses: Mutex<BTreeMap<String, u64>>,
    n_uses: AtomicU64,
    /// One shard at a time is written, so that the room is not exceeded by two at once.
    writing: Mutex<()>,
    is_dropped: AtomicBool,
}

impl FetchedStore {
    /// Opens the sealed store of a key in a place.
    ///
    /// # Errors
    /// `NotBegun` or `NotSealed`; `KeyMismatch`; `Damaged`; `NoRoom`, if a shard is larger than the room; `Store`.
    pub fn open(place: &Place, expected: &AnswerKey, room: ShardRoom) -> Result<Self, CacheError> {
        let opened =
            Self::open_any(&store_of(place, expected), room).map_err(|error| of_key(place, expected, error))?;
        let differences = expected.differences(&opened.shared.manifest.key);
        if differences.is_empty() {
            return Ok(opened);
        }
        Err(CacheError::KeyMismatch { path: opened.shared.location.clone(), differences })
    }

    /// Opens the sealed store at `store`, a key's folder, whatever its key: for tools that describe stores.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_any(store: &Place, room: ShardRoom) -> Result<Self, CacheError> {
        let manifest = seal::sealed_manifest(store)?;
        let path = store.object_path(&manifest.index.file);
        let digest = &manifest.index.blake3;
        let is_whole = |bytes: &[u8]| sensei_files::digest::blake3_hex(bytes) == *digest;
        let bytes = store.get(&manifest.index.file, manifest.index.bytes, &is_whole)?;
        let index = Index::open(&path, bytes.unwrap_or_default(), &manifest)?;
        let places: Vec<PathBuf> = manifest.shards.iter().map(|shard| store.object_path(&shard.file)).collect();
        for (shard, path) in manifest.shards.iter().zip(&places) {
            if shard.bytes > room.max_bytes {
                let (path, bytes, room) = (path.clone(), shard.bytes, room.max_bytes);
                return Err(CacheError::NoRoom { path, bytes, room });
            }
        }
        fs::create_dir_all(&room.folder).map_err(FileError::io(&room.folder, "create"))?;
        let shared = Shared {
            store: store.clone(),
            location: store.address().into(),
            shards: manifest.shards.iter().map(|_| Mutex::new(None)).collect(),
            manifest,
            index,
            places,
            room,
            uses: Mutex::default(),
            n_uses: AtomicU64::new(0),
            writing: Mutex::default(),
            is_dropped: AtomicBool::new(false),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Fetches shards ahead of their first use, in a thread of its own, as many as the room holds. A failure is left to whoever asks
    /// for the shard.
    pub fn prefetch(&self) {
        let shared = self.shared.clone();
        std::thread::spawn(move || {
            let mut bytes = 0;
            for (shard_idx, entry) in shared.manifest.shards.iter().enumerate() {
                bytes += entry.bytes;
                let is_over = bytes > shared.room.max_bytes || shared.is_dropped.load(Ordering::Relaxed);
                if is_over || shared.shard(shard_idx).is_err() {
                    return;
                }
            }
        });
    }
}

impl Drop for FetchedStore {
    fn drop(&mut self) {
        self.shared.is_dropped.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    /// A shard, mapped. It stays readable when its file is removed.
    fn shard(&self, shard_idx: usize) -> Result<Arc<Mmap>, CacheError> {
        let entry = &self.manifest.shards[shard_idx];
        let name = format!("{}.stc", entry.blake3);
        let mut slot = locked(&self.shards[shard_idx]);
        let now = self.n_uses.fetch_add(1, Ordering::Relaxed);
        locked(&self.uses).insert(name.clone(), now);
        if let Some(shard) = &*slot {
            return Ok(shard.clone());
        }
        let path = self.room.folder.join(&name);
        let kept = match map(&path) {
            Ok(kept) => check_shard(&path, &self.manifest.key, entry, Some(&kept)).is_ok().then_some(kept),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(FileError::io(&path, "read")(error).into()),
        };
        // A file that is not what its name says was damaged here: the store has it whole.
        let shard = match kept {
            Some(kept) => kept,
            None => {
                let bytes = read_shard(&self.store, &self.manifest.key, entry)?;
                let writing = locked(&self.writing);
                self.make_room(&name, entry.bytes)?;
                write_whole(&path, &bytes)?;
                drop(writing);
                match map(&path) {
                    Ok(shard) => shard,
                    Err(error) => return Err(FileError::io(&path, "read")(error).into()),
                }
            }
        };
        let shard = Arc::new(shard);
        *slot = Some(shard.clone());
        Ok(shard)
    }

    /// Removes shards until another of this many bytes fits.
    fn make_room(&self, name: &str, bytes: u64) -> Result<(), CacheError> {
        let uses = locked(&self.uses);
        let mut files = vec![];
        for entry in fs::read_dir(&self.room.folder).map_err(FileError::io(&self.room.folder, "list"))? {
            let entry = entry.map_err(FileError::io(&self.room.folder, "list"))?;
            let file = entry.file_name().to_string_lossy().into_owned();
            // Other processes remove files too.
            if let Ok(metadata) = entry.metadata()
                && file.ends_with(".stc")
                && file != name
            {
                files.push((uses.get(&file).copied(), file, metadata.len()));
            }
        }
        files.sort();
        let mut n_bytes: u64 = files.iter().map(|(_, _, bytes)| bytes).sum();
        for (_, file, file_bytes) in files {
            if n_bytes + bytes <= self.room.max_bytes {
                break;
            }
            let of_file = |shard: &FileEntry| file.strip_suffix(".stc") == Some(shard.blake3.as_str());
            if let Some(idx) = self.manifest.shards.iter().position(of_file) {
                // One whose slot is held is being opened at this moment.
                let Ok(mut slot) = self.shards[idx].try_lock() else { continue };
                *slot = None;
            }
            let path = self.room.folder.join(&file);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(FileError::io(path, "remove")(error).into());
                }
                _ => n_bytes -= file_bytes,
            }
        }
        Ok(())
    }
}

impl Store for FetchedStore {
    fn manifest(&self) -> &Manifest {
        &self.shared.manifest
    }

    fn location(&self) -> &Path {
        &self.shared.location
    }

    fn ids(&self) -> Vec<u64> {
        self.shared.index.entries().map(|entry| entry.id).collect()
    }

    fn contains(&self, id: u64) -> bool {
        self.shared.index.entry(id).is_some()
    }

    fn stored(&self, id: u64) -> Result<Option<StoredRecord<'_>>, CacheError> {
        let Some(entry) = self.shared.index.entry(id) else { return Ok(None) };
        let shard = self.shared.shard(entry.shard_idx as usize)?;
        // Copied, because the shard may go when others come.
        let bytes = shard[entry.offset as usize..][..entry.n_bytes as usize].to_vec();
        Ok(Some(StoredRecord { bytes: Cow::Owned(bytes), place: &self.shared.places[entry.shard_idx as usize] }))
    }
}

/// The error of a store of this key: where it was not begun, the place and the folder are told apart.
pub(crate) fn of_key(place: &Place, key: &AnswerKey, error: CacheError) -> CacheError {
    match error {
        CacheError::NotBegun { .. } => {
            CacheError::NotBegun { place: place.address().into(), key: Some(folder_of(key)) }
        }
        other => other,
    }
}

fn map(path: &Path) -> io::Result<Mmap> {
    let file = File::open(path)?;
    // SAFETY: a file of the room appears under its name when it is complete and is never written again, only removed. Cutting it
    // behind our back would kill the process with SIGBUS, as with every mapped file; it cannot corrupt memory.
    unsafe { Mmap::map(&file) }
}

/// Nothing panics while these are held.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
