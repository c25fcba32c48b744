//! The second half of a block: first batch norm and activation where they are read, 1x1 convolution, second batch norm.
//!
//! Everything here works on a tile of pixels at a time, which stays in the cache from the depthwise output to the 1x1
//! convolution's, and back from the output's gradient to that behind the first batch norm.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::skip::{self, PackedSkip};
use super::{Block, SavedForBackward, SeparableShape, Skip, SkipGradients};
use crate::activation::Activation;
use crate::buffer::{Scratch, filled};
use crate::conv::WeightGradient;
use crate::instruction_set::InstructionSet;
use crate::matrix::{Epilogue, LhsRows, Panels};
use crate::norm::{Affine, ChannelMoments, ChannelStatistics, InputGradient, Norm, NormGradientSums, NormGradients};
use crate::tiling::{MIN_ROWS_PER_TASK, TASKS_PER_THREAD, chunk_len, sum_in_order, tile_rows};

/// `[out, in]` as the second factor `[in, out]`.
pub(super) fn pack(isa: InstructionSet, weight: &[f32], ins: usize, outs: usize) -> Panels {
    Panels::pack(isa, [ins, outs], weight, |k| k, ins)
}

/// A 1x1 convolution with a bias, packed.
pub(super) struct BiasedPointwise {
    ins: usize,
    outs: usize,
    weight: Panels,
    bias: Vec<f32>,
}

impl BiasedPointwise {
    pub(super) fn new(isa: InstructionSet, outs: usize, weight: &[f32], bias: &[f32]) -> Self {
        assert!(weight.len().is_multiple_of(outs), "separable: weight and outputs of a 1x1 convolution");
        let ins = weight.len() / outs;
        let weight = pack(isa, weight, ins, outs);
        Self { ins, outs, bias: weight.padded(bias), weight }
    }

    pub(super) fn in_channels(&self) -> usize {
        self.ins
    }

    pub(super) fn out_channels(&self) -> usize {
        self.outs
    }

    /// Writes all of `out` for as many pixels.
    pub(super) fn write(&self, pixels: &[f32], out: &mut [MaybeUninit<f32>]) {
        let epilogue = Epilogue { bias: Some(&self.bias), activation: Activation::None };
        self.weight.multiply(LhsRows::dense(pixels, self.ins), epilogue, out);
    }

    /// Adds to the output pixels from `first` on; `input` is the whole map.
    pub(super) fn add(&self, input: &[f32], first: usize, out: &mut [f32]) {
        let n_pixels = out.len() / self.outs;
        let pixels = &input[first * self.ins..][..n_pixels * self.ins];
        let epilogue = Epilogue { bias: Some(&self.bias), activation: Activation::None };
        self.weight.multiply_and_add(LhsRows::dense(pixels, self.ins), epilogue, out);
    }
}

/// The first batch norm and activation, and the 1x1 convolution.
struct NormedPointwise {
    isa: InstructionSet,
    ins: usize,
    norm1: Affine,
    weight: Panels,
}

impl NormedPointwise {
    /// Writes all of `out` for the pixels of `depthwise`.
    fn write(&self, depthwise: &[f32], scratch: &mut Scratch, out: &mut [MaybeUninit<f32>]) {
        // SAFETY: `apply` writes all of its output.
        let normalised = unsafe { scratch.filled(depthwise.len(), |out| self.norm1.apply(self.isa, depthwise, out)) };
        self.weight.multiply(LhsRows::dense(normalised, self.ins), Epilogue::NONE, out);
    }
}

/// From a tile of the depthwise output to one of the 1x1 convolution's, and the sums of its statistics.
pub(super) struct PointwiseForward {
    pointwise: NormedPointwise,
    moments: ChannelMoments,
}

