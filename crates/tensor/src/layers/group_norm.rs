//! Group norm of one group.

use burn::tensor::Tensor;
use sensei_kernels::linear::Then;

use super::end;

/// Each image of a map with mean 0 and variance 1 over all of its values, then scaled and shifted by channel; and what ends it.
///
/// # Source
/// PyTorch's `GroupNorm(1, channels)`.
pub struct GroupNorm {
    scale: Tensor<1>,
    shift: Tensor<1>,
    epsilon: f64,
    then: Then,
}

impl GroupNorm {
    /// Of scale and shift, `[channels]`; `epsilon` is added to the biased variance.
    ///
    /// # Panics
    /// If they differ in length.
    pub fn new(scale: Tensor<1>, shift: Tensor<1>, epsilon: f64, then: Then) -> Self {
        assert_eq!(scale.dims(), shift.dims(), "group norm: scale and shift");
        Self { scale, shift, epsilon, then }
    }

    /// A map `[image, height, width, channels]`, normalised.
    ///
    /// # Panics
    /// If it has other channels.
    pub fn forward(&self, map: Tensor<4>) -> Tensor<4> {
        let dims @ [images, height, width, channels] = map.dims();
        assert_eq!(channels, self.scale.dims()[0], "group norm: channels");
        let flat: Tensor<2> = map.reshape([images, height * width * channels]);
        let centred = flat.clone() - flat.mean_dim(1);
        let variance = (centred.clone() * centred.clone()).mean_dim(1);
        let normal: Tensor<4> = (centred / (variance + self.epsilon).sqrt()).reshape(dims);
        end(normal * self.scale.clone().unsqueeze() + self.shift.clone().unsqueeze(), self.then)
    }
}
