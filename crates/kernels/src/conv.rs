//! Convolutions that mix all channels: 1x1 and k x k, with stride, padding and dilation.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::buffer::{Scratch, chunk_len, filled};
use crate::implicit_im2col::{PatchTile, PatchView, TapOffsets};
use crate::instruction_set::InstructionSet;
use crate::matrix::{Epilogue, LhsRows, Panels, RhsRows, RowElements, RowStarts, multiply_unpacked_and_add};

/// Sizes of a convolution with square taps and symmetric zero padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvShape {
    /// Images.
    pub batch: usize,
    /// LhsRows of the input.
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
    /// LhsRows of the output.
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

    /// The taps of an output pixel, in input pixels from its first one.
    fn forward_taps(&self) -> TapOffsets {
        let taps: Vec<isize> = (0..self.kernel).map(|tap| self.tap_offset(tap)).collect();
        TapOffsets { y: taps.clone(), x: taps }
    }

    /// The input as a convolution reads it.
    fn forward_view(&self, taps: &TapOffsets) -> PatchView {
        let (grid_height, grid_width) = (self.out_height(), self.out_width());
        PatchView::new([self.height, self.width, self.in_channels], self.stride, [grid_height, grid_width], [taps])
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
    PackedConv::new(shape, weight, bias, relu).forward(shape.batch, input)
}

/// A convolution whose weight is packed for the CPU, to be run many times.
pub struct PackedConv {
    shape: ConvShape,
    weight: Panels,
    bias: Option<Vec<f32>>,
    relu: bool,
}

impl PackedConv {
    /// Packs `[out, in, kernel, kernel]`; the batch of `shape` does not matter.
    pub fn new(shape: &ConvShape, weight: &[f32], bias: Option<&[f32]>, relu: bool) -> Self {
        shape.check(None, Some(weight), None);
        let (taps, ins) = (shape.kernel * shape.kernel, shape.in_channels);
        let start = |k: usize| k % ins * taps + k / ins;
        let weight =
            Panels::pack(InstructionSet::detect(), [taps * ins, shape.out_channels], weight, start, ins * taps);
        Self { shape: *shape, bias: bias.map(|bias| weight.padded(bias)), weight, relu }
    }

    /// Convolution, plus bias, then ReLU, as given.
    pub fn forward(&self, batch: usize, input: &[f32]) -> Vec<f32> {
        let shape = ConvShape { batch, ..self.shape };
        shape.check(Some(input), None, None);
        let finish = Epilogue { bias: self.bias.as_deref(), relu: self.relu };
        if shape.is_pointwise() {
            return forward_pointwise(&shape, input, &self.weight, finish);
        }
        let taps = shape.forward_taps();
        let view = shape.forward_view(&taps);
        let (run, runs) = view.runs(&taps);
        let run_groups = |out: &mut [MaybeUninit<f32>]| {
            let line_len = shape.out_width() * shape.out_channels;
            let groups = view.split(batch, line_len, shape.out_height() * line_len, out);
            groups.into_par_iter().for_each_init(Scratch::default, |scratch, (group, out)| {
                let (values, starts) = view.window(input, &group, scratch);
                let parts = RowElements::Runs { len: run, offsets: &runs };
                self.weight.multiply(LhsRows { values, starts: RowStarts::List(&starts), parts }, finish, out);
            });
        };
        // SAFETY: the groups cover the output, and each is written by `multiply`.
        unsafe { filled(shape.output_len(), run_groups) }
    }
}

