//! burn over our kernels: the operators of the student family, their gradients, sums over masks, AdamW's step, a profile.
//!
//! It never sees data, files or a network's layout. Where a device has our kernels they compute; elsewhere the same functions
//! are made of burn's own operators.

#![warn(clippy::wildcard_enum_match_arm, reason = "a new operator is a compile error wherever it matters")]

pub mod layers;
pub mod mask_sums;
pub mod masked;
pub mod masks;
pub mod network;
pub mod ops;
pub mod profile;
pub mod prompts;
