//! Checkpoint files: their names, their bytes, and the digest that tells a damaged one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sensei_files::error::FileError;
use sensei_tensor::network::{HostTensor, NamedWeights, weights_digest};
use serde::Deserialize;

use super::{CheckpointHeader, FORMAT};
use crate::error::TrainError;
use crate::run_digests::RunDigests;

/// Metadata key of the header.
pub const METADATA_HEADER: &str = "sensei_checkpoint";

pub(super) fn file_name(step: u64) -> String {
    format!("step-{step:08}.safetensors")
}

/// The checkpoint with the most steps in a folder, if there is one.
///
/// # Errors
/// If the folder is there but cannot be listed.
pub fn latest(dir: &Path) -> Result<Option<PathBuf>, TrainError> {
    Ok(list(dir)?.pop())
}

/// Removes all but the `keep` newest checkpoints.
///
/// # Errors
/// If the folder cannot be listed or a file not removed.
pub fn prune(dir: &Path, keep: usize) -> Result<(), TrainError> {
    let mut paths = list(dir)?;
    paths.truncate(paths.len().saturating_sub(keep));
    for path in paths {
        fs::remove_file(&path).map_err(FileError::io(&path, "remove"))?;
    }
    Ok(())
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, TrainError> {
    if !dir.exists() {
        return Ok(vec![]);
    }
    let mut steps = vec![];
    for entry in fs::read_dir(dir).map_err(FileError::io(dir, "list"))? {
        // Other files in the folder are somebody else's.
        steps.extend(entry.map_err(FileError::io(dir, "list"))?.file_name().to_str().and_then(step_of));
    }
    steps.sort_unstable();
    Ok(steps.into_iter().map(|step| dir.join(file_name(step))).collect())
}

fn step_of(file: &str) -> Option<u64> {
    let step = file.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok()?;
    (file_name(step) == file).then_some(step)
}

/// Digest of a state: of its header, without what decides the weights and this digest, and of its tensors.
pub(super) fn state_digest(header: &CheckpointHeader, tensors: &NamedWeights) -> String {
    let of_state = CheckpointHeader { run: RunDigests::default(), state_digest: String::new(), ..header.clone() };
    let header = serde_json::to_string(&of_state).expect("a struct of strings and numbers is JSON");
    blake3::hash(format!("{header}\n{}", weights_digest(tensors)).as_bytes()).to_hex().to_string()
}

pub(super) fn serialize(tensors: &NamedWeights, header: &str) -> Result<Vec<u8>, String> {
    let bytes: BTreeMap<&str, Vec<u8>> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect()))
        .collect();
    let mut views = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), &bytes[name.as_str()]);
        views.push((name.as_str(), view.map_err(|error| format!("{name}: {error}"))?));
    }
    let metadata = [(METADATA_HEADER.to_string(), header.to_string())].into();
    safetensors::serialize(views, Some(metadata)).map_err(|error| error.to_string())
}

/// The header of a checkpoint whose tensors are those that it was written with.
///
/// # Errors
/// If the file cannot be read, or is no checkpoint of this format, or a damaged one.
pub fn verified_header(path: &Path) -> Result<CheckpointHeader, TrainError> {
    read(path).map(|(header, _)| header)
}

pub(super) fn read(path: &Path) -> Result<(CheckpointHeader, NamedWeights), TrainError> {
    let broken = |problem: String| TrainError::BrokenCheckpoint { path: path.to_path_buf(), problem };
    let bytes = fs::read(path).map_err(FileError::io(path, "read"))?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| broken(error.to_string()))?;
    let header = metadata.metadata().as_ref().and_then(|map| map.get(METADATA_HEADER));
    let header = header.ok_or_else(|| broken("no sensei_checkpoint entry in its metadata".into()))?;
    let found = serde_json::from_str::<FormatOnly>(header).map_err(|error| broken(error.to_string()))?.format;
    if found != FORMAT {
        return Err(broken(format!("checkpoint format: expected {FORMAT}, found {found}")));
    }
    let header: CheckpointHeader = serde_json::from_str(header).map_err(|error| broken(error.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| broken(error.to_string()))?;
    let mut tensors = NamedWeights::new();
    for (name, view) in file.tensors() {
        if view.dtype() != Dtype::F32 {
            return Err(broken(format!("{name}: expected F32, found {:?}", view.dtype())));
        }
        let values = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        tensors.insert(name, HostTensor { shape: view.shape().to_vec(), values });
    }
    let found = state_digest(&header, &tensors);
    if found != header.state_digest {
        return Err(broken(format!("damaged: expected a state of digest {}, found {found}", header.state_digest)));
    }
    Ok((header, tensors))
}

/// What every version of the header has.
#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}
