//! GELU, `x * P(X <= x)` of a normal X: what ends most layers of a transformer.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::buffer::filled;
use crate::instruction_set::{InstructionSet, for_each_instruction_set, multiply_add};
use crate::softmax::exp;
use crate::tiling::{TASKS_PER_THREAD, chunk_len};

/// The GELU of each value, within 1e-6 of the exact formula. NaN stays NaN.
///
/// # Source
/// Hendrycks and Gimpel 2016, "Gaussian Error Linear Units": the formula with the error function, not the one with tanh.
pub fn gelu(input: &[f32]) -> Vec<f32> {
    let isa = InstructionSet::detect();
    let chunk = chunk_len(input.len(), TASKS_PER_THREAD, MIN_CHUNK);
    let run = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_mut(chunk).zip(input.par_chunks(chunk)).for_each(|(out, input)| {
            gelu_in_place(isa, out.write_copy_of_slice(input));
        });
    };
    // SAFETY: the chunks cover the output, and each is copied from the input.
    unsafe { filled(input.len(), run) }
}

/// Gradient of the input of [`gelu`], from its input.
///
/// # Panics
/// If input and gradient differ in length.
pub fn gelu_backward(input: &[f32], grad_output: &[f32]) -> Vec<f32> {
    let isa = InstructionSet::detect();
    assert_eq!(input.len(), grad_output.len(), "GELU: input and gradient");
    let chunk = chunk_len(input.len(), TASKS_PER_THREAD, MIN_CHUNK);
    let run = |out: &mut [MaybeUninit<f32>]| {
        let chunks = out.par_chunks_mut(chunk).zip(input.par_chunks(chunk)).zip(grad_output.par_chunks(chunk));
        chunks.for_each(|((out, input), grads)| gelu_gradient(isa, input, grads, out));
    };
    // SAFETY: the chunks cover the output, and `gelu_gradient` writes every value.
    unsafe { filled(input.len(), run) }
}

for_each_instruction_set! {
    /// Writes each gradient times the GELU's slope at the value.
    pub(crate) fn gelu_gradient(values: &[f32], grads: &[f32], out: &mut [MaybeUninit<f32>]) = gelu_gradient_body
}

#[inline(always)]
fn gelu_gradient_body<const FUSED: bool, const LANES: usize>(
    values: &[f32],
    grads: &[f32],
    out: &mut [MaybeUninit<f32>],
) {
    for (out, (value, grad)) in out.iter_mut().zip(values.iter().zip(grads)) {
        out.write(grad * gelu_slope::<FUSED>(*value));
    }
}

/// `P(X <= x) + x * p(x)` of a normal X with the density `p`.
#[inline(always)]
pub(crate) fn gelu_slope<const FUSED: bool>(value: f32) -> f32 {
    let bounded = value.clamp(-END, END);
    let density = exp::<FUSED>(-0.5 * bounded * bounded) * FRAC_1_SQRT_TAU;
    let share = multiply_add::<FUSED>(0.5 * bounded, error_function::<FUSED>(bounded), 0.5);
    multiply_add::<FUSED>(bounded, density, share)
}

for_each_instruction_set! {
    /// Replaces each value by its GELU, within 1e-6 of the exact formula. NaN stays NaN.
    ///
    /// # Source
    /// Hendrycks and Gimpel 2016, "Gaussian Error Linear Units": the formula with the error function, not the one with tanh.
    pub(crate) fn gelu_in_place(values: &mut [f32]) = gelu_body
}

#[inline(always)]
fn gelu_body<const FUSED: bool, const LANES: usize>(values: &mut [f32]) {
    for value in values {
        *value = gelu_of::<FUSED>(*value);
    }
}

#[inline(always)]
fn gelu_of<const FUSED: bool>(value: f32) -> f32 {
    let bounded = value.clamp(-END, END);
    let half = 0.5 * value;
    multiply_add::<FUSED>(half, bounded * error_function::<FUSED>(bounded), half)
}

