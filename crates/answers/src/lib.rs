//! The cache of teacher outputs: format, writer, strict reader, verification, and the import of raw dumps.
//!
//! It never runs a teacher, never trains, and never answers for an instance that is not in the cache. The file format is
//! `docs/formats/teacher-cache.md`, the dump that the Python exporters write `docs/formats/teacher-dump.md`.

pub mod cache;
pub mod error;
pub mod import;
mod import_dump;
mod import_roi96;
pub mod key;
pub mod manifest;
pub mod record;
mod record_bytes;
pub mod resample;
mod shard;
pub mod verify;
pub mod writer;
