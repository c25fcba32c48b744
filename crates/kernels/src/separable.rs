//! The block that the students repeat: depthwise convolution, batch norm, ReLU, 1x1 convolution, batch norm, ReLU.
//!
//! As one operator, each feature map in between crosses memory once where separate operators would take it several
//! times: statistics are summed while a line is in the cache, and normalised values are made where they are read. A
//! decoder block's upsampled input exists a few lines at a time, or not at all where pixels are repeated. Then its depthwise
//! output exists a few lines at a time too: to make it again from the small input takes less than to write and read it.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::bilinear;
use crate::buffer::{Scratch, chunk_len, filled};
use crate::conv::{MIN_ROWS_PER_TASK, TASKS_PER_THREAD, WEIGHT_TILE_ROWS, WeightProduct, sum_in_order, tile_rows};
use crate::covariance::{CovarianceGradients, CovariancePointwise, MAX_INPUTS};
use crate::depthwise::{
    DepthwiseKernel, DepthwiseShape, DepthwiseWeightSums, RowRing, RowSource, band_lines, map_bands, rotated_taps,
};
use crate::instruction_set::InstructionSet;
use crate::matrix::{Epilogue, LhsRows, Panels};
use crate::norm::{Affine, ChannelMoments, ChannelStatistics, GradientSums, InputGradient, Norm, NormGradients};
use crate::pixelwise::{MapShape, Upsampling};
use crate::upsampled_depthwise::{UpsampledKernel, UpsampledTranspose, UpsampledWeightSums};

/// Sizes of the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeparableShape {
    /// The depthwise convolution; its input is the block's, upsampled if there is an `upsampling`.
    pub depthwise: DepthwiseShape,
    /// How the block's input, of half the height and width, is upsampled by two first, if it is.
    pub upsampling: Option<Upsampling>,
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
        if self.upsampling.is_some() { height / 2 * (width / 2) * channels } else { height * width * channels }
    }

    /// The input of one image that is upsampled.
    fn small(&self) -> MapShape {
        let DepthwiseShape { height, width, channels, .. } = self.depthwise;
        MapShape { batch: 1, height: height / 2, width: width / 2, channels }
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
        let taps = (self.depthwise.kernel, self.depthwise.dilation);
        let halves = height.is_multiple_of(2) && width.is_multiple_of(2);
        assert!(
            self.upsampling.is_none() || (taps == (3, 1) && halves),
            "separable: upsampling means 3x3 taps on even sides, {self:?}"
        );
        assert_eq!(pointwise.len(), self.out_channels * channels, "separable: 1x1 weight, {self:?}");
    }

    /// The lines of the input that the taps of `first` and of later lines reach: of the small map if each of its pixels is
    /// repeated, of the upsampled one if it is made between pixels.
    fn ring<'a>(&self, isa: InstructionSet, input: &'a [f32], image: usize, first: usize) -> RowRing<'a> {
        let map = &input[image * self.image_len()..][..self.image_len()];
        let small = self.small();
        match self.upsampling {
            None => RowRing::new(&self.depthwise, RowSource::Map(map), first),
            Some(Upsampling::Nearest) => {
                let MapShape { height, width, .. } = small;
                RowRing::new(&DepthwiseShape { height, width, ..self.depthwise }, RowSource::Map(map), first / 2)
            }
            Some(Upsampling::Bilinear) => {
                let make = move |y: usize, line: &mut [f32]| bilinear::write_line(isa, &small, map, y, uninit(line));
                RowRing::new(&self.depthwise, RowSource::Computed(Box::new(make)), first)
            }
        }
    }

    /// DepthwiseRows of which about `rows` pixels are made at a time.
    fn group_lines(&self, rows: usize) -> usize {
        rows.div_ceil(self.depthwise.width).max(1)
    }

    /// Whether the depthwise output is made again where it is read: of repeated pixels with four products for nine taps.
    fn recomputes_depthwise(&self) -> bool {
        self.upsampling == Some(Upsampling::Nearest)
    }

    fn check_saved(&self, saved: &SavedForBackward<&[f32]>) {
        assert_eq!(saved.depthwise.len(), self.depthwise_len(), "separable: depthwise output, {self:?}");
        assert_eq!(saved.pointwise.len(), self.pointwise_len(), "separable: 1x1 output, {self:?}");
    }

    /// Values of the depthwise output that are kept for the backward pass.
    fn depthwise_len(&self) -> usize {
        if self.recomputes_depthwise() { 0 } else { self.depthwise.output_len() }
    }

    /// Whether the 1x1 convolution's output is never stored: [`CovariancePointwise`].
    fn uses_covariance(&self) -> bool {
        !self.recomputes_depthwise() && self.depthwise.channels <= MAX_INPUTS
    }

    /// Values of the 1x1 convolution's output that are kept for the backward pass.
    fn pointwise_len(&self) -> usize {
        if self.uses_covariance() { 0 } else { self.output_len() }
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
pub struct SavedForBackward<T> {
    /// Output of the depthwise convolution; nothing of a block that repeats pixels, which makes it again.
    pub depthwise: T,
    /// Mean of each of its channels.
    pub mean1: T,
    /// Biased variance of each of its channels.
    pub variance1: T,
    /// Output of the 1x1 convolution; nothing of a block with few input channels, which makes do without.
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
    /// Of the skip connection, if there is one.
    pub skip: Option<SkipGradients>,
}

/// Gradients of a [`Skip`].
#[derive(Debug, Clone, PartialEq)]
pub struct SkipGradients {
    /// Of its input.
    pub input: Vec<f32>,
    /// Of its weight.
    pub weight: Vec<f32>,
    /// Of its bias.
    pub bias: Vec<f32>,
}

/// Both convolutions, with the statistics of the batch; [`output`] makes the output of it.
pub fn forward(shape: &SeparableShape, weights: &SeparableWeights, input: &[f32]) -> SavedForBackward<Vec<f32>> {
    forward_on(InstructionSet::detect(), shape, weights, input)
}

/// The second batch norm and ReLU, plus the skip connection if there is one.
pub fn output(
    shape: &SeparableShape,
    weights: &SeparableWeights,
    saved: &SavedForBackward<&[f32]>,
    skip: Option<Skip>,
) -> Vec<f32> {
    let isa = InstructionSet::detect();
    shape.check_saved(saved);
    let outs = shape.out_channels;
    let skip = skip.map(|skip| (BiasedPointwise::new(isa, outs, skip.weight, skip.bias), skip.input));
    let add_skip = |first: usize, out: &mut [f32]| {
        if let Some((skip, input)) = &skip {
            skip.add(input, first, out);
        }
    };
    if shape.uses_covariance() {
        let inputs = few_inputs(isa, shape, weights, saved.depthwise, [saved.mean1, saved.variance1]);
        return inputs.write(&weights.norm2, [saved.mean2, saved.variance2], add_skip);
    }
    let affine = Affine::of_norm(&weights.norm2, saved.mean2, saved.variance2);
    let tile = skip.as_ref().map_or(tile_rows(outs), |(skip, _)| tile_rows(skip.ins));
    let part = chunk_len(shape.rows(), TASKS_PER_THREAD, MIN_ROWS_PER_TASK);
    let run = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_mut(part * outs).zip(saved.pointwise.par_chunks(part * outs)).enumerate().for_each(
            |(idx, (out, values))| {
                let tiles = out.chunks_mut(tile * outs).zip(values.chunks(tile * outs));
                for (first, (out, values)) in (idx * part..).step_by(tile).zip(tiles) {
                    affine.apply(isa, values, out);
                    // SAFETY: `apply` has written all of it.
                    add_skip(first, unsafe { out.assume_init_mut() });
                }
            },
        );
    };
    // SAFETY: the chunks and tiles cover the output, and `apply` writes all of each.
    unsafe { filled(shape.output_len(), run) }
}