/// `erf(x / sqrt(2)) / x`, of an x between -[`END`] and [`END`].
#[inline(always)]
fn error_function<const FUSED: bool>(bounded: f32) -> f32 {
    // The square, mapped to -1 to 1, where a polynomial of this degree loses nothing to rounding.
    let square = multiply_add::<FUSED>(bounded * bounded, 2.0 / (END * END), -1.0);
    let mut polynomial = COEFFICIENTS[COEFFICIENTS.len() - 1];
    for &coefficient in COEFFICIENTS[..COEFFICIENTS.len() - 1].iter().rev() {
        polynomial = multiply_add::<FUSED>(polynomial, square, coefficient);
    }
    polynomial
}

/// One over the root of two pi.
const FRAC_1_SQRT_TAU: f32 = 0.398_942_3;

/// Values per task below which a task costs more than it saves.
const MIN_CHUNK: usize = 8192;

/// Beyond it, the error function of `x / sqrt(2)` is 1 to within 3e-8.
const END: f32 = 5.6;

/// `erf(x / sqrt(2)) / x` as a polynomial of `2 x^2 / END^2 - 1`, lowest degree first: a Chebyshev fit of 4,000 points.
const COEFFICIENTS: [f32; 17] = [
    0.252_519_2,
    -0.126_102_5,
    0.093_961_2,
    -0.076_693_83,
    0.063_953_96,
    -0.052_589_686,
    0.041_750_118,
    -0.031_688_917,
    0.022_571_576,
    -0.014_598_346,
    0.009_216_372,
    -0.006_419_910_4,
    0.003_495_794,
    -0.000_759_751_2,
    0.000_416_817_53,
    -0.000_803_611_8,
    0.000_342_959_85,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instruction_set::InstructionSet;

    /// Values of `x / 2 * (1 + erf(x / sqrt(2)))` by Python's `math.erf`.
    #[test]
    fn gelu_is_the_exact_formula() {
        let points = [
            (-9.0, 0.0),
            (-5.0, -1.433_257_845e-6),
            (-3.0, -0.004_049_694_1),
            (-1.0, -0.158_655_254),
            (-0.1, -0.046_017_216),
            (0.0, 0.0),
            (1e-3, 0.000_500_398_942),
            (0.75, 0.580_029_486),
            (2.0, 1.954_499_736),
            (4.5, 4.499_984_709),
            (30.0, 30.0),
        ];
        for isa in InstructionSet::available() {
            let mut values: Vec<f32> = points.iter().map(|(x, _)| *x as f32).collect();
            gelu_in_place(isa, &mut values);
            for (value, (x, expected)) in values.iter().zip(points) {
                assert!((f64::from(*value) - expected).abs() < 1e-6, "{isa:?}, {x}: {value}, {expected}");
            }
            let mut not_a_number = [f32::NAN; 16];
            gelu_in_place(isa, &mut not_a_number);
            assert!(not_a_number.iter().all(|value| value.is_nan()), "{isa:?}");
        }
    }

    #[test]
    fn the_slope_is_that_of_the_formula() {
        let grads = [2.0; 41];
        let values: Vec<f32> = (0..41).map(|idx| idx as f32 * 0.45 - 9.0).collect();
        for (value, found) in values.iter().zip(gelu_backward(&values, &grads)) {
            // Of the formula in double precision, by differences: `erf` as its series or 1.
            let step = 1e-4;
            let slope = (formula(f64::from(*value) + step) - formula(f64::from(*value) - step)) / (2.0 * step);
            assert!((f64::from(found) - 2.0 * slope).abs() < 4e-6, "{value}: {found}, {}", 2.0 * slope);
        }
        assert!(gelu_backward(&[f32::NAN], &[1.0])[0].is_nan());
        let twice = gelu(&values);
        assert!(
            twice
                .iter()
                .zip(&values)
                .all(|(found, value)| (f64::from(*found) - formula(f64::from(*value))).abs() < 1e-6)
        );
    }

    /// `x * P(X <= x)` by the integral of the density, Simpson's rule.
    fn formula(x: f64) -> f64 {
        let density = |at: f64| (-0.5 * at * at).exp() / std::f64::consts::TAU.sqrt();
        let n = 2000;
        let step = x / f64::from(n);
        let inner: f64 = (1..n).map(|idx| density(f64::from(idx) * step) * if idx % 2 == 1 { 4.0 } else { 2.0 }).sum();
        x * (0.5 + (density(0.0) + inner + density(x)) * step / 3.0)
    }
}
