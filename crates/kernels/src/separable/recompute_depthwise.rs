//! The strategy for nearest upsampling: the depthwise output is recomputed in each of the three passes that read it.
//!
//! Its rows take four products per value from a map of a quarter of the size (`upsampled_depthwise.rs`). That is less than
//! what writing and reading the map would take, on either of the CPU's limits.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::depthwise_rows::input_ring;
use super::pointwise::{self, PointwiseBackward, PointwiseForward, PointwiseGradients, PointwiseTask};
use super::{Block, SavedForBackward, SeparableGradients, Skip};
use crate::buffer::{Scratch, as_uninit, filled};
use crate::depthwise::{DepthwiseShape, RowRing, RowSource};
use crate::norm::{ChannelMoments, ChannelStatistics, InputGradient, NormGradientSums};
use crate::tiling::{TASKS_PER_THREAD, WEIGHT_TILE_ROWS, fold_bands, map_bands, tile_rows};
use crate::upsampled_depthwise::{UpsampledTapGradients, UpsampledTranspose};

pub(super) fn forward(block: &Block) -> SavedForBackward<Vec<f32>> {
    let shape = block.shape;
    let DepthwiseShape { height, width, channels: ins, .. } = shape.depthwise;
    let outs = shape.out_channels;
    let statistics1 = depthwise_statistics(block);
    let forward = PointwiseForward::new(block, statistics1.as_slices());
    let (band, tile) = (shape.depthwise.band_rows(), shape.tile_image_rows(tile_rows(ins) / 2));
    let row_len = width * outs;
    let mut sums = vec![];
    let run = |out: &mut [MaybeUninit<f32>]| {
        let zeros = || forward.zeros();
        sums = fold_bands(height * row_len, band * row_len, TASKS_PER_THREAD, out, zeros, |sums, image, idx, out| {
            let first = idx * band;
            let mut rows = block.depthwise_rows(image, first);
            let (mut depthwise, mut scratch) = (Scratch::default(), Scratch::default());
            for (first, out) in (first..).step_by(tile).zip(out.chunks_mut(tile * row_len)) {
                let len = out.len() / outs * ins;
                // SAFETY: `write` writes all rows.
                let depthwise = unsafe { depthwise.filled(len, |out| rows.write(first, out, |_| {})) };
                forward.tile(depthwise, &mut scratch, sums, out);
            }
        });
    };
    // SAFETY: the rows of all images cover the output, and `tile` writes all of each.
    let pointwise = unsafe { filled(shape.output_len(), run) };
    let statistics2 = forward.statistics(sums, shape.out_pixels());
    SavedForBackward { depthwise: vec![], statistics1, pointwise, statistics2 }
}

pub(super) fn backward(
    block: &Block,
    skip: Option<Skip>,
    saved: &SavedForBackward<&[f32]>,
    grad_output: &[f32],
) -> SeparableGradients {
    let reduce1 = NormGradientSums::new(&block.weights.norm1, saved.statistics1);
    let (gradient2, norm2, skip) = pointwise::norm2_backward(block, skip, saved, grad_output);
    let backward = PointwiseBackward::new(block, saved, grad_output, &reduce1, &gradient2);
    let PointwiseGradients { grad, weight: pointwise, sums } = pointwise_backward(block, &backward);
    let (gradient1, norm1) = reduce1.gradients(&sums, grad.len());
    let (input, depthwise) = depthwise_backward(block, &grad, &gradient1);
    SeparableGradients { input, depthwise, norm1, pointwise, norm2, skip }
}

/// Statistics of the depthwise output, which exists a row at a time.
fn depthwise_statistics(block: &Block) -> ChannelStatistics<Vec<f32>> {
    let depthwise = &block.shape.depthwise;
    let moments = ChannelMoments::around(&block.first_depthwise_row()[..depthwise.channels]);
    let (band, row_len) = (depthwise.band_rows(), depthwise.out_row_len());
    let bands = depthwise.out_height().div_ceil(band);
    let tasks = (0..depthwise.batch * bands).into_par_iter().map(|idx| {
        let (image, first) = (idx / bands, idx % bands * band);
        let mut rows = block.depthwise_rows(image, first);
        let (mut row, mut sums) = (Scratch::default(), moments.groups.zeros());
        for y in first..(first + band).min(depthwise.out_height()) {
            // SAFETY: `write` writes the whole row.
            let row = unsafe { row.filled(row_len, |out| rows.write(y, out, |_| {})) };
            moments.add(block.isa, row, &mut sums);
        }
        sums
    });
    moments.statistics(&moments.groups.total(tasks.collect()), block.shape.out_pixels())
}

