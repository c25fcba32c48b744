//! A store that does what networks and busy servers do.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use sensei_store::error::StoreError;
use sensei_store::objects::{Created, Listed, Objects};

/// A store in front of another that fails at random, the same way for the same seed and the same order of calls: before a request or
/// after it, so that what was done is not known; with "taken" for what it has just stored, or for nothing; with bytes that were cut.
#[derive(Debug)]
pub struct Hostile<S> {
    inner: S,
    state: AtomicU64,
    /// Of a hundred requests, how many end in each kind of failure.
    percent: u64,
}

enum Luck {
    Good,
    FailsBefore,
    FailsAfter,
    Lies,
}

impl<S> Hostile<S> {
    /// In front of `inner`, with `percent` of the requests failing in each of three ways.
    ///
    /// # Panics
    /// If nothing would ever succeed.
    pub fn new(inner: S, seed: u64, percent: u64) -> Self {
        assert!(percent <= 30, "some requests succeed");
        Self { inner, state: AtomicU64::new(seed), percent }
    }

    /// The store behind it.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    fn luck(&self) -> Luck {
        // SplitMix64 of a counter.
        let mut z = self.state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let drawn = (z ^ (z >> 31)) % 100;
        match drawn / self.percent.max(1) {
            0 if self.percent > 0 => Luck::FailsBefore,
            1 if self.percent > 0 => Luck::FailsAfter,
            2 if self.percent > 0 => Luck::Lies,
            _ => Luck::Good,
        }
    }
}

fn failed<T>(name: &str, action: &'static str) -> Result<T, StoreError> {
    let source = io::Error::other("500: we are sorry").into();
    Err(StoreError::Object { object: name.into(), action, may_pass: true, source })
}

impl<S: Objects> Objects for Hostile<S> {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        match self.luck() {
            Luck::Good => self.inner.create(name, bytes),
            Luck::FailsBefore => failed(name, "create"),
            Luck::FailsAfter => self.inner.create(name, bytes).and_then(|_| failed(name, "create")),
            // Half of them: a 409 of two that met, of which neither is stored; or a 412 for our own, stored by a try before.
            Luck::Lies if bytes.len().is_multiple_of(2) => Ok(Created::Taken),
            Luck::Lies => self.inner.create(name, bytes).map(|_| Created::Taken),
        }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        match self.luck() {
            Luck::Good => self.inner.put(name, bytes),
            Luck::FailsBefore => failed(name, "put"),
            Luck::FailsAfter | Luck::Lies => self.inner.put(name, bytes).and_then(|()| failed(name, "put")),
        }
    }

    fn get(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        match self.luck() {
            Luck::Good => self.inner.get(name, limit),
            Luck::FailsBefore | Luck::FailsAfter => failed(name, "get"),
            Luck::Lies => Ok(self.inner.get(name, limit)?.map(|bytes| bytes[..bytes.len() / 2].to_vec())),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<Listed>, StoreError> {
        match self.luck() {
            Luck::Good => self.inner.list(folder),
            _ => failed(folder, "list"),
        }
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        match self.luck() {
            Luck::Good => self.inner.delete(name),
            Luck::FailsBefore => failed(name, "delete"),
            Luck::FailsAfter | Luck::Lies => self.inner.delete(name).and_then(|()| failed(name, "delete")),
        }
    }
}

/// A store that replaces what is there when it is asked to create, as servers do that do not know `If-None-Match`.
#[derive(Debug)]
pub struct Replacing<S>(pub S);

impl<S: Objects> Objects for Replacing<S> {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        self.0.put(name, bytes).map(|()| Created::Now)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.0.put(name, bytes)
    }

    fn get(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.get(name, limit)
    }

    fn list(&self, folder: &str) -> Result<Vec<Listed>, StoreError> {
        self.0.list(folder)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.0.delete(name)
    }
}
