//! Batch norm with the statistics of the batch, ReLU fused, and its gradients.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use crate::buffer::{chunk_len, filled};
use crate::instruction_set::{InstructionSet, for_each_instruction_set, multiply_add};

/// Result of [`forward`].
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNorm {
    /// The normalised feature map.
    pub output: Vec<f32>,
    /// Mean of each channel.
    pub mean: Vec<f32>,
    /// Biased variance of each channel.
    pub variance: Vec<f32>,
}

/// Gradients of the scale and the shift.
#[derive(Debug, Clone, PartialEq)]
pub struct NormGradients {
    /// Gradient of the scale of each channel.
    pub scale: Vec<f32>,
    /// Gradient of the shift of each channel.
    pub shift: Vec<f32>,
}

/// What is trained in a batch norm, and its constants.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// Scale of each channel.
    pub scale: &'a [f32],
    /// Shift of each channel.
    pub shift: &'a [f32],
    /// Added to the variance.
    pub epsilon: f32,
    /// Whether a ReLU follows.
    pub relu: bool,
}

/// `(input - mean) / sqrt(variance + epsilon) * scale + shift` over `[pixels, channels]`, then ReLU if asked for.
pub fn forward(norm: &Norm, input: &[f32]) -> BatchNorm {
    forward_on(InstructionSet::detect(), norm, input)
}

/// The gradient of the input of [`forward`] with these statistics from that of the output, and those of scale and shift.
///
/// The mask of the ReLU is computed again from `input`, so the output need not be saved.
pub fn backward(norm: &Norm, input: &[f32], mean: &[f32], variance: &[f32], grad: &[f32]) -> (Vec<f32>, NormGradients) {
    backward_on(InstructionSet::detect(), norm, input, mean, variance, grad)
}

/// `input * scale + shift` per channel, then ReLU if asked for: batch norm with fixed statistics.
pub fn affine(input: &[f32], scale: &[f32], shift: &[f32], relu: bool) -> Vec<f32> {
    affine_on(InstructionSet::detect(), input, scale, shift, relu)
}

/// Sum of each channel over all pixels: the gradient of a bias.
pub fn channel_sums(values: &[f32], channels: usize) -> Vec<f32> {
    let moments = ChannelMoments::around(&vec![0.0; channels]);
    let sums =
        moments.wide.sums(values.len(), |range, sums| moments.add(InstructionSet::detect(), &values[range], sums));
    sums[..channels].iter().map(|sum| *sum as f32).collect()
}

fn forward_on(isa: InstructionSet, norm: &Norm, input: &[f32]) -> BatchNorm {
    let channels = norm.scale.len();
    assert_eq!(norm.shift.len(), channels, "batch norm: scale and shift");
    assert!(!input.is_empty() && input.len().is_multiple_of(channels), "batch norm: input and channels");
    let moments = ChannelMoments::around(&input[..channels]);
    let sums = moments.wide.sums(input.len(), |range, sums| moments.add(isa, &input[range], sums));
    let ChannelStatistics { mean, variance } = moments.statistics(&sums, input.len() / channels);
    let (scale, shift) = norm.folded(&mean, &variance);
    BatchNorm { output: affine_on(isa, input, &scale, &shift, norm.relu), mean, variance }
}

fn backward_on(
    isa: InstructionSet,
    norm: &Norm,
    input: &[f32],
    mean: &[f32],
    variance: &[f32],
    grad: &[f32],
) -> (Vec<f32>, NormGradients) {
    assert_eq!(input.len(), grad.len(), "batch norm: input and gradient");
    let reduce = GradientSums::new(norm, mean, variance);
    assert!(!input.is_empty() && input.len().is_multiple_of(reduce.wide.channels), "batch norm: input and channels");
    let sums = reduce.wide.sums(input.len(), |range, sums| reduce.add(isa, &input[range.clone()], &grad[range], sums));
    let part = reduce.wide.part(input.len());
    let (gradient, gradients) = reduce.finish(&sums, input.len());
    let run = |out: &mut [MaybeUninit<f32>]| {
        let parts = out.par_chunks_mut(part).zip(input.par_chunks(part).zip(grad.par_chunks(part)));
        parts.for_each(|(out, (input, grad))| gradient.apply(isa, input, grad, out));
    };
    // SAFETY: the chunks cover the output, and `apply` writes all of each.
    (unsafe { filled(input.len(), run) }, gradients)
}

