//! Depthwise convolutions of stride 1: each channel with its own k x k taps.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::buffer::{CACHE_LINE, filled};
use crate::instruction_set::{InstructionSet, for_each_instruction_set, multiply_add};

/// Sizes of a depthwise convolution with stride 1, square taps and symmetric zero padding.
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
}

impl DepthwiseShape {
    /// Rows of the output.
    pub fn out_height(&self) -> usize {
        self.height + 2 * self.padding - self.reach()
    }

    /// Columns of the output.
    pub fn out_width(&self) -> usize {
        self.width + 2 * self.padding - self.reach()
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

    /// The convolution of the output's gradient whose output is the input's gradient.
    pub(crate) fn transposed(&self) -> Self {
        let (height, width, padding) = (self.out_height(), self.out_width(), self.reach() - self.padding);
        Self { height, width, padding, ..*self }
    }

    /// Values of a line of the output.
    pub(crate) fn out_line_len(&self) -> usize {
        self.out_width() * self.channels
    }

    /// Distance between the first and the last tap.
    fn reach(&self) -> usize {
        self.dilation * (self.kernel - 1)
    }

    fn check(&self) {
        assert!(self.padding <= self.reach(), "depthwise: padding reaches past the taps, {self:?}");
        let narrowest = self.height.min(self.width) + 2 * self.padding;
        assert!(narrowest > self.reach(), "depthwise: the taps are wider than the padded input, {self:?}");
    }
}

/// Depthwise convolution, plus `bias` per channel, then ReLU if `relu`. `weight`: `[channels, 1, kernel, kernel]`.
pub fn forward(shape: &DepthwiseShape, input: &[f32], weight: &[f32], bias: Option<&[f32]>, relu: bool) -> Vec<f32> {
    forward_on(InstructionSet::detect(), shape, input, weight, bias, relu)
}

/// Gradient of the input from the gradient of the output: the convolution of that with the taps rotated by 180°.
pub fn backward_input(shape: &DepthwiseShape, weight: &[f32], grad_output: &[f32]) -> Vec<f32> {
    backward_input_on(InstructionSet::detect(), shape, weight, grad_output)
}

/// Gradient of the weight, `[channels, 1, kernel, kernel]`.
pub fn backward_weight(shape: &DepthwiseShape, input: &[f32], grad_output: &[f32]) -> Vec<f32> {
    backward_weight_on(InstructionSet::detect(), shape, input, grad_output)
}

fn forward_on(
    isa: InstructionSet,
    shape: &DepthwiseShape,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    relu: bool,
) -> Vec<f32> {
    let kernel = DepthwiseKernel::new(shape, weight, bias, relu);
    PackedDepthwise { isa, shape: *shape, kernel }.forward(shape.batch, input)
}

/// A depthwise convolution whose weight is laid out for the CPU, to be run many times.
pub struct PackedDepthwise {
    isa: InstructionSet,
    shape: DepthwiseShape,
    kernel: DepthwiseKernel,
}

impl PackedDepthwise {
    /// Lays out `[channels, 1, kernel, kernel]`; the batch of `shape` does not matter.
    pub fn new(shape: &DepthwiseShape, weight: &[f32], bias: Option<&[f32]>, relu: bool) -> Self {
        Self { isa: InstructionSet::detect(), shape: *shape, kernel: DepthwiseKernel::new(shape, weight, bias, relu) }
    }

