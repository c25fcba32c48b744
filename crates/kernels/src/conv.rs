//! Convolutions that mix all channels: 1x1 and k x k, with stride, padding and dilation.
//!
//! All three passes are matrix products (`matrix.rs`), of `P` pixels with `K = kernel * kernel * in` values each:
//!
//! ```text
//! output           [P, out]  =  patches of the input   [P, K]        *  weight           [K, out]
//! input gradient   [P, in]   =  patches of the gradient              *  weight, rotated  [.., in]     (input_gradient.rs)
//! weight gradient  [out, K]  =  transposed gradient    [out, P]      *  patches          [P, K]       (weight_gradient.rs)
//! ```
//!
//! The patches are read where they lie (`implicit_im2col.rs`); those of a 1x1 convolution are the map itself.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::activation::Activation;
use crate::buffer::{Scratch, filled};
use crate::implicit_im2col::{PatchGrid, TapOffsets};
use crate::instruction_set::InstructionSet;
use crate::linear::Then;
use crate::matrix::{Epilogue, LhsRows, Panels, RowElements, RowStarts};
use crate::tiling::{MIN_ROWS_PER_TASK, TASKS_PER_THREAD, chunk_len, tile_rows};

mod input_gradient;
mod weight_gradient;

pub use input_gradient::backward_input;
pub(crate) use weight_gradient::WeightGradient;
pub use weight_gradient::backward_weight;

/// Sizes of a convolution with square taps and symmetric zero padding.
///
/// Input `[batch, height, width, in_channels]`, output `[batch, out_height, out_width, out_channels]`, weight
/// `[out_channels, in_channels, kernel, kernel]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvShape {
    /// Images.
    pub batch: usize,
    /// Rows of the input.
    pub height: usize,
    /// Columns of the input.
    pub width: usize,
    /// Channels read.
    pub in_channels: usize,
    /// Channels written.
    pub out_channels: usize,
    /// Side of the kernel in taps.
    pub kernel: usize,
    /// Step between output pixels, in input pixels.
    pub stride: usize,
    /// Zero rows and columns on each side.
    pub padding: usize,
    /// Distance between taps.
    pub dilation: usize,
}

impl ConvShape {
    /// Rows of the output.
    pub fn out_height(&self) -> usize {
        self.out_side(self.height)
    }

    /// Columns of the output.
    pub fn out_width(&self) -> usize {
        self.out_side(self.width)
    }

    /// Values of the input.
    pub fn input_len(&self) -> usize {
        self.batch * self.height * self.width * self.in_channels
    }

    /// Values of the output.
    pub fn output_len(&self) -> usize {
        self.out_pixels() * self.out_channels
    }

    /// Values of the weight.
    pub fn weight_len(&self) -> usize {
        self.out_channels * self.in_channels * self.kernel * self.kernel
    }

    fn out_side(&self, side: usize) -> usize {
        let extent = self.dilation * (self.kernel - 1) + 1;
        assert!(side + 2 * self.padding >= extent, "convolution: the taps are wider than the padded input, {self:?}");
        (side + 2 * self.padding - extent) / self.stride + 1
    }

    /// Output pixels of the whole batch.
    fn out_pixels(&self) -> usize {
        self.batch * self.out_height() * self.out_width()
    }

    /// Whether an output pixel reads the input pixel at its own position and nothing else.
    fn is_pointwise(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.padding == 0
    }

    fn tap_offset(&self, tap: usize) -> isize {
        (tap * self.dilation) as isize - self.padding as isize
    }

    /// The taps of an output pixel, in input pixels from its first one.
    fn forward_taps(&self) -> TapOffsets {
        let taps: Vec<isize> = (0..self.kernel).map(|tap| self.tap_offset(tap)).collect();
        TapOffsets { y: taps.clone(), x: taps }
    }

    /// The patches of the input that output pixels read.
    fn forward_grid(&self, taps: &TapOffsets) -> PatchGrid {
        let source = [self.height, self.width, self.in_channels];
        PatchGrid::new(source, self.stride, [self.out_height(), self.out_width()], [taps])
    }

    fn check(&self, input: Option<&[f32]>, weight: Option<&[f32]>, grad_output: Option<&[f32]>) {
        if let Some(input) = input {
            assert_eq!(input.len(), self.input_len(), "convolution: input, {self:?}");
        }
        if let Some(weight) = weight {
            assert_eq!(weight.len(), self.weight_len(), "convolution: weight, {self:?}");
        }
        if let Some(grad_output) = grad_output {
            assert_eq!(grad_output.len(), self.output_len(), "convolution: output gradient, {self:?}");
        }
    }
}

