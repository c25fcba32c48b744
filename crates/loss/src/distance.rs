//! Distances of masks, one number per sample.

use burn::tensor::{Tensor, activation};
use sensei_tensor::masks::{MaskLogits, MaskProbs, cross_entropy, pixel_sum, same_shape};

/// Mean squared difference of the probabilities of each sample.
///
/// # Shapes
/// - `student`, `teacher`: `[batch, 1, height, width]`
/// - output: `[batch]`, not reduced, in `[0, 1]`
/// # Panics
/// If the shapes differ: a bug in the caller, not bad input.
/// # Source
/// PicoSAM2, `mse_dice_loss`, first term before its batch mean; PicoSAM3 the same on `sigma(5 x)`.
pub fn mse_distance(student: MaskProbs, teacher: MaskProbs) -> Tensor<1> {
    same_shape("mse_distance", &student.0, &teacher.0);
    let difference = student.0 - teacher.0;
    pixel_mean(difference.clone() * difference)
}

/// Soft Dice distance of each sample; 0 is a perfect match.
///
/// Two empty masks match: the smoothing term makes them 0.
///
/// ```
/// use burn::tensor::{Device, Tensor, TensorData};
/// use sensei_loss::dice_distance;
/// use sensei_tensor::masks::MaskProbs;
///
/// let mask = |pixels: [f32; 4]| {
///     MaskProbs(Tensor::<1>::from_data(TensorData::from(pixels), &Device::flex()).reshape([1, 1, 2, 2]))
/// };
/// // One of two pixels: 1 - 2 * 1 / (1 + 2).
/// let distance = dice_distance(mask([1.0, 0.0, 0.0, 0.0]), mask([1.0, 1.0, 0.0, 0.0]));
/// assert!((distance.into_scalar::<f32>() - 1.0 / 3.0).abs() < 1e-6);
/// ```
///
/// # Shapes
/// - `student`, `other` (the teacher's mask or the true one): `[batch, 1, height, width]`
/// - output: `[batch]`, not reduced, in `[0, 1]`
/// # Panics
/// If the shapes differ: a bug in the caller, not bad input.
/// # Source
/// PicoSAM2, `mse_dice_loss` and `bce_dice_loss`, second term before its batch mean. V-Net squares the terms of the
/// denominator; this does not.
pub fn dice_distance(student: MaskProbs, other: MaskProbs) -> Tensor<1> {
    same_shape("dice_distance", &student.0, &other.0);
    let (student_area, other_area) = (student.area(), other.area());
    dice_of_areas(pixel_sum(student.0 * other.0), student_area, other_area)
}

/// Mean binary cross-entropy of each sample's pixels, from logits.
///
/// # Shapes
/// - `student`, `truth`: `[batch, 1, height, width]`
/// - output: `[batch]`, not reduced, 0 or above
/// # Panics
/// If the shapes differ: a bug in the caller, not bad input.
/// # Source
/// PicoSAM2, `bce_dice_loss`, first term before its batch mean. Deviation: the published code takes PyTorch's
/// `binary_cross_entropy` of probabilities, which clamps the logarithm at -100 and whose gradient vanishes where
/// the probability rounds to 0 or 1 (logits beyond about 17 in `f32`). This works on logits, so a pixel that is surely
/// wrong costs `|logit|` and pulls with its full gradient; elsewhere both are equal.
pub fn bce_distance(student: MaskLogits, truth: MaskProbs) -> Tensor<1> {
    same_shape("bce_distance", &student.0, &truth.0);
    pixel_mean(cross_entropy(student, truth))
}

/// How far the predicted area falls short of the share `floor` of the true area: `relu(floor - area(p) / area(y))`.
///
/// A sample without true pixels has no area to reach: its shortfall is 0, and so is its gradient.
///
/// # Shapes
/// - `student`, `truth`: `[batch, 1, height, width]`
/// - output: `[batch]`, not reduced, in `[0, floor]`
/// # Panics
/// If the shapes differ: a bug in the caller, not bad input.
/// # Source
/// PicoSAM3, `area_loss` with floor 0.4, before its batch mean. Deviation: the published code divides by
/// `area(y) + 1e-6`, so that an empty truth with an empty prediction costs up to 0.4 and pulls the prediction up.
pub fn area_shortfall(student: MaskProbs, truth: MaskProbs, floor: f64) -> Tensor<1> {
    same_shape("area_shortfall", &student.0, &truth.0);
    shortfall_of_areas(student.area(), truth.area(), floor)
}

pub(crate) fn dice_of_areas(overlap: Tensor<1>, a: Tensor<1>, b: Tensor<1>) -> Tensor<1> {
    1.0 - (overlap * 2.0 + SMOOTH) / (a + b + SMOOTH)
}

pub(crate) fn shortfall_of_areas(student: Tensor<1>, truth: Tensor<1>, floor: f64) -> Tensor<1> {
    // The ratio is taken after the relu: an empty truth gives relu(-area) = 0 instead of a division by 0.
    activation::relu(truth.clone() * floor - student) / (truth + SMOOTH)
}

fn pixel_mean(x: Tensor<4>) -> Tensor<1> {
    x.flatten::<2>(1, 3).mean_dim(1).squeeze_dim::<1>(1)
}

/// Keeps ratios of two empty masks finite, in pixels. Source: PicoSAM2 and PicoSAM3, all their ratios.
const SMOOTH: f64 = 1e-6;