impl PointwiseForward {
    pub(super) fn new(block: &Block, statistics1: ChannelStatistics<&[f32]>) -> Self {
        let (isa, ins, outs) = (block.isa, block.shape.depthwise.channels, block.shape.out_channels);
        let weight = pack(isa, block.weights.pointwise, ins, outs);
        let norm1 = Affine::from_norm(&block.weights.norm1, statistics1);
        let pointwise = NormedPointwise { isa, ins, norm1, weight };
        let first_pixel = &block.first_depthwise_row()[..ins];
        // SAFETY: `write` writes all of its output.
        let centre = unsafe { filled(outs, |out| pointwise.write(first_pixel, &mut Scratch::default(), out)) };
        Self { pointwise, moments: ChannelMoments::around(&centre) }
    }

    /// Room for the sums of a task.
    pub(super) fn zeros(&self) -> Vec<f64> {
        self.moments.groups.zeros()
    }

    /// Writes all of `out` for the pixels of `depthwise`, and adds to the sums.
    pub(super) fn tile(
        &self,
        depthwise: &[f32],
        scratch: &mut Scratch,
        sums: &mut [f64],
        out: &mut [MaybeUninit<f32>],
    ) {
        self.pointwise.write(depthwise, scratch, out);
        // SAFETY: `write` has written all of it.
        self.moments.add(self.pointwise.isa, unsafe { out.assume_init_ref() }, sums);
    }

    /// Statistics of the 1x1 convolution's output, from the sums of all tasks.
    pub(super) fn statistics(&self, tasks: Vec<Vec<f64>>, pixels: usize) -> ChannelStatistics<Vec<f32>> {
        self.moments.statistics(&self.moments.groups.total(tasks), pixels)
    }
}

/// The block's output from that of its 1x1 convolution.
pub(super) fn output(
    isa: InstructionSet,
    shape: &SeparableShape,
    norm2: &Norm,
    saved: &SavedForBackward<&[f32]>,
    skip: Option<&PackedSkip>,
) -> Vec<f32> {
    let outs = shape.out_channels;
    let norm2 = Affine::from_norm(norm2, saved.statistics2);
    let tile = tile_rows(skip.map_or(outs, PackedSkip::in_channels));
    let chunk = chunk_len(shape.out_pixels(), TASKS_PER_THREAD, MIN_ROWS_PER_TASK);
    let run = |out: &mut [MaybeUninit<f32>]| {
        let chunks = out.par_chunks_mut(chunk * outs).zip(saved.pointwise.par_chunks(chunk * outs)).enumerate();
        chunks.for_each(|(idx, (out, pointwise))| {
            let tiles = out.chunks_mut(tile * outs).zip(pointwise.chunks(tile * outs));
            for (first, (out, pointwise)) in (idx * chunk..).step_by(tile).zip(tiles) {
                norm2.apply(isa, pointwise, out);
                if let Some(skip) = skip {
                    // SAFETY: `apply` has written all of it.
                    skip.add(first, unsafe { out.assume_init_mut() });
                }
            }
        });
    };
    // SAFETY: the chunks and tiles cover the output, and `apply` writes all of each.
    unsafe { filled(shape.output_len(), run) }
}

/// The second pass of the second batch norm's gradient, its gradients, and those of the skip connection.
pub(super) fn norm2_backward(
    block: &Block,
    skip: Option<Skip>,
    saved: &SavedForBackward<&[f32]>,
    grad_output: &[f32],
) -> (InputGradient, NormGradients, Option<SkipGradients>) {
    let isa = block.isa;
    let reduce = NormGradientSums::new(&block.weights.norm2, saved.statistics2);
    let (sums, skip) = match skip {
        Some(skip) => {
            let norm2 = Some((&reduce, saved.pointwise));
            let (sums, gradients) = skip::backward(isa, block.shape, &skip, grad_output, norm2);
            (sums, Some(gradients))
        }
        None => {
            let sums = reduce.groups.sums(grad_output.len(), |range, sums| {
                reduce.add(isa, &saved.pointwise[range.clone()], &grad_output[range], sums);
            });
            (sums, None)
        }
    };
    let (gradient2, norm2) = reduce.gradients(&sums, grad_output.len());
    (gradient2, norm2, skip)
}

