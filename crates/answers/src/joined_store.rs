//! Answers about several annotation files, each in a store of its own, as one store.

use std::path::Path;

use crate::error::CacheError;
use crate::manifest::Manifest;
use crate::store::{Store, StoredRecord};

/// Stores of one teacher, asked the same, about different objects.
#[derive(Debug)]
pub struct JoinedStore {
    stores: Vec<Box<dyn Store>>,
    manifest: Manifest,
}

impl JoinedStore {
    /// The stores as one. Of a record that several have, the first one's counts.
    ///
    /// The manifest is the first store's, but its key names the data sets of all, and it counts all records.
    ///
    /// # Panics
    /// If there is no store, or one's key differs from the first one's in more than the data set.
    pub fn new(stores: Vec<Box<dyn Store>>) -> Self {
        let mut manifest = stores.first().expect("a joined store has stores").manifest().clone();
        for store in &stores[1..] {
            let mut key = store.manifest().key.clone();
            key.dataset.clone_from(&stores[0].manifest().key.dataset);
            assert_eq!(key, stores[0].manifest().key, "stores of one teacher, asked the same");
            manifest.n_records += store.manifest().n_records;
            manifest.n_saturated += store.manifest().n_saturated;
        }
        let datasets: Vec<&str> = stores.iter().map(|store| store.manifest().key.dataset.as_str()).collect();
        if datasets.len() > 1 {
            manifest.key.dataset = blake3::hash(datasets.join(" ").as_bytes()).to_hex().to_string();
        }
        Self { stores, manifest }
    }
}

impl Store for JoinedStore {
    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn location(&self) -> &Path {
        self.stores[0].location()
    }

    fn ids(&self) -> Vec<u64> {
        let mut ids: Vec<u64> = self.stores.iter().flat_map(|store| store.ids()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn contains(&self, id: u64) -> bool {
        self.stores.iter().any(|store| store.contains(id))
    }

    fn stored(&self, id: u64) -> Result<Option<StoredRecord<'_>>, CacheError> {
        for store in &self.stores {
            if let Some(found) = store.stored(id)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}
