//! Weight files: safetensors in and out, PyTorch checkpoints in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensorError, SafeTensors};
use sensei_files::bounded::read_bounded;
use sensei_files::whole::write_whole;
use sensei_graph::layer_graph::LayerGraph;

use super::WeightsError;
use super::checkpoint::{Checkpoint, LeftOut, PICKLE_START, RawTensor, ZIP_START, read_checkpoint};
use super::elements::ElementType;
use super::foreign::foreign_kind;
use super::matching::{is_prefixed, select};
use crate::unet::UnetConfig;
use sensei_tensor::network::{HostTensor, NamedWeights, weights_digest};

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
    /// The keys of the checkpoint that lead to the weights, joined by dots; none if they are the whole file.
    pub path_inside: Option<String>,
    /// Entries that were left out: `num_batches_tracked`, integers, optimiser state, other sets of weights.
    pub ignored: Vec<LeftOut>,
}

/// Largest file that is read, in bytes: several times the largest network [`UnetConfig`] allows in practice.
pub const MAX_WEIGHTS_FILE_BYTES: u64 = 2 << 30;

/// Metadata key of [`LayerGraph::digest`].
pub const METADATA_GRAPH: &str = "sensei.graph";

/// Metadata key of a [`UnetConfig`] as JSON.
pub const METADATA_CONFIG: &str = "sensei.config";

/// Metadata key of the digest of all tensors, which a reader holds them to: a flipped bit is no error else, but other weights.
pub const METADATA_CONTENT: &str = "sensei.content";

/// Reads a safetensors file or a PyTorch checkpoint of either layout; which of them, its first bytes tell.
///
/// A checkpoint's weights are the dictionary of tensors under `state_dict`, `model_state_dict`, `model` or another usual
/// name, whatever lies beside it, or the whole. Classes and functions in it are skipped: nothing is imported or called.
///
/// # Errors
/// If the file is neither, is larger than [`MAX_WEIGHTS_FILE_BYTES`], is cut or inconsistent, or all its tensors are of
/// element types that are no floats.
pub fn read_weights(path: &Path) -> Result<WeightsFile, WeightsError> {
    weights_of(path, &read_bounded(path, MAX_WEIGHTS_FILE_BYTES)?)
}

/// [`read_weights`] of bytes that are there already; errors name them by `path`.
///
/// # Errors
/// As there, but for files that cannot be read.
pub fn weights_of(path: &Path, bytes: &[u8]) -> Result<WeightsFile, WeightsError> {
    let (raw, metadata) = if bytes.starts_with(ZIP_START) || is_pickle(bytes) {
        let malformed = |source| WeightsError::Checkpoint { path: path.into(), source };
        (read_checkpoint(bytes).map_err(malformed)?, BTreeMap::new())
    } else if let Some(found) = foreign_kind(bytes) {
        return Err(WeightsError::Foreign { path: path.into(), found });
    } else {
        read_safetensors(bytes).map_err(|source| WeightsError::Safetensors { path: path.into(), source })?
    };
    let Checkpoint { path: path_inside, tensors: raw, mut ignored } = raw;
    let (mut tensors, mut converted) = (NamedWeights::new(), BTreeMap::new());
    for (name, RawTensor { shape, element, values }) in raw {
        let Some(values) = values.filter(|_| !name.ends_with(COUNTER)) else {
            ignored.push(LeftOut { name, found: format!("{element} of shape {shape:?}") });
            continue;
        };
        if element != ElementType::F32 {
            converted.insert(name.clone(), element);
        }
        tensors.insert(name, HostTensor { shape, values });
    }
    if tensors.is_empty()
        && let Some(LeftOut { name, found }) = ignored.iter().find(|entry| !entry.name.ends_with(COUNTER))
    {
        return Err(WeightsError::ElementType { path: path.into(), name: name.clone(), found: found.clone() });
    }
    if let Some(expected) = metadata.get(METADATA_CONTENT) {
        let found = weights_digest(&tensors);
        if found != *expected {
            return Err(WeightsError::Content { path: path.into(), expected: expected.clone(), found });
        }
    }
    Ok(WeightsFile { path: path.into(), tensors, metadata, converted, path_inside, ignored })
}