    /// Convolution, plus bias, then ReLU, as given.
    pub fn forward(&self, batch: usize, input: &[f32]) -> Vec<f32> {
        let (isa, shape) = (self.isa, DepthwiseShape { batch, ..self.shape });
        assert_eq!(input.len(), shape.input_len(), "depthwise: input, {shape:?}");
        let image_len = shape.height * shape.width * shape.channels;
        let run = |out: &mut [MaybeUninit<f32>]| {
            let (band, line_len) = (band_lines(&shape), shape.out_line_len());
            map_bands(shape.out_height() * line_len, band * line_len, out, |image, band_idx, out| {
                let (first, source) = (band_idx * band, RowSource::Map(&input[image * image_len..][..image_len]));
                let mut ring = RowRing::new(&shape, source, first);
                self.kernel.write_lines(isa, &mut ring, first, out, |_| {});
            });
        };
        // SAFETY: the bands cover the output, and `write_lines` writes all of each.
        unsafe { filled(shape.output_len(), run) }
    }
}

fn backward_input_on(isa: InstructionSet, shape: &DepthwiseShape, weight: &[f32], grad_output: &[f32]) -> Vec<f32> {
    shape.check();
    assert_eq!(grad_output.len(), shape.output_len(), "depthwise: output gradient, {shape:?}");
    forward_on(isa, &shape.transposed(), grad_output, &rotated_taps(shape, weight), None, false)
}

fn backward_weight_on(isa: InstructionSet, shape: &DepthwiseShape, input: &[f32], grad_output: &[f32]) -> Vec<f32> {
    shape.check();
    assert_eq!(input.len(), shape.input_len(), "depthwise: input, {shape:?}");
    assert_eq!(grad_output.len(), shape.output_len(), "depthwise: output gradient, {shape:?}");
    let (band, image_len) = (band_lines(shape), shape.height * shape.width * shape.channels);
    let bands = shape.out_height().div_ceil(band);
    let sums: Vec<DepthwiseWeightSums> = (0..shape.batch * bands)
        .into_par_iter()
        .map(|idx| {
            let (image, first) = (idx / bands, idx % bands * band);
            let n_lines = band.min(shape.out_height() - first);
            let grads = &grad_output[(image * shape.out_height() + first) * shape.out_line_len()..];
            let source = RowSource::Map(&input[image * image_len..][..image_len]);
            let mut ring = RowRing::new(shape, source, first);
            let mut sums = DepthwiseWeightSums::new(shape);
            for (line, grads) in grads.chunks_exact(shape.out_line_len()).take(n_lines).enumerate() {
                ring.advance(first + line);
                sums.add(isa, &ring, grads);
            }
            sums
        })
        .collect();
    DepthwiseWeightSums::total(shape, sums)
}

/// Calls `run(image, band, values)` for every band of `band_len` values of every image of `out`, in parallel; its
/// results in order.
pub(crate) fn map_bands<T: Send>(
    image_len: usize,
    band_len: usize,
    out: &mut [MaybeUninit<f32>],
    run: impl Fn(usize, usize, &mut [MaybeUninit<f32>]) -> T + Sync + Send,
) -> Vec<T> {
    let images = out.chunks_mut(image_len).enumerate();
    let bands = images.flat_map(|(image, out)| out.chunks_mut(band_len).enumerate().map(move |band| (image, band)));
    let bands: Vec<_> = bands.collect();
    bands.into_par_iter().map(|(image, (band, out))| run(image, band, out)).collect()
}

/// The weight with its taps rotated by 180°, for the gradient of the input.
pub(crate) fn rotated_taps(shape: &DepthwiseShape, weight: &[f32]) -> Vec<f32> {
    assert_eq!(weight.len(), shape.weight_len(), "depthwise: weight, {shape:?}");
    weight.chunks_exact(shape.kernel * shape.kernel).flat_map(|taps| taps.iter().rev().copied()).collect()
}

/// Taps and bias as vectors read them.
pub(crate) struct DepthwiseKernel {
    lanes: RowLayout,
    /// `[taps, lanes]`
    weight: Vec<f32>,
    bias: Vec<f32>,
    relu: bool,
    out_line_len: usize,
}

impl DepthwiseKernel {
    pub(crate) fn new(shape: &DepthwiseShape, weight: &[f32], bias: Option<&[f32]>, relu: bool) -> Self {
        shape.check();
        assert_eq!(weight.len(), shape.weight_len(), "depthwise: weight, {shape:?}");
        let lanes = RowLayout::new(shape);
        let weight = lanes.spread_taps(shape, |channel, tap| weight[channel * shape.kernel * shape.kernel + tap]);
        let bias = match bias {
            Some(bias) => {
                assert_eq!(bias.len(), shape.channels, "depthwise: bias, {shape:?}");
                bias.iter().copied().cycle().take(lanes.width).collect()
            }
            None => vec![0.0; lanes.width],
        };
        Self { lanes, weight, bias, relu, out_line_len: shape.out_line_len() }
    }

