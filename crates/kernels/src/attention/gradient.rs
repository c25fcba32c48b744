//! Gradients of an attention's three factors.
//!
//! With shares `P = softmax(scale * Q K^T)`, the output `P V` and its gradient `G`, and `sum` over the keys of a query:
//!
//! ```text
//! dV = P^T G     dP = G V^T     dS = scale * P * (dP - sum(P * dP))     dQ = dS K     dK = dS^T Q
//! ```
//!
//! Shares are recomputed some rows at a time, so that nothing of the size of all scores is saved between the two passes.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::{AttentionShape, HeadRows};
use crate::buffer::Scratch;
use crate::instruction_set::{InstructionSet, for_each_instruction_set, multiply_add};
use crate::lanes::load_lanes;
use crate::matrix::{Epilogue, LhsRows, Panels, RowElements, RowStarts};
use crate::softmax::exp_rows;
use crate::tiling::{MIN_ROWS_PER_TASK, TASKS_PER_THREAD, chunk_len};

/// Gradients of queries, keys and values of [`attention`](super::attention) without a bias, from the gradient of its output.
///
/// Each lies as its factor does: `[batch, rows, row_stride]`, 0 where the factor was not read. A factor that all of the batch share has one
/// gradient, the sum over the batch.
///
/// # Panics
/// If a factor or the gradient has not the rows of the shape, or a factor's heads reach beyond its rows.
pub fn backward(shape: &AttentionShape, factors: [HeadRows; 3], scale: f32, grad_output: &[f32]) -> [Vec<f32>; 3] {
    let AttentionShape { batch, heads, queries: n_queries, keys: n_keys, width, value_width } = *shape;
    let row_stride = heads * value_width;
    assert_eq!(grad_output.len(), batch * n_queries * row_stride, "attention: output gradient, {shape:?}");
    let [queries, keys, values] = factors;
    let sizes = [("queries", n_queries, width), ("keys", n_keys, width), ("values", n_keys, value_width)];
    for (factor, (name, rows, width)) in factors.iter().zip(sizes) {
        factor.check(name, shape, rows, width);
        assert!(factor.start + (heads - 1) * factor.head_stride + width <= factor.row_stride, "attention: {name}");
    }
    let batch_stride = n_queries * row_stride;
    let grads = HeadRows { values: grad_output, start: 0, batch_stride, row_stride, head_stride: value_width };
    let isa = InstructionSet::detect();
    let gradient = Gradient { isa, shape: *shape, queries, keys, values, grads, scale };
    let of_heads: Vec<[Vec<f32>; 3]> = (0..batch * heads)
        .into_par_iter()
        .map_init(|| Buffers::new(isa), |buffers, unit| gradient.of_head(unit / heads, unit % heads, buffers))
        .collect();
    std::array::from_fn(|idx| {
        let (_, rows, width) = sizes[idx];
        laid_out(shape, &of_heads, idx, &factors[idx], [rows, width])
    })
}

struct Gradient<'a> {
    isa: InstructionSet,
    shape: AttentionShape,
    queries: HeadRows<'a>,
    keys: HeadRows<'a>,
    values: HeadRows<'a>,
    /// Of the output.
    grads: HeadRows<'a>,
    scale: f32,
}

/// What a thread reuses.
struct Buffers {
    keys_transposed: Panels,
    values_transposed: Panels,
    keys: Panels,
    /// Of a tile: queries, then gradients of the output.
    rows: Panels,
    shares: Scratch,
    grad_scores: Scratch,
    inverse_sums: Vec<f32>,
}

impl Buffers {
    fn new(isa: InstructionSet) -> Self {
        let empty = || Panels::empty(isa);
        let (shares, grad_scores) = (Scratch::default(), Scratch::default());
        let (keys_transposed, values_transposed, keys, rows) = (empty(), empty(), empty(), empty());
        Self { keys_transposed, values_transposed, keys, rows, shares, grad_scores, inverse_sums: vec![] }
    }
}

