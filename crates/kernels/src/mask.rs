//! Sums over the pixels of masks, of which all mask losses are made, and the gradient of any loss that is made of them.
//!
//! Dice, IoU, mean squared error and cross-entropy are functions of a few sums per sample. So one pass over the pixels makes
//! all of them, and another turns the gradients of the sums into that of the logits:
//!
//! ```text
//! p = sigmoid(sharpness * x), t of the teacher, y the true mask
//! sums         p, t, y, p y, p t, (p - t)^2, cross-entropy
//! d loss / dx  sharpness * (d loss / dp * p (1 - p) + d loss / d cross-entropy * (p - y))
//! ```
//!
//! Exponential and logarithm are polynomials here, which the compiler vectorises.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::buffer::filled;
use crate::instruction_set::{InstructionSet, for_each_instruction_set, multiply_add};

/// Mask logits of a batch and the true masks, `[samples, pixels]` each.
#[derive(Debug, Clone, Copy)]
pub struct Masks<'a> {
    /// Pixels of a sample.
    pub pixels: usize,
    /// Factor of all logits before the logistic function.
    pub sharpness: f32,
    /// The student's logits.
    pub student: &'a [f32],
    /// The teacher's logits, if there is one.
    pub teacher: Option<&'a [f32]>,
    /// The true masks, in `[0, 1]`.
    pub truth: &'a [f32],
}

/// A value for each sum over a sample's pixels: the sums, or a loss's gradients of them. `p` and `t` are the probabilities of
/// student and teacher, `y` is the true mask.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PixelSums {
    /// Of `p`.
    pub student: f32,
    /// Of `t`.
    pub teacher: f32,
    /// Of `y`.
    pub truth: f32,
    /// Of `p y`.
    pub student_truth: f32,
    /// Of `p t`.
    pub student_teacher: f32,
    /// Of `(p - t)^2`.
    pub squared_difference: f32,
    /// Of `-y ln p - (1 - y) ln(1 - p)`, from the logits: never infinite for finite ones.
    pub cross_entropy: f32,
}

/// Result of [`sums`].
pub struct MaskForward {
    /// Of each sample.
    pub sums: Vec<PixelSums>,
    /// The student's probabilities, `[samples, pixels]`.
    pub student_probs: Vec<f32>,
    /// The teacher's probabilities; empty if there is no teacher.
    pub teacher_probs: Vec<f32>,
}

/// The sums of each sample; those of the teacher are 0 if there is none.
///
/// # Panics
/// If the maps differ in length or are not whole samples.
pub fn sums(masks: &Masks) -> MaskForward {
    sums_on(InstructionSet::detect(), masks)
}

/// The gradient of the student's logits, `[samples, pixels]`, from those of each sample's sums; `student` and `teacher` are
/// the probabilities that [`sums`] made of the masks.
///
/// Gradients of the sums without `p` are not read. A teacher whose sums have gradients 0 is not read.
///
/// # Panics
/// If the probabilities are not those of `masks` or there is not one gradient per sample.
pub fn backward(masks: &Masks, [student, teacher]: [&[f32]; 2], gradients: &[PixelSums]) -> Vec<f32> {
    let Masks { pixels, sharpness, truth, .. } = *masks;
    assert_eq!(gradients.len() * pixels, student.len(), "mask sums: gradients and samples");
    assert_eq!((truth.len(), student.len()), (masks.student.len(), masks.student.len()), "mask sums: probabilities");
    let isa = InstructionSet::detect();
    let run = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_mut(pixels).zip(gradients).enumerate().for_each(|(sample, (out, gradients))| {
            let range = sample * pixels..(sample + 1) * pixels;
            let has_teacher = (gradients.student_teacher, gradients.squared_difference) != (0.0, 0.0);
            // Its products with 0 are 0, unless it is not a number.
            let teacher = if has_teacher { teacher } else { student };
            let maps = [&student[range.clone()], &teacher[range.clone()], &truth[range]];
            gradient(isa, sharpness, gradients, maps, out);
        });
    };
    // SAFETY: the chunks cover the output, and `gradient` writes all of each.
    unsafe { filled(student.len(), run) }
}