fn affine_on(isa: InstructionSet, input: &[f32], scale: &[f32], shift: &[f32], relu: bool) -> Vec<f32> {
    let affine = Affine::new(scale, shift, relu);
    assert!(input.len().is_multiple_of(affine.wide.channels), "affine: input and channels");
    let part = affine.wide.part(input.len());
    let run = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_mut(part).zip(input.par_chunks(part)).for_each(|(out, input)| affine.apply(isa, input, out));
    };
    // SAFETY: the chunks cover the output, and `apply` writes all of each.
    unsafe { filled(input.len(), run) }
}

impl Norm<'_> {
    /// Scale and shift that batch norm comes down to once its statistics are known.
    pub(crate) fn folded(&self, mean: &[f32], variance: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let scale: Vec<f32> =
            self.scale.iter().zip(variance).map(|(scale, variance)| scale / (variance + self.epsilon).sqrt()).collect();
        let shift = self.shift.iter().zip(mean).zip(&scale).map(|((shift, mean), scale)| shift - mean * scale);
        let shift = shift.collect();
        (scale, shift)
    }
}

/// Mean and biased variance of each channel.
pub(crate) struct ChannelStatistics {
    pub mean: Vec<f32>,
    pub variance: Vec<f32>,
}

/// The sums that statistics are made of, of differences to a centre: small where the spread is small against the mean.
pub(crate) struct ChannelMoments {
    pub wide: Wide,
    /// Wide.
    centre: Vec<f32>,
}

impl ChannelMoments {
    /// `centre`: any pixel.
    pub(crate) fn around(centre: &[f32]) -> Self {
        let wide = Wide::new(centre.len());
        Self { centre: wide.spread(centre), wide }
    }

    /// Adds whole pixels to `sums`, [`Wide::zeros`].
    pub(crate) fn add(&self, isa: InstructionSet, values: &[f32], sums: &mut [f64]) {
        moments(isa, values, &self.centre, sums);
    }

    /// From the sums by [`Wide::total`] over `pixels`.
    pub(crate) fn statistics(&self, sums: &[f64], pixels: usize) -> ChannelStatistics {
        let (channels, count) = (self.wide.channels, pixels as f64);
        let (mut mean, mut variance) = (Vec::with_capacity(channels), Vec::with_capacity(channels));
        for channel in 0..channels {
            let offset = sums[channel] / count;
            mean.push((offset + f64::from(self.centre[channel])) as f32);
            variance.push((sums[channels + channel] / count - offset * offset).max(0.0) as f32);
        }
        ChannelStatistics { mean, variance }
    }
}

/// `input * scale + shift` per channel, then ReLU if asked for, over any range of whole pixels.
pub(crate) struct Affine {
    wide: Wide,
    /// Wide, as `shift`.
    scale: Vec<f32>,
    shift: Vec<f32>,
    relu: bool,
}

impl Affine {
    pub(crate) fn new(scale: &[f32], shift: &[f32], relu: bool) -> Self {
        assert_eq!(scale.len(), shift.len(), "affine: scale and shift");
        let wide = Wide::new(scale.len());
        Self { scale: wide.spread(scale), shift: wide.spread(shift), wide, relu }
    }

    /// The batch norm with these statistics.
    pub(crate) fn of_norm(norm: &Norm, mean: &[f32], variance: &[f32]) -> Self {
        let channels = norm.scale.len();
        assert_eq!(norm.shift.len(), channels, "batch norm: scale and shift");
        assert_eq!((mean.len(), variance.len()), (channels, channels), "batch norm: statistics and scale");
        let (scale, shift) = norm.folded(mean, variance);
        Self::new(&scale, &shift, norm.relu)
    }

    /// Writes all of `out`, as long as `input`.
    pub(crate) fn apply(&self, isa: InstructionSet, input: &[f32], out: &mut [MaybeUninit<f32>]) {
        assert_eq!(input.len(), out.len(), "affine: lengths");
        apply(isa, input, self.mask(), out);
    }

    fn mask(&self) -> Mask<'_> {
        Mask { scale: &self.scale, shift: &self.shift, relu: self.relu }
    }
}

