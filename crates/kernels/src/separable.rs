//! The block that the students repeat: depthwise convolution, batch norm, ReLU, 1x1 convolution, batch norm, ReLU.
//!
//! As one operator, each feature map in between crosses memory once where separate operators would take it several
//! times: statistics are summed while a line is in the cache, normalised values are made where they are read, and the
//! doubled input of a decoder block exists a few lines at a time.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::buffer::{Scratch, filled, part_len};
use crate::conv::{MIN_ROWS_PER_TASK, TASKS_PER_THREAD, WEIGHT_TILE_ROWS, sum_in_order, tile_rows};
use crate::cpu::Level;
use crate::depthwise::{DepthwiseShape, Kernel, Ring, Source, WeightSums, band_lines, map_bands, turned_taps};
use crate::matrix::{Finish, Panels, Rows, Starts};
use crate::norm::{Affine, GradientSums, InputGradient, Moments, Norm, NormGradients, Statistics};
use crate::pixelwise::sum_squares;

/// Sizes of the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeparableShape {
    /// The depthwise convolution; its input is the block's, doubled if `doubled`.
    pub depthwise: DepthwiseShape,
    /// Whether the input has half the height and width and each of its pixels is repeated in a square of four.
    pub doubled: bool,
    /// Channels written.
    pub out_channels: usize,
}

impl SeparableShape {
    /// Values of the input.
    pub fn input_len(&self) -> usize {
        self.image_len() * self.depthwise.batch
    }

    /// Values of the output.
    pub fn output_len(&self) -> usize {
        self.rows() * self.out_channels
    }

    fn image_len(&self) -> usize {
        let DepthwiseShape { height, width, channels, .. } = self.depthwise;
        if self.doubled { height / 2 * (width / 2) * channels } else { height * width * channels }
    }

    /// Pixels of the output through the batch.
    fn rows(&self) -> usize {
        self.depthwise.batch * self.depthwise.out_height() * self.depthwise.out_width()
    }

    fn check(&self, input: &[f32], pointwise: &[f32]) {
        self.check_weights(pointwise);
        self.check_input(input);
    }

    fn check_input(&self, input: &[f32]) {
        assert_eq!(input.len(), self.input_len(), "separable: input, {self:?}");
    }

    fn check_weights(&self, pointwise: &[f32]) {
        let DepthwiseShape { height, width, channels, .. } = self.depthwise;
        let same = self.depthwise.out_height() == height && self.depthwise.out_width() == width;
        assert!(same, "separable: a depthwise convolution that keeps the size, {self:?}");
        assert!(!self.doubled || (height % 2 == 0 && width % 2 == 0), "separable: a doubled side is even, {self:?}");
        assert_eq!(pointwise.len(), self.out_channels * channels, "separable: 1x1 weight, {self:?}");
    }

    fn source<'a>(&self, input: &'a [f32], image: usize) -> Source<'a> {
        let map = &input[image * self.image_len()..][..self.image_len()];
        if self.doubled { Source::Doubled(map) } else { Source::Map(map) }
    }
}

/// What is trained in the block.
#[derive(Debug, Clone, Copy)]
pub struct SeparableWeights<'a> {
    /// `[in, 1, kernel, kernel]`
    pub depthwise: &'a [f32],
    /// After the depthwise convolution.
    pub norm1: Norm<'a>,
    /// `[out, in, 1, 1]`
    pub pointwise: &'a [f32],
    /// After the 1x1 convolution.
    pub norm2: Norm<'a>,
}

/// What the backward pass needs of the forward pass; `T` is owned values or a slice of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kept<T> {
    /// Output of the depthwise convolution.
    pub depthwise: T,
    /// Mean of each of its channels.
    pub mean1: T,
    /// Biased variance of each of its channels.
    pub variance1: T,
    /// Output of the 1x1 convolution.
    pub pointwise: T,
    /// Mean of each of its channels.
    pub mean2: T,
    /// Biased variance of each of its channels.
    pub variance2: T,
}