fn sums_on(isa: InstructionSet, masks: &Masks) -> MaskForward {
    let Masks { pixels, sharpness, student, teacher, truth } = *masks;
    assert!(pixels > 0 && student.len().is_multiple_of(pixels), "mask sums: student's logits and pixels");
    assert_eq!(truth.len(), student.len(), "mask sums: true masks and student's logits");
    assert!(teacher.is_none_or(|teacher| teacher.len() == student.len()), "mask sums: teacher's and student's logits");
    let mut sums = vec![PixelSums::default(); student.len() / pixels];
    let mut teacher_probs = vec![];
    let run = |out: &mut [MaybeUninit<f32>]| {
        let maps = out.par_chunks_mut(pixels).zip(student.par_chunks(pixels)).zip(truth.par_chunks(pixels));
        maps.zip(&mut sums).for_each(|(((out, logits), truth), sums)| {
            let mut wide = [0.0; 4];
            student_sums(isa, sharpness, [logits, truth], out, &mut wide);
            [sums.student, sums.truth, sums.student_truth, sums.cross_entropy] = wide.map(|sum| sum as f32);
        });
    };
    // SAFETY: the chunks cover the output, and `student_sums` writes all of each.
    let student_probs = unsafe { filled(student.len(), run) };
    if let Some(teacher) = teacher {
        let run = |out: &mut [MaybeUninit<f32>]| {
            let maps = out.par_chunks_mut(pixels).zip(teacher.par_chunks(pixels)).zip(student_probs.par_chunks(pixels));
            maps.zip(&mut sums).for_each(|(((out, logits), student), sums)| {
                let mut wide = [0.0; 3];
                teacher_sums(isa, sharpness, [logits, student], out, &mut wide);
                [sums.teacher, sums.student_teacher, sums.squared_difference] = wide.map(|sum| sum as f32);
            });
        };
        // SAFETY: as above, by `teacher_sums`.
        teacher_probs = unsafe { filled(teacher.len(), run) };
    }
    MaskForward { sums, student_probs, teacher_probs }
}

for_each_instruction_set! {
    /// Probabilities, and the sums of `p`, `y`, `p y` and of the cross-entropy, of logits and true mask.
    fn student_sums(sharpness: f32, maps: [&[f32]; 2], out: &mut [MaybeUninit<f32>], sums: &mut [f64; 4]) = student_body
}
for_each_instruction_set! {
    /// Probabilities, and the sums of `t`, `p t` and `(p - t)^2`, of logits and the student's probabilities.
    fn teacher_sums(sharpness: f32, maps: [&[f32]; 2], out: &mut [MaybeUninit<f32>], sums: &mut [f64; 3]) = teacher_body
}
for_each_instruction_set! {
    /// The gradient of the logits, of `p`, `t` and `y`.
    fn gradient(sharpness: f32, gradients: &PixelSums, maps: [&[f32]; 3], out: &mut [MaybeUninit<f32>]) = gradient_body
}

#[inline(always)]
fn student_body<const FUSED: bool, const LANES: usize>(
    sharpness: f32,
    maps: [&[f32]; 2],
    out: &mut [MaybeUninit<f32>],
    sums: &mut [f64; 4],
) {
    pixel_sums::<LANES, 4>(maps, out, sums, |logit, truth| {
        let logit = logit * sharpness;
        let (prob, exp) = logistic::<FUSED>(logit);
        // ln p = min(x, 0) - ln(1 + e^-|x|), and ln(1 - p) = ln p - x.
        let below = if logit > 0.0 { 0.0 } else { logit };
        let cross_entropy = (1.0 - truth) * logit - below + ln_1p::<FUSED>(exp);
        (prob, [prob, truth, prob * truth, cross_entropy])
    });
}

#[inline(always)]
fn teacher_body<const FUSED: bool, const LANES: usize>(
    sharpness: f32,
    maps: [&[f32]; 2],
    out: &mut [MaybeUninit<f32>],
    sums: &mut [f64; 3],
) {
    pixel_sums::<LANES, 3>(maps, out, sums, |logit, student| {
        let (prob, _) = logistic::<FUSED>(logit * sharpness);
        let difference = student - prob;
        (prob, [prob, student * prob, difference * difference])
    });
}

#[inline(always)]
fn gradient_body<const FUSED: bool, const LANES: usize>(
    sharpness: f32,
    gradients: &PixelSums,
    [student, teacher, truth]: [&[f32]; 3],
    out: &mut [MaybeUninit<f32>],
) {
    let d = gradients;
    let twice = 2.0 * d.squared_difference;
    for (((out, p), t), y) in out.iter_mut().zip(student).zip(teacher).zip(truth) {
        let d_prob = d.student + d.student_teacher * t + d.student_truth * y + twice * (p - t);
        out.write(sharpness * (d_prob * p * (1.0 - p) + d.cross_entropy * (p - y)));
    }
}