    /// Writes whole output lines from `first` on and calls `done` with each of them.
    pub(crate) fn write_lines(
        &self,
        isa: InstructionSet,
        ring: &mut RowRing,
        first: usize,
        out: &mut [MaybeUninit<f32>],
        mut done: impl FnMut(&[f32]),
    ) {
        for (line, out) in out.chunks_exact_mut(self.out_line_len).enumerate() {
            ring.advance(first + line);
            done(self.write_line(isa, ring, out));
        }
    }

    /// Writes the output line that the ring was advanced to.
    pub(crate) fn write_line<'a>(
        &self,
        isa: InstructionSet,
        ring: &RowRing,
        out: &'a mut [MaybeUninit<f32>],
    ) -> &'a mut [f32] {
        assert_eq!(out.len(), self.out_line_len, "depthwise: output line");
        output_line(isa, self, &ring.lines, &ring.starts, out);
        // SAFETY: the blocks of `output_line` cover all lanes of all pixels of the line.
        unsafe { out.assume_init_mut() }
    }
}

/// Sums of the gradients of the taps, `[taps, lanes]`.
pub(crate) struct DepthwiseWeightSums {
    lanes: RowLayout,
    sums: Vec<f32>,
}

impl DepthwiseWeightSums {
    pub(crate) fn new(shape: &DepthwiseShape) -> Self {
        let lanes = RowLayout::new(shape);
        Self { sums: vec![0.0; shape.kernel * shape.kernel * lanes.width], lanes }
    }

    /// Adds the products of an output line's gradient with what its taps read; the ring was advanced to that line.
    pub(crate) fn add(&mut self, isa: InstructionSet, ring: &RowRing, grads: &[f32]) {
        weight_line(isa, &self.lanes, &ring.lines, &ring.starts, grads, &mut self.sums);
    }

    /// The gradient of the weight, in its order.
    pub(crate) fn total(shape: &DepthwiseShape, parts: Vec<Self>) -> Vec<f32> {
        let taps = shape.kernel * shape.kernel;
        let mut totals = vec![0.0f64; taps * shape.channels];
        for Self { lanes, sums } in parts {
            for (idx, value) in sums.into_iter().enumerate() {
                let (tap, lane) = (idx / lanes.width, idx % lanes.width);
                totals[(lane % shape.channels) * taps + tap] += f64::from(value);
            }
        }
        totals.into_iter().map(|total| total as f32).collect()
    }
}

/// How pixels and channels of a line map to vectors: a run of `width` values with taps of their own, repeated
/// `pixels` times. Few channels would leave vectors empty, so then the whole line is one run.
struct RowLayout {
    width: usize,
    pixels: usize,
}

impl RowLayout {
    fn new(shape: &DepthwiseShape) -> Self {
        if shape.channels >= MOST_LANES {
            Self { width: shape.channels, pixels: shape.out_width() }
        } else {
            Self { width: shape.channels * shape.out_width(), pixels: 1 }
        }
    }

    /// `[taps, width]` from `value(channel, tap)`.
    fn spread_taps(&self, shape: &DepthwiseShape, value: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        let taps = shape.kernel * shape.kernel;
        let lanes = (0..taps * self.width).map(|idx| (idx % self.width % shape.channels, idx / self.width));
        lanes.map(|(channel, tap)| value(channel, tap)).collect()
    }
}

/// Writes the line of the given index.
type MakeLine<'a> = dyn FnMut(usize, &mut [f32]) + 'a;

