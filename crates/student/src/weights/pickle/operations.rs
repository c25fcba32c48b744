//! What each operation of a pickle does, but for those of classes and tensors (`objects.rs`).

use super::error::{PickleError, kind};
use super::machine::Machine;
use super::{Value, ValueId};

impl<'a> Machine<'a> {
    /// Runs one operation; the value of the pickle when it was STOP.
    pub(super) fn step(&mut self) -> Result<Option<ValueId>, PickleError> {
        let at = self.at;
        let [opcode] = self.take_array()?;
        match opcode {
            b'.' => return self.pop().map(Some),
            // PROTO: what counts is which operations follow.
            0x80 => drop(self.take_array::<1>()?),
            // FRAME: a length that helps those who read from a stream.
            0x95 => drop(self.take_array::<8>()?),
            b'(' => self.mark()?,
            b'0' => self.discard()?,
            b'1' => drop(self.pop_to_mark(at)?),
            b'2' => {
                let top = self.top()?;
                self.use_again(at, top)?;
            }
            b'q' | b'r' | 0x94 | b'h' | b'j' => self.memo_operation(at, opcode)?,
            b'N' | 0x88 | 0x89 | b'G' | b'K' | b'M' | b'J' | b'I' | 0x8a | 0x8b => {
                let value = self.number(at, opcode)?;
                self.push(value)?;
            }
            b'X' | 0x8c | 0x8d | b'U' | b'T' | b'C' | b'B' | 0x8e | 0x96 => {
                let value = self.string(opcode)?;
                self.push(value)?;
            }
            b')' | b't' | b']' | b'a' | b'e' | b'}' | b's' | b'u' | 0x85..=0x87 | 0x8f..=0x91 => {
                self.container(at, opcode)?;
            }
            b'c' | 0x93 | b'Q' | b'R' | 0x81 | 0x92 | b'o' | b'b' => self.object(at, opcode)?,
            found => return Err(PickleError::Opcode { at, found }),
        }
        Ok(None)
    }

    fn memo_operation(&mut self, at: usize, opcode: u8) -> Result<(), PickleError> {
        let slot = match opcode {
            b'q' | b'h' => u8::from_le_bytes(self.take_array()?).into(),
            b'r' | b'j' => u32::from_le_bytes(self.take_array()?),
            _ => self.next_slot(),
        };
        match opcode {
            b'h' | b'j' => self.recall(at, slot),
            _ => self.remember(at, slot),
        }
    }

    /// Numbers, booleans and `None`.
    fn number(&mut self, at: usize, opcode: u8) -> Result<Value<'a>, PickleError> {
        Ok(match opcode {
            b'N' => Value::Other("None"),
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'G' => {
                self.take_array::<8>()?;
                Value::Other("a float")
            }
            b'K' => Value::Int(u8::from_le_bytes(self.take_array()?).into()),
            b'M' => Value::Int(u16::from_le_bytes(self.take_array()?).into()),
            b'J' => Value::Int(i32::from_le_bytes(self.take_array()?).into()),
            // Python 2 writes integers of 33 to 64 bits so.
            b'I' => {
                let digits = self.line()?;
                Value::Int(digits.parse().map_err(|_| kind(at, "an integer of at most 64 bits", "another text"))?)
            }
            0x8a => {
                let [n_bytes] = self.take_array()?;
                self.long(n_bytes.into())?
            }
            _ => {
                let n_bytes = self.take_length()?;
                self.long(n_bytes)?
            }
        })
    }

    /// A little-endian two's complement integer of any length.
    fn long(&mut self, n_bytes: usize) -> Result<Value<'a>, PickleError> {
        let taken = self.take(n_bytes)?;
        if taken.len() > 8 {
            return Ok(Value::Long(taken));
        }
        let negative = taken.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut bytes = [if negative { 0xff } else { 0 }; 8];
        bytes[..taken.len()].copy_from_slice(taken);
        Ok(Value::Int(i64::from_le_bytes(bytes)))
    }

    /// Text, and bytes, which Python 2 writes for its text.
    fn string(&mut self, opcode: u8) -> Result<Value<'a>, PickleError> {
        let n_bytes = match opcode {
            0x8c | b'U' | b'C' => u8::from_le_bytes(self.take_array()?).into(),
            b'X' | b'T' | b'B' => self.take_length()?,
            _ => self.take_long_length()?,
        };
        Ok(match opcode {
            b'X' | 0x8c | 0x8d => Value::Text(self.text(n_bytes)?),
            b'U' | b'T' => std::str::from_utf8(self.take(n_bytes)?).map_or(Value::Other("bytes"), Value::Text),
            _ => {
                self.take(n_bytes)?;
                Value::Other("bytes")
            }
        })
    }

    fn container(&mut self, at: usize, opcode: u8) -> Result<(), PickleError> {
        match opcode {
            b')' => self.push(Value::Tuple(vec![])),
            b']' => self.push(Value::List(vec![])),
            b'}' => self.push(Value::Dict(vec![])),
            0x8f => self.push(Value::Other(SET)),
            0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0x84..opcode {
                    items.insert(0, self.pop()?);
                }
                self.push(Value::Tuple(items))
            }
            b't' => {
                let items = self.pop_to_mark(at)?;
                self.push(Value::Tuple(items))
            }
            0x91 => {
                self.pop_to_mark(at)?;
                self.push(Value::Other(SET))
            }
            b'a' => {
                let item = self.pop()?;
                self.append(at, vec![item])
            }
            b'e' | 0x90 => {
                let items = self.pop_to_mark(at)?;
                self.append(at, items)
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(at, vec![key, value])
            }
            _ => {
                let items = self.pop_to_mark(at)?;
                self.set_items(at, items)
            }
        }
    }

    fn append(&mut self, at: usize, items: Vec<ValueId>) -> Result<(), PickleError> {
        let target = self.top()?;
        match &mut self.values[target] {
            Value::List(list) => list.extend(items),
            Value::Opaque(_) | Value::Other(SET) => {}
            other => return Err(kind(at, "a list", other.kind())),
        }
        Ok(())
    }

    fn set_items(&mut self, at: usize, items: Vec<ValueId>) -> Result<(), PickleError> {
        let target = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(kind(at, "a value for each key", "none for the last"));
        }
        let pairs = pairs.iter().map(|[key, value]| (*key, *value));
        match &mut self.values[target] {
            Value::Dict(dict) => dict.extend(pairs),
            // Of a class that is filled as a dictionary is.
            opaque @ Value::Opaque(_) => *opaque = Value::Dict(pairs.collect()),
            other => return Err(kind(at, "a dictionary", other.kind())),
        }
        Ok(())
    }
}

/// Its members are not kept.
const SET: &str = "a set";
