//! The part of Python's pickle language that `torch.save` writes.
//!
//! Reading executes nothing and imports nothing. A name of a class or function is text; the few that make tensors and
//! dictionaries are known by it, and what any other would make is an opaque value. Values are kept in one flat list and
//! refer to each other by index, so neither depth nor sharing costs more than the bytes that express it.

use std::fmt;

use super::elements::ElementType;

mod error;
mod machine;
mod objects;
mod operations;

pub use error::PickleError;

/// Index into [`Pickle::values`].
pub(super) type ValueId = usize;

/// What a pickle holds.
pub(super) struct Pickle<'a> {
    pub values: Vec<Value<'a>>,
    pub root: ValueId,
    /// Where the next pickle of a row of them begins.
    pub end: usize,
}

pub(super) enum Value<'a> {
    /// A float, set, string of bytes or `None`: nothing that weights are made of.
    Other(&'static str),
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits: its little-endian two's complement.
    Long(&'a [u8]),
    Text(&'a str),
    Tuple(Vec<ValueId>),
    List(Vec<ValueId>),
    Dict(Vec<(ValueId, ValueId)>),
    Global(Global<'a>),
    /// What a class or function that is not known here would have made.
    Opaque(Name<'a>),
    Storage(Box<Storage<'a>>),
    Tensor(Box<TensorView<'a>>),
}

/// Module and name of a class or function.
#[derive(Clone, Copy)]
pub(super) struct Name<'a> {
    pub module: &'a str,
    pub name: &'a str,
}

/// A class or function, known by its name or not.
#[derive(Clone, Copy)]
pub(super) enum Global<'a> {
    /// `OrderedDict` or `defaultdict`.
    Dict,
    RebuildTensor,
    RebuildParameter,
    /// A tensor with attributes of its own: the call that makes the tensor is among the arguments.
    RebuildFromType,
    Storage(ElementType),
    Unknown(Name<'a>),
}

/// The stored values of one or more tensors.
#[derive(Clone, Copy)]
pub(super) struct Storage<'a> {
    pub key: &'a str,
    pub class: Name<'a>,
    /// None if nothing is known of the class.
    pub element: Option<ElementType>,
    pub numel: usize,
    /// The value where a view of the storage begins; such views are only in old files.
    pub start: usize,
}

/// Value `(i, j, ...)` is number `offset + i * stride[0] + j * stride[1] + ...` of the storage; not checked yet.
#[derive(Clone)]
pub(super) struct TensorView<'a> {
    pub key: &'a str,
    pub element: ElementType,
    /// Values in the storage.
    pub numel: usize,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub stride: Vec<usize>,
}

/// Most values of a pickle, and most entries of its stack and of its memo.
const MAX_VALUES: usize = 1 << 20;

/// Most uses of values that were made before.
const MAX_RECALLS: usize = 4 << 20;

/// Reads a pickle of protocol 2 to 5 that begins at the start of `bytes`.
pub(super) fn parse(bytes: &[u8]) -> Result<Pickle<'_>, PickleError> {
    let mut machine = machine::Machine::new(bytes);
    loop {
        if let Some(root) = machine.step()? {
            return Ok(machine.finish(root));
        }
    }
}

impl<'a> Pickle<'a> {
    /// The value of the whole.
    pub(super) fn root(&self) -> &Value<'a> {
        &self.values[self.root]
    }

    /// The value as a reader of messages sees it, with the class or function it comes from. Takes the same time for a
    /// value of any size, as one value can be in a file many times.
    pub(super) fn describe(&self, id: ValueId) -> String {
        match &self.values[id] {
            Value::Global(Global::Unknown(name)) => format!("the class or function {name}"),
            Value::Opaque(name) => format!("an object of {name}"),
            Value::Tensor(view) => format!("a tensor of shape {:?}", view.shape),
            Value::Dict(items) if items.len() == 1 => "a dictionary of 1 entry".into(),
            Value::Dict(items) => format!("a dictionary of {} entries", items.len()),
            other => other.kind().into(),
        }
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", shortened(self.module), shortened(self.name))
    }
}

/// The start of a text that a message repeats.
pub(super) fn shortened(text: &str) -> &str {
    text.char_indices().nth(MAX_SHOWN).map_or(text, |(end, _)| &text[..end])
}

/// Characters of a name that a message shows.
const MAX_SHOWN: usize = 80;

impl Value<'_> {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Other(kind) => kind,
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::Long(_) => "an integer",
            Value::Text(_) => "a string",
            Value::Tuple(_) => "a tuple",
            Value::List(_) => "a list",
            Value::Dict(_) => "a dictionary",
            Value::Global(_) => "a class or function",
            Value::Opaque(_) => "an object of another program",
            Value::Storage(_) => "a storage",
            Value::Tensor(_) => "a tensor",
        }
    }
}