/// The first pass of the gradient: sums over all pixels.
pub(crate) struct GradientSums {
    pub wide: Wide,
    affine: Affine,
    /// Wide; `input * inverse + offset` is the normalised input.
    inverse: Vec<f32>,
    offset: Vec<f32>,
}

impl GradientSums {
    pub(crate) fn new(norm: &Norm, mean: &[f32], variance: &[f32]) -> Self {
        let affine = Affine::of_norm(norm, mean, variance);
        let inverse: Vec<f32> = variance.iter().map(|variance| 1.0 / (variance + norm.epsilon).sqrt()).collect();
        let offset: Vec<f32> = mean.iter().zip(&inverse).map(|(mean, inverse)| -mean * inverse).collect();
        let wide = Wide::new(norm.scale.len());
        Self { inverse: wide.spread(&inverse), offset: wide.spread(&offset), wide, affine }
    }

    /// Adds whole pixels of the input and of the output's gradient to `sums`, [`Wide::zeros`].
    pub(crate) fn add(&self, isa: InstructionSet, input: &[f32], grad: &[f32], sums: &mut [f64]) {
        assert_eq!(input.len(), grad.len(), "batch norm: input and gradient");
        gradient_sums(isa, self, input, grad, sums);
    }

    /// The second pass and the gradients of scale and shift, from the sums by [`Wide::total`] over `len` values.
    pub(crate) fn finish(self, sums: &[f64], len: usize) -> (InputGradient, NormGradients) {
        let Self { wide, affine, inverse, offset } = self;
        let (channels, count) = (wide.channels, (len / wide.channels) as f32);
        let (grad_shift, grad_scale) = sums.split_at(channels);
        // scale * inverse * (g - mean(g) - normalised * mean(g * normalised)), as scale * g + slope * input + constant.
        let scale = &affine.scale;
        let slope = |channel: usize| -scale[channel] * grad_scale[channel] as f32 / count * inverse[channel];
        let constant = |channel: usize| {
            let (g, gx) = (grad_shift[channel] as f32 / count, grad_scale[channel] as f32 / count);
            -scale[channel] * (g + gx * offset[channel])
        };
        let slopes = wide.spread(&(0..channels).map(slope).collect::<Vec<f32>>());
        let constants = wide.spread(&(0..channels).map(constant).collect::<Vec<f32>>());
        let single = |sums: &[f64]| sums.iter().map(|sum| *sum as f32).collect();
        let gradients = NormGradients { scale: single(grad_scale), shift: single(grad_shift) };
        (InputGradient { affine, slopes, constants }, gradients)
    }
}

/// The second pass of the gradient: that of the input, from that of the output.
pub(crate) struct InputGradient {
    affine: Affine,
    /// Wide, as `constants`.
    slopes: Vec<f32>,
    constants: Vec<f32>,
}

impl InputGradient {
    /// Writes the input's gradient over whole pixels, all of `out`, from the output's.
    pub(crate) fn apply(&self, isa: InstructionSet, input: &[f32], grad: &[f32], out: &mut [MaybeUninit<f32>]) {
        assert_eq!((input.len(), grad.len()), (out.len(), out.len()), "batch norm: input and gradient");
        input_gradient(isa, self, input, grad, out);
    }
}

/// Several pixels taken as one of more channels where there are too few to fill vectors.
pub(crate) struct Wide {
    channels: usize,
    width: usize,
}

impl Wide {
    fn new(channels: usize) -> Self {
        assert!(channels > 0, "batch norm: channels");
        Self { channels, width: channels * MIN_WIDTH.div_ceil(channels) }
    }

    /// One value per channel, repeated.
    fn spread(&self, values: &[f32]) -> Vec<f32> {
        values.iter().copied().cycle().take(self.width).collect()
    }

    /// Length of a task's part of `len` values: whole wide pixels.
    fn part(&self, len: usize) -> usize {
        chunk_len(len.div_ceil(self.width), 2, 4096_usize.div_ceil(self.width)) * self.width
    }

    /// Room for the two sums per channel that [`ChannelMoments::add`] and [`GradientSums::add`] add to, `[2, width]`.
    pub(crate) fn zeros(&self) -> Vec<f64> {
        vec![0.0; 2 * self.width]
    }