/// Where the lines of an image come from.
pub(crate) enum RowSource<'a> {
    /// `[height, width, channels]`
    Map(&'a [f32]),
    /// Writes line `y`; called for each in ascending order.
    Computed(Box<MakeLine<'a>>),
}

/// The last lines of an image that taps can still reach, padded with zeros.
pub(crate) struct RowRing<'a> {
    shape: DepthwiseShape,
    source: RowSource<'a>,
    /// The first `offset` values are not used, so that lines of whole cache lines lie in as many.
    lines: Vec<f32>,
    offset: usize,
    line_len: usize,
    n_lines: usize,
    /// Where each tap of the first pixel of the current output line starts.
    starts: Vec<usize>,
}

impl<'a> RowRing<'a> {
    /// Ready to be advanced to output line `first` and then to each next one.
    pub(crate) fn new(shape: &DepthwiseShape, source: RowSource<'a>, first: usize) -> Self {
        let (line_len, n_lines) = ((shape.width + 2 * shape.padding) * shape.channels, shape.reach() + 1);
        let lines = vec![0.0; n_lines * line_len + CACHE_LINE / size_of::<f32>()];
        let offset = lines.as_ptr().align_offset(CACHE_LINE).min(CACHE_LINE / size_of::<f32>());
        let starts = Vec::with_capacity(shape.kernel * shape.kernel);
        let mut ring = Self { shape: *shape, source, lines, offset, line_len, n_lines, starts };
        (first..first + shape.reach()).for_each(|line| ring.load(line));
        ring
    }

    /// Reads the last line that output line `y` needs.
    pub(crate) fn advance(&mut self, y: usize) {
        let shape = self.shape;
        self.load(y + shape.reach());
        self.starts.clear();
        for tap_y in 0..shape.kernel {
            let line = self.offset + (y + tap_y * shape.dilation) % self.n_lines * self.line_len;
            self.starts.extend((0..shape.kernel).map(|tap_x| line + tap_x * shape.dilation * shape.channels));
        }
    }

    /// The lines, and where in them each tap of the first pixel of the current output line starts.
    pub(crate) fn taps(&self) -> (&[f32], &[usize]) {
        (&self.lines, &self.starts)
    }

    /// Input line `y`, which must be within reach of the current output line.
    pub(crate) fn line(&self, y: usize) -> &[f32] {
        let line = self.offset + (y + self.shape.padding) % self.n_lines * self.line_len;
        let start = line + self.shape.padding * self.shape.channels;
        &self.lines[start..][..self.shape.width * self.shape.channels]
    }

    /// Reads a line, counted from the first padding line.
    fn load(&mut self, padded_line: usize) {
        let (padding, channels) = (self.shape.padding, self.shape.channels);
        let start = self.offset + padded_line % self.n_lines * self.line_len + padding * channels;
        let line = &mut self.lines[start..][..self.shape.width * channels];
        match (padded_line.checked_sub(padding).filter(|line| *line < self.shape.height), &mut self.source) {
            (Some(y), RowSource::Map(image)) => line.copy_from_slice(&image[y * line.len()..][..line.len()]),
            (Some(y), RowSource::Computed(make)) => make(y, line),
            (None, _) => line.fill(0.0),
        }
    }
}

for_each_instruction_set! {
    fn output_line(kernel: &DepthwiseKernel, lines: &[f32], starts: &[usize], out: &mut [MaybeUninit<f32>]) = output_line_body
}

for_each_instruction_set! {
    /// Adds the gradients of the taps over a line to `sums`, `[taps, lanes]`.
    fn weight_line(
        lanes: &RowLayout,
        lines: &[f32],
        starts: &[usize],
        grads: &[f32],
        sums: &mut [f32],
    ) = weight_line_body
}