/// A 1x1 convolution of another feature map, added to the block's output.
#[derive(Debug, Clone, Copy)]
pub struct Skip<'a> {
    /// `[batch, height, width, in]`, of the output's height and width.
    pub input: &'a [f32],
    /// `[out, in, 1, 1]`
    pub weight: &'a [f32],
    /// `[out]`
    pub bias: &'a [f32],
}

/// Gradients of the block.
#[derive(Debug, Clone, PartialEq)]
pub struct SeparableGradients {
    /// Of the input.
    pub input: Vec<f32>,
    /// Of the depthwise weight.
    pub depthwise: Vec<f32>,
    /// Of the first batch norm.
    pub norm1: NormGradients,
    /// Of the 1x1 weight.
    pub pointwise: Vec<f32>,
    /// Of the second batch norm.
    pub norm2: NormGradients,
}

/// Both convolutions, with the statistics of the batch; [`output`] makes the output of it.
pub fn forward(shape: &SeparableShape, weights: &SeparableWeights, input: &[f32]) -> Kept<Vec<f32>> {
    forward_at(Level::detect(), shape, weights, input)
}

/// The second batch norm and ReLU, plus the skip connection if there is one.
pub fn output(shape: &SeparableShape, norm2: &Norm, kept: &Kept<&[f32]>, skip: Option<Skip>) -> Vec<f32> {
    let level = Level::detect();
    let Kept { pointwise: values, mean2: mean, variance2: variance, .. } = *kept;
    assert_eq!(values.len(), shape.output_len(), "separable: 1x1 output, {shape:?}");
    let affine = Affine::of_norm(norm2, mean, variance);
    let outs = shape.out_channels;
    let skip = skip.map(|skip| (SkipPanels::new(level, outs, skip.weight, skip.bias), skip.input));
    let tile = skip.as_ref().map_or(tile_rows(outs), |(skip, _)| tile_rows(skip.ins));
    let part = part_len(shape.rows(), TASKS_PER_THREAD, MIN_ROWS_PER_TASK);
    let run = |out: &mut [MaybeUninit<f32>]| {
        let parts = out.par_chunks_mut(part * outs).zip(values.par_chunks(part * outs)).enumerate();
        parts.for_each(|(idx, (out, values))| {
            let tiles = out.chunks_mut(tile * outs).zip(values.chunks(tile * outs)).enumerate();
            for (tile_idx, (out, values)) in tiles {
                affine.apply(level, values, out);
                if let Some((skip, input)) = &skip {
                    // SAFETY: `apply` has written all of it.
                    skip.add(input, idx * part + tile_idx * tile, unsafe { out.assume_init_mut() });
                }
            }
        });
    };
    // SAFETY: the chunks and tiles cover the output, and `apply` writes all of each.
    unsafe { filled(shape.output_len(), run) }
}

/// Gradients from that of the output (before the skip connection was added, which changes nothing).
pub fn backward(
    shape: &SeparableShape,
    weights: &SeparableWeights,
    input: &[f32],
    kept: &Kept<&[f32]>,
    grad_output: &[f32],
) -> SeparableGradients {
    backward_at(Level::detect(), shape, weights, input, kept, grad_output)
}

/// Weights and biases of a block whose batch norms are folded into them.
#[derive(Debug, Clone, Copy)]
pub struct FoldedSeparable<'a> {
    /// `[in, 1, kernel, kernel]`
    pub depthwise: &'a [f32],
    /// `[in]`
    pub depthwise_bias: &'a [f32],
    /// `[out, in, 1, 1]`
    pub pointwise: &'a [f32],
    /// `[out]`
    pub pointwise_bias: &'a [f32],
}

/// The whole block with fixed statistics: what is between its convolutions never leaves the cache.
pub fn infer(shape: &SeparableShape, weights: &FoldedSeparable, input: &[f32], skip: Option<Skip>) -> Vec<f32> {
    infer_at(Level::detect(), shape, weights, input, skip)
}