impl Gradient<'_> {
    /// Of the factors of one head of one of the batch, each `[rows, width]`.
    fn of_head(&self, batch_idx: usize, head: usize, buffers: &mut Buffers) -> [Vec<f32>; 3] {
        let AttentionShape { queries: n_queries, keys: n_keys, width, value_width, .. } = self.shape;
        let (keys, values) = (self.keys.head(batch_idx, head), self.values.head(batch_idx, head));
        buffers.keys_transposed.repack_transposed(keys, [width, n_keys], n_keys, self.keys.row_stride);
        buffers.values_transposed.repack_transposed(values, [value_width, n_keys], n_keys, self.values.row_stride);
        buffers.keys.repack(keys, RowStarts::Strided { rows: n_keys, stride: self.keys.row_stride }, width, &[0]);
        let mut grad_queries = vec![0.0; n_queries * width];
        let (mut grad_keys, mut grad_values) = (vec![0.0; n_keys * width], vec![0.0; n_keys * value_width]);
        let tile = (SCORES_AT_ONCE / n_keys).clamp(MIN_TILE_ROWS, MAX_TILE_ROWS);
        for start in (0..n_queries).step_by(tile) {
            let rows = tile.min(n_queries - start);
            let (queries, grads) = (
                rows_from(&self.queries, batch_idx, head, start, rows),
                rows_from(&self.grads, batch_idx, head, start, rows),
            );
            let product = |panels: &Panels, rows: LhsRows, scratch: &mut Scratch| {
                let n_rows = rows.starts.n_rows();
                let multiply = |out: &mut [MaybeUninit<f32>]| panels.multiply(rows, Epilogue::NONE, out);
                // SAFETY: `multiply` writes all of its output.
                unsafe { scratch.filled(n_rows * n_keys, multiply) };
            };
            product(&buffers.keys_transposed, queries, &mut buffers.shares);
            product(&buffers.values_transposed, grads, &mut buffers.grad_scores);
            let (shares, grad_scores) = (buffers.shares.values_mut(), buffers.grad_scores.values_mut());
            buffers.inverse_sums.resize(rows, 0.0);
            exp_rows(self.isa, shares, n_keys, self.scale, &[], &mut buffers.inverse_sums);
            softmax_backward(self.isa, shares, grad_scores, n_keys, self.scale, &buffers.inverse_sums);
            let grad_rows = LhsRows::dense(grad_scores, n_keys);
            buffers.keys.multiply_and_add(
                grad_rows,
                Epilogue::NONE,
                &mut grad_queries[start * width..][..rows * width],
            );
            buffers.rows.repack(queries.values, queries.starts, width, &[0]);
            buffers.rows.multiply_and_add(LhsRows::transposed(grad_scores, n_keys), Epilogue::NONE, &mut grad_keys);
            buffers.rows.repack(grads.values, grads.starts, value_width, &[0]);
            buffers.rows.multiply_and_add(LhsRows::transposed(shares, n_keys), Epilogue::NONE, &mut grad_values);
        }
        [grad_queries, grad_keys, grad_values]
    }
}

/// Some rows of a head of one of the batch.
fn rows_from<'a>(factor: &HeadRows<'a>, batch_idx: usize, head: usize, start: usize, rows: usize) -> LhsRows<'a> {
    let values = &factor.head(batch_idx, head)[start * factor.row_stride..];
    let starts = RowStarts::Strided { rows, stride: factor.row_stride };
    LhsRows { values, starts, elements: RowElements::Strided { stride: 1 } }
}

/// The heads' gradients of one factor, `[rows, width]` each, where `factor` has its heads.
fn laid_out(
    shape: &AttentionShape,
    of_heads: &[[Vec<f32>; 3]],
    idx: usize,
    factor: &HeadRows,
    [n_rows, width]: [usize; 2],
) -> Vec<f32> {
    let AttentionShape { batch, heads, .. } = *shape;
    let (row_len, is_shared) = (factor.row_stride, factor.batch_stride == 0 && batch > 1);
    let images = if is_shared { 1 } else { batch };
    let mut out = vec![0.0f32; images * n_rows * row_len];
    let chunk = chunk_len(images * n_rows, TASKS_PER_THREAD, MIN_ROWS_PER_TASK);
    out.par_chunks_mut(chunk * row_len).enumerate().for_each(|(task, out)| {
        for (row, out) in out.chunks_exact_mut(row_len).enumerate() {
            let (image, row) = ((task * chunk + row) / n_rows, (task * chunk + row) % n_rows);
            let summed = if is_shared { 0..batch } else { image..image + 1 };
            for (head, batch_idx) in (0..heads).flat_map(|head| summed.clone().map(move |idx| (head, idx))) {
                let from = &of_heads[batch_idx * heads + head][idx][row * width..][..width];
                let to = &mut out[factor.start + head * factor.head_stride..][..width];
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            }
        }
    });
    out
}

for_each_instruction_set! {
    /// Rows of exponentials to shares, and of the shares' gradients to the scores'.
    fn softmax_backward(
        shares: &mut [f32],
        grads: &mut [f32],
        columns: usize,
        scale: f32,
        inverse_sums: &[f32],
    ) = softmax_backward_body
}

