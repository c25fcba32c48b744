//! Matrix products `C = A · B`, by which every convolution that mixes channels is computed.
//!
//! Such a convolution is a product: a row of `A` is the patch of values that one output pixel reads, and `B` is the weight,
//! `[taps * in, out]`. Building `A` (im2col) would copy each value of the map once per tap. So `A` is read in place: a patch
//! is made of a few runs of neighbouring values, at the same offsets for every pixel. [`LhsRows`] lists where rows start and
//! where, from its start, a row's runs lie:
//!
//! ```text
//! 3x3 taps, C channels: three runs of 3 C values    padded map (implicit_im2col.rs)
//!
//!                                            starts[p] + offsets[0] -> . A A A . . .
//! row p of A:  A A A  B B B  C C C           starts[p] + offsets[1] -> . B B B . . .
//!                                            starts[p] + offsets[2] -> . C C C . . .
//! ```
//!
//! `B` is packed into panels of one to three vectors' width ([`Panels`]) once and then used for many rows. A block of rows
//! times one panel is summed in registers (`microkernel.rs`). Every element is summed in the order of the inner dimension,
//! so a result does not depend on how rows are split into tasks.

use crate::activation::{Activation, Limits};
use crate::instruction_set::InstructionSet;

mod microkernel;
mod panels;

pub(crate) use panels::Panels;

/// The first factor, `[rows, inner]`: element `(row, k)` is `values[start(row) + offset(k)]`.
#[derive(Clone, Copy)]
pub(crate) struct LhsRows<'a> {
    pub values: &'a [f32],
    pub starts: RowStarts<'a>,
    pub elements: RowElements<'a>,
}

/// Where rows start.
#[derive(Clone, Copy)]
pub(crate) enum RowStarts<'a> {
    /// `rows` of them, each `stride` behind the one before.
    Strided { rows: usize, stride: usize },
    /// One start per row.
    Listed(&'a [usize]),
}

/// Where the elements of a row are, from its start.
#[derive(Clone, Copy)]
pub(crate) enum RowElements<'a> {
    /// Each `stride` behind the one before.
    Strided { stride: usize },
    /// Runs of `len` neighbours, at these offsets.
    Runs { len: usize, offsets: &'a [usize] },
}

/// A second factor that is read in place, `[inner, columns]`: row `k` is made of runs of `run_len` neighbours, from
/// `values[starts[k] + run_offsets[i]]` on.
#[derive(Clone, Copy)]
pub(crate) struct RhsRows<'a> {
    pub values: &'a [f32],
    pub starts: &'a [usize],
    pub run_len: usize,
    pub run_offsets: &'a [usize],
}

/// What is done to a sum before it is stored.
#[derive(Clone, Copy)]
pub(crate) struct Epilogue<'a> {
    /// Added to each column; padded by [`Panels::padded`].
    pub bias: Option<&'a [f32]>,
    pub activation: Activation,
}

impl Epilogue<'_> {
    pub(crate) const NONE: Epilogue<'static> = Epilogue { bias: None, activation: Activation::None };

    /// The activation's, if there is one.
    fn limits(&self) -> Option<Limits> {
        (self.activation != Activation::None).then(|| self.activation.limits())
    }
}

impl<'a> LhsRows<'a> {
    /// A matrix `[rows, columns]`, row by row.
    pub(crate) fn dense(values: &'a [f32], columns: usize) -> Self {
        let starts = RowStarts::Strided { rows: values.len() / columns, stride: columns };
        Self { values, starts, elements: RowElements::Strided { stride: 1 } }
    }

    /// The transpose of a matrix `[inner, rows]`.
    pub(crate) fn transposed(values: &'a [f32], rows: usize) -> Self {
        let starts = RowStarts::Strided { rows, stride: 1 };
        Self { values, starts, elements: RowElements::Strided { stride: rows } }
    }

    /// Index of the furthest element that is read.
    fn max_index(&self, inner: usize) -> usize {
        let offset = match self.elements {
            RowElements::Strided { stride } => (inner - 1) * stride,
            RowElements::Runs { len, offsets } => {
                assert_eq!(len * offsets.len(), inner, "matrix product: runs and inner dimension");
                offsets.iter().max().expect("asserted: not empty") + len - 1
            }
        };
        self.starts.max_start() + offset
    }
}

