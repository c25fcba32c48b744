//! A map of features as bytes. Layout: `docs/formats/teacher-cache.md`.

use std::borrow::Cow;

use sensei_data::geometry::Size;

use crate::features::{FeatureRecord, FeatureValues, byte_lengths, check_shape};
use crate::kept::{FeatureDtype, RecordKind};
use crate::record::RecordFault;
use crate::record_bytes::{START_BYTES, begin, parse_start, seal};

impl<'a> FeatureRecord<'a> {
    /// The record as it stands in a shard.
    ///
    /// # Errors
    /// If a field is outside of what the format allows.
    pub fn to_bytes(&self) -> Result<Vec<u8>, RecordFault> {
        self.check()?;
        let mut bytes = Vec::new();
        append(self, &mut bytes);
        Ok(bytes)
    }

    /// Reads the record that fills `bytes` exactly. Of borrowed bytes the values stay borrowed; the map is not copied.
    ///
    /// # Errors
    /// If the record is damaged, of another kind, or holds what no record may.
    pub fn from_bytes(bytes: Cow<'a, [u8]>) -> Result<Self, RecordFault> {
        let start = parse_start(&bytes, RecordKind::ImageFeatures)?;
        let (code, mut fields) = (start.shape, start.fields);
        if start.id != start.image.id {
            return Err(RecordFault::new("image id", start.id.to_string(), start.image.id.to_string()));
        }
        let resized = Size { width: fields.u32()?, height: fields.u32()? };
        let used = Size { width: fields.u32()?, height: fields.u32()? };
        let (grid, channels) = (fields.u32()?, fields.u32()?);
        check_shape(grid, channels)?;
        let Some((scale_bytes, value_bytes)) = byte_lengths(code, grid, channels) else {
            return Err(RecordFault::new("type of values", "0 to 3", code.to_string()));
        };
        let scales = fields.bytes(scale_bytes)?.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        fields.bytes(value_bytes)?;
        fields.end()?;
        let image = start.image;
        let stored = tail(bytes, value_bytes);
        let values = match code {
            0 => FeatureValues::F32(stored),
            1 => FeatureValues::F16(stored),
            2 => FeatureValues::Int8 { scales, codes: stored },
            _ => FeatureValues::Int4 { scales, codes: stored },
        };
        let record = FeatureRecord { image, resized, used, grid, channels, values };
        record.check()?;
        Ok(record)
    }
}

/// Bytes of a record in a shard: of a map `[channels, grid, grid]` whose values are stored so.
pub fn feature_record_bytes(dtype: FeatureDtype, grid: u32, channels: u32) -> u64 {
    let code = match dtype {
        FeatureDtype::F32 => 0,
        FeatureDtype::F16 => 1,
        FeatureDtype::Int8 { .. } => 2,
        FeatureDtype::Int4 { .. } => 3,
    };
    let (scales, values) = byte_lengths(code, grid, channels).expect("a known code");
    (START_BYTES + N_NUMBERS * size_of::<u32>() + scales + values) as u64
}

/// Numbers between a record's beginning and its scales.
const N_NUMBERS: usize = 6;

/// Appends a record that has passed its check.
pub(crate) fn append(record: &FeatureRecord, shard: &mut Vec<u8>) {
    let kind = RecordKind::ImageFeatures;
    let start = begin(shard, kind, record.values.code(), record.image.id, &record.image);
    let (resized, used) = (record.resized, record.used);
    for number in [resized.width, resized.height, used.width, used.height, record.grid, record.channels] {
        shard.extend(number.to_le_bytes());
    }
    record.values.scales().iter().for_each(|scale| shard.extend(scale.to_le_bytes()));
    shard.extend(record.values.bytes());
    seal(shard, start);
}

/// The last `n` bytes.
fn tail(bytes: Cow<[u8]>, n: usize) -> Cow<[u8]> {
    let from = bytes.len() - n;
    match bytes {
        Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[from..]),
        Cow::Owned(mut bytes) => Cow::Owned(bytes.split_off(from)),
    }
}
