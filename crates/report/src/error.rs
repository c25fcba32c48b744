//! Why a run's files cannot be shown.

use std::path::{Path, PathBuf};

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
    /// A file, or a line of one, that is not the JSON it should be.
    #[error("{}:{line}: not what the file's name says", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
}

impl ReportPageError {
    /// For `map_err`: line `line` of the file is broken.
    pub(crate) fn not_json(path: &Path, line: usize) -> impl FnOnce(serde_json::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Json { path, line, source }
    }
}
