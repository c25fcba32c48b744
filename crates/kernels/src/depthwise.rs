//! Depthwise convolutions of stride 1: each channel with its own k x k taps.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use crate::buffer::filled;
use crate::cpu::{Level, for_each_level, multiply_add};

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
    forward_at(Level::detect(), shape, input, weight, bias, relu)
}

/// Gradient of the input from the gradient of the output: the convolution of that with the taps turned around.
pub fn backward_input(shape: &DepthwiseShape, weight: &[f32], grad_output: &[f32]) -> Vec<f32> {
    backward_input_at(Level::detect(), shape, weight, grad_output)
}

/// Gradient of the weight, `[channels, 1, kernel, kernel]`.
pub fn backward_weight(shape: &DepthwiseShape, input: &[f32], grad_output: &[f32]) -> Vec<f32> {
    backward_weight_at(Level::detect(), shape, input, grad_output)
}

fn forward_at(
    level: Level,
    shape: &DepthwiseShape,
    input: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    relu: bool,
) -> Vec<f32> {
    shape.check();
    assert_eq!(input.len(), shape.input_len(), "depthwise: input, {shape:?}");
    assert_eq!(weight.len(), shape.weight_len(), "depthwise: weight, {shape:?}");
    let lanes = Lanes::new(shape);
    let weight = lanes.spread_taps(shape, |channel, tap| weight[channel * shape.kernel * shape.kernel + tap]);
    let bias = match bias {
        Some(bias) => {
            assert_eq!(bias.len(), shape.channels, "depthwise: bias, {shape:?}");
            bias.iter().copied().cycle().take(lanes.width).collect()
        }
        None => vec![0.0; lanes.width],
    };
    let line_len = shape.out_width() * shape.channels;
    let band = band_lines(shape);
    let run = |out: &mut [MaybeUninit<f32>]| {
        let images = out.par_chunks_mut(shape.out_height() * line_len).enumerate();
        images.for_each(|(image, out)| {
            let input = &input[image * shape.height * shape.width * shape.channels..];
            out.par_chunks_mut(band * line_len).enumerate().for_each(|(idx, out)| {
                forward_band(level, shape, &lanes, input, &weight, &bias, relu, idx * band, out);
            });
        });
    };
    // SAFETY: the bands cover the output, and `forward_band` writes all pixels and channels of each of its lines.
    unsafe { filled(shape.output_len(), run) }
}

fn backward_input_at(level: Level, shape: &DepthwiseShape, weight: &[f32], grad_output: &[f32]) -> Vec<f32> {
    shape.check();
    assert_eq!(grad_output.len(), shape.output_len(), "depthwise: output gradient, {shape:?}");
    assert_eq!(weight.len(), shape.weight_len(), "depthwise: weight, {shape:?}");
    let turned = DepthwiseShape {
        height: shape.out_height(),
        width: shape.out_width(),
        padding: shape.reach() - shape.padding,
        ..*shape
    };
    let taps = shape.kernel * shape.kernel;
    let weight: Vec<f32> = weight.chunks_exact(taps).flat_map(|taps| taps.iter().rev().copied()).collect();
    forward_at(level, &turned, grad_output, &weight, None, false)
}

fn backward_weight_at(level: Level, shape: &DepthwiseShape, input: &[f32], grad_output: &[f32]) -> Vec<f32> {
    shape.check();
    assert_eq!(input.len(), shape.input_len(), "depthwise: input, {shape:?}");
    assert_eq!(grad_output.len(), shape.output_len(), "depthwise: output gradient, {shape:?}");
    let lanes = Lanes::new(shape);
    let (band, taps) = (band_lines(shape), shape.kernel * shape.kernel);
    let (image_len, line_len) = (shape.height * shape.width * shape.channels, shape.out_width() * shape.channels);
    let bands = shape.out_height().div_ceil(band);
    let sums: Vec<Vec<f32>> = (0..shape.batch * bands)
        .into_par_iter()
        .map(|idx| {
            let (image, band_idx) = (idx / bands, idx % bands);
            let lines = band_idx * band..((band_idx + 1) * band).min(shape.out_height());
            let input = &input[image * image_len..][..image_len];
            let first = (image * shape.out_height() + lines.start) * line_len;
            let grads = &grad_output[first..][..lines.len() * line_len];
            let mut sums = vec![0.0; taps * lanes.width];
            weight_band(level, shape, &lanes, input, grads, lines, &mut sums);
            sums
        })
        .collect();
    let mut totals = vec![0.0f64; taps * shape.channels];
    for sums in sums {
        for (idx, value) in sums.into_iter().enumerate() {
            let (tap, lane) = (idx / lanes.width, idx % lanes.width);
            totals[(lane % shape.channels) * taps + tap] += f64::from(value);
        }
    }
    totals.into_iter().map(|total| total as f32).collect()
}

