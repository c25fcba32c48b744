//! The index of a cache: where each record is.

use std::path::Path;

use sensei_files::digest::hex;

use crate::error::CacheError;
use crate::manifest::{FORMAT_VERSION, Manifest};
use crate::record::RecordId;
use crate::record_bytes::START_BYTES;
use crate::shard::{HEADER_BYTES, Header, INDEX_ENTRY_BYTES, INDEX_MAGIC, IndexEntry};

/// An index that has been held to its manifest, in bytes that are borrowed, mapped or owned.
#[derive(Debug)]
pub(crate) struct Index<B> {
    bytes: B,
}

impl<B: AsRef<[u8]>> Index<B> {
    /// Holds the index, the file `path`, to what reading a record relies on: header, digest, size, order, and places inside of the
    /// shards.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn open(path: &Path, bytes: B, manifest: &Manifest) -> Result<Self, CacheError> {
        let damaged = |what: String, expected: String, found: String| {
            Err(CacheError::Damaged { path: path.into(), what, expected, found })
        };
        let (key_digest, n_records) = (manifest.key.digest(), manifest.n_records);
        Header { magic: INDEX_MAGIC, version: FORMAT_VERSION, key_digest, n_records }.check(path, bytes.as_ref())?;
        let digest = hex(blake3::hash(bytes.as_ref()).as_bytes());
        if digest != manifest.index.blake3 {
            return damaged("digest".into(), manifest.index.blake3.clone(), digest);
        }
        let (expected, length) = ((n_records as usize).checked_mul(INDEX_ENTRY_BYTES), bytes.as_ref().len());
        if expected != Some(length - HEADER_BYTES) {
            return damaged("size".into(), format!("{n_records} entries"), format!("{length} bytes"));
        }
        let index = Self { bytes };
        let mut previous = None;
        for IndexEntry { id, shard_idx, n_bytes, offset } in index.entries() {
            if let Some(previous) = previous.filter(|&previous| previous >= id) {
                return damaged("order".into(), "ascending ids".into(), format!("{id} after {previous}"));
            }
            previous = Some(id);
            let shard_bytes = manifest.shards.get(shard_idx as usize).map_or(0, |shard| shard.bytes);
            let is_inside = offset.checked_add(u64::from(n_bytes)).is_some_and(|end| end <= shard_bytes);
            if !is_inside || offset < HEADER_BYTES as u64 || (n_bytes as usize) < START_BYTES {
                let record = RecordId { kind: manifest.key.kept.kind(), id };
                let found = format!("{n_bytes} bytes at {offset} of shard {shard_idx}");
                return damaged(record.to_string(), "a place in a shard".into(), found);
            }
        }
        Ok(index)
    }

    /// All entries, ascending by id.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = IndexEntry> {
        self.stored().iter().map(IndexEntry::from_bytes)
    }

    /// Where the record of an id is, if there is one.
    pub fn entry(&self, id: u64) -> Option<IndexEntry> {
        let entries = self.stored();
        let idx = entries.binary_search_by_key(&id, |entry| IndexEntry::from_bytes(entry).id).ok()?;
        Some(IndexEntry::from_bytes(&entries[idx]))
    }

    fn stored(&self) -> &[[u8; INDEX_ENTRY_BYTES]] {
        self.bytes.as_ref()[HEADER_BYTES..].as_chunks().0
    }
}