#[inline(always)]
fn output_line_body<const FUSED: bool, const LANES: usize>(
    kernel: &DepthwiseKernel,
    lines: &[f32],
    starts: &[usize],
    out: &mut [MaybeUninit<f32>],
) {
    let RowLayout { width, pixels } = kernel.lanes;
    let least = if kernel.relu { 0.0 } else { f32::NEG_INFINITY };
    let line = Line { values: lines, starts, weight: &kernel.weight, bias: &kernel.bias, width, least };
    if width < LANES {
        for lane in 0..width {
            line.write_pixels::<FUSED, 1, 1>(0, lane, out);
        }
        return;
    }
    if let Some(rows) = three_neighbours(starts, width) {
        for lane in blocks::<LANES>(width) {
            line.write_3x3::<FUSED, LANES>(rows, pixels, lane, out);
        }
        return;
    }
    for lane in blocks::<LANES>(width) {
        let mut pixel = 0;
        while pixel + AT_ONCE <= pixels {
            line.write_pixels::<FUSED, LANES, AT_ONCE>(pixel, lane, out);
            pixel += AT_ONCE;
        }
        for pixel in pixel..pixels {
            line.write_pixels::<FUSED, LANES, 1>(pixel, lane, out);
        }
    }
}

/// One output line's inputs.
struct Line<'a> {
    values: &'a [f32],
    starts: &'a [usize],
    weight: &'a [f32],
    bias: &'a [f32],
    width: usize,
    least: f32,
}

impl Line<'_> {
    /// Writes lanes `lane..lane + LANES` of the pixels `pixel..pixel + PIXELS`.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant indices keep the sums in registers")]
    fn write_pixels<const FUSED: bool, const LANES: usize, const PIXELS: usize>(
        &self,
        pixel: usize,
        lane: usize,
        out: &mut [MaybeUninit<f32>],
    ) {
        let place = pixel * self.width + lane;
        let mut sums = [*array::<LANES>(self.bias, lane); PIXELS];
        for (tap, start) in self.starts.iter().enumerate() {
            let weight = array::<LANES>(self.weight, tap * self.width + lane);
            for idx in 0..PIXELS {
                let values = array::<LANES>(self.values, start + place + idx * self.width);
                for lane in 0..LANES {
                    sums[idx][lane] = multiply_add::<FUSED>(values[lane], weight[lane], sums[idx][lane]);
                }
            }
        }
        for idx in 0..PIXELS {
            self.finish(sums[idx], place + idx * self.width, out);
        }
    }

    /// Writes lanes `lane..lane + LANES` of all pixels with nine taps in three `rows` of neighbours: what neighbouring
    /// pixels read in common is read once.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant indices keep the values in registers")]
    fn write_3x3<const FUSED: bool, const LANES: usize>(
        &self,
        rows: [usize; 3],
        pixels: usize,
        lane: usize,
        out: &mut [MaybeUninit<f32>],
    ) {
        let mut weight = [[0.0; LANES]; 9];
        for tap in 0..9 {
            weight[tap] = *array::<LANES>(self.weight, tap * self.width + lane);
        }
        let bias = *array::<LANES>(self.bias, lane);
        let mut pixel = 0;
        while pixel + AT_ONCE <= pixels {
            let place = pixel * self.width + lane;
            let mut sums = [bias; AT_ONCE];
            for row in 0..3 {
                let mut window = [[0.0; LANES]; AT_ONCE + 2];
                for idx in 0..AT_ONCE + 2 {
                    window[idx] = *array::<LANES>(self.values, rows[row] + place + idx * self.width);
                }
                for tap in 0..3 {
                    for idx in 0..AT_ONCE {
                        for lane in 0..LANES {
                            let (value, weight) = (window[idx + tap][lane], weight[3 * row + tap][lane]);
                            sums[idx][lane] = multiply_add::<FUSED>(value, weight, sums[idx][lane]);
                        }
                    }
                }
            }
            for idx in 0..AT_ONCE {
                self.finish(sums[idx], place + idx * self.width, out);
            }
            pixel += AT_ONCE;
        }
        for pixel in pixel..pixels {
            self.write_pixels::<FUSED, LANES, 1>(pixel, lane, out);
        }
    }

    #[inline(always)]
    fn finish<const LANES: usize>(&self, mut sum: [f32; LANES], place: usize, out: &mut [MaybeUninit<f32>]) {
        for value in &mut sum {
            *value = if *value < self.least { self.least } else { *value };
        }
        out[place..][..LANES].write_copy_of_slice(&sum);
    }
}

