//! Attention of several heads, whose factors are read where they lie: in the output of one linear layer or of three.
//!
//! The scores of a head are never stored whole: some rows of them at a time are computed, exponentiated and multiplied with the values.
//!
//! ```text
//! many queries: rows of Q * K^T, [rows, keys]       few queries: K * Q^T, [keys, 16], so that neither K nor V is packed
//! ```

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::buffer::{Scratch, filled};
use crate::instruction_set::InstructionSet;
use crate::matrix::{Epilogue, LhsRows, Panels, RhsRows, RowElements, RowStarts, multiply_unpacked_and_add};
use crate::softmax::{COLUMNS_AT_ONCE, exp_columns, exp_rows};

mod gradient;

pub use gradient::backward;

/// Sizes of an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Windows, or prompts.
    pub batch: usize,
    /// Heads.
    pub heads: usize,
    /// Rows that ask.
    pub queries: usize,
    /// Rows that are looked at.
    pub keys: usize,
    /// Values of a query and of a key, in one head.
    pub width: usize,
    /// Values of a row that is summed, in one head.
    pub value_width: usize,
}

/// Queries, keys or values: those of a head are neighbours.
#[derive(Debug, Clone, Copy)]
pub struct HeadRows<'a> {
    /// What they lie in.
    pub values: &'a [f32],
    /// Where the first value of the first is.
    pub start: usize,
    /// From one of the batch to the next; 0 where all have the same.
    pub batch_stride: usize,
    /// From one row to the next.
    pub row_stride: usize,
    /// From one head to the next.
    pub head_stride: usize,
}

/// `softmax(scale * Q K^T + bias) V` of each head: `[batch, queries, heads * value_width]`. `bias` is `[heads, queries, keys]`, or empty.
///
/// # Source
/// Vaswani et al. 2017, "Attention Is All You Need", equation 1.
///
/// # Panics
/// If a factor has not the rows of the shape.
pub fn attention(shape: &AttentionShape, [queries, keys, values]: [HeadRows; 3], scale: f32, bias: &[f32]) -> Vec<f32> {
    let isa = InstructionSet::detect();
    let AttentionShape { batch, heads, queries: n_queries, keys: n_keys, .. } = *shape;
    assert!(batch * heads * n_queries * n_keys > 0, "attention: an empty factor, {shape:?}");
    queries.check("queries", shape, n_queries, shape.width);
    keys.check("keys", shape, n_keys, shape.width);
    values.check("values", shape, n_keys, shape.value_width);
    assert!(bias.is_empty() || bias.len() == heads * n_queries * n_keys, "attention: bias, {shape:?}");
    let attention = Attention { isa, shape: *shape, queries, keys, values, scale, bias };
    if n_queries <= COLUMNS_AT_ONCE && n_keys >= MIN_KEYS_OF_FEW_QUERIES && bias.is_empty() {
        return attention.of_few_queries();
    }
    let row_len = heads * shape.value_width;
    let blocks = (2 * rayon::current_num_threads()).div_ceil(batch);
    let block = n_queries.div_ceil(blocks).next_multiple_of(8);
    let run = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_mut(n_queries * row_len).enumerate().for_each(|(idx, out)| {
            out.par_chunks_mut(block * row_len).enumerate().for_each_init(
                || Buffers::new(isa),
                |buffers, (block_idx, out)| attention.rows(idx, block_idx * block, buffers, out),
            );
        });
    };
    // SAFETY: the blocks cover the output, and `rows` writes all heads of each row.
    unsafe { filled(batch * n_queries * row_len, run) }
}

struct Attention<'a> {
    isa: InstructionSet,
    shape: AttentionShape,
    queries: HeadRows<'a>,
    keys: HeadRows<'a>,
    values: HeadRows<'a>,
    scale: f32,
    bias: &'a [f32],
}

/// What a thread reuses.
struct Buffers {
    keys: Panels,
    values: Panels,
    scores: Scratch,
    inverse_sums: Vec<f32>,
    out_starts: Vec<usize>,
}

impl Buffers {
    fn new(isa: InstructionSet) -> Self {
        let (keys, values) = (Panels::empty(isa), Panels::empty(isa));
        Self { keys, values, scores: Scratch::default(), inverse_sums: vec![], out_starts: vec![] }
    }
}

