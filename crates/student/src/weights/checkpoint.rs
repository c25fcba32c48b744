//! PyTorch's zip checkpoints (`torch.save`, `.pt`, `.pth`), read without executing anything in them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{Cursor, Read};

use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

use super::elements::ElementType;
use super::pickle::{Pickle, PickleError, TensorView, Value, ValueId, parse};

/// A tensor of a file, before its name means anything.
pub(super) struct RawTensor {
    pub shape: Vec<usize>,
    pub element: ElementType,
    /// None for integers.
    pub values: Option<Vec<f32>>,
}

/// What a checkpoint holds.
pub(super) struct Checkpoint {
    pub tensors: BTreeMap<String, RawTensor>,
    /// Entries beside the weights: epoch, optimiser and the like.
    pub ignored: Vec<String>,
}

/// An archive that is not a dictionary of tensors as `torch.save` writes it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The archive itself.
    #[error("not a whole zip archive; checkpoints of PyTorch before 1.6 must be saved again by a later one")]
    Zip(#[source] ZipError),
    /// A member that a checkpoint must have.
    #[error("expected one member {expected}, found {found}")]
    Member {
        /// Its name, or how it ends.
        expected: String,
        /// How many there are.
        found: usize,
    },
    /// A member that cannot be read whole.
    #[error("{member}: cannot read")]
    Read {
        /// Its name.
        member: String,
        /// Why; a wrong check sum is one reason.
        source: std::io::Error,
    },
    /// A member that is not as `torch.save` writes it.
    #[error("{member}: expected {expected}, found {found}")]
    Content {
        /// Its name.
        member: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The dictionary.
    #[error(transparent)]
    Pickle(PickleError),
    /// A pickled value of another kind.
    #[error("data.pkl: {name}: expected {expected}, found {found}")]
    Value {
        /// The key it is under, or where it is.
        name: String,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A tensor that reads past the end of its storage.
    #[error(
        "{name}: expected a view into {numel} stored values, found shape {shape:?}, stride {stride:?}, offset {offset}"
    )]
    OutOfBounds {
        /// The tensor.
        name: String,
        /// Values in the storage.
        numel: usize,
        /// Shape of the view.
        shape: Vec<usize>,
        /// Its strides.
        stride: Vec<usize>,
        /// Its offset.
        offset: usize,
    },
    /// Tensors or members that together are far larger than the file.
    #[error("{name}: expected at most {limit} bytes in all, twice the file, found more")]
    TooLarge {
        /// The tensor or member that was one too many.
        name: String,
        /// The limit.
        limit: usize,
    },
}

/// Reads the weights of a checkpoint: the pickled dictionary itself, or the one under `state_dict`,
/// `model_state_dict` or `model` in it.
pub(super) fn read_checkpoint(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let mut archive = Archive::open(bytes)?;
    let byte_order = format!("{}byteorder", archive.folder);
    if archive.zip.index_for_name(&byte_order).is_some() {
        let found = archive.member(&byte_order)?;
        if found != b"little" {
            let (expected, found) = ("little".into(), String::from_utf8_lossy(&found).into_owned());
            return Err(CheckpointError::Content { member: byte_order, expected, found });
        }
    }
    let data = archive.member(&format!("{}data.pkl", archive.folder))?;
    let pickle = parse(&data).map_err(CheckpointError::Pickle)?;
    let (state, mut ignored) = state_dict(&pickle)?;

    let mut tensors = BTreeMap::new();
    let mut storages = BTreeMap::new();
    let mut left = archive.limit;
    for (name, id) in state {
        let Value::Tensor(view) = &pickle.values[id] else {
            ignored.push(name);
            continue;
        };
        let n_values = check_view(&name, view)?;
        left = left
            .checked_sub(n_values.saturating_mul(view.storage.element.bytes()))
            .ok_or_else(|| CheckpointError::TooLarge { name: name.clone(), limit: archive.limit })?;
        let member = format!("{}data/{}", archive.folder, view.storage.key);
        let storage = match storages.entry(view.storage.key) {
            Entry::Occupied(read) => read.into_mut(),
            Entry::Vacant(new) => new.insert(archive.member(&member)?),
        };
        let expected = view.storage.numel.checked_mul(view.storage.element.bytes());
        if expected != Some(storage.len()) {
            let expected = format!("{} values of {} bytes", view.storage.numel, view.storage.element.bytes());
            return Err(CheckpointError::Content { member, expected, found: format!("{} bytes", storage.len()) });
        }
        let tensor = RawTensor {
            shape: view.shape.clone(),
            element: view.storage.element,
            values: gather(view, n_values, storage),
        };
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(CheckpointError::Value { name, expected: "one entry", found: "two".into() });
        }
    }
    Ok(Checkpoint { tensors, ignored })
}

/// Keys and values of a dictionary.
type Entries = Vec<(String, ValueId)>;

struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// What `data.pkl` and all other members begin with: `archive/`.
    folder: String,
    limit: usize,
    /// Bytes that may still be read: members can overlap in a file made for it.
    left: usize,
}

