//! A place of objects: the five verbs with retries, and what counts when an answer was lost.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::StoreError;
use crate::objects::{Created, Listed, Objects};

/// A place of objects, or a folder of one.
#[derive(Debug, Clone)]
pub struct Place {
    address: String,
    /// Empty, or ends with `/`.
    prefix: String,
    objects: Arc<dyn Objects>,
    /// Before the second try; before each further one twice as long.
    pause: Duration,
}

/// Whose object stands under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It has our bytes, whoever stored it.
    Ours,
    /// It has these.
    Others(Vec<u8>),
}

impl Place {
    /// A place of this address, which is for messages.
    pub fn new(address: impl Into<String>, objects: Arc<dyn Objects>) -> Self {
        Self { address: address.into(), prefix: String::new(), objects, pause: FIRST_PAUSE }
    }

    /// Waits this long before a second try instead of a fifth of a second, and twice as long before each further one.
    pub fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// A folder in this place, as a place of its own.
    pub fn within(&self, folder: &str) -> Self {
        let mut inner = self.clone();
        inner.address = self.object(folder);
        inner.prefix = format!("{}{folder}/", self.prefix);
        inner
    }

    /// The same address, for objects that begin with this prefix in their store: what of the address is not the store's own name.
    pub fn at_prefix(mut self, prefix: &str) -> Self {
        let prefix = prefix.trim_matches('/');
        self.prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        self
    }

    /// Where it is.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where an object is, for messages.
    pub fn object(&self, name: &str) -> String {
        format!("{}/{name}", self.address.trim_end_matches('/'))
    }

    /// [`object`](Self::object) where a path is wanted.
    pub fn object_path(&self, name: &str) -> PathBuf {
        self.object(name).into()
    }

    /// Stores an object if there is none of this name, and says whose is there afterwards.
    ///
    /// A store may say "taken" of our own object, because its first answer was lost, and of nothing, because two creations met. So
    /// what is there is always read back. `is_whole` knows bytes that were cut on their way from others' that are whole; such an
    /// object is read again.
    ///
    /// # Errors
    /// If the store refuses, or says again and again that there is an object and gives none.
    pub fn create(&self, name: &str, bytes: &[u8], is_whole: &dyn Fn(&[u8]) -> bool) -> Result<Claim, StoreError> {
        let full = self.full(name);
        self.tried(|| match self.objects.create(&full, bytes)? {
            Created::Now => Ok(Some(Claim::Ours)),
            // Much larger than ours is not what this name is for.
            Created::Taken => Ok(match self.objects.get(&full, limit_of(bytes))? {
                Some(found) if found == bytes => Some(Claim::Ours),
                Some(found) if is_whole(&found) => Some(Claim::Others(found)),
                Some(_) | None => None,
            }),
        })?
        .ok_or_else(|| StoreError::Absent { object: self.object(name), tries: TRIES })
    }

    /// [`create`](Self::create), and makes sure that this store refuses to create what is there: one that replaced it would lose what
    /// several writers do.
    ///
    /// # Errors
    /// As `create`, and `NoConditionalCreate`.
    pub fn create_and_probe(
        &self,
        name: &str,
        bytes: &[u8],
        is_whole: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Claim, StoreError> {
        let claim = self.create(name, bytes, is_whole)?;
        // The same bytes: a store that replaces does no harm by it.
        let again = self.tried(|| self.objects.create(&self.full(name), bytes).map(Some))?;
        match again {
            Some(Created::Taken) => Ok(claim),
            _ => Err(StoreError::NoConditionalCreate { place: self.address.clone() }),
        }
    }

    /// Stores an object whose name follows from its bytes: storing it twice changes nothing.
    ///
    /// # Errors
    /// If the store refuses.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let full = self.full(name);
        let put = self.tried(|| self.objects.put(&full, bytes).map(Some))?;
        put.ok_or_else(|| StoreError::Absent { object: self.object(name), tries: TRIES })
    }

    /// The bytes of an object of at most `limit` bytes; `None` if there is none. Bytes that are not whole are read again a few times,
    /// and returned if they stay so.
    ///
    /// # Errors
    /// If it is larger, or the store refuses.
    pub fn get(&self, name: &str, limit: u64, is_whole: &dyn Fn(&[u8]) -> bool) -> Result<Option<Vec<u8>>, StoreError> {
        let (full, mut last) = (self.full(name), None);
        let found = self.tried(|| match self.objects.get(&full, limit)? {
            None => Ok(Some(None)),
            Some(bytes) if is_whole(&bytes) => Ok(Some(Some(bytes))),
            Some(bytes) => {
                last = Some(bytes);
                Ok(None)
            }
        })?;
        Ok(found.unwrap_or(last))
    }

    /// All objects of this place, ascending by name, with their names in it.
    ///
    /// # Errors
    /// If the store refuses.
    pub fn list(&self) -> Result<Vec<Listed>, StoreError> {
        let folder = self.prefix.trim_end_matches('/');
        let found = self.tried(|| self.objects.list(folder).map(Some))?.unwrap_or_default();
        let inner = |listed: Listed| {
            let name = listed.name.strip_prefix(&self.prefix)?.to_string();
            Some(Listed { name, ..listed })
        };
        let mut found: Vec<Listed> = found.into_iter().filter_map(inner).collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Removes an object; content if there is none.
    ///
    /// # Errors
    /// If the store refuses.
    pub fn delete(&self, name: &str) -> Result<(), StoreError> {
        let full = self.full(name);
        self.tried(|| self.objects.delete(&full).map(Some)).map(|_| ())
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Tries until there is a result or an error that does not pass; `None` if there was never a result.
    fn tried<T>(&self, mut once: impl FnMut() -> Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
        let mut pause = self.pause;
        for n_tries in 1..=TRIES {
            match once() {
                Ok(Some(done)) => return Ok(Some(done)),
                Ok(None) => {}
                Err(error) if error.may_pass() && n_tries < TRIES => {}
                Err(error) => return Err(error),
            }
            if n_tries < TRIES {
                std::thread::sleep(pause);
                pause *= 2;
            }
        }
        Ok(None)
    }
}

/// What another writer may have stored under the name of our bytes: of the same kind, with longer reasons for what failed.
fn limit_of(bytes: &[u8]) -> u64 {
    (bytes.len() as u64).saturating_mul(4).saturating_add(16 << 20)
}

/// With the pauses, 12 seconds at most; implementations may try for longer themselves.
const TRIES: u32 = 7;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