/// Writes the first result of `pixel` for each pair of values, and adds the others to `sums`.
#[inline(always)]
fn pixel_sums<const LANES: usize, const N: usize>(
    [first, second]: [&[f32]; 2],
    out: &mut [MaybeUninit<f32>],
    sums: &mut [f64; N],
    pixel: impl Fn(f32, f32) -> (f32, [f32; N]),
) {
    let blocks = first.chunks(PIXELS_PER_SINGLE_SUM).zip(second.chunks(PIXELS_PER_SINGLE_SUM));
    for (out, (first, second)) in out.chunks_mut(PIXELS_PER_SINGLE_SUM).zip(blocks) {
        let mut single = [[0.0f32; LANES]; N];
        let (first, first_rest) = first.as_chunks::<LANES>();
        let (second, second_rest) = second.as_chunks::<LANES>();
        let (out, out_rest) = out.as_chunks_mut::<LANES>();
        for (out, (first, second)) in out.iter_mut().zip(first.iter().zip(second)) {
            for lane in 0..LANES {
                let (value, terms) = pixel(first[lane], second[lane]);
                out[lane].write(value);
                for idx in 0..N {
                    single[idx][lane] += terms[idx];
                }
            }
        }
        for (sum, single) in sums.iter_mut().zip(&single) {
            *sum += single.iter().map(|value| f64::from(*value)).sum::<f64>();
        }
        for (out, (first, second)) in out_rest.iter_mut().zip(first_rest.iter().zip(second_rest)) {
            let (value, terms) = pixel(*first, *second);
            out.write(value);
            sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += f64::from(term));
        }
    }
}

/// `1 / (1 + e^-x)` and `e^-|x|`.
#[inline(always)]
fn logistic<const FUSED: bool>(x: f32) -> (f32, f32) {
    let exp = exp_negative::<FUSED>(-x.abs());
    let upper = 1.0 / (1.0 + exp);
    (if x < 0.0 { exp * upper } else { upper }, exp)
}

/// `e^x` of `x` at most 0, to two units in the last place; below -87, that of -87. NaN stays NaN.
///
/// `2^k e^r` with the whole `k` nearest to `x / ln 2`; `e^r` by its Taylor series, whose first term left out is below
/// `0.35^8 / 8!`, 6e-9.
#[inline(always)]
fn exp_negative<const FUSED: bool>(x: f32) -> f32 {
    let x = if x < -87.0 { -87.0 } else { x };
    // Adding 1.5 * 2^23 leaves no bits for a fraction: `k` is in the lowest bits.
    let shifted = x * std::f32::consts::LOG2_E + ROUNDER;
    let k = shifted - ROUNDER;
    // ln 2 in two parts, the first of which `k` multiplies without rounding.
    let r = multiply_add::<FUSED>(k, -LN_2_HIGH, x);
    let r = multiply_add::<FUSED>(k, -LN_2_LOW, r);
    let mut sum = 1.0 / 5040.0;
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = multiply_add::<FUSED>(sum, r, factor);
    }
    sum * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// `ln(1 + x)` of `x` from 0 to 1, to two units in the last place.
///
/// `2 artanh(s)` with `s = x / (2 + x)`, at most a third, by its Taylor series; the first term left out is below
/// `3^-14 / 15` of the sum, 1.4e-8.
#[inline(always)]
fn ln_1p<const FUSED: bool>(x: f32) -> f32 {
    let s = x / (2.0 + x);
    let square = s * s;
    let mut sum = 1.0 / 13.0;
    for factor in [1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0] {
        sum = multiply_add::<FUSED>(sum, square, factor);
    }
    2.0 * s * sum
}

