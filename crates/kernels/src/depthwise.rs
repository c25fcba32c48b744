//! Depthwise convolutions: each channel with its own k x k taps.
//!
//! There are few products per value, so memory is the limit. An image is computed row by row: a ring holds the input rows
//! that the taps of an output row reach, and each is loaded once:
//!
//! ```text
//! 3x3 taps                        input row   0   1   2   3   4   ...
//! output row 1 reads rows 0 to 2:            [=========]
//! output row 2 reads rows 1 to 3:                [=========]      row 3 replaces row 0 in the ring
//! ```
//!
//! Channels lie next to one another, so a vector holds neighbouring channels of a pixel, and their taps are vectors too.
//! With stride 1 the gradient of the input is the same convolution of the output's gradient, with taps rotated by 180 degrees.
//!
//! With a stride the ring holds the columns of a row sorted by their remainder: even ones first, then odd ones for stride 2.
//! Then neighbouring outputs read neighbouring columns through each tap, as with stride 1, and the same loops compute both.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::activation::{Activation, Limits};
use crate::buffer::filled;
use crate::instruction_set::InstructionSet;
use crate::linear::Then;
use crate::tiling::{band_rows, map_bands};

mod row_kernels;
mod row_ring;
mod strided_gradient;

pub(crate) use row_ring::{RowRing, RowSource};

/// Sizes of a depthwise convolution with square taps and symmetric zero padding.
///
/// Input `[batch, height, width, channels]`, output `[batch, out_height, out_width, channels]`, weight
/// `[channels, 1, kernel, kernel]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DepthwiseShape {
    /// Images.
    pub batch: usize,
    /// Rows of the input.
    pub height: usize,
    /// Columns of the input.
    pub width: usize,
    /// Channels.
    pub channels: usize,
    /// Side of the kernel in taps.
    pub kernel: usize,
    /// Distance between taps.
    pub dilation: usize,
    /// Zero rows and columns on each side; at most `dilation * (kernel - 1)`.
    pub padding: usize,
    /// Step between output pixels, in input pixels.
    pub stride: usize,
}

impl DepthwiseShape {
    /// Rows of the output.
    pub fn out_height(&self) -> usize {
        (self.height + 2 * self.padding - self.reach() - 1) / self.stride + 1
    }

    /// Columns of the output.
    pub fn out_width(&self) -> usize {
        (self.width + 2 * self.padding - self.reach() - 1) / self.stride + 1
    }

    /// Values of the input.
    pub fn input_len(&self) -> usize {
        self.batch * self.height * self.width * self.channels
    }

    /// Values of the output.
    pub fn output_len(&self) -> usize {
        self.batch * self.out_height() * self.out_width() * self.channels
    }

    /// Values of the weight.
    pub fn weight_len(&self) -> usize {
        self.channels * self.kernel * self.kernel
    }

    /// The convolution of the output's gradient whose output is the input's gradient; there is one for stride 1.
    pub(crate) fn transposed(&self) -> Self {
        assert_eq!(self.stride, 1, "depthwise: stride of a convolution that is transposed, {self:?}");
        let (height, width, padding) = (self.out_height(), self.out_width(), self.reach() - self.padding);
        Self { height, width, padding, ..*self }
    }

    /// Values of a row of the output.
    pub(crate) fn out_row_len(&self) -> usize {
        self.out_width() * self.channels
    }

    /// Output rows of an image per task.
    pub(crate) fn band_rows(&self) -> usize {
        band_rows(self.batch, self.out_height())
    }

    /// Distance between the first and the last tap.
    fn reach(&self) -> usize {
        self.dilation * (self.kernel - 1)
    }

    fn check(&self) {
        assert!(self.stride > 0, "depthwise: stride, {self:?}");
        assert!(self.padding <= self.reach(), "depthwise: padding reaches past the taps, {self:?}");
        let narrowest = self.height.min(self.width) + 2 * self.padding;
        assert!(narrowest > self.reach(), "depthwise: the taps are wider than the padded input, {self:?}");
    }
}

/// Depthwise convolution, plus `bias` (`[channels]`), then the activation; shapes as in [`DepthwiseShape`].
///
/// # Panics
/// If a length is not that of `shape`, the padding reaches past the taps or the taps past the padded input.
pub fn forward(
    shape: &DepthwiseShape,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    activation: Activation,
) -> Vec<f32> {
    forward_on(InstructionSet::detect(), shape, input, weight, bias, activation)
}

/// Gradient of the input from the gradient of the output.
///
/// # Panics
/// As [`forward`].
pub fn backward_input(shape: &DepthwiseShape, weight: &[f32], grad_output: &[f32]) -> Vec<f32> {
    backward_input_on(InstructionSet::detect(), shape, weight, grad_output)
}

/// Gradient of the weight, `[channels, 1, kernel, kernel]`.
///
/// # Panics
/// As [`forward`].
pub fn backward_weight(shape: &DepthwiseShape, input: &[f32], grad_output: &[f32]) -> Vec<f32> {
    backward_weight_on(InstructionSet::detect(), shape, input, grad_output)
}

