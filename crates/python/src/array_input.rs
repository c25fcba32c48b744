//! NumPy arrays as pixels and boxes: type and shape are checked, and any strides are taken.

use numpy::{Element, PyArrayDyn, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use sensei_data::geometry::Size;
use sensei_data::image_file::RgbImage;
use sensei_data::mask::Mask;

use crate::exception::refused;

/// An image, `uint8[height, width, 3]`.
///
/// # Errors
/// `TypeError` for another type, `ValueError` for another shape or size.
pub(crate) fn image(what: &str, array: &Bound<'_, PyAny>) -> PyResult<RgbImage> {
    const EXPECTED: &str = "uint8[height, width, 3]";
    let (pixels, shape) = values::<u8>(what, array, EXPECTED)?;
    let [height, width, 3] = shape[..] else { return Err(refused(what, EXPECTED, described(array)?)) };
    Ok(RgbImage { size: size(what, width, height)?, pixels })
}

/// A mask, `bool[height, width]` or `uint8[height, width]`, of which every value but 0 is the object.
///
/// # Errors
/// As [`image`].
pub(crate) fn mask(what: &str, array: &Bound<'_, PyAny>) -> PyResult<Mask> {
    const EXPECTED: &str = "bool[height, width] or uint8[height, width]";
    let (bits, shape) = match array.cast::<PyArrayDyn<bool>>() {
        Ok(_) => {
            let (bits, shape) = values::<bool>(what, array, EXPECTED)?;
            (bits.into_iter().map(u8::from).collect(), shape)
        }
        Err(_) => {
            let (bytes, shape) = values::<u8>(what, array, EXPECTED)?;
            (bytes.into_iter().map(|byte| u8::from(byte != 0)).collect(), shape)
        }
    };
    let [height, width] = shape[..] else { return Err(refused(what, EXPECTED, described(array)?)) };
    Ok(Mask { size: size(what, width, height)?, bits })
}

/// Rows of `N` numbers: `float64`, `float32`, `int64` or `int32`, `[n, N]`.
///
/// # Errors
/// As [`image`].
pub(crate) fn rows<const N: usize>(what: &str, array: &Bound<'_, PyAny>) -> PyResult<Vec<[f64; N]>> {
    let expected = format!("float64[n, {N}] (or float32, int64, int32)");
    let (numbers, shape) = if array.cast::<PyArrayDyn<f32>>().is_ok() {
        let (numbers, shape) = values::<f32>(what, array, &expected)?;
        (numbers.into_iter().map(f64::from).collect(), shape)
    } else if array.cast::<PyArrayDyn<i32>>().is_ok() {
        let (numbers, shape) = values::<i32>(what, array, &expected)?;
        (numbers.into_iter().map(f64::from).collect(), shape)
    } else if array.cast::<PyArrayDyn<i64>>().is_ok() {
        let (numbers, shape) = values::<i64>(what, array, &expected)?;
        // No image has coordinates that a float does not hold.
        (numbers.into_iter().map(|number| number as f64).collect(), shape)
    } else {
        values::<f64>(what, array, &expected)?
    };
    match shape[..] {
        [_, columns] if columns == N => Ok(numbers.as_chunks::<N>().0.to_vec()),
        _ => Err(refused(what, expected, described(array)?)),
    }
}

/// Type and shape, as `float32[4, 3]`.
///
/// # Errors
/// If Python has no name for the type.
pub(crate) fn described(value: &Bound<'_, PyAny>) -> PyResult<String> {
    match value.cast::<PyUntypedArray>() {
        Ok(array) => {
            let shape: Vec<String> = array.shape().iter().map(usize::to_string).collect();
            let name: String = array.dtype().getattr("name")?.extract()?;
            Ok(format!("{name}[{}]", shape.join(", ")))
        }
        Err(_) => Ok(value.get_type().name()?.to_string()),
    }
}

/// A copy of the values in row-major order, and the shape: nothing that Python does meanwhile changes them.
fn values<T: Element + Copy>(what: &str, array: &Bound<'_, PyAny>, expected: &str) -> PyResult<(Vec<T>, Vec<usize>)> {
    let Ok(array) = array.cast::<PyArrayDyn<T>>() else {
        let found = described(array)?;
        return Err(PyTypeError::new_err(format!("{what}: expected a NumPy array {expected}, found {found}")));
    };
    let array = array.try_readonly().map_err(|error| PyTypeError::new_err(format!("{what}: {error}")))?;
    let view = array.as_array();
    let values = view.as_slice().map_or_else(|| view.iter().copied().collect(), <[T]>::to_vec);
    Ok((values, view.shape().to_vec()))
}

fn size(what: &str, width: usize, height: usize) -> PyResult<Size> {
    let is_sound = width.saturating_mul(height) <= MAX_PIXELS && width > 0 && height > 0;
    match (u32::try_from(width), u32::try_from(height)) {
        (Ok(width), Ok(height)) if is_sound => Ok(Size { width, height }),
        _ => Err(refused(what, format!("1 to {MAX_PIXELS} pixels"), format!("{width} x {height}"))),
    }
}

/// As many as an annotated image may have.
const MAX_PIXELS: usize = 1 << 28;