/// Gradients from that of the output.
pub fn backward(
    shape: &SeparableShape,
    weights: &SeparableWeights,
    input: &[f32],
    skip: Option<Skip>,
    saved: &SavedForBackward<&[f32]>,
    grad_output: &[f32],
) -> SeparableGradients {
    backward_on(InstructionSet::detect(), shape, weights, input, skip, saved, grad_output)
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
    infer_on(InstructionSet::detect(), shape, weights, input, skip)
}

/// A block with fixed statistics whose weights are packed for the CPU, to be run many times.
pub struct PackedSeparable {
    isa: InstructionSet,
    shape: SeparableShape,
    taps: Taps,
    pointwise: Panels,
    pointwise_bias: Vec<f32>,
    skip: Option<BiasedPointwise>,
    head: Option<BiasedPointwise>,
}

impl PackedSeparable {
    /// Packs the block, the weight and bias of its skip connection, and those of a 1x1 convolution of its output, `head`, with which
    /// the output never leaves the cache; the batch of `shape` does not matter.
    pub fn new(
        shape: &SeparableShape,
        weights: &FoldedSeparable,
        skip: Option<(&[f32], &[f32])>,
        head: Option<(&[f32], &[f32])>,
    ) -> Self {
        Self::at(InstructionSet::detect(), shape, weights, skip, head)
    }

    fn at(
        isa: InstructionSet,
        shape: &SeparableShape,
        weights: &FoldedSeparable,
        skip: Option<(&[f32], &[f32])>,
        head: Option<(&[f32], &[f32])>,
    ) -> Self {
        shape.check_weights(weights.pointwise);
        let taps = Taps::new(shape, weights.depthwise, Some(weights.depthwise_bias), true);
        let pointwise = pack_pointwise(isa, weights.pointwise, shape.depthwise.channels, shape.out_channels);
        let pointwise_bias = pointwise.padded(weights.pointwise_bias);
        let skip = skip.map(|(weight, bias)| BiasedPointwise::new(isa, shape.out_channels, weight, bias));
        let head = head.map(|(weight, bias)| BiasedPointwise::new(isa, bias.len(), weight, bias));
        assert!(head.as_ref().is_none_or(|head| head.ins == shape.out_channels), "separable: weight of the head");
        Self { isa, shape: *shape, taps, pointwise, pointwise_bias, skip, head }
    }

    /// The block's output, plus the skip connection of `skip_input`, which is given if and only if there is one; or the head's.
    pub fn forward(&self, batch: usize, input: &[f32], skip_input: Option<&[f32]>) -> Vec<f32> {
        let mut shape = self.shape;
        shape.depthwise.batch = batch;
        let (isa, depthwise) = (self.isa, &shape.depthwise);
        shape.check_input(input);
        let skip = match (&self.skip, skip_input) {
            (Some(skip), Some(input)) => Some((skip, input)),
            (None, None) => None,
            (skip, _) => {
                panic!("separable: a skip connection is {}", if skip.is_some() { "missing" } else { "too many" })
            }
        };
        let (ins, outs) = (depthwise.channels, shape.out_channels);
        let finish = Epilogue { bias: Some(&self.pointwise_bias), relu: true };
        let (height, width) = (depthwise.out_height(), depthwise.out_width());
        let (band, group) = (band_lines(depthwise), shape.group_lines(tile_rows(ins) / 2));
        let write_block = |values: &[f32], first_pixel: usize, out: &mut [MaybeUninit<f32>]| {
            self.pointwise.multiply(LhsRows::dense(values, ins), finish, out);
            if let Some((skip, input)) = skip {
                // SAFETY: `multiply` has written all of it.
                skip.add(input, first_pixel, unsafe { out.assume_init_mut() });
            }
        };
        let written = self.head.as_ref().map_or(outs, |head| head.outs);
        let run = |out: &mut [MaybeUninit<f32>]| {
            map_bands(height * width * written, band * width * written, out, |image, band_idx, out| {
                let mut lines = DepthwiseRows::new(isa, &shape, &self.taps, input, image, band_idx * band);
                let [mut scratch, mut block] = [Scratch::default(), Scratch::default()];
                for (group_idx, out) in out.chunks_mut(group * width * written).enumerate() {
                    let (first, rows) = (band_idx * band + group_idx * group, out.len() / written);
                    let first_pixel = (image * height + first) * width;
                    // SAFETY: `write` writes all lines.
                    let values = unsafe { scratch.filled(rows * ins, |out| lines.write(first, out, |_| {})) };
                    let Some(head) = &self.head else {
                        write_block(values, first_pixel, out);
                        continue;
                    };
                    // SAFETY: `write_block` writes all of it.
                    let block = unsafe { block.filled(rows * outs, |out| write_block(values, first_pixel, out)) };
                    head.write(block, out);
                }
            });
        };
        // SAFETY: the bands and groups cover the output, and `write_block` and `write` write all of each.
        unsafe { filled(shape.rows() * written, run) }
    }
}

/// The depthwise weight as lines are made of it.
enum Taps {
    Plain(DepthwiseKernel),
    Doubled(UpsampledKernel),
}