/// A block with fixed statistics whose weights are packed for the CPU, to be run many times.
pub struct PackedSeparable {
    level: Level,
    shape: SeparableShape,
    kernel: Kernel,
    pointwise: Panels,
    pointwise_bias: Vec<f32>,
    skip: Option<SkipPanels>,
}

impl PackedSeparable {
    /// Packs the block and its skip connection's weight and bias; the batch of `shape` does not matter.
    pub fn new(shape: &SeparableShape, weights: &FoldedSeparable, skip: Option<(&[f32], &[f32])>) -> Self {
        Self::at(Level::detect(), shape, weights, skip)
    }

    fn at(level: Level, shape: &SeparableShape, weights: &FoldedSeparable, skip: Option<(&[f32], &[f32])>) -> Self {
        shape.check_weights(weights.pointwise);
        let kernel = Kernel::new(&shape.depthwise, weights.depthwise, Some(weights.depthwise_bias), true);
        let pointwise = pack_pointwise(level, weights.pointwise, shape.depthwise.channels, shape.out_channels);
        let pointwise_bias = pointwise.padded(weights.pointwise_bias);
        let skip = skip.map(|(weight, bias)| SkipPanels::new(level, shape.out_channels, weight, bias));
        Self { level, shape: *shape, kernel, pointwise, pointwise_bias, skip }
    }

    /// The block's output, plus the skip connection of `skip_input`, which is given if and only if there is one.
    pub fn forward(&self, batch: usize, input: &[f32], skip_input: Option<&[f32]>) -> Vec<f32> {
        let mut shape = self.shape;
        shape.depthwise.batch = batch;
        let (level, depthwise) = (self.level, &shape.depthwise);
        shape.check_input(input);
        let skip = match (&self.skip, skip_input) {
            (Some(skip), Some(input)) => Some((skip, input)),
            (None, None) => None,
            (skip, _) => {
                panic!("separable: a skip connection is {}", if skip.is_some() { "missing" } else { "too many" })
            }
        };
        let (ins, outs) = (depthwise.channels, shape.out_channels);
        let finish = Finish { bias: Some(&self.pointwise_bias), relu: true };
        let (height, width) = (depthwise.out_height(), depthwise.out_width());
        let (band, group) = (band_lines(depthwise), tile_rows(ins).div_ceil(2 * width).max(1));
        let run = |out: &mut [MaybeUninit<f32>]| {
            map_bands(height * width * outs, band * width * outs, out, |image, band_idx, out| {
                let mut ring = Ring::new(level, depthwise, shape.source(input, image), band_idx * band);
                let mut scratch = Scratch::default();
                for (group_idx, out) in out.chunks_mut(group * width * outs).enumerate() {
                    let (first, rows) = (band_idx * band + group_idx * group, out.len() / outs);
                    // SAFETY: `write_lines` writes all lines.
                    let lines = unsafe {
                        scratch.filled(rows * ins, |out| self.kernel.write_lines(level, &mut ring, first, out, |_| {}))
                    };
                    self.pointwise.multiply(Rows::dense(lines, ins), finish, out);
                    if let Some((skip, input)) = skip {
                        // SAFETY: `multiply` has written all of it.
                        skip.add(input, (image * height + first) * width, unsafe { out.assume_init_mut() });
                    }
                }
            });
        };
        // SAFETY: the bands and groups cover the output, and `multiply` writes all of each.
        unsafe { filled(shape.output_len(), run) }
    }
}

/// The weight and bias of a [`Skip`], packed.
struct SkipPanels {
    ins: usize,
    outs: usize,
    weight: Panels,
    bias: Vec<f32>,
}

impl SkipPanels {
    fn new(level: Level, outs: usize, weight: &[f32], bias: &[f32]) -> Self {
        assert!(weight.len().is_multiple_of(outs), "separable: weight of the skip connection");
        let ins = weight.len() / outs;
        let weight = pack_pointwise(level, weight, ins, outs);
        Self { ins, outs, bias: weight.padded(bias), weight }
    }

