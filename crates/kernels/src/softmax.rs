//! The softmax of an attention's scores, without its division: that is made later, on fewer values.

use crate::instruction_set::{for_each_instruction_set, multiply_add};
use crate::lanes::load_lanes;

for_each_instruction_set! {
    /// Replaces every row of `scores`, `[rows, columns]`, by `exp(s - max(s))` of `s = scale * score + bias`, and writes one over each
    /// row's sum to `inverse_sums`, `[rows]`. `bias` is as `scores`, or empty.
    pub(crate) fn exp_rows(
        scores: &mut [f32],
        columns: usize,
        scale: f32,
        bias: &[f32],
        inverse_sums: &mut [f32],
    ) = exp_rows_body
}

for_each_instruction_set! {
    /// The same for every column of `scores`, `[rows, columns]`, without a bias; one over each column's sum in `inverse_sums`. `columns`
    /// is [`COLUMNS_AT_ONCE`].
    pub(crate) fn exp_columns(scores: &mut [f32], scale: f32, inverse_sums: &mut [f32]) = exp_columns_body
}

/// Columns of [`exp_columns`]: a vector of the widest instruction set.
pub(crate) const COLUMNS_AT_ONCE: usize = 16;

#[inline(always)]
fn exp_rows_body<const FUSED: bool, const LANES: usize>(
    scores: &mut [f32],
    columns: usize,
    scale: f32,
    bias: &[f32],
    inverse_sums: &mut [f32],
) {
    assert_eq!(scores.len(), columns * inverse_sums.len(), "softmax: scores");
    assert!(bias.is_empty() || bias.len() == scores.len(), "softmax: bias");
    let rows = scores.chunks_exact_mut(columns).zip(inverse_sums);
    for (row_idx, (row, inverse_sum)) in rows.enumerate() {
        if bias.is_empty() {
            row.iter_mut().for_each(|score| *score *= scale);
        } else {
            let bias = &bias[row_idx * columns..][..columns];
            row.iter_mut().zip(bias).for_each(|(score, bias)| *score = multiply_add::<FUSED>(*score, scale, *bias));
        }
        let max = row_max::<LANES>(row);
        let (whole, rest) = row.as_chunks_mut::<LANES>();
        let mut sums = [0.0; LANES];
        for chunk in whole {
            for lane in 0..LANES {
                let value = exp::<FUSED>(chunk[lane] - max);
                chunk[lane] = value;
                sums[lane] += value;
            }
        }
        let mut sum = sums.iter().sum::<f32>();
        for score in rest {
            *score = exp::<FUSED>(*score - max);
            sum += *score;
        }
        *inverse_sum = 1.0 / sum;
    }
}

#[inline(always)]
fn exp_columns_body<const FUSED: bool, const LANES: usize>(scores: &mut [f32], scale: f32, inverse_sums: &mut [f32]) {
    let (rows, rest) = scores.as_chunks_mut::<COLUMNS_AT_ONCE>();
    assert!(rest.is_empty() && inverse_sums.len() == COLUMNS_AT_ONCE, "softmax: scores and sums");
    let mut max = [f32::NEG_INFINITY; COLUMNS_AT_ONCE];
    for row in rows.iter_mut() {
        for lane in 0..COLUMNS_AT_ONCE {
            row[lane] *= scale;
            max[lane] = greater(row[lane], max[lane]);
        }
    }
    let mut sums = [0.0; COLUMNS_AT_ONCE];
    for row in rows {
        for lane in 0..COLUMNS_AT_ONCE {
            let value = exp::<FUSED>(row[lane] - max[lane]);
            row[lane] = value;
            sums[lane] += value;
        }
    }
    inverse_sums.iter_mut().zip(sums).for_each(|(inverse, sum)| *inverse = 1.0 / sum);
}

#[inline(always)]
fn row_max<const LANES: usize>(row: &[f32]) -> f32 {
    let n_blocks = row.len() / LANES;
    let mut max = [f32::NEG_INFINITY; LANES];
    for block in 0..n_blocks {
        let values = load_lanes::<LANES>(row, block * LANES);
        for lane in 0..LANES {
            max[lane] = greater(values[lane], max[lane]);
        }
    }
    row[n_blocks * LANES..].iter().chain(&max).fold(f32::NEG_INFINITY, |max, value| greater(*value, max))
}

