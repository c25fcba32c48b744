//! The patches that a convolution reads, as starts and runs in a padded copy of a few rows: im2col without its matrix.
//!
//! im2col writes the patch of every output pixel behind one another, `k * k` times the map. Here a few rows are copied once,
//! with zeros where the taps reach past the border. A patch is then a start in that copy and offsets that are the same for
//! all pixels:
//!
//! ```text
//! a tile of 1 output row, 3x3 taps, stride 2; 0 is padding, | | is what the second pixel reads
//!
//!   0  x x x x x x  0
//!   0  x|x x x|x x  0     starts:  0, 2, 4 pixels
//!   0  x|x x x|x x  0     offsets: 0, 1, 2 rows; each a run of 3 pixels
//! ```
//!
//! `matrix.rs` multiplies the runs with the weight where they lie.

use std::mem::MaybeUninit;
use std::ops::Range;

use crate::buffer::Scratch;

/// Taps around a pixel, in source pixels; both axes ascending.
pub(crate) struct TapOffsets {
    pub y: Vec<isize>,
    pub x: Vec<isize>,
}

/// A grid whose pixel `(y, x)` reads taps around the source pixel `(y * stride, x * stride)`.
pub(crate) struct PatchGrid {
    /// Height, width, channels of an image of the source.
    source: [usize; 3],
    stride: usize,
    /// Height and width of the grid.
    pub size: [usize; 2],
    /// How far taps reach above and left of their pixel, in pixels.
    reach_before: [usize; 2],
    /// How far taps reach below and right of their pixel.
    reach_after: [usize; 2],
}

/// What is computed at a time: some rows of one image's grid, or all rows of several images.
pub(crate) struct PatchTile {
    pub images: Range<usize>,
    pub rows: Range<usize>,
}

impl PatchGrid {
    /// A grid whose padding is wide enough for all of `taps`.
    pub(crate) fn new<'a>(
        source: [usize; 3],
        stride: usize,
        size: [usize; 2],
        taps: impl IntoIterator<Item = &'a TapOffsets>,
    ) -> Self {
        let mut grid = Self { source, stride, size, reach_before: [0; 2], reach_after: [0; 2] };
        for taps in taps {
            for (axis, offsets) in [&taps.y, &taps.x].into_iter().enumerate() {
                for &offset in offsets {
                    let reach = if offset < 0 { &mut grid.reach_before[axis] } else { &mut grid.reach_after[axis] };
                    *reach = (*reach).max(offset.unsigned_abs());
                }
            }
        }
        grid
    }

    /// The taps of a pixel as runs of neighbouring values: the length of each, and their offsets from a patch's start.
    ///
    /// Taps that are neighbours along x are one run, others are runs of one pixel's channels.
    pub(crate) fn runs(&self, taps: &TapOffsets) -> (usize, Vec<usize>) {
        let channels = self.source[2];
        let offset = |y: isize, x: isize| {
            let (y, x) = (self.reach_before[0] as isize + y, self.reach_before[1] as isize + x);
            (y as usize * self.padded_width() + x as usize) * channels
        };
        if taps.x.windows(2).all(|pair| pair[1] == pair[0] + 1) {
            let rows = taps.y.iter().map(|&y| offset(y, taps.x[0])).collect();
            return (taps.x.len() * channels, rows);
        }
        let pixels = taps.y.iter().flat_map(|&y| taps.x.iter().map(move |&x| offset(y, x))).collect();
        (channels, pixels)
    }

    /// The tiles of a batch, in order.
    pub(crate) fn tiles(&self, batch: usize) -> Vec<PatchTile> {
        let [height, width] = self.size;
        let pixels_per_thread = (batch * height * width).div_ceil(rayon::current_num_threads());
        let n_pixels = TILE_PIXELS.min(pixels_per_thread);
        if height * width <= n_pixels {
            let n_images = n_pixels / (height * width);
            let starts = (0..batch).step_by(n_images);
            return starts
                .map(|start| PatchTile { images: start..(start + n_images).min(batch), rows: 0..height })
                .collect();
        }
        let n_rows = (n_pixels / width).max(1);
        let image_tiles = |image: usize| {
            let starts = (0..height).step_by(n_rows);
            starts.map(move |start| PatchTile { images: image..image + 1, rows: start..(start + n_rows).min(height) })
        };
        (0..batch).flat_map(image_tiles).collect()
    }

    /// The tiles, each with its piece of `out`, which holds `row_len` values for a row of the grid, but `image_len` for an
    /// image, whose last row may be shorter.
    pub(crate) fn split_by_tile<'a>(
        &self,
        batch: usize,
        row_len: usize,
        image_len: usize,
        mut out: &'a mut [MaybeUninit<f32>],
    ) -> Vec<(PatchTile, &'a mut [MaybeUninit<f32>])> {
        let mut pieces = vec![];
        for tile in self.tiles(batch) {
            let has_last_row = tile.rows.end == self.size[0];
            let end = if has_last_row { image_len } else { tile.rows.end * row_len };
            let len = tile.images.len() * (end - tile.rows.start * row_len);
            let (piece, rest) = out.split_at_mut(len);
            out = rest;
            pieces.push((tile, piece));
        }
        assert!(out.is_empty(), "implicit im2col: tiles cover the output");
        pieces
    }

    /// A padded copy of what the tile's taps read of `map`, and where in it each pixel's patch starts.
    pub(crate) fn padded_copy<'a>(
        &self,
        map: &[f32],
        tile: &PatchTile,
        scratch: &'a mut Scratch,
    ) -> (&'a [f32], Vec<usize>) {
        let [height, width, channels] = self.source;
        let row_len = self.padded_width() * channels;
        let n_rows = (tile.rows.len() - 1) * self.stride + self.reach_before[0] + self.reach_after[0] + 1;
        let first_y = tile.rows.start * self.stride;
        let left = self.reach_before[1] * channels;
        let copied = row_len.saturating_sub(left).min(width * channels);
        let zero = MaybeUninit::new(0.0);
        let fill = |values: &mut [MaybeUninit<f32>]| {
            for (image, rows) in tile.images.clone().zip(values.chunks_exact_mut(n_rows * row_len)) {
                for (idx, row) in rows.chunks_exact_mut(row_len).enumerate() {
                    let y = (first_y + idx).checked_sub(self.reach_before[0]).filter(|y| *y < height);
                    let Some(y) = y else {
                        row.fill(zero);
                        continue;
                    };
                    let source = &map[(image * height + y) * width * channels..][..copied];
                    row[..left].fill(zero);
                    row[left..][..copied].write_copy_of_slice(source);
                    row[left + copied..].fill(zero);
                }
            }
        };
        // SAFETY: the rows of the tile's images are all of the copy, and all of each row is written.
        let values = unsafe { scratch.filled(tile.images.len() * n_rows * row_len, fill) };
        let starts = (0..tile.images.len()).flat_map(|image| {
            (0..tile.rows.len()).flat_map(move |row| {
                let start = (image * n_rows + row * self.stride) * row_len;
                (0..self.size[1]).map(move |x| start + x * self.stride * channels)
            })
        });
        (values, starts.collect())
    }

    fn padded_width(&self) -> usize {
        (self.size[1] - 1) * self.stride + self.reach_before[1] + self.reach_after[1] + 1
    }
}

/// Grid pixels of a tile: enough to use a panel of weights often, few enough for their patches to stay in a second-level
/// cache.
const TILE_PIXELS: usize = 192;