    /// Adds to the output pixels from `first` on.
    fn add(&self, input: &[f32], first: usize, out: &mut [f32]) {
        let rows = out.len() / self.outs;
        let values = &input[first * self.ins..][..rows * self.ins];
        let finish = Finish { bias: Some(&self.bias), relu: false };
        self.weight.multiply_and_add(Rows::dense(values, self.ins), finish, out);
    }
}

/// `[out, in]` as the second factor `[in, out]`.
fn pack_pointwise(level: Level, weight: &[f32], ins: usize, outs: usize) -> Panels {
    Panels::pack(level, [ins, outs], weight, |k| k, ins)
}

fn forward_at(level: Level, shape: &SeparableShape, weights: &SeparableWeights, input: &[f32]) -> Kept<Vec<f32>> {
    shape.check(input, weights.pointwise);
    let (depthwise, Statistics { mean: mean1, variance: variance1 }) = depthwise_forward(level, shape, weights, input);
    let affine = Affine::of_norm(&weights.norm1, &mean1, &variance1);
    let (ins, outs) = (shape.depthwise.channels, shape.out_channels);
    let panels = pack_pointwise(level, weights.pointwise, ins, outs);
    let tile = tile_rows(ins);
    let multiply = |values: &[f32], scratch: &mut Scratch, out: &mut [MaybeUninit<f32>]| {
        // SAFETY: `apply` writes all of its output.
        let normalised = unsafe { scratch.filled(values.len(), |out| affine.apply(level, values, out)) };
        panels.multiply(Rows::dense(normalised, ins), Finish::NOTHING, out);
    };
    // The first pixel is near the mean of all.
    // SAFETY: `multiply` writes all of its output.
    let centre = unsafe { filled(outs, |out| multiply(&depthwise[..ins], &mut Scratch::default(), out)) };
    let moments = Moments::around(&centre);
    let part = part_len(shape.rows(), TASKS_PER_THREAD, MIN_ROWS_PER_TASK);
    let mut sums = vec![];
    let run = |out: &mut [MaybeUninit<f32>]| {
        let parts = out.par_chunks_mut(part * outs).zip(depthwise.par_chunks(part * ins));
        let parts = parts.map(|(out, values)| {
            let (mut scratch, mut sums) = (Scratch::default(), moments.wide.zeros());
            for (out, values) in out.chunks_mut(tile * outs).zip(values.chunks(tile * ins)) {
                multiply(values, &mut scratch, out);
                // SAFETY: `multiply` has written all of it.
                moments.add(level, unsafe { out.assume_init_ref() }, &mut sums);
            }
            sums
        });
        sums = parts.collect();
    };
    // SAFETY: the chunks and tiles cover the output, and `multiply` writes all of each.
    let pointwise = unsafe { filled(shape.output_len(), run) };
    let Statistics { mean: mean2, variance: variance2 } = moments.statistics(&moments.wide.total(sums), shape.rows());
    Kept { depthwise, mean1, variance1, pointwise, mean2, variance2 }
}

fn depthwise_forward(
    level: Level,
    shape: &SeparableShape,
    weights: &SeparableWeights,
    input: &[f32],
) -> (Vec<f32>, Statistics) {
    let depthwise = &shape.depthwise;
    let kernel = Kernel::new(depthwise, weights.depthwise, None, false);
    let first_line = {
        let mut ring = Ring::new(level, depthwise, shape.source(input, 0), 0);
        // SAFETY: `write_lines` writes the whole line.
        unsafe { filled(depthwise.out_line_len(), |out| kernel.write_lines(level, &mut ring, 0, out, |_| {})) }
    };
    let moments = Moments::around(&first_line[..depthwise.channels]);
    let mut sums = vec![];
    let run = |out: &mut [MaybeUninit<f32>]| {
        let (band, line_len) = (band_lines(depthwise), depthwise.out_line_len());
        sums = map_bands(depthwise.out_height() * line_len, band * line_len, out, |image, band_idx, out| {
            let first = band_idx * band;
            let mut ring = Ring::new(level, depthwise, shape.source(input, image), first);
            let mut sums = moments.wide.zeros();
            kernel.write_lines(level, &mut ring, first, out, |line| moments.add(level, line, &mut sums));
            sums
        });
    };
    // SAFETY: the bands cover the output, and `write_lines` writes all of each.
    let values = unsafe { filled(depthwise.output_len(), run) };
    let statistics = moments.statistics(&moments.wide.total(sums), shape.rows());
    (values, statistics)
}