impl<'a> Archive<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self, CheckpointError> {
        let zip = ZipArchive::new(Cursor::new(bytes)).map_err(CheckpointError::Zip)?;
        let mut folders = Vec::new();
        for name in zip.file_names() {
            let name = name.map_err(CheckpointError::Zip)?;
            if let Some(folder) =
                name.strip_suffix("data.pkl").filter(|folder| folder.is_empty() || folder.ends_with('/'))
            {
                folders.push(folder.to_string());
            }
        }
        let limit = bytes.len().saturating_mul(2);
        match <[String; 1]>::try_from(folders) {
            Ok([folder]) => Ok(Self { zip, folder, limit, left: limit }),
            Err(folders) => Err(CheckpointError::Member { expected: "data.pkl".into(), found: folders.len() }),
        }
    }

    fn member(&mut self, name: &str) -> Result<Vec<u8>, CheckpointError> {
        let mut file = match self.zip.by_name(name) {
            Ok(file) => file,
            Err(ZipError::FileNotFound) => return Err(CheckpointError::Member { expected: name.into(), found: 0 }),
            Err(error) => return Err(CheckpointError::Zip(error)),
        };
        if file.compression() != CompressionMethod::Stored {
            let (expected, found) = ("a stored member".into(), format!("one compressed by {}", file.compression()));
            return Err(CheckpointError::Content { member: name.into(), expected, found });
        }
        let size = usize::try_from(file.size()).unwrap_or(usize::MAX);
        let too_large = || CheckpointError::TooLarge { name: name.into(), limit: self.limit };
        self.left = self.left.checked_sub(size).ok_or_else(too_large)?;
        let mut content = Vec::with_capacity(size);
        let read = file.by_ref().take(size as u64 + 1).read_to_end(&mut content);
        read.map_err(|source| CheckpointError::Read { member: name.into(), source })?;
        if content.len() != size {
            let (expected, found) = (format!("{size} bytes"), format!("{} bytes", content.len()));
            return Err(CheckpointError::Content { member: name.into(), expected, found });
        }
        Ok(content)
    }
}

/// The entries of the dictionary of tensors, and the names of what lies beside it.
fn state_dict(pickle: &Pickle) -> Result<(Entries, Vec<String>), CheckpointError> {
    let root = entries(pickle, pickle.root, "the whole")?;
    let is_tensor = |id: &ValueId| matches!(pickle.values[*id], Value::Tensor(_));
    if root.iter().any(|(_, id)| is_tensor(id)) {
        return Ok((root, vec![]));
    }
    for wrapper in ["state_dict", "model_state_dict", "model"] {
        let Some((_, inner)) = root.iter().find(|(name, _)| name == wrapper) else { continue };
        let state = entries(pickle, *inner, wrapper)?;
        let beside = root.iter().map(|(name, _)| name.clone()).filter(|name| name != wrapper).collect();
        if state.iter().any(|(_, id)| is_tensor(id)) {
            return Ok((state, beside));
        }
    }
    let found = root.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let expected = "tensors, or a dictionary of them under state_dict, model_state_dict or model";
    Err(CheckpointError::Value { name: "the whole".into(), expected, found: format!("the keys [{found}]") })
}

fn entries(pickle: &Pickle, id: ValueId, name: &str) -> Result<Entries, CheckpointError> {
    let wrong = |expected, found: &str| CheckpointError::Value { name: name.into(), expected, found: found.into() };
    let Value::Dict(dict) = &pickle.values[id] else {
        return Err(wrong("a dictionary", pickle.values[id].kind()));
    };
    let entry = |(key, value): &(ValueId, ValueId)| match &pickle.values[*key] {
        Value::Text(key) => Ok((key.to_string(), *value)),
        other => Err(wrong("strings as keys", other.kind())),
    };
    dict.iter().map(entry).collect()
}

/// The number of values of a view that stays within its storage.
fn check_view(name: &str, view: &TensorView) -> Result<usize, CheckpointError> {
    let last = || {
        let mut last = view.offset;
        for (size, stride) in view.shape.iter().zip(&view.stride) {
            last = last.checked_add(size.checked_sub(1)?.checked_mul(*stride)?)?;
        }
        Some(last)
    };
    let n_values = view.shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    match n_values {
        Some(0) if view.shape.len() == view.stride.len() => Ok(0),
        Some(n) if view.shape.len() == view.stride.len() && last().is_some_and(|last| last < view.storage.numel) => {
            Ok(n)
        }
        _ => Err(CheckpointError::OutOfBounds {
            name: name.into(),
            numel: view.storage.numel,
            shape: view.shape.clone(),
            stride: view.stride.clone(),
            offset: view.offset,
        }),
    }
}

/// The values of a checked view in row-major order; none if they are integers.
fn gather(view: &TensorView, n_values: usize, storage: &[u8]) -> Option<Vec<f32>> {
    let size = view.storage.element.bytes();
    let mut values = Vec::with_capacity(n_values);
    for flat in 0..n_values {
        let (mut rest, mut at) = (flat, view.offset);
        for (size, stride) in view.shape.iter().zip(&view.stride).rev() {
            at += rest % size * stride;
            rest /= size;
        }
        values.push(view.storage.element.value(&storage[at * size..(at + 1) * size])?);
    }
    Some(values)
}
