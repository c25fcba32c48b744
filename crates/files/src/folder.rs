//! Folders that exist whole or not at all, also where several processes want the same one.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;

use crate::error::FileError;
use crate::lock::{Lock, LockError};
use crate::whole::{beside, sync_folder_of};

/// Whether this call made the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// It did.
    Here,
    /// It was there before, or another process made it meanwhile.
    Elsewhere,
}

/// Makes a folder if it is not there: `make` makes one at the path that it is given, which then takes the name.
///
/// Of several processes one makes it, and the others wait for that. What a process that died has left of its own is removed.
///
/// ```
/// use sensei_files::folder::{Made, make_once};
/// use sensei_files::error::FileError;
///
/// let place = tempfile::tempdir()?;
/// let folder = place.path().join("scenes");
/// let fill = |folder: &std::path::Path| -> Result<(), FileError> {
///     std::fs::create_dir(folder).map_err(FileError::io(folder, "create"))?;
///     std::fs::write(folder.join("one"), "1").map_err(FileError::io(folder, "write"))
/// };
/// assert_eq!(make_once(&folder, fill)?, Made::Here);
/// assert_eq!(make_once(&folder, fill)?, Made::Elsewhere);
/// assert_eq!(std::fs::read(folder.join("one"))?, b"1");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Those of `make`, and if a folder cannot be made, locked or moved. Nothing stands under the name then.
pub fn make_once<E: From<FileError>>(folder: &Path, make: impl FnOnce(&Path) -> Result<(), E>) -> Result<Made, E> {
    if folder.exists() {
        return Ok(Made::Elsewhere);
    }
    let parent = folder.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(FileError::io(parent, "create"))?;
    let lock_path = beside(folder, ".", ".lock")?;
    let lock = Lock::wait_for(&lock_path, "making the folder").map_err(|error| match error {
        LockError::File(error) => error,
        LockError::Held { path, holder } => FileError::io(path, "lock")(io::Error::other(holder)),
    })?;
    let made = make_locked(folder, make);
    lock.remove();
    made
}

fn make_locked<E: From<FileError>>(folder: &Path, make: impl FnOnce(&Path) -> Result<(), E>) -> Result<Made, E> {
    if folder.exists() {
        return Ok(Made::Elsewhere);
    }
    remove_leftovers(folder)?;
    let partial = beside(folder, "", &format!("{PARTIAL}{}", process::id()))?;
    let made = make(&partial)
        .and_then(|()| fs::rename(&partial, folder).map_err(FileError::io(folder, "make")).map_err(E::from));
    if let Err(error) = made {
        // The first error is the one to report; the next maker removes what stays.
        let _ = fs::remove_dir_all(&partial);
        return Err(error);
    }
    sync_folder_of(folder)?;
    Ok(Made::Here)
}

/// Waits until every file below a folder, and its name, is on disk: what comes before a folder of many files takes its name.
///
/// Some files are waited for at the same time: each wait is the disk's, not the processor's.
///
/// # Errors
/// If a file cannot be opened or flushed.
pub fn sync_below(folder: &Path) -> Result<(), FileError> {
    let mut paths = vec![];
    entries_below(folder, &mut paths)?;
    let per_thread = paths.len().div_ceil(WAITING).max(1);
    let sync = |path: &PathBuf| {
        let flushed = fs::File::open(path).and_then(|file| file.sync_all());
        flushed.map_err(FileError::io(path, "write"))
    };
    std::thread::scope(|scope| {
        let waiting: Vec<_> =
            paths.chunks(per_thread).map(|paths| scope.spawn(move || paths.iter().try_for_each(sync))).collect();
        waiting.into_iter().try_for_each(|thread| thread.join().expect("flushing a file does not panic"))
    })
}

/// A folder, and every file and folder below it.
fn entries_below(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<(), FileError> {
    for entry in fs::read_dir(folder).map_err(FileError::io(folder, "list"))? {
        let path = entry.map_err(FileError::io(folder, "list"))?.path();
        if path.is_dir() { entries_below(&path, paths)? } else { paths.push(path) }
    }
    paths.push(folder.to_path_buf());
    Ok(())
}

/// Puts a complete folder in the place of another: at any moment, one of both stands under the name.
///
/// # Errors
/// If a folder cannot be moved or removed.
pub fn replace(complete: &Path, name: &Path) -> Result<(), FileError> {
    let failed = |action| FileError::io(name, action);
    if name.symlink_metadata().is_ok() {
        exchange(complete, name).map_err(failed("replace"))?;
        sync_folder_of(name)?;
        // What stands there now is the old one.
        return fs::remove_dir_all(complete).map_err(FileError::io(complete, "remove"));
    }
    fs::rename(complete, name).map_err(failed("make"))?;
    sync_folder_of(name)
}

#[cfg(target_os = "linux")]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE).map_err(io::Error::from)
}

