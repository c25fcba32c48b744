//! A place by its address.

use std::path::Path;
use std::sync::Arc;

use crate::error::StoreError;
use crate::folder::Folder;
use crate::place::Place;

/// Whether an address is one of an object store, and not a folder's path.
pub fn is_remote(address: &str) -> bool {
    address.contains("://")
}

/// Opens a place: a folder, or `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`. Nothing is asked of it yet.
///
/// `options` are credentials, region, endpoint and the like by the names of the stores' environment variables, such as
/// `AWS_ACCESS_KEY_ID`; names that a store does not know are passed over.
///
/// # Errors
/// `Address`; `NotBuilt`, where this crate was built without object stores.
pub fn open(address: &str, options: &[(String, String)]) -> Result<Place, StoreError> {
    if address.is_empty() {
        return Err(StoreError::Address { address: address.into(), found: "nothing".into() });
    }
    if is_remote(address) {
        return open_remote(address, options);
    }
    Ok(Place::new(address, Arc::new(Folder::new(Path::new(address)))))
}

/// Whether this crate was built with object stores.
pub const HAS_REMOTE: bool = cfg!(feature = "remote");

#[cfg(feature = "remote")]
fn open_remote(address: &str, options: &[(String, String)]) -> Result<Place, StoreError> {
    let (objects, prefix) = crate::remote::Remote::open(address, options)?;
    let place = Place::new(address, Arc::new(objects));
    Ok(place.at_prefix(&prefix))
}

#[cfg(not(feature = "remote"))]
fn open_remote(address: &str, _: &[(String, String)]) -> Result<Place, StoreError> {
    Err(StoreError::NotBuilt { address: address.into() })
}