impl RowStarts<'_> {
    pub(crate) fn n_rows(&self) -> usize {
        match self {
            RowStarts::Strided { rows, .. } => *rows,
            RowStarts::Listed(starts) => starts.len(),
        }
    }

    fn max_start(&self) -> usize {
        match self {
            RowStarts::Strided { rows, stride } => (rows - 1) * stride,
            RowStarts::Listed(starts) => *starts.iter().max().expect("asserted: not empty"),
        }
    }

    #[inline(always)]
    fn start(&self, row: usize) -> usize {
        match self {
            RowStarts::Strided { stride, .. } => row * stride,
            RowStarts::Listed(starts) => starts[row],
        }
    }
}

/// Adds `a * b` to `out`, `[rows, columns]`, without packing `b`; the elements of a row of `a` must be evenly spaced.
///
/// For few rows: packing `b` would then cost more than it saves.
pub(crate) fn multiply_unpacked_and_add(isa: InstructionSet, a: LhsRows, b: RhsRows, out: &mut [f32]) {
    let n_rows = a.starts.n_rows();
    assert_eq!(out.len(), n_rows * b.run_len * b.run_offsets.len(), "matrix product: output");
    assert!(n_rows > 0 && !b.starts.is_empty() && !out.is_empty(), "matrix product: an empty factor");
    assert!(a.max_index(b.starts.len()) < a.values.len(), "matrix product: first factor");
    let max = |starts: &[usize]| *starts.iter().max().expect("asserted: not empty");
    assert!(max(b.starts) + max(b.run_offsets) + b.run_len <= b.values.len(), "matrix product: second factor");
    // SAFETY: the extents of both factors and the output were asserted.
    unsafe { microkernel::multiply_unpacked(isa, a, b, out.as_mut_ptr()) }
}

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
                let lhs = LhsRows::dense(&a, inner);
                let multiply = |epilogue| {
                    // SAFETY: `multiply` writes all of its output.
                    unsafe { filled(rows * columns, |out| panels.multiply(lhs, epilogue, out)) }
                };
                assert_near(&name, &multiply(Epilogue::NONE), &expected);
                let padded = panels.padded(&bias);
                let with_bias = expected.iter().enumerate().map(|(idx, sum)| sum + f64::from(bias[idx % columns]));
                for (activation, high) in [(Activation::Relu, f64::INFINITY), (Activation::Relu6, 6.0)] {
                    let finished = multiply(Epilogue { bias: Some(&padded), activation });
                    let expected = with_bias.clone().map(|sum| sum.clamp(0.0, high));
                    assert_near(&name, &finished, &expected.collect::<Vec<f64>>());
                }

                let a_transposed: Vec<f32> = (0..rows * inner).map(|idx| a[idx % rows * inner + idx / rows]).collect();
                let lhs = LhsRows::transposed(&a_transposed, rows);
                let b_transposed: Vec<f32> =
                    (0..inner * columns).map(|idx| b[idx % inner * columns + idx / inner]).collect();
                let panels = Panels::pack(isa, [inner, columns], &b_transposed, |k| k, inner);
                let mut sum = vec![1.0; rows * columns];
                panels.multiply_and_add(lhs, Epilogue::NONE, &mut sum);
                let and_one: Vec<f64> = expected.iter().map(|value| value + 1.0).collect();
                assert_near(&name, &sum, &and_one);

                // In one run, and in two halves.
                let starts: Vec<usize> = (0..inner).map(|k| k * columns).collect();
                let halves = [(columns, vec![0]), (columns / 2, vec![0, columns / 2])];
                for (run_len, offsets) in halves.into_iter().filter(|(len, offsets)| len * offsets.len() == columns) {
                    let mut sum = vec![1.0; rows * columns];
                    let rhs = RhsRows { values: &b, starts: &starts, run_len, run_offsets: &offsets };
                    multiply_unpacked_and_add(isa, lhs, rhs, &mut sum);
                    assert_near(&name, &sum, &and_one);
                }
            }
        }
    }
}