/// Other systems do not exchange names in one step: for a moment the old folder has another name.
#[cfg(not(target_os = "linux"))]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    let old = beside(b, ".", ".old").map_err(io::Error::other)?;
    fs::rename(b, &old)?;
    fs::rename(a, b)?;
    fs::rename(&old, a)
}

/// Removes the unfinished folders of processes that died. Only under the folder's lock: nobody else is making one then.
fn remove_leftovers(folder: &Path) -> Result<(), FileError> {
    let parent = folder.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let [own, hidden] = ["", "."].map(|before| beside(folder, before, PARTIAL));
    let (own, hidden) = (own?, hidden?);
    let is_left = |name: &OsStr| {
        let starts = |with: &Path| {
            let with = with.file_name().unwrap_or_default();
            name.as_encoded_bytes().starts_with(with.as_encoded_bytes())
        };
        starts(&own) || starts(&hidden)
    };
    for entry in fs::read_dir(parent).map_err(FileError::io(parent, "list"))? {
        let entry = entry.map_err(FileError::io(parent, "list"))?;
        if is_left(&entry.file_name()) {
            let path = entry.path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(FileError::io(path, "remove"))?;
        }
    }
    Ok(())
}

const PARTIAL: &str = ".partial-";

/// Threads that wait for the disk.
const WAITING: usize = 8;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make the files they read")]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn fill(folder: &Path) -> Result<(), FileError> {
        fs::create_dir(folder).map_err(FileError::io(folder, "create"))?;
        fs::write(folder.join("file"), "content").map_err(FileError::io(folder, "write"))
    }

    #[test]
    fn many_makers_make_one_and_leave_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("deep/scenes");
        let n_made = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let made = make_once(&folder, |partial| {
                        n_made.fetch_add(1, Ordering::Relaxed);
                        fill(partial)
                    });
                    made.unwrap();
                });
            }
        });
        assert_eq!(n_made.into_inner(), 1);
        assert_eq!(names(folder.parent().unwrap()), ["scenes"]);
    }

    #[test]
    fn a_failure_leaves_no_folder_and_the_next_maker_makes_it() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("scenes");
        fs::create_dir(place.path().join("scenes.partial-4194399")).unwrap();
        fs::write(place.path().join(".scenes.partial-4194399.lock"), "").unwrap();
        fs::create_dir(place.path().join("scenes.other")).unwrap();
        let failed: Result<Made, FileError> = make_once(&folder, |partial| {
            fill(partial)?;
            Err(FileError::TooLarge { path: partial.into(), limit: 0 })
        });
        assert!(failed.is_err());
        assert_eq!(names(place.path()), ["scenes.other"]);
        assert_eq!(make_once(&folder, fill).unwrap(), Made::Here);
        assert_eq!(names(place.path()), ["scenes", "scenes.other"]);
    }

    #[test]
    fn a_folder_of_files_is_flushed_as_one() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("masks");
        fs::create_dir_all(folder.join("inner")).unwrap();
        for name in ["a", "inner/b"] {
            crate::whole::write_unsynced(&folder.join(name), name.as_bytes()).unwrap();
        }
        sync_below(&folder).unwrap();
        assert_eq!(fs::read_to_string(folder.join("inner/b")).unwrap(), "inner/b");
        assert!(sync_below(&place.path().join("none")).is_err());
    }

    #[test]
    fn a_folder_takes_the_place_of_another() {
        let place = tempfile::tempdir().unwrap();
        let (complete, name) = (place.path().join("package.partial"), place.path().join("package"));
        for content in ["old", "new"] {
            fs::create_dir(&complete).unwrap();
            fs::write(complete.join("file"), content).unwrap();
            replace(&complete, &name).unwrap();
            assert_eq!(fs::read_to_string(name.join("file")).unwrap(), content);
            assert_eq!(names(place.path()), ["package"]);
        }
        assert!(replace(&complete, &name).is_err());
        assert_eq!(names(&name), ["file"]);
    }
}
