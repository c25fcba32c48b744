//! The ONNX dialect that the vendor's converter takes. Described in `docs/formats/onnx-dialect.md`.

mod proto;
mod read;
mod write;

pub use read::{OnnxError, OnnxFile, from_bytes, read_onnx};
pub use write::write_onnx;
