//! Reading a file of which nobody knows how large it is.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::FileError;

/// The bytes of a file of at most `limit` bytes.
///
/// The limit holds for what is read, not for what the file system says of the file: a pipe or a growing file is bounded too.
///
/// # Errors
/// If it cannot be read or is larger.
pub fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(FileError::io(path, "read"))?;
    let length = file.metadata().map_err(FileError::io(path, "read"))?.len();
    if length > limit {
        return Err(FileError::TooLarge { path: path.into(), limit });
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(FileError::io(path, "read"))?;
    if bytes.len() as u64 > limit {
        return Err(FileError::TooLarge { path: path.into(), limit });
    }
    Ok(bytes)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make the files they read")]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_the_limit_is_read_and_a_larger_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("four");
        std::fs::write(&path, [1, 2, 3, 4]).unwrap();
        assert_eq!(read_bounded(&path, 4).unwrap(), [1, 2, 3, 4]);
        let error = read_bounded(&path, 3).unwrap_err().to_string();
        assert!(error.ends_with("four: expected at most 3 bytes, found more"), "{error}");
        let error = read_bounded(&folder.path().join("none"), 3).unwrap_err().to_string();
        assert!(error.ends_with("none: cannot read"), "{error}");
    }
}
