//! ONNX files that stock runtimes open: a builder of graphs, image encoders of convolutions and of attention, and SAM's decoder.
//!
//! It never runs a network, and knows nothing of burn or of the chip's dialect, which is `sensei-imx500`'s.

pub mod builder;
pub mod encoder;
mod layers;
pub mod proto;
pub mod sam_decoder;
pub mod vit;
