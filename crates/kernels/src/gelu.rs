//! GELU, `x * P(X <= x)` of a normal X: what ends most layers of a transformer.

use crate::instruction_set::{for_each_instruction_set, multiply_add};

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
        *value = gelu::<FUSED>(*value);
    }
}

#[inline(always)]
fn gelu<const FUSED: bool>(value: f32) -> f32 {
    let bounded = value.clamp(-END, END);
    // The square, mapped to -1 to 1, where a polynomial of this degree loses nothing to rounding.
    let square = multiply_add::<FUSED>(bounded * bounded, 2.0 / (END * END), -1.0);
    let mut polynomial = COEFFICIENTS[COEFFICIENTS.len() - 1];
    for &coefficient in COEFFICIENTS[..COEFFICIENTS.len() - 1].iter().rev() {
        polynomial = multiply_add::<FUSED>(polynomial, square, coefficient);
    }
    let half = 0.5 * value;
    multiply_add::<FUSED>(half, bounded * polynomial, half)
}

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
}
