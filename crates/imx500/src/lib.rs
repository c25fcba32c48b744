//! Sony's IMX500: its ONNX dialect, memory, converter and sensor files.
//!
//! It never sees burn, calibration or images: it takes finished integers, estimates their memory, writes the files that the
//! vendor's converter takes, and makes of what that gives the file that a camera loads. Facts about the chip come from
//! converter 3.19.2, observed as a black box.

#![warn(clippy::wildcard_enum_match_arm, reason = "a new operator is a compile error wherever it matters")]

pub mod coefficients;
mod conv_layout;
pub mod converter;
pub mod dnn_params;
pub mod fit_report;
pub mod memory;
pub mod onnx;
pub mod packer_out;
pub mod recording;
pub mod refusal;
pub mod rpk;
