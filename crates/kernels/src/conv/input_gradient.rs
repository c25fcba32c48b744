//! Gradient of a convolution's input: a transposed convolution, split by the phase of the stride.
//!
//! With a stride, neighbouring input pixels are read by different taps. Input pixels whose coordinates are equal modulo the
//! stride are read by the same ones. So each such phase is a convolution of the output's gradient, without stride, with
//! those taps:
//!
//! ```text
//! 3 taps, stride 2, padding 1: output o reads inputs 2 o - 1, 2 o and 2 o + 1 by taps 0, 1 and 2
//!
//! input    i0        i1           i2        i3           i4
//! read by  o0 tap 1  o0 tap 2,    o1 tap 1  o1 tap 2,    o2 tap 1
//!                    o1 tap 0               o2 tap 0
//! ```

use std::mem::MaybeUninit;

use rayon::prelude::*;

use super::{ConvShape, multiply_pixels};
use crate::buffer::{Scratch, filled};
use crate::implicit_im2col::{PatchGrid, PatchTile, TapOffsets};
use crate::instruction_set::InstructionSet;
use crate::matrix::{Epilogue, LhsRows, Panels, RowElements, RowStarts};

/// Gradient of the input, `[batch, height, width, in]`, from the gradient of the output.
///
/// # Panics
/// If a length is not that of `shape`.
pub fn backward_input(shape: &ConvShape, weight: &[f32], grad_output: &[f32]) -> Vec<f32> {
    shape.check(None, Some(weight), Some(grad_output));
    if shape.is_pointwise() {
        let (ins, outs) = (shape.in_channels, shape.out_channels);
        let weight = Panels::pack(InstructionSet::detect(), [outs, ins], weight, |out| out * ins, 1);
        let transposed = ConvShape { in_channels: outs, out_channels: ins, ..*shape };
        return multiply_pixels(&transposed, grad_output, &weight, Epilogue::NONE);
    }
    let phases: Vec<StridePhase> = (0..shape.stride * shape.stride)
        .map(|idx| StridePhase::new(shape, weight, idx / shape.stride, idx % shape.stride))
        .collect();
    let size = [shape.height.div_ceil(shape.stride), shape.width.div_ceil(shape.stride)];
    let source = [shape.out_height(), shape.out_width(), shape.out_channels];
    let grid = PatchGrid::new(source, 1, size, phases.iter().map(|phase| &phase.taps));
    let run = |out: &mut [MaybeUninit<f32>]| {
        let row_len = shape.width * shape.in_channels;
        let tiles = grid.split_by_tile(shape.batch, shape.stride * row_len, shape.height * row_len, out);
        tiles.into_par_iter().for_each_init(Scratch::default, |scratch, (tile, out)| {
            let (values, starts) = grid.padded_copy(grad_output, &tile, scratch);
            for phase in &phases {
                phase.write(shape, &grid, &tile, values, &starts, out);
            }
        });
    };
    // SAFETY: the tiles cover the input gradient, and each input pixel is in exactly one phase, which writes it.
    unsafe { filled(shape.input_len(), run) }
}

/// The input pixels whose coordinates are `residue` modulo the stride, and the convolution that makes their gradient.
struct StridePhase {
    residue: [usize; 2],
    /// None of them if no tap reaches the phase.
    taps: TapOffsets,
    /// `[taps * out, in]`
    weight: Panels,
}

impl StridePhase {
    fn new(shape: &ConvShape, weight: &[f32], residue_y: usize, residue_x: usize) -> Self {
        let stride = shape.stride as isize;
        // Input pixel `residue + stride * i` is read by tap `t` of output pixel `i + offset`.
        let taps = |residue: usize| -> Vec<(usize, isize)> {
            let distance = |tap| residue as isize - shape.tap_offset(tap);
            let hits = (0..shape.kernel).filter(|&tap| distance(tap).rem_euclid(stride) == 0);
            // Ascending offsets, so that neighbours are one run.
            hits.rev().map(|tap| (tap, distance(tap).div_euclid(stride))).collect()
        };
        let (taps_y, taps_x) = (taps(residue_y), taps(residue_x));
        let (outs, ins, kernel) = (shape.out_channels, shape.in_channels, shape.kernel);
        let start = |k: usize| {
            let (tap, out) = (k / outs, k % outs);
            let (tap_y, tap_x) = (taps_y[tap / taps_x.len()].0, taps_x[tap % taps_x.len()].0);
            (out * ins * kernel + tap_y) * kernel + tap_x
        };
        let inner = taps_y.len() * taps_x.len() * outs;
        let weight = Panels::pack(InstructionSet::detect(), [inner, ins], weight, start, kernel * kernel);
        let offsets = |taps: Vec<(usize, isize)>| taps.into_iter().map(|tap| tap.1).collect();
        Self { residue: [residue_y, residue_x], taps: TapOffsets { y: offsets(taps_y), x: offsets(taps_x) }, weight }
    }

    /// Writes the phase's pixels of a tile; `out` is the tile's piece of the input gradient.
    fn write(
        &self,
        shape: &ConvShape,
        grid: &PatchGrid,
        tile: &PatchTile,
        values: &[f32],
        starts: &[usize],
        out: &mut [MaybeUninit<f32>],
    ) {
        let (ins, stride, [residue_y, residue_x]) = (shape.in_channels, shape.stride, self.residue);
        let image_len = out.len() / tile.images.len();
        let pixels_per_image = tile.rows.len() * grid.size[1];
        // The grid has a pixel for every phase, some of which are past the image's border.
        let pixels = (0..starts.len()).filter_map(|idx| {
            let (image, pixel) = (idx / pixels_per_image, idx % pixels_per_image);
            let (row, x) = (pixel / grid.size[1], pixel % grid.size[1]);
            let (y_in_tile, x) = (row * stride + residue_y, x * stride + residue_x);
            let y = tile.rows.start * stride + y_in_tile;
            let out_start = image * image_len + (y_in_tile * shape.width + x) * ins;
            (y < shape.height && x < shape.width).then_some((starts[idx], out_start))
        });
        let (starts, out_starts): (Vec<usize>, Vec<usize>) = pixels.unzip();
        if self.taps.y.is_empty() || self.taps.x.is_empty() {
            out_starts.into_iter().for_each(|start| out[start..][..ins].fill(MaybeUninit::new(0.0)));
        } else if !starts.is_empty() {
            let (len, offsets) = grid.runs(&self.taps);
            let elements = RowElements::Runs { len, offsets: &offsets };
            let patches = LhsRows { values, starts: RowStarts::Listed(&starts), elements };
            self.weight.multiply_scattered(patches, Epilogue::NONE, out, &out_starts);
        }
    }
}
