//! The second factor of a product, packed: panels that the microkernel reads from first to last value.
//!
//! ```text
//! B, [inner, columns]        panels, each [inner, width]: width is 1 to 3 vectors, zeros past the last column
//!
//! b00 b01 b02 b03 | b04 b05     b00 b01 b02 b03   b04 b05  0   0
//! b10 b11 b12 b13 | b14 b15 ->  b10 b11 b12 b13   b14 b15  0   0
//! b20 b21 b22 b23 | b24 b25     b20 b21 b22 b23   b24 b25  0   0
//! ```

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::{Epilogue, LhsRows, RowStarts, microkernel};
use crate::buffer::CACHE_LINE;
use crate::instruction_set::InstructionSet;

/// A second factor `[inner, columns]`, packed for one instruction set.
pub(crate) struct Panels {
    pub(super) isa: InstructionSet,
    pub(super) inner: usize,
    pub(super) columns: usize,
    /// Panel by panel. The first `start` values are not used, so that every vector lies in one cache line.
    values: Vec<f32>,
    start: usize,
}

impl Panels {
    /// Nothing yet: for [`Panels::repack`].
    pub(crate) fn empty(isa: InstructionSet) -> Self {
        Self { isa, inner: 0, columns: 0, values: vec![], start: 0 }
    }

    /// Packs the matrix whose element `(k, column)` is `source[start(k) + column * column_stride]`.
    pub(crate) fn pack(
        isa: InstructionSet,
        [inner, columns]: [usize; 2],
        source: &[f32],
        start: impl Fn(usize) -> usize + Sync,
        column_stride: usize,
    ) -> Self {
        let mut packed = Self::empty(isa);
        packed.clear(inner, columns);
        packed.values.resize(packed.start + inner * columns.next_multiple_of(lanes(isa)), 0.0);
        let mut rest = &mut packed.values[packed.start..];
        let panels = panel_columns(columns, lanes(isa), most_vectors(isa)).map(|(first, width)| {
            let (panel, after) = std::mem::take(&mut rest).split_at_mut(inner * width);
            rest = after;
            (first, width, panel)
        });
        panels.collect::<Vec<_>>().into_par_iter().for_each(|(first, width, panel)| {
            let existing = width.min(columns - first);
            // A column of a few rows at a time: neighbours in the source are neighbours in a weight's order.
            for (block, rows) in panel.chunks_mut(PACKED_ROWS * width).enumerate() {
                let mut starts = [0; PACKED_ROWS];
                let starts = &mut starts[..rows.len() / width];
                starts.iter_mut().enumerate().for_each(|(k, out)| *out = start(block * PACKED_ROWS + k));
                for column in 0..existing {
                    let offset = (first + column) * column_stride;
                    for (row, start) in rows.chunks_exact_mut(width).zip(&*starts) {
                        row[column] = source[start + offset];
                    }
                }
            }
        });
        packed
    }

    /// Packs another matrix into the same memory: row `k` is made of runs of `run_len` neighbours, which start at
    /// `source[starts(k) + run_offsets[i]]`.
    pub(crate) fn repack(&mut self, source: &[f32], starts: RowStarts, run_len: usize, run_offsets: &[usize]) {
        let (inner, columns) = (starts.n_rows(), run_len * run_offsets.len());
        self.clear(inner, columns);
        for (first, width) in panel_columns(columns, lanes(self.isa), most_vectors(self.isa)) {
            let existing = width.min(columns - first);
            let (run, within) = (first / run_len, first % run_len);
            if within + width <= run_len {
                let start = |k: usize| starts.start(k) + run_offsets[run] + within;
                match width {
                    48 => extend_rows::<48>(&mut self.values, source, inner, start),
                    32 => extend_rows::<32>(&mut self.values, source, inner, start),
                    16 => extend_rows::<16>(&mut self.values, source, inner, start),
                    _ => (0..inner).for_each(|k| self.values.extend_from_slice(&source[start(k)..][..width])),
                }
                continue;
            }
            for k in 0..inner {
                let (mut column, end) = (first, first + existing);
                while column < end {
                    let (run, within) = (column / run_len, column % run_len);
                    let len = (run_len - within).min(end - column);
                    self.values.extend_from_slice(&source[starts.start(k) + run_offsets[run] + within..][..len]);
                    column += len;
                }
                self.values.extend(std::iter::repeat_n(0.0, width - existing));
            }
        }
        let len = self.values.len() - self.start;
        assert_eq!(len, self.inner * self.padded_columns(), "panels: a source of all columns");
    }

    /// Packs another matrix into the same memory: element `(k, column)` is `source[column * column_stride + k]`. Only the first `existing`
    /// columns are in the source, the others are 0.
    pub(crate) fn repack_transposed(
        &mut self,
        source: &[f32],
        [inner, columns]: [usize; 2],
        existing: usize,
        column_stride: usize,
    ) {
        assert!(existing <= columns, "panels: {existing} columns of {columns}");
        self.clear(inner, columns);
        let end = self.start + inner * self.padded_columns();
        self.values.resize(end, 0.0);
        for (first, width) in panel_columns(columns, lanes(self.isa), most_vectors(self.isa)) {
            let panel = &mut self.values[self.start + first * inner..][..inner * width];
            for column in first..existing.min(first + width) {
                let rows = panel.iter_mut().skip(column - first).step_by(width);
                rows.zip(&source[column * column_stride..][..inner]).for_each(|(out, value)| *out = *value);
            }
        }
    }

