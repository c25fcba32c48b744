//! Objects as the files of a folder, which may be on a file system that many machines share.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use sensei_files::bounded::read_bounded;
use sensei_files::error::FileError;
use sensei_files::whole::{create_whole, sync_folder_of, write_whole};

use crate::error::StoreError;
use crate::objects::{Created, Listed, Objects};

/// A folder of objects. Files appear under their name when they are complete; a killed writer leaves a `.NAME.*.tmp` beside it,
/// which is listed like an object.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The folder at `root`; it is made when the first object is stored.
    pub fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }

    /// The file of an object.
    ///
    /// # Panics
    /// If the name leads out of the folder: callers make names of digests.
    fn file(&self, name: &str) -> PathBuf {
        let is_inner = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        assert!(is_inner && !name.is_empty(), "{name:?} is a name in a folder");
        self.root.join(name)
    }

    fn file_to_write(&self, name: &str) -> Result<PathBuf, FileError> {
        let file = self.file(name);
        let folder = file.parent().unwrap_or(&self.root);
        if !folder.is_dir() {
            fs::create_dir_all(folder).map_err(FileError::io(folder, "create"))?;
            sync_folder_of(folder)?;
        }
        Ok(file)
    }
}

impl Objects for Folder {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        let is_new = create_whole(&self.file_to_write(name)?, bytes)?;
        Ok(if is_new { Created::Now } else { Created::Taken })
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        Ok(write_whole(&self.file_to_write(name)?, bytes)?)
    }

    fn get(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        match read_bounded(&self.file(name), limit) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<Listed>, StoreError> {
        let root = if folder.is_empty() { self.root.clone() } else { self.file(folder) };
        let mut found = vec![];
        below(&self.root, &root, &mut found)?;
        Ok(found)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        let file = self.file(name);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::io(file, "remove")(error).into()),
            _ => Ok(()),
        }
    }
}

/// Files that vanish while they are listed were removed by another process, and are none.
fn below(root: &Path, folder: &Path, found: &mut Vec<Listed>) -> Result<(), FileError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(FileError::io(folder, "list")(error)),
    };
    for entry in entries {
        let entry = entry.map_err(FileError::io(folder, "list"))?;
        let path = entry.path();
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(FileError::io(path, "list")(error)),
        };
        if metadata.is_dir() {
            below(root, &path, found)?;
            continue;
        }
        let inner = path.strip_prefix(root).unwrap_or(&path);
        let name = inner.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
        let modified = metadata.modified().map_err(FileError::io(&path, "list"))?;
        found.push(Listed { name, bytes: metadata.len(), modified });
    }
    Ok(())
}