#[allow(clippy::too_many_arguments)]
fn backward_at(
    level: Level,
    shape: &SeparableShape,
    weights: &SeparableWeights,
    input: &[f32],
    kept: &Kept<&[f32]>,
    grad_output: &[f32],
) -> SeparableGradients {
    shape.check(input, weights.pointwise);
    let Kept { pointwise, mean2, variance2, .. } = *kept;
    assert_eq!(kept.depthwise.len(), shape.depthwise.output_len(), "separable: depthwise output, {shape:?}");
    assert_eq!(pointwise.len(), shape.output_len(), "separable: 1x1 output, {shape:?}");
    assert_eq!(grad_output.len(), shape.output_len(), "separable: output gradient, {shape:?}");
    let reduce = GradientSums::new(&weights.norm2, mean2, variance2);
    let sums = reduce.wide.sums(pointwise.len(), |range, sums| {
        reduce.add(level, &pointwise[range.clone()], &grad_output[range], sums);
    });
    let (gradient2, norm2) = reduce.finish(&sums, pointwise.len());
    let reduce = GradientSums::new(&weights.norm1, kept.mean1, kept.variance1);
    let made = pointwise_backward(level, shape, weights, kept, grad_output, &gradient2, &reduce);
    let (gradient1, norm1) = reduce.finish(&made.sums, kept.depthwise.len());
    let (input, depthwise) = depthwise_backward(level, shape, weights, input, kept.depthwise, &made.grad, &gradient1);
    SeparableGradients { input, depthwise, norm1, pointwise: made.weight, norm2 }
}

/// What [`pointwise_backward`] makes.
struct PointwiseGradients {
    /// Of the first ReLU's output.
    grad: Vec<f32>,
    weight: Vec<f32>,
    /// Of the first batch norm: [`GradientSums`].
    sums: Vec<f64>,
}

