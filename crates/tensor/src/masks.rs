//! Masks on a device: logits and probabilities, two types so that nobody takes one for the other.

use burn::tensor::{Tensor, activation};

/// Mask logits `[batch, 1, height, width]`: any real number, foreground above 0.
#[derive(Debug, Clone)]
pub struct MaskLogits(pub Tensor<4>);

/// Mask probabilities `[batch, 1, height, width]` in `[0, 1]`; a true mask is one of zeros and ones.
#[derive(Debug, Clone)]
pub struct MaskProbs(pub Tensor<4>);

impl MaskLogits {
    /// Logits times `sharpness`, so that their probabilities are `sigma(sharpness * x)`.
    pub fn sharpened(self, sharpness: f64) -> Self {
        if sharpness == 1.0 { self } else { Self(self.0 * sharpness) }
    }

    /// Probabilities `sigma(x)`.
    pub fn probs(self) -> MaskProbs {
        MaskProbs(activation::sigmoid(self.0))
    }
}

impl MaskProbs {
    /// Sum over the pixels of each sample, `[batch]`: the area of the mask in pixels.
    pub fn area(&self) -> Tensor<1> {
        pixel_sum(self.0.clone())
    }
}

/// Binary cross-entropy of each pixel, from logits.
///
/// # Shapes
/// - `student`, `truth` and output: `[batch, 1, height, width]`
pub fn cross_entropy(student: MaskLogits, truth: MaskProbs) -> Tensor<4> {
    // -y log p - (1 - y) log(1 - p), with log(1 - p) = log p - x: one logarithm, no overflow at either end.
    let log_probs = activation::log_sigmoid(student.0.clone());
    (1.0 - truth.0) * student.0 - log_probs
}

/// Sum over the pixels of each sample.
///
/// # Shapes
/// - `x`: `[batch, 1, height, width]`; output: `[batch]`
pub fn pixel_sum(x: Tensor<4>) -> Tensor<1> {
    x.flatten::<2>(1, 3).sum_dim(1).squeeze_dim::<1>(1)
}

/// # Panics
/// If the shapes differ; `who` begins the message.
pub fn same_shape(who: &str, student: &Tensor<4>, other: &Tensor<4>) {
    assert_eq!(student.dims(), other.dims(), "{who}: shapes of the student's mask and of the other");
}
