//! The first half of a block whose depthwise output is stored: forward with statistics, and backward.

use std::mem::MaybeUninit;

use super::Block;
use super::depthwise_rows::input_ring;
use crate::activation::Activation;
use crate::bilinear;
use crate::buffer::{as_uninit, filled};
use crate::depthwise::{DepthwiseKernel, DepthwiseShape, RowRing, RowSource, TapGradients, rotated_taps};
use crate::instruction_set::InstructionSet;
use crate::norm::{ChannelMoments, ChannelStatistics, InputGradient};
use crate::pixelwise::Upsampling;
use crate::tiling::map_bands;
use crate::upsampled_depthwise::UpsampledTranspose;

/// The depthwise output and its statistics, summed row by row.
pub(super) fn forward(block: &Block) -> (Vec<f32>, ChannelStatistics<Vec<f32>>) {
    let depthwise = &block.shape.depthwise;
    let moments = ChannelMoments::around(&block.first_depthwise_row()[..depthwise.channels]);
    let (band, row_len) = (depthwise.band_rows(), depthwise.out_row_len());
    let mut sums = vec![];
    let run = |out: &mut [MaybeUninit<f32>]| {
        sums = map_bands(depthwise.out_height() * row_len, band * row_len, out, |image, band_idx, out| {
            let first = band_idx * band;
            let mut sums = moments.groups.zeros();
            let mut rows = block.depthwise_rows(image, first);
            rows.write(first, out, |row| moments.add(block.isa, row, &mut sums));
            sums
        });
    };
    // SAFETY: the bands cover the output, and `write` writes all of each.
    let values = unsafe { filled(depthwise.output_len(), run) };
    let statistics = moments.statistics(&moments.groups.total(sums), block.shape.out_pixels());
    (values, statistics)
}

/// The gradient of a stored depthwise output, as rows that are computed where they are read.
pub(super) struct DepthwiseGradient<'a> {
    /// `[batch, height, width, channels]`
    pub output: &'a [f32],
    /// Of what the first batch norm and activation made of it.
    pub grad: &'a [f32],
    pub gradient1: &'a InputGradient,
}

impl DepthwiseGradient<'_> {
    /// Rows of an image from `first` on, for the transposed convolution.
    fn ring(&self, isa: InstructionSet, transposed: &DepthwiseShape, image: usize, first: usize) -> RowRing<'_> {
        let row_len = transposed.width * transposed.channels;
        let image_start = image * transposed.height * row_len;
        let compute = move |y: usize, row: &mut [f32]| {
            let range = image_start + y * row_len..image_start + (y + 1) * row_len;
            // SAFETY: `apply` only writes values.
            let row = unsafe { as_uninit(row) };
            self.gradient1.apply(isa, &self.output[range.clone()], &self.grad[range], row);
        };
        RowRing::new(transposed, RowSource::Computed(Box::new(compute)), first)
    }
}

/// Gradients of the block's input and of the depthwise weight, row by row.
pub(super) fn backward(block: &Block, gradient: &DepthwiseGradient) -> (Vec<f32>, Vec<f32>) {
    match block.shape.upsampling {
        None => plain_backward(block, gradient),
        Some(Upsampling::Bilinear) => bilinear_backward(block, gradient),
        Some(Upsampling::Nearest) => unreachable!("separable: {:?} recomputes its depthwise output", block.shape),
    }
}

/// Of a block that does not upsample.
fn plain_backward(block: &Block, gradient: &DepthwiseGradient) -> (Vec<f32>, Vec<f32>) {
    let (isa, shape, depthwise) = (block.isa, block.shape, &block.shape.depthwise);
    let transposed = depthwise.transposed();
    let kernel =
        DepthwiseKernel::new(&transposed, &rotated_taps(depthwise, block.weights.depthwise), None, Activation::None);
    let (band, row_len) = (depthwise.band_rows(), depthwise.out_row_len());
    let mut sums = vec![];
    let run = |out: &mut [MaybeUninit<f32>]| {
        sums = map_bands(shape.image_len(), band * row_len, out, |image, band_idx, out| {
            let first = band_idx * band;
            let mut grads = gradient.ring(isa, &transposed, image, first);
            let mut inputs = input_ring(isa, shape, block.input, image, first);
            let mut sums = TapGradients::new(depthwise);
            for (y, out) in (first..).zip(out.chunks_exact_mut(row_len)) {
                grads.advance(y);
                inputs.advance(y);
                sums.add(isa, &inputs, grads.row(y));
                kernel.write_row(isa, &grads, out);
            }
            sums
        });
    };
    // SAFETY: the bands cover the input, and `write_row` writes all of each of its rows.
    let grad_input = unsafe { filled(shape.input_len(), run) };
    (grad_input, TapGradients::total(depthwise, sums))
}

/// Of a block with bilinear upsampling: the gradient of the upsampled map exists a few rows at a time.
fn bilinear_backward(block: &Block, gradient: &DepthwiseGradient) -> (Vec<f32>, Vec<f32>) {
    let (isa, shape, depthwise) = (block.isa, block.shape, &block.shape.depthwise);
    let (transposed, small) = (depthwise.transposed(), shape.small());
    let kernel =
        &DepthwiseKernel::new(&transposed, &rotated_taps(depthwise, block.weights.depthwise), None, Activation::None);
    let row_len = depthwise.out_row_len();
    // Rows of the small input.
    let band = depthwise.band_rows().div_ceil(2);
    let mut sums = vec![];
    let run = |out: &mut [MaybeUninit<f32>]| {
        sums = map_bands(shape.image_len(), band * row_len / 2, out, |image, band_idx, out| {
            let first = band_idx * band;
            let own_rows = 2 * first..2 * (first + out.len() / (row_len / 2));
            let mut grads = gradient.ring(isa, &transposed, image, (2 * first).saturating_sub(1));
            let mut inputs = input_ring(isa, shape, block.input, image, 2 * first);
            let mut sums = TapGradients::new(depthwise);
            let own_sums = &mut sums;
            let compute = move |y: usize, row: &mut [f32]| {
                grads.advance(y);
                // The bands above and below need this row too, but it is summed once.
                if own_rows.contains(&y) {
                    inputs.advance(y);
                    own_sums.add(isa, &inputs, grads.row(y));
                }
                // SAFETY: `write_row` only writes values.
                kernel.write_row(isa, &grads, unsafe { as_uninit(row) });
            };
            // The four rows of the upsampled map that a row of the small one is read by.
            let ring_shape = UpsampledTranspose::ring_shape(depthwise);
            let mut upsampled = RowRing::new(&ring_shape, RowSource::Computed(Box::new(compute)), 2 * first);
            for (y, out) in (first..).zip(out.chunks_exact_mut(row_len / 2)) {
                if y > first {
                    upsampled.advance(2 * y - 1);
                }
                upsampled.advance(2 * y);
                let rows = bilinear::rows_that_read(&small, y).map(|y| upsampled.row(y));
                bilinear::write_gradient_row(isa, &small, rows, out);
            }
            drop(upsampled);
            sums
        });
    };
    // SAFETY: the bands cover the input, and `write_gradient_row` writes all of each of its rows.
    let grad_input = unsafe { filled(shape.input_len(), run) };
    (grad_input, TapGradients::total(depthwise, sums))
}
