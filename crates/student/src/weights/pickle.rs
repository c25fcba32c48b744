//! The part of Python's pickle language that `torch.save` writes for dictionaries of tensors.
//!
//! Reading executes nothing: a global is a member of a closed list, and a call is one of two constructors that this
//! file knows. Values are kept in one flat list and refer to each other by index, so neither depth nor sharing costs
//! more than the bytes that express it.

use std::collections::BTreeMap;

use super::elements::ElementType;

/// Index into [`Pickle::values`].
pub(super) type ValueId = usize;

/// What a pickle holds.
pub(super) struct Pickle<'a> {
    pub values: Vec<Value<'a>>,
    pub root: ValueId,
}

pub(super) enum Value<'a> {
    /// A number, boolean or `None`: nothing that weights are made of.
    Other(&'static str),
    Int(i64),
    Text(&'a str),
    Tuple(Vec<ValueId>),
    List(Vec<ValueId>),
    Dict(Vec<(ValueId, ValueId)>),
    Global(Global),
    Storage(Storage<'a>),
    Tensor(TensorView<'a>),
}

#[derive(Clone, Copy)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    Storage(ElementType),
}

/// A member of the archive: `numel` values of one type.
#[derive(Clone, Copy)]
pub(super) struct Storage<'a> {
    pub key: &'a str,
    pub element: ElementType,
    pub numel: usize,
}

/// Value `(i, j, ...)` is number `offset + i * stride[0] + j * stride[1] + ...` of the storage; not checked yet.
#[derive(Clone)]
pub(super) struct TensorView<'a> {
    pub storage: Storage<'a>,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub stride: Vec<usize>,
}

/// A pickle that is not a dictionary of tensors as `torch.save` writes it. Positions are bytes into `data.pkl`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PickleError {
    /// It ends before its STOP.
    #[error("data.pkl: expected more after byte {at}, found its end")]
    Truncated {
        /// Its length.
        at: usize,
    },
    /// An operation that weights have no need of.
    #[error("data.pkl: byte {at}: expected an operation that torch.save writes for weights, found opcode {found:#04x}")]
    Opcode {
        /// Where.
        at: usize,
        /// The byte.
        found: u8,
    },
    /// A class or function outside of the closed list.
    #[error(
        "data.pkl: byte {at}: expected OrderedDict, _rebuild_tensor_v2 or a torch storage, found {found:?}; \
         nothing of it was executed"
    )]
    Global {
        /// Where.
        at: usize,
        /// Module and name.
        found: String,
    },
    /// A value of another kind than the operation takes.
    #[error("data.pkl: byte {at}: expected {expected}, found {found}")]
    Kind {
        /// Where.
        at: usize,
        /// What the operation takes.
        expected: &'static str,
        /// What was there.
        found: &'static str,
    },
    /// More values than any network has.
    #[error("data.pkl: byte {at}: expected at most {MAX_VALUES} values, found more")]
    TooManyValues {
        /// Where.
        at: usize,
    },
}

const MAX_VALUES: usize = 1 << 20;

/// Reads a pickle of protocol 2 or 3.
pub(super) fn parse(bytes: &[u8]) -> Result<Pickle<'_>, PickleError> {
    let mut reader =
        Reader { bytes, at: 0, values: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: BTreeMap::new() };
    loop {
        if let Some(root) = reader.step()? {
            return Ok(Pickle { values: reader.values, root });
        }
    }
}

impl Value<'_> {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Other(kind) => kind,
            Value::Int(_) => "an integer",
            Value::Text(_) => "a string",
            Value::Tuple(_) => "a tuple",
            Value::List(_) => "a list",
            Value::Dict(_) => "a dictionary",
            Value::Global(_) => "a class or function",
            Value::Storage(_) => "a storage",
            Value::Tensor(_) => "a tensor",
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<ValueId>,
    /// Heights of the stack; nothing below the last is popped.
    marks: Vec<usize>,
    memo: BTreeMap<u32, ValueId>,
}

