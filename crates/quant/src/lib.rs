//! From a float student to the chip's grid: folding, thresholds, fake-quant, lowering.
//!
//! It never reads or writes files and never knows a device by name: the grids, and what integers mean on them, are
//! `sensei-int8`'s.

#![warn(clippy::wildcard_enum_match_arm, reason = "a new operator is a compile error wherever it matters")]

pub mod calibration;
pub mod compare;
pub mod equalize;
pub mod error;
pub mod fake_quant;
pub mod folded;
pub mod gptq;
mod grid_rule;
pub mod grid_student;
pub mod histogram;
pub mod lower;
pub mod qat;
pub mod sensitivity;
pub mod thresholds;
