//! Matrix products `a * b`: `b` is packed into narrow panels once and then used for many rows of `a`.
//!
//! A block of `a`'s rows times one panel is summed in registers. All products and sums of an element are taken in the
//! order of the inner dimension, so a result does not depend on how rows are split into tasks.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::buffer::CACHE_LINE;
use crate::instruction_set::InstructionSet;
use crate::vector::Vector;

/// The second factor, `[inner, columns]`, as panels of one to three vectors' width.
pub(crate) struct Panels {
    isa: InstructionSet,
    inner: usize,
    columns: usize,
    /// Panel by panel, each `[inner, width]`, zeros past the last column; the first `start` values are not used, so that
    /// every vector lies in one cache line.
    values: Vec<f32>,
    start: usize,
}

/// The first factor: element `(row, k)` is `values[starts(row) + offset(k)]`, where the inner dimension is made of `parts`.
#[derive(Clone, Copy)]
pub(crate) struct LhsRows<'a> {
    pub values: &'a [f32],
    pub starts: RowStarts<'a>,
    pub parts: RowElements<'a>,
}

/// Where rows start.
#[derive(Clone, Copy)]
pub(crate) enum RowStarts<'a> {
    /// So many rows, each so far behind the one before.
    Even { rows: usize, step: usize },
    /// One place per row.
    List(&'a [usize]),
}

/// Where the elements of a row are, from its start.
#[derive(Clone, Copy)]
pub(crate) enum RowElements<'a> {
    /// As many as there are, each so far behind the one before.
    Even { step: usize },
    /// Runs of as many neighbours, at these offsets.
    Runs { len: usize, offsets: &'a [usize] },
}

/// A second factor that is read in place: line `k` is made of runs of `run` neighbours, from `values[starts[k] + runs[i]]`.
#[derive(Clone, Copy)]
pub(crate) struct RhsRows<'a> {
    pub values: &'a [f32],
    pub starts: &'a [usize],
    pub run: usize,
    pub runs: &'a [usize],
}

impl<'a> LhsRows<'a> {
    /// A matrix `[rows, columns]`, row by row.
    pub(crate) fn dense(values: &'a [f32], columns: usize) -> Self {
        let starts = RowStarts::Even { rows: values.len() / columns, step: columns };
        Self { values, starts, parts: RowElements::Even { step: 1 } }
    }

    /// The transpose of a matrix `[inner, rows]`.
    pub(crate) fn transposed(values: &'a [f32], rows: usize) -> Self {
        Self { values, starts: RowStarts::Even { rows, step: 1 }, parts: RowElements::Even { step: rows } }
    }

    /// The furthest element that is read.
    fn last(&self, inner: usize) -> usize {
        let offset = match self.parts {
            RowElements::Even { step } => (inner - 1) * step,
            RowElements::Runs { len, offsets } => {
                assert_eq!(len * offsets.len(), inner, "matrix product: runs and inner dimension");
                offsets.iter().max().expect("asserted: not empty") + len - 1
            }
        };
        self.starts.last() + offset
    }
}

impl RowStarts<'_> {
    pub(crate) fn rows(&self) -> usize {
        match self {
            RowStarts::Even { rows, .. } => *rows,
            RowStarts::List(starts) => starts.len(),
        }
    }

    fn last(&self) -> usize {
        match self {
            RowStarts::Even { rows, step } => (rows - 1) * step,
            RowStarts::List(starts) => *starts.iter().max().expect("asserted: not empty"),
        }
    }

    #[inline(always)]
    fn of(&self, row: usize) -> usize {
        match self {
            RowStarts::Even { step, .. } => row * step,
            RowStarts::List(starts) => starts[row],
        }
    }
}

/// What is done to a finished element.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    /// Added to each column; padded by [`Panels::padded`].
    pub bias: Option<&'a [f32]>,
    pub relu: bool,
}

impl Epilogue<'_> {
    pub(crate) const NONE: Epilogue<'static> = Epilogue { bias: None, relu: false };
}

