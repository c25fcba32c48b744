//! The strategy for few input channels, with which every network begins: statistics and gradients by the inputs' covariance.
//!
//! The 1x1 convolution `p = W x` makes many channels of `n <= 4` inputs `x`, which are the first batch norm's and activation's
//! output. Its own output is never stored: batch norm needs its statistics, and these follow from the mean `m` and the
//! covariance `C` of the inputs, `n` and `n * n` numbers:
//!
//! ```text
//! mean(p) = W m            variance(p) = diag(W C W')
//! ```
//!
//! Then the block's output is one product, with batch norm folded into `W`. The backward pass needs, of the gradient `g` that
//! the activation lets through, `s = sum(g)` and `sum(g * (p - mean(p)))`. With `G = sum(g x')`, summed in the same pass:
//!
//! ```text
//! sum(g * (p - mean(p))) = the rows of W times those of G - s m'
//! ```
//!
//! The gradient of `x` has a term that comes straight from `g`; that pass writes it. What depends on the sums is linear in
//! `x`, a constant and `n * n` slopes, and is added in a second pass over the inputs ([`LinearCorrection`]).

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::skip::{self, PackedSkip};
use super::stored_depthwise::{self, DepthwiseGradient};
use super::{Block, SavedForBackward, SeparableGradients, SeparableShape, SeparableWeights, Skip};
use crate::buffer::{Scratch, filled};
use crate::instruction_set::InstructionSet;
use crate::matrix::{Epilogue, LhsRows};
use crate::norm::{Affine, ChannelStatistics, Norm, NormGradientSums, NormGradients};
use crate::tiling::{MIN_ROWS_PER_TASK, TASKS_PER_THREAD, WEIGHT_TILE_ROWS, chunk_len};

mod gradient_pass;
mod moments;

use gradient_pass::FoldedPointwise;
use moments::{InputMoments, MomentSums};

/// Largest number of input channels for which covariance is cheaper than storing the output.
pub(super) const MAX_INPUTS: usize = 4;

pub(super) fn forward(block: &Block) -> SavedForBackward<Vec<f32>> {
    let (depthwise, statistics1) = stored_depthwise::forward(block);
    let statistics2 =
        CovariancePointwise::new(block.isa, block.weights, &depthwise, statistics1.as_slices()).statistics();
    SavedForBackward { depthwise, statistics1, pointwise: vec![], statistics2 }
}

pub(super) fn output(
    isa: InstructionSet,
    shape: &SeparableShape,
    weights: &SeparableWeights,
    saved: &SavedForBackward<&[f32]>,
    skip: Option<&PackedSkip>,
) -> Vec<f32> {
    let pointwise = CovariancePointwise::new(isa, weights, saved.depthwise, saved.statistics1);
    let output = pointwise.output(&weights.norm2, saved.statistics2, skip);
    assert_eq!(output.len(), shape.output_len(), "separable: output, {shape:?}");
    output
}

pub(super) fn backward(
    block: &Block,
    skip: Option<Skip>,
    saved: &SavedForBackward<&[f32]>,
    grad_output: &[f32],
) -> SeparableGradients {
    let reduce1 = NormGradientSums::new(&block.weights.norm1, saved.statistics1);
    let pointwise = CovariancePointwise::new(block.isa, block.weights, saved.depthwise, saved.statistics1);
    let CovarianceGradients { input: grad, weight: pointwise, norm: norm2, sums } =
        pointwise.backward(&block.weights.norm2, saved.statistics2, grad_output, &reduce1);
    let skip = skip.map(|skip| skip::backward(block.isa, block.shape, &skip, grad_output, None).1);
    let (gradient1, norm1) = reduce1.gradients(&sums, grad.len());
    let gradient = DepthwiseGradient { output: saved.depthwise, grad: &grad, gradient1: &gradient1 };
    let (input, depthwise) = stored_depthwise::backward(block, &gradient);
    SeparableGradients { input, depthwise, norm1, pointwise, norm2, skip }
}

/// The 1x1 convolution, with what it reads.
struct CovariancePointwise<'a> {
    isa: InstructionSet,
    /// The batch norm and activation before the convolution.
    norm1: Affine,
    /// The depthwise output, `[pixels, inputs]`; the convolution's inputs are `norm1` of it.
    depthwise: &'a [f32],
    /// `[outputs, inputs]`
    weight: &'a [f32],
    n_inputs: usize,
}

