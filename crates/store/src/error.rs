//! Why an object could not be reached.

use std::error::Error;

use sensei_files::error::FileError;

/// An object, or a place of objects, that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store refused, or could not be reached.
    #[error("{object}: cannot {action}")]
    Object {
        /// The object's address.
        object: String,
        /// What was tried: `create`, `put`, `get`, `list`, `delete`.
        action: &'static str,
        /// Whether it may work the next time: a server that is busy, a connection that broke.
        may_pass: bool,
        /// The store's reason.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The file system refused.
    #[error(transparent)]
    File(#[from] FileError),
    /// The object is larger than what it may hold.
    #[error("{object}: expected at most {limit} bytes, found more")]
    TooLarge {
        /// The object's address.
        object: String,
        /// Bytes allowed.
        limit: u64,
    },
    /// The store takes two creations of one name.
    #[error(
        "{place}: expected a store that creates an object only where none stands (If-None-Match), found one that replaces it: \
         several writers cannot be told apart there; choose another store, or a folder"
    )]
    NoConditionalCreate {
        /// Its address.
        place: String,
    },
    /// The store says that an object is there, and does not give it.
    #[error("{object}: expected the object that the store says is there, found none in {tries} tries")]
    Absent {
        /// The object's address.
        object: String,
        /// How often it was asked.
        tries: u32,
    },
    /// An address that names no place.
    #[error(
        "{address}: expected a folder, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX, found {found}"
    )]
    Address {
        /// As it was given.
        address: String,
        /// What is wrong with it.
        found: String,
    },
    /// An object store, in a program that was built without them.
    #[error(
        "{address}: this program was built without object stores: `cargo build --release --features object-store`, or a folder"
    )]
    NotBuilt {
        /// As it was given.
        address: String,
    },
}

impl StoreError {
    /// Whether it may work the next time.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Object { may_pass: true, .. })
    }
}
