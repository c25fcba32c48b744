//! `manifest.json` of a cache: written last, so that a folder with one is complete.

use std::path::Path;

use sensei_files::bounded::read_bounded;
use sensei_files::digest::hex;
use sensei_files::error::FileError;
use sensei_files::whole::write_synced;
use serde::{Deserialize, Serialize};

use crate::error::CacheError;
use crate::format1;
use crate::key::{AnswerKey, InvalidKey, TeacherDescription};

/// What a cache holds and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Everything that decides the numbers.
    pub key: AnswerKey,
    /// Who answered.
    pub teacher: TeacherDescription,
    /// Where the answers come from: dump, software, in words.
    pub provenance: Vec<String>,
    /// Number of records in all shards.
    pub n_records: u64,
    /// Logits at the end of the int8 range, see [`crate::record::MaskAnswer::n_saturated`]; 0 where features are kept.
    pub n_saturated: u64,
    /// The index over all shards.
    pub index: FileEntry,
    /// The shards, in the order in which the index counts them.
    pub shards: Vec<FileEntry>,
}

/// A file of the cache, as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Name in the cache's folder.
    pub file: String,
    /// Length.
    pub bytes: u64,
    /// BLAKE3 of its bytes, hexadecimal.
    pub blake3: String,
    /// Number of records in it, or under it.
    pub n_records: u64,
}

impl FileEntry {
    pub(crate) fn new(file: String, bytes: &[u8], n_records: u64) -> Self {
        FileEntry { file, bytes: bytes.len() as u64, blake3: hex(blake3::hash(bytes).as_bytes()), n_records }
    }
}

/// Reads the manifest of the cache in folder `cache`.
///
/// # Errors
/// If there is no cache, or its manifest was changed, or is of another format version.
pub fn read_manifest(cache: &Path) -> Result<Manifest, CacheError> {
    let path = cache.join(FILE_NAME);
    if !path.is_file() {
        return Err(CacheError::Missing { path: cache.into() });
    }
    parse_manifest(cache, &path, &read_bounded(&path, MAX_BYTES)?)
}

/// The manifest in `bytes`, which are the file `path` of the cache at `cache`.
///
/// # Errors
/// As [`read_manifest`].
pub(crate) fn parse_manifest(cache: &Path, path: &Path, bytes: &[u8]) -> Result<Manifest, CacheError> {
    let damaged = |what: &str, expected: String, found: String| {
        Err(CacheError::Damaged { path: path.into(), what: what.into(), expected, found })
    };
    let file: ManifestFile = match serde_json::from_slice(bytes) {
        Ok(file) => file,
        Err(_) if format1::is_manifest(bytes) => {
            return Err(CacheError::OldFormat { path: cache.into(), expected: FORMAT_VERSION, found: 1 });
        }
        Err(error) => return damaged("JSON", format!("a manifest of format {FORMAT_VERSION}"), error.to_string()),
    };
    let (expected, found) = (format!("{FORMAT_NAME} {FORMAT_VERSION}"), format!("{} {}", file.format, file.version));
    if found != expected {
        return damaged("format", expected, found);
    }
    let computed = checksum(&file.manifest, cache)?;
    if computed != file.blake3 {
        return damaged("checksum", file.blake3, computed);
    }
    check_file_names(path, &file.manifest.index, &file.manifest.shards)?;
    if let Err(InvalidKey { part, expected, found }) = file.manifest.key.check() {
        return damaged(part, expected, found);
    }
    Ok(file.manifest)
}

/// Refuses names that would lead out of the cache's folder: its files are opened by them. A shard's is a number or a digest.
pub(crate) fn check_file_names(manifest: &Path, index: &FileEntry, shards: &[FileEntry]) -> Result<(), CacheError> {
    let names = shards.iter().map(|shard| (&shard.file, "shard-", ".stc"));
    for (name, start, end) in names.chain([(&index.file, "index", ".sti")]) {
        let middle = name.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
        if !middle.is_some_and(|middle| middle.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))) {
            let (what, expected) = ("file name".into(), format!("{start}*{end}"));
            return Err(CacheError::Damaged { path: manifest.into(), what, expected, found: name.clone() });
        }
    }
    Ok(())
}

/// Writes the manifest into the folder `cache` and waits until it is on disk.
pub(crate) fn write_manifest(cache: &Path, manifest: Manifest) -> Result<(), CacheError> {
    Ok(write_synced(&cache.join(FILE_NAME), &manifest_bytes(cache, manifest)?)?)
}

/// The manifest as it stands in the file of the cache at `cache`.
pub(crate) fn manifest_bytes(cache: &Path, manifest: Manifest) -> Result<Vec<u8>, CacheError> {
    let blake3 = checksum(&manifest, cache)?;
    let file = ManifestFile { format: FORMAT_NAME.into(), version: FORMAT_VERSION, manifest, blake3 };
    serde_json::to_vec_pretty(&file).map_err(|error| json_error(cache, error))
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestFile {
    format: String,
    version: u32,
    manifest: Manifest,
    /// Over the manifest as compact JSON with its fields in the order above.
    blake3: String,
}

fn checksum(manifest: &Manifest, cache: &Path) -> Result<String, CacheError> {
    let json = serde_json::to_vec(manifest).map_err(|error| json_error(cache, error))?;
    Ok(hex(blake3::hash(&json).as_bytes()))
}

fn json_error(cache: &Path, error: serde_json::Error) -> CacheError {
    FileError::io(cache.join(FILE_NAME), "make the JSON of")(error.into()).into()
}

/// Version of the cache's file format that this crate writes, and reads in a run.
pub const FORMAT_VERSION: u32 = 2;
pub(crate) const FILE_NAME: &str = "manifest.json";
pub(crate) const FORMAT_NAME: &str = "sensei-teacher-cache";
/// A shard's entry takes about 150 bytes: room for 400,000 shards.
pub(crate) const MAX_BYTES: u64 = 64 << 20;