/// Gradients from that of the block's output.
struct CovarianceGradients {
    /// Of the convolution's inputs, `[pixels, inputs]`.
    input: Vec<f32>,
    weight: Vec<f32>,
    norm: NormGradients,
    /// Of the batch norm before the convolution: [`NormGradientSums`].
    sums: Vec<f64>,
}

impl<'a> CovariancePointwise<'a> {
    fn new(
        isa: InstructionSet,
        weights: &SeparableWeights<'a>,
        depthwise: &'a [f32],
        statistics1: ChannelStatistics<&[f32]>,
    ) -> Self {
        let (weight, n_inputs) = (weights.pointwise, statistics1.mean.len());
        assert!(
            (1..=MAX_INPUTS).contains(&n_inputs),
            "covariance: expected 1 to {MAX_INPUTS} inputs, found {n_inputs}"
        );
        let fits = depthwise.len().is_multiple_of(n_inputs) && weight.len().is_multiple_of(n_inputs);
        assert!(fits, "covariance: lengths of depthwise output and 1x1 weight");
        Self { isa, norm1: Affine::from_norm(&weights.norm1, statistics1), depthwise, weight, n_inputs }
    }

    /// Mean and biased variance of each of the convolution's outputs.
    fn statistics(&self) -> ChannelStatistics<Vec<f32>> {
        let moments = self.moments();
        let each_output = |value: &dyn Fn(&[f32]) -> f64| -> Vec<f32> {
            self.weight.chunks_exact(self.n_inputs).map(|row| value(row) as f32).collect()
        };
        let mean =
            each_output(&|row| row.iter().zip(moments.mean).map(|(weight, mean)| f64::from(*weight) * mean).sum());
        let variance = each_output(&|row| {
            let product = moments.times_covariance(row);
            row.iter().zip(product).map(|(weight, value)| f64::from(*weight) * value).sum::<f64>().max(0.0)
        });
        ChannelStatistics { mean, variance }
    }

    fn moments(&self) -> InputMoments {
        let tasks = self.depthwise.par_chunks(self.chunk_len(TASKS_PER_THREAD)).map(|depthwise| {
            let (mut scratch, mut sums) = (Scratch::default(), MomentSums::default());
            for depthwise in depthwise.chunks(WEIGHT_TILE_ROWS * self.n_inputs) {
                let inputs = self.inputs(depthwise, &mut scratch);
                match self.n_inputs {
                    1 => sums.add::<1>(inputs),
                    2 => sums.add::<2>(inputs),
                    3 => sums.add::<3>(inputs),
                    _ => sums.add::<4>(inputs),
                }
            }
            sums
        });
        let mut total = MomentSums::default();
        tasks.collect::<Vec<_>>().into_iter().for_each(|sums| total.add_all(&sums));
        total.moments(self.n_pixels())
    }

    /// The second batch norm, with these statistics, and activation of the convolution's output, plus the skip connection:
    /// `[pixels, outputs]`.
    fn output(&self, norm2: &Norm, statistics2: ChannelStatistics<&[f32]>, skip: Option<&PackedSkip>) -> Vec<f32> {
        let folded = FoldedPointwise::new(self.weight, self.n_inputs, norm2, statistics2);
        let (ins, outs) = (self.n_inputs, folded.n_outputs());
        let (panels, bias) = folded.panels(self.isa);
        let epilogue = Epilogue { bias: Some(&bias), activation: norm2.activation };
        let chunk = self.chunk_len(TASKS_PER_THREAD);
        let run = |out: &mut [MaybeUninit<f32>]| {
            let chunks = out.par_chunks_mut(chunk / ins * outs).zip(self.depthwise.par_chunks(chunk)).enumerate();
            chunks.for_each(|(idx, (out, depthwise))| {
                let mut scratch = Scratch::default();
                let tiles = out.chunks_mut(WEIGHT_TILE_ROWS * outs).zip(depthwise.chunks(WEIGHT_TILE_ROWS * ins));
                for (first, (out, depthwise)) in (idx * chunk / ins..).step_by(WEIGHT_TILE_ROWS).zip(tiles) {
                    panels.multiply(LhsRows::dense(self.inputs(depthwise, &mut scratch), ins), epilogue, out);
                    if let Some(skip) = skip {
                        // SAFETY: `multiply` has written all of it.
                        skip.add(first, unsafe { out.assume_init_mut() });
                    }
                }
            });
        };
        // SAFETY: the chunks and tiles cover the output, and `multiply` writes all of each.
        unsafe { filled(self.n_pixels() * outs, run) }
    }