fn forward_pointwise(shape: &ConvShape, input: &[f32], weight: &Panels, finish: Epilogue) -> Vec<f32> {
    let (ins, outs) = (shape.in_channels, shape.out_channels);
    let (part, tile) = (chunk_len(shape.out_rows(), TASKS_PER_THREAD, MIN_ROWS_PER_TASK), tile_rows(ins));
    let run = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_mut(part * outs).zip(input.par_chunks(part * ins)).for_each(|(out, input)| {
            for (out, input) in out.chunks_mut(tile * outs).zip(input.chunks(tile * ins)) {
                weight.multiply(LhsRows::dense(input, ins), finish, out);
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
        let (ins, outs) = (shape.in_channels, shape.out_channels);
        let weight = Panels::pack(InstructionSet::detect(), [outs, ins], weight, |out| out * ins, 1);
        let transposed = ConvShape { in_channels: outs, out_channels: ins, ..*shape };
        return forward_pointwise(&transposed, grad_output, &weight, Epilogue::NONE);
    }
    let classes: Vec<StridePhase> = (0..shape.stride * shape.stride)
        .map(|idx| StridePhase::new(shape, weight, idx / shape.stride, idx % shape.stride))
        .collect();
    let grid = [shape.height.div_ceil(shape.stride), shape.width.div_ceil(shape.stride)];
    let source = [shape.out_height(), shape.out_width(), shape.out_channels];
    let view = PatchView::new(source, 1, grid, classes.iter().map(|class| &class.taps));
    let run = |out: &mut [MaybeUninit<f32>]| {
        let line_len = shape.width * shape.in_channels;
        let groups = view.split(shape.batch, shape.stride * line_len, shape.height * line_len, out);
        groups.into_par_iter().for_each_init(Scratch::default, |scratch, (group, out)| {
            let (values, starts) = view.window(grad_output, &group, scratch);
            for class in &classes {
                class.write(shape, &view, &group, values, &starts, out);
            }
        });
    };
    // SAFETY: the groups cover the input gradient, and each input pixel is in exactly one class, which writes it.
    unsafe { filled(shape.input_len(), run) }
}

/// Gradient of the weight, `[out, in, kernel, kernel]`.
pub fn backward_weight(shape: &ConvShape, input: &[f32], grad_output: &[f32]) -> Vec<f32> {
    shape.check(Some(input), None, Some(grad_output));
    let (ins, outs, taps) = (shape.in_channels, shape.out_channels, shape.kernel * shape.kernel);
    let columns = taps * ins;
    let sums: Vec<Vec<f32>> = if shape.is_pointwise() {
        let part = chunk_len(shape.out_rows(), 1, MIN_ROWS_PER_TASK);
        let parts = grad_output.par_chunks(part * outs).zip(input.par_chunks(part * ins));
        let parts = parts.map(|(grads, input)| {
            let mut product = WeightProduct::new(InstructionSet::detect(), outs);
            let mut sum = vec![0.0; outs * ins];
            let tiles = grads.chunks(WEIGHT_TILE_ROWS * outs).zip(input.chunks(WEIGHT_TILE_ROWS * ins));
            for (grads, input) in tiles {
                product.add_pixels(grads, input, &mut sum);
            }
            sum
        });
        parts.collect()
    } else {
        let tap_grid = shape.forward_taps();
        let view = shape.forward_view(&tap_grid);
        let (run, runs) = view.runs(&tap_grid);
        let groups = view.groups(shape.batch);
        let image_len = shape.out_height() * shape.out_width() * outs;
        let parts = groups.par_chunks(chunk_len(groups.len(), 1, 1)).map(|groups| {
            let mut product = WeightProduct::new(InstructionSet::detect(), outs);
            let (mut sum, mut scratch) = (vec![0.0; outs * columns], Scratch::default());
            for group in groups {
                let (values, starts) = view.window(input, group, &mut scratch);
                let first = group.images.start * image_len + group.lines.start * shape.out_width() * outs;
                let grads = &grad_output[first..][..starts.len() * outs];
                product.add(grads, RhsRows { values, starts: &starts, run, runs: &runs }, &mut sum);
            }
            sum
        });
        parts.collect()
    };
    let sum = sum_in_order(sums);
    if taps == 1 {
        return sum;
    }
    let run = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_mut(columns).zip(sum.par_chunks(columns)).for_each(|(out, sum)| {
            for (input, out) in out.chunks_exact_mut(taps).enumerate() {
                out.iter_mut().enumerate().for_each(|(tap, out)| {
                    out.write(sum[tap * ins + input]);
                });
            }
        });
    };
    // SAFETY: an output channel has `ins` chunks of all taps, every one of which is written.
    unsafe { filled(shape.weight_len(), run) }
}

/// The input pixels that are `residue` modulo the stride, and what makes their gradient.
struct StridePhase {
    residue: [usize; 2],
    /// None of them if no tap reaches the class.
    taps: TapOffsets,
    /// `[taps x out, in]`
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

    /// Writes the class's pixels in the group; `out` is the group's part of the input gradient.
    fn write(
        &self,
        shape: &ConvShape,
        view: &PatchView,
        group: &PatchTile,
        values: &[f32],
        starts: &[usize],
        out: &mut [MaybeUninit<f32>],
    ) {
        let (ins, stride, [residue_y, residue_x]) = (shape.in_channels, shape.stride, self.residue);
        let image_len = out.len() / group.images.len();
        let n_grid_pixels = group.lines.len() * view.grid[1];
        // The grid has a pixel for every class, some of which are past the image's border.
        let pixels = (0..starts.len()).filter_map(|row| {
            let (image, pixel) = (row / n_grid_pixels, row % n_grid_pixels);
            let (line, x) = (pixel / view.grid[1], pixel % view.grid[1]);
            let (y_in_group, x) = (line * stride + residue_y, x * stride + residue_x);
            let y = group.lines.start * stride + y_in_group;
            let place = image * image_len + (y_in_group * shape.width + x) * ins;
            (y < shape.height && x < shape.width).then_some((starts[row], place))
        });
        let (starts, places): (Vec<usize>, Vec<usize>) = pixels.unzip();
        if self.taps.y.is_empty() || self.taps.x.is_empty() {
            places.into_iter().for_each(|place| out[place..][..ins].fill(MaybeUninit::new(0.0)));
        } else if !starts.is_empty() {
            let (run, runs) = view.runs(&self.taps);
            let parts = RowElements::Runs { len: run, offsets: &runs };
            let rows = LhsRows { values, starts: RowStarts::List(&starts), parts };
            self.weight.multiply_scattered(rows, Epilogue::NONE, out, &places);
        }
    }
}

/// Products that make the gradient of a weight: of the output's gradient, `[pixels, out]`, with what its pixels read.
pub(crate) struct WeightProduct {
    outs: usize,
    isa: InstructionSet,
    panels: Panels,
    /// Where the pixels of a dense tile start.
    starts: Vec<usize>,
}

impl WeightProduct {
    pub(crate) fn new(isa: InstructionSet, outs: usize) -> Self {
        Self { outs, isa, panels: Panels::empty(isa), starts: vec![] }
    }

    /// Adds to `sum`, `[out, columns]`: line `k` of `lines` is what pixel `k` reads.
    pub(crate) fn add(&mut self, grads: &[f32], lines: RhsRows, sum: &mut [f32]) {
        let rows = LhsRows::transposed(grads, self.outs);
        if self.outs <= MOST_OUTS_IN_PLACE {
            return multiply_unpacked_and_add(self.isa, rows, lines, sum);
        }
        self.panels.repack(lines.values, RowStarts::List(lines.starts), lines.run, lines.runs);
        self.panels.multiply_and_add(rows, Epilogue::NONE, sum);
    }

    /// [`WeightProduct::add`] of a 1x1 convolution's pixels.
    pub(crate) fn add_pixels(&mut self, grads: &[f32], input: &[f32], sum: &mut [f32]) {
        let (outs, pixels) = (self.outs, grads.len() / self.outs);
        let ins = input.len() / pixels;
        let is_turned = ins < FEW_COLUMNS && outs > ins;
        let step = if is_turned { outs } else { ins };
        let mut starts = std::mem::take(&mut self.starts);
        starts.clear();
        starts.extend((0..pixels).map(|pixel| pixel * step));
        if is_turned {
            // The transpose, so that vectors are full.
            let mut transposed = vec![0.0; ins * outs];
            let lines = RhsRows { values: grads, starts: &starts, run: outs, runs: &[0] };
            multiply_unpacked_and_add(self.isa, LhsRows::transposed(input, ins), lines, &mut transposed);
            sum.iter_mut().enumerate().for_each(|(idx, sum)| *sum += transposed[idx % ins * outs + idx / ins]);
        } else {
            self.add(grads, RhsRows { values: input, starts: &starts, run: ins, runs: &[0] }, sum);
        }
        self.starts = starts;
    }
}

pub(crate) fn sum_in_order(parts: Vec<Vec<f32>>) -> Vec<f32> {
    let mut parts = parts.into_iter();
    let mut total = parts.next().expect("an image has at least one pixel");
    let others: Vec<Vec<f32>> = parts.collect();
    total.par_chunks_mut(SUM_PART).enumerate().for_each(|(idx, total)| {
        for other in &others {
            total.iter_mut().zip(&other[idx * SUM_PART..]).for_each(|(total, value)| *total += value);
        }
    });
    total
}

/// LhsRows of taps at a time: about the half of a second-level cache.
pub(crate) fn tile_rows(columns: usize) -> usize {
    (TILE_VALUES / columns).clamp(MIN_TILE_ROWS, 1020) / MIN_TILE_ROWS * MIN_TILE_ROWS
}

const TILE_VALUES: usize = 64 * 1024;
/// A multiple of the rows that each instruction set multiplies at once.
const MIN_TILE_ROWS: usize = 60;
/// Columns that leave vectors of some instruction set mostly empty.
const FEW_COLUMNS: usize = 8;
/// Output channels up to which a weight's gradient is not worth packing what its pixels read.
const MOST_OUTS_IN_PLACE: usize = 128;
/// Values of a weight's gradient that a task adds up.
const SUM_PART: usize = 16384;
pub(crate) const WEIGHT_TILE_ROWS: usize = 192;
pub(crate) const TASKS_PER_THREAD: usize = 2;
pub(crate) const MIN_ROWS_PER_TASK: usize = 64;