/// How pixels and channels of a line map to vectors: a run of `width` values with taps of their own, repeated
/// `pixels` times. Few channels would leave vectors empty, so then the whole line is one run.
struct Lanes {
    width: usize,
    pixels: usize,
}

impl Lanes {
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

/// The last lines of an image that taps can still reach, padded with zeros.
struct Ring<'a> {
    shape: &'a DepthwiseShape,
    image: &'a [f32],
    lines: Vec<f32>,
    line_len: usize,
    n_lines: usize,
}

impl<'a> Ring<'a> {
    /// Ready for output line `first`.
    fn new(shape: &'a DepthwiseShape, image: &'a [f32], first: usize) -> Self {
        let (line_len, n_lines) = ((shape.width + 2 * shape.padding) * shape.channels, shape.reach() + 1);
        let mut ring = Self { shape, image, lines: vec![0.0; n_lines * line_len], line_len, n_lines };
        (first..first + shape.reach()).for_each(|line| ring.load(line));
        ring
    }

    /// Reads the last line that output line `y` needs; returns where each tap of its first pixel starts.
    fn advance(&mut self, y: usize, starts: &mut Vec<usize>) {
        let shape = self.shape;
        self.load(y + shape.reach());
        starts.clear();
        for tap_y in 0..shape.kernel {
            let line = (y + tap_y * shape.dilation) % self.n_lines * self.line_len;
            starts.extend((0..shape.kernel).map(|tap_x| line + tap_x * shape.dilation * shape.channels));
        }
    }

    /// Copies a line, counted from the first padding line.
    fn load(&mut self, padded_line: usize) {
        let (padding, len) = (self.shape.padding, self.shape.width * self.shape.channels);
        let start = padded_line % self.n_lines * self.line_len;
        let line = &mut self.lines[start..][padding * self.shape.channels..][..len];
        match padded_line.checked_sub(padding).filter(|line| *line < self.shape.height) {
            Some(y) => line.copy_from_slice(&self.image[y * len..][..len]),
            None => line.fill(0.0),
        }
    }
}

for_each_level! {
    /// Writes the output lines from `first` on.
    fn forward_band(
        shape: &DepthwiseShape,
        lanes: &Lanes,
        image: &[f32],
        weight: &[f32],
        bias: &[f32],
        relu: bool,
        first: usize,
        out: &mut [MaybeUninit<f32>],
    ) = forward_band_body
}

