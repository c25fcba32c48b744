//! The number of messages in a protobuf file, before any is decoded: two bytes of an empty message would cost a hundred and more in
//! memory.

use prost::encoding::{WireType, decode_key, decode_varint};

/// Refuses a model of more than [`MAX_MESSAGES`] messages.
pub(super) fn check_number_of_messages(model: &[u8]) -> Result<(), String> {
    let mut budget = MAX_MESSAGES;
    count_messages(model, Kind::Model, &mut budget)
}

#[derive(Clone, Copy)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    ValueInfo,
    ValueType,
    TensorType,
    Shape,
    Leaf,
}

/// Takes the messages in `bytes`, which is one of the kind, from the budget.
fn count_messages(mut bytes: &[u8], kind: Kind, budget: &mut usize) -> Result<(), String> {
    let text = |error: prost::DecodeError| error.to_string();
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes).map_err(text)?;
        let len = match wire_type {
            WireType::Varint => decode_varint(&mut bytes).map(|_| 0).map_err(text)?,
            WireType::ThirtyTwoBit => 4,
            WireType::SixtyFourBit => 8,
            WireType::LengthDelimited => decode_varint(&mut bytes).map_err(text)?,
            WireType::StartGroup | WireType::EndGroup => return Err("a group".into()),
        };
        let len = usize::try_from(len).ok().filter(|&len| len <= bytes.len()).ok_or("a field longer than the file")?;
        let (field, rest) = bytes.split_at(len);
        bytes = rest;
        if wire_type != WireType::LengthDelimited {
            continue;
        }
        *budget = budget.checked_sub(1).ok_or_else(|| format!("more than {MAX_MESSAGES} parts"))?;
        let inner = match (kind, tag) {
            (Kind::Model, 7) => Kind::Graph,
            (Kind::Graph, 1) => Kind::Node,
            (Kind::Graph, 11..=13) => Kind::ValueInfo,
            (Kind::Node, 5) => Kind::Attribute,
            (Kind::ValueInfo, 2) => Kind::ValueType,
            (Kind::ValueType, 1) => Kind::TensorType,
            (Kind::TensorType, 2) => Kind::Shape,
            (Kind::Model, 8 | 14) | (Kind::Graph, 5) | (Kind::Attribute, 5) | (Kind::Shape, 1) => Kind::Leaf,
            _ => continue,
        };
        count_messages(field, inner, budget)?;
    }
    Ok(())
}

const MAX_MESSAGES: usize = 200_000;
