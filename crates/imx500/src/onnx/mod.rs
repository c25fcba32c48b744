//! The ONNX dialect that the vendor's converter takes. Described in `docs/formats/onnx-dialect.md`.

pub mod constants;
mod error;
pub mod outline;
mod parts;
#[allow(clippy::wildcard_enum_match_arm, reason = "what a file's values may be, not operators")]
mod read;
mod write;

pub use error::OnnxError;
pub use read::{OnnxFile, from_bytes, read_onnx};
pub use write::write_onnx;

/// Limits of the `Clip` that is ReLU6.
const RELU6: [f32; 2] = [0.0, 6.0];
/// Attributes of a `Resize` that repeats pixels.
const NEAREST_2X: [(&str, &str); 3] =
    [("coordinate_transformation_mode", "asymmetric"), ("mode", "nearest"), ("nearest_mode", "floor")];
/// Attributes of a `Resize` between pixels.
const BILINEAR_2X: [(&str, &str); 2] = [("coordinate_transformation_mode", "half_pixel"), ("mode", "linear")];
