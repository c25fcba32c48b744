//! Element types of weight files, widened or rounded to 32-bit floats.

use std::fmt;

use burn::tensor::{bf16, f16};

/// How a file stores one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ElementType {
    /// IEEE 754 half precision.
    F16,
    /// The upper half of an `F32`.
    Bf16,
    /// IEEE 754 single precision: taken as it is.
    F32,
    /// IEEE 754 double precision: rounded.
    F64,
    /// An integer or boolean of this many bytes: only counters are, and those are not read.
    Integer(usize),
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ElementType::F16 => write!(f, "16-bit floats"),
            ElementType::Bf16 => write!(f, "bfloat16"),
            ElementType::F32 => write!(f, "32-bit floats"),
            ElementType::F64 => write!(f, "64-bit floats"),
            ElementType::Integer(1) => write!(f, "integers of 1 byte"),
            ElementType::Integer(bytes) => write!(f, "integers of {bytes} bytes"),
        }
    }
}

impl ElementType {
    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            ElementType::F16 | ElementType::Bf16 => 2,
            ElementType::F32 => 4,
            ElementType::F64 => 8,
            ElementType::Integer(bytes) => bytes,
        }
    }

    /// The value in little-endian `bytes`, of which there are [`ElementType::bytes`]; integers have none.
    pub(super) fn value(self, bytes: &[u8]) -> Option<f32> {
        Some(match self {
            ElementType::F16 => f16::from_le_bytes(bytes.try_into().ok()?).to_f32(),
            ElementType::Bf16 => bf16::from_le_bytes(bytes.try_into().ok()?).to_f32(),
            ElementType::F32 => f32::from_le_bytes(bytes.try_into().ok()?),
            ElementType::F64 => f64::from_le_bytes(bytes.try_into().ok()?) as f32,
            ElementType::Integer(_) => return None,
        })
    }
}
