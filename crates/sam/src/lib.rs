//! SAM-type networks: image encoders, prompt encoder and mask decoder, under the names that their tensors have where they were published.
//!
//! It never builds graphs for the chip, and never sees files, data sets or images that are not normalised yet.
//!
//! Maps are `[image, height, width, channels]`. Layers are `sensei-tensor`'s, so that a CPU runs our kernels and every other device burn's
//! operators.

pub mod adapters;
pub mod click_to_box;
pub mod efficient_sam;
pub mod encoder_student;
pub mod error;
pub mod exported;
mod fresh;
pub mod granularity;
pub mod hiera;
pub mod mask_decoder;
pub mod masked_vit;
pub mod mobile_sam;
mod own_group;
pub mod prompt_encoder;
pub mod prompted;
pub mod sam2;
pub mod scope;
pub mod student;
pub mod tiny_vit;
pub mod tiny_vit_student;
mod two_way;
pub mod vit;
pub mod vit_student;
pub mod vit_weights;
