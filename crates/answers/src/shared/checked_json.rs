//! JSON that carries the digest of its content: bytes that were cut or changed on their way are known by it.

use std::path::Path;

use sensei_files::digest::blake3_hex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::CacheError;

/// What a file is, in its first two fields.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    pub name: &'static str,
    pub version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File<T> {
    format: String,
    version: u32,
    content: T,
    /// Over the content as compact JSON with its fields in the order of the type.
    blake3: String,
}

/// The bytes of a file.
pub fn to_bytes<T: Serialize>(format: Format, content: &T) -> Vec<u8> {
    let file = File { format: format.name.into(), version: format.version, content, blake3: digest(content) };
    let mut bytes = serde_json::to_vec(&file).expect("strings, numbers, lists and structs have a JSON form");
    bytes.push(b'\n');
    bytes
}

/// The content of the file `path`.
///
/// # Errors
/// `Damaged`, if it is of another format, or not as it was written.
pub fn parse<T: Serialize + DeserializeOwned>(format: Format, path: &Path, bytes: &[u8]) -> Result<T, CacheError> {
    let damaged = |what: &str, expected: String, found: String| {
        Err(CacheError::Damaged { path: path.into(), what: what.into(), expected, found })
    };
    let file: File<T> = match serde_json::from_slice(bytes) {
        Ok(file) => file,
        Err(error) => return damaged("JSON", format!("{} {}", format.name, format.version), error.to_string()),
    };
    let (expected, found) =
        (format!("{} {}", format.name, format.version), format!("{} {}", file.format, file.version));
    if expected != found {
        return damaged("format", expected, found);
    }
    let computed = digest(&file.content);
    if computed != file.blake3 {
        return damaged("checksum", file.blake3, computed);
    }
    Ok(file.content)
}

/// Whether bytes have come whole: one line, and a digest that is theirs.
pub fn is_whole<T: Serialize + DeserializeOwned>(format: Format, bytes: &[u8]) -> bool {
    bytes.last() == Some(&b'\n') && parse::<T>(format, Path::new(""), bytes).is_ok()
}

fn digest(content: &impl Serialize) -> String {
    blake3_hex(&serde_json::to_vec(content).expect("strings, numbers, lists and structs have a JSON form"))
}
