//! Writing a file so that its name never stands for half of it, whatever happens in between.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::FileError;

/// Writes `bytes` to `path`: afterwards, and after a power cut, the name stands for all of them or for what it stood for before.
///
/// The bytes go to a temporary file in the same folder whose name no other process or thread uses, are flushed to disk and renamed;
/// then the folder is flushed. If anything fails, the temporary file is removed.
///
/// ```
/// use sensei_files::whole::write_whole;
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("scores.json");
/// write_whole(&path, b"{}")?;
/// assert_eq!(std::fs::read(&path)?, b"{}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// If a step fails. Only a failure to flush the folder leaves the new content under the name.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let temporary = staged(path, bytes)?;
    fs::rename(&temporary, path).map_err(|source| {
        // The first error is the one to report; a leftover has a name that says what it is.
        let _ = fs::remove_file(&temporary);
        FileError::Io { path: path.into(), action: "write", source }
    })?;
    sync_folder_of(path)
}

/// [`write_whole`] where nothing stands under the name: of several writers at once, on one machine or many, one succeeds. Whether
/// this one did.
///
/// ```
/// use sensei_files::whole::create_whole;
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("claim");
/// assert!(create_whole(&path, b"first")?);
/// assert!(!create_whole(&path, b"second")?);
/// assert_eq!(std::fs::read(&path)?, b"first");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// If a step fails; `NoHardLinks`, if the file system cannot give a file a second name, which is the only way to do this.
pub fn create_whole(path: &Path, bytes: &[u8]) -> Result<bool, FileError> {
    let temporary = staged(path, bytes)?;
    let linked = fs::hard_link(&temporary, path);
    // What stays has a name that says what it is.
    let _ = fs::remove_file(&temporary);
    match linked {
        Ok(()) => sync_folder_of(path).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(cannot_link(path, error)),
    }
}

/// A file that was written beside `path` could not be given its name. Linux says "not permitted" where a file system has no hard links.
fn cannot_link(path: &Path, source: io::Error) -> FileError {
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported => {
            FileError::NoHardLinks { path: path.into(), source }
        }
        _ => FileError::Io { path: path.into(), action: "create", source },
    }
}

/// Writes a temporary file beside `path` that no other process or thread uses, and waits until it is on disk.
fn staged(path: &Path, bytes: &[u8]) -> Result<PathBuf, FileError> {
    // Another machine may have a process of this number, and a killed one may have left its file.
    let (mut file, temporary) = loop {
        let temporary = temporary_beside(path)?;
        match OpenOptions::new().write(true).create_new(true).open(&temporary) {
            Ok(file) => break (file, temporary),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(FileError::Io { path: path.into(), action: "write", source }),
        }
    };
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.map_err(|source| {
        let _ = fs::remove_file(&temporary);
        FileError::Io { path: path.into(), action: "write", source }
    })?;
    Ok(temporary)
}

/// Writes `bytes` and waits until they are on disk. For a file in a folder that nobody reads before it is complete; others take
/// [`write_whole`].
///
/// # Errors
/// If it cannot be written.
#[expect(clippy::disallowed_methods, reason = "whole-file writing is made of it")]
pub fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let write = || -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(FileError::io(path, "write"))
}

/// Writes `bytes` and does not wait for the disk. For one of many files in a folder that nobody reads before it is complete:
/// [`sync_below`](crate::folder::sync_below) waits for all of them at once.
///
/// # Errors
/// If it cannot be written.
#[expect(clippy::disallowed_methods, reason = "whole-folder writing is made of it")]
pub fn write_unsynced(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    fs::write(path, bytes).map_err(FileError::io(path, "write"))
}

/// A file in a folder that nobody reads before it is complete, written piece by piece: [`write_synced`] of more than fits into memory.
#[derive(Debug)]
pub struct SyncedFile {
    file: File,
    path: PathBuf,
    n_bytes: u64,
}

impl SyncedFile {
    /// Starts an empty file in place of what the name stands for.
    ///
    /// # Errors
    /// If it cannot be created.
    #[expect(clippy::disallowed_methods, reason = "whole-file writing is made of it")]
    pub fn create(path: &Path) -> Result<Self, FileError> {
        let file = File::create(path).map_err(FileError::io(path, "write"))?;
        Ok(Self { file, path: path.into(), n_bytes: 0 })
    }

    /// Bytes so far.
    pub fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.file.write_all(bytes).map_err(FileError::io(&self.path, "write"))?;
        self.n_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Writes over the file's first bytes, and waits until all are on disk.
    ///
    /// # Errors
    /// If they cannot be written.
    ///
    /// # Panics
    /// If the file is shorter than its start.
    pub fn finish(mut self, start: &[u8]) -> Result<(), FileError> {
        assert!(start.len() as u64 <= self.n_bytes, "{} bytes over the first of {}", start.len(), self.n_bytes);
        let mut write = || -> io::Result<()> {
            self.file.rewind()?;
            self.file.write_all(start)?;
            self.file.sync_all()
        };
        write().map_err(FileError::io(&self.path, "write"))
    }
}

