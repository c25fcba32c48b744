//! The numbers of one convolution: quantized, checked, read back as floats.

use sensei_graph::op::{Activation, ConvShape};

use super::{ModelError, check_shape};
use crate::grid::{ActivationGrid, WeightThreshold};

/// A convolution's numbers. Made by [`IntegerConv::quantize`] or [`IntegerConv::from_integers`].
#[derive(Debug, Clone, PartialEq)]
pub struct IntegerConv {
    shape: ConvShape,
    activation: Activation,
    weight_bits: u8,
    weights: Vec<i8>,
    thresholds: Vec<WeightThreshold>,
    bias: Vec<i32>,
}

/// Floats of a convolution, batch norm folded in.
#[derive(Debug, Clone, Copy)]
pub struct FloatConv<'a> {
    /// `[out, in / groups, kernel, kernel]`, flat.
    pub weights: &'a [f32],
    /// One per output channel.
    pub bias: &'a [f32],
}

/// How often quantizing a convolution cut a weight off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clipped {
    /// Weights farther than half a step beyond the end of their grid.
    pub weights: usize,
}

impl IntegerConv {
    /// Rounds floats to the grid: `q = clamp(round(w / step))`, half to even, and the bias to accumulator steps.
    ///
    /// # Errors
    /// If lengths do not fit the shape, a float is not finite, or the bias leaves 32 bits
    /// (see [`WeightThreshold::for_channel`]). `node` is for the message.
    /// # Source
    /// `mct_quantizers`' `WeightsSymmetricQuantizer`, in its 32-bit float arithmetic.
    pub fn quantize(
        node: &str,
        shape: ConvShape,
        activation: Activation,
        floats: FloatConv<'_>,
        thresholds: Vec<WeightThreshold>,
        weight_bits: u8,
        input: ActivationGrid,
    ) -> Result<(Self, Clipped), ModelError> {
        check_lengths(node, shape, weight_bits, floats.weights.len(), thresholds.len(), floats.bias.len())?;
        for (what, values) in [("weights", floats.weights), ("bias", floats.bias)] {
            if let Some((idx, &found)) = values.iter().enumerate().find(|(_, value)| !value.is_finite()) {
                return Err(ModelError::NotFinite { node: node.into(), what, idx, found });
            }
        }
        let limit = f32::from(1_i16 << (weight_bits - 1));
        let mut clipped = Clipped::default();
        let mut weights = Vec::with_capacity(floats.weights.len());
        for (channel, threshold) in floats.weights.chunks_exact(shape.weights_per_channel()).zip(&thresholds) {
            let step = threshold.step(weight_bits) as f32;
            for weight in channel {
                let q = (weight / step).round_ties_even();
                clipped.weights += usize::from(q < -limit || q > limit);
                weights.push(q.clamp(-limit, limit - 1.0) as i8);
            }
        }
        let steps = |(bias, threshold): (&f32, &WeightThreshold)| {
            (f64::from(*bias) / (input.step() * threshold.step(weight_bits))).round_ties_even()
        };
        let bias: Vec<f64> = floats.bias.iter().zip(&thresholds).map(steps).collect();
        if let Some(channel) = bias.iter().position(|steps| steps.abs() > f64::from(i32::MAX)) {
            return Err(ModelError::Accumulator { node: node.into(), channel, found: bias[channel] as i64 });
        }
        let bias = bias.into_iter().map(|steps| steps as i32).collect();
        Ok((Self { shape, activation, weight_bits, weights, thresholds, bias }, clipped))
    }

    /// Takes integers as they are: weights `[out, in / groups, kernel, kernel]`, bias in accumulator steps.
    ///
    /// # Errors
    /// If lengths do not fit the shape or a weight is outside of its bits. `node` is for the message.
    pub fn from_integers(
        node: &str,
        shape: ConvShape,
        activation: Activation,
        weights: Vec<i8>,
        bias: Vec<i32>,
        thresholds: Vec<WeightThreshold>,
        weight_bits: u8,
    ) -> Result<Self, ModelError> {
        check_lengths(node, shape, weight_bits, weights.len(), thresholds.len(), bias.len())?;
        let limit = 1_i16 << (weight_bits - 1);
        if let Some(weight) = weights.iter().find(|weight| !(-limit..limit).contains(&i16::from(**weight))) {
            let expected = format!("{} to {}", -limit, limit - 1);
            return Err(ModelError::Node { node: node.into(), what: "weight", expected, found: weight.to_string() });
        }
        Ok(Self { shape, activation, weight_bits, weights, thresholds, bias })
    }

