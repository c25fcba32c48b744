//! Why the bytes of a deployment file are refused: which file and member, where, expected and found.

use std::fmt;
use std::path::{Path, PathBuf};

use sensei_files::error::FileError;

/// A deployment file that cannot be read or written, or is not what it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// A file that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The content is not what the format says.
    #[error("{path}: {refusal}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Where and why.
        refusal: Box<Refusal>,
    },
}

/// Where the content is not what the format says, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The file inside the file, if it has such.
    pub member: Option<String>,
    /// Where in the file or member.
    pub place: Place,
    /// What the format says.
    pub expected: String,
    /// What is there.
    pub found: String,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Offset from the start, in bytes.
    Byte(usize),
    /// Line of a text, from 1.
    Line(usize),
    /// Name of a value.
    Key(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(member) = &self.member {
            write!(f, "{member}: ")?;
        }
        match &self.place {
            Place::Byte(offset) => write!(f, "at byte {offset}")?,
            Place::Line(line) => write!(f, "line {line}")?,
            Place::Key(key) => write!(f, "{key}")?,
        }
        write!(f, ": expected {}, found {}", self.expected, self.found)
    }
}

impl Refusal {
    pub(crate) fn new(place: Place, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { member: None, place, expected: expected.into(), found: found.into() }
    }

    pub(crate) fn byte(offset: usize, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(Place::Byte(offset), expected, found)
    }

    pub(crate) fn key(key: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(Place::Key(key.into()), expected, found)
    }

    /// The same refusal, inside of `member`.
    pub(crate) fn inside(mut self, member: &str) -> Self {
        self.member = Some(match self.member {
            Some(inner) => format!("{member}: {inner}"),
            None => member.into(),
        });
        self
    }

    /// The same refusal, `start` bytes later.
    pub(crate) fn after(mut self, start: usize) -> Self {
        if let Place::Byte(offset) = &mut self.place {
            *offset += start;
        }
        self
    }

    /// The same refusal, of the file at `path`.
    pub(crate) fn of(self, path: &Path) -> PackageError {
        PackageError::Format { path: path.into(), refusal: Box::new(self) }
    }
}

/// Bytes in order, every length checked.
pub(crate) struct Bytes<'a> {
    bytes: &'a [u8],
    pub(crate) offset: usize,
}

impl<'a> Bytes<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.offset..]
    }

    pub(crate) fn take(&mut self, what: &str, len: usize) -> Result<&'a [u8], Refusal> {
        let rest = self.rest();
        let Some(taken) = rest.get(..len) else {
            let expected = format!("{what}, {len} bytes");
            return Err(Refusal::byte(self.offset, expected, format!("{} bytes", rest.len())));
        };
        self.offset += len;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Refusal> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(what, N)?);
        Ok(array)
    }

    pub(crate) fn u32_be(&mut self, what: &str) -> Result<u32, Refusal> {
        Ok(u32::from_be_bytes(self.array(what)?))
    }

    /// Takes what has to be there, byte for byte.
    pub(crate) fn expect(&mut self, what: &str, expected: &[u8]) -> Result<(), Refusal> {
        let offset = self.offset;
        let found = self.take(what, expected.len())?;
        match found.iter().zip(expected).position(|(found, expected)| found != expected) {
            None => Ok(()),
            Some(at) => {
                let expected = format!("{what}, byte {:#04x}", expected[at]);
                Err(Refusal::byte(offset + at, expected, format!("{:#04x}", found[at])))
            }
        }
    }
}