impl Taps {
    fn new(shape: &SeparableShape, weight: &[f32], bias: Option<&[f32]>, relu: bool) -> Self {
        if shape.upsampling == Some(Upsampling::Nearest) {
            return Self::Doubled(UpsampledKernel::new(shape.depthwise.channels, weight, bias, relu));
        }
        Self::Plain(DepthwiseKernel::new(&shape.depthwise, weight, bias, relu))
    }
}

/// Makes lines of an image's depthwise output.
struct DepthwiseRows<'a> {
    isa: InstructionSet,
    taps: &'a Taps,
    ring: RowRing<'a>,
    line_len: usize,
    /// The line of a doubled block's input that the ring was advanced to.
    small: Option<usize>,
}

impl<'a> DepthwiseRows<'a> {
    /// Ready to make line `first` and then each next one.
    fn new(
        isa: InstructionSet,
        shape: &SeparableShape,
        taps: &'a Taps,
        input: &'a [f32],
        image: usize,
        first: usize,
    ) -> Self {
        let line_len = shape.depthwise.out_line_len();
        Self { isa, taps, ring: shape.ring(isa, input, image, first), line_len, small: None }
    }

    /// Writes whole lines from `first` on and calls `done` with each of them.
    fn write(&mut self, first: usize, out: &mut [MaybeUninit<f32>], mut done: impl FnMut(&[f32])) {
        for (y, out) in (first..).zip(out.chunks_exact_mut(self.line_len)) {
            done(match self.taps {
                Taps::Plain(kernel) => {
                    self.ring.advance(y);
                    kernel.write_line(self.isa, &self.ring, out)
                }
                Taps::Doubled(kernel) => {
                    if self.small != Some(y / 2) {
                        self.ring.advance(y / 2);
                        self.small = Some(y / 2);
                    }
                    kernel.write_line(self.isa, &self.ring, y % 2, out)
                }
            });
        }
    }
}

/// A 1x1 convolution with a bias, packed.
struct BiasedPointwise {
    ins: usize,
    outs: usize,
    weight: Panels,
    bias: Vec<f32>,
}

impl BiasedPointwise {
    fn new(isa: InstructionSet, outs: usize, weight: &[f32], bias: &[f32]) -> Self {
        assert!(weight.len().is_multiple_of(outs), "separable: weight and outputs of a 1x1 convolution");
        let ins = weight.len() / outs;
        let weight = pack_pointwise(isa, weight, ins, outs);
        Self { ins, outs, bias: weight.padded(bias), weight }
    }

    /// Writes all of `out`.
    fn write(&self, values: &[f32], out: &mut [MaybeUninit<f32>]) {
        let finish = Epilogue { bias: Some(&self.bias), relu: false };
        self.weight.multiply(LhsRows::dense(values, self.ins), finish, out);
    }

    /// Adds to the output pixels from `first` on.
    fn add(&self, input: &[f32], first: usize, out: &mut [f32]) {
        let rows = out.len() / self.outs;
        let values = &input[first * self.ins..][..rows * self.ins];
        let finish = Epilogue { bias: Some(&self.bias), relu: false };
        self.weight.multiply_and_add(LhsRows::dense(values, self.ins), finish, out);
    }
}

/// `[out, in]` as the second factor `[in, out]`.
fn pack_pointwise(isa: InstructionSet, weight: &[f32], ins: usize, outs: usize) -> Panels {
    Panels::pack(isa, [ins, outs], weight, |k| k, ins)
}

/// The first batch norm, ReLU and the 1x1 convolution.
struct Pointwise {
    isa: InstructionSet,
    ins: usize,
    affine: Affine,
    panels: Panels,
}

impl Pointwise {
    fn new(
        isa: InstructionSet,
        shape: &SeparableShape,
        weights: &SeparableWeights,
        mean1: &[f32],
        variance1: &[f32],
    ) -> Self {
        let ins = shape.depthwise.channels;
        let panels = pack_pointwise(isa, weights.pointwise, ins, shape.out_channels);
        Self { isa, ins, affine: Affine::of_norm(&weights.norm1, mean1, variance1), panels }
    }

    /// Writes all of `out` for pixels of the depthwise output.
    fn write(&self, depthwise: &[f32], scratch: &mut Scratch, out: &mut [MaybeUninit<f32>]) {
        // SAFETY: `apply` writes all of its output.
        let normalised = unsafe { scratch.filled(depthwise.len(), |out| self.affine.apply(self.isa, depthwise, out)) };
        self.panels.multiply(LhsRows::dense(normalised, self.ins), Epilogue::NONE, out);
    }
}

/// The 1x1 convolution and what follows it, of a block whose depthwise output was saved.
fn few_inputs<'a>(
    isa: InstructionSet,
    shape: &SeparableShape,
    weights: &SeparableWeights<'a>,
    depthwise: &'a [f32],
    [mean1, variance1]: [&[f32]; 2],
) -> CovariancePointwise<'a> {
    let affine = Affine::of_norm(&weights.norm1, mean1, variance1);
    CovariancePointwise::new(isa, affine, depthwise, shape.depthwise.channels, weights.pointwise)
}

