//! Reading packed samples.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use rayon::prelude::*;
use sensei_data::dataset::Dataset;
use sensei_data::geometry::PixelRect;
use sensei_files::digest::hex;
use sensei_files::error::FileError;

use super::bytes::{Fault, HEADER_BYTES, Header, IMAGE_ENTRY_BYTES, INDEX_ENTRY_BYTES, ImageEntry, IndexEntry, fault};
use super::error::PackError;
use super::key::PackKey;
use super::record::PackedRecord;
use crate::error::SampleError;

/// Packed samples, mapped into memory. They can be read from many threads at once.
#[derive(Debug)]
pub struct PackedSamples {
    path: PathBuf,
    map: Mmap,
    header: Header,
    key: PackKey,
}

impl PackedSamples {
    /// Opens a pack, which must answer to the key `expected`.
    ///
    /// Checked here: header, size, and the whole index with its digest. Records are checked as they are read.
    ///
    /// # Errors
    /// `File`, `Damaged`, `KeyMismatch` naming the parts.
    pub fn open(path: &Path, expected: &PackKey) -> Result<Self, PackError> {
        let pack = Self::open_any(path)?;
        pack.check_key(expected)?;
        Ok(pack)
    }

    /// # Errors
    /// `KeyMismatch` naming the parts.
    pub fn check_key(&self, expected: &PackKey) -> Result<(), PackError> {
        let differences = expected.differences(&self.key);
        if differences.is_empty() {
            return Ok(());
        }
        Err(PackError::KeyMismatch { path: self.path.clone(), differences })
    }

    /// Opens a pack, whatever its key.
    ///
    /// # Errors
    /// `File`, `Damaged`.
    pub fn open_any(path: &Path) -> Result<Self, PackError> {
        let io = |source| PackError::from(FileError::io(path, "open")(source));
        let file = File::open(path).map_err(io)?;
        // SAFETY: a finished pack is never written again. Cutting the file behind our back would kill the process with SIGBUS, as with
        // every mapped file; it cannot corrupt memory.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let damaged = |(what, expected, found): Fault| PackError::Damaged { path: path.into(), what, expected, found };
        let (header, key) = read_tail(&map).map_err(damaged)?;
        Ok(Self { path: path.into(), map, header, key })
    }

    /// What is packed.
    pub fn key(&self) -> &PackKey {
        &self.key
    }

    /// Number of instances.
    pub fn n_records(&self) -> u64 {
        self.header.n_records
    }

    /// Bytes of the file.
    pub fn n_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// The annotations of all instances, ascending.
    pub fn annotation_ids(&self) -> impl Iterator<Item = u64> {
        let (index, ..) = self.header.tail(&self.map);
        index.iter().map(|entry| IndexEntry::from_bytes(entry).annotation_id)
    }

