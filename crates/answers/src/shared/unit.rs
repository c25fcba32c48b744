//! A unit of work that is done: which records are in which shard.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::checked_json::{self, Format};
use super::plan::is_digest;
use crate::error::CacheError;
use crate::features::FeatureRecord;
use crate::key::AnswerKey;
use crate::manifest::FileEntry;
use crate::record::{MaskRecord, RecordId};
use crate::record_bytes::START_BYTES;
use crate::shard::HEADER_BYTES;
use crate::shard_buffer::{ShardBuffer, Span};
use crate::writer::RecordSink;

/// What is said of a unit that is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unit {
    /// Its id.
    pub id: String,
    /// Its shard; none if there are no records.
    pub shard: Option<FileEntry>,
    /// Id, offset and length of each record, in the order of the shard.
    pub records: Vec<(u64, u64, u32)>,
    /// Logits at the end of the int8 range, see [`crate::record::MaskAnswer::n_saturated`].
    pub n_saturated: u64,
    /// What the worker counted.
    pub counts: UnitCounts,
    /// Images that could not be used.
    pub unusable: Vec<UnusableImage>,
}

/// What a worker counted in a unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitCounts {
    /// Images that the teacher has looked at.
    pub n_images: u64,
    /// Objects that it was shown by themselves.
    pub n_zoomed: u64,
    /// Logits that were cut to what 8 bits hold.
    pub n_cut: u64,
}

/// An image that could not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnusableImage {
    /// Its id in the annotation file.
    pub image_id: u64,
    /// Why, in words.
    pub reason: String,
}

/// A unit that is being made, in memory.
#[derive(Debug)]
pub struct UnitWriter {
    key: AnswerKey,
    id: String,
    shard: ShardBuffer,
    records: Vec<(u64, u64, u32)>,
    ids: BTreeSet<u64>,
    /// To be counted by whoever makes the unit.
    pub counts: UnitCounts,
    /// To be filled by whoever makes the unit.
    pub unusable: Vec<UnusableImage>,
}

impl UnitWriter {
    pub(crate) fn new(key: &AnswerKey, id: &str) -> Self {
        Self {
            key: key.clone(),
            id: id.into(),
            shard: ShardBuffer::new(),
            records: vec![],
            ids: BTreeSet::new(),
            counts: UnitCounts::default(),
            unusable: vec![],
        }
    }

    /// The unit, and the bytes of its shard.
    pub(crate) fn finish(&mut self) -> (Unit, &[u8]) {
        let (n_records, n_saturated) = (self.shard.n_records, self.shard.n_saturated);
        self.shard.finish(self.key.digest());
        let name = |digest: &str| format!("shard-{digest}.stc");
        let shard = (n_records > 0).then(|| {
            let entry = self.shard.entry(String::new());
            FileEntry { file: name(&entry.blake3), ..entry }
        });
        let unit = Unit {
            id: self.id.clone(),
            shard,
            records: std::mem::take(&mut self.records),
            n_saturated,
            counts: self.counts,
            unusable: std::mem::take(&mut self.unusable),
        };
        (unit, self.shard.bytes())
    }

    fn check_new(&mut self, record: RecordId) -> Result<(), CacheError> {
        match self.ids.insert(record.id) {
            true => Ok(()),
            false => Err(CacheError::Duplicate { path: self.id.clone().into(), record }),
        }
    }

    fn added(&mut self, id: u64, Span { offset, n_bytes }: Span) {
        self.records.push((id, offset, n_bytes));
    }
}

impl RecordSink for UnitWriter {
    fn push_masks(&mut self, record: &MaskRecord) -> Result<(), CacheError> {
        self.check_new(RecordId { kind: self.key.kept.kind(), id: record.annotation_id })?;
        let span = self.shard.push_masks(&self.key, record)?;
        self.added(record.annotation_id, span);
        Ok(())
    }

    fn push_features(&mut self, record: &FeatureRecord) -> Result<(), CacheError> {
        self.check_new(RecordId { kind: self.key.kept.kind(), id: record.image.id })?;
        let span = self.shard.push_features(&self.key, record)?;
        self.added(record.image.id, span);
        Ok(())
    }
}

impl Unit {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        checked_json::to_bytes(UNIT_FORMAT, self)
    }

    pub(crate) fn is_whole(bytes: &[u8]) -> bool {
        checked_json::is_whole::<Self>(UNIT_FORMAT, bytes)
    }

    /// Reads the unit of this id that is the object `path`: its records fill its shard without gaps.
    ///
    /// # Errors
    /// `Damaged`.
    pub(crate) fn parse(path: &Path, id: &str, bytes: &[u8]) -> Result<Self, CacheError> {
        let unit: Self = checked_json::parse(UNIT_FORMAT, path, bytes)?;
        let damaged = |what: &str, expected: String, found: String| {
            Err(CacheError::Damaged { path: path.into(), what: what.into(), expected, found })
        };
        if unit.id != id {
            return damaged("id", id.into(), unit.id);
        }
        let mut end = HEADER_BYTES as u64;
        for (id, offset, n_bytes) in &unit.records {
            if *offset != end || (*n_bytes as usize) < START_BYTES {
                let found = format!("{n_bytes} bytes at {offset}");
                return damaged(&format!("place of record {id}"), format!("a record at {end}"), found);
            }
            end += u64::from(*n_bytes);
        }
        let n_records = unit.records.len() as u64;
        let Some(shard) = &unit.shard else {
            return if n_records == 0 { Ok(unit) } else { damaged("shard", "one".into(), "none".into()) };
        };
        let text = |bytes: u64, n: u64| format!("{n} records in {bytes} bytes");
        if (shard.bytes, shard.n_records) != (end, n_records) || n_records == 0 {
            return damaged("shard", text(end, n_records), text(shard.bytes, shard.n_records));
        }
        let expected = format!("shard-{}.stc", shard.blake3);
        if shard.file != expected || !is_digest(&shard.blake3) {
            return damaged("name of the shard", expected, shard.file.clone());
        }
        Ok(unit)
    }
}

const UNIT_FORMAT: Format = Format { name: "sensei-shared-store-unit", version: 1 };
/// A record takes about 30 bytes: room for two million in a unit.
pub(crate) const MAX_UNIT_BYTES: u64 = 64 << 20;
