//! How far a store is.

use std::collections::BTreeMap;

use rayon::prelude::*;
use sensei_store::objects::Listed;
use sensei_store::place::Place;

use super::fill::read_unit;
use super::plan::{MAX_PLAN_BYTES, StorePlan};
use super::unit::{Unit, UnitCounts};
use super::{PLAN, unit_name};
use crate::error::CacheError;

/// A store as it was at a moment.
#[derive(Debug)]
pub struct StoreState {
    /// What it will be.
    pub plan: StorePlan,
    /// Its units, in the plan's order; none where one is not there yet.
    pub units: Vec<Option<Unit>>,
    /// All objects, by name, as they were listed before the units were read.
    pub objects: BTreeMap<String, Listed>,
}

impl StoreState {
    /// Reads plan and units of the store at `store`, which is a key's folder.
    ///
    /// # Errors
    /// `NotBegun`, `Damaged`, `Store`.
    pub fn read(store: &Place) -> Result<Self, CacheError> {
        let plan = read_plan(store)?;
        let objects: BTreeMap<String, Listed> =
            store.list()?.into_iter().map(|listed| (listed.name.clone(), listed)).collect();
        // What was not listed may have come since: it is asked for all the same.
        let units = plan.units.par_iter().map(|id| read_unit(store, id)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { plan, units, objects })
    }

    /// The units that are there.
    pub fn done(&self) -> impl Iterator<Item = &Unit> {
        self.units.iter().flatten()
    }

    /// Numbers of the units that are missing, ascending.
    pub fn missing(&self) -> Vec<usize> {
        (0..self.units.len()).filter(|&idx| self.units[idx].is_none()).collect()
    }

    /// Records of all units that are there.
    pub fn n_records(&self) -> u64 {
        self.done().map(|unit| unit.records.len() as u64).sum()
    }

    /// What their workers counted.
    pub fn counts(&self) -> UnitCounts {
        self.done().fold(UnitCounts::default(), |sum, unit| UnitCounts {
            n_images: sum.n_images + unit.counts.n_images,
            n_zoomed: sum.n_zoomed + unit.counts.n_zoomed,
            n_cut: sum.n_cut + unit.counts.n_cut,
        })
    }

    /// Images that could not be used, with unit and reason.
    pub fn unusable(&self) -> Vec<String> {
        let of_unit = |unit: &Unit| -> Vec<String> {
            let name = unit_name(&unit.id);
            unit.unusable.iter().map(|image| format!("image {} ({name}): {}", image.image_id, image.reason)).collect()
        };
        self.done().flat_map(of_unit).collect()
    }

    /// Refuses a store that is not complete, or lacks more images than are allowed.
    ///
    /// # Errors
    /// `Incomplete`, `Unusable`.
    pub fn check_complete(&self, store: &Place, max_failed_images: usize) -> Result<(), CacheError> {
        let place = store.address().into();
        let missing = self.missing();
        if let Some(&first_idx) = missing.first() {
            let (n_missing, n_units) = (missing.len(), self.units.len());
            let first = unit_name(&self.plan.units[first_idx]);
            return Err(CacheError::Incomplete { place, n_missing, n_units, first, first_idx });
        }
        let reasons = self.unusable();
        if reasons.len() > max_failed_images {
            return Err(CacheError::Unusable { place, reasons, allowed: max_failed_images });
        }
        Ok(())
    }
}

/// The plan of the store at `store`.
///
/// # Errors
/// `NotBegun`, `Damaged`, `Store`.
pub fn read_plan(store: &Place) -> Result<StorePlan, CacheError> {
    match store.get(PLAN, MAX_PLAN_BYTES, &StorePlan::is_whole)? {
        Some(bytes) => StorePlan::parse(&store.object_path(PLAN), &bytes),
        None => Err(CacheError::NotBegun { place: store.address().into(), key: None }),
    }
}

/// The only store of a place, or the place itself where it is a store's folder.
///
/// # Errors
/// `NotBegun`; `SeveralStores`, with their folders; `Store`.
pub fn only_store(place: &Place) -> Result<Place, CacheError> {
    let listed = place.list()?;
    if listed.iter().any(|listed| listed.name == PLAN) {
        return Ok(place.clone());
    }
    let folder = |listed: &Listed| {
        let folder = listed.name.strip_suffix(PLAN)?.strip_suffix('/')?;
        (!folder.contains('/')).then(|| folder.to_string())
    };
    let keys: Vec<String> = listed.iter().filter_map(folder).collect();
    match keys.as_slice() {
        [key] => Ok(place.within(key)),
        [] => Err(CacheError::NotBegun { place: place.address().into(), key: None }),
        _ => Err(CacheError::SeveralStores { place: place.address().into(), keys }),
    }
}