fn pointwise_backward(
    level: Level,
    shape: &SeparableShape,
    weights: &SeparableWeights,
    kept: &Kept<&[f32]>,
    grad_output: &[f32],
    gradient2: &InputGradient,
    reduce: &GradientSums,
) -> PointwiseGradients {
    let (ins, outs) = (shape.depthwise.channels, shape.out_channels);
    let affine = Affine::of_norm(&weights.norm1, kept.mean1, kept.variance1);
    let turned = Panels::pack(level, [outs, ins], weights.pointwise, |out| out * ins, 1);
    let part = part_len(shape.rows(), 1, MIN_ROWS_PER_TASK);
    let mut parts = vec![];
    let run = |out: &mut [MaybeUninit<f32>]| {
        let maps = kept.depthwise.par_chunks(part * ins).zip(kept.pointwise.par_chunks(part * outs));
        let chunks = out.par_chunks_mut(part * ins).zip(maps.zip(grad_output.par_chunks(part * outs)));
        let chunks = chunks.map(|(out, ((depthwise, pointwise), grads))| {
            let (mut normalised, mut scratch) = (Scratch::default(), Scratch::default());
            let mut panels = Panels::empty(level);
            let (mut weight, mut sums) = (vec![0.0; outs * ins], reduce.wide.zeros());
            let maps = depthwise.chunks(WEIGHT_TILE_ROWS * ins).zip(pointwise.chunks(WEIGHT_TILE_ROWS * outs));
            let tiles = out.chunks_mut(WEIGHT_TILE_ROWS * ins).zip(maps.zip(grads.chunks(WEIGHT_TILE_ROWS * outs)));
            for (out, ((depthwise, pointwise), grads)) in tiles {
                let rows = grads.len() / outs;
                // SAFETY: a copy and `apply` write all of their output.
                let (gradient, normalised) = unsafe {
                    let gradient = scratch.filled(grads.len(), |out| {
                        out.write_copy_of_slice(grads);
                    });
                    (gradient, normalised.filled(depthwise.len(), |out| affine.apply(level, depthwise, out)))
                };
                gradient2.apply(level, pointwise, gradient);
                panels.repack(normalised, Starts::Even { rows, step: ins }, ins, &[0]);
                panels.multiply_and_add(Rows::transposed(gradient, outs), Finish::NOTHING, &mut weight);
                turned.multiply(Rows::dense(gradient, outs), Finish::NOTHING, out);
                // SAFETY: `multiply` has written all of it.
                reduce.add(level, depthwise, unsafe { out.assume_init_ref() }, &mut sums);
            }
            (weight, sums)
        });
        parts = chunks.collect();
    };
    // SAFETY: the chunks and tiles cover the output, and `multiply` writes all of each.
    let grad = unsafe { filled(shape.depthwise.output_len(), run) };
    let (weight, sums) = parts.into_iter().unzip();
    PointwiseGradients { grad, weight: sum_in_order(weight), sums: reduce.wide.total(sums) }
}

/// Gradients of the block's input and of the depthwise weight, a line at a time.
fn depthwise_backward(
    level: Level,
    shape: &SeparableShape,
    weights: &SeparableWeights,
    input: &[f32],
    output: &[f32],
    grad: &[f32],
    gradient1: &InputGradient,
) -> (Vec<f32>, Vec<f32>) {
    let depthwise = &shape.depthwise;
    let turned = depthwise.turned();
    let kernel = Kernel::new(&turned, &turned_taps(depthwise, weights.depthwise), None, false);
    let scale = 1 + usize::from(shape.doubled);
    let (line_len, image_len) = (depthwise.out_line_len(), depthwise.output_len() / depthwise.batch);
    let band = band_lines(depthwise).next_multiple_of(scale);
    let mut sums = vec![];
    let run = |out: &mut [MaybeUninit<f32>]| {
        let band_len = band / scale * (line_len / scale);
        sums = map_bands(shape.image_len(), band_len, out, |image, band_idx, out| {
            let place = image * image_len..(image + 1) * image_len;
            let grad = Source::Normalised { gradient: gradient1, input: &output[place.clone()], grad: &grad[place] };
            let first = band_idx * band;
            let mut grads = Ring::new(level, &turned, grad, first);
            let mut inputs = Ring::new(level, depthwise, shape.source(input, image), first);
            let (mut above, mut below) = (Scratch::default(), Scratch::default());
            let mut sums = WeightSums::new(depthwise);
            for (line, out) in out.chunks_exact_mut(line_len / scale).enumerate() {
                let mut next = |y: usize, out: &mut [MaybeUninit<f32>]| {
                    grads.advance(y);
                    inputs.advance(y);
                    sums.add(level, &inputs, grads.line(y));
                    kernel.write_line(level, &grads, out);
                };
                if shape.doubled {
                    let y = first + 2 * line;
                    // SAFETY: `write_line` writes the whole line.
                    let above = unsafe { above.filled(line_len, |out| next(y, out)) };
                    // SAFETY: as above.
                    let below = unsafe { below.filled(line_len, |out| next(y + 1, out)) };
                    sum_squares(depthwise.channels, above, below, out);
                } else {
                    next(first + line, out);
                }
            }
            sums
        });
    };
    // SAFETY: the bands cover the input, and `write_line` or `sum_squares` writes all of each of its lines.
    let grad_input = unsafe { filled(shape.input_len(), run) };
    (grad_input, WeightSums::total(depthwise, sums))
}

