//! The innermost loops of a product: a block of rows times one panel, summed in registers.
//!
//! ```text
//!            panel: VECTORS vectors wide
//!            +----------------+
//!            | b[k]           |   row k is loaded once ...
//!            +----------------+
//!  a[row][k] | sums[row][..]  |   ... and multiplied with ROWS broadcast values
//! ```
//!
//! `ROWS x VECTORS` sums need as many registers; the instruction set decides on the shape: 8 x 3 of AVX-512's 32 registers,
//! 6 x 2 of AVX2's 16. There 4 x 3 sums, three values of the panel and a broadcast one would take all, and the compiler
//! then keeps sums in memory: half the speed.
//!
//! The inner dimension is taken in blocks of at most [`INNER_BLOCK`], so that the panel's part stays in the first-level
//! cache for all rows. Sums of later blocks are added to what the earlier ones stored, and the last one applies the [`Epilogue`].

use std::mem::MaybeUninit;

use super::panels::{most_vectors, panel_columns};
use super::{Epilogue, LhsRows, Panels, RhsRows, RowElements, RowStarts};
use crate::activation::Limits;
use crate::instruction_set::InstructionSet;
use crate::vector::Vector;

/// `a` times packed panels: `epilogue(a * b)`, or `epilogue(out + a * b)` if `accumulate`.
///
/// # Safety
/// The elements of `a` must exist, as must the bias of all padded columns. `out` must be valid for writing the panels'
/// columns from each of `out_starts` on, and for reading them if `accumulate`.
pub(super) unsafe fn multiply_panels(
    panels: &Panels,
    a: LhsRows,
    epilogue: Epilogue,
    accumulate: bool,
    out: *mut f32,
    out_starts: RowStarts,
) {
    // SAFETY: the instruction set is this CPU's (see `InstructionSet`); the rest is the caller's promise.
    unsafe {
        match panels.isa {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => panels_avx512(panels, a, epilogue, accumulate, out, out_starts),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => panels_avx2(panels, a, epilogue, accumulate, out, out_starts),
            _ => panels_body::<crate::vector::BaselineVector, 4, 3>(panels, a, epilogue, accumulate, out, out_starts),
        }
    }
}