/// The greater one; a NaN is not lost: where `max` is passed over, the difference to it is.
#[inline(always)]
fn greater(value: f32, max: f32) -> f32 {
    if value > max { value } else { max }
}

/// The exponential of a value of at most 0, within two units in the last place; 0 below -87. NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<const FUSED: bool>(value: f32) -> f32 {
    let bounded = if value < LOWEST { LOWEST } else { value };
    // Rounds to the nearest integer `n`, which then stands in the last bits.
    let shifted = multiply_add::<FUSED>(bounded, std::f32::consts::LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let rest = multiply_add::<FUSED>(n, -LN_2_LOW, multiply_add::<FUSED>(n, -LN_2_HIGH, bounded));
    let mut polynomial = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        polynomial = multiply_add::<FUSED>(polynomial, rest, coefficient);
    }
    // Times 2 to the power of n, through the exponent's bits. NaN keeps its bits: they are all set in the exponent.
    let scaled = f32::from_bits(polynomial.to_bits().wrapping_add(shifted.to_bits() << 23));
    let scaled = if value < LOWEST { 0.0 } else { scaled };
    if value.is_nan() { value } else { scaled }
}

/// The exponential of it is the smallest that is not denormal.
const LOWEST: f32 = -87.0;

/// 1.5 * 2^23: added to a small number, it leaves no bits for a fraction.
const ROUNDER: f32 = 12_582_912.0;

/// ln(2) in two parts, the first with zeros in its last bits, so that its product with a small integer is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instruction_set::InstructionSet;
    use crate::reference::noise;

    #[test]
    fn exponentials_are_those_of_the_standard_library() {
        for idx in 0..200_000 {
            let value = -(idx as f32) * 4.4e-4;
            let expected = f64::from(value).exp();
            for found in [exp::<true>(value), exp::<false>(value)] {
                let error = (f64::from(found) - expected).abs();
                assert!(error <= 3e-7 * expected || (value < LOWEST && found == 0.0), "{value}: {found} {expected}");
            }
        }
        assert!(exp::<true>(f32::NAN).is_nan() && exp::<true>(0.0) == 1.0 && exp::<true>(f32::NEG_INFINITY) == 0.0);
    }

    #[test]
    fn rows_and_columns_sum_to_one() {
        for isa in InstructionSet::available() {
            for (rows, columns) in [(3, 7), (5, 16), (4, 49), (2, 200)] {
                let (scores, bias) = (noise(rows * columns, 1), noise(rows * columns, 2));
                let (mut found, mut inverse) = (scores.clone(), vec![0.0; rows]);
                exp_rows(isa, &mut found, columns, 3.0, &bias, &mut inverse);
                for (row, inverse) in inverse.iter().enumerate() {
                    let at = |column: usize| row * columns + column;
                    let logit = |column: usize| f64::from(scores[at(column)]) * 3.0 + f64::from(bias[at(column)]);
                    let sum: f64 = (0..columns).map(|column| logit(column).exp()).sum();
                    for column in 0..columns {
                        let share = f64::from(found[at(column)] * inverse);
                        assert!((share - logit(column).exp() / sum).abs() < 1e-6, "{isa:?} {row} {column}");
                    }
                }
            }
            let scores = noise(40 * COLUMNS_AT_ONCE, 3);
            let (mut found, mut inverse) = (scores.clone(), vec![0.0; COLUMNS_AT_ONCE]);
            exp_columns(isa, &mut found, 2.0, &mut inverse);
            for (column, inverse) in inverse.iter().enumerate() {
                let logit = |row: usize| f64::from(scores[row * COLUMNS_AT_ONCE + column]) * 2.0;
                let sum: f64 = (0..40).map(|row| logit(row).exp()).sum();
                for row in 0..40 {
                    let share = f64::from(found[row * COLUMNS_AT_ONCE + column] * inverse);
                    assert!((share - logit(row).exp() / sum).abs() < 1e-6, "{isa:?} {row} {column}");
                }
            }
        }
    }

    #[test]
    fn a_score_that_is_no_number_is_not_lost() {
        for isa in InstructionSet::available() {
            for at in [0, 9, 48] {
                let (mut scores, mut inverse) = (vec![0.5; 49], [0.0]);
                scores[at] = f32::NAN;
                exp_rows(isa, &mut scores, 49, 1.0, &[], &mut inverse);
                assert!(inverse[0].is_nan(), "{isa:?} {at}");
            }
        }
    }
}