impl WeightsFile {
    /// The tensors that `graph` names, under its names. Prefixes are taken off as by
    /// [`match_weights`](super::match_weights); what is not under the prefix is left out.
    ///
    /// # Errors
    /// If the file says that it is of another graph, or its tensors are not those of `graph`.
    pub fn for_graph(&self, graph: &LayerGraph) -> Result<NamedWeights, WeightsError> {
        let digest = graph.digest();
        if let Some(found) = self.metadata.get(METADATA_GRAPH).filter(|found| **found != digest) {
            let (path, found) = (self.path.clone(), found.clone());
            return Err(WeightsError::OtherGraph { path, expected: digest, found });
        }
        let origin = self.path.display().to_string();
        let matched = select(graph, &self.tensors, &origin)?.matched(graph, &origin);
        matched.map_err(|error| match &error {
            WeightsError::Missing { name, .. } => self.no_floats(name).unwrap_or(error),
            _ => error,
        })
    }

    /// What was left out but for counters of batches, which every file has and nothing needs.
    pub fn left_out(&self) -> impl Iterator<Item = &LeftOut> {
        self.ignored.iter().filter(|entry| !entry.name.ends_with(COUNTER))
    }

    /// One line on where in the file the weights of `graph` are and what of it was left out, counters of batches aside;
    /// none if nothing is to be said.
    pub fn note(&self, graph: &LayerGraph) -> Option<String> {
        let selection = select(graph, &self.tensors, "").ok()?;
        let beside = selection.beside.iter().map(|name| format!("{name} {:?}", self.tensors[*name].shape));
        let ignored = self.left_out().map(|LeftOut { name, found }| format!("{name} ({found})"));
        let left_out: Vec<String> = ignored.chain(beside).collect();
        let mut parts = vec![];
        match (&self.path_inside, selection.prefix.as_str()) {
            (None, "") => {}
            (None, prefix) => parts.push(format!("the weights are those named {prefix}*")),
            (Some(inside), "") => parts.push(format!("the weights are those under {inside}")),
            (Some(inside), prefix) => parts.push(format!("the weights are those under {inside} named {prefix}*")),
        }
        if !left_out.is_empty() {
            let more = left_out.len().saturating_sub(MAX_NOTED);
            let first = left_out[..left_out.len() - more].join(", ");
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            parts.push(format!("left out: {first}{more}"));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// The error for a tensor that is there, but not as floats.
    fn no_floats(&self, name: &str) -> Option<WeightsError> {
        let entry = self.ignored.iter().find(|entry| is_prefixed(&entry.name, name))?;
        let LeftOut { name, found } = entry.clone();
        Some(WeightsError::ElementType { path: self.path.clone(), name, found })
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

/// Entries that [`WeightsFile::note`] names.
const MAX_NOTED: usize = 8;

/// Longest header of safetensors, in bytes: the crate's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Safetensors begin with the length of their header in 8 bytes, the first of which may be [`PICKLE_START`]. Those of a
/// pickle make a length that no header has.
fn is_pickle(bytes: &[u8]) -> bool {
    let length = bytes.first_chunk().map(|length| u64::from_le_bytes(*length));
    bytes.starts_with(PICKLE_START) && length.is_some_and(|length| length > MAX_HEADER_BYTES)
}

fn read_safetensors(bytes: &[u8]) -> Result<(Checkpoint, BTreeMap<String, String>), SafeTensorError> {
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    let metadata = header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    let (mut tensors, mut ignored) = (BTreeMap::new(), vec![]);
    for (name, view) in SafeTensors::deserialize(bytes)?.tensors() {
        let shape = view.shape().to_vec();
        let Some(element) = element(view.dtype()) else {
            ignored.push(LeftOut { name, found: format!("{:?} of shape {shape:?}", view.dtype()) });
            continue;
        };
        let values = view.data().chunks_exact(element.bytes()).map(|bytes| element.value(bytes)).collect();
        tensors.insert(name, RawTensor { shape, element, values });
    }
    Ok((Checkpoint { path: None, tensors, ignored }, metadata))
}

fn element(dtype: Dtype) -> Option<ElementType> {
    Some(match dtype {
        Dtype::F16 => ElementType::F16,
        Dtype::BF16 => ElementType::Bf16,
        Dtype::F32 => ElementType::F32,
        Dtype::F64 => ElementType::F64,
        Dtype::BOOL | Dtype::U8 | Dtype::I8 => ElementType::Integer(1),
        Dtype::I16 | Dtype::U16 => ElementType::Integer(2),
        Dtype::I32 | Dtype::U32 => ElementType::Integer(4),
        Dtype::I64 | Dtype::U64 => ElementType::Integer(8),
        _ => return None,
    })
}

/// Written here and not by the safetensors crate, which lists metadata in an order that changes from run to run.
fn safetensors_bytes(weights: &NamedWeights, metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut metadata = metadata.clone();
    metadata.insert(METADATA_CONTENT.into(), weights_digest(weights));
    header.insert("__metadata__".into(), serde_json::json!(metadata));
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
