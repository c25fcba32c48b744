//! Packed samples: what the crops of a split need, in a file that is made once and mapped into memory.
//!
//! Of each instance it holds the pixels, as decoded, that any of its augmented crops can need, its mask, and its crop before
//! augmentation. So samples are those of the image files, bit for bit, and no image is decoded. The teacher's answers stay in their store.
//! Layout: `docs/formats/packed-samples.md`.

mod bytes;
pub mod error;
pub mod key;
pub mod pack;
pub mod record;
pub mod write;
