//! Rows of a block's depthwise output, computed from its input where they are read.

use std::mem::MaybeUninit;

use super::SeparableShape;
use crate::activation::Activation;
use crate::bilinear;
use crate::buffer::as_uninit;
use crate::depthwise::{DepthwiseKernel, DepthwiseShape, RowRing, RowSource};
use crate::instruction_set::InstructionSet;
use crate::pixelwise::{MapShape, Upsampling};
use crate::upsampled_depthwise::UpsampledKernel;

/// The depthwise weight as rows are computed with it.
pub(super) enum DepthwiseTaps {
    /// Of the input, or of rows that are upsampled between pixels.
    Plain(DepthwiseKernel),
    /// Of the input before nearest upsampling.
    Upsampled(UpsampledKernel),
}

impl DepthwiseTaps {
    pub(super) fn new(shape: &SeparableShape, weight: &[f32], bias: Option<&[f32]>, activation: Activation) -> Self {
        if shape.upsampling == Some(Upsampling::Nearest) {
            return Self::Upsampled(UpsampledKernel::new(shape.depthwise.channels, weight, bias, activation));
        }
        Self::Plain(DepthwiseKernel::new(&shape.depthwise, weight, bias, activation))
    }
}

/// Rows of an image's depthwise output, in ascending order.
pub(super) struct DepthwiseRows<'a> {
    isa: InstructionSet,
    taps: &'a DepthwiseTaps,
    ring: RowRing<'a>,
    row_len: usize,
    /// The row of the small input that the ring was advanced to, with [`DepthwiseTaps::Upsampled`].
    small_row: Option<usize>,
}

impl<'a> DepthwiseRows<'a> {
    /// Ready to compute row `first` and then each next one.
    pub(super) fn new(
        isa: InstructionSet,
        shape: &SeparableShape,
        taps: &'a DepthwiseTaps,
        input: &'a [f32],
        image: usize,
        first: usize,
    ) -> Self {
        let ring = input_ring(isa, shape, input, image, first);
        Self { isa, taps, ring, row_len: shape.depthwise.out_row_len(), small_row: None }
    }

    /// Writes whole rows from `first` on and calls `done` with each of them.
    pub(super) fn write(&mut self, first: usize, out: &mut [MaybeUninit<f32>], mut done: impl FnMut(&[f32])) {
        for (y, out) in (first..).zip(out.chunks_exact_mut(self.row_len)) {
            done(match self.taps {
                DepthwiseTaps::Plain(kernel) => {
                    self.ring.advance(y);
                    kernel.write_row(self.isa, &self.ring, out)
                }
                DepthwiseTaps::Upsampled(kernel) => {
                    if self.small_row != Some(y / 2) {
                        self.ring.advance(y / 2);
                        self.small_row = Some(y / 2);
                    }
                    kernel.write_row(self.isa, &self.ring, y % 2, out)
                }
            });
        }
    }
}

/// The rows of an image's input that the taps of output row `first` and of later ones reach: of the small map with nearest
/// upsampling, of the upsampled map, which is computed row by row, with bilinear.
pub(super) fn input_ring<'a>(
    isa: InstructionSet,
    shape: &SeparableShape,
    input: &'a [f32],
    image: usize,
    first: usize,
) -> RowRing<'a> {
    let map = &input[image * shape.image_len()..][..shape.image_len()];
    let small = shape.small();
    match shape.upsampling {
        None => RowRing::new(&shape.depthwise, RowSource::Map(map), first),
        Some(Upsampling::Nearest) => {
            let MapShape { height, width, .. } = small;
            let small_shape = DepthwiseShape { height, width, ..shape.depthwise };
            RowRing::new(&small_shape, RowSource::Map(map), first / 2)
        }
        Some(Upsampling::Bilinear) => {
            let compute = move |y: usize, row: &mut [f32]| {
                // SAFETY: `write_row` only writes values.
                bilinear::write_row(isa, &small, map, y, unsafe { as_uninit(row) });
            };
            RowRing::new(&shape.depthwise, RowSource::Computed(Box::new(compute)), first)
        }
    }
}
