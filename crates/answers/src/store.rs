//! Where answers are read from, whatever it is: a folder today.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use crate::error::CacheError;
use crate::features::FeatureRecord;
use crate::kept::RecordKind;
use crate::manifest::Manifest;
use crate::record::{MaskRecord, RecordFault, RecordId};

/// A teacher's answers by id. It can be read from many threads at once.
///
/// An implementation finds records and returns their bytes. What is in them is read here, so that every store refuses the
/// same damage.
pub trait Store: fmt::Debug + Send + Sync {
    /// What it holds.
    fn manifest(&self) -> &Manifest;

    /// Its folder or address, for messages.
    fn location(&self) -> &Path;

    /// The ids of all records, ascending: of annotations or images, by the kind of what is kept.
    fn ids(&self) -> Vec<u64>;

    /// Whether there is a record of this id.
    fn contains(&self, id: u64) -> bool;

    /// A record as it is stored; `None` if there is none of this id.
    ///
    /// # Errors
    /// If it cannot be fetched.
    fn stored(&self, id: u64) -> Result<Option<StoredRecord<'_>>, CacheError>;

    /// The teacher's answer about an object.
    ///
    /// # Errors
    /// `OtherKind`, if the store holds no masks; `NoRecord`; `Damaged`, if the record is not as it was written or not what the
    /// store's key says.
    fn masks(&self, annotation_id: u64) -> Result<MaskRecord, CacheError> {
        let (record, stored) = find(self, RecordKind::MaskLogits, annotation_id)?;
        let read = || {
            let masks = MaskRecord::from_bytes(&stored.bytes)?;
            masks.check_key(&self.manifest().key)?;
            check_id(annotation_id, masks.annotation_id)?;
            Ok(masks)
        };
        read().map_err(|fault| damaged(stored.place, record, fault))
    }

    /// The teacher's features of an image. Where the store keeps them in memory, the values are borrowed from it.
    ///
    /// # Errors
    /// `OtherKind`, if the store holds no features; `NoRecord`; `Damaged`, as for [`masks`](Self::masks).
    fn features(&self, image_id: u64) -> Result<FeatureRecord<'_>, CacheError> {
        let (record, stored) = find(self, RecordKind::ImageFeatures, image_id)?;
        let place = stored.place;
        let read = || {
            let features = FeatureRecord::from_bytes(stored.bytes)?;
            features.check_key(&self.manifest().key)?;
            check_id(image_id, features.image.id)?;
            Ok(features)
        };
        read().map_err(|fault| damaged(place, record, fault))
    }
}

/// A record as it is stored.
#[derive(Debug)]
pub struct StoredRecord<'a> {
    /// Its bytes, borrowed where the store has them in memory.
    pub bytes: Cow<'a, [u8]>,
    /// The file or object that they are in, for messages.
    pub place: &'a Path,
}

/// The record of an id, of a store that has records of this kind.
fn find<S: Store + ?Sized>(store: &S, kind: RecordKind, id: u64) -> Result<(RecordId, StoredRecord<'_>), CacheError> {
    let (path, found) = (store.location(), store.manifest().key.kept.kind());
    if found != kind {
        return Err(CacheError::OtherKind { path: path.into(), expected: kind, found });
    }
    let record = RecordId { kind, id };
    store.stored(id)?.map(|stored| (record, stored)).ok_or_else(|| CacheError::NoRecord { path: path.into(), record })
}

pub(crate) fn check_id(expected: u64, found: u64) -> Result<(), RecordFault> {
    if expected == found {
        return Ok(());
    }
    Err(RecordFault::new("id in the record", expected.to_string(), found.to_string()))
}

fn damaged(place: &Path, record: RecordId, fault: RecordFault) -> CacheError {
    let what = format!("{record}: {}", fault.what);
    CacheError::Damaged { path: place.into(), what, expected: fault.expected, found: fault.found }
}
