//! Students: configuration to graph to weights, and the forward pass.
//!
//! This crate never sees data sets, losses or file formats other than weights.

pub mod fold;
pub mod graph;
pub mod inference;
pub mod init;
pub mod mixed;
pub mod ops;
pub mod profile;
pub mod run;
pub mod student;
pub mod summary;
pub mod unet;
pub mod weights;
