//! Linear layers over rows of values, and the 2x2 transposed convolution, which is four of them.
//!
//! A 1x1 convolution of an NHWC map is a linear layer over its pixels, and has a linear layer's gradients ([`crate::conv`]).

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::activation::Activation;
use crate::buffer::filled;
use crate::gelu::gelu_in_place;
use crate::instruction_set::InstructionSet;
use crate::matrix::{Epilogue, LhsRows, Panels};
use crate::pixelwise::MapShape;
use crate::tiling::{MIN_ROWS_PER_TASK, TASKS_PER_THREAD, chunk_len, tile_rows};

mod upconv_gradient;

pub use upconv_gradient::UpconvGradient;

/// What ends a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Nothing,
    /// The greater of each value and 0.
    Relu,
    /// Each value times its share of the normal distribution, by the exact formula.
    Gelu,
}

impl Then {
    pub(crate) fn activation(self) -> Activation {
        if self == Self::Relu { Activation::Relu } else { Activation::None }
    }

    /// What is left to do to values that the epilogue of a product has stored.
    pub(crate) fn finish(self, isa: InstructionSet, values: &mut [f32]) {
        if self == Self::Gelu {
            gelu_in_place(isa, values);
        }
    }
}

/// A linear layer whose weight is packed for the CPU, to be run many times.
pub struct PackedLinear {
    isa: InstructionSet,
    ins: usize,
    outs: usize,
    weight: Panels,
    bias: Option<Vec<f32>>,
    then: Then,
}

impl PackedLinear {
    /// Packs `[outs, ins]`, PyTorch's order, and a bias `[outs]`.
    ///
    /// # Panics
    /// If a length is not that of the sizes.
    pub fn new([outs, ins]: [usize; 2], weight: &[f32], bias: Option<&[f32]>, then: Then) -> Self {
        assert_eq!(weight.len(), outs * ins, "linear: weight");
        let isa = InstructionSet::detect();
        let panels = Panels::pack(isa, [ins, outs], weight, |k| k, ins);
        Self { isa, ins, outs, bias: bias.map(|bias| panels.padded(bias)), weight: panels, then }
    }

    /// Rows `[rows, ins]` to `[rows, outs]`.
    ///
    /// # Panics
    /// If the input is not whole rows.
    pub fn forward(&self, input: &[f32]) -> Vec<f32> {
        let rows = self.rows(input);
        let run = |out: &mut [MaybeUninit<f32>]| {
            self.in_tiles(out, input, |tile, out| {
                self.weight.multiply(tile, self.epilogue(), out);
                // SAFETY: `multiply` writes all of its output.
                self.then.finish(self.isa, unsafe { out.assume_init_mut() });
            });
        };
        // SAFETY: the tiles cover the output, and each is written by `multiply`.
        unsafe { filled(rows * self.outs, run) }
    }

    /// Replaces `sum`, `[rows, outs]`, by what ends the layer of `sum + input * weight + bias`.
    ///
    /// # Panics
    /// If the lengths are not those of the same rows.
    pub fn forward_onto(&self, input: &[f32], sum: &mut [f32]) {
        assert_eq!(sum.len(), self.rows(input) * self.outs, "linear: what is added to");
        self.in_tiles(sum, input, |tile, sum| {
            self.weight.multiply_and_add(tile, self.epilogue(), sum);
            self.then.finish(self.isa, sum);
        });
    }

    fn rows(&self, input: &[f32]) -> usize {
        assert!(input.len().is_multiple_of(self.ins), "linear: input of rows of {}", self.ins);
        input.len() / self.ins
    }

    fn epilogue(&self) -> Epilogue<'_> {
        Epilogue { bias: self.bias.as_deref(), activation: self.then.activation() }
    }

    fn in_tiles<T: Send>(&self, out: &mut [T], input: &[f32], run: impl Fn(LhsRows, &mut [T]) + Sync) {
        let (ins, outs) = (self.ins, self.outs);
        let chunk = chunk_len(input.len() / ins, TASKS_PER_THREAD, MIN_ROWS_PER_TASK);
        let tile = tile_rows(ins.max(outs));
        out.par_chunks_mut(chunk * outs).zip(input.par_chunks(chunk * ins)).for_each(|(out, input)| {
            for (out, input) in out.chunks_mut(tile * outs).zip(input.chunks(tile * ins)) {
                run(LhsRows::dense(input, ins), out);
            }
        });
    }
}

/// A transposed convolution of 2x2 taps and stride 2, whose weight is packed: each pixel becomes four.
pub struct PackedUpconv {
    isa: InstructionSet,
    ins: usize,
    outs: usize,
    /// Of the taps above left, above right, below left, below right.
    taps: [Panels; 4],
    bias: Option<Vec<f32>>,
    then: Then,
}

