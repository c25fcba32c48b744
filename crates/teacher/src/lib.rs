//! Asks a teacher about the images of a data set: preprocessing, prompts, batches, and the cache or shared store of what it
//! answers.
//!
//! It never trains, and never answers for an image that the teacher has not seen.

mod asking;
pub mod build;
pub mod error;
pub mod frame;
mod native;
mod onnx;
pub mod onnx_error;
mod picture;
pub mod prompted;
pub mod propose;
mod record;
pub mod shared;
pub mod teacher;
