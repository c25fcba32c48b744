//! The sums of batch norm's two directions, over any range of whole pixels, and what follows from them.
//!
//! Sums of a few pixels are taken in single precision, in vectors, and then added to doubles: fast, and exact enough for maps
//! of any size.

use std::mem::MaybeUninit;

use super::affine::Affine;
use super::pixel_groups::PixelGroups;
use super::{ChannelStatistics, Norm, NormGradients};
use crate::instruction_set::{InstructionSet, for_each_instruction_set, multiply_add};

/// The sums that statistics are made of: of `value - centre` and of its square.
///
/// A centre near the mean keeps the squares small where the spread is small against the mean: otherwise
/// `mean(x^2) - mean(x)^2` would cancel.
pub(crate) struct ChannelMoments {
    pub groups: PixelGroups,
    /// Repeated for a group of pixels.
    centre: Vec<f32>,
}

impl ChannelMoments {
    /// `centre`: any pixel.
    pub(crate) fn around(centre: &[f32]) -> Self {
        let groups = PixelGroups::new(centre.len());
        Self { centre: groups.repeat(centre), groups }
    }

    /// Adds whole pixels to `sums`, [`PixelGroups::zeros`].
    pub(crate) fn add(&self, isa: InstructionSet, values: &[f32], sums: &mut [f64]) {
        moments(isa, values, &self.centre, sums);
    }

    /// From the sums by [`PixelGroups::total`] over `pixels`.
    pub(crate) fn statistics(&self, sums: &[f64], pixels: usize) -> ChannelStatistics<Vec<f32>> {
        let (channels, count) = (self.groups.channels(), pixels as f64);
        let (mut mean, mut variance) = (Vec::with_capacity(channels), Vec::with_capacity(channels));
        for channel in 0..channels {
            let offset = sums[channel] / count;
            mean.push((offset + f64::from(self.centre[channel])) as f32);
            variance.push((sums[channels + channel] / count - offset * offset).max(0.0) as f32);
        }
        ChannelStatistics { mean, variance }
    }
}

/// The first pass of the gradient: sums of `g` and of `g * x^`.
pub(crate) struct NormGradientSums {
    pub groups: PixelGroups,
    affine: Affine,
    /// Repeated for a group of pixels; `input * inverse + offset` is the normalised input, `x^`.
    inverse: Vec<f32>,
    offset: Vec<f32>,
}

impl NormGradientSums {
    pub(crate) fn new(norm: &Norm, statistics: ChannelStatistics<&[f32]>) -> Self {
        let affine = Affine::from_norm(norm, statistics);
        let ChannelStatistics { mean, variance } = statistics;
        let inverse: Vec<f32> = variance.iter().map(|variance| 1.0 / (variance + norm.epsilon).sqrt()).collect();
        let offset: Vec<f32> = mean.iter().zip(&inverse).map(|(mean, inverse)| -mean * inverse).collect();
        let groups = PixelGroups::new(norm.scale.len());
        Self { inverse: groups.repeat(&inverse), offset: groups.repeat(&offset), groups, affine }
    }

    /// Adds whole pixels of the input and of the output's gradient to `sums`, [`PixelGroups::zeros`].
    pub(crate) fn add(&self, isa: InstructionSet, input: &[f32], grads: &[f32], sums: &mut [f64]) {
        assert_eq!(input.len(), grads.len(), "batch norm: input and gradient");
        gradient_sums(isa, self, input, grads, sums);
    }

    /// The second pass and the gradients of scale and shift, from the sums by [`PixelGroups::total`] over `len` values.
    pub(crate) fn gradients(self, sums: &[f64], len: usize) -> (InputGradient, NormGradients) {
        let Self { groups, affine, inverse, offset } = self;
        let (channels, count) = (groups.channels(), (len / groups.channels()) as f32);
        let (grad_shift, grad_scale) = sums.split_at(channels);
        // scale * inverse * (g - mean(g) - x^ * mean(g * x^)), as scale * g + slope * input + constant; `affine`'s scale has
        // the inverse in it.
        let scale = affine.gate().scale;
        let slope = |channel: usize| -scale[channel] * grad_scale[channel] as f32 / count * inverse[channel];
        let constant = |channel: usize| {
            let (g, gx) = (grad_shift[channel] as f32 / count, grad_scale[channel] as f32 / count);
            -scale[channel] * (g + gx * offset[channel])
        };
        let slopes = groups.repeat(&(0..channels).map(slope).collect::<Vec<f32>>());
        let constants = groups.repeat(&(0..channels).map(constant).collect::<Vec<f32>>());
        let single = |sums: &[f64]| sums.iter().map(|sum| *sum as f32).collect();
        let gradients = NormGradients { scale: single(grad_scale), shift: single(grad_shift) };
        (InputGradient { affine, slopes, constants }, gradients)
    }
}

/// The second pass of the gradient: `scale * g + slope * input + constant`.
pub(crate) struct InputGradient {
    affine: Affine,
    /// Repeated for a group of pixels, as `constants`.
    slopes: Vec<f32>,
    constants: Vec<f32>,
}

impl InputGradient {
    /// Writes the input's gradient over whole pixels, all of `out`, from the output's.
    pub(crate) fn apply(&self, isa: InstructionSet, input: &[f32], grads: &[f32], out: &mut [MaybeUninit<f32>]) {
        assert_eq!((input.len(), grads.len()), (out.len(), out.len()), "batch norm: input and gradient");
        input_gradient(isa, self, input, grads, out);
    }
}