/// `1.5 * 2^23`.
const ROUNDER: f32 = 12_582_912.0;
/// The first nine bits of `ln 2`.
const LN_2_HIGH: f32 = 355.0 / 512.0;
/// `ln 2 - 355 / 512`.
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// Pixels summed in single precision before they are added to a double.
const PIXELS_PER_SINGLE_SUM: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{assert_near, noise};

    /// The sums of one sample in double precision, by their definitions.
    fn expected(logits: &[f64], teacher: &[f64], truth: &[f64]) -> [f64; 7] {
        let prob = |x: &f64| 1.0 / (1.0 + (-x).exp());
        let mut sums = [0.0; 7];
        for ((x, z), y) in logits.iter().zip(teacher).zip(truth) {
            let (p, t) = (prob(x), prob(z));
            let cross_entropy = y * (-x).exp().ln_1p() + (1.0 - y) * x.exp().ln_1p();
            let terms = [p, t, *y, p * y, p * t, (p - t) * (p - t), cross_entropy];
            sums.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
        }
        sums
    }

    fn in_order(sums: &PixelSums) -> [f32; 7] {
        let PixelSums { student, teacher, truth, student_truth, student_teacher, squared_difference, cross_entropy } =
            *sums;
        [student, teacher, truth, student_truth, student_teacher, squared_difference, cross_entropy]
    }

    fn doubles(values: &[f32], factor: f32) -> Vec<f64> {
        values.iter().map(|value| f64::from(value * factor)).collect()
    }

    #[test]
    fn sums_and_gradients_follow_their_definitions() {
        for (samples, pixels, spread, sharpness) in
            [(1, 1, 1.0, 1.0), (3, 37, 4.0, 5.0), (2, 2100, 30.0, 1.0), (2, 64, 80.0, 1.0)]
        {
            let scaled = |seed| noise(samples * pixels, seed).iter().map(|value| value * spread).collect::<Vec<f32>>();
            let (student, teacher) = (scaled(1), scaled(2));
            let truth: Vec<f32> = noise(samples * pixels, 3).iter().map(|v| f32::from(u8::from(*v > 0.0))).collect();
            let masks = Masks { pixels, sharpness, student: &student, teacher: Some(&teacher), truth: &truth };
            let slopes = PixelSums {
                student: 0.3,
                student_truth: -0.7,
                student_teacher: 0.4,
                squared_difference: 1.5,
                cross_entropy: 0.9,
                ..PixelSums::default()
            };
            let weighted = |sums: [f64; 7]| {
                in_order(&slopes).iter().zip(sums).map(|(slope, sum)| f64::from(*slope) * sum).sum::<f64>()
            };
            for isa in InstructionSet::available() {
                let name = format!("{isa:?}, {samples} x {pixels}");
                let made = sums_on(isa, &masks);
                for (sample, sums) in made.sums.iter().enumerate() {
                    let range = sample * pixels..(sample + 1) * pixels;
                    let [logits, teacher] = [&student, &teacher].map(|map| doubles(&map[range.clone()], sharpness));
                    assert_near(&name, &in_order(sums), &expected(&logits, &teacher, &doubles(&truth[range], 1.0)));
                }
            }
            let made = sums(&masks);
            let got = backward(&masks, [&made.student_probs, &made.teacher_probs], &vec![slopes; samples]);
            let step = 1e-4;
            let differences = student.iter().zip(&teacher).zip(&truth).map(|((x, z), y)| {
                let loss = |offset: f64| {
                    let x = f64::from(*x) + offset;
                    weighted(expected(&[x * f64::from(sharpness)], &doubles(&[*z], sharpness), &doubles(&[*y], 1.0)))
                };
                (loss(step) - loss(-step)) / (2.0 * step)
            });
            assert_near(&format!("gradient, {samples} x {pixels}"), &got, &differences.collect::<Vec<f64>>());
        }
    }

    #[test]
    fn exponential_and_logarithm_are_exact_to_two_units_in_the_last_place() {
        for idx in 0..=870_000u32 {
            let x = -(idx as f32) * 1e-4;
            let (got, expected) = (exp_negative::<false>(x), f64::from(x).exp());
            assert!((f64::from(got) - expected).abs() <= 2.4e-7 * expected, "e^{x}: {got}, {expected}");
            let small = (f64::from(x)).exp() as f32;
            let (got, expected) = (ln_1p::<false>(small), f64::from(small).ln_1p());
            assert!((f64::from(got) - expected).abs() <= 2.4e-7 * expected, "ln(1 + {small}): {got}, {expected}");
        }
    }

    #[test]
    fn what_is_not_a_number_stays_in_its_sample_and_an_unused_teacher_is_not_read() {
        let (student, truth) = (noise(96, 1), vec![1.0; 96]);
        let mut teacher = noise(96, 2);
        teacher[40] = f32::NAN;
        let masks = Masks { pixels: 32, sharpness: 1.0, student: &student, teacher: Some(&teacher), truth: &truth };
        let made = sums(&masks);
        let is_nan: Vec<bool> = made.sums.iter().map(|sums| sums.squared_difference.is_nan()).collect();
        assert_eq!(is_nan, [false, true, false]);
        assert!(made.sums.iter().all(|sums| sums.cross_entropy.is_finite()));
        let truth_only = PixelSums { cross_entropy: 1.0, ..PixelSums::default() };
        assert!(
            backward(&masks, [&made.student_probs, &made.teacher_probs], &[truth_only; 3])
                .iter()
                .all(|value| value.is_finite())
        );
        let mut broken = student.clone();
        broken[70] = f32::NAN;
        let sums = sums(&Masks { student: &broken, teacher: None, ..masks }).sums;
        let is_nan: Vec<bool> = sums.iter().map(|sums| sums.student.is_nan() && sums.cross_entropy.is_nan()).collect();
        assert_eq!(is_nan, [false, false, true]);
    }
}
