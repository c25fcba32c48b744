//! A block with fixed statistics: batch norms folded into the weights, all three convolutions in one pass over the input.

use std::mem::MaybeUninit;

use super::depthwise_rows::{DepthwiseRows, DepthwiseTaps};
use super::pointwise::{self, BiasedPointwise};
use super::{FoldedSeparable, SeparableShape, Skip};
use crate::activation::Activation;
use crate::buffer::{Scratch, filled};
use crate::instruction_set::InstructionSet;
use crate::matrix::{Epilogue, LhsRows, Panels};
use crate::tiling::{map_bands, tile_rows};

/// A block with fixed statistics whose weights are packed for the CPU, to be run many times.
pub struct PackedSeparable {
    isa: InstructionSet,
    shape: SeparableShape,
    taps: DepthwiseTaps,
    pointwise: Panels,
    pointwise_bias: Vec<f32>,
    activation: Activation,
    skip: Option<BiasedPointwise>,
    head: Option<BiasedPointwise>,
}

impl PackedSeparable {
    /// Packs the block, the weight and bias of its skip connection, and those of `head`, a 1x1 convolution of its output.
    /// With a head, the block's own output never leaves the cache. The batch of `shape` does not matter.
    ///
    /// # Panics
    /// If a length is not that of `shape`.
    pub fn new(
        shape: &SeparableShape,
        weights: &FoldedSeparable,
        skip: Option<(&[f32], &[f32])>,
        head: Option<(&[f32], &[f32])>,
    ) -> Self {
        Self::new_on(InstructionSet::detect(), shape, weights, skip, head)
    }

    pub(super) fn new_on(
        isa: InstructionSet,
        shape: &SeparableShape,
        weights: &FoldedSeparable,
        skip: Option<(&[f32], &[f32])>,
        head: Option<(&[f32], &[f32])>,
    ) -> Self {
        shape.check_weights(weights.pointwise);
        let taps = DepthwiseTaps::new(shape, weights.depthwise, Some(weights.depthwise_bias), weights.activation);
        let pointwise = pointwise::pack(isa, weights.pointwise, shape.depthwise.channels, shape.out_channels);
        let pointwise_bias = pointwise.padded(weights.pointwise_bias);
        let skip = skip.map(|(weight, bias)| BiasedPointwise::new(isa, shape.out_channels, weight, bias));
        let head = head.map(|(weight, bias)| BiasedPointwise::new(isa, bias.len(), weight, bias));
        let fits = head.as_ref().is_none_or(|head| head.in_channels() == shape.out_channels);
        assert!(fits, "separable: weight of the head");
        Self { isa, shape: *shape, taps, pointwise, pointwise_bias, activation: weights.activation, skip, head }
    }

    /// The block's output, plus the skip connection of `skip_input`, which is given if and only if there is one; or the
    /// head's.
    ///
    /// # Panics
    /// If a length is not that of `batch` images, or `skip_input` is missing or too many.
    pub fn forward(&self, batch: usize, input: &[f32], skip_input: Option<&[f32]>) -> Vec<f32> {
        let mut shape = self.shape;
        shape.depthwise.batch = batch;
        shape.check_input(input);
        assert_eq!(self.skip.is_some(), skip_input.is_some(), "separable: a skip connection and its input");
        let depthwise = &shape.depthwise;
        let (ins, outs) = (depthwise.channels, shape.out_channels);
        let (height, width) = (depthwise.out_height(), depthwise.out_width());
        let (band, tile) = (depthwise.band_rows(), shape.tile_image_rows(tile_rows(ins) / 2));
        let written = self.head.as_ref().map_or(outs, BiasedPointwise::out_channels);
        let run = |out: &mut [MaybeUninit<f32>]| {
            map_bands(height * width * written, band * width * written, out, |image, band_idx, out| {
                let mut rows = DepthwiseRows::new(self.isa, &shape, &self.taps, input, image, band_idx * band);
                let [mut scratch, mut block] = [Scratch::default(), Scratch::default()];
                for (tile_idx, out) in out.chunks_mut(tile * width * written).enumerate() {
                    let (first, n_pixels) = (band_idx * band + tile_idx * tile, out.len() / written);
                    let first_pixel = (image * height + first) * width;
                    // SAFETY: `write` writes all rows.
                    let values = unsafe { scratch.filled(n_pixels * ins, |out| rows.write(first, out, |_| {})) };
                    let write = |out: &mut [MaybeUninit<f32>]| self.write_pixels(values, skip_input, first_pixel, out);
                    let Some(head) = &self.head else {
                        write(out);
                        continue;
                    };
                    // SAFETY: `write_pixels` writes all of it.
                    let block = unsafe { block.filled(n_pixels * outs, write) };
                    head.write(block, out);
                }
            });
        };
        // SAFETY: the bands and tiles cover the output, and `write_pixels` or the head's `write` writes all of each.
        unsafe { filled(shape.out_pixels() * written, run) }
    }

    /// Writes all of `out`, the block's output from pixel `first` on, for the depthwise output of as many pixels.
    fn write_pixels(&self, depthwise: &[f32], skip_input: Option<&[f32]>, first: usize, out: &mut [MaybeUninit<f32>]) {
        let epilogue = Epilogue { bias: Some(&self.pointwise_bias), activation: self.activation };
        self.pointwise.multiply(LhsRows::dense(depthwise, self.shape.depthwise.channels), epilogue, out);
        if let (Some(skip), Some(input)) = (&self.skip, skip_input) {
            // SAFETY: `multiply` has written all of it.
            skip.add(input, first, unsafe { out.assume_init_mut() });
        }
    }
}

pub(super) fn infer_on(
    isa: InstructionSet,
    shape: &SeparableShape,
    weights: &FoldedSeparable,
    input: &[f32],
    skip: Option<Skip>,
) -> Vec<f32> {
    let packed = PackedSeparable::new_on(isa, shape, weights, skip.map(|skip| (skip.weight, skip.bias)), None);
    packed.forward(shape.depthwise.batch, input, skip.map(|skip| skip.input))
}
