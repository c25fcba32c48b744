//! The rows of an image that the taps of one output row reach, in a ring.
//!
//! Row `y` is stored at `y % n_rows`, so a new row replaces the one that no tap reaches any more. Rows are stored with their
//! zero padding on both sides; rows above and below the image are zeros. With a stride, the columns of a padded row are sorted by
//! their remainder, each class of remainders behind the one before. A row can also be computed when it is loaded, from
//! data that fits the cache, so that a whole map need not exist.

use super::DepthwiseShape;
use crate::buffer::CACHE_LINE;

/// Writes the row of the given index.
type ComputeRow<'a> = dyn FnMut(usize, &mut [f32]) + 'a;

/// Where the rows of an image come from.
pub(crate) enum RowSource<'a> {
    /// `[height, width, channels]`
    Map(&'a [f32]),
    /// Writes row `y`; called for each in ascending order.
    Computed(Box<ComputeRow<'a>>),
}

/// The last rows of an image that taps can still reach, padded with zeros.
pub(crate) struct RowRing<'a> {
    shape: DepthwiseShape,
    source: RowSource<'a>,
    /// The first `offset` values are not used, so that rows of whole cache lines lie in as many.
    rows: Vec<f32>,
    offset: usize,
    row_len: usize,
    /// Values of the columns of one remainder.
    class_len: usize,
    n_rows: usize,
    /// Where each tap of the first pixel of the current output row starts.
    starts: Vec<usize>,
}

impl<'a> RowRing<'a> {
    /// Ready to be advanced to output row `first` and then to each next one.
    ///
    /// # Panics
    /// If rows are to be computed for a convolution with a stride.
    pub(crate) fn new(shape: &DepthwiseShape, source: RowSource<'a>, first: usize) -> Self {
        assert!(
            shape.stride == 1 || matches!(source, RowSource::Map(_)),
            "depthwise: rows of a strided convolution are read, {shape:?}"
        );
        let class_len = (shape.width + 2 * shape.padding).div_ceil(shape.stride) * shape.channels;
        let (row_len, n_rows) = (shape.stride * class_len, shape.reach() + 1);
        let rows = vec![0.0; n_rows * row_len + CACHE_LINE / size_of::<f32>()];
        let offset = rows.as_ptr().align_offset(CACHE_LINE).min(CACHE_LINE / size_of::<f32>());
        let starts = Vec::with_capacity(shape.kernel * shape.kernel);
        let mut ring = Self { shape: *shape, source, rows, offset, row_len, class_len, n_rows, starts };
        (first * shape.stride..ring.first_new_row(first)).for_each(|row| ring.load(row));
        ring
    }

    /// Loads the rows that output row `y` reads and the one before does not.
    pub(crate) fn advance(&mut self, y: usize) {
        let shape = self.shape;
        let first = y * shape.stride;
        (self.first_new_row(y)..=first + shape.reach()).for_each(|row| self.load(row));
        self.starts.clear();
        for tap_y in 0..shape.kernel {
            let row = self.offset + (first + tap_y * shape.dilation) % self.n_rows * self.row_len;
            let column = |tap_x: usize| {
                let distance = tap_x * shape.dilation;
                distance % shape.stride * self.class_len + distance / shape.stride * shape.channels
            };
            self.starts.extend((0..shape.kernel).map(|tap_x| row + column(tap_x)));
        }
    }

    /// The first row, counted from the first padding row, that output row `y` reads and the one before does not.
    fn first_new_row(&self, y: usize) -> usize {
        let (first, stride) = (y * self.shape.stride, self.shape.stride);
        first + (self.shape.reach() + 1).saturating_sub(stride)
    }

    /// The rows, and where in them each tap of the first pixel of the current output row starts.
    pub(crate) fn taps(&self) -> (&[f32], &[usize]) {
        (&self.rows, &self.starts)
    }

    /// Input row `y`, which must be within reach of the current output row, of a convolution of stride 1.
    pub(crate) fn row(&self, y: usize) -> &[f32] {
        let row = self.offset + (y + self.shape.padding) % self.n_rows * self.row_len;
        let start = row + self.shape.padding * self.shape.channels;
        &self.rows[start..][..self.shape.width * self.shape.channels]
    }

    /// Loads a row, counted from the first padding row.
    fn load(&mut self, padded_row: usize) {
        if self.shape.stride > 1 {
            self.load_sorted(padded_row);
            return;
        }
        let (padding, channels) = (self.shape.padding, self.shape.channels);
        let start = self.offset + padded_row % self.n_rows * self.row_len + padding * channels;
        let row = &mut self.rows[start..][..self.shape.width * channels];
        match (padded_row.checked_sub(padding).filter(|row| *row < self.shape.height), &mut self.source) {
            (Some(y), RowSource::Map(image)) => row.copy_from_slice(&image[y * row.len()..][..row.len()]),
            (Some(y), RowSource::Computed(compute)) => compute(y, row),
            (None, _) => row.fill(0.0),
        }
    }
    /// Loads a row with its columns sorted by their remainder.
    fn load_sorted(&mut self, padded_row: usize) {
        let DepthwiseShape { padding, channels, stride, width, height, .. } = self.shape;
        let start = self.offset + padded_row % self.n_rows * self.row_len;
        let row = &mut self.rows[start..][..self.row_len];
        let RowSource::Map(image) = &self.source else { unreachable!("checked when the ring was made") };
        let Some(y) = padded_row.checked_sub(padding).filter(|y| *y < height) else {
            row.fill(0.0);
            return;
        };
        let image_row = &image[y * width * channels..][..width * channels];
        for (residue, class) in row.chunks_exact_mut(self.class_len).enumerate() {
            // The first column of the image in this class, and where it is there.
            let first = (residue + stride - padding % stride) % stride;
            let pixels = class[(first + padding) / stride * channels..].chunks_exact_mut(channels);
            let columns = image_row.chunks_exact(channels).skip(first).step_by(stride);
            pixels.zip(columns).for_each(|(pixel, column)| pixel.copy_from_slice(column));
        }
    }
}