impl<'a> Reader<'a> {
    /// Runs one operation; the value of the pickle when it was STOP.
    fn step(&mut self) -> Result<Option<ValueId>, PickleError> {
        let at = self.at;
        let [opcode] = self.take_array()?;
        match opcode {
            b'.' => return self.pop().map(Some),
            // PROTO: what counts is which operations follow.
            0x80 => drop(self.take_array::<1>()?),
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.push(Value::Other("None"))?,
            0x88 | 0x89 => self.push(Value::Other("a boolean"))?,
            b'G' => {
                self.take_array::<8>()?;
                self.push(Value::Other("a float"))?;
            }
            b'K' => {
                let value = u8::from_le_bytes(self.take_array()?);
                self.push(Value::Int(value.into()))?;
            }
            b'M' => {
                let value = u16::from_le_bytes(self.take_array()?);
                self.push(Value::Int(value.into()))?;
            }
            b'J' => {
                let value = i32::from_le_bytes(self.take_array()?);
                self.push(Value::Int(value.into()))?;
            }
            0x8a => {
                let value = self.long(at)?;
                self.push(value)?;
            }
            b'X' => {
                let n_bytes = u32::from_le_bytes(self.take_array()?) as usize;
                let text = self.text(n_bytes)?;
                self.push(Value::Text(text))?;
            }
            b')' => self.push(Value::Tuple(vec![]))?,
            0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0x84..opcode {
                    items.insert(0, self.pop()?);
                }
                self.push(Value::Tuple(items))?;
            }
            b't' => {
                let items = self.pop_to_mark(at)?;
                self.push(Value::Tuple(items))?;
            }
            b']' => self.push(Value::List(vec![]))?,
            b'a' => {
                let item = self.pop()?;
                self.append(at, vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark(at)?;
                self.append(at, items)?;
            }
            b'}' => self.push(Value::Dict(vec![]))?,
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(at, vec![key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark(at)?;
                self.set_items(at, items)?;
            }
            b'q' => {
                let [slot] = self.take_array()?;
                self.remember(slot.into())?;
            }
            b'r' => {
                let slot = u32::from_le_bytes(self.take_array()?);
                self.remember(slot)?;
            }
            b'h' => {
                let [slot] = self.take_array()?;
                self.recall(at, slot.into())?;
            }
            b'j' => {
                let slot = u32::from_le_bytes(self.take_array()?);
                self.recall(at, slot)?;
            }
            b'c' => {
                let global = self.global(at)?;
                self.push(Value::Global(global))?;
            }
            b'Q' => {
                let storage = self.persistent(at)?;
                self.push(Value::Storage(storage))?;
            }
            b'R' => {
                let value = self.call(at)?;
                self.push(value)?;
            }
            b'b' => self.build(at)?,
            found => return Err(PickleError::Opcode { at, found }),
        }
        Ok(None)
    }

    fn take(&mut self, n_bytes: usize) -> Result<&'a [u8], PickleError> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..n_bytes).ok_or(PickleError::Truncated { at: self.bytes.len() })?;
        self.at += n_bytes;
        Ok(taken)
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| PickleError::Truncated { at: self.bytes.len() })
    }

    fn text(&mut self, n_bytes: usize) -> Result<&'a str, PickleError> {
        let at = self.at;
        let taken = self.take(n_bytes)?;
        std::str::from_utf8(taken).map_err(|_| kind(at, "UTF-8", "other bytes"))
    }

    fn line(&mut self) -> Result<&'a str, PickleError> {
        let end = self.bytes[self.at..].iter().position(|byte| *byte == b'\n');
        let n_bytes = end.ok_or(PickleError::Truncated { at: self.bytes.len() })?;
        let line = self.text(n_bytes)?;
        self.at += 1;
        Ok(line)
    }

    /// LONG1: a little-endian two's complement integer of any length; past 64 bits nothing here has a use for it.
    fn long(&mut self, at: usize) -> Result<Value<'a>, PickleError> {
        let [n_bytes] = self.take_array()?;
        let taken = self.take(n_bytes.into())?;
        if taken.len() > 8 {
            return Err(kind(at, "an integer of at most 64 bits", "a longer one"));
        }
        let negative = taken.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut bytes = [if negative { 0xff } else { 0 }; 8];
        bytes[..taken.len()].copy_from_slice(taken);
        Ok(Value::Int(i64::from_le_bytes(bytes)))
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), PickleError> {
        if self.values.len() == MAX_VALUES {
            return Err(PickleError::TooManyValues { at: self.at });
        }
        self.stack.push(self.values.len());
        self.values.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<ValueId, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(kind(self.at, "a value on the stack", "none"));
        }
        self.stack.pop().ok_or(kind(self.at, "a value on the stack", "none"))
    }

    fn pop_to_mark(&mut self, at: usize) -> Result<Vec<ValueId>, PickleError> {
        let mark = self.marks.pop().ok_or(kind(at, "a mark", "none"))?;
        Ok(self.stack.split_off(mark))
    }

    /// The value on top of the stack, which stays there.
    fn top(&mut self) -> Result<ValueId, PickleError> {
        let top = self.pop()?;
        self.stack.push(top);
        Ok(top)
    }

    fn append(&mut self, at: usize, items: Vec<ValueId>) -> Result<(), PickleError> {
        let target = self.top()?;
        match &mut self.values[target] {
            Value::List(list) => list.extend(items),
            other => return Err(kind(at, "a list", other.kind())),
        }
        Ok(())
    }

    fn set_items(&mut self, at: usize, items: Vec<ValueId>) -> Result<(), PickleError> {
        let target = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        match &mut self.values[target] {
            Value::Dict(dict) if rest.is_empty() => dict.extend(pairs.iter().map(|[key, value]| (*key, *value))),
            Value::Dict(_) => return Err(kind(at, "a value for each key", "none for the last")),
            other => return Err(kind(at, "a dictionary", other.kind())),
        }
        Ok(())
    }

    fn remember(&mut self, slot: u32) -> Result<(), PickleError> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, at: usize, slot: u32) -> Result<(), PickleError> {
        let value = self.memo.get(&slot).ok_or(kind(at, "a remembered value", "none"))?;
        self.stack.push(*value);
        Ok(())
    }

    fn global(&mut self, at: usize) -> Result<Global, PickleError> {
        let (module, name) = (self.line()?, self.line()?);
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch", "HalfStorage") => Global::Storage(ElementType::F16),
            ("torch", "BFloat16Storage") => Global::Storage(ElementType::Bf16),
            ("torch", "FloatStorage") => Global::Storage(ElementType::F32),
            ("torch", "DoubleStorage") => Global::Storage(ElementType::F64),
            ("torch", "BoolStorage" | "ByteStorage" | "CharStorage") => Global::Storage(ElementType::Integer(1)),
            ("torch", "ShortStorage") => Global::Storage(ElementType::Integer(2)),
            ("torch", "IntStorage") => Global::Storage(ElementType::Integer(4)),
            ("torch", "LongStorage") => Global::Storage(ElementType::Integer(8)),
            _ => return Err(PickleError::Global { at, found: format!("{module}.{name}") }),
        })
    }

    /// BINPERSID: `("storage", class, key, device, number of values)`.
    fn persistent(&mut self, at: usize) -> Result<Storage<'a>, PickleError> {
        let id = self.pop()?;
        let expected = "a torch storage";
        let Value::Tuple(parts) = &self.values[id] else {
            return Err(kind(at, expected, self.values[id].kind()));
        };
        let [tag, class, key, _device, numel] = parts[..] else {
            return Err(kind(at, expected, "a tuple of another length"));
        };
        match (&self.values[tag], &self.values[class], &self.values[key], &self.values[numel]) {
            (Value::Text("storage"), Value::Global(Global::Storage(element)), Value::Text(key), Value::Int(numel)) => {
                let numel = usize::try_from(*numel).map_err(|_| kind(at, "a number of values", "a negative one"))?;
                Ok(Storage { key, element: *element, numel })
            }
            _ => Err(kind(at, expected, "a tuple of other values")),
        }
    }

    fn call(&mut self, at: usize) -> Result<Value<'a>, PickleError> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let Value::Tuple(arguments) = &self.values[arguments] else {
            return Err(kind(at, "a tuple of arguments", self.values[arguments].kind()));
        };
        match &self.values[callee] {
            Value::Global(Global::OrderedDict) if arguments.is_empty() => Ok(Value::Dict(vec![])),
            Value::Global(Global::RebuildTensor) => self.tensor(at, arguments).map(Value::Tensor),
            other => Err(kind(at, "OrderedDict() or _rebuild_tensor_v2(...)", other.kind())),
        }
    }

    /// `_rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, hooks[, metadata])`.
    fn tensor(&self, at: usize, arguments: &[ValueId]) -> Result<TensorView<'a>, PickleError> {
        let [storage, offset, shape, stride, _requires_grad, _hooks, ref metadata @ ..] = *arguments else {
            return Err(kind(at, "the arguments of a tensor", "fewer"));
        };
        if metadata.len() > 1 {
            return Err(kind(at, "the arguments of a tensor", "more"));
        }
        let Value::Storage(storage) = &self.values[storage] else {
            return Err(kind(at, "a storage", self.values[storage].kind()));
        };
        let offset = self.size(at, offset)?;
        Ok(TensorView { storage: *storage, offset, shape: self.sizes(at, shape)?, stride: self.sizes(at, stride)? })
    }

    fn sizes(&self, at: usize, id: ValueId) -> Result<Vec<usize>, PickleError> {
        match &self.values[id] {
            Value::Tuple(items) if items.len() <= 8 => items.iter().map(|item| self.size(at, *item)).collect(),
            Value::Tuple(_) => Err(kind(at, "at most 8 dimensions", "more")),
            other => Err(kind(at, "a tuple of sizes", other.kind())),
        }
    }

    fn size(&self, at: usize, id: ValueId) -> Result<usize, PickleError> {
        match &self.values[id] {
            Value::Int(size) => usize::try_from(*size).map_err(|_| kind(at, "a size", "a negative one")),
            other => Err(kind(at, "a size", other.kind())),
        }
    }

    /// BUILD sets attributes; on an `OrderedDict` those are module versions, which no weight depends on.
    fn build(&mut self, at: usize) -> Result<(), PickleError> {
        self.pop()?;
        let target = self.top()?;
        match &self.values[target] {
            Value::Dict(_) => Ok(()),
            other => Err(kind(at, "a dictionary", other.kind())),
        }
    }
}

fn kind(at: usize, expected: &'static str, found: &'static str) -> PickleError {
    PickleError::Kind { at, expected, found }
}
