//! Layer norm over the channels of each row: of a token, or of a pixel of an NHWC map.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::buffer::filled;
use crate::instruction_set::{InstructionSet, for_each_instruction_set, multiply_add};
use crate::lanes::load_lanes;
use crate::linear::Then;
use crate::tiling::{MIN_ROWS_PER_TASK, TASKS_PER_THREAD, chunk_len};

mod gradient;

pub use gradient::{LayerNormGradients, backward};

/// Each row of `input`, `[rows, channels]`, with mean 0 and variance 1, times `scale`, plus `shift`, both `[channels]`; then what ends it.
///
/// The variance is the biased one, plus `epsilon` under the root, as PyTorch's.
///
/// # Panics
/// If the lengths are not those of whole rows.
pub fn layer_norm(input: &[f32], scale: &[f32], shift: &[f32], epsilon: f32, then: Then) -> Vec<f32> {
    layer_norm_on(InstructionSet::detect(), input, scale, shift, epsilon, then)
}

fn layer_norm_on(
    isa: InstructionSet,
    input: &[f32],
    scale: &[f32],
    shift: &[f32],
    epsilon: f32,
    then: Then,
) -> Vec<f32> {
    let channels = scale.len();
    assert!(channels > 0 && shift.len() == channels, "layer norm: scale and shift");
    assert!(input.len().is_multiple_of(channels), "layer norm: input of rows of {channels}");
    let chunk = chunk_len(input.len() / channels, TASKS_PER_THREAD, MIN_ROWS_PER_TASK) * channels;
    let run = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_mut(chunk).zip(input.par_chunks(chunk)).for_each(|(out, input)| {
            norm_rows(isa, input, scale, shift, epsilon, out);
            // SAFETY: `norm_rows` writes every value of every row.
            let out = unsafe { out.assume_init_mut() };
            match then {
                Then::Nothing => {}
                Then::Relu => out.iter_mut().for_each(|value| *value = value.max(0.0)),
                Then::Gelu => then.finish(isa, out),
            }
        });
    };
    // SAFETY: the chunks are whole rows and cover the output.
    unsafe { filled(input.len(), run) }
}

for_each_instruction_set! {
    fn norm_rows(input: &[f32], scale: &[f32], shift: &[f32], epsilon: f32, out: &mut [MaybeUninit<f32>]) = norm_rows_body
}

#[inline(always)]
fn norm_rows_body<const FUSED: bool, const LANES: usize>(
    input: &[f32],
    scale: &[f32],
    shift: &[f32],
    epsilon: f32,
    out: &mut [MaybeUninit<f32>],
) {
    let channels = scale.len();
    for (row, out) in input.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
        let mean = row_sum::<FUSED, LANES>(row, 0.0, false) / channels as f32;
        let variance = row_sum::<FUSED, LANES>(row, mean, true) / channels as f32;
        let factor = 1.0 / (variance + epsilon).sqrt();
        for (((out, value), scale), shift) in out.iter_mut().zip(row).zip(scale).zip(shift) {
            out.write(multiply_add::<FUSED>((value - mean) * factor, *scale, *shift));
        }
    }
}

/// The sum of `value - mean` over a row, or of its square.
#[inline(always)]
fn row_sum<const FUSED: bool, const LANES: usize>(row: &[f32], mean: f32, squared: bool) -> f32 {
    let term = |value: f32, sum: f32| {
        let centred = value - mean;
        if squared { multiply_add::<FUSED>(centred, centred, sum) } else { sum + centred }
    };
    let n_blocks = row.len() / LANES;
    let mut sums = [0.0; LANES];
    for block in 0..n_blocks {
        let values = load_lanes::<LANES>(row, block * LANES);
        for lane in 0..LANES {
            sums[lane] = term(values[lane], sums[lane]);
        }
    }
    row[n_blocks * LANES..].iter().fold(sums.iter().sum(), |sum, value| term(*value, sum))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{assert_near, noise};

    #[test]
    fn rows_have_mean_0_and_variance_1() {
        for isa in InstructionSet::available() {
            for (rows, channels) in [(3, 5), (70, 64), (2, 321)] {
                let input: Vec<f32> = noise(rows * channels, 1).iter().map(|value| value * 3.0 + 10.0).collect();
                let (scale, shift) = (noise(channels, 2), noise(channels, 3));
                let expected = (0..rows * channels).map(|at| {
                    let row = input[at / channels * channels..][..channels].iter().map(|value| f64::from(*value));
                    let mean = row.clone().sum::<f64>() / channels as f64;
                    let variance = row.map(|value| (value - mean).powi(2)).sum::<f64>() / channels as f64;
                    let normal = (f64::from(input[at]) - mean) / (variance + 1e-3).sqrt();
                    normal * f64::from(scale[at % channels]) + f64::from(shift[at % channels])
                });
                let expected: Vec<f64> = expected.collect();
                let found = layer_norm_on(isa, &input, &scale, &shift, 1e-3, Then::Nothing);
                assert_near(&format!("{isa:?} {channels}"), &found, &expected);
                let found = layer_norm_on(isa, &input, &scale, &shift, 1e-3, Then::Relu);
                let cut: Vec<f64> = expected.iter().map(|value| value.max(0.0)).collect();
                assert_near(&format!("{isa:?} {channels}, ReLU"), &found, &cut);
            }
        }
    }
}
