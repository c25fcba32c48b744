//! Masks as COCO's result files have them.

use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sensei_data::geometry::Size;
use sensei_data::rle::Rle;

use crate::array_input;
use crate::exception::{raised_at, refused};

/// A mask, `bool` or `uint8[height, width]`, as a compressed "segmentation": its size and its runs as text.
#[pyfunction]
pub(crate) fn encode_mask<'py>(py: Python<'py>, mask: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
    let mask = array_input::mask("mask", mask)?;
    let runs = py.detach(|| Rle::from_mask(&mask).to_compressed_string());
    let segmentation = PyDict::new(py);
    segmentation.set_item("size", [mask.size.height, mask.size.width].to_vec())?;
    segmentation.set_item("counts", runs)?;
    Ok(segmentation)
}

/// The mask of a compressed "segmentation", `bool[height, width]`.
#[pyfunction]
pub(crate) fn decode_mask<'py>(
    py: Python<'py>,
    segmentation: &Bound<'py, PyDict>,
) -> PyResult<Bound<'py, PyArray2<bool>>> {
    let field = |name: &str| {
        let found = segmentation.get_item(name)?;
        found.ok_or_else(|| refused("segmentation", "\"size\" and \"counts\"", format!("none named {name:?}")))
    };
    let [height, width] = field("size")?.extract::<[u32; 2]>()?;
    if height == 0 || width == 0 || u64::from(height) * u64::from(width) > MAX_PIXELS {
        let found = format!("{width} x {height}");
        return Err(refused("segmentation", format!("a size of 1 to {MAX_PIXELS} pixels"), found));
    }
    let counts: String = field("counts")?.extract()?;
    let size = Size { width, height };
    let mask = Rle::from_compressed_str(size, &counts).map_err(|error| raised_at("segmentation", &error))?.to_mask();
    let bits: Vec<bool> = mask.bits.into_iter().map(|bit| bit != 0).collect();
    PyArray1::from_vec(py, bits).reshape([height as usize, width as usize])
}

/// As many as an annotated image may have.
const MAX_PIXELS: u64 = 1 << 28;
