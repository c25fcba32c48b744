//! Convolutions that mix all channels: 1x1 and k x k, with stride, padding and dilation.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use crate::buffer::{Scratch, filled, part_len};
use crate::cpu::Level;
use crate::gather::Gather;
use crate::matrix::{Finish, Panels, Rows};

/// Sizes of a convolution with square taps and symmetric zero padding.
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
        self.out_rows() * self.out_channels
    }

    /// Values of the weight.
    pub fn weight_len(&self) -> usize {
        self.out_channels * self.in_channels * self.kernel * self.kernel
    }

    fn out_side(&self, side: usize) -> usize {
        let reach = self.dilation * (self.kernel - 1) + 1;
        assert!(side + 2 * self.padding >= reach, "convolution: the taps are wider than the padded input, {self:?}");
        (side + 2 * self.padding - reach) / self.stride + 1
    }

    /// Output pixels through the batch.
    fn out_rows(&self) -> usize {
        self.batch * self.out_height() * self.out_width()
    }

    /// Whether an output pixel reads the input pixel of the same place and nothing else.
    fn is_pointwise(&self) -> bool {
        self.kernel == 1 && self.stride == 1 && self.padding == 0
    }

    fn tap_offset(&self, tap: usize) -> isize {
        (tap * self.dilation) as isize - self.padding as isize
    }

    fn forward_gather(&self) -> Gather {
        let taps: Vec<isize> = (0..self.kernel).map(|tap| self.tap_offset(tap)).collect();
        Gather {
            source_height: self.height,
            source_width: self.width,
            channels: self.in_channels,
            taps_y: taps.clone(),
            taps_x: taps,
            step: self.stride,
            grid_height: self.out_height(),
            grid_width: self.out_width(),
        }
    }

    fn check(&self, input: Option<&[f32]>, weight: Option<&[f32]>, output: Option<&[f32]>) {
        if let Some(input) = input {
            assert_eq!(input.len(), self.input_len(), "convolution: input, {self:?}");
        }
        if let Some(weight) = weight {
            assert_eq!(weight.len(), self.weight_len(), "convolution: weight, {self:?}");
        }
        if let Some(output) = output {
            assert_eq!(output.len(), self.output_len(), "convolution: output gradient, {self:?}");
        }
    }
}

/// Convolution, plus `bias` per output channel, then ReLU if `relu`.
pub fn forward(shape: &ConvShape, input: &[f32], weight: &[f32], bias: Option<&[f32]>, relu: bool) -> Vec<f32> {
    shape.check(Some(input), Some(weight), None);
    let (gather, channels) = (shape.forward_gather(), shape.out_channels);
    let (columns, taps, ins) = (gather.columns(), shape.kernel * shape.kernel, shape.in_channels);
    let start = |k: usize| k % ins * taps + k / ins;
    let weight = Panels::pack(Level::detect(), [columns, channels], weight, start, ins * taps);
    let bias = bias.map(|bias| weight.padded(bias));
    let finish = Finish { bias: bias.as_deref(), relu };
    let tile = tile_rows(columns);
    let part = part_len(shape.out_rows(), TASKS_PER_THREAD, MIN_ROWS_PER_TASK);
    let run = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_mut(part * channels).enumerate().for_each(|(idx, out)| {
            let mut scratch = Scratch::default();
            for (tile_idx, out) in out.chunks_mut(tile * channels).enumerate() {
                let start = idx * part + tile_idx * tile;
                let n_rows = out.len() / channels;
                let taps = tap_values(shape, &gather, input, start..start + n_rows, &mut scratch);
                weight.multiply(Rows { values: taps, rows: n_rows, row_step: columns, inner_step: 1 }, finish, out);
            }
        });
    };
    // SAFETY: the chunks and tiles cover the output, and each is written by `multiply`.
    unsafe { filled(shape.output_len(), run) }
}

