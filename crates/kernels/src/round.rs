//! Fake quantization: rounding to a uniform grid, with straight-through gradients of the values and of the grid's step.
//!
//! ```text
//! q(x) = clamp(round(x / step), low, high)       output = q(x) * step
//!
//!              inside the grid       beyond an end
//! d input      grad                  0
//! d step       grad * (q - x/step)   grad * end
//! ```

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::buffer::filled;
use crate::instruction_set::{InstructionSet, for_each_instruction_set};

/// A grid `q * step` with integers `q` from `low` to `high`. Values are cut into rows of one length, each with its own step.
#[derive(Debug, Clone, Copy)]
pub struct Grid<'a> {
    /// One for each row, above 0.
    pub steps: &'a [f32],
    /// Minimum integer, above -2^21.
    pub low: f32,
    /// Maximum integer, below 2^21.
    pub high: f32,
}

/// Gradients of [`round`].
#[derive(Debug)]
pub struct RoundGradients {
    /// Of the input.
    pub input: Vec<f32>,
    /// Of each row's step, summed over the row.
    pub steps: Vec<f32>,
}

impl Grid<'_> {
    /// Length of a row.
    fn row_len(&self, len: usize) -> usize {
        assert!(!self.steps.is_empty() && len.is_multiple_of(self.steps.len()), "round: rows of one length");
        len / self.steps.len()
    }
}

/// Each value's nearest one on its row's grid, ties to even integers; beyond the grid's ends, the end. NaN stays NaN.
///
/// # Panics
/// If the values cannot be cut into as many rows of one length as there are steps.
pub fn round(grid: &Grid, input: &[f32]) -> Vec<f32> {
    let (isa, row_len) = (InstructionSet::detect(), grid.row_len(input.len()));
    if row_len == 0 {
        return vec![];
    }
    let run = |out: &mut [MaybeUninit<f32>]| {
        let rows = out.par_chunks_mut(row_len).zip(input.par_chunks(row_len)).zip(grid.steps);
        rows.for_each(|((out, input), &step)| {
            let chunks = out.par_chunks_mut(CHUNK).zip(input.par_chunks(CHUNK));
            chunks.for_each(|(out, input)| round_chunk(isa, step, grid.low, grid.high, input, out));
        });
    };
    // SAFETY: rows and chunks cover the output, and `round_chunk` writes all of its chunk.
    unsafe { filled(input.len(), run) }
}

/// Gradients of [`round`] from that of its output.
///
/// The input's passes straight through where the nearest integer is on the grid, and is 0 elsewhere. The step's is
/// `q - input / step` inside the grid and the end's integer outside.
///
/// # Panics
/// As [`round`], and if input and gradient differ in length.
///
/// # Source
/// Esser et al. 2020, "Learned Step Size Quantization", equation 3; for steps of powers of two Jain et al. 2020, "Trained
/// Quantization Thresholds", equation 6, which is the same before the logarithm.
pub fn round_backward(grid: &Grid, input: &[f32], grad_output: &[f32]) -> RoundGradients {
    assert_eq!(input.len(), grad_output.len(), "round_backward: input and gradient");
    let (isa, row_len) = (InstructionSet::detect(), grid.row_len(input.len()));
    if row_len == 0 {
        return RoundGradients { input: vec![], steps: vec![0.0; grid.steps.len()] };
    }
    let mut steps = vec![0.0; grid.steps.len()];
    let run = |out: &mut [MaybeUninit<f32>]| {
        let values = input.par_chunks(row_len).zip(grad_output.par_chunks(row_len));
        let rows = out.par_chunks_mut(row_len).zip(values).zip(grid.steps.par_iter().zip(&mut steps));
        rows.for_each(|((out, (input, grad)), (&step, sum))| {
            // Chunks of a fixed length, added in order: the sum does not depend on the threads.
            let chunks = out.par_chunks_mut(CHUNK).zip(input.par_chunks(CHUNK).zip(grad.par_chunks(CHUNK)));
            let sums = chunks.map(|(out, (input, grad))| {
                let mut sum = [0.0; SUMS];
                backward_chunk(isa, step, grid.low, grid.high, input, grad, out, &mut sum);
                sum.iter().map(|&lane| f64::from(lane)).sum::<f64>()
            });
            *sum = sums.collect::<Vec<f64>>().iter().sum::<f64>() as f32;
        });
    };
    // SAFETY: rows and chunks cover the output, and `backward_chunk` writes all of its chunk.
    let input = unsafe { filled(input.len(), run) };
    RoundGradients { input, steps }
}

/// Values of a task; also the longest sum that is taken in 32 bits, over [`SUMS`] lanes.
const CHUNK: usize = 16384;
/// Sums of a step's gradient that are taken side by side, in vectors.
const SUMS: usize = 32;

/// Adding and subtracting 1.5 * 2^23 rounds half to even at the units.
const ROUND: f32 = 12_582_912.0;

for_each_instruction_set! {
    fn round_chunk(step: f32, low: f32, high: f32, input: &[f32], out: &mut [MaybeUninit<f32>]) = round_body
}

