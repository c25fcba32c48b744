//! Why a run's files cannot be shown.

use std::path::{Path, PathBuf};

use sensei_eval::paired::PairingError;
use sensei_eval::report::ReportError;
use sensei_files::error::FileError;

/// A file of a run that cannot be read or written, or is not what its name says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportPageError {
    /// A file that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Scores that cannot be used.
    #[error(transparent)]
    Scores(#[from] ReportError),
    /// A file that is not what its name says.
    #[error("{}: not {what}", path.display())]
    Content {
        /// The file; of a file of lines with the line behind it.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// Why not.
        source: serde_json::Error,
    },
    /// A file with a value in it that cannot be.
    #[error("{}: {what}: expected {expected}, found {found}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Which value.
        what: String,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// Rows that were not scored on the same instances.
    #[error(transparent)]
    Pairing(#[from] PairingError),
}

impl ReportPageError {
    /// For `map_err`: the file is not `what`.
    pub(crate) fn not(path: &Path, what: &'static str) -> impl FnOnce(serde_json::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Content { path, what, source }
    }
}