    /// The total of several [`Wide::zeros`], `[2, channels]`.
    pub(crate) fn total(&self, parts: Vec<Vec<f64>>) -> Vec<f64> {
        let mut totals = vec![0.0; 2 * self.channels];
        for sums in parts {
            for (idx, sum) in sums.into_iter().enumerate() {
                totals[idx / self.width * self.channels + idx % self.width % self.channels] += sum;
            }
        }
        totals
    }

    /// Two sums per channel over `len` values, `[2, channels]`: `add(range, sums)` adds those of a part.
    pub(crate) fn sums(&self, len: usize, add: impl Fn(Range<usize>, &mut [f64]) + Sync) -> Vec<f64> {
        let part = self.part(len);
        let parts = (0..len.div_ceil(part)).into_par_iter().map(|idx| {
            let mut sums = self.zeros();
            add(idx * part..((idx + 1) * part).min(len), &mut sums);
            sums
        });
        self.total(parts.collect())
    }
}

/// A pixel passes where `input * scale + shift` is positive or there is no ReLU.
#[derive(Clone, Copy)]
struct Mask<'a> {
    scale: &'a [f32],
    shift: &'a [f32],
    relu: bool,
}

impl<'a> Mask<'a> {
    /// The same, with lengths that the compiler sees: no bounds are checked in the loops.
    #[inline(always)]
    fn of_width(self, width: usize) -> Mask<'a> {
        Mask { scale: &self.scale[..width], shift: &self.shift[..width], relu: self.relu }
    }
}

for_each_instruction_set! {
    fn moments(values: &[f32], centre: &[f32], sums: &mut [f64]) = moments_body
}
for_each_instruction_set! {
    fn gradient_sums(reduce: &GradientSums, input: &[f32], grad: &[f32], sums: &mut [f64]) = gradient_sums_body
}
for_each_instruction_set! {
    fn apply(input: &[f32], mask: Mask, out: &mut [MaybeUninit<f32>]) = apply_body
}
for_each_instruction_set! {
    fn input_gradient(
        gradient: &InputGradient,
        input: &[f32],
        grad: &[f32],
        out: &mut [MaybeUninit<f32>],
    ) = input_gradient_body
}

