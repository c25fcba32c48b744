//! One answer of the teacher about an image: a map of features.

use std::borrow::Cow;

use half::f16;
use sensei_data::geometry::Size;

pub use crate::feature_bytes::feature_record_bytes;
use crate::kept::{FeatureDtype, Kept, MAX_CHANNELS, MAX_GRID};
use crate::key::AnswerKey;
use crate::record::{ImageIdentity, RecordFault};

/// A map of features of one image, `[channels, grid, grid]`. All cells are kept, those of padding too: a mask decoder reads
/// something from them.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureRecord<'a> {
    /// The image.
    pub image: ImageIdentity,
    /// Size of the image in the teacher's input, in its pixels, padding left out.
    pub resized: Size,
    /// Columns and rows of cells whose centre lies in the image: 1 to `grid`. The others show padding.
    pub used: Size,
    /// Cells along each side.
    pub grid: u32,
    /// Values of each cell.
    pub channels: u32,
    /// The values.
    pub values: FeatureValues<'a>,
}

/// Values as they are stored, little-endian, `[channels, grid, grid]`, row by row.
#[derive(Debug, Clone, PartialEq)]
pub enum FeatureValues<'a> {
    /// Four bytes each.
    F32(Cow<'a, [u8]>),
    /// Two bytes each.
    F16(Cow<'a, [u8]>),
    /// Codes in two's complement; a value is its code times its channel's scale.
    Int8 {
        /// One for each channel.
        scales: Vec<f32>,
        /// A byte each.
        codes: Cow<'a, [u8]>,
    },
    /// The same in four bits.
    Int4 {
        /// One for each channel.
        scales: Vec<f32>,
        /// Two codes a byte, the first in its lower half; a channel starts with a byte of its own.
        codes: Cow<'a, [u8]>,
    },
}

impl FeatureValues<'static> {
    /// Values as they are.
    pub fn from_f32(values: &[f32]) -> Self {
        Self::F32(values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// Values in half precision, rounded to nearest, ties to even. Beyond 65,504 they become infinite, which no cache takes.
    pub fn f16(values: &[f32]) -> Self {
        Self::F16(values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect())
    }

    /// Values as int8 codes of their channel's scale, rounded half to even and cut to -127..127.
    ///
    /// # Panics
    /// If `values` do not divide into as many channels as there are scales: a bug in the caller.
    pub fn int8(values: &[f32], scales: Vec<f32>) -> Self {
        let codes = codes(values, &scales, 127).into_iter().flatten().map(i8::cast_unsigned).collect();
        Self::Int8 { scales, codes }
    }

    /// Values as int4 codes of their channel's scale, rounded half to even and cut to -7..7.
    ///
    /// # Panics
    /// As [`int8`](Self::int8).
    pub fn int4(values: &[f32], scales: Vec<f32>) -> Self {
        let pair =
            |pair: &[i8]| (pair[0].cast_unsigned() & 15) | (pair.get(1).map_or(0, |high| high << 4)).cast_unsigned();
        let channels = codes(values, &scales, 7);
        let codes = channels.iter().flat_map(|channel| channel.chunks(2).map(pair)).collect();
        Self::Int4 { scales, codes }
    }
}

impl FeatureValues<'_> {
    /// What a key calls it, whatever the scales were taken from.
    pub(crate) fn is_of(&self, dtype: FeatureDtype) -> bool {
        matches!(
            (self, dtype),
            (Self::F32(_), FeatureDtype::F32)
                | (Self::F16(_), FeatureDtype::F16)
                | (Self::Int8 { .. }, FeatureDtype::Int8 { .. })
                | (Self::Int4 { .. }, FeatureDtype::Int4 { .. })
        )
    }

    fn name(&self) -> &'static str {
        match self {
            Self::F32(_) => "f32",
            Self::F16(_) => "f16",
            Self::Int8 { .. } => "int8",
            Self::Int4 { .. } => "int4",
        }
    }

    /// The number that stands for the type in files.
    pub(crate) fn code(&self) -> u32 {
        match self {
            Self::F32(_) => 0,
            Self::F16(_) => 1,
            Self::Int8 { .. } => 2,
            Self::Int4 { .. } => 3,
        }
    }

    /// Scales, one for each channel; none for floats.
    pub fn scales(&self) -> &[f32] {
        match self {
            Self::F32(_) | Self::F16(_) => &[],
            Self::Int8 { scales, .. } | Self::Int4 { scales, .. } => scales,
        }
    }

    /// The values as they are stored, scales left out.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::F32(bytes) | Self::F16(bytes) | Self::Int8 { codes: bytes, .. } | Self::Int4 { codes: bytes, .. } => {
                bytes
            }
        }
    }
}

