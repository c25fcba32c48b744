//! Named weights: what a checkpoint holds, under the names PyTorch gives its tensors.

use std::path::PathBuf;

use safetensors::SafeTensorError;
use sensei_files::error::FileError;
use sensei_graph::layer_graph::LayerGraph;
use sensei_tensor::network::NamedWeights;

mod checkpoint;
mod elements;
mod file;
mod pickle;

pub use checkpoint::CheckpointError;
pub use elements::ElementType;
pub use file::{
    MAX_WEIGHTS_FILE_BYTES, METADATA_CONFIG, METADATA_GRAPH, WeightsFile, read_weights, weights_metadata, write_weights,
};
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
    /// A PyTorch archive that is not a dictionary of tensors.
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
    #[error("{origin}: {name}: expected a tensor of shape {expected:?}, found none")]
    Missing {
        /// The file, or what else the weights came from.
        origin: String,
        /// The tensor.
        name: String,
        /// Its shape.
        expected: Vec<usize>,
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

/// The tensors of `weights` that `graph` names, all of them and no others, a `module.` in front of a name removed.
///
/// `origin` begins the text of an error: the path of a file, or words.
///
/// # Errors
/// If a tensor is missing, is not of this network, or has another shape or a value that is not finite.
pub fn match_weights(graph: &LayerGraph, weights: &NamedWeights, origin: &str) -> Result<NamedWeights, WeightsError> {
    let origin = || origin.to_string();
    let mut given = NamedWeights::new();
    for (name, tensor) in weights {
        let bare = name.strip_prefix("module.").unwrap_or(name);
        if given.insert(bare.to_string(), tensor.clone()).is_some() {
            let (name, found) = (name.clone(), tensor.shape.clone());
            return Err(WeightsError::Unexpected { origin: origin(), name, found });
        }
    }
    let mut matched = NamedWeights::new();
    for spec in graph.tensors() {
        let (name, expected) = (spec.name, spec.shape);
        let Some(tensor) = given.remove(&name) else {
            return Err(WeightsError::Missing { origin: origin(), name, expected });
        };
        if tensor.shape != expected || tensor.values.len() != expected.iter().product::<usize>() {
            return Err(WeightsError::Shape { origin: origin(), name, expected, found: tensor.shape });
        }
        if let Some(idx) = tensor.values.iter().position(|value| !value.is_finite()) {
            return Err(WeightsError::NotFinite { origin: origin(), name, idx, found: tensor.values[idx] });
        }
        matched.insert(name, tensor);
    }
    match given.pop_first() {
        Some((name, tensor)) => Err(WeightsError::Unexpected { origin: origin(), name, found: tensor.shape }),
        None => Ok(matched),
    }
}