/// Convolution, plus `bias` (`[out_channels]`), then the activation; shapes as in [`ConvShape`].
///
/// # Panics
/// If a length is not that of `shape`.
pub fn forward(
    shape: &ConvShape,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    activation: Activation,
) -> Vec<f32> {
    PackedConv::new(shape, weight, bias, activation).forward(shape.batch, input)
}

/// A convolution whose weight is packed for the CPU, to be run many times.
pub struct PackedConv {
    shape: ConvShape,
    weight: Panels,
    bias: Option<Vec<f32>>,
    activation: Activation,
    then: Then,
}

impl PackedConv {
    /// Packs `[out, in, kernel, kernel]`; the batch of `shape` does not matter.
    ///
    /// # Panics
    /// If the weight's or the bias's length is not that of `shape`.
    pub fn new(shape: &ConvShape, weight: &[f32], bias: Option<&[f32]>, activation: Activation) -> Self {
        shape.check(None, Some(weight), None);
        let (taps, ins) = (shape.kernel * shape.kernel, shape.in_channels);
        let start = |k: usize| k % ins * taps + k / ins;
        let weight =
            Panels::pack(InstructionSet::detect(), [taps * ins, shape.out_channels], weight, start, ins * taps);
        Self { shape: *shape, bias: bias.map(|bias| weight.padded(bias)), weight, activation, then: Then::Nothing }
    }

    /// The same convolution, ended by GELU.
    pub fn then_gelu(self) -> Self {
        Self { then: Then::Gelu, ..self }
    }

    /// Convolution, plus bias, then activation, as given; the output as in [`ConvShape`].
    ///
    /// # Panics
    /// If the input is not `batch` images.
    pub fn forward(&self, batch: usize, input: &[f32]) -> Vec<f32> {
        let shape = ConvShape { batch, ..self.shape };
        shape.check(Some(input), None, None);
        let epilogue = Epilogue { bias: self.bias.as_deref(), activation: self.activation };
        if shape.is_pointwise() && self.then == Then::Nothing {
            return multiply_pixels(&shape, input, &self.weight, epilogue);
        }
        let isa = InstructionSet::detect();
        let taps = shape.forward_taps();
        let grid = shape.forward_grid(&taps);
        let (len, offsets) = grid.runs(&taps);
        let elements = RowElements::Runs { len, offsets: &offsets };
        let run = |out: &mut [MaybeUninit<f32>]| {
            let row_len = shape.out_width() * shape.out_channels;
            let tiles = grid.split_by_tile(batch, row_len, shape.out_height() * row_len, out);
            tiles.into_par_iter().for_each_init(Scratch::default, |scratch, (tile, out)| {
                let (values, starts) = grid.padded_copy(input, &tile, scratch);
                let patches = LhsRows { values, starts: RowStarts::Listed(&starts), elements };
                self.weight.multiply(patches, epilogue, out);
                // SAFETY: `multiply` writes all of its output.
                self.then.finish(isa, unsafe { out.assume_init_mut() });
            });
        };
        // SAFETY: the tiles cover the output, and each is written by `multiply`.
        unsafe { filled(shape.output_len(), run) }
    }
}

/// The pixels of a map, `[pixels, in]`, times a packed weight, `[in, out]`: a 1x1 convolution.
fn multiply_pixels(shape: &ConvShape, input: &[f32], weight: &Panels, epilogue: Epilogue) -> Vec<f32> {
    let (ins, outs) = (shape.in_channels, shape.out_channels);
    let chunk = chunk_len(shape.out_pixels(), TASKS_PER_THREAD, MIN_ROWS_PER_TASK);
    let tile = tile_rows(ins);
    let run = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_mut(chunk * outs).zip(input.par_chunks(chunk * ins)).for_each(|(out, input)| {
            for (out, input) in out.chunks_mut(tile * outs).zip(input.chunks(tile * ins)) {
                weight.multiply(LhsRows::dense(input, ins), epilogue, out);
            }
        });
    };
    // SAFETY: the chunks and tiles cover the output, and each is written by `multiply`.
    unsafe { filled(shape.output_len(), run) }
}