fn forward_on(
    isa: InstructionSet,
    shape: &SeparableShape,
    weights: &SeparableWeights,
    input: &[f32],
) -> SavedForBackward<Vec<f32>> {
    shape.check(input, weights.pointwise);
    let taps = Taps::new(shape, weights.depthwise, None, false);
    let (depthwise, ChannelStatistics { mean: mean1, variance: variance1 }) =
        depthwise_forward(isa, shape, &taps, input);
    if shape.uses_covariance() {
        let inputs = few_inputs(isa, shape, weights, &depthwise, [&mean1, &variance1]);
        let ChannelStatistics { mean: mean2, variance: variance2 } = inputs.statistics();
        return SavedForBackward { depthwise, mean1, variance1, pointwise: vec![], mean2, variance2 };
    }
    let (ins, outs) = (shape.depthwise.channels, shape.out_channels);
    let pointwise = Pointwise::new(isa, shape, weights, &mean1, &variance1);
    // The first pixel is near the mean of all.
    let first_line = first_line(isa, shape, &taps, input);
    // SAFETY: `write` writes all of its output.
    let centre = unsafe { filled(outs, |out| pointwise.write(&first_line[..ins], &mut Scratch::default(), out)) };
    let moments = ChannelMoments::around(&centre);
    let tile = |values: &[f32], scratch: &mut Scratch, sums: &mut [f64], out: &mut [MaybeUninit<f32>]| {
        pointwise.write(values, scratch, out);
        // SAFETY: `write` has written all of it.
        moments.add(isa, unsafe { out.assume_init_ref() }, sums);
    };
    let mut sums = vec![];
    let run_map = |out: &mut [MaybeUninit<f32>]| {
        let part = chunk_len(shape.rows(), TASKS_PER_THREAD, MIN_ROWS_PER_TASK);
        let parts = out.par_chunks_mut(part * outs).zip(depthwise.par_chunks(part * ins));
        let parts = parts.map(|(out, values)| {
            let (mut scratch, mut sums) = (Scratch::default(), moments.wide.zeros());
            let rows = tile_rows(ins);
            for (out, values) in out.chunks_mut(rows * outs).zip(values.chunks(rows * ins)) {
                tile(values, &mut scratch, &mut sums, out);
            }
            sums
        });
        parts.collect()
    };
    let run_again = |out: &mut [MaybeUninit<f32>]| {
        let group = shape.group_lines(tile_rows(ins) / 2);
        fold_lines(
            shape,
            outs,
            out,
            TASKS_PER_THREAD,
            || moments.wide.zeros(),
            |sums, image, first, out| {
                let mut lines = DepthwiseRows::new(isa, shape, &taps, input, image, first);
                let (mut values, mut scratch) = (Scratch::default(), Scratch::default());
                for (first, out) in (first..).step_by(group).zip(out.chunks_mut(group * shape.depthwise.width * outs)) {
                    let len = out.len() / outs * ins;
                    // SAFETY: `write` writes all lines.
                    let values = unsafe { values.filled(len, |out| lines.write(first, out, |_| {})) };
                    tile(values, &mut scratch, sums, out);
                }
            },
        )
    };
    let run =
        |out: &mut [MaybeUninit<f32>]| sums = if shape.recomputes_depthwise() { run_again(out) } else { run_map(out) };
    // SAFETY: the chunks and tiles, or the lines of all images, cover the output, and `write` writes all of each.
    let values = unsafe { filled(shape.output_len(), run) };
    let ChannelStatistics { mean: mean2, variance: variance2 } =
        moments.statistics(&moments.wide.total(sums), shape.rows());
    SavedForBackward { depthwise, mean1, variance1, pointwise: values, mean2, variance2 }
}

/// The first line of the depthwise output.
fn first_line(isa: InstructionSet, shape: &SeparableShape, taps: &Taps, input: &[f32]) -> Vec<f32> {
    let mut lines = DepthwiseRows::new(isa, shape, taps, input, 0, 0);
    // SAFETY: `write` writes the whole line.
    unsafe { filled(shape.depthwise.out_line_len(), |out| lines.write(0, out, |_| {})) }
}

/// Calls `run(sums, image, first line, lines)` for the lines of all images of `out`, with `channels` per pixel, in parts of
/// whole lines of an image; the sums of each task's parts, in order.
fn fold_lines<T: Send>(
    shape: &SeparableShape,
    channels: usize,
    out: &mut [MaybeUninit<f32>],
    tasks_per_thread: usize,
    zeros: impl Fn() -> T + Sync,
    run: impl Fn(&mut T, usize, usize, &mut [MaybeUninit<f32>]) + Sync,
) -> Vec<T> {
    let DepthwiseShape { height, width, .. } = shape.depthwise;
    let (band, line_len) = (band_lines(&shape.depthwise), width * channels);
    let images = out.chunks_mut(height * line_len).enumerate();
    let bands = images.flat_map(|(image, out)| {
        let bands = out.chunks_mut(band * line_len).enumerate();
        bands.map(move |(idx, out)| (image, idx * band, out))
    });
    let mut bands: Vec<_> = bands.collect();
    let part = chunk_len(bands.len(), tasks_per_thread, 1);
    let parts = bands.par_chunks_mut(part).map(|bands| {
        let mut sums = zeros();
        bands.iter_mut().for_each(|(image, first, out)| run(&mut sums, *image, *first, out));
        sums
    });
    parts.collect()
}

/// The output, which is empty if the block makes it again, and its statistics.
fn depthwise_forward(
    isa: InstructionSet,
    shape: &SeparableShape,
    taps: &Taps,
    input: &[f32],
) -> (Vec<f32>, ChannelStatistics) {
    let (depthwise, channels) = (&shape.depthwise, shape.depthwise.channels);
    let moments = ChannelMoments::around(&first_line(isa, shape, taps, input)[..channels]);
    let mut sums = vec![];
    let (band, line_len) = (band_lines(depthwise), depthwise.out_line_len());
    let values = if shape.recomputes_depthwise() {
        let bands = depthwise.out_height().div_ceil(band);
        let parts = (0..depthwise.batch * bands).into_par_iter().map(|idx| {
            let (image, first) = (idx / bands, idx % bands * band);
            let mut lines = DepthwiseRows::new(isa, shape, taps, input, image, first);
            let (mut line, mut sums) = (Scratch::default(), moments.wide.zeros());
            for y in first..(first + band).min(depthwise.out_height()) {
                // SAFETY: `write` writes the whole line.
                let line = unsafe { line.filled(line_len, |out| lines.write(y, out, |_| {})) };
                moments.add(isa, line, &mut sums);
            }
            sums
        });
        sums = parts.collect();
        vec![]
    } else {
        let run = |out: &mut [MaybeUninit<f32>]| {
            sums = map_bands(depthwise.out_height() * line_len, band * line_len, out, |image, band_idx, out| {
                let first = band_idx * band;
                let mut lines = DepthwiseRows::new(isa, shape, taps, input, image, first);
                let mut sums = moments.wide.zeros();
                lines.write(first, out, |line| moments.add(isa, line, &mut sums));
                sums
            });
        };
        // SAFETY: the bands cover the output, and `write` writes all of each.
        unsafe { filled(depthwise.output_len(), run) }
    };
    let statistics = moments.statistics(&moments.wide.total(sums), shape.rows());
    (values, statistics)
}

