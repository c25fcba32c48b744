//! Integer models, their arithmetic, files and budget on Sony's IMX500.
//!
//! It never trains, calibrates or reads images: it takes finished integers, runs them as the chip does, writes the
//! files that the vendor's converter takes, and makes of what it gives the file that a camera loads. Facts about the
//! chip come from converter 3.19.2, observed as a black box.

pub mod coefficients;
mod conv;
mod conv_layout;
pub mod converter;
pub mod dnn_params;
mod files;
pub mod fit_report;
pub mod grid;
pub mod interpreter;
pub mod memory;
pub mod model;
pub mod model_file;
pub mod onnx;
pub mod packer_out;
pub mod recording;
#[cfg(test)]
mod reference;
pub mod refusal;
pub mod rpk;
mod simd;