fn infer_at(
    level: Level,
    shape: &SeparableShape,
    weights: &FoldedSeparable,
    input: &[f32],
    skip: Option<Skip>,
) -> Vec<f32> {
    let packed = PackedSeparable::at(level, shape, weights, skip.map(|skip| (skip.weight, skip.bias)));
    packed.forward(shape.depthwise.batch, input, skip.map(|skip| skip.input))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::{self, ConvShape};
    use crate::reference::{assert_near, noise};
    use crate::{depthwise, norm, pixelwise};

    const CASES: [(usize, usize, usize, usize, bool, usize); 6] = [
        (2, 6, 5, 7, false, 1),
        (1, 8, 4, 33, true, 1),
        (3, 4, 6, 16, true, 1),
        (2, 9, 7, 3, false, 2),
        (2, 3, 1, 20, false, 1),
        (2, 30, 22, 40, true, 1),
    ];

    struct Case {
        shape: SeparableShape,
        input: Vec<f32>,
        depthwise: Vec<f32>,
        pointwise: Vec<f32>,
        scales: [Vec<f32>; 2],
        shifts: [Vec<f32>; 2],
        skip: [Vec<f32>; 3],
        grad: Vec<f32>,
    }

    impl Case {
        fn new((batch, height, width, channels, doubled, dilation): (usize, usize, usize, usize, bool, usize)) -> Self {
            let depthwise = DepthwiseShape { batch, height, width, channels, kernel: 3, dilation, padding: dilation };
            let (outs, skips) = (channels + 3, 5);
            let shape = SeparableShape { depthwise, doubled, out_channels: outs };
            let above_half = |len, seed| noise(len, seed).iter().map(|value| 1.0 + value / 2.0).collect();
            Self {
                shape,
                input: noise(shape.input_len(), 1),
                depthwise: noise(depthwise.weight_len(), 2),
                pointwise: noise(outs * channels, 3),
                scales: [above_half(channels, 4), above_half(outs, 5)],
                shifts: [noise(channels, 6), noise(outs, 7)],
                skip: [noise(shape.rows() * skips, 8), noise(outs * skips, 9), noise(outs, 10)],
                grad: noise(shape.output_len(), 11),
            }
        }

        fn weights(&self) -> SeparableWeights<'_> {
            let norm =
                |idx: usize| Norm { scale: &self.scales[idx], shift: &self.shifts[idx], epsilon: 1e-5, relu: true };
            let (norm1, norm2) = (norm(0), norm(1));
            SeparableWeights { depthwise: &self.depthwise, norm1, pointwise: &self.pointwise, norm2 }
        }

        fn skip(&self) -> Skip<'_> {
            let [input, weight, bias] = &self.skip;
            Skip { input, weight, bias }
        }

        /// The 1x1 convolution of `ins` channels to the block's output.
        fn conv(&self, ins: usize) -> ConvShape {
            let DepthwiseShape { batch, height, width, .. } = self.shape.depthwise;
            let out_channels = self.shape.out_channels;
            let (kernel, stride, padding, dilation) = (1, 1, 0, 1);
            ConvShape { batch, height, width, in_channels: ins, out_channels, kernel, stride, padding, dilation }
        }

        fn small(&self) -> pixelwise::MapShape {
            let DepthwiseShape { batch, height, width, channels, .. } = self.shape.depthwise;
            pixelwise::MapShape { batch, height: height / 2, width: width / 2, channels }
        }

        fn doubled(&self) -> Vec<f32> {
            if self.shape.doubled { pixelwise::upsample_2x(&self.small(), &self.input) } else { self.input.clone() }
        }

        /// Output and gradients (input, depthwise, scale 1, shift 1, 1x1, scale 2, shift 2) by separate operators.
        fn separately(&self) -> Vec<Vec<f32>> {
            let (shape, weights) = (&self.shape.depthwise, self.weights());
            let (doubled, conv) = (self.doubled(), self.conv(shape.channels));
            let d = depthwise::forward(shape, &doubled, weights.depthwise, None, false);
            let n = norm::forward(&weights.norm1, &d);
            let p = conv::forward(&conv, &n.output, weights.pointwise, None, false);
            let o = norm::forward(&weights.norm2, &p);
            let skip = conv::forward(&self.conv(5), &self.skip[0], &self.skip[1], Some(&self.skip[2]), false);
            let mut grad = self.grad.clone();
            let norm2 = norm::backward(&weights.norm2, &p, &o.mean, &o.variance, &mut grad);
            let pointwise = conv::backward_weight(&conv, &n.output, &grad);
            let mut grad = conv::backward_input(&conv, weights.pointwise, &grad);
            let norm1 = norm::backward(&weights.norm1, &d, &n.mean, &n.variance, &mut grad);
            let taps = depthwise::backward_weight(shape, &doubled, &grad);
            let mut input = depthwise::backward_input(shape, weights.depthwise, &grad);
            if self.shape.doubled {
                input = pixelwise::upsample_2x_backward(&self.small(), &input);
            }
            let output = pixelwise::add(&o.output, &skip);
            vec![output, input, taps, norm1.scale, norm1.shift, pointwise, norm2.scale, norm2.shift]
        }

        fn as_one(&self, level: Level) -> Vec<Vec<f32>> {
            let weights = self.weights();
            let kept = forward_at(level, &self.shape, &weights, &self.input);
            let Kept { depthwise, mean1, variance1, pointwise, mean2, variance2 } = &kept;
            let kept = Kept { depthwise: &depthwise[..], mean1, variance1, pointwise, mean2, variance2 };
            let output = output(&self.shape, &weights.norm2, &kept, Some(self.skip()));
            let made = backward_at(level, &self.shape, &weights, &self.input, &kept, &self.grad);
            let SeparableGradients { input, depthwise, norm1, pointwise, norm2 } = made;
            vec![output, input, depthwise, norm1.scale, norm1.shift, pointwise, norm2.scale, norm2.shift]
        }
    }

    fn doubles(values: &[f32]) -> Vec<f64> {
        values.iter().map(|value| f64::from(*value)).collect()
    }

    #[test]
    fn block_is_its_operators_one_after_the_other() {
        const NAMES: [&str; 8] = ["output", "input", "depthwise", "scale 1", "shift 1", "1x1", "scale 2", "shift 2"];
        for case in CASES {
            let case = Case::new(case);
            let expected = case.separately();
            for level in Level::available() {
                for ((got, expected), name) in case.as_one(level).iter().zip(&expected).zip(NAMES) {
                    assert_near(&format!("{level:?}, {:?}, {name}", case.shape), got, &doubles(expected));
                }
            }
        }
    }

    #[test]
    fn folded_block_is_its_operators_one_after_the_other() {
        for case in CASES {
            let case = Case::new(case);
            let (shape, [bias1, bias2]) = (&case.shape.depthwise, &case.shifts);
            let d = depthwise::forward(shape, &case.doubled(), &case.depthwise, Some(bias1), true);
            let p = conv::forward(&case.conv(shape.channels), &d, &case.pointwise, Some(bias2), true);
            let skip = conv::forward(&case.conv(5), &case.skip[0], &case.skip[1], Some(&case.skip[2]), false);
            let folded = FoldedSeparable {
                depthwise: &case.depthwise,
                depthwise_bias: bias1,
                pointwise: &case.pointwise,
                pointwise_bias: bias2,
            };
            for level in Level::available() {
                let name = format!("{level:?}, {:?}", case.shape);
                assert_near(&name, &infer_at(level, &case.shape, &folded, &case.input, None), &doubles(&p));
                let got = infer_at(level, &case.shape, &folded, &case.input, Some(case.skip()));
                assert_near(&name, &got, &doubles(&pixelwise::add(&p, &skip)));
            }
        }
    }
}
