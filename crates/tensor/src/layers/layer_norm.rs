//! Layer norm over channels.

use burn::tensor::Tensor;
use sensei_kernels::layer_norm::layer_norm;
use sensei_kernels::linear::Then;

use super::{end, has_gradients, has_kernels, unwrapped, wrapped};
use crate::ops::flex_tensor::values;
use crate::ops::layers::{NormSettings, normalised};

/// Layer norm over the last dimension, and what ends it. Over a map it is SAM's `LayerNorm2d`.
pub struct LayerNorm {
    scale: Tensor<1>,
    shift: Tensor<1>,
    epsilon: f64,
    then: Then,
}

impl LayerNorm {
    /// Of scale and shift, `[channels]`; `epsilon` is added to the biased variance.
    ///
    /// # Panics
    /// If they differ in length.
    pub fn new(scale: Tensor<1>, shift: Tensor<1>, epsilon: f64, then: Then) -> Self {
        assert_eq!(scale.dims(), shift.dims(), "layer norm: scale and shift");
        Self { scale, shift, epsilon, then }
    }

    /// Each row with mean 0 and variance 1, scaled and shifted.
    ///
    /// # Panics
    /// If the last dimension is not the layer's.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        assert_eq!(x.dims()[D - 1], self.scale.dims()[0], "layer norm: channels");
        if has_kernels(&x.device()) {
            let dims = x.dims();
            let [x, scale, shift] = [unwrapped(x), unwrapped(self.scale.clone()), unwrapped(self.shift.clone())];
            let normal = layer_norm(values(&x), values(&scale), values(&shift), self.epsilon as f32, self.then);
            return wrapped(normal, dims);
        }
        if has_gradients(&x.device()) {
            let settings = NormSettings { epsilon: self.epsilon as f32, then: self.then };
            return normalised(x, self.scale.clone(), self.shift.clone(), settings);
        }
        let centred = x.clone() - x.mean_dim(D - 1);
        let variance = (centred.clone() * centred.clone()).mean_dim(D - 1);
        let normal = centred / (variance + self.epsilon).sqrt();
        end(normal * self.scale.clone().unsqueeze() + self.shift.clone().unsqueeze(), self.then)
    }
}