impl PackedUpconv {
    /// Packs `[ins, outs, 2, 2]`, PyTorch's order, and a bias `[outs]`.
    ///
    /// # Panics
    /// If a length is not that of the sizes.
    pub fn new([ins, outs]: [usize; 2], weight: &[f32], bias: Option<&[f32]>, then: Then) -> Self {
        assert_eq!(weight.len(), ins * outs * 4, "transposed convolution: weight");
        let isa = InstructionSet::detect();
        let tap = |tap: usize| Panels::pack(isa, [ins, outs], &weight[tap..], |k| k * outs * 4, 4);
        let taps = [tap(0), tap(1), tap(2), tap(3)];
        Self { isa, ins, outs, bias: bias.map(|bias| taps[0].padded(bias)), taps, then }
    }

    /// A map of the shape `small` to `[batch, 2 * height, 2 * width, outs]`.
    ///
    /// # Panics
    /// If the input has not the length of `small`, or other channels than the weight.
    pub fn forward(&self, small: &MapShape, input: &[f32]) -> Vec<f32> {
        assert_eq!((input.len(), small.channels), (small.len(), self.ins), "transposed convolution: input, {small:?}");
        let (width, outs) = (small.width, self.outs);
        let starts: Vec<Vec<usize>> =
            (0..4).map(|tap| (0..width).map(|x| ((tap / 2 * 2 * width) + 2 * x + tap % 2) * outs).collect()).collect();
        let epilogue = Epilogue { bias: self.bias.as_deref(), activation: self.then.activation() };
        let run = |out: &mut [MaybeUninit<f32>]| {
            let rows = out.par_chunks_mut(4 * width * outs).zip(input.par_chunks(width * self.ins));
            rows.for_each(|(out, input)| {
                for (panels, starts) in self.taps.iter().zip(&starts) {
                    panels.multiply_scattered(LhsRows::dense(input, self.ins), epilogue, out, starts);
                }
                // SAFETY: the four taps write every second pixel of both rows, from the first and the second on.
                self.then.finish(self.isa, unsafe { out.assume_init_mut() });
            });
        };
        // SAFETY: each input row writes all of its two output rows.
        unsafe { filled(4 * small.batch * small.height * width * outs, run) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{assert_near, noise};

    fn gelu(value: f64) -> f64 {
        let mut values = [value as f32];
        gelu_in_place(InstructionSet::Baseline, &mut values);
        f64::from(values[0])
    }

    fn ended(then: Then, value: f64) -> f64 {
        match then {
            Then::Nothing => value,
            Then::Relu => value.max(0.0),
            Then::Gelu => gelu(value),
        }
    }

    #[test]
    fn rows_follow_their_definition() {
        for (rows, ins, outs) in [(1, 3, 5), (7, 256, 32), (300, 20, 50)] {
            let (input, weight, bias) = (noise(rows * ins, 1), noise(outs * ins, 2), noise(outs, 3));
            let before = noise(rows * outs, 4);
            let sum = |row: usize, out: usize| {
                let products =
                    (0..ins).map(|k| f64::from(input[row * ins + k]) * f64::from(weight[out * ins + k])).sum::<f64>();
                products + f64::from(bias[out])
            };
            for then in [Then::Nothing, Then::Relu, Then::Gelu] {
                let layer = PackedLinear::new([outs, ins], &weight, Some(&bias), then);
                let expected: Vec<f64> = (0..rows * outs).map(|at| ended(then, sum(at / outs, at % outs))).collect();
                assert_near(&format!("{then:?} {rows}"), &layer.forward(&input), &expected);
                let mut onto = before.clone();
                layer.forward_onto(&input, &mut onto);
                let expected: Vec<f64> =
                    (0..rows * outs).map(|at| ended(then, f64::from(before[at]) + sum(at / outs, at % outs))).collect();
                assert_near(&format!("{then:?} {rows} onto"), &onto, &expected);
            }
        }
    }

    #[test]
    fn each_pixel_becomes_four() {
        let small = MapShape { batch: 2, height: 3, width: 5, channels: 12 };
        let outs = 7;
        let (input, weight, bias) = (noise(small.len(), 1), noise(12 * outs * 4, 2), noise(outs, 3));
        let layer = PackedUpconv::new([12, outs], &weight, Some(&bias), Then::Gelu);
        let expected = (0..4 * 2 * 3 * 5 * outs).map(|at| {
            let (out, x, y, image) = (at % outs, at / outs % 10, at / outs / 10 % 6, at / outs / 60);
            let pixel = ((image * 3 + y / 2) * 5 + x / 2) * 12;
            let tap = y % 2 * 2 + x % 2;
            let product = |k: usize| f64::from(input[pixel + k]) * f64::from(weight[(k * outs + out) * 4 + tap]);
            gelu((0..12).map(product).sum::<f64>() + f64::from(bias[out]))
        });
        assert_near("transposed convolution", &layer.forward(&small, &input), &expected.collect::<Vec<_>>());
    }
}