    /// The geometry.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// What ends it.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// The same convolution with another end.
    #[must_use]
    pub fn with_activation(self, activation: Activation) -> Self {
        Self { activation, ..self }
    }

    /// 8, 4 or 2.
    pub fn weight_bits(&self) -> u8 {
        self.weight_bits
    }

    /// `[out, in / groups, kernel, kernel]`, in `[-2^(bits-1), 2^(bits-1) - 1]`.
    pub fn weights(&self) -> &[i8] {
        &self.weights
    }

    /// One per output channel.
    pub fn thresholds(&self) -> &[WeightThreshold] {
        &self.thresholds
    }

    /// One per output channel, in steps of the accumulator: `step of the input * step of the channel's weights`.
    pub fn bias(&self) -> &[i32] {
        &self.bias
    }

    /// The weights as floats, `q * step`; exact, so that quantizing them again gives the same integers.
    pub fn float_weights(&self) -> Vec<f32> {
        let per_channel = self.shape.weights_per_channel();
        let channels = self.weights.chunks_exact(per_channel).zip(&self.thresholds);
        channels
            .flat_map(|(weights, threshold)| {
                let step = threshold.step(self.weight_bits) as f32;
                weights.iter().map(move |&q| f32::from(q) * step)
            })
            .collect()
    }

    /// The bias as floats; exact in 24 bits, so that the converter rounds it back to the same integers.
    pub fn float_bias(&self, input: ActivationGrid) -> Vec<f32> {
        let value = |(&bias, threshold): (&i32, &WeightThreshold)| {
            (f64::from(bias) * input.step() * threshold.step(self.weight_bits)) as f32
        };
        self.bias.iter().zip(&self.thresholds).map(value).collect()
    }

    /// The output integer is `sum * mantissa * 2^-shift`, rounded half to even: one mantissa and shift per channel.
    pub fn rescale(&self, input: ActivationGrid, output: ActivationGrid) -> Vec<(u8, i32)> {
        let fixed = input.log2_step() - output.log2_step() - 7 - i32::from(self.weight_bits - 1);
        self.thresholds.iter().map(|threshold| (threshold.mantissa(), -(threshold.exponent() + fixed))).collect()
    }

    /// Largest absolute value of each channel's accumulator over all inputs on the grid, bias included, at any moment.
    pub(crate) fn worst_accumulators(&self, input: ActivationGrid) -> impl Iterator<Item = i64> {
        let largest = i64::from(input.qmax().max(-input.qmin()));
        let channels = self.weights.chunks_exact(self.shape.weights_per_channel()).zip(&self.bias);
        channels.map(move |(weights, &bias)| {
            let sum: i64 = weights.iter().map(|&weight| i64::from(weight).abs()).sum();
            sum * largest + i64::from(bias).abs()
        })
    }
}

fn check_lengths(
    node: &str,
    shape: ConvShape,
    weight_bits: u8,
    n_weights: usize,
    n_thresholds: usize,
    n_bias: usize,
) -> Result<(), ModelError> {
    check_shape(&shape, node)?;
    if ![8, 4, 2].contains(&weight_bits) {
        let (what, expected, found) = ("weight bits", "8, 4 or 2".into(), weight_bits.to_string());
        return Err(ModelError::Node { node: node.into(), what, expected, found });
    }
    for (what, expected, found) in [
        ("number of weights", shape.n_weights(), n_weights),
        ("number of thresholds", shape.out_channels, n_thresholds),
        ("number of biases", shape.out_channels, n_bias),
    ] {
        if expected != found {
            let (expected, found) = (expected.to_string(), found.to_string());
            return Err(ModelError::Node { node: node.into(), what, expected, found });
        }
    }
    Ok(())
}
