//! As much of flatbuffers as the sensor's tables need: a builder with a fixed order, so that equal tables are equal
//! bytes, and a reader that checks every offset.

use crate::refusal::Refusal;

/// Builds from the end to the start: what is pushed first lies last.
pub(super) struct Builder {
    /// Reversed.
    bytes: Vec<u8>,
    alignment: usize,
    /// Size of a table with its field offsets, and where that list is, counted from the end.
    vtables: Vec<(Vec<u16>, usize)>,
}

/// Where something is, counted from the end of the buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct At(usize);

/// A field of a table.
#[derive(Debug, Clone, Copy)]
pub(super) enum Field {
    U8(u8),
    U16(u16),
    U32(u32),
    F32(f32),
    Offset(At),
}

impl Builder {
    pub(super) fn new() -> Self {
        Self { bytes: vec![], alignment: 1, vtables: vec![] }
    }

    /// A table of these fields, each with its slot, written in this order. Zeros are left out: they are the default.
    pub(super) fn table(&mut self, fields: &[(usize, Field)]) -> At {
        let end = self.bytes.len();
        let mut slots = [0; 16];
        for &(slot, field) in fields {
            match field {
                Field::U8(0) | Field::U16(0) | Field::U32(0) => continue,
                Field::F32(0.0) => continue,
                Field::U8(value) => self.scalar(&[value]),
                Field::U16(value) => self.scalar(&value.to_le_bytes()),
                Field::U32(value) => self.scalar(&value.to_le_bytes()),
                Field::F32(value) => self.scalar(&value.to_le_bytes()),
                Field::Offset(at) => self.offset_to(at),
            }
            slots[slot] = self.bytes.len();
        }
        self.prepare(4, 0);
        let placeholder = self.bytes.len();
        self.push(&[0; 4]);
        let start = self.bytes.len();
        let n_slots = slots.iter().rposition(|slot| *slot > 0).map_or(0, |last| last + 1);
        let from_start = |slot: &usize| if *slot == 0 { 0 } else { (start - slot) as u16 };
        let size = (start - end) as u16;
        let vtable: Vec<u16> = [size].into_iter().chain(slots[..n_slots].iter().map(from_start)).collect();
        let known = self.vtables.iter().find(|(known, _)| *known == vtable).map(|(_, at)| *at);
        let at = known.unwrap_or_else(|| {
            vtable.iter().rev().for_each(|offset| self.scalar(&offset.to_le_bytes()));
            self.scalar(&(2 * (vtable.len() + 1) as u16).to_le_bytes());
            let at = self.bytes.len();
            self.vtables.push((vtable, at));
            at
        });
        let to_vtable = (at as i32 - start as i32).to_be_bytes();
        self.bytes[placeholder..start].copy_from_slice(&to_vtable);
        At(start)
    }

    pub(super) fn vector(&mut self, items: &[At]) -> At {
        self.prepare(4, 4 * items.len());
        items.iter().rev().for_each(|item| self.offset_to(*item));
        self.scalar(&(items.len() as u32).to_le_bytes());
        At(self.bytes.len())
    }

    pub(super) fn string(&mut self, text: &str) -> At {
        self.prepare(4, text.len() + 1);
        self.push(&[0]);
        self.push(text.as_bytes());
        self.scalar(&(text.len() as u32).to_le_bytes());
        At(self.bytes.len())
    }

    pub(super) fn finish(mut self, root: At) -> Vec<u8> {
        self.prepare(self.alignment, 4);
        self.offset_to(root);
        self.bytes.reverse();
        self.bytes
    }

    /// Pads so that something aligned to `size` can follow `more` bytes.
    fn prepare(&mut self, size: usize, more: usize) {
        self.alignment = self.alignment.max(size);
        let padded = (self.bytes.len() + more).next_multiple_of(size) - more;
        self.bytes.resize(padded, 0);
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes.iter().rev());
    }

    fn scalar(&mut self, bytes: &[u8]) {
        self.prepare(bytes.len(), 0);
        self.push(bytes);
    }

    fn offset_to(&mut self, at: At) {
        self.prepare(4, 0);
        self.push(&((self.bytes.len() + 4 - at.0) as u32).to_le_bytes());
    }
}

/// A table somewhere in a buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'a> {
    bytes: &'a [u8],
    start: usize,
    vtable: &'a [u8],
}

impl<'a> Table<'a> {
    pub(super) fn root(bytes: &'a [u8]) -> Result<Self, Refusal> {
        Self::at(bytes, u32_at(bytes, 0, "offset of the root table")? as usize)
    }

