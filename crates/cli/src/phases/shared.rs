//! Stores that many machines share, by their address.

use std::path::Path;

use sensei_answers::folder_store::FolderStore;
use sensei_answers::key::AnswerKey;
use sensei_answers::shared::fetched_store::{FetchedStore, ShardRoom};
use sensei_answers::store::Store;
use sensei_store::open::{is_remote, open};
use sensei_store::place::Place;

/// Opens a place: a folder, or an object store, whose credentials and endpoint come from the environment.
///
/// # Errors
/// If the address names no place.
pub fn place(address: &str) -> anyhow::Result<Place> {
    let is_option = |name: &str| OPTION_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let options = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok().filter(|name| is_option(name))?;
        Some((name, value.into_string().ok()?))
    });
    Ok(open(address, &options.collect::<Vec<_>>())?)
}

/// The answers to a key in the sealed store at an address: read in place from a folder, fetched below `runs` from elsewhere.
///
/// # Errors
/// If there is none, it is not sealed, or of another key.
pub fn answers(address: &Path, key: &AnswerKey, room_gib: u64, runs: &Path) -> anyhow::Result<Box<dyn Store>> {
    let address = address.to_string_lossy();
    if is_remote(&address) {
        let room = ShardRoom { folder: runs.join("teacher-cache").join("fetched"), max_bytes: room_gib << 30 };
        let store = FetchedStore::open(&place(&address)?, key, room)?;
        store.prefetch();
        return Ok(Box::new(store));
    }
    Ok(Box::new(FolderStore::open_sealed(&place(&address)?, Path::new(address.as_ref()), key)?))
}

/// The variables of the object stores.
const OPTION_PREFIXES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];
