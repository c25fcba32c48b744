//! `teacher share`, `teacher seal`, `teacher sweep`, and what `teacher verify` and `stats` do at an address.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use sensei_answers::error::CacheError;
use sensei_answers::folder_store::FolderStore;
use sensei_answers::kept::RecordKind;
use sensei_answers::shared::fetched_store::{FetchedStore, ShardRoom};
use sensei_answers::shared::fill::{FillReport, fill};
use sensei_answers::shared::plan::{StorePlan, unit_id};
use sensei_answers::shared::seal;
use sensei_answers::shared::state::only_store;
use sensei_answers::shared::store_of;
use sensei_answers::shared::sweep::orphans;
use sensei_answers::shared::unit::UnitWriter;
use sensei_answers::shared::verify::verify_shared;
use sensei_answers::store::Store;
use sensei_answers::verify::verify as verify_cache;
use sensei_answers::writer::RecordSink;
use sensei_store::open::is_remote;
use sensei_store::place::Place;

use crate::phases::shared::place;
use crate::progress::say;
use crate::stop;

/// Fills a store with the records of a cache, together with other processes that do the same.
///
/// # Errors
/// If the cache cannot be read or the store cannot be written, or was begun with other settings.
pub fn share(cache: &Path, address: &str, worker: Option<String>, unit_records: usize) -> anyhow::Result<()> {
    let cache = FolderStore::open_any(cache)?;
    let (key, ids) = (cache.manifest().key.clone(), cache.ids());
    let units: Vec<&[u64]> = ids.chunks(unit_records).collect();
    let lines = |ids: &[u64]| ids.iter().map(u64::to_string).collect::<Vec<_>>();
    let plan = StorePlan {
        teacher: cache.manifest().teacher.clone(),
        tool: cache.manifest().provenance.join("; "),
        unit: format!("{unit_records} records"),
        units: units.iter().enumerate().map(|(idx, ids)| unit_id(&key, idx, lines(ids))).collect(),
        key,
    };
    let mut make = |unit_idx: usize, writer: &mut UnitWriter| -> anyhow::Result<()> {
        stop::check_command("sharing the cache")?;
        for &id in units[unit_idx] {
            match plan.key.kept.kind() {
                RecordKind::MaskLogits => writer.push_masks(&cache.masks(id)?)?,
                RecordKind::ImageFeatures => writer.push_features(&cache.features(id)?)?,
            }
        }
        Ok(())
    };
    let place = place(address)?;
    let report = fill(&place, &plan, &worker.unwrap_or_else(worker_name), &mut make)?;
    say_fill(store_of(&place, &plan.key).address(), plan.units.len(), &report);
    Ok(())
}

/// Prints what a worker did to a store, which is complete.
pub fn say_fill(store: &str, n_units: usize, report: &FillReport) {
    let FillReport { n_made, n_found, n_lost } = report;
    say(&format!(
        "{store}: all {n_units} units are there; this worker made {n_made}, found {n_found}, and made {n_lost} that another stored first"
    ));
}

/// Host and process.
pub fn worker_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    format!("{}-{}", host.unwrap_or_default().trim(), std::process::id())
}

/// Writes index and manifest of a store.
///
/// # Errors
/// If units are missing, more images could not be used than are allowed, or something is damaged.
pub fn seal(address: &str, max_failed_images: usize) -> anyhow::Result<()> {
    let store = only_store(&place(address)?)?;
    let manifest = seal::seal(&store, max_failed_images)?;
    say(&format!("{}: sealed, {} records in {} shards", store.address(), manifest.n_records, manifest.shards.len()));
    Ok(())
}

/// Reads every unit and shard of a store, or a cache.
///
/// # Errors
/// The first damage.
pub fn verify(address: &str) -> anyhow::Result<()> {
    let Some(store) = find(address)? else {
        let found = verify_cache(Path::new(address))?;
        say(&format!("{address}: all {} records are as written", found.n_records));
        return Ok(());
    };
    let found = verify_shared(&store)?;
    let sealed = if found.is_sealed { "sealed" } else { "not sealed" };
    say(&format!(
        "{}: {} of {} units, each of their {} records once and as written; {sealed}",
        store.address(),
        found.n_done,
        found.n_units,
        found.n_records
    ));
    if !found.unusable.is_empty() {
        say(&format!("images that could not be used: {}: {}", found.unusable.len(), found.unusable.join("; ")));
    }
    if found.n_orphans > 0 {
        say(&format!("objects that belong to no unit: {}; `sensei teacher sweep` names them", found.n_orphans));
    }
    Ok(())
}

/// Names the objects that belong to no unit, and removes those that are old enough.
///
/// # Errors
/// If the store cannot be read, or an object not removed.
pub fn sweep(address: &str, remove_older_than_hours: Option<f64>) -> anyhow::Result<()> {
    let store = only_store(&place(address)?)?;
    let now = SystemTime::now();
    let (mut n_removed, mut n_kept) = (0, 0);
    for orphan in orphans(&store)? {
        let age = now.duration_since(orphan.modified).unwrap_or(Duration::ZERO).as_secs_f64() / 3600.0;
        let is_old = remove_older_than_hours.is_some_and(|hours| age > hours);
        if is_old {
            store.delete(&orphan.name)?;
            n_removed += 1;
        } else {
            n_kept += 1;
        }
        let done = if is_old { "removed" } else { "kept" };
        say(&format!("{done}: {}, {} bytes, {age:.1} hours old", store.object(&orphan.name), orphan.bytes));
    }
    say(&format!("{}: {n_removed} objects removed, {n_kept} kept", store.address()));
    if n_kept > 0 && remove_older_than_hours.is_none() {
        say(
            "a worker that is at work stores its shard before the unit that names it; --remove-older-than HOURS removes what is older",
        );
    }
    Ok(())
}

/// The shared store at an address; none where it is a folder that is or holds none.
fn find(address: &str) -> anyhow::Result<Option<Place>> {
    match only_store(&place(address)?) {
        Ok(store) => Ok(Some(store)),
        Err(CacheError::NotBegun { .. }) if !is_remote(address) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Does something with a store, wherever it is. Shards of a sealed store elsewhere are fetched into a folder that is removed afterwards.
///
/// # Errors
/// If there is none, or what is done fails.
pub fn with_store<T>(address: &str, run: impl FnOnce(&dyn Store) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let found = find(address)?;
    let store = match found {
        Some(store) if is_remote(address) => store,
        Some(store) => return run(&FolderStore::open_any(Path::new(store.address()))?),
        None => return run(&FolderStore::open_any(Path::new(address))?),
    };
    let folder = std::env::temp_dir().join(format!("sensei-{}", std::process::id()));
    let room = ShardRoom { folder: folder.clone(), max_bytes: 8 << 30 };
    let done = FetchedStore::open_any(&store, room).map_err(anyhow::Error::from).and_then(|store| run(&store));
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("{}: cannot remove", folder.display()))?;
    }
    done
}
