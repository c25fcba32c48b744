//! Students: configuration to graph to weights, and the forward pass.
//!
//! This crate never sees data sets, losses or file formats other than weights.

#![warn(clippy::wildcard_enum_match_arm, reason = "a new operator is a compile error wherever it matters")]

pub mod features;
pub mod fold;
pub mod inference;
pub mod init;
pub mod lite0;
pub mod lite_fpn;
pub mod lite_unet;
pub mod mixed;
pub mod pyramid;
pub mod rep_fpn;
pub mod student;
pub mod unet;
#[allow(clippy::wildcard_enum_match_arm, reason = "what a file's values may be, not operators")]
pub mod weights;