fn backward_on(
    isa: InstructionSet,
    shape: &SeparableShape,
    weights: &SeparableWeights,
    input: &[f32],
    skip: Option<Skip>,
    saved: &SavedForBackward<&[f32]>,
    grad_output: &[f32],
) -> SeparableGradients {
    shape.check(input, weights.pointwise);
    shape.check_saved(saved);
    assert_eq!(grad_output.len(), shape.output_len(), "separable: output gradient, {shape:?}");
    let reduce1 = GradientSums::new(&weights.norm1, saved.mean1, saved.variance1);
    let again = Taps::new(shape, weights.depthwise, None, false);
    let (made, norm2, skip) = if shape.uses_covariance() {
        let inputs = few_inputs(isa, shape, weights, saved.depthwise, [saved.mean1, saved.variance1]);
        let CovarianceGradients { input, weight, norm, sums } =
            inputs.backward(&weights.norm2, [saved.mean2, saved.variance2], grad_output, &reduce1);
        let skip = skip.map(|skip| skip_backward(isa, shape, &skip, grad_output, None).1);
        (PointwiseGradients { grad: input, weight, sums }, norm, skip)
    } else {
        let reduce2 = GradientSums::new(&weights.norm2, saved.mean2, saved.variance2);
        let (sums, skip) = match skip {
            Some(skip) => {
                let (sums, skip) = skip_backward(isa, shape, &skip, grad_output, Some((&reduce2, saved.pointwise)));
                (sums, Some(skip))
            }
            None => {
                let sums = reduce2.wide.sums(grad_output.len(), |range, sums| {
                    reduce2.add(isa, &saved.pointwise[range.clone()], &grad_output[range], sums);
                });
                (sums, None)
            }
        };
        let (gradient2, norm2) = reduce2.finish(&sums, grad_output.len());
        let made = pointwise_backward(isa, shape, weights, (input, &again), saved, grad_output, &gradient2, &reduce1);
        (made, norm2, skip)
    };
    let (gradient1, norm1) = reduce1.finish(&made.sums, made.grad.len());
    let gradient = DepthwiseGradient { isa, output: saved.depthwise, grad: &made.grad, gradient1: &gradient1 };
    let (input, depthwise) = match shape.upsampling {
        None => depthwise_backward(shape, weights, input, &gradient),
        Some(Upsampling::Nearest) => doubled_backward(isa, shape, weights, (input, &again), &made.grad, &gradient1),
        Some(Upsampling::Bilinear) => bilinear_backward(shape, weights, input, &gradient),
    };
    SeparableGradients { input, depthwise, norm1, pointwise: made.weight, norm2, skip }
}

/// Gradients of the skip connection, and over the same gradient of the output, the sums of the second batch norm, if asked for
/// those of its input.
fn skip_backward(
    isa: InstructionSet,
    shape: &SeparableShape,
    skip: &Skip,
    grad_output: &[f32],
    norm2: Option<(&GradientSums, &[f32])>,
) -> (Vec<f64>, SkipGradients) {
    let outs = shape.out_channels;
    assert!(skip.weight.len().is_multiple_of(outs), "separable: weight and outputs of a 1x1 convolution");
    let ins = skip.weight.len() / outs;
    assert_eq!(skip.input.len(), shape.rows() * ins, "separable: input of the skip connection");
    let transposed = Panels::pack(isa, [outs, ins], skip.weight, |out| out * ins, 1);
    let totals = ChannelMoments::around(&vec![0.0; outs]);
    let part = chunk_len(shape.rows(), 1, MIN_ROWS_PER_TASK);
    let mut parts = vec![];
    let run = |out: &mut [MaybeUninit<f32>]| {
        let maps = skip.input.par_chunks(part * ins).zip(grad_output.par_chunks(part * outs));
        let chunks = out.par_chunks_mut(part * ins).zip(maps).enumerate();
        let chunks = chunks.map(|(idx, (out, (input, grads)))| {
            let (mut weight, mut product) = (vec![0.0; outs * ins], WeightProduct::new(isa, outs));
            let (mut sums, mut bias) = (totals.wide.zeros(), totals.wide.zeros());
            let maps = input.chunks(WEIGHT_TILE_ROWS * ins).zip(grads.chunks(WEIGHT_TILE_ROWS * outs));
            let tiles = out.chunks_mut(WEIGHT_TILE_ROWS * ins).zip(maps);
            for (first, (out, (input, grads))) in (idx * part..).step_by(WEIGHT_TILE_ROWS).zip(tiles) {
                if let Some((reduce, pointwise)) = norm2 {
                    reduce.add(isa, &pointwise[first * outs..][..grads.len()], grads, &mut sums);
                }
                totals.add(isa, grads, &mut bias);
                product.add_pixels(grads, input, &mut weight);
                transposed.multiply(LhsRows::dense(grads, outs), Epilogue::NONE, out);
            }
            (weight, (sums, bias))
        });
        parts = chunks.collect();
    };
    // SAFETY: the chunks and tiles cover the output, and `multiply` writes all of each.
    let input = unsafe { filled(skip.input.len(), run) };
    let (weight, (sums, bias)): (Vec<_>, (Vec<_>, Vec<_>)) = parts.into_iter().unzip();
    let bias = totals.wide.total(bias)[..outs].iter().map(|sum| *sum as f32).collect();
    (totals.wide.total(sums), SkipGradients { input, weight: sum_in_order(weight), bias })
}

/// What [`pointwise_backward`] makes.
struct PointwiseGradients {
    /// Of the first ReLU's output.
    grad: Vec<f32>,
    weight: Vec<f32>,
    /// Of the first batch norm: [`GradientSums`].
    sums: Vec<f64>,
}

/// The sums of a task of [`pointwise_backward`], and its buffers.
struct PointwiseTask {
    weight: Vec<f32>,
    sums: Vec<f64>,
    product: WeightProduct,
    normalised: Scratch,
    gradient: Scratch,
    depthwise: Scratch,
}