    /// What is packed of an instance.
    ///
    /// # Errors
    /// `NoRecord`; `Damaged`, if the record is not as it was written.
    pub fn record(&self, annotation_id: u64) -> Result<PackedRecord<'_>, PackError> {
        let (index, ..) = self.header.tail(&self.map);
        let of = |entry: &[u8; INDEX_ENTRY_BYTES]| IndexEntry::from_bytes(entry);
        let Ok(at) = index.binary_search_by_key(&annotation_id, |entry| of(entry).annotation_id) else {
            return Err(PackError::NoRecord { path: self.path.clone(), annotation_id });
        };
        let IndexEntry { offset, n_bytes, .. } = of(&index[at]);
        let bytes = &self.map[offset as usize..][..n_bytes as usize];
        let read = || {
            let record = PackedRecord::from_bytes(bytes)?;
            if record.annotation_id != annotation_id {
                return Err(fault("id in the record", annotation_id.to_string(), record.annotation_id.to_string()));
            }
            if u64::from(record.image_idx) >= self.header.n_images {
                let expected = format!("below {}", self.header.n_images);
                return Err(fault("image of the record", expected, record.image_idx.to_string()));
            }
            Ok(record)
        };
        read().map_err(|(what, expected, found)| self.damaged(annotation_id, what, expected, found))
    }

    /// Digest of the image file that a record's pixels come from.
    pub(crate) fn image_digest(&self, record: &PackedRecord) -> [u8; 32] {
        let (_, images, _) = self.header.tail(&self.map);
        ImageEntry::from_bytes(&images[record.image_idx as usize]).digest
    }

    /// Reads every image file that is packed and holds its content to the digest in the pack. Returns their number.
    ///
    /// # Errors
    /// For the first image that is another one, not in the data set, or cannot be read; `Interrupted`.
    pub fn check_images(
        &self,
        dataset: &Dataset,
        is_interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<u64, SampleError> {
        let (_, images, _) = self.header.tail(&self.map);
        let mut idx_by_id: Vec<(u64, usize)> = dataset.images.iter().map(|image| image.id).zip(0..).collect();
        idx_by_id.sort_unstable();
        let check = |entry: &[u8; IMAGE_ENTRY_BYTES]| {
            let ImageEntry { image_id, digest } = ImageEntry::from_bytes(entry);
            let Ok(at) = idx_by_id.binary_search_by_key(&image_id, |(id, _)| *id) else {
                let annotations = dataset.annotations_path.clone();
                return Err(PackError::UnknownImage { path: self.path.clone(), image_id, annotations }.into());
            };
            if is_interrupted() {
                return Err(SampleError::Interrupted);
            }
            let image = dataset.image_path(idx_by_id[at].1);
            let found = digest_of_file(&image).map_err(PackError::from)?;
            if found != digest {
                let (expected, found) = (hex(&digest), hex(&found));
                return Err(PackError::ImageChanged { path: self.path.clone(), image, expected, found }.into());
            }
            Ok(())
        };
        images.par_iter().map(check).find_first(Result::is_err).unwrap_or(Ok(()))?;
        Ok(self.header.n_images)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn not_covered(&self, annotation_id: u64, needed: PixelRect, packed: PixelRect) -> PackError {
        let (needed, packed) = (needed.to_string(), packed.to_string());
        PackError::NotCovered { path: self.path.clone(), annotation_id, needed, packed }
    }

    pub(crate) fn damaged(&self, annotation_id: u64, what: String, expected: String, found: String) -> PackError {
        let what = format!("annotation {annotation_id}: {what}");
        PackError::Damaged { path: self.path.clone(), what, expected, found }
    }
}

/// Header and key of a file, and that its index leads to places among the records.
fn read_tail(file: &[u8]) -> Result<(Header, PackKey), Fault> {
    let header = Header::from_file(file)?;
    let digest = blake3::hash(&file[header.records_end as usize..]);
    if *digest.as_bytes() != header.tail_digest {
        return Err(fault("digest of the index", hex(&header.tail_digest), digest.to_hex().as_str()));
    }
    let (index, images, key) = header.tail(file);
    let key = serde_json::from_slice(key).map_err(|error| fault("key", "JSON of a key", error.to_string()))?;
    let mut previous = None;
    for entry in index {
        let IndexEntry { annotation_id, offset, n_bytes } = IndexEntry::from_bytes(entry);
        if let Some(previous) = previous.filter(|&previous| previous >= annotation_id) {
            return Err(fault("order", "ascending ids", format!("{annotation_id} after {previous}")));
        }
        previous = Some(annotation_id);
        let is_inside = offset.checked_add(n_bytes).is_some_and(|end| end <= header.records_end);
        if !is_inside || offset < HEADER_BYTES as u64 {
            let what = format!("place of annotation {annotation_id}");
            return Err(fault(&what, "among the records", format!("{n_bytes} bytes at {offset}")));
        }
    }
    let ids = images.iter().map(|entry| ImageEntry::from_bytes(entry).image_id);
    if !ids.is_sorted_by(|a, b| a < b) {
        return Err(fault("order", "ascending ids of images", "others"));
    }
    Ok((header, key))
}

/// BLAKE3 of a file's bytes.
fn digest_of_file(path: &Path) -> Result<[u8; 32], FileError> {
    let read = || -> io::Result<[u8; 32]> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path)?)?;
        Ok(*hasher.finalize().as_bytes())
    };
    read().map_err(FileError::io(path, "read"))
}