    fn at(bytes: &'a [u8], start: usize) -> Result<Self, Refusal> {
        let back = i64::from(u32_at(bytes, start, "a table")? as i32);
        let refuse = |found: String| Refusal::byte(start, "a table's list of fields", found);
        let at = usize::try_from(start as i64 - back).map_err(|_| refuse(format!("offset {back}")))?;
        let len = usize::from(u16_at(bytes, at, "a list of fields")?);
        let vtable = bytes.get(at..).and_then(|rest| rest.get(..len)).filter(|list| list.len() >= 4 && len % 2 == 0);
        Ok(Self { bytes, start, vtable: vtable.ok_or_else(|| refuse(format!("{len} bytes at byte {at}")))? })
    }

    /// Where it lies in the buffer.
    pub(super) fn offset(&self) -> usize {
        self.start
    }

    pub(super) fn u8(&self, slot: usize) -> Result<u8, Refusal> {
        self.field(slot).map_or(Ok(0), |at| Ok(slice(self.bytes, at, 1, "a byte")?[0]))
    }

    pub(super) fn u16(&self, slot: usize) -> Result<u16, Refusal> {
        self.field(slot).map_or(Ok(0), |at| u16_at(self.bytes, at, "a 16-bit number"))
    }

    pub(super) fn u32(&self, slot: usize) -> Result<u32, Refusal> {
        self.field(slot).map_or(Ok(0), |at| u32_at(self.bytes, at, "a 32-bit number"))
    }

    pub(super) fn f32(&self, slot: usize) -> Result<f32, Refusal> {
        Ok(f32::from_bits(self.u32(slot)?))
    }

    pub(super) fn string(&self, slot: usize) -> Result<String, Refusal> {
        let at = self.target(slot)?;
        let len = u32_at(self.bytes, at, "length of a text")? as usize;
        let text = slice(self.bytes, at + 4, len.min(MAX_TEXT + 1), "a text")?;
        let refuse = |found: String| {
            Refusal::byte(at, format!("UTF-8 of at most {MAX_TEXT} bytes, no control characters"), found)
        };
        if len > MAX_TEXT {
            return Err(refuse(format!("{len} bytes")));
        }
        let text = std::str::from_utf8(text).map_err(|error| refuse(error.to_string()))?;
        if text.chars().any(char::is_control) {
            return Err(refuse(format!("\"{}\"", text.escape_debug())));
        }
        Ok(text.into())
    }

    pub(super) fn table(&self, slot: usize) -> Result<Self, Refusal> {
        Self::at(self.bytes, self.target(slot)?)
    }

    /// A list of at most `max` tables: a few bytes could name the same table again and again.
    pub(super) fn tables(&self, slot: usize, max: usize) -> Result<Vec<Self>, Refusal> {
        let at = self.target(slot)?;
        let len = u32_at(self.bytes, at, "length of a list")? as usize;
        if len > max {
            return Err(Refusal::byte(at, format!("at most {max} tables"), len.to_string()));
        }
        let item =
            |idx: usize| -> Result<Self, Refusal> { Self::at(self.bytes, indirect(self.bytes, at + 4 + 4 * idx)?) };
        (0..len).map(item).collect()
    }

    fn field(&self, slot: usize) -> Option<usize> {
        let offset = self.vtable.get(4 + 2 * slot..6 + 2 * slot)?;
        match u16::from_le_bytes([offset[0], offset[1]]) {
            0 => None,
            offset => Some(self.start + usize::from(offset)),
        }
    }

    fn target(&self, slot: usize) -> Result<usize, Refusal> {
        let missing = || Refusal::byte(self.start, format!("a table with field {slot}"), "none such");
        indirect(self.bytes, self.field(slot).ok_or_else(missing)?)
    }
}

fn indirect(bytes: &[u8], at: usize) -> Result<usize, Refusal> {
    Ok(at + u32_at(bytes, at, "an offset")? as usize)
}

fn slice<'a>(bytes: &'a [u8], at: usize, len: usize, what: &str) -> Result<&'a [u8], Refusal> {
    let slice = bytes.get(at..).and_then(|rest| rest.get(..len));
    slice.ok_or_else(|| Refusal::byte(at.min(bytes.len()), what, format!("an end at byte {}", bytes.len())))
}

fn u16_at(bytes: &[u8], at: usize, what: &str) -> Result<u16, Refusal> {
    let bytes = slice(bytes, at, 2, what)?;
    Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
}

fn u32_at(bytes: &[u8], at: usize, what: &str) -> Result<u32, Refusal> {
    let bytes = slice(bytes, at, 4, what)?;
    Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// Names of tensors are cut to 20 characters.
const MAX_TEXT: usize = 255;
