//! Values of Rust's serializers as Python's dictionaries and lists, and back.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use serde::Serialize;

/// What Python's `json` makes of a value's JSON.
///
/// # Errors
/// If the value has no JSON.
pub(crate) fn to_python<'py>(py: Python<'py>, value: &impl Serialize) -> PyResult<Bound<'py, PyAny>> {
    let text = serde_json::to_string(value).map_err(|error| PyValueError::new_err(error.to_string()))?;
    py.import("json")?.call_method1("loads", (text,))
}

/// The JSON of a Python value. NumPy's scalars and arrays are numbers and lists; bytes are text, as pycocotools' runs are.
///
/// # Errors
/// If it holds something else that has no JSON.
pub(crate) fn to_text(value: &Bound<'_, PyAny>) -> PyResult<String> {
    let py = value.py();
    let options = PyDict::new(py);
    options.set_item("default", wrap_pyfunction!(plain, py)?)?;
    py.import("json")?.call_method("dumps", (value,), Some(&options))?.extract()
}

#[pyfunction]
fn plain<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    if value.is_instance_of::<PyBytes>() {
        return value.call_method1("decode", ("ascii",));
    }
    if value.hasattr("tolist")? {
        return value.call_method0("tolist");
    }
    let found = value.get_type().name()?;
    Err(PyTypeError::new_err(format!("expected numbers, texts, lists, dictionaries, bytes or arrays, found {found}")))
}
