//! Matrix products `a * b`: `b` is packed into narrow panels once and then used for many rows of `a`.
//!
//! A block of `a`'s rows times one panel is summed in registers. All products and sums of an element are taken in the
//! order of the inner dimension, so a result does not depend on how rows are split into tasks.

use std::mem::MaybeUninit;

use crate::cpu::Level;
use crate::vector::Vector;

/// The second factor, `[inner, columns]`, as panels of two vectors' width; the last may be one vector wide.
pub(crate) struct Panels {
    level: Level,
    inner: usize,
    columns: usize,
    /// Panel by panel, each `[inner, width]`, zeros past the last column.
    values: Vec<f32>,
}

/// The first factor: element `(row, k)` is `values[row * row_step + k * inner_step]`.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub values: &'a [f32],
    pub rows: usize,
    pub row_step: usize,
    pub inner_step: usize,
}

/// What is done to a finished element.
#[derive(Clone, Copy)]
pub(crate) struct Finish<'a> {
    /// Added to each column; padded by [`Panels::padded`].
    pub bias: Option<&'a [f32]>,
    pub relu: bool,
}

impl Finish<'_> {
    pub(crate) const NOTHING: Finish<'static> = Finish { bias: None, relu: false };
}

impl Panels {
    /// Nothing yet: for [`Panels::repack`].
    pub(crate) fn empty(level: Level) -> Self {
        Self { level, inner: 0, columns: 0, values: vec![] }
    }

    /// Packs the matrix whose element `(k, column)` is `source[start(k) + column * column_step]`.
    pub(crate) fn pack(
        level: Level,
        [inner, columns]: [usize; 2],
        source: &[f32],
        start: impl Fn(usize) -> usize,
        column_step: usize,
    ) -> Self {
        let mut panels = Self::empty(level);
        panels.repack([inner, columns], source, start, column_step);
        panels
    }

    /// Packs another matrix into the same memory.
    pub(crate) fn repack(
        &mut self,
        [inner, columns]: [usize; 2],
        source: &[f32],
        start: impl Fn(usize) -> usize,
        column_step: usize,
    ) {
        (self.inner, self.columns) = (inner, columns);
        let lanes = lanes(self.level);
        self.values.clear();
        self.values.reserve(inner * columns.next_multiple_of(lanes));
        for (first, width) in panel_columns(columns, lanes) {
            let real = width.min(columns - first);
            for k in 0..inner {
                let start = start(k) + first * column_step;
                if column_step == 1 {
                    self.values.extend_from_slice(&source[start..start + real]);
                } else {
                    self.values.extend(source[start..].iter().step_by(column_step).take(real));
                }
                self.values.extend(std::iter::repeat_n(0.0, width - real));
            }
        }
        assert_eq!(self.values.len(), inner * columns.next_multiple_of(lanes), "panels: a source of all columns");
    }

    /// One value per column, padded to the panels' width.
    pub(crate) fn padded(&self, values: &[f32]) -> Vec<f32> {
        assert_eq!(values.len(), self.columns, "matrix product: bias and columns");
        let mut padded = values.to_vec();
        padded.resize(self.columns.next_multiple_of(lanes(self.level)), 0.0);
        padded
    }

    /// Writes `a * self`, finished, into `out`, `[a.rows, columns]`.
    pub(crate) fn multiply(&self, a: Rows, finish: Finish, out: &mut [MaybeUninit<f32>]) {
        assert_eq!(out.len(), a.rows * self.columns, "matrix product: output");
        // SAFETY: `out` is valid for writes of the asserted length, and nothing is read before it is written.
        unsafe { self.run(a, finish, false, out.as_mut_ptr().cast()) }
    }

    /// Adds `a * self` to `out`, `[a.rows, columns]`, then finishes the sum.
    pub(crate) fn multiply_and_add(&self, a: Rows, finish: Finish, out: &mut [f32]) {
        assert_eq!(out.len(), a.rows * self.columns, "matrix product: output");
        // SAFETY: `out` is initialised and of the asserted length.
        unsafe { self.run(a, finish, true, out.as_mut_ptr()) }
    }

