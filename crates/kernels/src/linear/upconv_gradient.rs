//! Gradients of a transposed convolution of 2x2 taps and stride 2: it is one linear layer from a pixel to four, of four times the outputs.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::buffer::filled;
use crate::conv::{self, ConvShape};
use crate::norm::channel_sums;
use crate::pixelwise::MapShape;

/// The gradient of the output, from which those of input, weight and bias are computed.
pub struct UpconvGradient {
    shape: ConvShape,
    outs: usize,
    /// `[pixel of the input, tap, outs]`.
    grads: Vec<f32>,
}

impl UpconvGradient {
    /// From the gradient of the output, `[batch, 2 * height, 2 * width, outs]`; `small` is the input.
    ///
    /// # Panics
    /// If the gradient has not that length.
    pub fn new(small: &MapShape, outs: usize, grad_output: &[f32]) -> Self {
        let MapShape { batch, height, width, channels } = *small;
        assert_eq!(grad_output.len(), batch * height * width * 4 * outs, "transposed convolution: output gradient");
        let row_len = 2 * width * outs;
        let run = |out: &mut [MaybeUninit<f32>]| {
            out.par_chunks_mut(2 * row_len).zip(grad_output.par_chunks(2 * row_len)).for_each(|(out, rows)| {
                for (x, pixel) in out.chunks_exact_mut(4 * outs).enumerate() {
                    let (above, below) = pixel.split_at_mut(2 * outs);
                    above.write_copy_of_slice(&rows[x * 2 * outs..][..2 * outs]);
                    below.write_copy_of_slice(&rows[row_len + x * 2 * outs..][..2 * outs]);
                }
            });
        };
        // SAFETY: each pair of rows has the four taps of all pixels of a row of the input.
        let grads = unsafe { filled(grad_output.len(), run) };
        let (out_channels, in_channels) = (4 * outs, channels);
        let shape = ConvShape {
            batch,
            height,
            width,
            in_channels,
            out_channels,
            kernel: 1,
            stride: 1,
            padding: 0,
            dilation: 1,
        };
        Self { shape, outs, grads }
    }

    /// Of the input, of the shape `small`; `weight` is `[ins, outs, 2, 2]`.
    ///
    /// # Panics
    /// If the weight has another length.
    pub fn input(&self, weight: &[f32]) -> Vec<f32> {
        let (ins, outs) = (self.shape.in_channels, self.outs);
        assert_eq!(weight.len(), ins * outs * 4, "transposed convolution: weight");
        // `[tap, out, in]`
        let linear: Vec<f32> =
            (0..weight.len()).map(|at| weight[(at % ins * outs + at / ins % outs) * 4 + at / (ins * outs)]).collect();
        conv::backward_input(&self.shape, &linear, &self.grads)
    }

    /// Of the weight, `[ins, outs, 2, 2]`.
    ///
    /// # Panics
    /// If the input has not the length of `small`.
    pub fn weight(&self, input: &[f32]) -> Vec<f32> {
        let (ins, outs) = (self.shape.in_channels, self.outs);
        let linear = conv::backward_weight(&self.shape, input, &self.grads);
        (0..linear.len()).map(|at| linear[(at % 4 * outs + at / 4 % outs) * ins + at / (4 * outs)]).collect()
    }

    /// Of the bias, `[outs]`.
    pub fn bias(&self) -> Vec<f32> {
        channel_sums(&self.grads, self.outs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{assert_near, noise};

    #[test]
    fn gradients_follow_their_definition() {
        let small = MapShape { batch: 2, height: 3, width: 5, channels: 12 };
        let outs = 7;
        let (input, weight, grads) = (noise(small.len(), 1), noise(12 * outs * 4, 2), noise(4 * 30 * outs, 3));
        let (mut of_input, mut of_weight) = (vec![0.0f64; input.len()], vec![0.0f64; weight.len()]);
        let mut of_bias = vec![0.0f64; outs];
        for (at, grad) in grads.iter().enumerate() {
            let (out, x, y, image) = (at % outs, at / outs % 10, at / outs / 10 % 6, at / outs / 60);
            let (pixel, tap) = (((image * 3 + y / 2) * 5 + x / 2) * 12, y % 2 * 2 + x % 2);
            of_bias[out] += f64::from(*grad);
            for k in 0..12 {
                let of = (k * outs + out) * 4 + tap;
                of_input[pixel + k] += f64::from(*grad) * f64::from(weight[of]);
                of_weight[of] += f64::from(*grad) * f64::from(input[pixel + k]);
            }
        }
        let found = UpconvGradient::new(&small, outs, &grads);
        assert_near("input", &found.input(&weight), &of_input);
        assert_near("weight", &found.weight(&input), &of_weight);
        assert_near("bias", &found.bias(), &of_bias);
    }
}
