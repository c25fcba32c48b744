//! Windows of a map, which attention looks at one by one.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::buffer::filled;
use crate::pixelwise::MapShape;

/// A map cut into square windows of `side` pixels, row by row; the last of a row or column reach beyond the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// The map.
    pub map: MapShape,
    /// Side of a window, in pixels.
    pub side: usize,
}

impl Windows {
    /// Rows and columns of windows in an image.
    pub fn counts(&self) -> [usize; 2] {
        [self.map.height.div_ceil(self.side), self.map.width.div_ceil(self.side)]
    }

    /// Windows of all images.
    pub fn n_windows(&self) -> usize {
        let [rows, columns] = self.counts();
        self.map.batch * rows * columns
    }

    /// The map as `[windows, side * side, channels]`, zeros beyond it.
    ///
    /// # Panics
    /// If the input has not the length of the map.
    pub fn cut(&self, input: &[f32]) -> Vec<f32> {
        assert_eq!(input.len(), self.map.len(), "windows: input, {self:?}");
        let window_len = self.side * self.side * self.map.channels;
        let run = |out: &mut [MaybeUninit<f32>]| {
            out.par_chunks_mut(window_len).enumerate().for_each(|(idx, window)| {
                for (row, out) in window.chunks_exact_mut(self.side * self.map.channels).enumerate() {
                    let inside = self.row(idx, row).map_or(&[][..], |(start, len)| &input[start..][..len]);
                    out[..inside.len()].write_copy_of_slice(inside);
                    out[inside.len()..].fill(MaybeUninit::new(0.0));
                }
            });
        };
        // SAFETY: every row of every window is written, what is beyond the map with zeros.
        unsafe { filled(self.n_windows() * window_len, run) }
    }

    /// Adds windows, `[windows, side * side, channels]`, to the map; what lies beyond it is dropped.
    ///
    /// # Panics
    /// If a length is not that of the sizes.
    pub fn add_to(&self, windows: &[f32], map: &mut [f32]) {
        assert_eq!(map.len(), self.map.len(), "windows: map, {self:?}");
        let (row_len, window_row) = (self.map.width * self.map.channels, self.side * self.map.channels);
        assert_eq!(windows.len(), self.n_windows() * self.side * window_row, "windows: windows, {self:?}");
        let [rows, columns] = self.counts();
        map.par_chunks_mut(row_len).enumerate().for_each(|(y, out)| {
            let (image, y) = (y / self.map.height, y % self.map.height);
            for (column, out) in out.chunks_mut(window_row).enumerate() {
                let idx = (image * rows + y / self.side) * columns + column;
                let from = &windows[(idx * self.side + y % self.side) * window_row..];
                out.iter_mut().zip(from).for_each(|(out, value)| *out += value);
            }
        });
    }

    /// Where in the map a row of a window starts, and how many of its values are in it.
    fn row(&self, idx: usize, row: usize) -> Option<(usize, usize)> {
        let [rows, columns] = self.counts();
        let (image, y, x) = (idx / (rows * columns), idx / columns % rows * self.side + row, idx % columns * self.side);
        let MapShape { height, width, channels, .. } = self.map;
        (y < height).then(|| (((image * height + y) * width + x) * channels, self.side.min(width - x) * channels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::noise;

    #[test]
    fn windows_are_cut_and_put_back() {
        let map = MapShape { batch: 2, height: 5, width: 7, channels: 3 };
        for side in [1, 2, 3, 7, 9] {
            let windows = Windows { map, side };
            let values = noise(map.len(), 1);
            let cut = windows.cut(&values);
            let [rows, columns] = windows.counts();
            for (at, value) in cut.iter().enumerate() {
                let (channel, x, y) = (at % 3, at / 3 % side, at / 3 / side % side);
                let window = at / 3 / side / side;
                let (image, x, y) =
                    (window / (rows * columns), window % columns * side + x, window / columns % rows * side + y);
                let inside = x < 7 && y < 5;
                let expected = if inside { values[((image * 5 + y) * 7 + x) * 3 + channel] } else { 0.0 };
                assert_eq!(*value, expected, "{side}, {at}");
            }
            let mut twice = values.clone();
            windows.add_to(&cut, &mut twice);
            assert!(twice.iter().zip(&values).all(|(twice, value)| *twice == 2.0 * value), "{side}");
        }
    }
}