/// Adds `a * b` to `out`, `[rows, columns]`.
///
/// # Safety
/// The elements of `a` and the rows of `b` must exist, and `out` must be valid for reading and writing all elements.
pub(super) unsafe fn multiply_unpacked(isa: InstructionSet, a: LhsRows, b: RhsRows, out: *mut f32) {
    // SAFETY: as in `multiply_panels`.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => unpacked_avx512(a, b, out),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => unpacked_avx2(a, b, out),
            _ => unpacked_body::<crate::vector::BaselineVector, 4, 3>(a, b, out),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn unpacked_avx512(a: LhsRows, b: RhsRows, out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { unpacked_body::<std::arch::x86_64::__m512, 8, 3>(a, b, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn unpacked_avx2(a: LhsRows, b: RhsRows, out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { unpacked_body::<std::arch::x86_64::__m256, 6, 2>(a, b, out) }
}

/// # Safety
/// As [`multiply_unpacked`], on a CPU with the instructions of `V`.
#[inline(always)]
unsafe fn unpacked_body<V: Vector, const ROWS: usize, const MOST: usize>(a: LhsRows, b: RhsRows, out: *mut f32) {
    let RowElements::Strided { stride } = a.elements else {
        panic!("matrix product: evenly spaced elements of the first factor")
    };
    let columns = b.run_len * b.run_offsets.len();
    let out_starts = RowStarts::Strided { rows: a.starts.n_rows(), stride: columns };
    for (block, rhs_starts) in b.starts.chunks(INNER_BLOCK).enumerate() {
        for (run, run_offset) in b.run_offsets.iter().enumerate() {
            for (first, width) in panel_columns(b.run_len, V::LANES, MOST) {
                let kernel = Microkernel {
                    lhs_starts: a.starts,
                    out_starts,
                    lhs: a.values.as_ptr().wrapping_add(block * INNER_BLOCK * stride),
                    out: out.wrapping_add(run * b.run_len + first),
                    n_inner: rhs_starts.len(),
                    lhs_stride: stride,
                    rhs: b.values.as_ptr().wrapping_add(run_offset + first),
                    rhs_starts: rhs_starts.as_ptr(),
                    last_lanes: V::LANES - (first + width).saturating_sub(b.run_len),
                    accumulate: true,
                    bias: None,
                    limits: None,
                };
                // SAFETY: the rows and the inner indices of this block exist in `a`, their rows in `b`, and the columns
                // from `first` on in `out`.
                unsafe {
                    match width / V::LANES {
                        1 => kernel.all_rows::<V, ROWS, 1, true>(),
                        2 => kernel.all_rows::<V, ROWS, 2, true>(),
                        _ => kernel.all_rows::<V, ROWS, MOST, true>(),
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn panels_avx512(
    panels: &Panels,
    a: LhsRows,
    epilogue: Epilogue,
    accumulate: bool,
    out: *mut f32,
    out_starts: RowStarts,
) {
    // SAFETY: the caller's promise.
    unsafe { panels_body::<std::arch::x86_64::__m512, 8, 3>(panels, a, epilogue, accumulate, out, out_starts) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn panels_avx2(
    panels: &Panels,
    a: LhsRows,
    epilogue: Epilogue,
    accumulate: bool,
    out: *mut f32,
    out_starts: RowStarts,
) {
    // SAFETY: the caller's promise.
    unsafe { panels_body::<std::arch::x86_64::__m256, 6, 2>(panels, a, epilogue, accumulate, out, out_starts) }
}

/// # Safety
/// As [`multiply_panels`], on a CPU with the instructions of `V`.
#[inline(always)]
unsafe fn panels_body<V: Vector, const ROWS: usize, const MOST: usize>(
    panels: &Panels,
    a: LhsRows,
    epilogue: Epilogue,
    accumulate: bool,
    out: *mut f32,
    out_starts: RowStarts,
) {
    assert_eq!(most_vectors(panels.isa), MOST, "matrix product: panels of another width than they are read in");
    let (run_len, n_runs, stride) = match a.elements {
        RowElements::Strided { stride } => (panels.inner, 1, stride),
        RowElements::Runs { len, offsets } => (len, offsets.len(), 1),
    };
    let block = run_len.div_ceil(run_len.div_ceil(INNER_BLOCK));
    for run in 0..n_runs {
        let offset = if let RowElements::Runs { offsets, .. } = a.elements { offsets[run] } else { 0 };
        for within in (0..run_len).step_by(block) {
            let first_k = run * run_len + within;
            let n_inner = block.min(run_len - within);
            let is_last = first_k + n_inner == panels.inner;
            let lhs = a.values.as_ptr().wrapping_add(offset + within * stride);
            for (first, width) in panel_columns(panels.columns, V::LANES, MOST) {
                let kernel = Microkernel {
                    lhs_starts: a.starts,
                    out_starts,
                    lhs,
                    out: out.wrapping_add(first),
                    n_inner,
                    lhs_stride: stride,
                    rhs: panels.panel(first, width, first_k).as_ptr(),
                    rhs_starts: std::ptr::null(),
                    last_lanes: V::LANES - (first + width).saturating_sub(panels.columns),
                    accumulate: accumulate || first_k > 0,
                    bias: epilogue.bias.filter(|_| is_last).map(|bias| bias[first..].as_ptr()),
                    limits: epilogue.limits().filter(|_| is_last),
                };
                // SAFETY: the rows and the inner indices of this block exist in `a`, the rows and the columns from `first`
                // on in `out`; the panel has `n_inner` rows of `width`, the bias `width` values.
                unsafe {
                    match width / V::LANES {
                        1 => kernel.all_rows::<V, ROWS, 1, false>(),
                        2 => kernel.all_rows::<V, ROWS, 2, false>(),
                        _ => kernel.all_rows::<V, ROWS, MOST, false>(),
                    }
                }
            }
        }
    }
}

/// A block of the inner dimension of all rows, times one panel.
///
/// With `UNPACKED`, the panel is columns of the second factor where it lies, whose rows start at `rhs_starts`.
struct Microkernel<'a> {
    lhs_starts: RowStarts<'a>,
    out_starts: RowStarts<'a>,
    /// The block's first element of a row that starts at 0.
    lhs: *const f32,
    /// The panel's first column of an output row that starts at 0.
    out: *mut f32,
    n_inner: usize,
    lhs_stride: usize,
    /// The panel's first column of a row that starts at 0 if `UNPACKED`, else the panel.
    rhs: *const f32,
    /// Where the rows of the second factor start, if `UNPACKED`.
    rhs_starts: *const usize,
    /// Columns of the panel's last vector that exist.
    last_lanes: usize,
    /// Whether the sums are added to what the output holds.
    accumulate: bool,
    bias: Option<*const f32>,
    /// The activation's, if there is one.
    limits: Option<Limits>,
}

impl Microkernel<'_> {
    /// All rows, as many at a time as fill the registers.
    ///
    /// # Safety
    /// - `lhs` must be valid for reading the block's inner indices of all rows.
    /// - `rhs` must be valid for `n_inner` rows of `VECTORS` vectors: one behind the other, or if `UNPACKED` the existing
    ///   columns at each of as many `rhs_starts`.
    /// - `bias` must be valid for one row of the panel.
    /// - `out` must be valid for writing (and reading if `self.accumulate`) the panel's existing columns of all rows.
    /// - The CPU must have the instructions of `V`.
    #[inline(always)]
    unsafe fn all_rows<V: Vector, const ROWS: usize, const VECTORS: usize, const UNPACKED: bool>(&self) {
        let n_rows = self.lhs_starts.n_rows();
        let mut row = 0;
        // SAFETY: the contract; `row` and the following rows are below `n_rows`.
        unsafe {
            while row + ROWS <= n_rows {
                self.row_block::<V, ROWS, VECTORS, UNPACKED>(row);
                row += ROWS;
            }
            while row + 4 <= n_rows {
                self.row_block::<V, 4, VECTORS, UNPACKED>(row);
                row += 4;
            }
            if row + 2 <= n_rows {
                self.row_block::<V, 2, VECTORS, UNPACKED>(row);
                row += 2;
            }
            if row < n_rows {
                self.row_block::<V, 1, VECTORS, UNPACKED>(row);
            }
        }
    }

    /// `ROWS` rows from `row` on: the sums stay in registers, as every index is a constant once the loops are unrolled.
    ///
    /// # Safety
    /// As [`Microkernel::all_rows`], and the rows must exist.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant indices keep the sums in registers")]
    unsafe fn row_block<V: Vector, const ROWS: usize, const VECTORS: usize, const UNPACKED: bool>(&self, row: usize) {
        // SAFETY: reads and writes of the elements named in the contract.
        unsafe {
            let mut lhs_rows = [self.lhs; ROWS];
            for idx in 0..ROWS {
                lhs_rows[idx] = self.lhs.add(self.lhs_starts.start(row + idx));
            }
            let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
            let (mut rhs, mut offset) = (self.rhs, 0);
            for k in 0..self.n_inner {
                let mut rhs_row = [V::splat(0.0); VECTORS];
                if UNPACKED {
                    rhs = self.rhs.add(*self.rhs_starts.add(k));
                }
                for vector in 0..VECTORS {
                    let source = rhs.add(vector * V::LANES);
                    let is_whole = !UNPACKED || vector + 1 < VECTORS || self.last_lanes == V::LANES;
                    rhs_row[vector] = if is_whole { V::load(source) } else { V::load_partial(source, self.last_lanes) };
                }
                for row in 0..ROWS {
                    let value = V::splat(*lhs_rows[row].add(offset));
                    for vector in 0..VECTORS {
                        sums[row][vector] = V::multiply_add(value, rhs_row[vector], sums[row][vector]);
                    }
                }
                if !UNPACKED {
                    rhs = rhs.add(VECTORS * V::LANES);
                }
                offset += self.lhs_stride;
            }
            self.store(&sums, row);
        }
    }

    /// Stores the sums of the rows from `row` on after the epilogue.
    ///
    /// # Safety
    /// As [`Microkernel::all_rows`], and the rows must exist.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant indices keep the sums in registers")]
    unsafe fn store<V: Vector, const ROWS: usize, const VECTORS: usize>(
        &self,
        sums: &[[V; VECTORS]; ROWS],
        row: usize,
    ) {
        let is_whole = self.last_lanes == V::LANES;
        // SAFETY: reads and writes of the elements named in the contract.
        unsafe {
            match (is_whole, self.accumulate, self.bias, self.limits) {
                (true, false, None, None) => self.store_whole(sums, row, |sum, _, _| sum),
                (true, true, None, None) => self.store_whole(sums, row, |sum, out, _| V::add(sum, V::load(out))),
                (true, false, Some(bias), Some(limits)) => {
                    self.store_whole(sums, row, |sum, _, column| V::add(sum, V::load(bias.add(column))).clamp(limits))
                }
                (true, true, Some(bias), Some(limits)) => self.store_whole(sums, row, |sum, out, column| {
                    V::add(V::add(sum, V::load(out)), V::load(bias.add(column))).clamp(limits)
                }),
                (true, false, Some(bias), None) => {
                    self.store_whole(sums, row, |sum, _, column| V::add(sum, V::load(bias.add(column))))
                }
                (true, true, Some(bias), None) => self.store_whole(sums, row, |sum, out, column| {
                    V::add(V::add(sum, V::load(out)), V::load(bias.add(column)))
                }),
                _ => {
                    let mut buffer = MaybeUninit::<[f32; MAX_SUMS]>::uninit();
                    let buffer = buffer.as_mut_ptr().cast::<f32>();
                    for idx in 0..ROWS {
                        for vector in 0..VECTORS {
                            V::store(sums[idx][vector], buffer.add((idx * VECTORS + vector) * V::LANES));
                        }
                    }
                    for idx in 0..ROWS {
                        let out = self.out.add(self.out_starts.start(row + idx));
                        self.store_row::<V, VECTORS>(buffer.add(idx * VECTORS * V::LANES), out);
                    }
                }
            }
        }
    }

    /// Stores whole vectors after `epilogue` of the sum, where it is stored and the vector's first column: loops so short
    /// that they are unrolled, as one that is not would keep the sums in memory all along.
    ///
    /// # Safety
    /// As [`Microkernel::all_rows`], and the rows must exist.
    #[inline(always)]
    unsafe fn store_whole<V: Vector, const ROWS: usize, const VECTORS: usize>(
        &self,
        sums: &[[V; VECTORS]; ROWS],
        row: usize,
        epilogue: impl Fn(V, *const f32, usize) -> V,
    ) {
        for (idx, sums) in sums.iter().enumerate() {
            for (vector, &sum) in sums.iter().enumerate() {
                let column = vector * V::LANES;
                // SAFETY: an existing element of the contract.
                unsafe {
                    let out = self.out.add(self.out_starts.start(row + idx) + column);
                    V::store(epilogue(sum, out, column), out);
                }
            }
        }
    }

    /// Stores one row after the epilogue.
    ///
    /// # Safety
    /// `sums` must be valid for reading `VECTORS` vectors, `out` for writing (and reading if `self.accumulate`) the
    /// panel's columns, else as [`Microkernel::all_rows`].
    #[inline(always)]
    unsafe fn store_row<V: Vector, const VECTORS: usize>(&self, sums: *const f32, out: *mut f32) {
        // SAFETY: the contract.
        unsafe {
            for vector in 0..VECTORS {
                let mut sum = V::load(sums.add(vector * V::LANES));
                let out = out.add(vector * V::LANES);
                let is_whole = vector + 1 < VECTORS || self.last_lanes == V::LANES;
                if self.accumulate {
                    let before = if is_whole { V::load(out) } else { V::load_partial(out, self.last_lanes) };
                    sum = V::add(sum, before);
                }
                if let Some(bias) = self.bias {
                    sum = V::add(sum, V::load(bias.add(vector * V::LANES)));
                }
                if let Some(limits) = self.limits {
                    sum = sum.clamp(limits);
                }
                if is_whole { V::store(sum, out) } else { V::store_partial(sum, out, self.last_lanes) }
            }
        }
    }
}

/// Values in the registers of any instruction set's largest block: eight rows of three vectors of 16.
const MAX_SUMS: usize = 8 * 3 * 16;

/// Inner indices of a panel that are used for all rows before the next ones: so much of it stays in the first-level cache.
const INNER_BLOCK: usize = 128;
