//! Objects in memory, of one process: for tests and examples.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::SystemTime;

use crate::error::StoreError;
use crate::objects::{Created, Listed, Objects};

/// Objects that end with the value. All are as old as 1970.
#[derive(Debug, Default)]
pub struct Memory {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Memory {
    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        // Nothing panics while it is held.
        self.objects.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Objects for Memory {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        let mut objects = self.locked();
        if objects.contains_key(name) {
            return Ok(Created::Taken);
        }
        objects.insert(name.into(), bytes.into());
        Ok(Created::Now)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.locked().insert(name.into(), bytes.into());
        Ok(())
    }

    fn get(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self.locked().get(name).cloned();
        if found.as_ref().is_some_and(|bytes| bytes.len() as u64 > limit) {
            return Err(StoreError::TooLarge { object: name.into(), limit });
        }
        Ok(found)
    }

    fn list(&self, folder: &str) -> Result<Vec<Listed>, StoreError> {
        let is_inner =
            |name: &str| folder.is_empty() || name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        let listed = |(name, bytes): (&String, &Vec<u8>)| {
            let modified = SystemTime::UNIX_EPOCH;
            is_inner(name).then(|| Listed { name: name.clone(), bytes: bytes.len() as u64, modified })
        };
        Ok(self.locked().iter().filter_map(listed).collect())
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.locked().remove(name);
        Ok(())
    }
}