/// The gradient of the first activation's output, from recomputed rows of the depthwise output.
fn pointwise_backward(block: &Block, backward: &PointwiseBackward) -> PointwiseGradients {
    struct Task {
        pointwise: PointwiseTask,
        depthwise: Scratch,
    }
    let DepthwiseShape { height, width, channels: ins, .. } = block.shape.depthwise;
    let (band, tile) = (block.shape.depthwise.band_rows(), block.shape.tile_image_rows(WEIGHT_TILE_ROWS));
    let row_len = width * ins;
    let new_task = || Task { pointwise: backward.new_task(), depthwise: Scratch::default() };
    let mut tasks = vec![];
    let run = |out: &mut [MaybeUninit<f32>]| {
        tasks = fold_bands(height * row_len, band * row_len, 1, out, new_task, |task, image, idx, out| {
            let first = idx * band;
            let mut rows = block.depthwise_rows(image, first);
            for (first, out) in (first..).step_by(tile).zip(out.chunks_mut(tile * row_len)) {
                // SAFETY: `write` writes all rows.
                let depthwise = unsafe { task.depthwise.filled(out.len(), |out| rows.write(first, out, |_| {})) };
                backward.tile(&mut task.pointwise, depthwise, (image * height + first) * width, out);
            }
        });
    };
    // SAFETY: the rows of all images cover the output, and `tile` writes all of each.
    let grad = unsafe { filled(block.shape.depthwise.output_len(), run) };
    backward.gradients(grad, tasks.into_iter().map(|task| task.pointwise).collect())
}

/// Gradients of the small input and of the depthwise weight. The gradient of the depthwise output exists a few rows at a time:
/// from `grad`, that of the first activation's output, and recomputed rows of the depthwise output.
fn depthwise_backward(block: &Block, grad: &[f32], gradient1: &InputGradient) -> (Vec<f32>, Vec<f32>) {
    let (isa, shape, depthwise) = (block.isa, block.shape, &block.shape.depthwise);
    let DepthwiseShape { height, channels, .. } = *depthwise;
    let transpose = UpsampledTranspose::new(channels, block.weights.depthwise);
    let row_len = depthwise.out_row_len();
    // Rows of the small input.
    let band = depthwise.band_rows().div_ceil(2);
    let mut sums = vec![];
    let run = |out: &mut [MaybeUninit<f32>]| {
        sums = map_bands(shape.image_len(), band * row_len / 2, out, |image, band_idx, out| {
            let (first, image_start) = (band_idx * band, image * height * row_len);
            let mut rows = block.depthwise_rows(image, (2 * first).saturating_sub(1));
            let mut recomputed = Scratch::default();
            let compute = move |y: usize, row: &mut [f32]| {
                let grad = &grad[image_start + y * row_len..][..row_len];
                // SAFETY: `write` writes the whole row, and `apply` only writes values.
                unsafe {
                    let depthwise = recomputed.filled(row_len, |out| rows.write(y, out, |_| {}));
                    gradient1.apply(isa, depthwise, grad, as_uninit(row));
                }
            };
            let ring_shape = UpsampledTranspose::ring_shape(depthwise);
            let mut grads = RowRing::new(&ring_shape, RowSource::Computed(Box::new(compute)), 2 * first);
            let mut inputs = input_ring(isa, shape, block.input, image, 2 * first);
            let mut sums = UpsampledTapGradients::new(channels);
            for (y, out) in (first..).zip(out.chunks_exact_mut(row_len / 2)) {
                if y > first {
                    grads.advance(2 * y - 1);
                }
                grads.advance(2 * y);
                inputs.advance(y);
                for phase in 0..2 {
                    sums.add(isa, &inputs, phase, grads.row(2 * y + phase));
                }
                transpose.write_row(isa, &grads, out);
            }
            sums
        });
    };
    // SAFETY: the bands cover the input, and `write_row` writes all of each of its rows.
    let grad_input = unsafe { filled(shape.input_len(), run) };
    (grad_input, UpsampledTapGradients::total(channels, &sums))
}
