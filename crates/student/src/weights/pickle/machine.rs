//! Stack, memo and bytes of a pickle that is being read.

use std::collections::BTreeMap;

use super::error::{PickleError, kind};
use super::{MAX_RECALLS, MAX_VALUES, Pickle, Value, ValueId};

pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    pub(super) at: usize,
    pub(super) values: Vec<Value<'a>>,
    stack: Vec<ValueId>,
    /// Heights of the stack; nothing below the last is popped.
    marks: Vec<usize>,
    memo: BTreeMap<u32, ValueId>,
    n_recalls: usize,
}

impl<'a> Machine<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let (values, stack, marks, memo) = (Vec::new(), Vec::new(), Vec::new(), BTreeMap::new());
        Self { bytes, at: 0, values, stack, marks, memo, n_recalls: 0 }
    }

    pub(super) fn finish(self, root: ValueId) -> Pickle<'a> {
        Pickle { values: self.values, root, end: self.at }
    }

    pub(super) fn take(&mut self, n_bytes: usize) -> Result<&'a [u8], PickleError> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..n_bytes).ok_or(PickleError::Truncated { at: self.bytes.len() })?;
        self.at += n_bytes;
        Ok(taken)
    }

    pub(super) fn take_array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| PickleError::Truncated { at: self.bytes.len() })
    }

    /// A length of 4 bytes.
    pub(super) fn take_length(&mut self) -> Result<usize, PickleError> {
        Ok(u32::from_le_bytes(self.take_array()?) as usize)
    }

    /// A length of 8 bytes; one that no memory holds is past the end of the bytes, too.
    pub(super) fn take_long_length(&mut self) -> Result<usize, PickleError> {
        Ok(usize::try_from(u64::from_le_bytes(self.take_array()?)).unwrap_or(usize::MAX))
    }

    pub(super) fn text(&mut self, n_bytes: usize) -> Result<&'a str, PickleError> {
        let at = self.at;
        let taken = self.take(n_bytes)?;
        std::str::from_utf8(taken).map_err(|_| kind(at, "UTF-8", "other bytes"))
    }

    pub(super) fn line(&mut self) -> Result<&'a str, PickleError> {
        let end = self.bytes[self.at..].iter().position(|byte| *byte == b'\n');
        let n_bytes = end.ok_or(PickleError::Truncated { at: self.bytes.len() })?;
        let line = self.text(n_bytes)?;
        self.at += 1;
        Ok(line)
    }

    pub(super) fn push(&mut self, value: Value<'a>) -> Result<(), PickleError> {
        if self.values.len() == MAX_VALUES {
            return Err(PickleError::TooManyValues { at: self.at });
        }
        self.values.push(value);
        self.push_id(self.values.len() - 1)
    }

    fn push_id(&mut self, id: ValueId) -> Result<(), PickleError> {
        if self.stack.len() == MAX_VALUES {
            return Err(PickleError::TooManyValues { at: self.at });
        }
        self.stack.push(id);
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Result<ValueId, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(kind(self.at, "a value on the stack", "none"));
        }
        self.stack.pop().ok_or(kind(self.at, "a value on the stack", "none"))
    }

    pub(super) fn mark(&mut self) -> Result<(), PickleError> {
        if self.marks.len() == MAX_VALUES {
            return Err(PickleError::TooManyValues { at: self.at });
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    pub(super) fn pop_to_mark(&mut self, at: usize) -> Result<Vec<ValueId>, PickleError> {
        let mark = self.marks.pop().ok_or(kind(at, "a mark", "none"))?;
        Ok(self.stack.split_off(mark))
    }

    /// POP: the value on top, or the mark where nothing is above it.
    pub(super) fn discard(&mut self) -> Result<(), PickleError> {
        match self.marks.last() {
            Some(mark) if *mark == self.stack.len() => drop(self.marks.pop()),
            Some(_) | None => drop(self.pop()?),
        }
        Ok(())
    }

    /// The value on top of the stack, which stays there.
    pub(super) fn top(&mut self) -> Result<ValueId, PickleError> {
        let top = self.pop()?;
        self.stack.push(top);
        Ok(top)
    }

    pub(super) fn remember(&mut self, at: usize, slot: u32) -> Result<(), PickleError> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        if self.memo.len() > MAX_VALUES {
            return Err(PickleError::TooManyValues { at });
        }
        Ok(())
    }

    /// The slot that MEMOIZE takes.
    pub(super) fn next_slot(&self) -> u32 {
        // The memo has at most MAX_VALUES entries.
        self.memo.len() as u32
    }

    pub(super) fn recall(&mut self, at: usize, slot: u32) -> Result<(), PickleError> {
        let value = *self.memo.get(&slot).ok_or(kind(at, "a remembered value", "none"))?;
        self.use_again(at, value)
    }

    /// Puts a value that is there already on the stack.
    pub(super) fn use_again(&mut self, at: usize, value: ValueId) -> Result<(), PickleError> {
        if self.n_recalls == MAX_RECALLS {
            return Err(PickleError::TooManyValues { at });
        }
        self.n_recalls += 1;
        self.push_id(value)
    }
}