/// Adds the sums of `value - centre` and of its square.
#[inline(always)]
fn moments_body<const FUSED: bool, const LANES: usize>(values: &[f32], centre: &[f32], sums: &mut [f64]) {
    let width = centre.len();
    let mut short = vec![0.0f32; 2 * width];
    for block in values.chunks(width * PIXELS_IN_SINGLE) {
        let (sum, square) = short.split_at_mut(width);
        let (four, rest) = block.split_at(block.len() / (4 * width) * 4 * width);
        for pixels in four.chunks_exact(4 * width) {
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
        flush(&mut short, sums);
    }
}

/// Adds the sums of the masked gradient and of its product with the normalised input.
#[inline(always)]
fn gradient_sums_body<const FUSED: bool, const LANES: usize>(
    reduce: &GradientSums,
    input: &[f32],
    grad: &[f32],
    sums: &mut [f64],
) {
    let (mask, inverse, offset) = (reduce.affine.mask(), &reduce.inverse[..], &reduce.offset[..]);
    let width = inverse.len();
    let mut short = vec![0.0f32; 2 * width];
    let block = width * PIXELS_IN_SINGLE;
    let (mask, offset) = (mask.of_width(width), &offset[..width]);
    for (input, grad) in input.chunks(block).zip(grad.chunks(block)) {
        let (sum, product) = short.split_at_mut(width);
        let four = input.len() / (4 * width) * 4 * width;
        for (input, grad) in input[..four].chunks_exact(4 * width).zip(grad[..four].chunks_exact(4 * width)) {
            let (a, b) = input.split_at(2 * width);
            let ((a, b), (c, d)) = (a.split_at(width), b.split_at(width));
            let (e, f) = grad.split_at(2 * width);
            let ((e, f), (g, h)) = (e.split_at(width), f.split_at(width));
            for lane in 0..width {
                let (x, y) = (a[lane] * inverse[lane] + offset[lane], b[lane] * inverse[lane] + offset[lane]);
                let (z, w) = (c[lane] * inverse[lane] + offset[lane], d[lane] * inverse[lane] + offset[lane]);
                let e = masked::<FUSED>(mask, a[lane], e[lane], lane);
                let f = masked::<FUSED>(mask, b[lane], f[lane], lane);
                let g = masked::<FUSED>(mask, c[lane], g[lane], lane);
                let h = masked::<FUSED>(mask, d[lane], h[lane], lane);
                sum[lane] += (e + f) + (g + h);
                let first = multiply_add::<FUSED>(e, x, f * y);
                product[lane] += first + multiply_add::<FUSED>(g, z, h * w);
            }
        }
        for (input, grad) in input[four..].chunks(width).zip(grad[four..].chunks(width)) {
            for (lane, (input, grad)) in input.iter().zip(grad).enumerate() {
                let grad = masked::<FUSED>(mask, *input, *grad, lane);
                sum[lane] += grad;
                product[lane] += grad * (input * inverse[lane] + offset[lane]);
            }
        }
        flush(&mut short, sums);
    }
}

#[inline(always)]
fn apply_body<const FUSED: bool, const LANES: usize>(input: &[f32], mask: Mask, out: &mut [MaybeUninit<f32>]) {
    let width = mask.scale.len();
    let least = if mask.relu { 0.0 } else { f32::NEG_INFINITY };
    for (out, input) in out.chunks_mut(width).zip(input.chunks(width)) {
        for (((out, input), scale), shift) in out.iter_mut().zip(input).zip(mask.scale).zip(mask.shift) {
            let value = multiply_add::<FUSED>(*input, *scale, *shift);
            out.write(if value < least { least } else { value });
        }
    }
}

#[inline(always)]
fn input_gradient_body<const FUSED: bool, const LANES: usize>(
    gradient: &InputGradient,
    input: &[f32],
    grad: &[f32],
    out: &mut [MaybeUninit<f32>],
) {
    let (mask, slopes, constants) = (gradient.affine.mask(), &gradient.slopes[..], &gradient.constants[..]);
    let width = slopes.len();
    let (mask, constants) = (mask.of_width(width), &constants[..width]);
    for (out, (input, grad)) in out.chunks_mut(width).zip(input.chunks(width).zip(grad.chunks(width))) {
        let len = out.len().min(width);
        let (out, input, grad) = (&mut out[..len], &input[..len], &grad[..len]);
        for lane in 0..len {
            let passed = masked::<FUSED>(mask, input[lane], grad[lane], lane);
            let centred = multiply_add::<FUSED>(input[lane], slopes[lane], constants[lane]);
            out[lane].write(multiply_add::<FUSED>(passed, mask.scale[lane], centred));
        }
    }
}

/// The gradient where the ReLU let the value through, else zero; computed as the forward pass computed the value.
#[inline(always)]
fn masked<const FUSED: bool>(mask: Mask, input: f32, grad: f32, lane: usize) -> f32 {
    let value = multiply_add::<FUSED>(input, mask.scale[lane], mask.shift[lane]);
    if !mask.relu || value > 0.0 { grad } else { 0.0 }
}

/// Moves single-precision sums of a few pixels to the long ones.
#[inline(always)]
fn flush(short: &mut [f32], sums: &mut [f64]) {
    for (sum, short) in sums.iter_mut().zip(short.iter_mut()) {
        *sum += f64::from(*short);
        *short = 0.0;
    }
}

/// Wide pixels summed in single precision before they are added to a double.
const PIXELS_IN_SINGLE: usize = 128;
/// Values that a wide pixel has at least.
const MIN_WIDTH: usize = 48;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{assert_near, noise};

    #[test]
    fn all_instruction_sets_agree() {
        for channels in [1, 3, 40, 51] {
            let (input, grad) = (noise(channels * 301, 1), noise(channels * 301, 2));
            let (scale, shift) = (noise(channels, 3), noise(channels, 4));
            let norm = Norm { scale: &scale, shift: &shift, epsilon: 1e-5, relu: false };
            let run = |isa| {
                let BatchNorm { output, mean, variance } = forward_on(isa, &norm, &input);
                let (grad, gradients) = backward_on(isa, &norm, &input, &mean, &variance, &grad);
                [output, mean, variance, grad, gradients.scale, gradients.shift]
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
