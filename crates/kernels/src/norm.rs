//! Batch norm with the statistics of the batch, an activation or none, and its gradients.
//!
//! With `x^ = (x - mean) / sqrt(variance + epsilon)`, the output is `y = scale * x^ + shift`. From the gradient `g` of the
//! output, where the activation let it through, and with means over all pixels of a channel:
//!
//! ```text
//! d shift = sum(g)          d scale = sum(g * x^)
//! d x     = scale / sqrt(variance + epsilon) * (g - mean(g) - x^ * mean(g * x^))
//! ```
//!
//! Each direction is two passes over the map: one for sums (`ChannelMoments`, `NormGradientSums`), one that applies them
//! (`Affine`, `InputGradient`). The passes are public to the crate, since [`crate::separable`] runs them on pixels that
//! are still in the cache.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::activation::Activation;
use crate::buffer::filled;
use crate::instruction_set::InstructionSet;

mod affine;
mod pixel_groups;
mod sums;

pub(crate) use affine::Affine;
pub(crate) use sums::{ChannelMoments, InputGradient, NormGradientSums};

/// What is trained in a batch norm, and its constants.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// Scale of each channel.
    pub scale: &'a [f32],
    /// Shift of each channel.
    pub shift: &'a [f32],
    /// Added to the variance.
    pub epsilon: f32,
    /// What follows.
    pub activation: Activation,
}

/// Mean and biased variance of each channel; `T` is owned values or a slice of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChannelStatistics<T> {
    /// Mean of each channel.
    pub mean: T,
    /// Biased variance of each channel.
    pub variance: T,
}

/// Result of [`forward`].
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNorm {
    /// The normalised feature map, `[pixels, channels]`.
    pub output: Vec<f32>,
    /// Of the input.
    pub statistics: ChannelStatistics<Vec<f32>>,
}

/// Gradients of the scale and the shift.
#[derive(Debug, Clone, PartialEq)]
pub struct NormGradients {
    /// Gradient of the scale of each channel.
    pub scale: Vec<f32>,
    /// Gradient of the shift of each channel.
    pub shift: Vec<f32>,
}

impl ChannelStatistics<Vec<f32>> {
    /// The same, borrowed.
    pub fn as_slices(&self) -> ChannelStatistics<&[f32]> {
        ChannelStatistics { mean: &self.mean, variance: &self.variance }
    }
}

/// `(input - mean) / sqrt(variance + epsilon) * scale + shift` over `[pixels, channels]`, then the activation.
///
/// # Panics
/// If the input is empty or not a whole number of pixels, or scale and shift differ in length.
pub fn forward(norm: &Norm, input: &[f32]) -> BatchNorm {
    forward_on(InstructionSet::detect(), norm, input)
}

/// The gradient of the input of [`forward`], `[pixels, channels]`, from that of the output, and those of scale and shift.
///
/// Where the activation lets the gradient through is recomputed from `input`, so the output need not be saved for the backward pass.
///
/// # Panics
/// If input and gradient differ in length, or the statistics have not one value per channel.
pub fn backward(
    norm: &Norm,
    input: &[f32],
    statistics: ChannelStatistics<&[f32]>,
    grad_output: &[f32],
) -> (Vec<f32>, NormGradients) {
    backward_on(InstructionSet::detect(), norm, input, statistics, grad_output)
}

/// `input * scale + shift` per channel over `[pixels, channels]`, then the activation: batch norm with fixed statistics.
///
/// # Panics
/// If the input is not a whole number of pixels, or scale and shift differ in length.
pub fn affine(input: &[f32], scale: &[f32], shift: &[f32], activation: Activation) -> Vec<f32> {
    affine_on(InstructionSet::detect(), input, scale, shift, activation)
}

/// Sum of each channel over all pixels of `[pixels, channels]`: the gradient of a bias.
pub fn channel_sums(values: &[f32], channels: usize) -> Vec<f32> {
    let moments = ChannelMoments::around(&vec![0.0; channels]);
    let isa = InstructionSet::detect();
    let sums = moments.groups.sums(values.len(), |range, sums| moments.add(isa, &values[range], sums));
    sums[..channels].iter().map(|sum| *sum as f32).collect()
}