    /// Gradients from that of what [`CovariancePointwise::output`] wrote; `reduce1` is the batch norm before the convolution.
    fn backward(
        &self,
        norm2: &Norm,
        statistics2: ChannelStatistics<&[f32]>,
        grad_output: &[f32],
        reduce1: &NormGradientSums,
    ) -> CovarianceGradients {
        let folded = FoldedPointwise::new(self.weight, self.n_inputs, norm2, statistics2);
        let (mut input, sums) = self.gradient_pass(&folded, grad_output);
        let (weight, norm, correction) = self.gradients(norm2, statistics2.variance, &sums);
        let sums = self.correct(&mut input, &correction, reduce1);
        CovarianceGradients { input, weight, norm, sums }
    }

    /// The first pass: the term of the inputs' gradient that comes straight from the output's, and the sums `s` and `G`,
    /// `[1 + inputs, outputs]`.
    fn gradient_pass(&self, folded: &FoldedPointwise, grad_output: &[f32]) -> (Vec<f32>, Vec<f64>) {
        let (ins, outs) = (self.n_inputs, folded.n_outputs());
        assert_eq!(grad_output.len(), self.n_pixels() * outs, "covariance: output gradient");
        let chunk = self.chunk_len(1);
        let mut tasks = vec![];
        let run = |out: &mut [MaybeUninit<f32>]| {
            let maps = self.depthwise.par_chunks(chunk).zip(grad_output.par_chunks(chunk / ins * outs));
            let chunks = out.par_chunks_mut(chunk).zip(maps).map(|(out, (depthwise, grads))| {
                let (mut scratch, mut sums) = (Scratch::default(), vec![0.0f64; (1 + ins) * outs]);
                let maps = depthwise.chunks(WEIGHT_TILE_ROWS * ins).zip(grads.chunks(WEIGHT_TILE_ROWS * outs));
                for (out, (depthwise, grads)) in out.chunks_mut(WEIGHT_TILE_ROWS * ins).zip(maps) {
                    folded.gradient_pass(self.isa, self.inputs(depthwise, &mut scratch), grads, &mut sums, out);
                }
                sums
            });
            tasks = chunks.collect();
        };
        // SAFETY: the chunks and tiles cover the gradient, and `gradient_pass` writes all of each.
        let input = unsafe { filled(self.depthwise.len(), run) };
        let mut sums = vec![0.0; (1 + ins) * outs];
        tasks.into_iter().for_each(|task| sums.iter_mut().zip(task).for_each(|(sum, task)| *sum += task));
        (input, sums)
    }

    /// Gradients of weight and second batch norm from the sums of [`CovariancePointwise::gradient_pass`], and what the
    /// inputs' gradient still lacks.
    fn gradients(&self, norm2: &Norm, variance: &[f32], sums: &[f64]) -> (Vec<f32>, NormGradients, LinearCorrection) {
        let (ins, n_pixels, moments) = (self.n_inputs, self.n_pixels() as f64, self.moments());
        let outs = variance.len();
        let mut weight = Vec::with_capacity(self.weight.len());
        let (mut scale, mut shift) = (Vec::with_capacity(outs), Vec::with_capacity(outs));
        let mut correction = LinearCorrection::default();
        for (out, row) in self.weight.chunks_exact(ins).enumerate() {
            let sum = sums[out];
            // `G - s m'` of this output.
            let centred = |input: usize| sums[(1 + input) * outs + out] - sum * moments.mean[input];
            let inverse = 1.0 / (f64::from(variance[out]) + f64::from(norm2.epsilon)).sqrt();
            let gain = f64::from(norm2.scale[out]) * inverse;
            let grad_scale = inverse * (0..ins).map(|input| f64::from(row[input]) * centred(input)).sum::<f64>();
            let slope = gain * grad_scale * inverse / n_pixels;
            let product = moments.times_covariance(row);
            weight.extend((0..ins).map(|input| (gain * centred(input) - slope * n_pixels * product[input]) as f32));
            scale.push(grad_scale as f32);
            shift.push(sum as f32);
            for (a, weight_a) in row.iter().enumerate() {
                correction.constant[a] -= f64::from(*weight_a) * gain * sum / n_pixels;
                for (b, weight_b) in row.iter().enumerate() {
                    let slope = f64::from(*weight_a) * slope * f64::from(*weight_b);
                    correction.slopes[a][b] -= slope;
                    correction.constant[a] += slope * moments.mean[b];
                }
            }
        }
        (weight, NormGradients { scale, shift }, correction)
    }