/// Waits until the entries of a folder are on disk.
///
/// # Errors
/// If the folder cannot be opened or flushed.
pub fn sync_folder(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(FileError::io(path, "write"))
}

/// Waits until the entry of `path` is on disk: [`sync_folder`] of the folder it is in.
///
/// # Errors
/// As [`sync_folder`].
pub fn sync_folder_of(path: &Path) -> Result<(), FileError> {
    match path.parent() {
        Some(folder) if folder != Path::new("") => sync_folder(folder),
        _ => sync_folder(Path::new(".")),
    }
}

/// A name beside `path` that no other writer uses: `.NAME.PID-COUNT.tmp`.
fn temporary_beside(path: &Path) -> Result<PathBuf, FileError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    beside(path, ".", &format!(".{}-{}.tmp", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
}

/// A path in the folder of another, named after it: `before`, its own name, `after`.
///
/// # Errors
/// If the path ends in no name, as `/` does.
pub fn beside(path: &Path, before: &str, after: &str) -> Result<PathBuf, FileError> {
    let nameless = || FileError::io(path, "write")(io::ErrorKind::InvalidFilename.into());
    let mut name = OsString::from(before);
    name.push(path.file_name().ok_or_else(nameless)?);
    name.push(after);
    Ok(path.with_file_name(name))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make the files they read")]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_new_content_replaces_the_old_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for content in [b"old".as_slice(), b"new and longer", b""] {
            write_whole(&path, content).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content);
            assert_eq!(names(folder.path()), ["file"]);
        }
    }

    #[test]
    fn a_name_that_cannot_be_taken_keeps_what_it_stands_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "x").unwrap();
        let error = write_whole(&path, b"bytes").unwrap_err();
        assert!(error.to_string().ends_with("taken: cannot write"), "{error}");
        assert_eq!(names(folder.path()), ["taken"]);
        assert_eq!(names(&path), ["inside"]);
        assert!(write_whole(&folder.path().join("missing/file"), b"bytes").is_err());
        assert!(write_whole(Path::new("/"), b"bytes").is_err());
    }

    #[test]
    fn a_file_in_pieces_gets_its_start_last() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut file = SyncedFile::create(&path).unwrap();
        [b"????".as_slice(), b"", b"and more"].iter().for_each(|piece| file.append(piece).unwrap());
        assert_eq!(file.n_bytes(), 12);
        file.finish(b"head").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"headand more");
        let error = SyncedFile::create(&folder.path().join("missing/file")).unwrap_err().to_string();
        assert!(error.ends_with("missing/file: cannot write"), "{error}");
    }

    #[test]
    fn many_writers_of_one_name_leave_the_whole_content_of_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let contents: Vec<Vec<u8>> = (0..8_u8).map(|writer| vec![writer; 50_000]).collect();
        std::thread::scope(|scope| {
            for content in &contents {
                scope.spawn(|| (0..10).for_each(|_| write_whole(&path, content).unwrap()));
            }
        });
        assert!(contents.contains(&fs::read(&path).unwrap()));
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn many_creators_of_one_name_leave_the_content_of_the_one_that_was_told_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("claim");
        // What a killed process of the same number has left.
        for count in 0..300 {
            fs::write(folder.path().join(format!(".claim.{}-{count}.tmp", process::id())), "left").unwrap();
        }
        let won = std::sync::Mutex::new(vec![]);
        std::thread::scope(|scope| {
            for creator in 0..8_u8 {
                let (won, path) = (&won, &path);
                scope.spawn(move || {
                    if create_whole(path, &[creator; 1000]).unwrap() {
                        won.lock().unwrap().push(creator);
                    }
                });
            }
        });
        let won = won.into_inner().unwrap();
        assert_eq!(won.len(), 1);
        assert_eq!(fs::read(&path).unwrap(), [won[0]; 1000]);
        assert_eq!(names(folder.path()).iter().filter(|name| !name.ends_with(".tmp")).count(), 1);
    }

    #[test]
    fn a_file_system_without_hard_links_is_named() {
        // What Linux answers on FAT, and on file systems that do not know the call.
        for code in [1, 95] {
            let error = cannot_link(Path::new("fat/claim"), io::Error::from_raw_os_error(code)).to_string();
            assert!(error.starts_with("fat/claim: expected a file system with hard links"), "{error}");
        }
        let error = cannot_link(Path::new("full/claim"), io::Error::from_raw_os_error(28)).to_string();
        assert_eq!(error, "full/claim: cannot create");
    }

    #[test]
    fn a_path_without_a_folder_is_in_the_working_directory() {
        sync_folder_of(Path::new("file")).unwrap();
        assert_eq!(temporary_beside(Path::new("file")).unwrap().parent(), Some(Path::new("")));
    }
}