#[allow(clippy::too_many_arguments)]
fn pointwise_backward(
    isa: InstructionSet,
    shape: &SeparableShape,
    weights: &SeparableWeights,
    (input, again): (&[f32], &Taps),
    saved: &SavedForBackward<&[f32]>,
    grad_output: &[f32],
    gradient2: &InputGradient,
    reduce: &GradientSums,
) -> PointwiseGradients {
    let (ins, outs) = (shape.depthwise.channels, shape.out_channels);
    let affine = Affine::of_norm(&weights.norm1, saved.mean1, saved.variance1);
    let transposed = Panels::pack(isa, [outs, ins], weights.pointwise, |out| out * ins, 1);
    let new_task = || PointwiseTask {
        weight: vec![0.0; outs * ins],
        sums: reduce.wide.zeros(),
        product: WeightProduct::new(isa, outs),
        normalised: Scratch::default(),
        gradient: Scratch::default(),
        depthwise: Scratch::default(),
    };
    let tile = |task: &mut PointwiseTask, depthwise: &[f32], first: usize, out: &mut [MaybeUninit<f32>]| {
        let rows = out.len() / ins;
        let grads = &grad_output[first * outs..(first + rows) * outs];
        let pointwise = &saved.pointwise[first * outs..(first + rows) * outs];
        // SAFETY: both `apply` write all of their output.
        let (gradient, normalised) = unsafe {
            let gradient = task.gradient.filled(grads.len(), |out| gradient2.apply(isa, pointwise, grads, out));
            (gradient, task.normalised.filled(depthwise.len(), |out| affine.apply(isa, depthwise, out)))
        };
        task.product.add_pixels(gradient, normalised, &mut task.weight);
        transposed.multiply(LhsRows::dense(gradient, outs), Epilogue::NONE, out);
        // SAFETY: `multiply` has written all of it.
        reduce.add(isa, depthwise, unsafe { out.assume_init_ref() }, &mut task.sums);
    };
    let run_map = |out: &mut [MaybeUninit<f32>]| -> Vec<PointwiseTask> {
        let part = chunk_len(shape.rows(), 1, MIN_ROWS_PER_TASK);
        let parts = out.par_chunks_mut(part * ins).zip(saved.depthwise.par_chunks(part * ins)).enumerate();
        let parts = parts.map(|(idx, (out, depthwise))| {
            let mut task = new_task();
            let tiles = out.chunks_mut(WEIGHT_TILE_ROWS * ins).zip(depthwise.chunks(WEIGHT_TILE_ROWS * ins));
            for (first, (out, depthwise)) in (idx * part..).step_by(WEIGHT_TILE_ROWS).zip(tiles) {
                tile(&mut task, depthwise, first, out);
            }
            task
        });
        parts.collect()
    };
    let run_again = |out: &mut [MaybeUninit<f32>]| -> Vec<PointwiseTask> {
        let DepthwiseShape { height, width, .. } = shape.depthwise;
        let group = shape.group_lines(WEIGHT_TILE_ROWS);
        fold_lines(shape, ins, out, 1, new_task, |task, image, first, out| {
            let mut lines = DepthwiseRows::new(isa, shape, again, input, image, first);
            for (first, out) in (first..).step_by(group).zip(out.chunks_mut(group * width * ins)) {
                let mut depthwise = std::mem::take(&mut task.depthwise);
                // SAFETY: `write` writes all lines.
                let values = unsafe { depthwise.filled(out.len(), |out| lines.write(first, out, |_| {})) };
                tile(task, values, (image * height + first) * width, out);
                task.depthwise = depthwise;
            }
        })
    };
    let mut tasks = vec![];
    let run =
        |out: &mut [MaybeUninit<f32>]| tasks = if shape.recomputes_depthwise() { run_again(out) } else { run_map(out) };
    // SAFETY: the chunks and tiles, or the lines of all images, cover the output, and `multiply` writes all of each.
    let grad = unsafe { filled(shape.depthwise.output_len(), run) };
    let (weight, sums) = tasks.into_iter().map(|task| (task.weight, task.sums)).unzip();
    PointwiseGradients { grad, weight: sum_in_order(weight), sums: reduce.wide.total(sums) }
}

/// The gradient of a depthwise output that was saved, as lines that are made where they are read.
struct DepthwiseGradient<'a> {
    isa: InstructionSet,
    /// `[batch, height, width, channels]`
    output: &'a [f32],
    /// Of what the first batch norm made of it.
    grad: &'a [f32],
    gradient1: &'a InputGradient,
}

impl DepthwiseGradient<'_> {
    /// Rows of an image from `first` on, of the shape `transposed`.
    fn ring(&self, transposed: &DepthwiseShape, image: usize, first: usize) -> RowRing<'_> {
        let line_len = transposed.width * transposed.channels;
        let image_start = image * transposed.height * line_len;
        let make = move |y: usize, line: &mut [f32]| {
            let place = image_start + y * line_len..image_start + (y + 1) * line_len;
            self.gradient1.apply(self.isa, &self.output[place.clone()], &self.grad[place], uninit(line));
        };
        RowRing::new(transposed, RowSource::Computed(Box::new(make)), first)
    }
}

/// Gradients of the block's input and of the depthwise weight, a line at a time.
fn depthwise_backward(
    shape: &SeparableShape,
    weights: &SeparableWeights,
    input: &[f32],
    gradient: &DepthwiseGradient,
) -> (Vec<f32>, Vec<f32>) {
    let (depthwise, isa) = (&shape.depthwise, gradient.isa);
    let transposed = depthwise.transposed();
    let kernel = DepthwiseKernel::new(&transposed, &rotated_taps(depthwise, weights.depthwise), None, false);
    let (band, line_len) = (band_lines(depthwise), depthwise.out_line_len());
    let mut sums = vec![];
    let run = |out: &mut [MaybeUninit<f32>]| {
        sums = map_bands(shape.image_len(), band * line_len, out, |image, band_idx, out| {
            let first = band_idx * band;
            let mut grads = gradient.ring(&transposed, image, first);
            let mut inputs = shape.ring(isa, input, image, first);
            let mut sums = DepthwiseWeightSums::new(depthwise);
            for (y, out) in (first..).zip(out.chunks_exact_mut(line_len)) {
                grads.advance(y);
                inputs.advance(y);
                sums.add(isa, &inputs, grads.line(y));
                kernel.write_line(isa, &grads, out);
            }
            sums
        });
    };
    // SAFETY: the bands cover the input, and `write_line` writes all of each of its lines.
    let grad_input = unsafe { filled(shape.input_len(), run) };
    (grad_input, DepthwiseWeightSums::total(depthwise, sums))
}