    /// The second pass: adds the correction to the inputs' gradient; the sums of the first batch norm over it.
    fn correct(&self, gradient: &mut [f32], correction: &LinearCorrection, reduce1: &NormGradientSums) -> Vec<f64> {
        let ins = self.n_inputs;
        let chunk = self.chunk_len(TASKS_PER_THREAD);
        let tasks =
            gradient.par_chunks_mut(chunk).zip(self.depthwise.par_chunks(chunk)).map(|(gradient, depthwise)| {
                let (mut scratch, mut sums) = (Scratch::default(), reduce1.groups.zeros());
                let tiles = gradient.chunks_mut(WEIGHT_TILE_ROWS * ins).zip(depthwise.chunks(WEIGHT_TILE_ROWS * ins));
                for (gradient, depthwise) in tiles {
                    let inputs = self.inputs(depthwise, &mut scratch);
                    match ins {
                        1 => correction.add::<1>(inputs, gradient),
                        2 => correction.add::<2>(inputs, gradient),
                        3 => correction.add::<3>(inputs, gradient),
                        _ => correction.add::<4>(inputs, gradient),
                    }
                    reduce1.add(self.isa, depthwise, gradient, &mut sums);
                }
                sums
            });
        reduce1.groups.total(tasks.collect())
    }

    /// The convolution's inputs for a tile of the depthwise output.
    fn inputs<'s>(&self, depthwise: &[f32], scratch: &'s mut Scratch) -> &'s [f32] {
        // SAFETY: `apply` writes all of its output.
        unsafe { scratch.filled(depthwise.len(), |out| self.norm1.apply(self.isa, depthwise, out)) }
    }

    fn n_pixels(&self) -> usize {
        self.depthwise.len() / self.n_inputs
    }

    /// Input values of a task's chunk: whole pixels.
    fn chunk_len(&self, tasks_per_thread: usize) -> usize {
        chunk_len(self.n_pixels(), tasks_per_thread, MIN_ROWS_PER_TASK) * self.n_inputs
    }
}

/// What is added to the inputs' gradient: a linear function of the inputs.
#[derive(Default)]
struct LinearCorrection {
    constant: [f64; MAX_INPUTS],
    slopes: [[f64; MAX_INPUTS]; MAX_INPUTS],
}

impl LinearCorrection {
    fn add<const INPUTS: usize>(&self, inputs: &[f32], gradient: &mut [f32]) {
        let constant = self.constant.map(|value| value as f32);
        let slopes = self.slopes.map(|row| row.map(|value| value as f32));
        for (gradient, inputs) in gradient.as_chunks_mut::<INPUTS>().0.iter_mut().zip(inputs.as_chunks::<INPUTS>().0) {
            for a in 0..INPUTS {
                let mut sum = constant[a];
                for b in 0..INPUTS {
                    sum += slopes[a][b] * inputs[b];
                }
                gradient[a] += sum;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::Activation;
    use crate::reference::noise;

    /// The block's own tests (`separable.rs`) compare all of this with separate operators.
    #[test]
    fn variance_survives_a_mean_far_from_zero() {
        let (n_inputs, outs, n_pixels) = (3, 5, 4000);
        let depthwise: Vec<f32> = noise(n_pixels * n_inputs, 9).into_iter().map(|value| value * 1e-2 + 100.0).collect();
        let weight = &noise(outs * n_inputs, 10)[..];
        let isa = InstructionSet::detect();
        let norm1 = Affine::new(&[1.0; 3], &[0.0; 3], Activation::Relu);
        let pointwise = CovariancePointwise { isa, norm1, depthwise: &depthwise, weight, n_inputs };
        let ChannelStatistics { mean, variance } = pointwise.statistics();
        for (out, row) in weight.chunks_exact(n_inputs).enumerate() {
            let dot = |pixel: &[f32]| pixel.iter().zip(row).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
            let outputs: Vec<f64> = depthwise.chunks_exact(n_inputs).map(dot).collect();
            let expected = outputs.iter().sum::<f64>() / n_pixels as f64;
            assert!((f64::from(mean[out]) - expected).abs() <= 1e-6 * expected.abs(), "{} {expected}", mean[out]);
            let spread = outputs.iter().map(|value| (value - expected).powi(2)).sum::<f64>() / n_pixels as f64;
            assert!((f64::from(variance[out]) / spread - 1.0).abs() < 1e-5, "{} {spread}", variance[out]);
        }
    }
}