/// Gradient of the input from the gradient of the output.
///
/// Input pixels whose coordinates are equal modulo the stride are reached by the same taps, so each such class is a
/// convolution of the output gradient with those taps.
pub fn backward_input(shape: &ConvShape, weight: &[f32], grad_output: &[f32]) -> Vec<f32> {
    shape.check(None, Some(weight), Some(grad_output));
    if shape.is_pointwise() {
        return backward_input_pointwise(shape, weight, grad_output);
    }
    let classes: Vec<PixelClass> = (0..shape.stride * shape.stride)
        .map(|idx| PixelClass::new(shape, weight, idx / shape.stride, idx % shape.stride))
        .collect();
    // A task takes whole groups of lines, each group holding the same number of lines of every class.
    let lines_per_group = if shape.height.is_multiple_of(shape.stride) { shape.stride } else { shape.height };
    let n_groups = shape.batch * shape.height / lines_per_group;
    let least = MIN_ROWS_PER_TASK.div_ceil((lines_per_group / shape.stride).max(1) * shape.width);
    let part = part_len(n_groups, TASKS_PER_THREAD, least);
    let run = |out: &mut [MaybeUninit<f32>]| {
        let group_len = lines_per_group * shape.width * shape.in_channels;
        out.par_chunks_mut(part * group_len).enumerate().for_each(|(idx, out)| {
            let groups = idx * part..idx * part + out.len() / group_len;
            let (mut taps, mut product) = (Scratch::default(), Scratch::default());
            for class in &classes {
                class.write(shape, grad_output, lines_per_group, groups.clone(), out, &mut taps, &mut product);
            }
        });
    };
    // SAFETY: the chunks cover the input gradient, and each input pixel is in exactly one class, which writes it.
    unsafe { filled(shape.input_len(), run) }
}

/// Gradient of the weight, `[out, in, kernel, kernel]`.
pub fn backward_weight(shape: &ConvShape, input: &[f32], grad_output: &[f32]) -> Vec<f32> {
    shape.check(Some(input), None, Some(grad_output));
    let (gather, channels) = (shape.forward_gather(), shape.out_channels);
    let columns = gather.columns();
    let part = part_len(shape.out_rows(), 1, MIN_ROWS_PER_TASK);
    let sums: Vec<Vec<f32>> = grad_output
        .par_chunks(part * channels)
        .enumerate()
        .map(|(idx, grads)| {
            let mut sum = vec![0.0; channels * columns];
            let (mut scratch, mut panels) = (Scratch::default(), Panels::empty(Level::detect()));
            for (tile_idx, grads) in grads.chunks(WEIGHT_TILE_ROWS * channels).enumerate() {
                let start = idx * part + tile_idx * WEIGHT_TILE_ROWS;
                let n_rows = grads.len() / channels;
                let taps = tap_values(shape, &gather, input, start..start + n_rows, &mut scratch);
                panels.repack([n_rows, columns], taps, |row| row * columns, 1);
                let grads = Rows { values: grads, rows: channels, row_step: 1, inner_step: channels };
                panels.multiply_and_add(grads, Finish::NOTHING, &mut sum);
            }
            sum
        })
        .collect();
    let sum = sum_in_order(sums);
    let (taps, ins) = (shape.kernel * shape.kernel, shape.in_channels);
    if taps == 1 {
        return sum;
    }
    let mut weight = Vec::with_capacity(shape.weight_len());
    for sum in sum.chunks_exact(columns) {
        for input in 0..ins {
            weight.extend((0..taps).map(|tap| sum[tap * ins + input]));
        }
    }
    weight
}

/// The input pixels that are `residue` modulo the stride, and what makes their gradient.
struct PixelClass {
    residue: [usize; 2],
    /// `None` if no tap reaches the class.
    gather: Option<Gather>,
    /// `[taps x out, in]`
    weight: Panels,
}