/// [`depthwise_backward`] of a block that repeats pixels, whose depthwise output is made again.
fn doubled_backward(
    isa: InstructionSet,
    shape: &SeparableShape,
    weights: &SeparableWeights,
    (input, again): (&[f32], &Taps),
    grad: &[f32],
    gradient1: &InputGradient,
) -> (Vec<f32>, Vec<f32>) {
    let depthwise = &shape.depthwise;
    let DepthwiseShape { height, channels, .. } = *depthwise;
    let transposed = UpsampledTranspose::new(channels, weights.depthwise);
    let line_len = depthwise.out_line_len();
    let band = band_lines(depthwise).div_ceil(2);
    let mut sums = vec![];
    let run = |out: &mut [MaybeUninit<f32>]| {
        sums = map_bands(shape.image_len(), band * line_len / 2, out, |image, band_idx, out| {
            let (first, image_start) = (band_idx * band, image * height * line_len);
            let first_made = (2 * first).saturating_sub(1);
            let mut lines = DepthwiseRows::new(isa, shape, again, input, image, first_made);
            let mut values = Scratch::default();
            let make = move |y: usize, line: &mut [f32]| {
                let grad = &grad[image_start + y * line_len..][..line_len];
                // SAFETY: `write` writes the whole line.
                let values = unsafe { values.filled(line_len, |out| lines.write(y, out, |_| {})) };
                gradient1.apply(isa, values, grad, uninit(line));
            };
            let mut grads =
                RowRing::new(&UpsampledTranspose::shape(depthwise), RowSource::Computed(Box::new(make)), 2 * first);
            let mut inputs = shape.ring(isa, input, image, 2 * first);
            let mut sums = UpsampledWeightSums::new(channels);
            for (y, out) in (first..).zip(out.chunks_exact_mut(line_len / 2)) {
                if y > first {
                    grads.advance(2 * y - 1);
                }
                grads.advance(2 * y);
                inputs.advance(y);
                for place in 0..2 {
                    sums.add(isa, &inputs, place, grads.line(2 * y + place));
                }
                transposed.write_line(isa, &grads, out);
            }
            sums
        });
    };
    // SAFETY: the bands cover the input, and `write_line` writes all of each of its lines.
    let grad_input = unsafe { filled(shape.input_len(), run) };
    (grad_input, UpsampledWeightSums::total(channels, &sums))
}

/// [`depthwise_backward`] of a block that upsamples between pixels: the gradient of the upsampled map exists a few lines at a time.
fn bilinear_backward(
    shape: &SeparableShape,
    weights: &SeparableWeights,
    input: &[f32],
    gradient: &DepthwiseGradient,
) -> (Vec<f32>, Vec<f32>) {
    let (depthwise, isa) = (&shape.depthwise, gradient.isa);
    let (transposed, small) = (depthwise.transposed(), shape.small());
    let kernel = &DepthwiseKernel::new(&transposed, &rotated_taps(depthwise, weights.depthwise), None, false);
    let line_len = depthwise.out_line_len();
    let band = band_lines(depthwise).div_ceil(2);
    let mut sums = vec![];
    let run = |out: &mut [MaybeUninit<f32>]| {
        sums = map_bands(shape.image_len(), band * line_len / 2, out, |image, band_idx, out| {
            let first = band_idx * band;
            let own_lines = 2 * first..2 * (first + out.len() / (line_len / 2));
            let first_upsampled = (2 * first).saturating_sub(1);
            let mut grads = gradient.ring(&transposed, image, first_upsampled);
            let mut inputs = shape.ring(isa, input, image, 2 * first);
            let mut sums = DepthwiseWeightSums::new(depthwise);
            let sums_of_own = &mut sums;
            let make = move |y: usize, line: &mut [f32]| {
                grads.advance(y);
                if own_lines.contains(&y) {
                    inputs.advance(y);
                    sums_of_own.add(isa, &inputs, grads.line(y));
                }
                kernel.write_line(isa, &grads, uninit(line));
            };
            let mut upsampled =
                RowRing::new(&UpsampledTranspose::shape(depthwise), RowSource::Computed(Box::new(make)), 2 * first);
            for (y, out) in (first..).zip(out.chunks_exact_mut(line_len / 2)) {
                if y > first {
                    upsampled.advance(2 * y - 1);
                }
                upsampled.advance(2 * y);
                let rows = bilinear::readers(&small, y).map(|y| upsampled.line(y));
                bilinear::write_gradient_line(isa, &small, rows, out);
            }
            drop(upsampled);
            sums
        });
    };
    // SAFETY: the bands cover the input, and `write_gradient_line` writes all of each of its lines.
    let grad_input = unsafe { filled(shape.input_len(), run) };
    (grad_input, DepthwiseWeightSums::total(depthwise, sums))
}

/// The same values, to be written only.
fn uninit(values: &mut [f32]) -> &mut [MaybeUninit<f32>] {
    // SAFETY: both have one layout, and the callers in this file hand it to functions that only write values.
    unsafe { &mut *(std::ptr::from_mut(values) as *mut [MaybeUninit<f32>]) }
}