/// A depthwise convolution whose weight is laid out for the CPU, to be run many times.
pub struct PackedDepthwise {
    isa: InstructionSet,
    shape: DepthwiseShape,
    kernel: DepthwiseKernel,
    then: Then,
}

impl PackedDepthwise {
    /// Lays out `[channels, 1, kernel, kernel]`; the batch of `shape` does not matter.
    ///
    /// # Panics
    /// As [`forward`].
    pub fn new(shape: &DepthwiseShape, weight: &[f32], bias: Option<&[f32]>, activation: Activation) -> Self {
        let kernel = DepthwiseKernel::new(shape, weight, bias, activation);
        Self { isa: InstructionSet::detect(), shape: *shape, kernel, then: Then::Nothing }
    }

    /// The same convolution, ended by GELU.
    pub fn then_gelu(self) -> Self {
        Self { then: Then::Gelu, ..self }
    }

    /// Convolution, plus bias, then activation, as given.
    ///
    /// # Panics
    /// If the input is not `batch` images.
    pub fn forward(&self, batch: usize, input: &[f32]) -> Vec<f32> {
        let (isa, shape) = (self.isa, DepthwiseShape { batch, ..self.shape });
        assert_eq!(input.len(), shape.input_len(), "depthwise: input, {shape:?}");
        let image_len = shape.height * shape.width * shape.channels;
        let run = |out: &mut [MaybeUninit<f32>]| {
            let (band, row_len) = (shape.band_rows(), shape.out_row_len());
            map_bands(shape.out_height() * row_len, band * row_len, out, |image, band_idx, out| {
                let (first, source) = (band_idx * band, RowSource::Map(&input[image * image_len..][..image_len]));
                let mut ring = RowRing::new(&shape, source, first);
                for (y, out) in (first..).zip(out.chunks_exact_mut(row_len)) {
                    ring.advance(y);
                    self.then.finish(isa, self.kernel.write_row(isa, &ring, out));
                }
            });
        };
        // SAFETY: the bands cover the output, and `write_row` writes all of each of its rows.
        unsafe { filled(shape.output_len(), run) }
    }
}

fn forward_on(
    isa: InstructionSet,
    shape: &DepthwiseShape,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    activation: Activation,
) -> Vec<f32> {
    let kernel = DepthwiseKernel::new(shape, weight, bias, activation);
    PackedDepthwise { isa, shape: *shape, kernel, then: Then::Nothing }.forward(shape.batch, input)
}

fn backward_input_on(isa: InstructionSet, shape: &DepthwiseShape, weight: &[f32], grad_output: &[f32]) -> Vec<f32> {
    shape.check();
    assert_eq!(grad_output.len(), shape.output_len(), "depthwise: output gradient, {shape:?}");
    assert_eq!(weight.len(), shape.weight_len(), "depthwise: weight, {shape:?}");
    if shape.stride > 1 {
        return strided_gradient::backward_input(isa, shape, weight, grad_output);
    }
    forward_on(isa, &shape.transposed(), grad_output, &rotated_taps(shape, weight), None, Activation::None)
}

fn backward_weight_on(isa: InstructionSet, shape: &DepthwiseShape, input: &[f32], grad_output: &[f32]) -> Vec<f32> {
    shape.check();
    assert_eq!(input.len(), shape.input_len(), "depthwise: input, {shape:?}");
    assert_eq!(grad_output.len(), shape.output_len(), "depthwise: output gradient, {shape:?}");
    let (band, image_len) = (shape.band_rows(), shape.height * shape.width * shape.channels);
    let bands = shape.out_height().div_ceil(band);
    let sums: Vec<TapGradients> = (0..shape.batch * bands)
        .into_par_iter()
        .map(|idx| {
            let (image, first) = (idx / bands, idx % bands * band);
            let n_rows = band.min(shape.out_height() - first);
            let grads = &grad_output[(image * shape.out_height() + first) * shape.out_row_len()..];
            let source = RowSource::Map(&input[image * image_len..][..image_len]);
            let mut ring = RowRing::new(shape, source, first);
            let mut sums = TapGradients::new(shape);
            for (row, grads) in grads.chunks_exact(shape.out_row_len()).take(n_rows).enumerate() {
                ring.advance(first + row);
                sums.add(isa, &ring, grads);
            }
            sums
        })
        .collect();
    TapGradients::total(shape, sums)
}

/// The weight with its taps rotated by 180 degrees, for the gradient of the input.
pub(crate) fn rotated_taps(shape: &DepthwiseShape, weight: &[f32]) -> Vec<f32> {
    assert_eq!(weight.len(), shape.weight_len(), "depthwise: weight, {shape:?}");
    weight.chunks_exact(shape.kernel * shape.kernel).flat_map(|taps| taps.iter().rev().copied()).collect()
}

/// Taps and bias as vectors read them.
pub(crate) struct DepthwiseKernel {
    layout: RowLayout,
    /// `[taps, width of the layout]`
    weight: Vec<f32>,
    bias: Vec<f32>,
    limits: Limits,
    out_row_len: usize,
}

