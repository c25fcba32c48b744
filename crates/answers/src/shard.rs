//! Headers of shards and index, and the index's entries. Layout: `docs/formats/teacher-cache.md`.

use std::path::Path;

use crate::error::CacheError;
use sensei_files::digest::hex;

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct IndexEntry {
    /// The record's id, of an annotation or an image.
    pub id: u64,
    pub shard_idx: u32,
    pub n_bytes: u32,
    pub offset: u64,
}

impl IndexEntry {
    pub fn to_bytes(self) -> [u8; INDEX_ENTRY_BYTES] {
        let mut bytes = [0; INDEX_ENTRY_BYTES];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.shard_idx.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.n_bytes.to_le_bytes());
        bytes[16..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8; INDEX_ENTRY_BYTES]) -> Self {
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|idx| bytes[at + idx]));
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|idx| bytes[at + idx]));
        IndexEntry { id: u64_at(0), shard_idx: u32_at(8), n_bytes: u32_at(12), offset: u64_at(16) }
    }
}

/// What the header of a shard or an index says.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    pub magic: &'static [u8; 8],
    pub version: u32,
    pub key_digest: [u8; 32],
    pub n_records: u64,
}

impl Header {
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(self.magic);
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.n_records.to_le_bytes());
        bytes[24..56].copy_from_slice(&self.key_digest);
        let checksum = blake3::hash(&bytes[..56]);
        bytes[56..].copy_from_slice(&checksum.as_bytes()[..8]);
        bytes
    }

    /// Checks that the file `path` starts with this header.
    pub fn check(self, path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
        let expected = self.to_bytes();
        let found = bytes.get(..HEADER_BYTES).unwrap_or(bytes);
        if found == expected {
            return Ok(());
        }
        let differs = |range: &std::ops::Range<usize>| found.get(range.clone()) != Some(&expected[range.clone()]);
        let parts = [("magic", 0..8), ("version", 8..16), ("number of records", 16..24), ("key digest", 24..56)];
        let (part, range) = parts.into_iter().find(|(_, range)| differs(range)).unwrap_or(("header checksum", 56..64));
        let (what, path) = (format!("header, {part}"), path.into());
        let found = found.get(range.clone()).map_or_else(|| format!("{} bytes", found.len()), hex);
        Err(CacheError::Damaged { path, what, expected: hex(&expected[range]), found })
    }
}

pub const SHARD_MAGIC: &[u8; 8] = b"SNSITCSH";
pub const INDEX_MAGIC: &[u8; 8] = b"SNSITCIX";
pub const HEADER_BYTES: usize = 64;
pub const INDEX_ENTRY_BYTES: usize = 24;
