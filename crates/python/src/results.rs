//! Results of a detector or of prompts: a file, or a list that Python holds.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyList;
use sensei_data::dataset::Dataset;
use sensei_data::detections::Detections;

use crate::array_input::described;
use crate::exception::raised;
use crate::json;
use crate::threads::compute;

/// Results that `COCO.loadRes` read for its annotations.
#[pyclass(frozen, module = "sensei")]
pub(crate) struct Results {
    pub(crate) truth: Arc<Dataset>,
    pub(crate) detections: Detections,
}

#[pymethods]
impl Results {
    fn __len__(&self) -> usize {
        self.detections.items.len()
    }

    fn __repr__(&self) -> String {
        format!("Results({}: {})", self.detections.path.display(), self.detections.items.len())
    }
}

/// Reads results for a data set.
///
/// # Errors
/// `TypeError` if they are neither a path nor a list, and those of [`Detections::load`].
pub(crate) fn read(py: Python<'_>, results: &Bound<'_, PyAny>, dataset: &Dataset) -> PyResult<Detections> {
    if results.is_instance_of::<PyList>() {
        let text = json::to_text(results)?;
        return compute(py, || Detections::parse(Path::new("results"), text, dataset))?.map_err(|error| raised(&error));
    }
    let Ok(path) = results.extract::<PathBuf>() else {
        let expected = "a path or a list of dictionaries";
        return Err(PyTypeError::new_err(format!("results: expected {expected}, found {}", described(results)?)));
    };
    compute(py, || Detections::load(&path, dataset))?.map_err(|error| raised(&error))
}