    /// # Safety
    /// `out` must be valid for writing `a.rows * self.columns` values, and for reading them if `add`.
    unsafe fn run(&self, a: Rows, finish: Finish, add: bool, out: *mut f32) {
        assert!(a.rows > 0 && self.inner > 0, "matrix product: an empty factor");
        let last = (a.rows - 1) * a.row_step + (self.inner - 1) * a.inner_step;
        assert!(last < a.values.len(), "matrix product: first factor");
        let padded = self.columns.next_multiple_of(lanes(self.level));
        assert!(finish.bias.is_none_or(|bias| bias.len() == padded), "matrix product: bias");
        // SAFETY: the level's features are there (see `Level`); the extents of `a`, the bias and `out` were asserted
        // here or are promised by the caller, those of the panels by `repack`.
        unsafe {
            match self.level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 => run_avx512(self, a, finish, add, out),
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => run_avx2(self, a, finish, add, out),
                _ => product::<crate::vector::Quad, 6>(self, a, finish, add, out),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn run_avx512(panels: &Panels, a: Rows, finish: Finish, add: bool, out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { product::<std::arch::x86_64::__m512, 12>(panels, a, finish, add, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2(panels: &Panels, a: Rows, finish: Finish, add: bool, out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { product::<std::arch::x86_64::__m256, 6>(panels, a, finish, add, out) }
}

/// # Safety
/// As [`Panels::run`], whose assertions must hold, on a CPU with the instructions of `V`.
#[inline(always)]
unsafe fn product<V: Vector, const ROWS: usize>(panels: &Panels, a: Rows, finish: Finish, add: bool, out: *mut f32) {
    let inner_block = PANEL_VALUES / (2 * V::LANES);
    for first_k in (0..panels.inner).step_by(inner_block) {
        let n_inner = inner_block.min(panels.inner - first_k);
        let is_last = first_k + n_inner == panels.inner;
        for (first, width) in panel_columns(panels.columns, V::LANES) {
            let block = Block {
                n_inner,
                inner_step: a.inner_step,
                panel: panels.values[first * panels.inner + first_k * width..].as_ptr(),
                out_step: panels.columns,
                real_width: width.min(panels.columns - first),
                read: add || first_k > 0,
                bias: finish.bias.filter(|_| is_last).map(|bias| bias[first..].as_ptr()),
                relu: finish.relu && is_last,
            };
            let mut row = 0;
            while row < a.rows {
                let n_rows = ROWS.min(a.rows - row);
                // SAFETY: rows `row..row + n_rows` and the inner indices of this block exist in `a`, the rows and the
                // `real_width` columns from `first` on in `out`; the panel has `n_inner` lines of `width`, the bias
                // `width` values.
                unsafe {
                    let a_block = a.values.as_ptr().add(row * a.row_step + first_k * a.inner_step);
                    let out = out.add(row * panels.columns + first);
                    match (width == V::LANES, n_rows == ROWS) {
                        (false, true) => block.run::<V, ROWS, 2>(a_block, a.row_step, n_rows, out),
                        (true, true) => block.run::<V, ROWS, 1>(a_block, a.row_step, n_rows, out),
                        (false, false) => block.run_few::<V, 2>(a_block, a.row_step, n_rows, out),
                        (true, false) => block.run_few::<V, 1>(a_block, a.row_step, n_rows, out),
                    }
                }
                row += n_rows;
            }
        }
    }
}

/// What all blocks of rows share that are multiplied with one part of one panel.
struct Block {
    n_inner: usize,
    inner_step: usize,
    panel: *const f32,
    out_step: usize,
    /// Columns of the panel that exist.
    real_width: usize,
    /// Whether the output holds a sum to go on with.
    read: bool,
    bias: Option<*const f32>,
    relu: bool,
}

impl Block {
    /// Fewer rows than fill the registers, four at a time.
    ///
    /// # Safety
    /// As [`Block::run`].
    #[inline(always)]
    unsafe fn run_few<V: Vector, const VECTORS: usize>(
        &self,
        a: *const f32,
        row_step: usize,
        n_rows: usize,
        out: *mut f32,
    ) {
        for row in (0..n_rows).step_by(4) {
            // SAFETY: a part of the rows that the caller promises.
            unsafe {
                let (a, out) = (a.add(row * row_step), out.add(row * self.out_step));
                self.run::<V, 4, VECTORS>(a, row_step, (n_rows - row).min(4), out);
            }
        }
    }

    /// `n_rows` of at most `ROWS` rows; the missing ones repeat the last and are not stored.
    ///
    /// # Safety
    /// `a` must be valid for reading the block's rows and inner indices, `panel` for `n_inner` lines of `VECTORS`
    /// vectors, `bias` for one line, `out` for writing (and reading if `self.read`) `real_width` columns of the rows,
    /// with `real_width` at most `VECTORS` vectors and `n_rows` at least 1. The CPU must have the instructions of `V`.
    #[inline(always)]
    unsafe fn run<V: Vector, const ROWS: usize, const VECTORS: usize>(
        &self,
        a: *const f32,
        row_step: usize,
        n_rows: usize,
        out: *mut f32,
    ) {
        // SAFETY: the contract, passed on; a line that is not whole goes through a buffer of a whole one.
        unsafe {
            let sums = self.sums::<V, ROWS, VECTORS>(a, row_step, n_rows);
            if n_rows == ROWS && self.real_width == VECTORS * V::LANES {
                for (row, sums) in sums.into_iter().enumerate() {
                    self.finish::<V, VECTORS>(sums, out.add(row * self.out_step));
                }
                return;
            }
            for (row, sums) in sums.into_iter().enumerate().take(n_rows) {
                let (line, mut buffer) = (out.add(row * self.out_step), [0.0f32; 32]);
                if self.read {
                    std::ptr::copy_nonoverlapping(line, buffer.as_mut_ptr(), self.real_width);
                }
                self.finish::<V, VECTORS>(sums, buffer.as_mut_ptr());
                std::ptr::copy_nonoverlapping(buffer.as_ptr(), line, self.real_width);
            }
        }
    }

    /// The sums of products, in registers: every index of the array is a constant once the loops are unrolled.
    ///
    /// # Safety
    /// As [`Block::run`].
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant indices keep the sums in registers")]
    unsafe fn sums<V: Vector, const ROWS: usize, const VECTORS: usize>(
        &self,
        a: *const f32,
        row_step: usize,
        n_rows: usize,
    ) -> [[V; VECTORS]; ROWS] {
        // SAFETY: reads of the elements named in the contract.
        unsafe {
            let mut rows = [a; ROWS];
            for row in 0..ROWS {
                rows[row] = a.add(row.min(n_rows - 1) * row_step);
            }
            let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
            let (mut panel, mut offset) = (self.panel, 0);
            for _ in 0..self.n_inner {
                let mut line = [V::splat(0.0); VECTORS];
                for vector in 0..VECTORS {
                    line[vector] = V::load(panel.add(vector * V::LANES));
                }
                for row in 0..ROWS {
                    let value = V::splat(*rows[row].add(offset));
                    for vector in 0..VECTORS {
                        sums[row][vector] = V::multiply_add(value, line[vector], sums[row][vector]);
                    }
                }
                panel = panel.add(VECTORS * V::LANES);
                offset += self.inner_step;
            }
            sums
        }
    }

    /// Stores one line, finished.
    ///
    /// # Safety
    /// `line` must be valid for writing (and reading if `self.read`) `VECTORS` vectors, else as [`Block::run`].
    #[inline(always)]
    unsafe fn finish<V: Vector, const VECTORS: usize>(&self, sums: [V; VECTORS], line: *mut f32) {
        // SAFETY: the contract.
        unsafe {
            for (vector, mut sum) in sums.into_iter().enumerate() {
                let place = line.add(vector * V::LANES);
                if self.read {
                    sum = V::add(sum, V::load(place));
                }
                if let Some(bias) = self.bias {
                    sum = V::add(sum, V::load(bias.add(vector * V::LANES)));
                }
                if self.relu {
                    sum = V::positive(sum);
                }
                V::store(sum, place);
            }
        }
    }
}

/// First column and width of each panel.
fn panel_columns(columns: usize, lanes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..columns)
        .step_by(2 * lanes)
        .map(move |first| (first, (2 * lanes).min((columns - first).next_multiple_of(lanes))))
}

fn lanes(level: Level) -> usize {
    match level {
        Level::Avx512 => 16,
        Level::Avx2 => 8,
        Level::Baseline => 4,
    }
}

/// Values of a panel that are used for all rows before the next ones: they stay in the first-level cache.
const PANEL_VALUES: usize = 6144;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::filled;
    use crate::reference::{assert_near, noise};

    #[test]
    fn products_follow_their_definition() {
        for level in Level::available() {
            for (rows, inner, columns) in
                [(1, 1, 1), (3, 5, 7), (12, 7, 32), (13, 400, 33), (30, 20, 50), (25, 800, 16)]
            {
                let (a, b) = (noise(rows * inner, 1), noise(inner * columns, 2));
                let bias = noise(columns, 3);
                let mut expected = vec![0.0; rows * columns];
                for (idx, sum) in expected.iter_mut().enumerate() {
                    let (row, column) = (idx / columns, idx % columns);
                    let product = |k: usize| f64::from(a[row * inner + k]) * f64::from(b[k * columns + column]);
                    *sum = (0..inner).map(product).sum();
                }
                let name = format!("{level:?}, {rows} x {inner} x {columns}");
                let panels = Panels::pack(level, [inner, columns], &b, |k| k * columns, 1);
                let first = Rows { values: &a, rows, row_step: inner, inner_step: 1 };
                let multiply = |finish| {
                    // SAFETY: `multiply` writes all of its output.
                    unsafe { filled(rows * columns, |out| panels.multiply(first, finish, out)) }
                };
                assert_near(&name, &multiply(Finish::NOTHING), &expected);
                let finished = multiply(Finish { bias: Some(&panels.padded(&bias)), relu: true });
                let with_bias = expected.iter().enumerate().map(|(idx, sum)| sum + f64::from(bias[idx % columns]));
                assert_near(&name, &finished, &with_bias.map(|sum| sum.max(0.0)).collect::<Vec<f64>>());

                let transposed: Vec<f32> = (0..rows * inner).map(|idx| a[idx % rows * inner + idx / rows]).collect();
                let first = Rows { values: &transposed, rows, row_step: 1, inner_step: rows };
                let turned: Vec<f32> = (0..inner * columns).map(|idx| b[idx % inner * columns + idx / inner]).collect();
                let panels = Panels::pack(level, [inner, columns], &turned, |k| k, inner);
                let mut sum = vec![1.0; rows * columns];
                panels.multiply_and_add(first, Finish::NOTHING, &mut sum);
                assert_near(&name, &sum, &expected.iter().map(|value| value + 1.0).collect::<Vec<f64>>());
            }
        }
    }
}
