//! What killed workers leave: shards that no unit names, and files that were not complete.

use std::collections::BTreeSet;

use sensei_store::objects::Listed;
use sensei_store::place::Place;

use super::seal::read_sealed;
use super::state::StoreState;
use crate::error::CacheError;
use crate::manifest::Manifest;

/// Objects of the store at `store` that belong to no unit, nor to its manifest; ascending by name.
///
/// A worker that is at work stores its shard before the unit that names it. So a young object here may be wanted in a moment: how
/// old is old enough is the caller's to say.
///
/// # Errors
/// `NotBegun`, `Damaged`, `Store`.
pub fn orphans(store: &Place) -> Result<Vec<Listed>, CacheError> {
    let state = StoreState::read(store)?;
    Ok(orphans_of(&state, read_sealed(store)?.as_ref()))
}

/// Objects were listed before the units were read: a shard that was in the list and got its unit since is none. What is not named as
/// a store's objects are is somebody else's, and stays.
pub(crate) fn orphans_of(state: &StoreState, manifest: Option<&Manifest>) -> Vec<Listed> {
    let shards = state.done().filter_map(|unit| unit.shard.as_ref()).map(|shard| shard.file.as_str());
    let index = manifest.map(|manifest| manifest.index.file.as_str());
    let named: BTreeSet<&str> = shards.chain(index).collect();
    let is_orphan = |listed: &&Listed| {
        let file = listed.name.rsplit('/').next().unwrap_or_default();
        let is = |start: &str, end: &str| file.starts_with(start) && file.ends_with(end);
        !named.contains(listed.name.as_str()) && (is("shard-", ".stc") || is("index", ".sti") || is(".", ".tmp"))
    };
    state.objects.values().filter(is_orphan).cloned().collect()
}
