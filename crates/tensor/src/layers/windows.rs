//! Windows of a map, which attention looks at one by one.

use burn::tensor::Tensor;
use sensei_kernels::windows::Windows;

use super::{has_kernels, unwrapped, wrapped};
use crate::ops::flex_tensor::{map_shape, values};

/// A map `[image, height, width, channels]` cut into square windows of `side` pixels: `[window, side * side, channels]`, row by row, zeros
/// beyond the map.
pub fn cut_windows(map: Tensor<4>, side: usize) -> Tensor<3> {
    let [batch, height, width, channels] = map.dims();
    if has_kernels(&map.device()) {
        let map = unwrapped(map);
        let windows = Windows { map: map_shape(&map), side };
        return wrapped(windows.cut(values(&map)), [windows.n_windows(), side * side, channels]);
    }
    let [rows, columns] = [height.div_ceil(side), width.div_ceil(side)];
    let padded = map.pad([(0, 0), (0, rows * side - height), (0, columns * side - width), (0, 0)], 0.0);
    let cut: Tensor<6> = padded.reshape([batch, rows, side, columns, side, channels]);
    cut.permute([0, 1, 3, 2, 4, 5]).reshape([batch * rows * columns, side * side, channels])
}

/// A map plus its windows, `[window, side * side, channels]`; what of them lies beyond the map is dropped.
///
/// # Panics
/// If there are not as many windows as [`cut_windows`] makes of the map.
pub fn add_windows(windows: Tensor<3>, map: Tensor<4>, side: usize) -> Tensor<4> {
    let dims @ [batch, height, width, channels] = map.dims();
    if has_kernels(&map.device()) {
        let (windows, map) = (unwrapped(windows), unwrapped(map));
        let mut sum = values(&map).to_vec();
        Windows { map: map_shape(&map), side }.add_to(values(&windows), &mut sum);
        return wrapped(sum, dims);
    }
    let [rows, columns] = [height.div_ceil(side), width.div_ceil(side)];
    let laid: Tensor<6> = windows.reshape([batch, rows, columns, side, side, channels]);
    let laid = laid.permute([0, 1, 3, 2, 4, 5]).reshape([batch, rows * side, columns * side, channels]);
    map + laid.narrow(1, 0, height).narrow(2, 0, width)
}
