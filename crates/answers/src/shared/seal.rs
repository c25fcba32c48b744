//! The end of a build: index and manifest of a store of which every unit is there. After it, a store in a folder is a teacher cache.

use std::collections::BTreeMap;

use sensei_files::digest::blake3_hex;
use sensei_store::place::{Claim, Place};

use super::state::{StoreState, read_plan};
use super::unit::Unit;
use super::unit_name;
use crate::error::CacheError;
use crate::manifest::{FILE_NAME, FileEntry, MAX_BYTES, Manifest, manifest_bytes, parse_manifest};
use crate::record::RecordId;
use crate::shard::IndexEntry;
use crate::writer::index_bytes;

/// Writes index and manifest of the store at `store`. To do it again, or at once with another, changes nothing.
///
/// # Errors
/// `Incomplete`, naming what is missing; `Unusable`; `Damaged`, if a shard is not there or of another length, a record is in two units,
/// or another manifest is there; `Store`.
pub fn seal(store: &Place, max_failed_images: usize) -> Result<Manifest, CacheError> {
    let state = StoreState::read(store)?;
    state.check_complete(store, max_failed_images)?;
    state.done().try_for_each(|unit| check_shard_is_there(store, &state, unit))?;
    let (manifest, index) = contents(store, &state)?;
    store.put(&manifest.index.file, &index)?;
    let bytes = manifest_bytes(store.address().as_ref(), manifest.clone())?;
    let is_whole = |bytes: &[u8]| parse(store, bytes).is_ok();
    if let Claim::Others(bytes) = store.create(FILE_NAME, &bytes, &is_whole)? {
        let found = parse(store, &bytes)?;
        let text =
            |manifest: &Manifest| format!("{} records, index {}", manifest.n_records, &manifest.index.blake3[..16]);
        let (what, path) = ("manifest of these units".into(), store.object_path(FILE_NAME));
        return Err(CacheError::Damaged { path, what, expected: text(&manifest), found: text(&found) });
    }
    Ok(manifest)
}

/// The manifest of a store, if it is sealed.
///
/// # Errors
/// `Damaged`, `Store`.
pub fn read_sealed(store: &Place) -> Result<Option<Manifest>, CacheError> {
    let is_whole = |bytes: &[u8]| parse(store, bytes).is_ok();
    store.get(FILE_NAME, MAX_BYTES, &is_whole)?.map(|bytes| parse(store, &bytes)).transpose()
}

/// The manifest of a store that is sealed.
///
/// # Errors
/// `NotBegun`, `NotSealed`, `Damaged`, `Store`.
pub fn sealed_manifest(store: &Place) -> Result<Manifest, CacheError> {
    match read_sealed(store)? {
        Some(manifest) => Ok(manifest),
        None => read_plan(store).and(Err(CacheError::NotSealed { place: store.address().into() })),
    }
}

/// Manifest and index of a complete store: a function of its units alone.
///
/// # Errors
/// `Damaged`, if a record is in two units.
pub(crate) fn contents(store: &Place, state: &StoreState) -> Result<(Manifest, Vec<u8>), CacheError> {
    let (mut entries, mut shards) = (BTreeMap::new(), vec![]);
    for unit in state.done() {
        let shard_idx = shards.len() as u32;
        for &(id, offset, n_bytes) in &unit.records {
            if entries.insert(id, IndexEntry { id, shard_idx, n_bytes, offset }).is_some() {
                let record = RecordId { kind: state.plan.key.kept.kind(), id };
                return Err(CacheError::Damaged {
                    path: store.object_path(&unit_name(&unit.id)),
                    what: record.to_string(),
                    expected: "records that are in one unit".into(),
                    found: "it in two".into(),
                });
            }
        }
        shards.extend(unit.shard.clone());
    }
    let index = index_bytes(state.plan.key.digest(), entries.values());
    let n_records = entries.len() as u64;
    let mut provenance =
        vec![format!("asked by {}", state.plan.tool), format!("a shared store of {} units", state.units.len())];
    let n_unusable = state.unusable().len();
    if n_unusable > 0 {
        provenance.push(format!("{n_unusable} images could not be used"));
    }
    let manifest = Manifest {
        key: state.plan.key.clone(),
        teacher: state.plan.teacher.clone(),
        provenance,
        n_records,
        n_saturated: state.done().map(|unit| unit.n_saturated).sum(),
        index: FileEntry::new(format!("index{}.sti", blake3_hex(&index)), &index, n_records),
        shards,
    };
    Ok((manifest, index))
}

pub(crate) fn parse(store: &Place, bytes: &[u8]) -> Result<Manifest, CacheError> {
    parse_manifest(store.address().as_ref(), &store.object_path(FILE_NAME), bytes)
}

/// A shard that its unit names is in the list, or came after it.
fn check_shard_is_there(store: &Place, state: &StoreState, unit: &Unit) -> Result<(), CacheError> {
    let Some(shard) = &unit.shard else { return Ok(()) };
    let found = match state.objects.get(&shard.file) {
        Some(listed) => Some(listed.bytes),
        None => store.get(&shard.file, shard.bytes, &|_| true)?.map(|bytes| bytes.len() as u64),
    };
    if found == Some(shard.bytes) {
        return Ok(());
    }
    Err(CacheError::Damaged {
        path: store.object_path(&shard.file),
        what: format!("shard of {}", unit_name(&unit.id)),
        expected: format!("{} bytes", shard.bytes),
        found: found.map_or_else(|| "no such object".into(), |bytes| format!("{bytes} bytes")),
    })
}
