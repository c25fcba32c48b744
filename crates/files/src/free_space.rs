//! How much a file system still takes.

use std::path::Path;

use crate::error::FileError;

/// Bytes that this user may still write to the file system of an existing path; `None` where the system does not say.
///
/// # Errors
/// If the path cannot be looked at.
#[cfg(target_os = "linux")]
pub fn free_bytes(path: &Path) -> Result<Option<u64>, FileError> {
    let found =
        rustix::fs::statvfs(path).map_err(|error| FileError::io(path, "read the free space of")(error.into()))?;
    Ok(Some(found.f_bavail.saturating_mul(found.f_frsize)))
}

/// Bytes that this user may still write to the file system of an existing path; `None` where the system does not say.
///
/// # Errors
/// None on this system.
#[cfg(not(target_os = "linux"))]
pub fn free_bytes(_: &Path) -> Result<Option<u64>, FileError> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_folder_has_room_and_a_path_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_bytes(folder.path()).unwrap().unwrap() > 0);
        let error = free_bytes(&folder.path().join("missing")).unwrap_err().to_string();
        assert!(error.ends_with("missing: cannot read the free space of"), "{error}");
    }
}
