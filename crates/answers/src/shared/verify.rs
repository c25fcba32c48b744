//! Reading a whole shared store: is everything there once, and as it was written?

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use sensei_files::digest::blake3_hex;
use sensei_store::place::Place;

use super::seal::{contents, read_sealed};
use super::state::StoreState;
use super::sweep::orphans_of;
use super::unit::Unit;
use super::unit_name;
use crate::error::CacheError;
use crate::features::FeatureRecord;
use crate::kept::RecordKind;
use crate::key::AnswerKey;
use crate::manifest::{FILE_NAME, FORMAT_VERSION, FileEntry};
use crate::record::{MaskAnswer, MaskRecord, RecordFault, RecordId};
use crate::shard::{Header, SHARD_MAGIC};
use crate::store::check_id;

/// What is in a store that is as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedStats {
    /// Units that are there.
    pub n_done: usize,
    /// Units that it will have.
    pub n_units: usize,
    /// Records of those that are there; each is there once.
    pub n_records: u64,
    /// Bytes of their shards.
    pub bytes: u64,
    /// Images that could not be used, with unit and reason.
    pub unusable: Vec<String>,
    /// Objects that belong to no unit: what killed workers leave.
    pub n_orphans: usize,
    /// Whether index and manifest are written.
    pub is_sealed: bool,
}

/// Reads every unit and every shard of the store at `store`, and, if it is sealed, holds index and manifest to them.
///
/// # Errors
/// The first damage found, by object and record; `NotBegun`; `Store`.
pub fn verify_shared(store: &Place) -> Result<SharedStats, CacheError> {
    let state = StoreState::read(store)?;
    let done: Vec<&Unit> = state.done().collect();
    done.par_iter().try_for_each(|unit| verify_unit(store, &state.plan.key, unit))?;
    let mut unit_of = BTreeMap::new();
    for unit in &done {
        for &(id, _, _) in &unit.records {
            if let Some(other) = unit_of.insert(id, &unit.id) {
                let (path, other) = (store.object_path(&unit_name(&unit.id)), unit_name(other));
                let what = RecordId { kind: state.plan.key.kept.kind(), id }.to_string();
                let (expected, found) = ("records that are in one unit".into(), format!("it in {other} too"));
                return Err(CacheError::Damaged { path, what, expected, found });
            }
        }
    }
    let sealed = read_sealed(store)?;
    if let Some(found) = &sealed {
        let damaged = |name: &str, expected: String, found: String| {
            let what = "what the units say".into();
            Err(CacheError::Damaged { path: store.object_path(name), what, expected, found })
        };
        let (expected, index) = contents(store, &state)?;
        if *found != expected {
            let text = |n: u64, n_shards: usize| format!("{n} records in {n_shards} shards");
            let (expected, found) =
                (text(expected.n_records, expected.shards.len()), text(found.n_records, found.shards.len()));
            return damaged(FILE_NAME, expected, found);
        }
        let stored = store.get(&expected.index.file, expected.index.bytes, &|bytes| bytes == index)?;
        if stored.as_ref() != Some(&index) {
            let digest = stored.map_or_else(|| "no such object".into(), |bytes| blake3_hex(&bytes));
            return damaged(&expected.index.file, expected.index.blake3, digest);
        }
    }
    Ok(SharedStats {
        n_done: done.len(),
        n_units: state.units.len(),
        n_records: state.n_records(),
        bytes: done.iter().filter_map(|unit| unit.shard.as_ref()).map(|shard| shard.bytes).sum(),
        unusable: state.unusable(),
        n_orphans: orphans_of(&state, sealed.as_ref()).len(),
        is_sealed: sealed.is_some(),
    })
}

/// Reads the shard of a unit.
fn verify_unit(store: &Place, key: &AnswerKey, unit: &Unit) -> Result<(), CacheError> {
    let Some(shard) = &unit.shard else { return Ok(()) };
    let path = store.object_path(&shard.file);
    let bytes = read_shard(store, key, shard)?;
    let mut n_saturated = 0;
    for &(id, offset, n_bytes) in &unit.records {
        let record = &bytes[offset as usize..][..n_bytes as usize];
        n_saturated += verify_record(key, id, record).map_err(|fault| {
            let record = RecordId { kind: key.kept.kind(), id };
            let what = format!("{record}: {}", fault.what);
            CacheError::Damaged { path: path.clone(), what, expected: fault.expected, found: fault.found }
        })?;
    }
    if n_saturated != unit.n_saturated {
        let (path, what) = (store.object_path(&unit_name(&unit.id)), "saturated logits".into());
        let (expected, found) = (unit.n_saturated.to_string(), n_saturated.to_string());
        return Err(CacheError::Damaged { path, what, expected, found });
    }
    Ok(())
}

/// A shard's bytes, which are as long as its entry says and have its digest and the key's header.
///
/// # Errors
/// `Damaged`, `Store`.
pub(crate) fn read_shard(store: &Place, key: &AnswerKey, shard: &FileEntry) -> Result<Vec<u8>, CacheError> {
    let path = store.object_path(&shard.file);
    let is_whole = |bytes: &[u8]| bytes.len() as u64 == shard.bytes && blake3_hex(bytes) == shard.blake3;
    let found = store.get(&shard.file, shard.bytes, &is_whole)?;
    check_shard(&path, key, shard, found.as_deref())?;
    Ok(found.unwrap_or_default())
}

/// Holds the bytes of a shard to its entry.
///
/// # Errors
/// `Damaged`.
pub(crate) fn check_shard(
    path: &Path,
    key: &AnswerKey,
    shard: &FileEntry,
    found: Option<&[u8]>,
) -> Result<(), CacheError> {
    let damaged = |what: &str, expected: String, found: String| {
        Err(CacheError::Damaged { path: path.into(), what: what.into(), expected, found })
    };
    let Some(bytes) = found else { return damaged("shard", format!("{} bytes", shard.bytes), "no such object".into()) };
    if bytes.len() as u64 != shard.bytes {
        return damaged("size", format!("{} bytes", shard.bytes), format!("{} bytes", bytes.len()));
    }
    let digest = blake3_hex(bytes);
    if digest != shard.blake3 {
        return damaged("digest", shard.blake3.clone(), digest);
    }
    let (key_digest, n_records) = (key.digest(), shard.n_records);
    Header { magic: SHARD_MAGIC, version: FORMAT_VERSION, key_digest, n_records }.check(path, bytes)
}

/// Reads a record of this id, and counts its saturated logits.
fn verify_record(key: &AnswerKey, id: u64, bytes: &[u8]) -> Result<u64, RecordFault> {
    match key.kept.kind() {
        RecordKind::MaskLogits => {
            let record = MaskRecord::from_bytes(bytes)?;
            record.check_key(key)?;
            check_id(id, record.annotation_id)?;
            Ok(record.masks().map(MaskAnswer::n_saturated).sum())
        }
        RecordKind::ImageFeatures => {
            let record = FeatureRecord::from_bytes(Cow::Borrowed(bytes))?;
            record.check_key(key)?;
            check_id(id, record.image.id)?;
            Ok(0)
        }
    }
}
