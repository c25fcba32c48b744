//! The strategy of most blocks: the outputs of both convolutions are stored for the backward pass.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::pointwise::{self, PointwiseBackward, PointwiseForward, PointwiseGradients, PointwiseTask};
use super::stored_depthwise::{self, DepthwiseGradient};
use super::{Block, SavedForBackward, SeparableGradients, Skip};
use crate::buffer::{Scratch, filled};
use crate::norm::NormGradientSums;
use crate::tiling::{MIN_ROWS_PER_TASK, TASKS_PER_THREAD, WEIGHT_TILE_ROWS, chunk_len, tile_rows};

pub(super) fn forward(block: &Block) -> SavedForBackward<Vec<f32>> {
    let (ins, outs, n_pixels) = (block.shape.depthwise.channels, block.shape.out_channels, block.shape.out_pixels());
    let (depthwise, statistics1) = stored_depthwise::forward(block);
    let forward = PointwiseForward::new(block, statistics1.as_slices());
    let mut sums = vec![];
    let run = |out: &mut [MaybeUninit<f32>]| {
        let chunk = chunk_len(n_pixels, TASKS_PER_THREAD, MIN_ROWS_PER_TASK);
        let chunks = out.par_chunks_mut(chunk * outs).zip(depthwise.par_chunks(chunk * ins));
        let tasks = chunks.map(|(out, depthwise)| {
            let (mut scratch, mut sums) = (Scratch::default(), forward.zeros());
            let tile = tile_rows(ins);
            for (out, depthwise) in out.chunks_mut(tile * outs).zip(depthwise.chunks(tile * ins)) {
                forward.tile(depthwise, &mut scratch, &mut sums, out);
            }
            sums
        });
        sums = tasks.collect();
    };
    // SAFETY: the chunks and tiles cover the output, and `tile` writes all of each.
    let pointwise = unsafe { filled(block.shape.output_len(), run) };
    let statistics2 = forward.statistics(sums, n_pixels);
    SavedForBackward { depthwise, statistics1, pointwise, statistics2 }
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
    let PointwiseGradients { grad, weight: pointwise, sums } = pointwise_backward(block, saved.depthwise, &backward);
    let (gradient1, norm1) = reduce1.gradients(&sums, grad.len());
    let gradient = DepthwiseGradient { output: saved.depthwise, grad: &grad, gradient1: &gradient1 };
    let (input, depthwise) = stored_depthwise::backward(block, &gradient);
    SeparableGradients { input, depthwise, norm1, pointwise, norm2, skip }
}

/// The gradient of the first activation's output, from the stored depthwise output.
fn pointwise_backward(block: &Block, depthwise: &[f32], backward: &PointwiseBackward) -> PointwiseGradients {
    let ins = block.shape.depthwise.channels;
    let chunk = chunk_len(block.shape.out_pixels(), 1, MIN_ROWS_PER_TASK);
    let mut tasks: Vec<PointwiseTask> = vec![];
    let run = |out: &mut [MaybeUninit<f32>]| {
        let chunks = out.par_chunks_mut(chunk * ins).zip(depthwise.par_chunks(chunk * ins)).enumerate();
        let chunks = chunks.map(|(idx, (out, depthwise))| {
            let mut task = backward.new_task();
            let tiles = out.chunks_mut(WEIGHT_TILE_ROWS * ins).zip(depthwise.chunks(WEIGHT_TILE_ROWS * ins));
            for (first, (out, depthwise)) in (idx * chunk..).step_by(WEIGHT_TILE_ROWS).zip(tiles) {
                backward.tile(&mut task, depthwise, first, out);
            }
            task
        });
        tasks = chunks.collect();
    };
    // SAFETY: the chunks and tiles cover the output, and `tile` writes all of each.
    let grad = unsafe { filled(block.shape.depthwise.output_len(), run) };
    backward.gradients(grad, tasks)
}