/// From the gradient of the block's output to that of the first activation's output, a tile of pixels at a time.
pub(super) struct PointwiseBackward<'a> {
    isa: InstructionSet,
    ins: usize,
    outs: usize,
    norm1: Affine,
    /// `[out, in]`
    transposed: Panels,
    reduce1: &'a NormGradientSums,
    gradient2: &'a InputGradient,
    pointwise: &'a [f32],
    grad_output: &'a [f32],
}

/// The sums of a task of [`PointwiseBackward`], and its buffers.
pub(super) struct PointwiseTask {
    weight: Vec<f32>,
    sums: Vec<f64>,
    gradient: WeightGradient,
    normalised: Scratch,
    grad_pointwise: Scratch,
}

/// What [`PointwiseBackward`] makes.
pub(super) struct PointwiseGradients {
    /// Of the first activation's output, `[batch, height, width, in]`.
    pub grad: Vec<f32>,
    /// Of the 1x1 weight.
    pub weight: Vec<f32>,
    /// Of the first batch norm: [`NormGradientSums`].
    pub sums: Vec<f64>,
}

impl<'a> PointwiseBackward<'a> {
    pub(super) fn new(
        block: &Block,
        saved: &SavedForBackward<&'a [f32]>,
        grad_output: &'a [f32],
        reduce1: &'a NormGradientSums,
        gradient2: &'a InputGradient,
    ) -> Self {
        let (isa, ins, outs) = (block.isa, block.shape.depthwise.channels, block.shape.out_channels);
        Self {
            isa,
            ins,
            outs,
            norm1: Affine::from_norm(&block.weights.norm1, saved.statistics1),
            transposed: Panels::pack(isa, [outs, ins], block.weights.pointwise, |out| out * ins, 1),
            reduce1,
            gradient2,
            pointwise: saved.pointwise,
            grad_output,
        }
    }

    pub(super) fn new_task(&self) -> PointwiseTask {
        PointwiseTask {
            weight: vec![0.0; self.outs * self.ins],
            sums: self.reduce1.groups.zeros(),
            gradient: WeightGradient::new(self.isa, self.outs),
            normalised: Scratch::default(),
            grad_pointwise: Scratch::default(),
        }
    }

    /// Writes all of `out`, the gradient of the first activation's output, for the pixels of `depthwise`, which begin with pixel
    /// `first` of the batch; adds to the task's sums.
    pub(super) fn tile(&self, task: &mut PointwiseTask, depthwise: &[f32], first: usize, out: &mut [MaybeUninit<f32>]) {
        let (isa, outs) = (self.isa, self.outs);
        let n_pixels = out.len() / self.ins;
        let grads = &self.grad_output[first * outs..(first + n_pixels) * outs];
        let pointwise = &self.pointwise[first * outs..(first + n_pixels) * outs];
        // SAFETY: both `apply` write all of their output.
        let (grad_pointwise, normalised) = unsafe {
            let gradient2 = |out: &mut [MaybeUninit<f32>]| self.gradient2.apply(isa, pointwise, grads, out);
            let norm1 = |out: &mut [MaybeUninit<f32>]| self.norm1.apply(isa, depthwise, out);
            (task.grad_pointwise.filled(grads.len(), gradient2), task.normalised.filled(depthwise.len(), norm1))
        };
        task.gradient.add_pixels(grad_pointwise, normalised, &mut task.weight);
        self.transposed.multiply(LhsRows::dense(grad_pointwise, outs), Epilogue::NONE, out);
        // SAFETY: `multiply` has written all of it.
        self.reduce1.add(isa, depthwise, unsafe { out.assume_init_ref() }, &mut task.sums);
    }

    /// The gradients, from the sums of all tasks.
    pub(super) fn gradients(&self, grad: Vec<f32>, tasks: Vec<PointwiseTask>) -> PointwiseGradients {
        let (weight, sums) = tasks.into_iter().map(|task| (task.weight, task.sums)).unzip();
        PointwiseGradients { grad, weight: sum_in_order(weight), sums: self.reduce1.groups.total(sums) }
    }
}