impl FeatureRecord<'_> {
    /// The values, `[channels, grid, grid]`.
    pub fn to_f32(&self) -> Vec<f32> {
        let per_channel = (self.grid * self.grid) as usize;
        match &self.values {
            FeatureValues::F32(bytes) => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            FeatureValues::F16(bytes) => {
                bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()
            }
            FeatureValues::Int8 { scales, codes } => {
                let channels = codes.chunks_exact(per_channel).zip(scales);
                let value = |scale: f32| move |code: &u8| f32::from(code.cast_signed()) * scale;
                channels.flat_map(|(codes, &scale)| codes.iter().map(value(scale))).collect()
            }
            FeatureValues::Int4 { scales, codes } => {
                let channels = codes.chunks_exact(per_channel.div_ceil(2)).zip(scales);
                // An arithmetic shift brings the sign of the four bits along.
                let halves = |code: &u8| [(code << 4).cast_signed() >> 4, code.cast_signed() >> 4];
                let value = |scale: f32| move |code: i8| f32::from(code) * scale;
                channels
                    .flat_map(|(codes, &scale)| codes.iter().flat_map(halves).take(per_channel).map(value(scale)))
                    .collect()
            }
        }
    }

    /// # Errors
    /// If a field is outside of what the file format allows.
    pub(crate) fn check(&self) -> Result<(), RecordFault> {
        self.image.check()?;
        check_shape(self.grid, self.channels)?;
        let (grid, channels) = (self.grid, self.channels as usize);
        if self.resized.width == 0 || self.resized.height == 0 {
            return Err(RecordFault::new("resized size", "an image with pixels", self.resized.to_string()));
        }
        if !(1..=grid).contains(&self.used.width) || !(1..=grid).contains(&self.used.height) {
            return Err(RecordFault::new("used cells", format!("1 to {grid} each way"), self.used.to_string()));
        }
        let (scales, bytes) = (self.values.scales(), self.values.bytes());
        let expected = byte_lengths(self.values.code(), grid, self.channels);
        if expected != Some((scales.len() * 4, bytes.len())) {
            let found = format!("{} scales and {} bytes", scales.len(), bytes.len());
            return Err(RecordFault::new("values", format!("{channels} channels of {grid} x {grid}"), found));
        }
        if let Some(scale) = scales.iter().find(|scale| !(scale.is_finite() && **scale >= 0.0)) {
            return Err(RecordFault::new("scale", "numbers from 0", scale.to_string()));
        }
        let is_finite = match &self.values {
            // All bits of the exponent are set in what is infinite or no number.
            FeatureValues::F32(bytes) => bytes.as_chunks().0.iter().all(|bytes| f32::from_le_bytes(*bytes).is_finite()),
            FeatureValues::F16(bytes) => {
                bytes.as_chunks().0.iter().all(|bytes| u16::from_le_bytes(*bytes) & 0x7c00 != 0x7c00)
            }
            FeatureValues::Int8 { .. } | FeatureValues::Int4 { .. } => true,
        };
        if !is_finite {
            return Err(RecordFault::new("values", "numbers", "an infinite one, or none"));
        }
        Ok(())
    }

    /// # Errors
    /// If a cache of this key does not hold such a record.
    pub(crate) fn check_key(&self, key: &AnswerKey) -> Result<(), RecordFault> {
        let Kept::ImageFeatures { tap: _, grid, channels, dtype } = key.kept else {
            return Err(RecordFault::new("kind of record", key.kept.kind().to_string(), "image features"));
        };
        if (self.grid, self.channels) != (grid, channels) {
            let text = |grid, channels| format!("{channels} channels of {grid} x {grid}");
            let expected = format!("{} by the key", text(grid, channels));
            return Err(RecordFault::new("map", expected, text(self.grid, self.channels)));
        }
        if !self.values.is_of(dtype) {
            return Err(RecordFault::new("type of values", format!("{dtype} by the key"), self.values.name()));
        }
        Ok(())
    }
}

/// The scale of each channel by which its largest absolute value becomes `largest_code`; 0 for a channel of zeros.
///
/// For scales of a whole data set: the maximum of this over its images.
///
/// # Panics
/// If the values do not divide into `channels`: a bug in the caller.
pub fn channel_scales(values: &[f32], channels: usize, largest_code: i8) -> Vec<f32> {
    assert!(channels > 0 && values.len().is_multiple_of(channels), "{} values in {channels} channels", values.len());
    let largest = |channel: &[f32]| channel.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    values.chunks(values.len() / channels).map(|channel| largest(channel) / f32::from(largest_code)).collect()
}

/// Refuses maps that no record has: what a reader allocates follows from their size.
pub(crate) fn check_shape(grid: u32, channels: u32) -> Result<(), RecordFault> {
    if !(1..=MAX_GRID).contains(&grid) {
        return Err(RecordFault::new("grid", format!("1 to {MAX_GRID}"), grid.to_string()));
    }
    if !(1..=MAX_CHANNELS).contains(&channels) {
        return Err(RecordFault::new("channels", format!("1 to {MAX_CHANNELS}"), channels.to_string()));
    }
    let n_values = u64::from(grid) * u64::from(grid) * u64::from(channels);
    if n_values > MAX_VALUES {
        return Err(RecordFault::new("values", format!("at most {MAX_VALUES}"), n_values.to_string()));
    }
    Ok(())
}

/// Bytes of the scales and of the values of a map that [`check_shape`] let pass, by the type's code; `None` for another code.
pub(crate) fn byte_lengths(code: u32, grid: u32, channels: u32) -> Option<(usize, usize)> {
    let (per_channel, channels) = ((grid * grid) as usize, channels as usize);
    Some(match code {
        0 => (0, 4 * per_channel * channels),
        1 => (0, 2 * per_channel * channels),
        2 => (4 * channels, per_channel * channels),
        3 => (4 * channels, per_channel.div_ceil(2) * channels),
        _ => return None,
    })
}

fn codes(values: &[f32], scales: &[f32], largest_code: i8) -> Vec<Vec<i8>> {
    let n_channels = scales.len();
    assert!(n_channels > 0 && values.len().is_multiple_of(n_channels), "{} values, {n_channels} scales", values.len());
    let largest = f32::from(largest_code);
    let code = |value: f32, scale: f32| match scale {
        0.0 => 0,
        _ => (value / scale).round_ties_even().clamp(-largest, largest) as i8,
    };
    let channels = values.chunks(values.len() / n_channels).zip(scales);
    channels.map(|(channel, &scale)| channel.iter().map(|&value| code(value, scale)).collect()).collect()
}

/// Most values of a map: 256 MiB as f32.
pub const MAX_VALUES: u64 = 64 << 20;
