//! Students: configuration to graph to weights, and the forward pass.
//!
//! This crate never sees data sets, losses or file formats other than weights.

pub mod features;
pub mod fold;
pub mod inference;
pub mod init;
pub mod mixed;
pub mod student;
pub mod unet;
pub mod weights;
