//! Gradients of a layer norm, whose rows' means and variances are taken again.
//!
//! With `x^ = (x - mean) / sqrt(variance + epsilon)` of a row, and `g` the gradient of `scale * x^ + shift`, means over the row:
//!
//! ```text
//! dx = (scale g - mean(scale g) - x^ mean(scale g x^)) / sqrt(variance + epsilon)     d scale = sum(g x^)     d shift = sum(g)
//! ```

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::row_sum;
use crate::buffer::filled;
use crate::gelu::gelu_slope;
use crate::instruction_set::{InstructionSet, for_each_instruction_set, multiply_add};
use crate::linear::Then;
use crate::tiling::{MIN_ROWS_PER_TASK, chunk_len, sum_in_order};

/// Gradients of a layer norm's input, scale and shift.
pub struct LayerNormGradients {
    /// `[rows, channels]`.
    pub input: Vec<f32>,
    /// `[channels]`.
    pub scale: Vec<f32>,
    /// `[channels]`.
    pub shift: Vec<f32>,
}

/// Gradients of [`layer_norm`](super::layer_norm), from its arguments and the gradient of its output.
///
/// # Panics
/// If the lengths are not those of whole rows.
pub fn backward(
    input: &[f32],
    scale: &[f32],
    shift: &[f32],
    epsilon: f32,
    then: Then,
    grad_output: &[f32],
) -> LayerNormGradients {
    let (isa, channels) = (InstructionSet::detect(), scale.len());
    assert!(channels > 0 && shift.len() == channels, "layer norm: scale and shift");
    assert!(input.len().is_multiple_of(channels), "layer norm: input of rows of {channels}");
    assert_eq!(input.len(), grad_output.len(), "layer norm: input and gradient");
    let chunk = chunk_len(input.len() / channels, 1, MIN_ROWS_PER_TASK) * channels;
    let mut sums = vec![];
    let run = |out: &mut [MaybeUninit<f32>]| {
        let chunks = out.par_chunks_mut(chunk).zip(input.par_chunks(chunk)).zip(grad_output.par_chunks(chunk));
        let of_chunks = chunks.map(|((out, input), grads)| {
            let mut sums = vec![0.0; 2 * channels];
            gradient_rows(isa, [input, grads], [scale, shift], epsilon, then, out, &mut sums);
            sums
        });
        sums = of_chunks.collect();
    };
    // SAFETY: the chunks are whole rows and cover the output, and `gradient_rows` writes every value of them.
    let input = unsafe { filled(input.len(), run) };
    let mut scale = if sums.is_empty() { vec![0.0; 2 * channels] } else { sum_in_order(sums) };
    let shift = scale.split_off(channels);
    LayerNormGradients { input, scale, shift }
}

for_each_instruction_set! {
    /// Writes the rows' input gradients, and adds theirs to those of scale and shift, `sums`.
    fn gradient_rows(
        rows: [&[f32]; 2],
        affine: [&[f32]; 2],
        epsilon: f32,
        then: Then,
        out: &mut [MaybeUninit<f32>],
        sums: &mut [f32],
    ) = gradient_rows_body
}