impl Panels {
    /// Nothing yet: for [`Panels::repack`].
    pub(crate) fn empty(isa: InstructionSet) -> Self {
        Self { isa, inner: 0, columns: 0, values: vec![], start: 0 }
    }

    /// Packs the matrix whose element `(k, column)` is `source[start(k) + column * column_step]`.
    pub(crate) fn pack(
        isa: InstructionSet,
        [inner, columns]: [usize; 2],
        source: &[f32],
        start: impl Fn(usize) -> usize + Sync,
        column_step: usize,
    ) -> Self {
        let mut panels = Self::empty(isa);
        panels.clear(inner, columns);
        panels.values.resize(panels.start + inner * columns.next_multiple_of(lanes(isa)), 0.0);
        let mut rest = &mut panels.values[panels.start..];
        let parts = panel_columns(columns, lanes(isa)).map(|(first, width)| {
            let (panel, after) = std::mem::take(&mut rest).split_at_mut(inner * width);
            rest = after;
            (first, width, panel)
        });
        parts.collect::<Vec<_>>().into_par_iter().for_each(|(first, width, panel)| {
            let real = width.min(columns - first);
            // A column of a few lines at a time: neighbours in the source are neighbours in a weight's order.
            for (block, lines) in panel.chunks_mut(PACKED_LINES * width).enumerate() {
                let mut starts = [0; PACKED_LINES];
                let starts = &mut starts[..lines.len() / width];
                starts.iter_mut().enumerate().for_each(|(k, place)| *place = start(block * PACKED_LINES + k));
                for column in 0..real {
                    let offset = (first + column) * column_step;
                    for (line, start) in lines.chunks_exact_mut(width).zip(&*starts) {
                        line[column] = source[start + offset];
                    }
                }
            }
        });
        panels
    }

    /// Packs another matrix into the same memory: line `k` is made of `runs` of `run` neighbours, which start at
    /// `source[starts(k) + runs[i]]`.
    pub(crate) fn repack(&mut self, source: &[f32], starts: RowStarts, run: usize, runs: &[usize]) {
        let (inner, columns) = (starts.rows(), run * runs.len());
        self.clear(inner, columns);
        for (first, width) in panel_columns(columns, lanes(self.isa)) {
            let real = width.min(columns - first);
            let (idx, within) = (first / run, first % run);
            if within + width <= run {
                let place = |k: usize| starts.of(k) + runs[idx] + within;
                match width {
                    48 => extend_lines::<48>(&mut self.values, source, inner, place),
                    32 => extend_lines::<32>(&mut self.values, source, inner, place),
                    _ => (0..inner).for_each(|k| self.values.extend_from_slice(&source[place(k)..][..width])),
                }
                continue;
            }
            for k in 0..inner {
                let (mut column, end) = (first, first + real);
                while column < end {
                    let (idx, within) = (column / run, column % run);
                    let len = (run - within).min(end - column);
                    self.values.extend_from_slice(&source[starts.of(k) + runs[idx] + within..][..len]);
                    column += len;
                }
                self.values.extend(std::iter::repeat_n(0.0, width - real));
            }
        }
        self.assert_full();
    }

    fn clear(&mut self, inner: usize, columns: usize) {
        (self.inner, self.columns) = (inner, columns);
        self.values.clear();
        self.values.reserve(inner * columns.next_multiple_of(lanes(self.isa)) + CACHE_LINE / size_of::<f32>());
        self.start = self.values.as_ptr().align_offset(CACHE_LINE);
        self.values.resize(self.start, 0.0);
    }

    fn assert_full(&self) {
        let len = self.inner * self.columns.next_multiple_of(lanes(self.isa));
        assert_eq!(self.values.len() - self.start, len, "panels: a source of all columns");
    }

    /// One value per column, padded to the panels' width.
    pub(crate) fn padded(&self, values: &[f32]) -> Vec<f32> {
        assert_eq!(values.len(), self.columns, "matrix product: bias and columns");
        let mut padded = values.to_vec();
        padded.resize(self.columns.next_multiple_of(lanes(self.isa)), 0.0);
        padded
    }

