//! Weight files: safetensors in and out, PyTorch checkpoints in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use sensei_files::bounded::read_bounded;
use sensei_files::whole::write_whole;
use sensei_graph::layer_graph::LayerGraph;

use super::checkpoint::{Checkpoint, RawTensor, read_checkpoint};
use super::elements::ElementType;
use super::{WeightsError, match_weights};
use crate::unet::UnetConfig;
use sensei_tensor::network::{HostTensor, NamedWeights};

/// Weights read from a file, with what was done to them on the way.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightsFile {
    /// The file.
    pub path: PathBuf,
    /// Its tensors as they are named there.
    pub tensors: NamedWeights,
    /// Its metadata; empty for a PyTorch checkpoint.
    pub metadata: BTreeMap<String, String>,
    /// Names of tensors that were not 32-bit floats and were converted, with the type they had.
    pub converted: BTreeMap<String, ElementType>,
    /// Entries that are not weights and were left out: `num_batches_tracked`, optimiser state and the like.
    pub ignored: Vec<String>,
}

/// Largest file that is read, in bytes: several times the largest network [`UnetConfig`] allows in practice.
pub const MAX_WEIGHTS_FILE_BYTES: u64 = 2 << 30;

/// Metadata key of [`LayerGraph::digest`].
pub const METADATA_GRAPH: &str = "sensei.graph";

/// Metadata key of a [`UnetConfig`] as JSON.
pub const METADATA_CONFIG: &str = "sensei.config";

/// Reads a safetensors file or a PyTorch checkpoint; which of the two, its first bytes tell.
///
/// # Errors
/// If the file is neither, is larger than [`MAX_WEIGHTS_FILE_BYTES`], is cut or inconsistent, or holds a tensor of an
/// element type that is no float.
pub fn read_weights(path: &Path) -> Result<WeightsFile, WeightsError> {
    let bytes = read_bounded(path, MAX_WEIGHTS_FILE_BYTES)?;
    let checkpoint = bytes.starts_with(b"PK");
    let (raw, metadata) = if checkpoint {
        let malformed = |source| WeightsError::Checkpoint { path: path.into(), source };
        (read_checkpoint(&bytes).map_err(malformed)?, BTreeMap::new())
    } else {
        read_safetensors(path, &bytes)?
    };
    let Checkpoint { tensors: raw, mut ignored } = raw;
    let (mut tensors, mut converted) = (NamedWeights::new(), BTreeMap::new());
    for (name, RawTensor { shape, element, values }) in raw {
        if name.ends_with(COUNTER) {
            ignored.push(name);
            continue;
        }
        let Some(values) = values else {
            return Err(WeightsError::ElementType { path: path.into(), name, found: format!("{element:?}") });
        };
        if element != ElementType::F32 {
            converted.insert(name.clone(), element);
        }
        tensors.insert(name, HostTensor { shape, values });
    }
    Ok(WeightsFile { path: path.into(), tensors, metadata, converted, ignored })
}

impl WeightsFile {
    /// The tensors that `graph` names, under its names.
    ///
    /// # Errors
    /// If the file says that it is of another graph, or its tensors are not those of `graph`.
    pub fn for_graph(&self, graph: &LayerGraph) -> Result<NamedWeights, WeightsError> {
        let digest = graph.digest();
        if let Some(found) = self.metadata.get(METADATA_GRAPH).filter(|found| **found != digest) {
            let (path, found) = (self.path.clone(), found.clone());
            return Err(WeightsError::OtherGraph { path, expected: digest, found });
        }
        match_weights(graph, &self.tensors, &self.path.display().to_string())
    }

    /// The setting of the network, if the file tells it.
    ///
    /// # Errors
    /// If what the file tells is no setting.
    pub fn config(&self) -> Result<Option<UnetConfig>, WeightsError> {
        let Some(json) = self.metadata.get(METADATA_CONFIG) else { return Ok(None) };
        let config = serde_json::from_str(json);
        config.map(Some).map_err(|source| WeightsError::Config { path: self.path.clone(), source })
    }
}

/// The metadata by which a file is later recognised as weights of this network.
pub fn weights_metadata(config: &UnetConfig, graph: &LayerGraph) -> BTreeMap<String, String> {
    let config = serde_json::to_string(config).expect("a setting is plain data");
    BTreeMap::from([(METADATA_GRAPH.into(), graph.digest()), (METADATA_CONFIG.into(), config)])
}

/// Writes weights as safetensors: 32-bit floats sorted by name, after a `num_batches_tracked` of 0 per batch norm, which
/// PyTorch's `load_state_dict` asks for and nothing else uses. The same input gives the same bytes.
///
/// The file appears under its name when it is complete and on the disk.
///
/// # Errors
/// If it cannot be written; then nothing is left behind.
pub fn write_weights(
    path: &Path,
    weights: &NamedWeights,
    metadata: &BTreeMap<String, String>,
) -> Result<(), WeightsError> {
    Ok(write_whole(path, &safetensors_bytes(weights, metadata))?)
}

const COUNTER: &str = ".num_batches_tracked";

fn read_safetensors(path: &Path, bytes: &[u8]) -> Result<(Checkpoint, BTreeMap<String, String>), WeightsError> {
    let malformed = |source| WeightsError::Safetensors { path: path.into(), source };
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(malformed)?;
    let metadata = header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    let mut tensors = BTreeMap::new();
    for (name, view) in SafeTensors::deserialize(bytes).map_err(malformed)?.tensors() {
        let element = match view.dtype() {
            Dtype::F16 => ElementType::F16,
            Dtype::BF16 => ElementType::Bf16,
            Dtype::F32 => ElementType::F32,
            Dtype::F64 => ElementType::F64,
            Dtype::BOOL | Dtype::U8 | Dtype::I8 => ElementType::Integer(1),
            Dtype::I16 | Dtype::U16 => ElementType::Integer(2),
            Dtype::I32 | Dtype::U32 => ElementType::Integer(4),
            Dtype::I64 | Dtype::U64 => ElementType::Integer(8),
            other => {
                return Err(WeightsError::ElementType { path: path.into(), name, found: format!("{other:?}") });
            }
        };
        let values = view.data().chunks_exact(element.bytes()).map(|bytes| element.value(bytes)).collect();
        tensors.insert(name, RawTensor { shape: view.shape().to_vec(), element, values });
    }
    Ok((Checkpoint { tensors, ignored: vec![] }, metadata))
}

/// Written here and not by the safetensors crate, which lists metadata in an order that changes from run to run.
fn safetensors_bytes(weights: &NamedWeights, metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), serde_json::json!(metadata));
    }
    let mut data = Vec::new();
    let mut add = |name: String, dtype: &str, shape: &[usize], bytes: &[u8]| {
        let offsets = [data.len(), data.len() + bytes.len()];
        data.extend_from_slice(bytes);
        header.insert(name, serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets }));
    };
    // Counters first: they are 8 bytes each, which keeps every tensor aligned to its elements.
    for norm in weights.keys().filter_map(|name| name.strip_suffix(".running_var")) {
        add(format!("{norm}{COUNTER}"), "I64", &[], &0i64.to_le_bytes());
    }
    for (name, tensor) in weights {
        let bytes: Vec<u8> = tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        add(name.clone(), "F32", &tensor.shape, &bytes);
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}
