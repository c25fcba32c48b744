//! What is wrong with an ONNX file.

use std::path::PathBuf;

use sensei_files::error::FileError;
use sensei_int8::grid::GridError;
use sensei_int8::model::ModelError;

/// A file that is not of the dialect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// The file cannot be read, or is longer than 32 MiB.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not protobuf, or more parts than any network has.
    #[error("{path}: not an ONNX file: {reason}")]
    Protobuf {
        /// The file.
        path: PathBuf,
        /// What broke.
        reason: String,
    },
    /// ONNX, but not what the dialect allows.
    #[error("{path}: {node}: {what}: expected {expected}, found {found}")]
    Dialect {
        /// The file.
        path: PathBuf,
        /// The node's name, or `graph`.
        node: String,
        /// Which part.
        what: &'static str,
        /// What the dialect has there.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// A threshold on which the chip's rescale would not be exact.
    #[error("{path}: {node}: channel {channel}: {source}")]
    OffGrid {
        /// The file.
        path: PathBuf,
        /// The quantizer's name.
        node: String,
        /// Output channel; 0 for an activation.
        channel: usize,
        /// The threshold.
        source: GridError,
    },
    /// The dialect, but a network that cannot be run.
    #[error("{path}: {source}")]
    Model {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: ModelError,
    },
}
