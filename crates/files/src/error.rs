//! Why a file could not be read or written.

use std::io;
use std::path::PathBuf;

/// A file that cannot be read or written. The cause is the error's source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The operating system refused.
    #[error("{}: cannot {action}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: `read`, `write`.
        action: &'static str,
        /// Its reason.
        source: io::Error,
    },
    /// A name cannot be taken by one writer of several here.
    #[error(
        "{}: expected a file system with hard links, found one without, on which several writers cannot be told apart; choose \
         another folder", path.display()
    )]
    NoHardLinks {
        /// The file that was to be created.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is larger than what it may hold.
    #[error("{}: expected at most {limit} bytes, found more", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes allowed.
        limit: u64,
    },
}

impl FileError {
    /// For `map_err`: the operating system refused `action` at `path`.
    pub fn io(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, action, source }
    }
}
