//! From an annotation to what a network sees and is compared with: selection, crop, pixels, truth, teacher's answer.
//!
//! It never sees tensors, networks or scores. Training and scoring take their samples from here, so that both see the same.

pub mod batch;
pub mod error;
pub mod image_batch;
pub mod images;
pub mod packed;
pub mod selection;
pub mod source;
pub mod subset_name;
pub mod whole_images;
