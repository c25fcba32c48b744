//! Errors of the other crates as Python's exceptions.

use std::error::Error;
use std::io;
use std::path::Path;

use pyo3::PyErr;
use pyo3::exceptions::{PyFileNotFoundError, PyOSError, PyPermissionError, PyValueError};

/// The exception of an error, with the text of the error and its causes: an `OSError` where the system refused, otherwise a `ValueError`.
pub(crate) fn raised(error: &(dyn Error + 'static)) -> PyErr {
    let text = in_words(error);
    match io_kind(error) {
        Some(io::ErrorKind::NotFound) => PyFileNotFoundError::new_err(text),
        Some(io::ErrorKind::PermissionDenied) => PyPermissionError::new_err(text),
        Some(_) => PyOSError::new_err(text),
        None => PyValueError::new_err(text),
    }
}

/// The same with the place that the error is about before its text.
pub(crate) fn raised_at(place: &str, error: &(dyn Error + 'static)) -> PyErr {
    PyValueError::new_err(format!("{place}: {}", in_words(error)))
}

/// A refusal with what was expected and what was found.
pub(crate) fn refused(what: &str, expected: impl AsRef<str>, found: impl AsRef<str>) -> PyErr {
    PyValueError::new_err(format!("{what}: expected {}, found {}", expected.as_ref(), found.as_ref()))
}

/// Refuses a path at which nothing is.
///
/// # Errors
/// `FileNotFoundError`.
pub(crate) fn check_exists(path: &Path, expected: &str) -> Result<(), PyErr> {
    if path.exists() {
        return Ok(());
    }
    Err(PyFileNotFoundError::new_err(format!("{}: expected {expected}, found nothing", path.display())))
}

fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    let mut causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind)
}

fn in_words(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.fold(String::new(), |text, cause| match cause.to_string() {
        first if text.is_empty() => first,
        // Some errors have their cause's text in their own.
        repeated if text.contains(&repeated) => text,
        further => format!("{text}: {further}"),
    })
}
