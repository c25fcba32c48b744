//! Images, masks, prompts and deterministic samples from COCO and LVIS files.
//!
//! This crate never touches a model, a tensor library or an unseeded random number, and never approximates a file it
//! does not understand: what is wrong with it is an error that names file, id, expected and found.

pub mod augment;
pub mod boundary;
pub mod check;
pub mod coco_writer;
pub mod crop;
pub mod crop_name;
pub mod crop_rule;
pub mod dataset;
pub mod detections;
#[cfg(feature = "fetch")]
pub mod fetch;
pub mod geometry;
pub mod image_file;
pub mod image_header;
pub mod image_part;
pub mod joined;
pub mod mask;
pub mod paste;
pub mod pixel_means;
pub mod polygon;
pub mod prompt_name;
pub mod prompt_source;
pub mod resize;
pub mod rle;
pub mod sampling;
pub mod split;
pub mod synth;
pub mod turn;

mod chroma_edges;
mod coco;
mod coco_json;
mod exif;
mod filter;
mod jpeg;
mod jpeg_header;
mod json_value;
mod large_images;
mod object_pixels;
mod outline;
