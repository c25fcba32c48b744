//! Gradient of a convolution's weight: the transposed gradient of the output times the patches of the input,
//! `dW[out, k] = sum over pixels p of g[p, out] * patch[p, k]`.
//!
//! Each task sums its pixels in a gradient of its own; these are added in order.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::ConvShape;
use crate::buffer::{Scratch, filled};
use crate::instruction_set::InstructionSet;
use crate::matrix::{Epilogue, LhsRows, Panels, RhsRows, RowStarts, multiply_unpacked_and_add};
use crate::tiling::{MIN_ROWS_PER_TASK, WEIGHT_TILE_ROWS, chunk_len, sum_in_order};

/// Gradient of the weight, `[out, in, kernel, kernel]`.
///
/// # Panics
/// If a length is not that of `shape`.
pub fn backward_weight(shape: &ConvShape, input: &[f32], grad_output: &[f32]) -> Vec<f32> {
    shape.check(Some(input), None, Some(grad_output));
    let sums = if shape.is_pointwise() {
        pixel_sums(shape, input, grad_output)
    } else {
        patch_sums(shape, input, grad_output)
    };
    in_weight_order(shape, sum_in_order(sums))
}

/// The sums of each task of a 1x1 convolution, `[out, in]`.
fn pixel_sums(shape: &ConvShape, input: &[f32], grad_output: &[f32]) -> Vec<Vec<f32>> {
    let (ins, outs) = (shape.in_channels, shape.out_channels);
    let chunk = chunk_len(shape.out_pixels(), 1, MIN_ROWS_PER_TASK);
    let chunks = grad_output.par_chunks(chunk * outs).zip(input.par_chunks(chunk * ins));
    let sums = chunks.map(|(grads, input)| {
        let mut gradient = WeightGradient::new(InstructionSet::detect(), outs);
        let mut sum = vec![0.0; outs * ins];
        let tiles = grads.chunks(WEIGHT_TILE_ROWS * outs).zip(input.chunks(WEIGHT_TILE_ROWS * ins));
        for (grads, input) in tiles {
            gradient.add_pixels(grads, input, &mut sum);
        }
        sum
    });
    sums.collect()
}

/// The sums of each task, `[out, taps * in]`.
fn patch_sums(shape: &ConvShape, input: &[f32], grad_output: &[f32]) -> Vec<Vec<f32>> {
    let (outs, columns) = (shape.out_channels, shape.kernel * shape.kernel * shape.in_channels);
    let taps = shape.forward_taps();
    let grid = shape.forward_grid(&taps);
    let (run_len, run_offsets) = grid.runs(&taps);
    let tiles = grid.tiles(shape.batch);
    let image_len = shape.out_height() * shape.out_width() * outs;
    let sums = tiles.par_chunks(chunk_len(tiles.len(), 1, 1)).map(|tiles| {
        let mut gradient = WeightGradient::new(InstructionSet::detect(), outs);
        let (mut sum, mut scratch) = (vec![0.0; outs * columns], Scratch::default());
        for tile in tiles {
            let (values, starts) = grid.padded_copy(input, tile, &mut scratch);
            let first = tile.images.start * image_len + tile.rows.start * shape.out_width() * outs;
            let grads = &grad_output[first..][..starts.len() * outs];
            let patches = RhsRows { values, starts: &starts, run_len, run_offsets: &run_offsets };
            gradient.add(grads, patches, &mut sum);
        }
        sum
    });
    sums.collect()
}

/// `[out, taps, in]` to the weight's order, `[out, in, taps]`.
fn in_weight_order(shape: &ConvShape, sum: Vec<f32>) -> Vec<f32> {
    let (ins, taps) = (shape.in_channels, shape.kernel * shape.kernel);
    if taps == 1 {
        return sum;
    }
    let columns = taps * ins;
    let run = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_mut(columns).zip(sum.par_chunks(columns)).for_each(|(out, sum)| {
            for (input, out) in out.chunks_exact_mut(taps).enumerate() {
                out.iter_mut().enumerate().for_each(|(tap, out)| {
                    out.write(sum[tap * ins + input]);
                });
            }
        });
    };
    // SAFETY: an output channel has `ins` chunks of all taps, every one of which is written.
    unsafe { filled(shape.weight_len(), run) }
}

/// Products that sum up to a weight's gradient, with the memory that they reuse.
pub(crate) struct WeightGradient {
    outs: usize,
    isa: InstructionSet,
    panels: Panels,
    /// Where the pixels of a dense tile start.
    starts: Vec<usize>,
}

impl WeightGradient {
    pub(crate) fn new(isa: InstructionSet, outs: usize) -> Self {
        Self { outs, isa, panels: Panels::empty(isa), starts: vec![] }
    }

    /// Adds the transpose of `grads`, `[pixels, out]`, times `patches`, `[pixels, columns]`, to `sum`, `[out, columns]`.
    pub(crate) fn add(&mut self, grads: &[f32], patches: RhsRows, sum: &mut [f32]) {
        let lhs = LhsRows::transposed(grads, self.outs);
        if self.outs <= MAX_UNPACKED_OUTS {
            return multiply_unpacked_and_add(self.isa, lhs, patches, sum);
        }
        self.panels.repack(patches.values, RowStarts::Listed(patches.starts), patches.run_len, patches.run_offsets);
        self.panels.multiply_and_add(lhs, Epilogue::NONE, sum);
    }

    /// [`WeightGradient::add`] of a 1x1 convolution: the patches are the pixels of `input`, `[pixels, in]`.
    pub(crate) fn add_pixels(&mut self, grads: &[f32], input: &[f32], sum: &mut [f32]) {
        let (outs, pixels) = (self.outs, grads.len() / self.outs);
        let ins = input.len() / pixels;
        let is_transposed = ins < FEW_COLUMNS && outs > ins;
        let stride = if is_transposed { outs } else { ins };
        let mut starts = std::mem::take(&mut self.starts);
        starts.clear();
        starts.extend((0..pixels).map(|pixel| pixel * stride));
        if is_transposed {
            // `[in, out]`, so that vectors are full.
            let mut transposed = vec![0.0; ins * outs];
            let rhs = RhsRows { values: grads, starts: &starts, run_len: outs, run_offsets: &[0] };
            multiply_unpacked_and_add(self.isa, LhsRows::transposed(input, ins), rhs, &mut transposed);
            sum.iter_mut().enumerate().for_each(|(idx, sum)| *sum += transposed[idx % ins * outs + idx / ins]);
        } else {
            self.add(grads, RhsRows { values: input, starts: &starts, run_len: ins, run_offsets: &[0] }, sum);
        }
        self.starts = starts;
    }
}

/// Columns that leave vectors of some instruction set mostly empty.
const FEW_COLUMNS: usize = 8;
/// Largest number of output channels for which packing the patches does not pay.
const MAX_UNPACKED_OUTS: usize = 128;
