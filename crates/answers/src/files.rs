//! Reading whole files within a limit, and writing them so that they survive a power cut.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use crate::error::CacheError;

/// Reads a file of at most `max_bytes`.
pub fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, CacheError> {
    let io = |source| CacheError::Io { path: path.into(), what: "read", source };
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(max_bytes + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > max_bytes {
        let (expected, found) = (format!("at most {max_bytes} bytes"), "more".into());
        return Err(CacheError::Damaged { path: path.into(), what: "file size".into(), expected, found });
    }
    Ok(bytes)
}

/// Writes a file and waits until it is on disk. The caller writes into a folder that nobody reads yet.
pub fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
    let io = |source| CacheError::Io { path: path.into(), what: "write", source };
    let mut file = File::create(path).map_err(io)?;
    file.write_all(bytes).map_err(io)?;
    file.sync_all().map_err(io)
}

/// Waits until a folder's entries are on disk.
pub fn sync_folder(path: &Path) -> Result<(), CacheError> {
    let io = |source| CacheError::Io { path: path.into(), what: "sync", source };
    File::open(path).map_err(io)?.sync_all().map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_file_than_allowed_is_an_error() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let length = std::fs::metadata(&path).unwrap().len();
        assert_eq!(read(&path, length).unwrap().len() as u64, length);
        let error = read(&path, length - 1).unwrap_err().to_string();
        assert!(error.contains("Cargo.toml: damaged: file size: expected at most"), "{error}");
    }
}