for_each_level! {
    /// Adds the gradients of the taps over the output lines `lines` to `sums`, `[taps, lanes]`.
    fn weight_band(
        shape: &DepthwiseShape,
        lanes: &Lanes,
        image: &[f32],
        grads: &[f32],
        lines: Range<usize>,
        sums: &mut [f32],
    ) = weight_band_body
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn forward_band_body<const FUSED: bool, const LANES: usize>(
    shape: &DepthwiseShape,
    lanes: &Lanes,
    image: &[f32],
    weight: &[f32],
    bias: &[f32],
    relu: bool,
    first: usize,
    out: &mut [MaybeUninit<f32>],
) {
    let mut ring = Ring::new(shape, image, first);
    let mut starts = Vec::with_capacity(shape.kernel * shape.kernel);
    let least = if relu { 0.0 } else { f32::NEG_INFINITY };
    for (y, out) in out.chunks_exact_mut(shape.out_width() * shape.channels).enumerate() {
        ring.advance(first + y, &mut starts);
        let line = Line { values: &ring.lines, starts: &starts, weight, bias, width: lanes.width, least };
        if lanes.width < LANES {
            (0..lanes.width).for_each(|lane| line.write_pixels::<FUSED, 1, 1>(0, lane, out));
            continue;
        }
        for lane in blocks::<LANES>(lanes.width) {
            let mut pixel = 0;
            while pixel + AT_ONCE <= lanes.pixels {
                line.write_pixels::<FUSED, LANES, AT_ONCE>(pixel, lane, out);
                pixel += AT_ONCE;
            }
            (pixel..lanes.pixels).for_each(|pixel| line.write_pixels::<FUSED, LANES, 1>(pixel, lane, out));
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
        for (idx, sum) in sums.into_iter().enumerate() {
            let sum = sum.map(|value| if value < self.least { self.least } else { value });
            out[place + idx * self.width..][..LANES].write_copy_of_slice(&sum);
        }
    }
}

#[inline(always)]
fn weight_band_body<const FUSED: bool, const LANES: usize>(
    shape: &DepthwiseShape,
    lanes: &Lanes,
    image: &[f32],
    grads: &[f32],
    lines: Range<usize>,
    sums: &mut [f32],
) {
    let mut ring = Ring::new(shape, image, lines.start);
    let mut starts = Vec::with_capacity(shape.kernel * shape.kernel);
    for (y, grads) in lines.zip(grads.chunks_exact(shape.out_width() * shape.channels)) {
        ring.advance(y, &mut starts);
        if lanes.width < LANES {
            for (tap, start) in starts.iter().enumerate() {
                for (lane, grad) in grads.iter().enumerate() {
                    sums[tap * lanes.width + lane] += grad * ring.lines[start + lane];
                }
            }
            continue;
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
            let (threes, rest) = starts.as_chunks::<3>();
            for (idx, starts) in threes.iter().enumerate() {
                let sums = tap_sums::<FUSED, LANES, 3>(&ring.lines, starts, grads, lanes, lane);
                sums.into_iter().enumerate().for_each(|(tap, sum)| add(3 * idx + tap, sum));
            }
            for (idx, start) in rest.iter().enumerate() {
                let [sum] = tap_sums::<FUSED, LANES, 1>(&ring.lines, &[*start], grads, lanes, lane);
                add(3 * threes.len() + idx, sum);
            }
        }
    }
}

/// Sums over a line's pixels of gradient times input.
#[inline(always)]
fn tap_sums<const FUSED: bool, const LANES: usize, const TAPS: usize>(
    line: &[f32],
    starts: &[usize; TAPS],
    grads: &[f32],
    lanes: &Lanes,
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

/// Starts of blocks of `LANES` that cover `width`; the last may overlap the one before. `width` is at least `LANES`.
#[inline(always)]
fn blocks<const LANES: usize>(width: usize) -> impl Iterator<Item = usize> {
    (0..width.div_ceil(LANES)).map(move |block| (block * LANES).min(width - LANES))
}

#[inline(always)]
fn array<const LEN: usize>(values: &[f32], start: usize) -> &[f32; LEN] {
    values[start..start + LEN].try_into().expect("a slice of this length")
}

/// Lines of an image per task: whole images where there are enough of them.
fn band_lines(shape: &DepthwiseShape) -> usize {
    let tasks_per_image = (2 * rayon::current_num_threads()).div_ceil(shape.batch.max(1));
    shape.out_height().div_ceil(tasks_per_image).max(1)
}

/// Pixels whose sums are in registers together.
const AT_ONCE: usize = 4;
/// Channels from which on a pixel fills a vector of every level.
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
            let run = |level| {
                let output = forward_at(level, &shape, &input, &weight, None, false);
                let grad_input = backward_input_at(level, &shape, &weight, &grad);
                [output, grad_input, backward_weight_at(level, &shape, &input, &grad)]
            };
            let baseline = run(Level::Baseline);
            for level in Level::available() {
                for (got, expected) in run(level).iter().zip(&baseline) {
                    let expected: Vec<f64> = expected.iter().map(|value| f64::from(*value)).collect();
                    assert_near(&format!("{level:?}, {channels} channels"), got, &expected);
                }
            }
        }
    }
}
