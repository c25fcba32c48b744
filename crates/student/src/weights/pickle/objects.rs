//! Classes, functions, storages and tensors of a pickle: known by their names, never called.

use super::error::{PickleError, kind};
use super::machine::Machine;
use super::{Global, Name, Storage, TensorView, Value, ValueId};
use crate::weights::elements::ElementType;

impl<'a> Machine<'a> {
    /// The operations that name a class or function, or make something of one.
    pub(super) fn object(&mut self, at: usize, opcode: u8) -> Result<(), PickleError> {
        let value = match opcode {
            b'c' => Value::Global(known(Name { module: self.line()?, name: self.line()? })),
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) = (&self.values[module], &self.values[name]) else {
                    return Err(kind(at, "module and name", "other values"));
                };
                Value::Global(known(Name { module, name }))
            }
            b'Q' => {
                let id = self.pop()?;
                self.persistent(at, id)?
            }
            // NEWOBJ takes what REDUCE takes, NEWOBJ_EX keywords besides.
            b'R' | 0x81 => {
                let (arguments, callee) = (self.pop()?, self.pop()?);
                self.made_by(at, callee, arguments)?
            }
            0x92 => {
                let (_keywords, arguments, callee) = (self.pop()?, self.pop()?, self.pop()?);
                self.made_by(at, callee, arguments)?
            }
            b'o' => match self.pop_to_mark(at)?.first().map(|class| &self.values[*class]) {
                Some(Value::Global(Global::Unknown(name))) => Value::Opaque(*name),
                Some(other) => return Err(kind(at, "a class", other.kind())),
                None => return Err(kind(at, "a class", "none")),
            },
            _ => return self.build(at),
        };
        self.push(value)
    }

    /// `("storage", class, key, device, number of values[, None or (key, first value, number) of a view])`.
    fn persistent(&self, at: usize, id: ValueId) -> Result<Value<'a>, PickleError> {
        let expected = "a torch storage";
        let Value::Tuple(parts) = &self.values[id] else {
            return Err(kind(at, expected, self.values[id].kind()));
        };
        if let [tag, class, ..] = parts[..]
            && let (Value::Text("module"), Value::Global(Global::Unknown(name))) =
                (&self.values[tag], &self.values[class])
        {
            // The source text of a module that was saved whole.
            return Ok(Value::Opaque(*name));
        }
        let [tag, class, key, _device, numel, ref view @ ..] = parts[..] else {
            return Err(kind(at, expected, "a tuple of another length"));
        };
        let (Value::Text("storage"), Value::Global(class), Value::Text(key)) =
            (&self.values[tag], &self.values[class], &self.values[key])
        else {
            return Err(kind(at, expected, "a tuple of other values"));
        };
        let (class, element) = match class {
            Global::Storage(element) => (Name { module: "torch", name: "a storage" }, Some(*element)),
            Global::Unknown(name) => (*name, None),
            _ => return Err(kind(at, expected, "a tuple of other values")),
        };
        let start = match view {
            [] => 0,
            [view] => self.start_of_view(at, *view)?,
            _ => return Err(kind(at, expected, "a tuple of another length")),
        };
        Ok(Value::Storage(Box::new(Storage { key, class, element, numel: self.size(at, numel)?, start })))
    }

    fn start_of_view(&self, at: usize, view: ValueId) -> Result<usize, PickleError> {
        match &self.values[view] {
            Value::Tuple(parts) => match parts[..] {
                [_key, start, _numel] => self.size(at, start),
                _ => Err(kind(at, "key, start and size of a view", "a tuple of another length")),
            },
            Value::Other("None") => Ok(0),
            other => Err(kind(at, "a view of a storage", other.kind())),
        }
    }

    /// What calling `callee` would give, as far as it is a dictionary or tensor; else an opaque value.
    fn made_by(&self, at: usize, callee: ValueId, arguments: ValueId) -> Result<Value<'a>, PickleError> {
        let global = match &self.values[callee] {
            Value::Global(Global::Unknown(name)) | Value::Opaque(name) => return Ok(Value::Opaque(*name)),
            Value::Global(global) => *global,
            other => return Err(kind(at, "a class or function", other.kind())),
        };
        let Value::Tuple(arguments) = &self.values[arguments] else {
            return Err(kind(at, "a tuple of arguments", self.values[arguments].kind()));
        };
        match global {
            Global::Dict => self.dictionary(at, arguments),
            Global::RebuildTensor => self.tensor(at, arguments),
            Global::RebuildParameter => self.parameter(at, arguments),
            Global::RebuildFromType => self.tensor_of_class(at, arguments),
            Global::Unknown(name) => Ok(Value::Opaque(name)),
            Global::Storage(_) => Err(kind(at, "a class or function", "the class of a storage")),
        }
    }

    /// An empty dictionary, or what Python 2 gives `OrderedDict`: a list of pairs. `defaultdict` gets a class.
    fn dictionary(&self, at: usize, arguments: &[ValueId]) -> Result<Value<'a>, PickleError> {
        let Some(Value::List(pairs)) = arguments.first().map(|first| &self.values[*first]) else {
            return Ok(Value::Dict(vec![]));
        };
        let pair = |id: &ValueId| match &self.values[*id] {
            Value::List(pair) | Value::Tuple(pair) => match pair[..] {
                [key, value] => Ok((key, value)),
                _ => Err(kind(at, "a key and a value", "a list of another length")),
            },
            other => Err(kind(at, "a key and a value", other.kind())),
        };
        Ok(Value::Dict(pairs.iter().map(pair).collect::<Result<_, _>>()?))
    }

    /// `_rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, hooks[, metadata])`; `_rebuild_tensor` of
    /// old files takes the first four.
    fn tensor(&self, at: usize, arguments: &[ValueId]) -> Result<Value<'a>, PickleError> {
        let [storage, offset, shape, stride, ref rest @ ..] = *arguments else {
            return Err(kind(at, "the arguments of a tensor", "fewer"));
        };
        if rest.len() > 3 {
            return Err(kind(at, "the arguments of a tensor", "more"));
        }
        let storage = match &self.values[storage] {
            Value::Storage(storage) => **storage,
            Value::Opaque(name) => return Ok(Value::Opaque(*name)),
            other => return Err(kind(at, "a storage", other.kind())),
        };
        let (offset, shape, stride) = (self.size(at, offset)?, self.sizes(at, shape)?, self.sizes(at, stride)?);
        let Storage { key, class, numel, start, .. } = storage;
        let Some(element) = storage.element else { return Ok(Value::Opaque(class)) };
        let offset = offset.checked_add(start).ok_or(kind(at, "an offset in a storage", "one past all memory"))?;
        Ok(Value::Tensor(Box::new(TensorView { key, element, numel, offset, shape, stride })))
    }

    /// `_rebuild_parameter(tensor, requires_grad, hooks[, state])`.
    fn parameter(&self, at: usize, arguments: &[ValueId]) -> Result<Value<'a>, PickleError> {
        match arguments.first().map(|first| &self.values[*first]) {
            Some(Value::Tensor(view)) => Ok(Value::Tensor(view.clone())),
            Some(Value::Opaque(name)) => Ok(Value::Opaque(*name)),
            Some(other) => Err(kind(at, "a tensor", other.kind())),
            None => Err(kind(at, "a tensor", "none")),
        }
    }

    /// `_rebuild_from_type_v2(function, class, arguments, state)`.
    fn tensor_of_class(&self, at: usize, arguments: &[ValueId]) -> Result<Value<'a>, PickleError> {
        let [function, _class, inner, _state] = *arguments else {
            return Err(kind(at, "four arguments of a tensor with attributes", "another number"));
        };
        match (&self.values[function], &self.values[inner]) {
            (Value::Global(Global::RebuildTensor), Value::Tuple(inner)) => self.tensor(at, inner),
            (Value::Global(Global::RebuildParameter), Value::Tuple(inner)) => self.parameter(at, inner),
            (Value::Global(Global::Unknown(name)), _) => Ok(Value::Opaque(*name)),
            (other, _) => Err(kind(at, "the function of a tensor", other.kind())),
        }
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
            Value::Dict(_) | Value::Opaque(_) => Ok(()),
            other => Err(kind(at, "a dictionary or an object", other.kind())),
        }
    }
}

/// What a class or function is to this reader.
fn known(name: Name<'_>) -> Global<'_> {
    match (name.module, name.name) {
        ("collections", "OrderedDict" | "defaultdict") => Global::Dict,
        ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Global::RebuildParameter,
        ("torch._tensor", "_rebuild_from_type_v2") => Global::RebuildFromType,
        ("torch", "HalfStorage") => Global::Storage(ElementType::F16),
        ("torch", "BFloat16Storage") => Global::Storage(ElementType::Bf16),
        ("torch", "FloatStorage") => Global::Storage(ElementType::F32),
        ("torch", "DoubleStorage") => Global::Storage(ElementType::F64),
        ("torch", "BoolStorage" | "ByteStorage" | "CharStorage") => Global::Storage(ElementType::Integer(1)),
        ("torch", "ShortStorage") => Global::Storage(ElementType::Integer(2)),
        ("torch", "IntStorage") => Global::Storage(ElementType::Integer(4)),
        ("torch", "LongStorage") => Global::Storage(ElementType::Integer(8)),
        _ => Global::Unknown(name),
    }
}
