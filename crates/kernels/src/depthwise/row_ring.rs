//! The rows of an image that the taps of one output row reach, in a ring.
//!
//! Row `y` is stored at `y % n_rows`, so a new row replaces the one that no tap reaches any more. Rows are stored with their
//! zero padding on both sides; rows above and below the image are zeros. A row can also be computed when it is loaded, from
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
    n_rows: usize,
    /// Where each tap of the first pixel of the current output row starts.
    starts: Vec<usize>,
}

impl<'a> RowRing<'a> {
    /// Ready to be advanced to output row `first` and then to each next one.
    pub(crate) fn new(shape: &DepthwiseShape, source: RowSource<'a>, first: usize) -> Self {
        let (row_len, n_rows) = ((shape.width + 2 * shape.padding) * shape.channels, shape.reach() + 1);
        let rows = vec![0.0; n_rows * row_len + CACHE_LINE / size_of::<f32>()];
        let offset = rows.as_ptr().align_offset(CACHE_LINE).min(CACHE_LINE / size_of::<f32>());
        let starts = Vec::with_capacity(shape.kernel * shape.kernel);
        let mut ring = Self { shape: *shape, source, rows, offset, row_len, n_rows, starts };
        (first..first + shape.reach()).for_each(|row| ring.load(row));
        ring
    }

    /// Loads the last row that output row `y` reads.
    pub(crate) fn advance(&mut self, y: usize) {
        let shape = self.shape;
        self.load(y + shape.reach());
        self.starts.clear();
        for tap_y in 0..shape.kernel {
            let row = self.offset + (y + tap_y * shape.dilation) % self.n_rows * self.row_len;
            self.starts.extend((0..shape.kernel).map(|tap_x| row + tap_x * shape.dilation * shape.channels));
        }
    }

    /// The rows, and where in them each tap of the first pixel of the current output row starts.
    pub(crate) fn taps(&self) -> (&[f32], &[usize]) {
        (&self.rows, &self.starts)
    }

    /// Input row `y`, which must be within reach of the current output row.
    pub(crate) fn row(&self, y: usize) -> &[f32] {
        let row = self.offset + (y + self.shape.padding) % self.n_rows * self.row_len;
        let start = row + self.shape.padding * self.shape.channels;
        &self.rows[start..][..self.shape.width * self.shape.channels]
    }

    /// Loads a row, counted from the first padding row.
    fn load(&mut self, padded_row: usize) {
        let (padding, channels) = (self.shape.padding, self.shape.channels);
        let start = self.offset + padded_row % self.n_rows * self.row_len + padding * channels;
        let row = &mut self.rows[start..][..self.shape.width * channels];
        match (padded_row.checked_sub(padding).filter(|row| *row < self.shape.height), &mut self.source) {
            (Some(y), RowSource::Map(image)) => row.copy_from_slice(&image[y * row.len()..][..row.len()]),
            (Some(y), RowSource::Computed(compute)) => compute(y, row),
            (None, _) => row.fill(0.0),
        }
    }
}
