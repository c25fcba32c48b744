//! PyTorch's checkpoints (`torch.save`, `.pt`, `.pth`), read without executing anything in them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use zip::result::ZipError;

use super::archive::Archive;
use super::elements::ElementType;
use super::legacy::{Legacy, read_legacy};
use super::pickle::{Pickle, PickleError, TensorView, Value, parse};
use super::state_dict::{StateDict, find_state_dict};
use super::views::{check_view, gather};

/// A tensor of a file, before its name means anything.
pub(super) struct RawTensor {
    pub shape: Vec<usize>,
    pub element: ElementType,
    /// None for integers.
    pub values: Option<Vec<f32>>,
}

/// What a checkpoint holds.
pub(super) struct Checkpoint {
    /// The keys that lead to the weights; none if they are the whole.
    pub path: Option<String>,
    pub tensors: BTreeMap<String, RawTensor>,
    /// Entries that are no tensors of numbers: epoch, optimiser and the like.
    pub ignored: Vec<LeftOut>,
}

/// An entry of a file that is not taken for weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its name in the file, behind the keys that lead to it.
    pub name: String,
    /// What it is, in words: `a dictionary of 12 tensors`.
    pub found: String,
}

/// A file that is not a dictionary of tensors as `torch.save` writes it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The archive itself.
    #[error("not a whole zip archive; if the file was cut, fetch or save it again")]
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
    /// One of the pickles.
    #[error("{part}")]
    Pickle {
        /// Which.
        part: &'static str,
        /// What is wrong.
        source: PickleError,
    },
    /// No tensors, but objects that only running their code would make.
    #[error(
        "expected a dictionary of tensors, found {found}; nothing of it was executed. \
         Save model.state_dict(), not the model"
    )]
    Object {
        /// What there is.
        found: String,
    },
    /// A pickled value of another kind.
    #[error("{name}: expected {expected}, found {found}")]
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

/// Reads the weights of a checkpoint in either layout.
pub(super) fn read_checkpoint(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let limit = bytes.len().saturating_mul(2);
    if !bytes.starts_with(ZIP_START) {
        let Legacy { object, storages } = read_legacy(bytes)?;
        let by_key = storages.into_iter().map(|(key, values)| (key, Cow::Borrowed(values))).collect();
        return tensors(&object, find_state_dict(&object)?, &Storages { place: "storage ".into(), by_key }, limit);
    }
    let mut archive = Archive::open(bytes, limit)?;
    let data = archive.pickle()?;
    let pickle = parse(&data).map_err(|source| CheckpointError::Pickle { part: "data.pkl", source })?;
    let state = find_state_dict(&pickle)?;
    let mut by_key = BTreeMap::new();
    for (_, id) in &state.entries {
        if let Value::Tensor(view) = &pickle.values[*id]
            && let Entry::Vacant(new) = by_key.entry(view.key)
        {
            new.insert(Cow::Owned(archive.storage(view.key)?));
        }
    }
    tensors(&pickle, state, &Storages { place: archive.storage_folder(), by_key }, limit)
}

/// How a zip archive begins; the other layout begins with [`PICKLE_START`].
pub(super) const ZIP_START: &[u8] = b"PK";

/// How a pickle of protocol 2 or later begins.
pub(super) const PICKLE_START: &[u8] = &[0x80];

/// Stored values by key.
struct Storages<'a> {
    /// What a message says before the key.
    place: String,
    by_key: BTreeMap<&'a str, Cow<'a, [u8]>>,
}

/// The tensors of a state dict, of at most `limit` stored bytes together.
fn tensors(
    pickle: &Pickle,
    state: StateDict,
    storages: &Storages,
    limit: usize,
) -> Result<Checkpoint, CheckpointError> {
    let StateDict { path, entries, beside: mut ignored } = state;
    let mut tensors = BTreeMap::new();
    let mut left = limit;
    for (name, id) in entries {
        let Value::Tensor(view) = &pickle.values[id] else {
            ignored.push(LeftOut { found: pickle.describe(id), name: name.into() });
            continue;
        };
        let n_values = check_view(name, view)?;
        left = left
            .checked_sub(n_values.saturating_mul(view.element.bytes()))
            .ok_or_else(|| CheckpointError::TooLarge { name: name.into(), limit })?;
        let values = gather(view, n_values, storages.whole(view)?);
        let tensor = RawTensor { shape: view.shape.clone(), element: view.element, values };
        tensors.insert(name.into(), tensor);
    }
    Ok(Checkpoint { path, tensors, ignored })
}

impl Storages<'_> {
    /// The bytes of the storage of `view`, as many as the pickle says.
    fn whole(&self, view: &TensorView) -> Result<&[u8], CheckpointError> {
        let member = format!("{}{}", self.place, view.key);
        let Some(storage) = self.by_key.get(view.key) else {
            return Err(CheckpointError::Member { expected: member, found: 0 });
        };
        if view.numel.checked_mul(view.element.bytes()) != Some(storage.len()) {
            let expected = format!("{} values of {} bytes", view.numel, view.element.bytes());
            return Err(CheckpointError::Content { member, expected, found: format!("{} bytes", storage.len()) });
        }
        Ok(storage)
    }
}
