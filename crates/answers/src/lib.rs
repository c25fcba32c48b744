//! The store of a teacher's answers: typed key, records, shards, strict reader, verification, a store that many machines fill, and the
//! import of raw dumps.
//!
//! It never runs a teacher, never trains, and never answers for an object or image that is not in the store. The file formats
//! are `docs/formats/teacher-cache.md` and `docs/formats/shared-store.md`, the dump that the Python exporters write
//! `docs/formats/teacher-dump.md`.

pub mod asked;
pub mod compare;
pub mod error;
mod feature_bytes;
pub mod features;
pub mod folder_store;
mod format1;
pub mod import;
mod import_dump;
mod import_roi96;
mod index;
pub mod joined_store;
pub mod kept;
pub mod key;
pub mod manifest;
mod mask_bytes;
pub mod record;
mod record_bytes;
pub mod resample;
mod sentences;
mod shard;
mod shard_buffer;
pub mod shared;
pub mod store;
pub mod verify;
pub mod writer;
