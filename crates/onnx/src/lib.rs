//! ONNX files that stock runtimes open: a builder of graphs, image encoders and SAM's decoder.
//!
//! It never runs a network, and knows nothing of burn or of the chip's dialect, which is `sensei-imx500`'s.

pub mod builder;
pub mod encoder;
pub mod proto;
pub mod sam_decoder;