/// Where the rows of three by three taps start, if the taps of each are neighbouring pixels.
#[inline(always)]
fn three_neighbours(starts: &[usize], width: usize) -> Option<[usize; 3]> {
    let starts: &[usize; 9] = starts.try_into().ok()?;
    let rows = [starts[0], starts[3], starts[6]];
    let in_row = |row: usize| starts[3 * row + 1] == rows[row] + width && starts[3 * row + 2] == rows[row] + 2 * width;
    (in_row(0) && in_row(1) && in_row(2)).then_some(rows)
}

#[inline(always)]
fn weight_line_body<const FUSED: bool, const LANES: usize>(
    lanes: &RowLayout,
    lines: &[f32],
    starts: &[usize],
    grads: &[f32],
    sums: &mut [f32],
) {
    if lanes.width < LANES {
        for (tap, start) in starts.iter().enumerate() {
            for (lane, grad) in grads.iter().enumerate() {
                sums[tap * lanes.width + lane] += grad * lines[start + lane];
            }
        }
        return;
    }
    let mut done = 0;
    for lane in blocks::<LANES>(lanes.width) {
        // The last block may go over lanes that an earlier one has summed.
        let new = done - lane..LANES;
        done = lane + LANES;
        let mut add = |tap: usize, sum: [f32; LANES]| {
            let sums = &mut sums[tap * lanes.width + lane..][..LANES];
            sums[new.clone()].iter_mut().zip(&sum[new.clone()]).for_each(|(total, value)| *total += value);
        };
        if let Some(rows) = three_neighbours(starts, lanes.width) {
            let sums = sums_3x3::<FUSED, LANES>(lines, rows, grads, lanes, lane);
            sums.into_iter().enumerate().for_each(|(tap, sum)| add(tap, sum));
            continue;
        }
        let (threes, rest) = starts.as_chunks::<3>();
        for (idx, starts) in threes.iter().enumerate() {
            let sums = tap_sums::<FUSED, LANES, 3>(lines, starts, grads, lanes, lane);
            sums.into_iter().enumerate().for_each(|(tap, sum)| add(3 * idx + tap, sum));
        }
        for (idx, start) in rest.iter().enumerate() {
            let [sum] = tap_sums::<FUSED, LANES, 1>(lines, &[*start], grads, lanes, lane);
            add(3 * threes.len() + idx, sum);
        }
    }
}

/// Sums over a line's pixels of gradient times input, for three rows of neighbouring taps.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "constant indices keep the sums in registers")]
fn sums_3x3<const FUSED: bool, const LANES: usize>(
    lines: &[f32],
    rows: [usize; 3],
    grads: &[f32],
    lanes: &RowLayout,
    lane: usize,
) -> [[f32; LANES]; 9] {
    let mut sums = [[0.0; LANES]; 9];
    // What the pixel's left and middle taps read; the right one's is the next pixel's middle.
    let mut window = [[[0.0; LANES]; 3]; 3];
    for row in 0..3 {
        window[row][0] = *array::<LANES>(lines, rows[row] + lane);
        window[row][1] = *array::<LANES>(lines, rows[row] + lanes.width + lane);
    }
    for pixel in 0..lanes.pixels {
        let place = pixel * lanes.width + lane;
        let grad = *array::<LANES>(grads, place);
        for row in 0..3 {
            window[row][2] = *array::<LANES>(lines, rows[row] + place + 2 * lanes.width);
            for tap in 0..3 {
                for lane in 0..LANES {
                    let sum = sums[3 * row + tap][lane];
                    sums[3 * row + tap][lane] = multiply_add::<FUSED>(window[row][tap][lane], grad[lane], sum);
                }
            }
            window[row][0] = window[row][1];
            window[row][1] = window[row][2];
        }
    }
    sums
}