for_each_instruction_set! {
    fn moments(values: &[f32], centre: &[f32], sums: &mut [f64]) = moments_body
}
for_each_instruction_set! {
    fn gradient_sums(reduce: &NormGradientSums, input: &[f32], grads: &[f32], sums: &mut [f64]) = gradient_sums_body
}
for_each_instruction_set! {
    fn input_gradient(
        gradient: &InputGradient,
        input: &[f32],
        grads: &[f32],
        out: &mut [MaybeUninit<f32>],
    ) = input_gradient_body
}

/// Adds the sums of `value - centre` and of its square; four pixels at a time, so that the sums are loaded and stored once.
#[inline(always)]
fn moments_body<const FUSED: bool, const LANES: usize>(values: &[f32], centre: &[f32], sums: &mut [f64]) {
    let width = centre.len();
    let mut single = vec![0.0f32; 2 * width];
    for block in values.chunks(width * GROUPS_PER_SINGLE_SUM) {
        let (sum, square) = single.split_at_mut(width);
        let (fours, rest) = block.split_at(block.len() / (4 * width) * 4 * width);
        for pixels in fours.chunks_exact(4 * width) {
            let (a, b) = pixels.split_at(2 * width);
            let ((a, b), (c, d)) = (a.split_at(width), b.split_at(width));
            for lane in 0..width {
                let (a, b) = (a[lane] - centre[lane], b[lane] - centre[lane]);
                let (c, d) = (c[lane] - centre[lane], d[lane] - centre[lane]);
                sum[lane] += (a + b) + (c + d);
                let first = multiply_add::<FUSED>(a, a, b * b);
                square[lane] += first + multiply_add::<FUSED>(c, c, d * d);
            }
        }
        for pixel in rest.chunks(width) {
            for (lane, value) in pixel.iter().enumerate() {
                let value = value - centre[lane];
                sum[lane] += value;
                square[lane] += value * value;
            }
        }
        flush(&mut single, sums);
    }
}

/// Adds the sums of the gradient that the activation passes and of its product with the normalised input.
#[inline(always)]
fn gradient_sums_body<const FUSED: bool, const LANES: usize>(
    reduce: &NormGradientSums,
    input: &[f32],
    grads: &[f32],
    sums: &mut [f64],
) {
    let (gate, inverse, offset) = (reduce.affine.gate(), &reduce.inverse[..], &reduce.offset[..]);
    let width = inverse.len();
    let mut single = vec![0.0f32; 2 * width];
    let block = width * GROUPS_PER_SINGLE_SUM;
    let (gate, offset) = (gate.with_width(width), &offset[..width]);
    for (input, grads) in input.chunks(block).zip(grads.chunks(block)) {
        let (sum, product) = single.split_at_mut(width);
        let fours = input.len() / (4 * width) * 4 * width;
        for (input, grads) in input[..fours].chunks_exact(4 * width).zip(grads[..fours].chunks_exact(4 * width)) {
            let (a, b) = input.split_at(2 * width);
            let ((a, b), (c, d)) = (a.split_at(width), b.split_at(width));
            let (e, f) = grads.split_at(2 * width);
            let ((e, f), (g, h)) = (e.split_at(width), f.split_at(width));
            for lane in 0..width {
                let (x, y) = (a[lane] * inverse[lane] + offset[lane], b[lane] * inverse[lane] + offset[lane]);
                let (z, w) = (c[lane] * inverse[lane] + offset[lane], d[lane] * inverse[lane] + offset[lane]);
                let e = gate.pass::<FUSED>(a[lane], e[lane], lane);
                let f = gate.pass::<FUSED>(b[lane], f[lane], lane);
                let g = gate.pass::<FUSED>(c[lane], g[lane], lane);
                let h = gate.pass::<FUSED>(d[lane], h[lane], lane);
                sum[lane] += (e + f) + (g + h);
                let first = multiply_add::<FUSED>(e, x, f * y);
                product[lane] += first + multiply_add::<FUSED>(g, z, h * w);
            }
        }
        for (input, grads) in input[fours..].chunks(width).zip(grads[fours..].chunks(width)) {
            for (lane, (input, grad)) in input.iter().zip(grads).enumerate() {
                let grad = gate.pass::<FUSED>(*input, *grad, lane);
                sum[lane] += grad;
                product[lane] += grad * (input * inverse[lane] + offset[lane]);
            }
        }
        flush(&mut single, sums);
    }
}

#[inline(always)]
fn input_gradient_body<const FUSED: bool, const LANES: usize>(
    gradient: &InputGradient,
    input: &[f32],
    grads: &[f32],
    out: &mut [MaybeUninit<f32>],
) {
    let (gate, slopes, constants) = (gradient.affine.gate(), &gradient.slopes[..], &gradient.constants[..]);
    let width = slopes.len();
    let (gate, constants) = (gate.with_width(width), &constants[..width]);
    for (out, (input, grads)) in out.chunks_mut(width).zip(input.chunks(width).zip(grads.chunks(width))) {
        let len = out.len().min(width);
        let (out, input, grads) = (&mut out[..len], &input[..len], &grads[..len]);
        for lane in 0..len {
            let passed = gate.pass::<FUSED>(input[lane], grads[lane], lane);
            let centred = multiply_add::<FUSED>(input[lane], slopes[lane], constants[lane]);
            out[lane].write(multiply_add::<FUSED>(passed, gate.scale[lane], centred));
        }
    }
}

/// Moves single-precision sums of a few pixels to the doubles.
#[inline(always)]
fn flush(single: &mut [f32], sums: &mut [f64]) {
    for (sum, single) in sums.iter_mut().zip(single.iter_mut()) {
        *sum += f64::from(*single);
        *single = 0.0;
    }
}

/// Groups of pixels that are summed in single precision before they are added to a double.
const GROUPS_PER_SINGLE_SUM: usize = 128;