impl Attention<'_> {
    /// Some rows of one of the batch, from `first` on: all values of `out`.
    fn rows(&self, batch_idx: usize, first: usize, buffers: &mut Buffers, out: &mut [MaybeUninit<f32>]) {
        let AttentionShape { heads, queries: n_queries, keys: n_keys, width, value_width, .. } = self.shape;
        let row_len = heads * value_width;
        let n_rows = out.len() / row_len;
        let tile = (SCORES_AT_ONCE / n_keys).clamp(8, 256);
        for head in 0..heads {
            let (keys, values) = (self.keys.head(batch_idx, head), self.values.head(batch_idx, head));
            buffers.keys.repack_transposed(keys, [width, n_keys], n_keys, self.keys.row_stride);
            let starts = RowStarts::Strided { rows: n_keys, stride: self.values.row_stride };
            buffers.values.repack(values, starts, value_width, &[0]);
            for start in (0..n_rows).step_by(tile) {
                let rows = tile.min(n_rows - start);
                let from = (first + start) * self.queries.row_stride;
                let queries = LhsRows {
                    values: &self.queries.head(batch_idx, head)[from..],
                    starts: RowStarts::Strided { rows, stride: self.queries.row_stride },
                    elements: RowElements::Strided { stride: 1 },
                };
                let multiply = |out: &mut [MaybeUninit<f32>]| buffers.keys.multiply(queries, Epilogue::NONE, out);
                // SAFETY: `multiply` writes all of its output.
                let scores = unsafe { buffers.scores.filled(rows * n_keys, multiply) };
                let bias = match self.bias {
                    [] => &[],
                    bias => &bias[(head * n_queries + first + start) * n_keys..][..rows * n_keys],
                };
                buffers.inverse_sums.resize(rows, 0.0);
                exp_rows(self.isa, scores, n_keys, self.scale, bias, &mut buffers.inverse_sums);
                buffers.out_starts.clear();
                buffers.out_starts.extend((start..start + rows).map(|row| row * row_len + head * value_width));
                let scores = LhsRows::dense(scores, n_keys);
                buffers.values.multiply_scattered(scores, Epilogue::NONE, out, &buffers.out_starts);
                for (out_start, inverse_sum) in buffers.out_starts.iter().zip(&buffers.inverse_sums) {
                    for value in &mut out[*out_start..][..value_width] {
                        // SAFETY: `multiply_scattered` has just written it.
                        let sum = unsafe { value.assume_init() };
                        value.write(sum * inverse_sum);
                    }
                }
            }
        }
    }

    /// The whole, of at most [`COLUMNS_AT_ONCE`] queries.
    fn of_few_queries(&self) -> Vec<f32> {
        let AttentionShape { batch, heads, queries: n_queries, value_width, .. } = self.shape;
        let units: Vec<Vec<f32>> = (0..batch * heads)
            .into_par_iter()
            .map_init(|| Buffers::new(self.isa), |buffers, unit| self.few_queries(unit / heads, unit % heads, buffers))
            .collect();
        let mut out = Vec::with_capacity(batch * heads * n_queries * value_width);
        for heads in units.chunks_exact(heads) {
            for query in 0..n_queries {
                heads.iter().for_each(|head| out.extend_from_slice(&head[query * value_width..][..value_width]));
            }
        }
        out
    }

    /// One head of one of the batch, `[queries, value_width]`.
    fn few_queries(&self, batch_idx: usize, head: usize, buffers: &mut Buffers) -> Vec<f32> {
        let AttentionShape { queries: n_queries, keys: n_keys, width, value_width, .. } = self.shape;
        let queries = self.queries.head(batch_idx, head);
        buffers.keys.repack_transposed(queries, [width, COLUMNS_AT_ONCE], n_queries, self.queries.row_stride);
        let keys = LhsRows {
            values: self.keys.head(batch_idx, head),
            starts: RowStarts::Strided { rows: n_keys, stride: self.keys.row_stride },
            elements: RowElements::Strided { stride: 1 },
        };
        let multiply = |out: &mut [MaybeUninit<f32>]| buffers.keys.multiply(keys, Epilogue::NONE, out);
        // SAFETY: `multiply` writes all of its output.
        let scores = unsafe { buffers.scores.filled(n_keys * COLUMNS_AT_ONCE, multiply) };
        let mut inverse_sums = [0.0; COLUMNS_AT_ONCE];
        exp_columns(self.isa, scores, self.scale, &mut inverse_sums);
        let shares = LhsRows {
            values: scores,
            starts: RowStarts::Strided { rows: n_queries, stride: 1 },
            elements: RowElements::Strided { stride: COLUMNS_AT_ONCE },
        };
        buffers.out_starts.clear();
        buffers.out_starts.extend((0..n_keys).map(|key| key * self.values.row_stride));
        let values = RhsRows {
            values: self.values.head(batch_idx, head),
            starts: &buffers.out_starts,
            run_len: value_width,
            run_offsets: &[0],
        };
        let mut out = vec![0.0; n_queries * value_width];
        multiply_unpacked_and_add(self.isa, shares, values, &mut out);
        for (row, inverse_sum) in out.chunks_exact_mut(value_width).zip(inverse_sums) {
            row.iter_mut().for_each(|value| *value *= inverse_sum);
        }
        out
    }
}

