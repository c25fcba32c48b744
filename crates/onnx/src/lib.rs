//! ONNX files that stock runtimes open: a builder of graphs, networks of convolutions in floats and in integers, encoders
//! of attention, and SAM's decoder.
//!
//! It never runs a network, and knows nothing of burn or of the chip's dialect, which is `sensei-imx500`'s.

pub mod builder;
pub mod encoder;
mod layers;
mod operators;
pub mod proto;
pub mod quantized;
pub mod sam_decoder;
pub mod tiny_vit;
pub mod vit;
