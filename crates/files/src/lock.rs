//! One holder at a time of what a file stands for.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process;

use crate::error::FileError;

/// A held lock. It ends with the value, and with its process, however that dies.
///
/// The file stays, empty, unless it is [removed](Self::remove).
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

/// A lock that cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another process has it.
    #[error("{}: held by {holder}", path.display())]
    Held {
        /// The lock's file.
        path: PathBuf,
        /// What the holder wrote into it: its process, and what it does.
        holder: String,
    },
    /// The file cannot be opened or locked.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Lock {
    /// Takes the lock that the file at `path` stands for, and writes into it who holds it: the process, and `doing`.
    ///
    /// ```
    /// use sensei_files::lock::Lock;
    ///
    /// let folder = tempfile::tempdir()?;
    /// let path = folder.path().join("lock");
    /// let held = Lock::take(&path, "training")?;
    /// let error = Lock::take(&path, "scoring").unwrap_err().to_string();
    /// assert!(error.ends_with(&format!("held by process {} (training)", std::process::id())));
    /// drop(held);
    /// Lock::take(&path, "scoring")?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Held`, naming the holder; `File`.
    pub fn take(path: &Path, doing: &str) -> Result<Self, LockError> {
        loop {
            let file = open(path)?;
            match file.try_lock() {
                Ok(()) if stands_under(path, &file) => return Self { file, path: path.into() }.told(doing),
                // It was removed by its holder meanwhile, and another file may stand there.
                Ok(()) => continue,
                Err(TryLockError::WouldBlock) => return Err(held(path, file)),
                Err(TryLockError::Error(source)) => return Err(FileError::io(path, "lock")(source).into()),
            }
        }
    }

    /// [`take`](Self::take), but waits until no other process has it.
    ///
    /// # Errors
    /// `File`.
    pub fn wait_for(path: &Path, doing: &str) -> Result<Self, LockError> {
        loop {
            let file = open(path)?;
            file.lock().map_err(FileError::io(path, "lock"))?;
            if stands_under(path, &file) {
                return Self { file, path: path.into() }.told(doing);
            }
        }
    }

    /// Who holds the lock, if anybody does. An empty file is held by nobody, and is not touched; one of a holder that was killed is locked
    /// for the moment of looking.
    ///
    /// # Errors
    /// If the file is there and cannot be read.
    pub fn holder(path: &Path) -> Result<Option<String>, FileError> {
        let file = match File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(FileError::io(path, "read"))?,
        };
        if file.metadata().map_err(FileError::io(path, "read"))?.len() == 0 {
            return Ok(None);
        }
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::WouldBlock) => match held(path, file) {
                LockError::Held { holder, .. } => Ok(Some(holder)),
                LockError::File(error) => Err(error),
            },
            Err(TryLockError::Error(source)) => Err(FileError::io(path, "lock")(source)),
        }
    }

    /// Ends the lock and removes its file: for one beside something that is there now.
    pub fn remove(self) {
        // What stays is an empty file. Whoever opened it before finds out that it stands under no name any more.
        let _ = fs::remove_file(&self.path);
    }

    fn told(mut self, doing: &str) -> Result<Self, LockError> {
        let text = format!("process {} ({doing})", process::id());
        let tell = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(text.as_bytes())
        };
        tell(&mut self.file).map_err(FileError::io(&self.path, "write"))?;
        Ok(self)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // What stays there is read only while the lock is held.
        let _ = self.file.set_len(0);
        let _ = self.file.unlock();
    }
}

fn held(path: &Path, file: File) -> LockError {
    let mut holder = String::new();
    let holder = match file.take(MAX_HOLDER_BYTES).read_to_string(&mut holder) {
        Ok(_) if !holder.is_empty() => holder,
        _ => String::from("another process"),
    };
    LockError::Held { path: path.into(), holder }
}

/// Whether the name still stands for the file that was opened by it.
#[cfg(unix)]
fn stands_under(path: &Path, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    fs::metadata(path).ok().zip(file.metadata().ok()).is_some_and(|(a, b)| same(a, b))
}

/// Other systems do not remove a file that is open.
#[cfg(not(unix))]
fn stands_under(_: &Path, _: &File) -> bool {
    true
}

fn open(path: &Path) -> Result<File, FileError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(FileError::io(path, "lock"))
}

/// More than any command line that is worth reading.
const MAX_HOLDER_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_gets_it_after_the_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = Lock::take(&path, "first").unwrap();
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || Lock::wait_for(&path, "second").map(drop)
        });
        let error = Lock::take(&path, "third").unwrap_err();
        assert!(matches!(&error, LockError::Held { holder, .. } if holder.ends_with("(first)")), "{error}");
        drop(held);
        waiting.join().unwrap().unwrap();
        Lock::take(&path, "third").unwrap();
    }

    #[test]
    fn a_holder_is_named_without_taking_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert_eq!(Lock::holder(&path).unwrap(), None);
        assert!(!path.exists(), "looking makes no file");
        let held = Lock::take(&path, "training").unwrap();
        assert!(Lock::holder(&path).unwrap().unwrap().ends_with("(training)"));
        assert!(Lock::holder(&path).unwrap().is_some(), "it is still held");
        drop(held);
        assert_eq!(Lock::holder(&path).unwrap(), None);
        crate::whole::write_whole(&path, b"process 1 (killed)").unwrap();
        assert_eq!(Lock::holder(&path).unwrap(), None, "nobody has it");
    }

    #[test]
    fn removed_locks_are_held_by_one_at_a_time_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let n_holders = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let lock = Lock::wait_for(&path, "counting").unwrap();
                        assert_eq!(n_holders.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        n_holders.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        lock.remove();
                    }
                });
            }
        });
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_a_dead_process_left_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let mut left = open(&path).unwrap();
        left.write_all(b"process 1 (gone)").unwrap();
        drop(left);
        Lock::take(&path, "next").unwrap();
        assert!(Lock::take(&folder.path().join("missing/lock"), "next").is_err());
    }
}