#[inline(always)]
fn softmax_backward_body<const FUSED: bool, const LANES: usize>(
    shares: &mut [f32],
    grads: &mut [f32],
    columns: usize,
    scale: f32,
    inverse_sums: &[f32],
) {
    let rows = shares.chunks_exact_mut(columns).zip(grads.chunks_exact_mut(columns)).zip(inverse_sums);
    for ((shares, grads), inverse_sum) in rows {
        shares.iter_mut().for_each(|share| *share *= inverse_sum);
        let n_blocks = columns / LANES;
        let mut sums = [0.0; LANES];
        for block in 0..n_blocks {
            let (share, grad) = (load_lanes::<LANES>(shares, block * LANES), load_lanes::<LANES>(grads, block * LANES));
            for lane in 0..LANES {
                sums[lane] = multiply_add::<FUSED>(share[lane], grad[lane], sums[lane]);
            }
        }
        let rest = shares[n_blocks * LANES..].iter().zip(&grads[n_blocks * LANES..]);
        let mean = rest.fold(sums.iter().sum::<f32>(), |sum, (share, grad)| sum + share * grad);
        shares.iter().zip(grads).for_each(|(share, grad)| *grad = scale * share * (*grad - mean));
    }
}

/// Scores of a tile of rows: they and their gradients stay in a second-level cache.
const SCORES_AT_ONCE: usize = 32_768;
/// As many as there are tokens of a prompt with some points, so that those are one tile.
const MIN_TILE_ROWS: usize = 16;
const MAX_TILE_ROWS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{assert_within, noise};

    /// By the definition, in double precision: queries, keys and values interleaved by head in one layer's output.
    fn check(shape: AttentionShape, shared_keys: bool) {
        let AttentionShape { batch, heads, queries, keys, width, value_width } = shape;
        let channels = heads * (2 * width + value_width) + 3;
        let rows = queries.max(keys);
        let fused = noise(batch * rows * channels, 1);
        let own = |start| HeadRows {
            values: &fused,
            start,
            batch_stride: rows * channels,
            row_stride: channels,
            head_stride: 2 * width + value_width,
        };
        let [q, mut k, mut v] = [own(1), own(1 + width), own(1 + 2 * width)];
        if shared_keys {
            (k.batch_stride, v.batch_stride) = (0, 0);
        }
        let grads = noise(batch * queries * heads * value_width, 2);
        let place = |of: &HeadRows, b: usize, head: usize, row: usize, idx: usize| {
            of.start + b * of.batch_stride + row * of.row_stride + head * of.head_stride + idx
        };
        let mut expected = [vec![0.0f64; fused.len()], vec![0.0; fused.len()], vec![0.0; fused.len()]];
        for (b, head) in (0..batch).flat_map(|b| (0..heads).map(move |head| (b, head))) {
            for query in 0..queries {
                let at = |of: &HeadRows, row: usize, idx: usize| f64::from(fused[place(of, b, head, row, idx)]);
                let grad = |d: usize| f64::from(grads[((b * queries + query) * heads + head) * value_width + d]);
                let logit = |key: usize| 0.7 * (0..width).map(|d| at(&q, query, d) * at(&k, key, d)).sum::<f64>();
                let exps: Vec<f64> = (0..keys).map(|key| logit(key).exp()).collect();
                let sum: f64 = exps.iter().sum();
                let of_share = |key: usize| (0..value_width).map(|d| grad(d) * at(&v, key, d)).sum::<f64>();
                let mean: f64 = (0..keys).map(|key| exps[key] / sum * of_share(key)).sum();
                for key in 0..keys {
                    let share = exps[key] / sum;
                    let of_score = 0.7 * share * (of_share(key) - mean);
                    for d in 0..width {
                        expected[0][place(&q, b, head, query, d)] += of_score * at(&k, key, d);
                        expected[1][place(&k, b, head, key, d)] += of_score * at(&q, query, d);
                    }
                    (0..value_width).for_each(|d| expected[2][place(&v, b, head, key, d)] += share * grad(d));
                }
            }
        }
        // Each gradient has its factor's rows alone.
        let n_rows = [queries, keys, keys];
        let found = backward(&shape, [q, k, v], 0.7, &grads);
        for (idx, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let images = if shared_keys && idx > 0 { 1 } else { batch };
            let of_image = |image: usize| expected[image * rows * channels..][..n_rows[idx] * channels].to_vec();
            let expected: Vec<f64> = (0..images).flat_map(of_image).collect();
            assert_within(5e-6, &format!("{shape:?}, factor {idx}"), found, &expected);
        }
    }

    #[test]
    fn gradients_follow_their_definition() {
        let shape = |batch, heads, queries, keys, width, value_width| AttentionShape {
            batch,
            heads,
            queries,
            keys,
            width,
            value_width,
        };
        check(shape(3, 2, 7, 7, 16, 16), false);
        check(shape(2, 3, 40, 5, 8, 4), true);
        check(shape(2, 2, 9, 300, 16, 16), true);
        check(shape(1, 2, 300, 130, 5, 7), false);
        check(shape(1, 1, 1, 1, 1, 1), false);
    }
}
