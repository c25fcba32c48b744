//! The tensors of a safetensors file as arrays.

use std::collections::BTreeMap;
use std::path::PathBuf;

use half::{bf16, f16};
use numpy::{Element, PyArray1, PyArrayDyn, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sensei_files::bounded::read_bounded;

use crate::exception::{raised, raised_at, refused};

/// Tensors by name, and what the file says of them.
#[pyclass(frozen, get_all, module = "sensei")]
pub(crate) struct Weights {
    /// Arrays by name, in the names' order, each of its own type. 16-bit floats are widened to `float32`, exactly.
    tensors: Py<PyDict>,
    /// The file's own words, such as digests.
    metadata: BTreeMap<String, String>,
}

#[pymethods]
impl Weights {
    fn __repr__(&self, py: Python<'_>) -> String {
        format!("Weights({} tensors)", self.tensors.bind(py).len())
    }
}

/// Reads the tensors of a safetensors file. They are not run: `Student` runs integer models.
#[pyfunction]
pub(crate) fn read_weights(py: Python<'_>, path: PathBuf) -> PyResult<Weights> {
    let place = path.display().to_string();
    let bytes = py.detach(|| read_bounded(&path, MAX_BYTES)).map_err(|error| raised(&error))?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|error| raised_at(&place, &error))?;
    let metadata = header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    let file = SafeTensors::deserialize(&bytes).map_err(|error| raised_at(&place, &error))?;
    let mut by_name: Vec<(String, TensorView<'_>)> = file.tensors();
    by_name.sort_by(|(a, _), (b, _)| a.cmp(b));
    let tensors = PyDict::new(py);
    for (name, tensor) in by_name {
        let array = array(py, &tensor)?;
        let expected = "floats of 64, 32 or 16 bits, integers of 64 to 8 bits with a sign, bytes or booleans";
        let refusal = || refused(&format!("{place}: {name}"), expected, tensor.dtype().to_string());
        tensors.set_item(&name, array.ok_or_else(refusal)?)?;
    }
    Ok(Weights { tensors: tensors.unbind(), metadata })
}

/// The array of a tensor; `None` of one that NumPy has no type for.
fn array<'py>(py: Python<'py>, tensor: &TensorView<'_>) -> PyResult<Option<Bound<'py, PyAny>>> {
    Ok(Some(match tensor.dtype() {
        Dtype::F64 => of_values(py, tensor, f64::from_le_bytes)?,
        Dtype::F32 => of_values(py, tensor, f32::from_le_bytes)?,
        Dtype::F16 => of_values(py, tensor, |bytes| f16::from_le_bytes(bytes).to_f32())?,
        Dtype::BF16 => of_values(py, tensor, |bytes| bf16::from_le_bytes(bytes).to_f32())?,
        Dtype::I64 => of_values(py, tensor, i64::from_le_bytes)?,
        Dtype::I32 => of_values(py, tensor, i32::from_le_bytes)?,
        Dtype::I16 => of_values(py, tensor, i16::from_le_bytes)?,
        Dtype::I8 => of_values(py, tensor, i8::from_le_bytes)?,
        Dtype::U8 => of_values(py, tensor, u8::from_le_bytes)?,
        Dtype::BOOL => of_values(py, tensor, |[byte]| byte != 0)?,
        _ => return Ok(None),
    }))
}

fn of_values<'py, T: Element, const N: usize>(
    py: Python<'py>,
    tensor: &TensorView<'_>,
    value: fn([u8; N]) -> T,
) -> PyResult<Bound<'py, PyAny>> {
    let values = tensor.data().as_chunks::<N>().0.iter().map(|bytes| value(*bytes)).collect();
    let array: Bound<'py, PyArrayDyn<T>> = PyArray1::from_vec(py, values).reshape(tensor.shape())?;
    Ok(array.into_any())
}

/// Weights of students and teachers have up to 1 GB.
const MAX_BYTES: u64 = 4 << 30;