#[inline(always)]
fn round_body<const FUSED: bool, const LANES: usize>(
    step: f32,
    low: f32,
    high: f32,
    input: &[f32],
    out: &mut [MaybeUninit<f32>],
) {
    for (out, value) in out.iter_mut().zip(input) {
        out.write((((value / step).clamp(low, high) + ROUND) - ROUND) * step);
    }
}

for_each_instruction_set! {
    fn backward_chunk(
        step: f32, low: f32, high: f32, input: &[f32], grad: &[f32], out: &mut [MaybeUninit<f32>], sums: &mut [f32; SUMS],
    ) = backward_body
}

#[inline(always)]
fn backward_body<const FUSED: bool, const LANES: usize>(
    step: f32,
    low: f32,
    high: f32,
    input: &[f32],
    grad: &[f32],
    out: &mut [MaybeUninit<f32>],
    sums: &mut [f32; SUMS],
) {
    for (out, (input, grad)) in out.chunks_mut(SUMS).zip(input.chunks(SUMS).zip(grad.chunks(SUMS))) {
        for (sum, (out, (input, grad))) in sums.iter_mut().zip(out.iter_mut().zip(input.iter().zip(grad))) {
            let steps = input / step;
            let nearest = (steps.clamp(low - 1.0, high + 1.0) + ROUND) - ROUND;
            let rounded = nearest.clamp(low, high);
            let inside = nearest == rounded;
            out.write(if inside { *grad } else { 0.0 });
            *sum += grad * (rounded - if inside { steps } else { 0.0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The formulas in 64 bits, one value at a time.
    fn expected(step: f32, low: f32, high: f32, value: f32, grad: f32) -> (f32, f32, f64) {
        let steps = value / step;
        let nearest = steps.round_ties_even();
        let rounded = nearest.clamp(low, high);
        let inside = (low..=high).contains(&nearest);
        let of_step = f64::from(grad) * (f64::from(rounded) - if inside { f64::from(steps) } else { 0.0 });
        (rounded * step, if inside { grad } else { 0.0 }, of_step)
    }

    proptest! {
        #[test]
        fn values_and_gradients_follow_the_formulas(
            rows in 1usize..5,
            row_len in 1usize..200,
            signed in any::<bool>(),
            bits in 2u32..9,
            seed in any::<u32>(),
        ) {
            let (low, high) = match (signed, 1i32 << (bits - 1)) {
                (true, half) => (-half as f32, half as f32 - 1.0),
                (false, half) => (0.0, 2.0 * half as f32 - 1.0),
            };
            let mut state = seed;
            let mut random = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            };
            let steps: Vec<f32> = (0..rows).map(|_| 0.01 + random().abs()).collect();
            let input: Vec<f32> = (0..rows * row_len).map(|at| 1.5 * high * steps[at / row_len] * random()).collect();
            let grad: Vec<f32> = input.iter().map(|_| random()).collect();
            let grid = Grid { steps: &steps, low, high };
            let (rounded, gradients) = (round(&grid, &input), round_backward(&grid, &input, &grad));
            let mut sums = vec![0.0; rows];
            for at in 0..input.len() {
                let (value, of_input, of_step) = expected(steps[at / row_len], low, high, input[at], grad[at]);
                prop_assert_eq!(rounded[at], value);
                prop_assert_eq!(gradients.input[at], of_input);
                sums[at / row_len] += of_step;
            }
            for (found, expected) in gradients.steps.iter().zip(&sums) {
                prop_assert!((f64::from(*found) - expected).abs() < 1e-5 * row_len as f64 * f64::from(high), "{found} {expected}");
            }
        }
    }

    #[test]
    fn long_rows_are_cut_into_chunks_and_ties_go_to_even() {
        let input: Vec<f32> = (0..3 * CHUNK + 5).map(|at| (at % 9) as f32 * 0.25 - 1.0).collect();
        let grid = Grid { steps: &[0.5], low: -2.0, high: 1.0 };
        // -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2 steps; 1.5 rounds to 2, which is beyond the grid.
        let rounded = [-1.0, -1.0, -0.5, 0.0, 0.0, 0.0, 0.5, 0.5, 0.5];
        let found = round(&grid, &input);
        assert!(found.iter().enumerate().all(|(at, value)| *value == rounded[at % 9]));
        let gradients = round_backward(&grid, &input, &vec![1.0; input.len()]);
        let of_step: f64 = (0..input.len()).map(|at| [0.0, -0.5, 0.0, 0.5, 0.0, -0.5, 0.0, 1.0, 1.0][at % 9]).sum();
        assert!((f64::from(gradients.steps[0]) - of_step).abs() < 1e-2, "{} {of_step}", gradients.steps[0]);
    }

    #[test]
    fn not_a_number_stays_one_and_no_values_are_none() {
        let grid = Grid { steps: &[1.0], low: -4.0, high: 3.0 };
        assert!(round(&grid, &[f32::NAN])[0].is_nan());
        assert!(round(&grid, &[]).is_empty());
        assert_eq!(round_backward(&grid, &[], &[]).steps, [0.0]);
    }
}