impl<'a> HeadRows<'a> {
    /// From the first value of one head of one of the batch on.
    fn head(&self, batch_idx: usize, head: usize) -> &'a [f32] {
        &self.values[self.start + batch_idx * self.batch_stride + head * self.head_stride..]
    }

    fn check(&self, name: &str, shape: &AttentionShape, rows: usize, width: usize) {
        let (batch, heads) = (shape.batch - 1, shape.heads - 1);
        let last = self.start + batch * self.batch_stride + heads * self.head_stride + (rows - 1) * self.row_stride;
        assert!(width > 0 && last + width <= self.values.len(), "attention: {name}, {shape:?}");
    }
}

/// Scores of a tile of rows: they stay in a second-level cache.
const SCORES_AT_ONCE: usize = 32_768;

/// Below it, packing keys and values costs little.
const MIN_KEYS_OF_FEW_QUERIES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{assert_near, noise};

    fn check(shape: AttentionShape, has_bias: bool, shared_keys: bool) {
        let AttentionShape { batch, heads, queries, keys, width, value_width } = shape;
        // Queries and keys of one layer, interleaved by head; values of another.
        let rows = queries.max(keys);
        let fused = noise(batch * rows * heads * 2 * width, 1);
        let of = |start| HeadRows {
            values: &fused,
            start,
            batch_stride: rows * heads * 2 * width,
            row_stride: heads * 2 * width,
            head_stride: 2 * width,
        };
        let (q, mut k) = (of(0), of(width));
        let v_values = noise(batch * keys * heads * value_width, 2);
        let mut v = HeadRows {
            values: &v_values,
            start: 0,
            batch_stride: keys * heads * value_width,
            row_stride: heads * value_width,
            head_stride: value_width,
        };
        if shared_keys {
            (k.batch_stride, v.batch_stride) = (0, 0);
        }
        let bias = if has_bias { noise(heads * queries * keys, 3) } else { vec![] };
        let at = |rows: &HeadRows, b: usize, head: usize, row: usize, idx: usize| {
            let place = rows.start + b * rows.batch_stride + row * rows.row_stride + head * rows.head_stride + idx;
            f64::from(rows.values[place])
        };
        let mut expected = vec![];
        for (b, query) in (0..batch).flat_map(|b| (0..queries).map(move |query| (b, query))) {
            for head in 0..heads {
                let logit = |key: usize| {
                    let product: f64 = (0..width).map(|d| at(&q, b, head, query, d) * at(&k, b, head, key, d)).sum();
                    let bias = bias.get((head * queries + query) * keys + key).copied().unwrap_or(0.0);
                    product * 0.7 + f64::from(bias)
                };
                let shares: Vec<f64> = (0..keys).map(|key| logit(key).exp()).collect();
                let sum: f64 = shares.iter().sum();
                expected.extend((0..value_width).map(|d| {
                    shares.iter().enumerate().map(|(key, share)| share / sum * at(&v, b, head, key, d)).sum::<f64>()
                }));
            }
        }
        assert_near(&format!("{shape:?}"), &attention(&shape, [q, k, v], 0.7, &bias), &expected);
    }

    #[test]
    fn attention_follows_its_definition() {
        let shape = |batch, heads, queries, keys, width, value_width| AttentionShape {
            batch,
            heads,
            queries,
            keys,
            width,
            value_width,
        };
        check(shape(3, 2, 49, 49, 32, 32), true, false);
        check(shape(1, 5, 196, 196, 8, 8), true, false);
        check(shape(2, 3, 7, 7, 16, 4), false, false);
        check(shape(2, 8, 7, 300, 16, 16), false, true);
        check(shape(2, 8, 16, 64, 16, 5), false, false);
        check(shape(2, 2, 17, 70, 16, 16), false, true);
        check(shape(2, 8, 300, 7, 16, 16), false, false);
        check(shape(1, 1, 1, 1, 1, 1), true, false);
    }
}
