//! Annotation files, masks, images and downloads: real ones, golden ones and broken ones.
#![expect(clippy::disallowed_methods, reason = "tests make the files they read")]
#![allow(clippy::unwrap_used)] // all of this is tests, but clippy only knows functions marked so

mod check;
mod dataset;
mod fetch;
mod image_file;
mod jpeg_kinds;
mod rle;