impl Norm<'_> {
    /// Scale and shift that batch norm comes down to once its statistics are known.
    pub(crate) fn folded(&self, statistics: ChannelStatistics<&[f32]>) -> (Vec<f32>, Vec<f32>) {
        let ChannelStatistics { mean, variance } = statistics;
        let scale: Vec<f32> =
            self.scale.iter().zip(variance).map(|(scale, variance)| scale / (variance + self.epsilon).sqrt()).collect();
        let shift = self.shift.iter().zip(mean).zip(&scale).map(|((shift, mean), scale)| shift - mean * scale);
        let shift = shift.collect();
        (scale, shift)
    }
}

fn forward_on(isa: InstructionSet, norm: &Norm, input: &[f32]) -> BatchNorm {
    let channels = norm.scale.len();
    assert_eq!(norm.shift.len(), channels, "batch norm: scale and shift");
    assert!(!input.is_empty() && input.len().is_multiple_of(channels), "batch norm: input and channels");
    let moments = ChannelMoments::around(&input[..channels]);
    let sums = moments.groups.sums(input.len(), |range, sums| moments.add(isa, &input[range], sums));
    let statistics = moments.statistics(&sums, input.len() / channels);
    let (scale, shift) = norm.folded(statistics.as_slices());
    BatchNorm { output: affine_on(isa, input, &scale, &shift, norm.activation), statistics }
}

fn backward_on(
    isa: InstructionSet,
    norm: &Norm,
    input: &[f32],
    statistics: ChannelStatistics<&[f32]>,
    grad_output: &[f32],
) -> (Vec<f32>, NormGradients) {
    assert_eq!(input.len(), grad_output.len(), "batch norm: input and gradient");
    let reduce = NormGradientSums::new(norm, statistics);
    let channels = norm.scale.len();
    assert!(!input.is_empty() && input.len().is_multiple_of(channels), "batch norm: input and channels");
    let sums = reduce.groups.sums(input.len(), |range, sums| {
        reduce.add(isa, &input[range.clone()], &grad_output[range], sums);
    });
    let chunk = reduce.groups.chunk_len(input.len());
    let (gradient, gradients) = reduce.gradients(&sums, input.len());
    let run = |out: &mut [MaybeUninit<f32>]| {
        let chunks = out.par_chunks_mut(chunk).zip(input.par_chunks(chunk).zip(grad_output.par_chunks(chunk)));
        chunks.for_each(|(out, (input, grads))| gradient.apply(isa, input, grads, out));
    };
    // SAFETY: the chunks cover the output, and `apply` writes all of each.
    (unsafe { filled(input.len(), run) }, gradients)
}

fn affine_on(isa: InstructionSet, input: &[f32], scale: &[f32], shift: &[f32], activation: Activation) -> Vec<f32> {
    let affine = Affine::new(scale, shift, activation);
    assert!(input.len().is_multiple_of(scale.len()), "affine: input and channels");
    let chunk = affine.chunk_len(input.len());
    let run = |out: &mut [MaybeUninit<f32>]| {
        let chunks = out.par_chunks_mut(chunk).zip(input.par_chunks(chunk));
        chunks.for_each(|(out, input)| affine.apply(isa, input, out));
    };
    // SAFETY: the chunks cover the output, and `apply` writes all of each.
    unsafe { filled(input.len(), run) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{assert_near, noise};

    #[test]
    fn all_instruction_sets_agree() {
        for channels in [1, 3, 40, 51] {
            let (input, grad) = (noise(channels * 301, 1), noise(channels * 301, 2));
            let (scale, shift) = (noise(channels, 3), noise(channels, 4));
            let norm = Norm { scale: &scale, shift: &shift, epsilon: 1e-5, activation: Activation::None };
            let run = |isa| {
                let BatchNorm { output, statistics } = forward_on(isa, &norm, &input);
                let (grad, gradients) = backward_on(isa, &norm, &input, statistics.as_slices(), &grad);
                [output, statistics.mean, statistics.variance, grad, gradients.scale, gradients.shift]
            };
            let baseline = run(InstructionSet::Baseline);
            for isa in InstructionSet::available() {
                for (got, expected) in run(isa).iter().zip(&baseline) {
                    let expected: Vec<f64> = expected.iter().map(|value| f64::from(*value)).collect();
                    assert_near(&format!("{isa:?}, {channels} channels"), got, &expected);
                }
            }
        }
    }
}
