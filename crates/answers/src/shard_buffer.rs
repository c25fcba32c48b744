//! The shard that is being written, in memory.

use crate::error::CacheError;
use crate::features::FeatureRecord;
use crate::kept::RecordKind;
use crate::key::AnswerKey;
use crate::manifest::{FORMAT_VERSION, FileEntry};
use crate::record::{MaskAnswer, MaskRecord, RecordFault, RecordId};
use crate::shard::{HEADER_BYTES, Header, SHARD_MAGIC};
use crate::{feature_bytes, mask_bytes};

/// Records behind the room for a header.
#[derive(Debug)]
pub(crate) struct ShardBuffer {
    bytes: Vec<u8>,
    pub n_records: u64,
    /// Logits at the end of the int8 range.
    pub n_saturated: u64,
}

/// Where a record is in its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub offset: u64,
    pub n_bytes: u32,
}

impl ShardBuffer {
    pub fn new() -> Self {
        Self { bytes: vec![0; HEADER_BYTES], n_records: 0, n_saturated: 0 }
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// # Errors
    /// `InvalidRecord`.
    pub fn push_masks(&mut self, key: &AnswerKey, record: &MaskRecord) -> Result<Span, CacheError> {
        let id = RecordId { kind: RecordKind::MaskLogits, id: record.annotation_id };
        record.check_key(key).and_then(|()| record.check()).map_err(|source| invalid(id, source))?;
        self.n_saturated += record.masks().map(MaskAnswer::n_saturated).sum::<u64>();
        Ok(self.append(|bytes| mask_bytes::append(record, bytes)))
    }

    /// # Errors
    /// `InvalidRecord`.
    pub fn push_features(&mut self, key: &AnswerKey, record: &FeatureRecord) -> Result<Span, CacheError> {
        let id = RecordId { kind: RecordKind::ImageFeatures, id: record.image.id };
        record.check_key(key).and_then(|()| record.check()).map_err(|source| invalid(id, source))?;
        Ok(self.append(|bytes| feature_bytes::append(record, bytes)))
    }

    fn append(&mut self, append: impl FnOnce(&mut Vec<u8>)) -> Span {
        let offset = self.bytes.len();
        append(&mut self.bytes);
        self.n_records += 1;
        Span { offset: offset as u64, n_bytes: (self.bytes.len() - offset) as u32 }
    }

    /// The shard as far as it was written.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The whole shard.
    pub fn finish(&mut self, key_digest: [u8; 32]) -> &[u8] {
        let header = Header { magic: SHARD_MAGIC, version: FORMAT_VERSION, key_digest, n_records: self.n_records };
        self.bytes[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
        &self.bytes
    }

    /// The entry of this shard, which is finished, under a name.
    pub fn entry(&self, file: String) -> FileEntry {
        FileEntry::new(file, &self.bytes, self.n_records)
    }
}

fn invalid(record: RecordId, source: RecordFault) -> CacheError {
    CacheError::InvalidRecord { record, source }
}
