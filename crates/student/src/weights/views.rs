//! Tensors as views of stored values: checked, then gathered.

use super::checkpoint::CheckpointError;
use super::pickle::TensorView;

/// The number of values of a view that stays within its storage.
pub(super) fn check_view(name: &str, view: &TensorView) -> Result<usize, CheckpointError> {
    let last = || {
        let mut last = view.offset;
        for (size, stride) in view.shape.iter().zip(&view.stride) {
            last = last.checked_add(size.checked_sub(1)?.checked_mul(*stride)?)?;
        }
        Some(last)
    };
    let n_values = view.shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    match n_values {
        Some(0) if view.shape.len() == view.stride.len() => Ok(0),
        Some(n) if view.shape.len() == view.stride.len() && last().is_some_and(|last| last < view.numel) => Ok(n),
        _ => Err(CheckpointError::OutOfBounds {
            name: name.into(),
            numel: view.numel,
            shape: view.shape.clone(),
            stride: view.stride.clone(),
            offset: view.offset,
        }),
    }
}

/// The values of a checked view in row-major order; none if they are integers.
pub(super) fn gather(view: &TensorView, n_values: usize, storage: &[u8]) -> Option<Vec<f32>> {
    let size = view.element.bytes();
    let mut values = Vec::with_capacity(n_values);
    for flat in 0..n_values {
        let (mut rest, mut at) = (flat, view.offset);
        for (size, stride) in view.shape.iter().zip(&view.stride).rev() {
            at += rest % size * stride;
            rest /= size;
        }
        values.push(view.element.value(&storage[at * size..(at + 1) * size])?);
    }
    Some(values)
}
