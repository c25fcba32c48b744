//! What `torch.save` wrote before PyTorch 1.6, and still does when asked: five pickles in a row, then the storages.
//!
//! The pickles are a magic number, the version of the layout, facts about the machine, the saved object, and the keys of
//! the storages in their order. A storage is its number of values in 8 bytes, and the values.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::checkpoint::CheckpointError;
use super::elements::ElementType;
use super::pickle::{Pickle, Value, parse};

/// The saved object, and the bytes of its storages by key.
pub(super) struct Legacy<'a> {
    pub object: Pickle<'a>,
    pub storages: BTreeMap<&'a str, &'a [u8]>,
}

/// Splits a file of this layout. Nothing is copied.
pub(super) fn read_legacy(bytes: &[u8]) -> Result<Legacy<'_>, CheckpointError> {
    let mut rest = bytes;
    let magic = next_pickle(&mut rest, "the magic number")?;
    if !matches!(magic.root(), Value::Long(found) if *found == MAGIC) {
        let (expected, found) = ("the one of torch.save".into(), format!("{}, so not its work", magic.root().kind()));
        return Err(CheckpointError::Content { member: "the magic number".into(), expected, found });
    }
    let version = next_pickle(&mut rest, "the version")?;
    if !matches!(version.root(), Value::Int(VERSION)) {
        let (expected, found) = (format!("{VERSION}"), version.root().kind().into());
        return Err(CheckpointError::Content { member: "the version".into(), expected, found });
    }
    check_byte_order(&next_pickle(&mut rest, "the facts about the machine")?)?;
    let object = next_pickle(&mut rest, "the saved object")?;
    let keys = next_pickle(&mut rest, "the keys of the storages")?;
    let storages = split_storages(&object, &keys, rest)?;
    Ok(Legacy { object, storages })
}

fn next_pickle<'a>(rest: &mut &'a [u8], part: &'static str) -> Result<Pickle<'a>, CheckpointError> {
    let pickle = parse(rest).map_err(|source| CheckpointError::Pickle { part, source })?;
    *rest = &rest[pickle.end..];
    Ok(pickle)
}

fn check_byte_order(machine: &Pickle) -> Result<(), CheckpointError> {
    let Value::Dict(facts) = machine.root() else { return Ok(()) };
    let is_order = |key: usize| matches!(machine.values[key], Value::Text("little_endian"));
    match facts.iter().find(|(key, _)| is_order(*key)).map(|(_, value)| &machine.values[*value]) {
        Some(Value::Bool(false)) => {
            let (expected, found) = ("little-endian values".into(), "big-endian ones".into());
            Err(CheckpointError::Content { member: "the facts about the machine".into(), expected, found })
        }
        _ => Ok(()),
    }
}

fn split_storages<'a>(
    object: &Pickle<'a>,
    keys: &Pickle<'a>,
    mut rest: &'a [u8],
) -> Result<BTreeMap<&'a str, &'a [u8]>, CheckpointError> {
    let elements: BTreeMap<&str, Option<ElementType>> = object.values.iter().filter_map(element_of_storage).collect();
    let wrong = |member: &str, expected: &str, found: String| CheckpointError::Content {
        member: member.into(),
        expected: expected.into(),
        found,
    };
    let Value::List(ids) = keys.root() else {
        return Err(wrong("the keys of the storages", "a list", keys.root().kind().into()));
    };
    let mut storages = BTreeMap::new();
    for id in ids {
        let Value::Text(key) = keys.values[*id] else {
            return Err(wrong("the keys of the storages", "strings", keys.values[*id].kind().into()));
        };
        let member = format!("storage {key}");
        let Some(Some(element)) = elements.get(key) else {
            return Err(wrong(&member, "a known element type, which says where the next begins", "another".into()));
        };
        let (n_values, after) =
            rest.split_first_chunk().ok_or_else(|| wrong(&member, "its number of values", "the file's end".into()))?;
        let n_values = usize::try_from(u64::from_le_bytes(*n_values)).ok();
        let n_bytes = n_values.and_then(|n_values| n_values.checked_mul(element.bytes()));
        let Some((values, after)) = n_bytes.and_then(|n_bytes| after.split_at_checked(n_bytes)) else {
            return Err(wrong(&member, "all its values", format!("{} bytes to the file's end", after.len())));
        };
        rest = after;
        match storages.entry(key) {
            Entry::Vacant(new) => drop(new.insert(values)),
            Entry::Occupied(_) => return Err(wrong(&member, "one", "two".into())),
        }
    }
    Ok(storages)
}

fn element_of_storage<'a>(value: &Value<'a>) -> Option<(&'a str, Option<ElementType>)> {
    match value {
        Value::Storage(storage) => Some((storage.key, storage.element)),
        _ => None,
    }
}

/// `0x1950a86a20f9469cfc6c`, as a pickle has it.
const MAGIC: &[u8] = &[0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// The version of the layout, the only one there is.
const VERSION: i64 = 1001;