#[inline(always)]
fn gradient_rows_body<const FUSED: bool, const LANES: usize>(
    [input, grads]: [&[f32]; 2],
    [scale, shift]: [&[f32]; 2],
    epsilon: f32,
    then: Then,
    out: &mut [MaybeUninit<f32>],
    sums: &mut [f32],
) {
    let channels = scale.len();
    let (of_scale, of_shift) = sums.split_at_mut(channels);
    // Of a row: the normal values, and the gradient before what ends the layer, then times the scale.
    let (mut normal, mut passed) = (vec![0.0f32; channels], vec![0.0f32; channels]);
    let rows = input.chunks_exact(channels).zip(grads.chunks_exact(channels)).zip(out.chunks_exact_mut(channels));
    for ((row, grads), out) in rows {
        let mean = row_sum::<FUSED, LANES>(row, 0.0, false) / channels as f32;
        let variance = row_sum::<FUSED, LANES>(row, mean, true) / channels as f32;
        let factor = 1.0 / (variance + epsilon).sqrt();
        for (normal, value) in normal.iter_mut().zip(row) {
            *normal = (value - mean) * factor;
        }
        let ended = normal.iter().zip(scale).zip(shift).map(|((normal, scale), shift)| normal * scale + shift);
        match then {
            Then::Nothing => passed.copy_from_slice(grads),
            Then::Relu => {
                for ((passed, grad), before) in passed.iter_mut().zip(grads).zip(ended) {
                    *passed = if before > 0.0 { *grad } else { 0.0 };
                }
            }
            Then::Gelu => {
                for ((passed, grad), before) in passed.iter_mut().zip(grads).zip(ended) {
                    *passed = grad * gelu_slope::<FUSED>(before);
                }
            }
        }
        let of_affine = of_scale.iter_mut().zip(of_shift.iter_mut());
        for (((of_scale, of_shift), passed), (normal, scale)) in
            of_affine.zip(&mut passed).zip(normal.iter().zip(scale))
        {
            *of_scale = multiply_add::<FUSED>(*passed, *normal, *of_scale);
            *of_shift += *passed;
            *passed *= scale;
        }
        let mean = row_sum::<FUSED, LANES>(&passed, 0.0, false) / channels as f32;
        let product = dot::<FUSED, LANES>(&passed, &normal) / channels as f32;
        for ((out, passed), normal) in out.iter_mut().zip(&passed).zip(&normal) {
            out.write((passed - mean - normal * product) * factor);
        }
    }
}

#[inline(always)]
fn dot<const FUSED: bool, const LANES: usize>(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] = multiply_add::<FUSED>(a[lane], b[lane], sums[lane]);
        }
    }
    a_rest.iter().zip(b_rest).fold(sums.iter().sum(), |sum, (a, b)| sum + a * b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{assert_within, noise};

    #[test]
    fn gradients_follow_their_definition() {
        for (rows, channels) in [(3, 5), (300, 64), (2, 321)] {
            let input: Vec<f32> = noise(rows * channels, 1).iter().map(|value| value * 3.0 + 10.0).collect();
            let (scale, shift, grads) = (noise(channels, 2), noise(channels, 3), noise(rows * channels, 4));
            for then in [Then::Nothing, Then::Relu, Then::Gelu] {
                let (mut of_scale, mut of_shift) = (vec![0.0f64; channels], vec![0.0f64; channels]);
                let mut expected = vec![];
                for row in 0..rows {
                    let at = |values: &[f32], idx: usize| f64::from(values[row * channels + idx]);
                    let mean = (0..channels).map(|idx| at(&input, idx)).sum::<f64>() / channels as f64;
                    let variance =
                        (0..channels).map(|idx| (at(&input, idx) - mean).powi(2)).sum::<f64>() / channels as f64;
                    let root = (variance + 1e-3).sqrt();
                    let normal: Vec<f64> = (0..channels).map(|idx| (at(&input, idx) - mean) / root).collect();
                    let passed: Vec<f64> = (0..channels)
                        .map(|idx| {
                            let before = normal[idx] * f64::from(scale[idx]) + f64::from(shift[idx]);
                            at(&grads, idx)
                                * match then {
                                    Then::Nothing => 1.0,
                                    Then::Relu => f64::from(before > 0.0),
                                    Then::Gelu => f64::from(gelu_slope::<false>(before as f32)),
                                }
                        })
                        .collect();
                    let scaled: Vec<f64> = passed.iter().zip(&scale).map(|(g, scale)| g * f64::from(*scale)).collect();
                    let mean = scaled.iter().sum::<f64>() / channels as f64;
                    let product = scaled.iter().zip(&normal).map(|(g, x)| g * x).sum::<f64>() / channels as f64;
                    expected.extend(scaled.iter().zip(&normal).map(|(g, x)| (g - mean - x * product) / root));
                    for idx in 0..channels {
                        of_scale[idx] += passed[idx] * normal[idx];
                        of_shift[idx] += passed[idx];
                    }
                }
                let name = format!("{rows} x {channels}, {then:?}");
                let found = backward(&input, &scale, &shift, 1e-3, then, &grads);
                assert_within(1e-5, &name, &found.input, &expected);
                assert_within(1e-5, &format!("{name}, scale"), &found.scale, &of_scale);
                assert_within(1e-5, &format!("{name}, shift"), &found.shift, &of_shift);
            }
        }
    }
}
