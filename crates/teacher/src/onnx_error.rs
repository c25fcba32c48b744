//! What is wrong with a pair of ONNX files, or with the onnxruntime that is to run them.

use std::path::PathBuf;

/// A pair that cannot be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OnnxError {
    /// No such library, or not one that can be loaded here.
    #[error("{}: cannot load onnxruntime: {reason}; `pip install onnxruntime` has one, capi/libonnxruntime.so.*", path.display())]
    Library {
        /// The library.
        path: PathBuf,
        /// What the loader says.
        reason: String,
    },
    /// A second library in one process.
    #[error("{}: expected the onnxruntime that is loaded already, {}", path.display(), loaded.display())]
    OtherLibrary {
        /// The library.
        path: PathBuf,
        /// The one that is loaded.
        loaded: PathBuf,
    },
    /// A file that onnxruntime cannot read.
    #[error("{}: onnxruntime cannot use it: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What onnxruntime says.
        reason: String,
    },
    /// A network that is no image encoder or no decoder of the layout of SAM's exports.
    #[error("{}: {what}: expected {expected}, found {found}", path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// Which input or output.
        what: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A pass that failed.
    #[error("{}: onnxruntime failed: {reason}", path.display())]
    Run {
        /// The file.
        path: PathBuf,
        /// What onnxruntime says.
        reason: String,
    },
}