fn infer_on(
    isa: InstructionSet,
    shape: &SeparableShape,
    weights: &FoldedSeparable,
    input: &[f32],
    skip: Option<Skip>,
) -> Vec<f32> {
    let packed = PackedSeparable::at(isa, shape, weights, skip.map(|skip| (skip.weight, skip.bias)), None);
    packed.forward(shape.depthwise.batch, input, skip.map(|skip| skip.input))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conv::{self, ConvShape};
    use crate::reference::{assert_near, noise};
    use crate::{depthwise, norm, pixelwise};

    const NEAREST: Option<Upsampling> = Some(Upsampling::Nearest);
    const BILINEAR: Option<Upsampling> = Some(Upsampling::Bilinear);
    /// Batch, height, width, channels, upsampling, dilation.
    type CaseSizes = (usize, usize, usize, usize, Option<Upsampling>, usize);
    const CASES: [CaseSizes; 15] = [
        (2, 6, 5, 7, None, 1),
        (1, 8, 4, 33, NEAREST, 1),
        (1, 10, 6, 5, NEAREST, 1),
        (3, 4, 6, 16, NEAREST, 1),
        (2, 9, 7, 3, None, 2),
        (2, 3, 1, 20, None, 1),
        (2, 7, 5, 1, None, 1),
        (3, 5, 9, 2, None, 1),
        (1, 20, 31, 4, None, 1),
        (2, 30, 22, 40, NEAREST, 1),
        (1, 8, 4, 33, BILINEAR, 1),
        (1, 10, 6, 5, BILINEAR, 1),
        (3, 2, 2, 16, BILINEAR, 1),
        (1, 2, 6, 1, BILINEAR, 1),
        (2, 30, 22, 40, BILINEAR, 1),
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
        fn new((batch, height, width, channels, upsampling, dilation): CaseSizes) -> Self {
            let depthwise = DepthwiseShape { batch, height, width, channels, kernel: 3, dilation, padding: dilation };
            let (outs, skips) = (channels + 3, 5);
            let shape = SeparableShape { depthwise, upsampling, out_channels: outs };
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

        fn small(&self) -> MapShape {
            MapShape { batch: self.shape.depthwise.batch, ..self.shape.small() }
        }

        fn upsampled(&self) -> Vec<f32> {
            match self.shape.upsampling {
                None => self.input.clone(),
                NEAREST => pixelwise::upsample_2x(&self.small(), &self.input),
                BILINEAR => bilinear::upsample_2x(&self.small(), &self.input),
            }
        }

        /// Output and gradients (input, depthwise, scale 1, shift 1, 1x1, scale 2, shift 2) by separate operators.
        fn separately(&self) -> Vec<Vec<f32>> {
            let (shape, weights) = (&self.shape.depthwise, self.weights());
            let (upsampled, conv) = (self.upsampled(), self.conv(shape.channels));
            let d = depthwise::forward(shape, &upsampled, weights.depthwise, None, false);
            let n = norm::forward(&weights.norm1, &d);
            let p = conv::forward(&conv, &n.output, weights.pointwise, None, false);
            let o = norm::forward(&weights.norm2, &p);
            let skip = conv::forward(&self.conv(5), &self.skip[0], &self.skip[1], Some(&self.skip[2]), false);
            let (grad, norm2) = norm::backward(&weights.norm2, &p, &o.mean, &o.variance, &self.grad);
            let pointwise = conv::backward_weight(&conv, &n.output, &grad);
            let grad = conv::backward_input(&conv, weights.pointwise, &grad);
            let (grad, norm1) = norm::backward(&weights.norm1, &d, &n.mean, &n.variance, &grad);
            let taps = depthwise::backward_weight(shape, &upsampled, &grad);
            let mut input = depthwise::backward_input(shape, weights.depthwise, &grad);
            match self.shape.upsampling {
                None => {}
                NEAREST => input = pixelwise::upsample_2x_backward(&self.small(), &input),
                BILINEAR => input = bilinear::upsample_2x_backward(&self.small(), &input),
            }
            let output = pixelwise::add(&o.output, &skip);
            let skip_input = conv::backward_input(&self.conv(5), &self.skip[1], &self.grad);
            let skip_weight = conv::backward_weight(&self.conv(5), &self.skip[0], &self.grad);
            let skip_bias = norm::channel_sums(&self.grad, self.shape.out_channels);
            let block = vec![output, input, taps, norm1.scale, norm1.shift, pointwise, norm2.scale, norm2.shift];
            [block, vec![skip_input, skip_weight, skip_bias]].concat()
        }

        fn as_one(&self, isa: InstructionSet) -> Vec<Vec<f32>> {
            let weights = self.weights();
            let saved = forward_on(isa, &self.shape, &weights, &self.input);
            let SavedForBackward { depthwise, mean1, variance1, pointwise, mean2, variance2 } = &saved;
            let saved = SavedForBackward { depthwise: &depthwise[..], mean1, variance1, pointwise, mean2, variance2 };
            let output = output(&self.shape, &weights, &saved, Some(self.skip()));
            let alone = backward_on(isa, &self.shape, &weights, &self.input, None, &saved, &self.grad);
            let made = backward_on(isa, &self.shape, &weights, &self.input, Some(self.skip()), &saved, &self.grad);
            // The second batch norm's sums are taken in other parts beside a skip connection.
            assert_near("input, without skip", &alone.input, &doubles(&made.input));
            let SeparableGradients { input, depthwise, norm1, pointwise, norm2, skip } = made;
            let skip = skip.expect("there is a skip connection");
            let block = vec![output, input, depthwise, norm1.scale, norm1.shift, pointwise, norm2.scale, norm2.shift];
            [block, vec![skip.input, skip.weight, skip.bias]].concat()
        }
    }

    fn doubles(values: &[f32]) -> Vec<f64> {
        values.iter().map(|value| f64::from(*value)).collect()
    }

    #[test]
    fn block_is_its_operators_one_after_the_other() {
        const NAMES: [&str; 8] = ["output", "input", "depthwise", "scale 1", "shift 1", "1x1", "scale 2", "shift 2"];
        const SKIP: [&str; 3] = ["skip input", "skip weight", "skip bias"];
        for case in CASES {
            let case = Case::new(case);
            let expected = case.separately();
            for isa in InstructionSet::available() {
                for ((got, expected), name) in case.as_one(isa).iter().zip(&expected).zip([&NAMES[..], &SKIP].concat())
                {
                    assert_near(&format!("{isa:?}, {:?}, {name}", case.shape), got, &doubles(expected));
                }
            }
        }
    }

    #[test]
    fn folded_block_is_its_operators_one_after_the_other() {
        for case in CASES {
            let case = Case::new(case);
            let (shape, [bias1, bias2]) = (&case.shape.depthwise, &case.shifts);
            let d = depthwise::forward(shape, &case.upsampled(), &case.depthwise, Some(bias1), true);
            let p = conv::forward(&case.conv(shape.channels), &d, &case.pointwise, Some(bias2), true);
            let skip = conv::forward(&case.conv(5), &case.skip[0], &case.skip[1], Some(&case.skip[2]), false);
            let folded = FoldedSeparable {
                depthwise: &case.depthwise,
                depthwise_bias: bias1,
                pointwise: &case.pointwise,
                pointwise_bias: bias2,
            };
            for isa in InstructionSet::available() {
                let name = format!("{isa:?}, {:?}", case.shape);
                assert_near(&name, &infer_on(isa, &case.shape, &folded, &case.input, None), &doubles(&p));
                let got = infer_on(isa, &case.shape, &folded, &case.input, Some(case.skip()));
                let sum = pixelwise::add(&p, &skip);
                assert_near(&name, &got, &doubles(&sum));
                for n_heads in [1, 18] {
                    let (weight, bias) = (noise(n_heads * case.shape.out_channels, 41), noise(n_heads, 42));
                    let dot = |pixel: &[f32], head: usize| {
                        let products = pixel.iter().zip(&weight[head * pixel.len()..]);
                        f64::from(bias[head]) + products.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>()
                    };
                    let pixels = sum.chunks_exact(case.shape.out_channels);
                    let expected: Vec<f64> = pixels
                        .flat_map(|pixel| (0..n_heads).map(|head| dot(pixel, head)).collect::<Vec<_>>())
                        .collect();
                    let skip = case.skip();
                    let packed = PackedSeparable::at(
                        isa,
                        &case.shape,
                        &folded,
                        Some((skip.weight, skip.bias)),
                        Some((&weight, &bias)),
                    );
                    let got = packed.forward(case.shape.depthwise.batch, &case.input, Some(skip.input));
                    assert_near(&name, &got, &expected);
                }
            }
        }
    }
}