impl PixelClass {
    fn new(shape: &ConvShape, weight: &[f32], residue_y: usize, residue_x: usize) -> Self {
        let stride = shape.stride as isize;
        // Input pixel `residue + stride * i` is read by tap `t` of output pixel `i + offset`.
        let taps = |residue: usize| -> Vec<(usize, isize)> {
            let distance = |tap| residue as isize - shape.tap_offset(tap);
            let hits = (0..shape.kernel).filter(|&tap| distance(tap).rem_euclid(stride) == 0);
            // Ascending offsets, so that neighbours can be copied in one run.
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
        let class_weight = Panels::pack(Level::detect(), [inner, ins], weight, start, kernel * kernel);
        let lines = |side: usize, residue: usize| side.saturating_sub(residue).div_ceil(shape.stride);
        let gather = (inner > 0).then(|| Gather {
            source_height: shape.out_height(),
            source_width: shape.out_width(),
            channels: outs,
            taps_y: taps_y.iter().map(|tap| tap.1).collect(),
            taps_x: taps_x.iter().map(|tap| tap.1).collect(),
            step: 1,
            grid_height: lines(shape.height, residue_y),
            grid_width: lines(shape.width, residue_x),
        });
        Self { residue: [residue_y, residue_x], gather, weight: class_weight }
    }

    /// Writes the class's pixels in the given groups of lines; `out` starts at the first group.
    #[allow(clippy::too_many_arguments)]
    fn write(
        &self,
        shape: &ConvShape,
        grad_output: &[f32],
        lines_per_group: usize,
        groups: Range<usize>,
        out: &mut [MaybeUninit<f32>],
        taps: &mut Scratch,
        product: &mut Scratch,
    ) {
        let (ins, width) = (shape.in_channels, shape.width);
        let class_lines = lines_per_group.saturating_sub(self.residue[0]).div_ceil(shape.stride);
        let class_width = width.saturating_sub(self.residue[1]).div_ceil(shape.stride);
        // Position in `out` of class pixel `row`, counted from the first group.
        let place = |row: usize| {
            let (line, x) = (row / class_width, row % class_width);
            let (group, line) = (line / class_lines, line % class_lines);
            let y = group * lines_per_group + line * shape.stride + self.residue[0];
            (y * width + x * shape.stride + self.residue[1]) * ins
        };
        let n_rows = groups.len() * class_lines * class_width;
        let Some(gather) = &self.gather else {
            (0..n_rows).for_each(|row| out[place(row)..][..ins].fill(MaybeUninit::new(0.0)));
            return;
        };
        let (columns, first) = (gather.columns(), groups.start * class_lines * class_width);
        let tile = tile_rows(columns);
        for start in (0..n_rows).step_by(tile) {
            let rows = start..(start + tile).min(n_rows);
            let taps = taps.slice(rows.len() * columns);
            gather.fill(grad_output, first + rows.start..first + rows.end, as_uninit(taps));
            let product = product.slice(rows.len() * ins);
            let taps = Rows { values: taps, rows: rows.len(), row_step: columns, inner_step: 1 };
            self.weight.multiply(taps, Finish::NOTHING, as_uninit(product));
            for (row, pixel) in rows.zip(product.chunks_exact(ins)) {
                out[place(row)..][..ins].write_copy_of_slice(pixel);
            }
        }
    }
}

fn backward_input_pointwise(shape: &ConvShape, weight: &[f32], grad_output: &[f32]) -> Vec<f32> {
    let (ins, outs) = (shape.in_channels, shape.out_channels);
    let (part, tile) = (part_len(shape.out_rows(), TASKS_PER_THREAD, MIN_ROWS_PER_TASK), tile_rows(outs));
    let weight = Panels::pack(Level::detect(), [outs, ins], weight, |out| out * ins, 1);
    let run = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_mut(part * ins).zip(grad_output.par_chunks(part * outs)).for_each(|(out, grads)| {
            for (out, grads) in out.chunks_mut(tile * ins).zip(grads.chunks(tile * outs)) {
                let grads = Rows { values: grads, rows: grads.len() / outs, row_step: outs, inner_step: 1 };
                weight.multiply(grads, Finish::NOTHING, out);
            }
        });
    };
    // SAFETY: the chunks and tiles cover the input gradient, and `multiply` writes each.
    unsafe { filled(shape.input_len(), run) }
}

/// What the taps of the output pixels `rows` read: the input itself for a pointwise convolution, else a copy.
fn tap_values<'a>(
    shape: &ConvShape,
    gather: &Gather,
    input: &'a [f32],
    rows: Range<usize>,
    scratch: &'a mut Scratch,
) -> &'a [f32] {
    if shape.is_pointwise() {
        return &input[rows.start * shape.in_channels..rows.end * shape.in_channels];
    }
    let taps = scratch.slice(rows.len() * gather.columns());
    gather.fill(input, rows, as_uninit(taps));
    taps
}

pub(crate) fn sum_in_order(parts: Vec<Vec<f32>>) -> Vec<f32> {
    let mut parts = parts.into_iter();
    let mut total = parts.next().expect("an image has at least one pixel");
    for part in parts {
        for (total, value) in total.iter_mut().zip(part) {
            *total += value;
        }
    }
    total
}

/// A slice of values as one that need not be read before it is written.
pub(crate) fn as_uninit(values: &mut [f32]) -> &mut [MaybeUninit<f32>] {
    // SAFETY: both types have the same layout. The callers only write values, never `MaybeUninit::uninit`.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) }
}

/// Rows of taps at a time: about the half of a second-level cache.
pub(crate) fn tile_rows(columns: usize) -> usize {
    (TILE_VALUES / columns).clamp(MIN_TILE_ROWS, 1020) / MIN_TILE_ROWS * MIN_TILE_ROWS
}

const TILE_VALUES: usize = 64 * 1024;
/// A multiple of the rows that each instruction set multiplies at once.
const MIN_TILE_ROWS: usize = 60;
pub(crate) const WEIGHT_TILE_ROWS: usize = 192;
pub(crate) const TASKS_PER_THREAD: usize = 2;
pub(crate) const MIN_ROWS_PER_TASK: usize = 64;