    /// Writes `a * self`, finished, into `out`, `[rows, columns]`.
    pub(crate) fn multiply(&self, a: LhsRows, finish: Epilogue, out: &mut [MaybeUninit<f32>]) {
        assert_eq!(out.len(), a.starts.rows() * self.columns, "matrix product: output");
        // SAFETY: `out` is valid for writes of the asserted length, and nothing is read before it is written.
        unsafe { self.run(a, finish, false, out.as_mut_ptr().cast(), self.dense(a)) }
    }

    /// Writes the lines of `a * self` to the given places of `out`.
    pub(crate) fn multiply_scattered(
        &self,
        a: LhsRows,
        finish: Epilogue,
        out: &mut [MaybeUninit<f32>],
        places: &[usize],
    ) {
        assert_eq!(places.len(), a.starts.rows(), "matrix product: places");
        let places = RowStarts::List(places);
        assert!(places.last() + self.columns <= out.len(), "matrix product: output");
        // SAFETY: `out` is valid for writes at the asserted places, and nothing is read before it is written.
        unsafe { self.run(a, finish, false, out.as_mut_ptr().cast(), places) }
    }

    /// Adds `a * self` to `out`, `[rows, columns]`, then finishes the sum.
    pub(crate) fn multiply_and_add(&self, a: LhsRows, finish: Epilogue, out: &mut [f32]) {
        assert_eq!(out.len(), a.starts.rows() * self.columns, "matrix product: output");
        // SAFETY: `out` is initialised and of the asserted length.
        unsafe { self.run(a, finish, true, out.as_mut_ptr(), self.dense(a)) }
    }

    fn dense(&self, a: LhsRows) -> RowStarts<'static> {
        RowStarts::Even { rows: a.starts.rows(), step: self.columns }
    }

    /// # Safety
    /// `out` must be valid for writing `self.columns` values from each of `places` on, and for reading them if `add`.
    unsafe fn run(&self, a: LhsRows, finish: Epilogue, add: bool, out: *mut f32, places: RowStarts) {
        assert!(a.starts.rows() > 0 && self.inner > 0, "matrix product: an empty factor");
        assert!(a.last(self.inner) < a.values.len(), "matrix product: first factor");
        let padded = self.columns.next_multiple_of(lanes(self.isa));
        assert!(finish.bias.is_none_or(|bias| bias.len() == padded), "matrix product: bias");
        // SAFETY: the features of `isa` are there (see `InstructionSet`); the extents of `a` and the bias were asserted here, those
        // of `out` are promised by the caller, those of the panels held by `pack` and `repack`.
        unsafe {
            match self.isa {
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512 => run_avx512(self, a, finish, add, out, places),
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2 => run_avx2(self, a, finish, add, out, places),
                _ => product::<crate::vector::BaselineVector, 4>(self, a, finish, add, out, places),
            }
        }
    }
}

