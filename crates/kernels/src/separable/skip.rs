//! The skip connection of a block: a 1x1 convolution with a bias, added to the output.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::pointwise::BiasedPointwise;
use super::{SeparableShape, Skip, SkipGradients};
use crate::buffer::filled;
use crate::conv::WeightGradient;
use crate::instruction_set::InstructionSet;
use crate::matrix::{Epilogue, LhsRows, Panels};
use crate::norm::{ChannelMoments, NormGradientSums};
use crate::tiling::{MIN_ROWS_PER_TASK, WEIGHT_TILE_ROWS, chunk_len, sum_in_order};

/// A skip connection with its weight packed.
pub(super) struct PackedSkip<'a> {
    convolution: BiasedPointwise,
    input: &'a [f32],
}

impl<'a> PackedSkip<'a> {
    pub(super) fn new(isa: InstructionSet, outs: usize, skip: &Skip<'a>) -> Self {
        Self { convolution: BiasedPointwise::new(isa, outs, skip.weight, skip.bias), input: skip.input }
    }

    /// Channels that it reads.
    pub(super) fn in_channels(&self) -> usize {
        self.convolution.in_channels()
    }

    /// Adds to the output pixels from `first` on.
    pub(super) fn add(&self, first: usize, out: &mut [f32]) {
        self.convolution.add(self.input, first, out);
    }
}

/// Gradients of the skip connection. In the same pass over the output's gradient, the sums of the second batch norm, if asked
/// for those of its input.
pub(super) fn backward(
    isa: InstructionSet,
    shape: &SeparableShape,
    skip: &Skip,
    grad_output: &[f32],
    norm2: Option<(&NormGradientSums, &[f32])>,
) -> (Vec<f64>, SkipGradients) {
    let outs = shape.out_channels;
    assert!(skip.weight.len().is_multiple_of(outs), "separable: weight and outputs of a 1x1 convolution");
    let ins = skip.weight.len() / outs;
    assert_eq!(skip.input.len(), shape.out_pixels() * ins, "separable: input of the skip connection");
    let transposed = Panels::pack(isa, [outs, ins], skip.weight, |out| out * ins, 1);
    let totals = ChannelMoments::around(&vec![0.0; outs]);
    let chunk = chunk_len(shape.out_pixels(), 1, MIN_ROWS_PER_TASK);
    let mut tasks = vec![];
    let run = |out: &mut [MaybeUninit<f32>]| {
        let maps = skip.input.par_chunks(chunk * ins).zip(grad_output.par_chunks(chunk * outs));
        let chunks = out.par_chunks_mut(chunk * ins).zip(maps).enumerate();
        let chunks = chunks.map(|(idx, (out, (input, grads)))| {
            let (mut weight, mut gradient) = (vec![0.0; outs * ins], WeightGradient::new(isa, outs));
            let (mut sums, mut bias) = (totals.groups.zeros(), totals.groups.zeros());
            let maps = input.chunks(WEIGHT_TILE_ROWS * ins).zip(grads.chunks(WEIGHT_TILE_ROWS * outs));
            let tiles = out.chunks_mut(WEIGHT_TILE_ROWS * ins).zip(maps);
            for (first, (out, (input, grads))) in (idx * chunk..).step_by(WEIGHT_TILE_ROWS).zip(tiles) {
                if let Some((reduce, pointwise)) = norm2 {
                    reduce.add(isa, &pointwise[first * outs..][..grads.len()], grads, &mut sums);
                }
                totals.add(isa, grads, &mut bias);
                gradient.add_pixels(grads, input, &mut weight);
                transposed.multiply(LhsRows::dense(grads, outs), Epilogue::NONE, out);
            }
            (weight, (sums, bias))
        });
        tasks = chunks.collect();
    };
    // SAFETY: the chunks and tiles cover the output, and `multiply` writes all of each.
    let input = unsafe { filled(skip.input.len(), run) };
    let (weight, (sums, bias)): (Vec<_>, (Vec<_>, Vec<_>)) = tasks.into_iter().unzip();
    let bias = totals.groups.total(bias)[..outs].iter().map(|sum| *sum as f32).collect();
    (totals.groups.total(sums), SkipGradients { input, weight: sum_in_order(weight), bias })
}
