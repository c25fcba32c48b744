//! The input's gradient of a depthwise convolution with a stride.
//!
//! An input pixel is read through the taps whose distance to it is a multiple of the stride, so pixels fall into
//! `stride x stride` classes with taps of their own. Within a class the gradient is a convolution of stride 1. For 3x3 taps
//! and stride 2, along one axis, with output pixels `a`, `b` and taps `0 1 2`:
//!
//! ```text
//! padded input pixel     0      1      2         3      4
//! read by                a0     a1     a2, b0    b1     b2
//! class                  even   odd    even      odd    even
//! ```

use std::mem::MaybeUninit;

use super::row_kernels;
use super::{DepthwiseKernel, DepthwiseShape, RowLayout, RowRing, RowSource};
use crate::activation::Activation;
use crate::buffer::{Scratch, filled};
use crate::instruction_set::InstructionSet;
use crate::tiling::{band_rows, map_bands};

/// See [`super::backward_input`].
pub(super) fn backward_input(
    isa: InstructionSet,
    shape: &DepthwiseShape,
    weight: &[f32],
    grad_output: &[f32],
) -> Vec<f32> {
    let (stride, reach) = (shape.stride, shape.reach() / shape.stride);
    let classes: Vec<PixelClass> =
        (0..stride * stride).map(|idx| PixelClass::new(shape, weight, [idx / stride, idx % stride])).collect();
    let (height, width) = (shape.out_height(), shape.out_width());
    // Pixels at the border are read by fewer outputs: zeros stand for those that do not exist.
    let ring_shape =
        DepthwiseShape { height, width, kernel: reach + 1, dilation: 1, padding: reach + 1, stride: 1, ..*shape };
    let (row_len, image_len) = (shape.width * shape.channels, height * shape.out_row_len());
    let band = band_rows(shape.batch, shape.height);
    let run = |out: &mut [MaybeUninit<f32>]| {
        map_bands(shape.height * row_len, band * row_len, out, |image, band_idx, out| {
            let first = band_idx * band;
            let map = RowSource::Map(&grad_output[image * image_len..][..image_len]);
            // Row `y` of the ring's own convolution ends in row `y - 1` of the gradient.
            let ring_row = |y: usize| (y + shape.padding) / stride + 1;
            let mut ring = RowRing::new(&ring_shape, map, ring_row(first));
            let mut scratch = Scratch::default();
            for (y, out) in (first..).zip(out.chunks_exact_mut(row_len)) {
                if y == first || ring_row(y) != ring_row(y - 1) {
                    ring.advance(ring_row(y));
                }
                let residue = (y + shape.padding) % stride;
                for class in classes.iter().filter(|class| class.residue_y == residue) {
                    class.write_row(isa, &ring, &mut scratch, out);
                }
            }
        });
    };
    // SAFETY: the bands cover the input, and every pixel of a row is in exactly one class of its residue, which writes it.
    unsafe { filled(shape.input_len(), run) }
}

/// The input pixels whose padded coordinates are equal modulo the stride.
struct PixelClass {
    residue_y: usize,
    /// Column of the first pixel, and how many there are in a row.
    first: usize,
    n_pixels: usize,
    stride: usize,
    channels: usize,
    /// Where each tap reads the ring: index of the start of its row there, and values behind it for the first pixel.
    reads: Vec<(usize, usize)>,
    kernel: DepthwiseKernel,
}

impl PixelClass {
    fn new(shape: &DepthwiseShape, weight: &[f32], residues: [usize; 2]) -> Self {
        let DepthwiseShape { channels, kernel, dilation, padding, stride, width, .. } = *shape;
        let reach = shape.reach() / stride;
        // The outputs that read padded pixel `stride * i + residue` through a tap are this many before output `i`.
        let taps = |residue: usize| -> Vec<(usize, usize)> {
            let distance = |tap: usize| (tap * dilation) as isize - residue as isize;
            let hits = (0..kernel).filter(|tap| distance(*tap).rem_euclid(stride as isize) == 0);
            // A residue is below the stride, so no tap that hits it is before it.
            hits.map(|tap| (tap, (distance(tap) / stride as isize) as usize)).collect()
        };
        let [residue_y, residue_x] = residues;
        let first = (residue_x + stride - padding % stride) % stride;
        let n_pixels = (width + stride - 1).saturating_sub(first) / stride;
        let first_output = (first + padding) / stride;
        let (mut reads, mut used) = (vec![], vec![]);
        for (tap_y, back_y) in taps(residue_y) {
            for (tap_x, back_x) in taps(residue_x) {
                // The ring has `reach + 1` columns of padding, and its own taps start `reach` rows before the last.
                reads.push(((reach - back_y) * (reach + 1), (first_output + reach + 1 - back_x) * channels));
                used.push(tap_y * kernel + tap_x);
            }
        }
        let layout = RowLayout::of(channels, n_pixels);
        let taps = kernel * kernel;
        let of_lane = |idx: usize| weight[idx % layout.width % channels * taps + used[idx / layout.width]];
        let kernel = DepthwiseKernel {
            weight: (0..used.len() * layout.width).map(of_lane).collect(),
            bias: vec![0.0; layout.width],
            limits: Activation::None.limits(),
            out_row_len: n_pixels * channels,
            layout,
        };
        Self { residue_y, first, n_pixels, stride, channels, reads, kernel }
    }

    /// Writes the class's pixels of a row of the input's gradient.
    fn write_row(&self, isa: InstructionSet, ring: &RowRing, scratch: &mut Scratch, out: &mut [MaybeUninit<f32>]) {
        if self.n_pixels == 0 {
            return;
        }
        let (rows, row_starts) = ring.taps();
        let starts: Vec<usize> = self.reads.iter().map(|(row, behind)| row_starts[*row] + behind).collect();
        let run = |out: &mut [MaybeUninit<f32>]| row_kernels::output_row(isa, &self.kernel, rows, &starts, out);
        // SAFETY: the blocks of `output_row` cover all lanes of all pixels of the class.
        let pixels = unsafe { scratch.filled(self.n_pixels * self.channels, run) };
        let places = out[self.first * self.channels..].chunks_mut(self.stride * self.channels);
        for (out, pixel) in places.zip(pixels.chunks_exact(self.channels)) {
            out[..self.channels].write_copy_of_slice(pixel);
        }
    }
}