/// Adds `a * b` to `out`, `[rows, columns]`; the elements of a row of `a` must be evenly spaced.
///
/// For few rows: what packing `b` would cost is then more than what it saves.
pub(crate) fn multiply_unpacked_and_add(isa: InstructionSet, a: LhsRows, b: RhsRows, out: &mut [f32]) {
    assert_eq!(out.len(), a.starts.rows() * b.run * b.runs.len(), "matrix product: output");
    assert!(a.starts.rows() > 0 && !b.starts.is_empty() && !out.is_empty(), "matrix product: an empty factor");
    assert!(a.last(b.starts.len()) < a.values.len(), "matrix product: first factor");
    let furthest = |starts: &[usize]| *starts.iter().max().expect("asserted: not empty");
    assert!(furthest(b.starts) + furthest(b.runs) + b.run <= b.values.len(), "matrix product: second factor");
    // SAFETY: the features of `isa` are there (see `InstructionSet`); the extents of both factors and the output were asserted.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512 => lines_avx512(a, b, out.as_mut_ptr()),
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 => lines_avx2(a, b, out.as_mut_ptr()),
            _ => lines_product::<crate::vector::BaselineVector, 4>(a, b, out.as_mut_ptr()),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn lines_avx512(a: LhsRows, b: RhsRows, out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { lines_product::<std::arch::x86_64::__m512, 8>(a, b, out) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn lines_avx2(a: LhsRows, b: RhsRows, out: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe { lines_product::<std::arch::x86_64::__m256, 4>(a, b, out) }
}

/// # Safety
/// As [`multiply_unpacked_and_add`], whose assertions must hold, on a CPU with the instructions of `V`.
#[inline(always)]
unsafe fn lines_product<V: Vector, const ROWS: usize>(a: LhsRows, b: RhsRows, out: *mut f32) {
    let RowElements::Even { step } = a.parts else {
        panic!("matrix product: evenly spaced elements of the first factor")
    };
    let columns = b.run * b.runs.len();
    let places = RowStarts::Even { rows: a.starts.rows(), step: columns };
    for (idx, lines) in b.starts.chunks(INNER_BLOCK).enumerate() {
        for (run_idx, run) in b.runs.iter().enumerate() {
            for (first, width) in panel_columns(b.run, V::LANES) {
                let block = Microkernel {
                    starts: a.starts,
                    places,
                    values: a.values.as_ptr().wrapping_add(idx * INNER_BLOCK * step),
                    out: out.wrapping_add(run_idx * b.run + first),
                    n_inner: lines.len(),
                    inner_step: step,
                    panel: b.values.as_ptr().wrapping_add(run + first),
                    lines: lines.as_ptr(),
                    last_lanes: V::LANES - (first + width).saturating_sub(b.run),
                    read: true,
                    bias: None,
                    relu: false,
                };
                // SAFETY: the rows and the inner indices of this block exist in `a`, their lines in `b`, and the columns
                // from `first` on in `out`.
                unsafe {
                    match width / V::LANES {
                        1 => block.rows::<V, ROWS, 1, true>(),
                        2 => block.rows::<V, ROWS, 2, true>(),
                        _ => block.rows::<V, ROWS, 3, true>(),
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn run_avx512(panels: &Panels, a: LhsRows, finish: Epilogue, add: bool, out: *mut f32, places: RowStarts) {
    // SAFETY: the caller's promise.
    unsafe { product::<std::arch::x86_64::__m512, 8>(panels, a, finish, add, out, places) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2(panels: &Panels, a: LhsRows, finish: Epilogue, add: bool, out: *mut f32, places: RowStarts) {
    // SAFETY: the caller's promise.
    unsafe { product::<std::arch::x86_64::__m256, 4>(panels, a, finish, add, out, places) }
}

/// # Safety
/// As [`Panels::run`], whose assertions must hold, on a CPU with the instructions of `V`.
#[inline(always)]
unsafe fn product<V: Vector, const ROWS: usize>(
    panels: &Panels,
    a: LhsRows,
    finish: Epilogue,
    add: bool,
    out: *mut f32,
    places: RowStarts,
) {
    let (run, n_runs, step) = match a.parts {
        RowElements::Even { step } => (panels.inner, 1, step),
        RowElements::Runs { len, offsets } => (len, offsets.len(), 1),
    };
    let block = run.div_ceil(run.div_ceil(INNER_BLOCK));
    for run_idx in 0..n_runs {
        let offset = if let RowElements::Runs { offsets, .. } = a.parts { offsets[run_idx] } else { 0 };
        for within in (0..run).step_by(block) {
            let first_k = run_idx * run + within;
            let n_inner = block.min(run - within);
            let is_last = first_k + n_inner == panels.inner;
            let values = a.values.as_ptr().wrapping_add(offset + within * step);
            for (first, width) in panel_columns(panels.columns, V::LANES) {
                let block = Microkernel {
                    starts: a.starts,
                    places,
                    values,
                    out: out.wrapping_add(first),
                    n_inner,
                    inner_step: step,
                    panel: panels.values[panels.start + first * panels.inner + first_k * width..].as_ptr(),
                    lines: std::ptr::null(),
                    last_lanes: V::LANES - (first + width).saturating_sub(panels.columns),
                    read: add || first_k > 0,
                    bias: finish.bias.filter(|_| is_last).map(|bias| bias[first..].as_ptr()),
                    relu: finish.relu && is_last,
                };
                // SAFETY: the rows and the inner indices of this block exist in `a`, the places and the columns from
                // `first` on in `out`; the panel has `n_inner` lines of `width`, the bias `width` values.
                unsafe {
                    match width / V::LANES {
                        1 => block.rows::<V, ROWS, 1, false>(),
                        2 => block.rows::<V, ROWS, 2, false>(),
                        _ => block.rows::<V, ROWS, 3, false>(),
                    }
                }
            }
        }
    }
}

/// A part of the inner dimension of all rows, and of one panel.
struct Microkernel<'a> {
    starts: RowStarts<'a>,
    places: RowStarts<'a>,
    /// The first element of this part of a row that starts at 0.
    values: *const f32,
    /// The first of the panel's columns of a line at place 0.
    out: *mut f32,
    n_inner: usize,
    inner_step: usize,
    /// The first of the panel's columns of a line at place 0 if `LISTED`, else the panel.
    panel: *const f32,
    /// Where the lines of the second factor start, if `LISTED`.
    lines: *const usize,
    /// Columns of the panel's last vector that exist.
    last_lanes: usize,
    /// Whether the output holds a sum to go on with.
    read: bool,
    bias: Option<*const f32>,
    relu: bool,
}

impl Microkernel<'_> {
    /// All rows, as many at a time as fill the registers.
    ///
    /// # Safety
    /// `values` must be valid for reading the block's inner indices of all rows, `panel` for `n_inner` lines of `VECTORS`
    /// vectors (one behind the other, or if `LISTED` the existing columns at each of as many `lines`), `bias` for one line, `out` for writing (and reading if `self.read`) the panel's columns at all places.
    /// The CPU must have the instructions of `V`.
    #[inline(always)]
    unsafe fn rows<V: Vector, const ROWS: usize, const VECTORS: usize, const LISTED: bool>(&self) {
        let n_rows = self.starts.rows();
        let mut row = 0;
        // SAFETY: the contract; `row` and the following rows are below `n_rows`.
        unsafe {
            while row + ROWS <= n_rows {
                self.run::<V, ROWS, VECTORS, LISTED>(row);
                row += ROWS;
            }
            while row + 4 <= n_rows {
                self.run::<V, 4, VECTORS, LISTED>(row);
                row += 4;
            }
            if row + 2 <= n_rows {
                self.run::<V, 2, VECTORS, LISTED>(row);
                row += 2;
            }
            if row < n_rows {
                self.run::<V, 1, VECTORS, LISTED>(row);
            }
        }
    }

    /// `ROWS` rows from `row` on: the sums stay in registers, as every index is a constant once the loops are unrolled.
    ///
    /// # Safety
    /// As [`Microkernel::rows`], and the rows must exist.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant indices keep the sums in registers")]
    unsafe fn run<V: Vector, const ROWS: usize, const VECTORS: usize, const LISTED: bool>(&self, row: usize) {
        // SAFETY: reads and writes of the elements named in the contract.
        unsafe {
            let mut rows = [self.values; ROWS];
            for idx in 0..ROWS {
                rows[idx] = self.values.add(self.starts.of(row + idx));
            }
            let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
            let (mut panel, mut offset) = (self.panel, 0);
            for k in 0..self.n_inner {
                let mut line = [V::splat(0.0); VECTORS];
                if LISTED {
                    panel = self.panel.add(*self.lines.add(k));
                }
                for vector in 0..VECTORS {
                    let place = panel.add(vector * V::LANES);
                    let is_whole = !LISTED || vector + 1 < VECTORS || self.last_lanes == V::LANES;
                    line[vector] = if is_whole { V::load(place) } else { V::load_partial(place, self.last_lanes) };
                }
                for row in 0..ROWS {
                    let value = V::splat(*rows[row].add(offset));
                    for vector in 0..VECTORS {
                        sums[row][vector] = V::multiply_add(value, line[vector], sums[row][vector]);
                    }
                }
                if !LISTED {
                    panel = panel.add(VECTORS * V::LANES);
                }
                offset += self.inner_step;
            }
            let is_whole = self.last_lanes == V::LANES;
            match (is_whole, self.read, self.bias, self.relu) {
                (true, false, None, false) => self.store_rows(&sums, row, |sum, _, _| sum),
                (true, true, None, false) => self.store_rows(&sums, row, |sum, place, _| V::add(sum, V::load(place))),
                (true, false, Some(bias), true) => {
                    self.store_rows(&sums, row, |sum, _, at| V::relu(V::add(sum, V::load(bias.add(at)))))
                }
                (true, true, Some(bias), true) => self.store_rows(&sums, row, |sum, place, at| {
                    V::relu(V::add(V::add(sum, V::load(place)), V::load(bias.add(at))))
                }),
                (true, true, Some(bias), false) => self.store_rows(&sums, row, |sum, place, at| {
                    V::add(V::add(sum, V::load(place)), V::load(bias.add(at)))
                }),
                _ => {
                    let mut buffer = MaybeUninit::<[f32; MOST_SUMS]>::uninit();
                    let buffer = buffer.as_mut_ptr().cast::<f32>();
                    for idx in 0..ROWS {
                        for vector in 0..VECTORS {
                            V::store(sums[idx][vector], buffer.add((idx * VECTORS + vector) * V::LANES));
                        }
                    }
                    for idx in 0..ROWS {
                        let line = self.out.add(self.places.of(row + idx));
                        self.finish::<V, VECTORS>(buffer.add(idx * VECTORS * V::LANES), line);
                    }
                }
            }
        }
    }

    /// Stores whole vectors, finished by `finish` of the sum, its place and the vector's first column: loops so short that they
    /// are unrolled, as one that is not would keep the sums in memory all along.
    ///
    /// # Safety
    /// As [`Microkernel::rows`], and the rows must exist.
    #[inline(always)]
    unsafe fn store_rows<V: Vector, const ROWS: usize, const VECTORS: usize>(
        &self,
        sums: &[[V; VECTORS]; ROWS],
        row: usize,
        finish: impl Fn(V, *const f32, usize) -> V,
    ) {
        for (idx, sums) in sums.iter().enumerate() {
            for (vector, &sum) in sums.iter().enumerate() {
                let at = vector * V::LANES;
                // SAFETY: an existing place of the contract.
                unsafe {
                    let place = self.out.add(self.places.of(row + idx) + at);
                    V::store(finish(sum, place, at), place);
                }
            }
        }
    }

    /// Stores one line, finished.
    ///
    /// # Safety
    /// `sums` must be valid for reading `VECTORS` vectors, `line` for writing (and reading if `self.read`) the panel's
    /// columns, else as [`Microkernel::rows`].
    #[inline(always)]
    unsafe fn finish<V: Vector, const VECTORS: usize>(&self, sums: *const f32, line: *mut f32) {
        // SAFETY: the contract.
        unsafe {
            for vector in 0..VECTORS {
                let mut sum = V::load(sums.add(vector * V::LANES));
                let place = line.add(vector * V::LANES);
                let is_whole = vector + 1 < VECTORS || self.last_lanes == V::LANES;
                if self.read {
                    let before = if is_whole { V::load(place) } else { V::load_partial(place, self.last_lanes) };
                    sum = V::add(sum, before);
                }
                if let Some(bias) = self.bias {
                    sum = V::add(sum, V::load(bias.add(vector * V::LANES)));
                }
                if self.relu {
                    sum = V::relu(sum);
                }
                if is_whole { V::store(sum, place) } else { V::store_partial(sum, place, self.last_lanes) }
            }
        }
    }
}

/// Appends the `WIDTH` values from each place on: without a call to copy memory for every few values.
fn extend_lines<const WIDTH: usize>(
    values: &mut Vec<f32>,
    source: &[f32],
    lines: usize,
    place: impl Fn(usize) -> usize,
) {
    for line in 0..lines {
        let line: &[f32; WIDTH] = source[place(line)..].first_chunk().expect("a source of all columns");
        values.extend_from_slice(line);
    }
}

/// First column and width of each panel: three vectors, and no single one unless there is no other.
fn panel_columns(columns: usize, lanes: usize) -> impl Iterator<Item = (usize, usize)> {
    let n_vectors = columns.div_ceil(lanes);
    let mut done = 0;
    std::iter::from_fn(move || {
        let width = match n_vectors - done {
            0 => return None,
            4 => 2,
            left => left.min(3),
        };
        let first = done * lanes;
        done += width;
        Some((first, width * lanes))
    })
}

fn lanes(isa: InstructionSet) -> usize {
    match isa {
        InstructionSet::Avx512 => 16,
        InstructionSet::Avx2 => 8,
        InstructionSet::Baseline => 4,
    }
}

/// Values in the registers of any instruction set's largest block: eight lines of three vectors of 16.
const MOST_SUMS: usize = 8 * 3 * 16;

/// RhsRows of a panel that are packed at a time: they stay in the first-level cache.
const PACKED_LINES: usize = 64;

/// Inner indices of a panel that are used for all rows before the next ones: so much of it stays in the first-level cache.
const INNER_BLOCK: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::filled;
    use crate::reference::{assert_near, noise};

    #[test]
    fn products_follow_their_definition() {
        for isa in InstructionSet::available() {
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
                let name = format!("{isa:?}, {rows} x {inner} x {columns}");
                let panels = Panels::pack(isa, [inner, columns], &b, |k| k * columns, 1);
                let first = LhsRows::dense(&a, inner);
                let multiply = |finish| {
                    // SAFETY: `multiply` writes all of its output.
                    unsafe { filled(rows * columns, |out| panels.multiply(first, finish, out)) }
                };
                assert_near(&name, &multiply(Epilogue::NONE), &expected);
                let finished = multiply(Epilogue { bias: Some(&panels.padded(&bias)), relu: true });
                let with_bias = expected.iter().enumerate().map(|(idx, sum)| sum + f64::from(bias[idx % columns]));
                assert_near(&name, &finished, &with_bias.map(|sum| sum.max(0.0)).collect::<Vec<f64>>());

                let transposed: Vec<f32> = (0..rows * inner).map(|idx| a[idx % rows * inner + idx / rows]).collect();
                let first = LhsRows::transposed(&transposed, rows);
                let transposed: Vec<f32> =
                    (0..inner * columns).map(|idx| b[idx % inner * columns + idx / inner]).collect();
                let panels = Panels::pack(isa, [inner, columns], &transposed, |k| k, inner);
                let mut sum = vec![1.0; rows * columns];
                panels.multiply_and_add(first, Epilogue::NONE, &mut sum);
                let and_one: Vec<f64> = expected.iter().map(|value| value + 1.0).collect();
                assert_near(&name, &sum, &and_one);

                // In one run, and in two halves.
                let starts: Vec<usize> = (0..inner).map(|k| k * columns).collect();
                let halves = [(columns, vec![0]), (columns / 2, vec![0, columns / 2])];
                for (run, runs) in halves.into_iter().filter(|(run, runs)| run * runs.len() == columns) {
                    let mut sum = vec![1.0; rows * columns];
                    let lines = RhsRows { values: &b, starts: &starts, run, runs: &runs };
                    multiply_unpacked_and_add(isa, first, lines, &mut sum);
                    assert_near(&name, &sum, &and_one);
                }
            }
        }
    }
}
