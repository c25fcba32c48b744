//! What an implementation of a store does.

use std::fmt;
use std::time::SystemTime;

use crate::error::StoreError;

/// Named objects. It can be used from many threads at once.
///
/// An implementation tries once. What follows from a failure, or from an answer that was lost, is decided in
/// [`Place`](crate::place::Place), so that every store is used by the same rules. Names are words of letters, digits, `-`, `_` and
/// `.`, joined by `/`.
pub trait Objects: fmt::Debug + Send + Sync {
    /// Stores an object under a name that has none. Never replaces one.
    ///
    /// # Errors
    /// If the store refuses for another reason than that the name is taken.
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError>;

    /// Stores an object, in the place of one that may be there.
    ///
    /// # Errors
    /// If the store refuses.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError>;

    /// The bytes of an object of at most `limit` bytes; `None` if there is none of this name.
    ///
    /// # Errors
    /// If it is larger, or the store refuses.
    fn get(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError>;

    /// All objects below a folder, at any depth, in no order; all of the store for an empty name.
    ///
    /// # Errors
    /// If the store refuses.
    fn list(&self, folder: &str) -> Result<Vec<Listed>, StoreError>;

    /// Removes an object; content if there is none.
    ///
    /// # Errors
    /// If the store refuses.
    fn delete(&self, name: &str) -> Result<(), StoreError>;
}

/// What became of a creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object is stored.
    Now,
    /// The store says that one of this name is there. It may be our own of an earlier try, and some stores say so of two creations at
    /// once of which neither succeeded.
    Taken,
}

/// An object in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name, from the place's root.
    pub name: String,
    /// Length.
    pub bytes: u64,
    /// When it was stored, by the store's clock.
    pub modified: SystemTime,
}