/// Sums over a line's pixels of gradient times input.
#[inline(always)]
fn tap_sums<const FUSED: bool, const LANES: usize, const TAPS: usize>(
    line: &[f32],
    starts: &[usize; TAPS],
    grads: &[f32],
    lanes: &RowLayout,
    lane: usize,
) -> [[f32; LANES]; TAPS] {
    // Two sums per tap, so that an addition need not wait for the one before.
    let (mut even, mut odd) = ([[0.0; LANES]; TAPS], [[0.0; LANES]; TAPS]);
    for pair in 0..lanes.pixels / 2 {
        let place = 2 * pair * lanes.width + lane;
        add_pixel::<FUSED, LANES, TAPS>(&mut even, line, starts, grads, place);
        add_pixel::<FUSED, LANES, TAPS>(&mut odd, line, starts, grads, place + lanes.width);
    }
    if lanes.pixels % 2 == 1 {
        let place = (lanes.pixels - 1) * lanes.width + lane;
        add_pixel::<FUSED, LANES, TAPS>(&mut even, line, starts, grads, place);
    }
    for tap in 0..TAPS {
        for lane in 0..LANES {
            even[tap][lane] += odd[tap][lane];
        }
    }
    even
}

/// A function, not a closure: a closure is compiled without the instruction set of the loop around it.
#[inline(always)]
fn add_pixel<const FUSED: bool, const LANES: usize, const TAPS: usize>(
    sums: &mut [[f32; LANES]; TAPS],
    line: &[f32],
    starts: &[usize; TAPS],
    grads: &[f32],
    place: usize,
) {
    let grad = array::<LANES>(grads, place);
    for tap in 0..TAPS {
        let values = array::<LANES>(line, starts[tap] + place);
        for lane in 0..LANES {
            sums[tap][lane] = multiply_add::<FUSED>(values[lane], grad[lane], sums[tap][lane]);
        }
    }
}

/// RowStarts of blocks of `LANES` that cover `width`; the last may overlap the one before. `width` is at least `LANES`.
#[inline(always)]
pub(crate) fn blocks<const LANES: usize>(width: usize) -> impl Iterator<Item = usize> {
    (0..width.div_ceil(LANES)).map(move |block| (block * LANES).min(width - LANES))
}

#[inline(always)]
pub(crate) fn array<const LEN: usize>(values: &[f32], start: usize) -> &[f32; LEN] {
    values[start..start + LEN].try_into().expect("a slice of this length")
}

/// Lines of an image per task: whole images where there are enough of them.
pub(crate) fn band_lines(shape: &DepthwiseShape) -> usize {
    let tasks_per_image = (2 * rayon::current_num_threads()).div_ceil(shape.batch.max(1));
    shape.out_height().div_ceil(tasks_per_image).max(1)
}

/// Pixels whose sums are in registers together.
const AT_ONCE: usize = 4;
/// Channels from which on a pixel fills a vector of every instruction set.
const MOST_LANES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{assert_near, noise};

    #[test]
    fn all_instruction_sets_agree() {
        for (channels, width) in [(3, 9), (1, 4), (16, 7), (37, 6)] {
            let shape = DepthwiseShape { batch: 2, height: 5, width, channels, kernel: 3, dilation: 2, padding: 2 };
            let (input, weight) = (noise(shape.input_len(), 1), noise(shape.weight_len(), 2));
            let grad = noise(shape.output_len(), 3);
            let run = |isa| {
                let output = forward_on(isa, &shape, &input, &weight, None, false);
                let grad_input = backward_input_on(isa, &shape, &weight, &grad);
                [output, grad_input, backward_weight_on(isa, &shape, &input, &grad)]
            };
            let baseline = run(InstructionSet::Baseline);
            for isa in InstructionSet::available() {
                for (got, expected) in run(isa).iter().zip(&baseline) {
                    let expected: Vec<f64> = expected.iter().map(|value| f64::from(*value)).collect();
                    assert_near(&format!("{isa:?}, {channels} channels"), got, &expected);
                }
            }
        }
    }
}
