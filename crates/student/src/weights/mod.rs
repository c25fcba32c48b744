//! Named weights: what a checkpoint holds, under the names PyTorch gives its tensors.

use std::path::PathBuf;

use safetensors::SafeTensorError;
use sensei_files::error::FileError;

mod archive;
mod checkpoint;
mod elements;
mod file;
mod foreign;
mod imagenet;
mod legacy;
mod matching;
mod pickle;
mod state_dict;
mod views;

pub use checkpoint::{CheckpointError, LeftOut};
pub use elements::ElementType;
pub use file::{
    MAX_WEIGHTS_FILE_BYTES, METADATA_CONFIG, METADATA_GRAPH, WeightsFile, read_weights, weights_metadata, weights_of,
    write_weights,
};
pub use imagenet::{EncoderNote, with_published_encoder};
pub use matching::match_weights;
pub use pickle::PickleError;

/// Weights that cannot be read, written, or given to a network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// A file that cannot be read or written, or is larger than any weights.
    #[error(transparent)]
    File(#[from] FileError),
    /// Neither a PyTorch archive nor whole and consistent safetensors.
    #[error("{path}: expected safetensors or a PyTorch checkpoint")]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong, read as safetensors.
        source: SafeTensorError,
    },
    /// A file that a download or a program left in the place of weights.
    #[error("{path}: expected safetensors or a PyTorch checkpoint, found {found}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is, with what to do.
        found: String,
    },
    /// The tensors are not those that the file was written with.
    #[error("{path}: changed since it was written: expected tensors of digest {expected}, found {found}")]
    Content {
        /// The file.
        path: PathBuf,
        /// In its metadata.
        expected: String,
        /// Of its tensors.
        found: String,
    },
    /// A PyTorch file that is not a dictionary of tensors.
    #[error("{path}: expected a PyTorch checkpoint of named tensors")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: CheckpointError,
    },
    /// A tensor of integers or of a rare float type.
    #[error("{path}: {name}: expected floats of 16, 32 or 64 bits, found {found}")]
    ElementType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its element type.
        found: String,
    },
    /// The file says that it belongs to another network.
    #[error("{path}: expected weights of graph {expected}, found those of graph {found}")]
    OtherGraph {
        /// The file.
        path: PathBuf,
        /// Digest of the network.
        expected: String,
        /// Digest in the file.
        found: String,
    },
    /// The file's description of its network cannot be read.
    #[error("{path}: expected a student's setting in its metadata")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The network needs a tensor that is not there.
    #[error("{origin}: {name}: expected a tensor of shape {expected:?}, found {found}")]
    Missing {
        /// The file, or what else the weights came from.
        origin: String,
        /// The tensor.
        name: String,
        /// Its shape.
        expected: Vec<usize>,
        /// What is there instead: the first names, with shapes.
        found: String,
    },
    /// The names fit twice, under two prefixes.
    #[error("{origin}: expected one set of weights, found two: behind {first:?} and behind {second:?}; save one alone")]
    Ambiguous {
        /// The file, or what else the weights came from.
        origin: String,
        /// A prefix.
        first: String,
        /// Another.
        second: String,
    },
    /// A tensor that the network does not have.
    #[error("{origin}: {name}: expected no such tensor in this network, found one of shape {found:?}")]
    Unexpected {
        /// The file, or what else the weights came from.
        origin: String,
        /// The tensor.
        name: String,
        /// Its shape.
        found: Vec<usize>,
    },
    /// A tensor of another shape.
    #[error("{origin}: {name}: expected shape {expected:?}, found {found:?}")]
    Shape {
        /// The file, or what else the weights came from.
        origin: String,
        /// The tensor.
        name: String,
        /// Shape in the network.
        expected: Vec<usize>,
        /// Shape given.
        found: Vec<usize>,
    },
    /// An infinite value or one that is not a number.
    #[error("{origin}: {name}[{idx}]: expected a finite 32-bit float, found {found}")]
    NotFinite {
        /// The file, or what else the weights came from.
        origin: String,
        /// The tensor.
        name: String,
        /// Index of the first such value.
        idx: usize,
        /// The value.
        found: f32,
    },
    /// An input normalisation that no image can have.
    #[error("input normalisation: expected finite means and positive deviations, found mean {mean:?}, std {std:?}")]
    Normalization {
        /// Mean of each channel, pixels in 0 to 1.
        mean: [f64; 3],
        /// Deviation of each channel, pixels in 0 to 1.
        std: [f64; 3],
    },
    /// The constant part of an input normalisation has no tensor to go into.
    #[error("{conv}: expected a bias or batch norm that can take the input normalisation, found neither")]
    NoConstant {
        /// The convolution.
        conv: String,
    },
}