    /// One value per column, padded to the panels' width.
    pub(crate) fn padded(&self, values: &[f32]) -> Vec<f32> {
        assert_eq!(values.len(), self.columns, "matrix product: bias and columns");
        let mut padded = values.to_vec();
        padded.resize(self.padded_columns(), 0.0);
        padded
    }

    /// Writes `epilogue(a * self)` into `out`, `[rows, columns]`.
    pub(crate) fn multiply(&self, a: LhsRows, epilogue: Epilogue, out: &mut [MaybeUninit<f32>]) {
        assert_eq!(out.len(), a.starts.n_rows() * self.columns, "matrix product: output");
        // SAFETY: `out` is valid for writes of the asserted length, and nothing is read before it is written.
        unsafe { self.run(a, epilogue, false, out.as_mut_ptr().cast(), self.dense_rows(a)) }
    }

    /// Writes the rows of `epilogue(a * self)` to the given starts in `out`.
    pub(crate) fn multiply_scattered(
        &self,
        a: LhsRows,
        epilogue: Epilogue,
        out: &mut [MaybeUninit<f32>],
        out_starts: &[usize],
    ) {
        assert_eq!(out_starts.len(), a.starts.n_rows(), "matrix product: rows of the output");
        let out_starts = RowStarts::Listed(out_starts);
        assert!(out_starts.max_start() + self.columns <= out.len(), "matrix product: output");
        // SAFETY: `out` is valid for writes at the asserted rows, and nothing is read before it is written.
        unsafe { self.run(a, epilogue, false, out.as_mut_ptr().cast(), out_starts) }
    }

    /// Replaces `out`, `[rows, columns]`, by `epilogue(out + a * self)`.
    pub(crate) fn multiply_and_add(&self, a: LhsRows, epilogue: Epilogue, out: &mut [f32]) {
        assert_eq!(out.len(), a.starts.n_rows() * self.columns, "matrix product: output");
        // SAFETY: `out` is initialised and of the asserted length.
        unsafe { self.run(a, epilogue, true, out.as_mut_ptr(), self.dense_rows(a)) }
    }

    /// The panel whose first column is `first`, `[inner, width]`, from inner index `k` on.
    #[inline(always)]
    pub(super) fn panel(&self, first: usize, width: usize, k: usize) -> &[f32] {
        &self.values[self.start + first * self.inner + k * width..]
    }

    fn clear(&mut self, inner: usize, columns: usize) {
        (self.inner, self.columns) = (inner, columns);
        self.values.clear();
        self.values.reserve(inner * self.padded_columns() + CACHE_LINE / size_of::<f32>());
        self.start = self.values.as_ptr().align_offset(CACHE_LINE);
        self.values.resize(self.start, 0.0);
    }

    fn padded_columns(&self) -> usize {
        self.columns.next_multiple_of(lanes(self.isa))
    }

    fn dense_rows(&self, a: LhsRows) -> RowStarts<'static> {
        RowStarts::Strided { rows: a.starts.n_rows(), stride: self.columns }
    }

    /// # Safety
    /// `out` must be valid for writing `self.columns` values from each of `out_starts` on, and for reading them if
    /// `accumulate`.
    unsafe fn run(&self, a: LhsRows, epilogue: Epilogue, accumulate: bool, out: *mut f32, out_starts: RowStarts) {
        assert!(a.starts.n_rows() > 0 && self.inner > 0, "matrix product: an empty factor");
        assert!(a.max_index(self.inner) < a.values.len(), "matrix product: first factor");
        assert!(epilogue.bias.is_none_or(|bias| bias.len() == self.padded_columns()), "matrix product: bias");
        // SAFETY: the extents of `a` and the bias were asserted here, those of `out` are promised by the caller, those of the
        // panels held by `pack` and `repack`.
        unsafe { microkernel::multiply_panels(self, a, epilogue, accumulate, out, out_starts) }
    }
}

/// First column and width of each panel of at most so many vectors: where three are, no single one is behind them.
#[inline]
pub(super) fn panel_columns(columns: usize, lanes: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let n_vectors = columns.div_ceil(lanes);
    let mut done = 0;
    std::iter::from_fn(move || {
        let width = match n_vectors - done {
            0 => return None,
            4 => 2,
            left => left.min(most),
        };
        let first = done * lanes;
        done += width;
        Some((first, width * lanes))
    })
}

/// Appends the `WIDTH` values from each start on: without a call to copy memory for every few values.
fn extend_rows<const WIDTH: usize>(
    values: &mut Vec<f32>,
    source: &[f32],
    n_rows: usize,
    start: impl Fn(usize) -> usize,
) {
    for row in 0..n_rows {
        let row: &[f32; WIDTH] = source[start(row)..].first_chunk().expect("a source of all columns");
        values.extend_from_slice(row);
    }
}

fn lanes(isa: InstructionSet) -> usize {
    match isa {
        InstructionSet::Avx512 => 16,
        InstructionSet::Avx2 => 8,
        InstructionSet::Baseline => 4,
    }
}

/// Vectors of a panel, at most: what the microkernel has registers for.
pub(super) fn most_vectors(isa: InstructionSet) -> usize {
    match isa {
        InstructionSet::Avx512 | InstructionSet::Baseline => 3,
        InstructionSet::Avx2 => 2,
    }
}

/// Rows of a panel that are packed at a time: they stay in the first-level cache.
const PACKED_ROWS: usize = 64;
