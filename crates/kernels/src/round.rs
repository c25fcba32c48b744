//! Rounding to a uniform grid, and what it passes on to the gradient of its input and of its step.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::buffer::filled;
use crate::instruction_set::{InstructionSet, for_each_instruction_set};

/// A grid `q * step` with integers `q` from `low` to `high`; each of equally long rows of values has a step of its own.
#[derive(Debug, Clone, Copy)]
pub struct Grid<'a> {
    /// One for each row, above 0.
    pub steps: &'a [f32],
    /// Smallest integer, above -2^21.
    pub low: f32,
    /// Largest integer, below 2^21.
    pub high: f32,
}

/// Gradients of [`round`].
#[derive(Debug)]
pub struct RoundGradients {
    /// Of the input.
    pub input: Vec<f32>,
    /// Of each row's step.
    pub steps: Vec<f32>,
}

impl Grid<'_> {
    /// Length of a row.
    fn row_len(&self, len: usize) -> usize {
        assert!(!self.steps.is_empty() && len.is_multiple_of(self.steps.len()), "round: rows of one length");
        len / self.steps.len()
    }
}

/// Each value's nearest one on its row's grid, ties to even integers; beyond the grid's ends, the end.
pub fn round(grid: &Grid, input: &[f32]) -> Vec<f32> {
    let (isa, row_len) = (InstructionSet::detect(), grid.row_len(input.len()));
    if row_len == 0 {
        return vec![];
    }
    let run = |out: &mut [MaybeUninit<f32>]| {
        let rows = out.par_chunks_mut(row_len).zip(input.par_chunks(row_len)).zip(grid.steps);
        rows.for_each(|((out, input), &step)| {
            let parts = out.par_chunks_mut(PART).zip(input.par_chunks(PART));
            parts.for_each(|(out, input)| round_part(isa, step, grid.low, grid.high, input, out));
        });
    };
    // SAFETY: rows and parts cover the output, and `round_part` writes all of its part.
    unsafe { filled(input.len(), run) }
}

/// Gradients of [`round`]: the input's passes straight through where the nearest integer is on the grid and is 0 elsewhere;
/// the step's is `q - input / step` inside and the end's integer outside.
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
            // RowElements of a fixed length, added in order: the sum does not depend on the threads.
            let parts = out.par_chunks_mut(PART).zip(input.par_chunks(PART).zip(grad.par_chunks(PART)));
            let sums = parts.map(|(out, (input, grad))| {
                let mut sum = [0.0; SUMS];
                backward_part(isa, step, grid.low, grid.high, input, grad, out, &mut sum);
                sum.iter().map(|&lane| f64::from(lane)).sum::<f64>()
            });
            *sum = sums.collect::<Vec<f64>>().iter().sum::<f64>() as f32;
        });
    };
    // SAFETY: rows and parts cover the output, and `backward_part` writes all of its part.
    let input = unsafe { filled(input.len(), run) };
    RoundGradients { input, steps }
}

/// Values of a task; also the longest sum that is taken in 32 bits, over [`SUMS`] lanes.
const PART: usize = 16384;
const SUMS: usize = 32;

/// Adding and subtracting 1.5 * 2^23 rounds half to even at the units.
const ROUND: f32 = 12_582_912.0;

for_each_instruction_set! {
    fn round_part(step: f32, low: f32, high: f32, input: &[f32], out: &mut [MaybeUninit<f32>]) = round_body
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
    fn backward_part(
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
        fn rounds_and_passes_on_what_the_formulas_say(
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
    fn long_rows_are_cut_into_parts_and_ties_go_to_even() {
        let input: Vec<f32> = (0..3 * PART + 5).map(|at| (at % 9) as f32 * 0.25 - 1.0).collect();
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
