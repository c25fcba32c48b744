//! A worker: takes up units that nobody has done, and stores each exactly once.

use std::collections::BTreeSet;

use sensei_store::place::{Claim, Place};

use super::plan::{StorePlan, order_of};
use super::unit::{MAX_UNIT_BYTES, Unit, UnitWriter};
use super::{PLAN, UNITS, store_of, unit_name};
use crate::error::CacheError;

/// What a worker did. All units are in the store when there is one of these.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FillReport {
    /// Units that it made.
    pub n_made: usize,
    /// Units that were there when it came to them.
    pub n_found: usize,
    /// Units that another worker stored while this one made them.
    pub n_lost: usize,
}

/// Fills the store of the plan's key in a place, until all of its units are there. Any number of workers may do so at once; each may be
/// killed at any moment, and started again.
///
/// `make` is given a unit's number and what to write its records into. `worker` decides the order of the units only; two
/// workers of one name do no harm.
///
/// # Errors
/// Those of `make`, after which the unit is not stored; `OtherPlan`, if the store was begun with other settings; `Store`, also if the
/// store cannot tell several writers apart; `Damaged`.
pub fn fill<E: From<CacheError>>(
    place: &Place,
    plan: &StorePlan,
    worker: &str,
    make: &mut dyn FnMut(usize, &mut UnitWriter) -> Result<(), E>,
) -> Result<FillReport, E> {
    let store = store_of(place, &plan.key);
    begin(&store, plan)?;
    let there: BTreeSet<String> = list(&store)?;
    let mut report = FillReport::default();
    for unit_idx in order_of(worker, &plan.units) {
        let unit_id = &plan.units[unit_idx];
        if there.contains(unit_id) || read_unit(&store, unit_id)?.is_some() {
            report.n_found += 1;
            continue;
        }
        let mut writer = UnitWriter::new(&plan.key, unit_id);
        make(unit_idx, &mut writer)?;
        let (unit, shard) = writer.finish();
        match claim(&store, &unit, shard)? {
            true => report.n_made += 1,
            false => report.n_lost += 1,
        }
    }
    Ok(report)
}

/// Writes the plan, or finds it; and finds out whether this place can be filled by several writers.
fn begin(store: &Place, plan: &StorePlan) -> Result<(), CacheError> {
    let path = store.object_path(PLAN);
    match store.create_and_probe(PLAN, &plan.to_bytes(), &StorePlan::is_whole)? {
        Claim::Ours => Ok(()),
        Claim::Others(bytes) => plan.check_same(store.address().as_ref(), &StorePlan::parse(&path, &bytes)?),
    }
}

/// Stores a unit, its shard first. Whether the store has this worker's: it may be another's of the same bytes.
fn claim(store: &Place, unit: &Unit, shard: &[u8]) -> Result<bool, CacheError> {
    if let Some(entry) = &unit.shard {
        store.put(&entry.file, shard)?;
    }
    let name = unit_name(&unit.id);
    let theirs = match store.create(&name, &unit.to_bytes(), &Unit::is_whole)? {
        Claim::Ours => return Ok(true),
        Claim::Others(bytes) => Unit::parse(&store.object_path(&name), &unit.id, &bytes)?,
    };
    // On another kind of processor the last bits of an answer may differ. A unit names its shard for good, and no other unit can
    // name this one: it is made of this unit's records.
    if let Some(ours) = &unit.shard
        && theirs.shard.as_ref().is_none_or(|theirs| theirs.blake3 != ours.blake3)
    {
        store.delete(&ours.file)?;
    }
    Ok(false)
}

/// A unit, if it is there.
///
/// # Errors
/// `Damaged`, `Store`.
pub(crate) fn read_unit(store: &Place, unit_id: &str) -> Result<Option<Unit>, CacheError> {
    let name = unit_name(unit_id);
    let bytes = store.get(&name, MAX_UNIT_BYTES, &Unit::is_whole)?;
    bytes.map(|bytes| Unit::parse(&store.object_path(&name), unit_id, &bytes)).transpose()
}

/// The ids of the units that are there.
fn list(store: &Place) -> Result<BTreeSet<String>, CacheError> {
    let id = |name: String| name.strip_suffix(".json").map(String::from);
    Ok(store.within(UNITS).list()?.into_iter().filter_map(|listed| id(listed.name)).collect())
}