impl DepthwiseKernel {
    pub(crate) fn new(shape: &DepthwiseShape, weight: &[f32], bias: Option<&[f32]>, activation: Activation) -> Self {
        shape.check();
        assert_eq!(weight.len(), shape.weight_len(), "depthwise: weight, {shape:?}");
        let layout = RowLayout::new(shape);
        let weight = layout.repeat_taps(shape, weight);
        let bias = match bias {
            Some(bias) => {
                assert_eq!(bias.len(), shape.channels, "depthwise: bias, {shape:?}");
                bias.iter().copied().cycle().take(layout.width).collect()
            }
            None => vec![0.0; layout.width],
        };
        Self { layout, weight, bias, limits: activation.limits(), out_row_len: shape.out_row_len() }
    }

    /// Writes the output row that the ring was advanced to.
    pub(crate) fn write_row<'a>(
        &self,
        isa: InstructionSet,
        ring: &RowRing,
        out: &'a mut [MaybeUninit<f32>],
    ) -> &'a mut [f32] {
        assert_eq!(out.len(), self.out_row_len, "depthwise: output row");
        let (rows, starts) = ring.taps();
        row_kernels::output_row(isa, self, rows, starts, out);
        // SAFETY: the blocks of `output_row` cover all lanes of all pixels of the row.
        unsafe { out.assume_init_mut() }
    }
}

/// Sums of the gradients of the taps, `[taps, width of the layout]`.
pub(crate) struct TapGradients {
    layout: RowLayout,
    sums: Vec<f32>,
}

impl TapGradients {
    pub(crate) fn new(shape: &DepthwiseShape) -> Self {
        let layout = RowLayout::new(shape);
        Self { sums: vec![0.0; shape.kernel * shape.kernel * layout.width], layout }
    }

    /// Adds the products of an output row's gradient with what its taps read; the ring was advanced to that row.
    pub(crate) fn add(&mut self, isa: InstructionSet, ring: &RowRing, grads: &[f32]) {
        let (rows, starts) = ring.taps();
        row_kernels::weight_row(isa, &self.layout, rows, starts, grads, &mut self.sums);
    }

    /// The gradient of the weight, `[channels, 1, kernel, kernel]`, from the sums of all tasks.
    pub(crate) fn total(shape: &DepthwiseShape, tasks: Vec<Self>) -> Vec<f32> {
        let taps = shape.kernel * shape.kernel;
        let mut totals = vec![0.0f64; taps * shape.channels];
        for Self { layout, sums } in tasks {
            for (idx, value) in sums.into_iter().enumerate() {
                let (tap, lane) = (idx / layout.width, idx % layout.width);
                totals[(lane % shape.channels) * taps + tap] += f64::from(value);
            }
        }
        totals.into_iter().map(|total| total as f32).collect()
    }
}

/// How pixels and channels of an output row map to vectors: `pixels` times a run of `width` values with taps of their own.
///
/// With many channels a run is a pixel. With few they would leave vectors empty; then the whole row is one run.
struct RowLayout {
    width: usize,
    pixels: usize,
}

impl RowLayout {
    fn new(shape: &DepthwiseShape) -> Self {
        Self::of(shape.channels, shape.out_width())
    }

    fn of(channels: usize, pixels: usize) -> Self {
        if channels >= MIN_VECTOR_CHANNELS {
            Self { width: channels, pixels }
        } else {
            Self { width: channels * pixels, pixels: 1 }
        }
    }

    /// `[channels, taps]` to `[taps, width]`.
    fn repeat_taps(&self, shape: &DepthwiseShape, weight: &[f32]) -> Vec<f32> {
        let taps = shape.kernel * shape.kernel;
        let lanes = (0..taps * self.width).map(|idx| (idx % self.width % shape.channels, idx / self.width));
        lanes.map(|(channel, tap)| weight[channel * taps + tap]).collect()
    }
}

/// Channels from which on a pixel fills a vector of every instruction set.
const MIN_VECTOR_CHANNELS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{assert_near, noise};

    #[test]
    fn all_instruction_sets_agree() {
        let sizes = [(3, 9), (1, 4), (16, 7), (37, 6)];
        for ((channels, width), stride) in sizes.into_iter().flat_map(|size| [(size, 1), (size, 2)]) {
            let (kernel, dilation, padding) = (3, 2, 2);
            let shape = DepthwiseShape { batch: 2, height: 5, width, channels, kernel, dilation, padding, stride };
            let (input, weight) = (noise(shape.input_len(), 1), noise(shape.weight_len(), 2));
            let grad = noise(shape.output_len(), 3);
            let run = |isa| {
                let output = forward_on(isa, &shape, &input, &weight, None, Activation::None);
                let grad_input = backward_input_on(isa, &shape, &weight, &grad);
                [output, grad_input, backward_weight_on(isa, &shape, &input, &grad)]
            };
            let baseline = run(InstructionSet::Baseline);
            for isa in InstructionSet::available() {
                for (got, expected) in run(isa).iter().zip(&baseline) {
                    let expected: Vec<f64> = expected.iter().map(|value| f64::from(*value)).collect();
                    assert_near(&format!("{isa:?}, {shape:?}"), got, &expected);
                }
            }
        }
    }
}
