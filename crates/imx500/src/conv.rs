//! Integer convolution, one output row at a time, written so that the compiler vectorises it.

use std::borrow::Cow;

use crate::grid::ActivationGrid;
use crate::model::Int8Conv;

/// A tensor in height, width, channel order; channels are padded with zeros to whole vectors.
#[derive(Debug, Clone)]
pub(crate) struct Plane {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    /// Distance of neighbouring pixels: `channels` rounded up to [`LANES`].
    pub stride: usize,
    pub values: Vec<i16>,
}

impl Plane {
    pub(crate) fn zeros([channels, height, width]: [usize; 3]) -> Self {
        let stride = channels.next_multiple_of(LANES);
        Self { channels, height, width, stride, values: vec![0; height * width * stride] }
    }

    fn row(&self, y: usize) -> &[i16] {
        &self.values[y * self.width * self.stride..(y + 1) * self.width * self.stride]
    }
}

/// A convolution with its weights in the order in which the loops read them.
pub(crate) struct PackedConv {
    kernel: usize,
    stride: usize,
    padding: usize,
    dilation: usize,
    weights: Weights,
    /// Padded to whole vectors, like `scale`.
    bias: Vec<i32>,
    /// `mantissa * 2^-shift`, exact.
    scale: Vec<f64>,
    /// Ends of the output's grid; ReLU raises the lower one to 0.
    clamp: (f64, f64),
    row: RowFn,
}

enum Weights {
    /// `[output block][tap][input channel][LANES output channels]`
    Dense(Vec<i16>),
    /// `[tap][channel]`
    Depthwise(Vec<i16>),
}

type RowFn = fn(&PackedConv, &Plane, usize, &mut [i16]);

impl PackedConv {
    pub(crate) fn new(conv: &Int8Conv, input: ActivationGrid, output: ActivationGrid) -> Self {
        let shape = conv.shape();
        let out_stride = shape.out_channels.next_multiple_of(LANES);
        let in_stride = shape.in_channels.next_multiple_of(LANES);
        let n_taps = shape.kernel * shape.kernel;
        let (in_group, out_group) = (shape.in_channels / shape.groups, shape.out_channels / shape.groups);
        let is_depthwise = in_group == 1 && out_group == 1;
        let mut packed = vec![0; if is_depthwise { n_taps * out_stride } else { n_taps * in_stride * out_stride }];
        for (idx, &weight) in conv.weights().iter().enumerate() {
            let (tap, in_idx, out) = (idx % n_taps, idx / n_taps % in_group, idx / n_taps / in_group);
            let at = if is_depthwise {
                tap * out_stride + out
            } else {
                let in_channel = out / out_group * in_group + in_idx;
                ((out / LANES * n_taps + tap) * in_stride + in_channel) * LANES + out % LANES
            };
            packed[at] = i16::from(weight);
        }
        let mut bias = conv.bias().to_vec();
        bias.resize(out_stride, 0);
        let rescale = conv.rescale(input, output);
        let mut scale: Vec<f64> = rescale.iter().map(|&(m, shift)| f64::from(m) * f64::from(-shift).exp2()).collect();
        scale.resize(out_stride, 0.0);
        let low = if conv.relu() { output.qmin().max(0) } else { output.qmin() };
        Self {
            kernel: shape.kernel,
            stride: shape.stride,
            padding: shape.padding,
            dilation: shape.dilation,
            weights: if is_depthwise { Weights::Depthwise(packed) } else { Weights::Dense(packed) },
            bias,
            scale,
            clamp: (f64::from(low), f64::from(output.qmax())),
            row: best_row(),
        }
    }

    /// Fills row `y` of the output: `[width, padded channels]`.
    pub(crate) fn run_row(&self, input: &Plane, y: usize, output: &mut [i16]) {
        (self.row)(self, input, y, output);
    }

    /// Row `y + tap * dilation - padding` of the input of output row `y`, unless it is padding.
    #[inline(always)]
    fn source(&self, at: usize, tap: usize, len: usize) -> Option<usize> {
        (at * self.stride + tap * self.dilation).checked_sub(self.padding).filter(|&source| source < len)
    }

    #[inline(always)]
    fn row_body(&self, input: &Plane, y: usize, output: &mut [i16]) {
        match &self.weights {
            Weights::Depthwise(weights) => self.depthwise_row(weights, input, y, output),
            Weights::Dense(weights) => self.dense_row(weights, input, y, output),
        }
    }

    #[inline(always)]
    fn depthwise_row(&self, weights: &[i16], input: &Plane, y: usize, output: &mut [i16]) {
        let stride = self.bias.len();
        for (x, pixel) in output.chunks_exact_mut(stride).enumerate() {
            for (block, out) in pixel.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                let at = block * LANES;
                let mut sums: [i32; LANES] = lanes(&self.bias, at);
                for tap_y in 0..self.kernel {
                    let Some(row) = self.source(y, tap_y, input.height) else { continue };
                    for tap_x in 0..self.kernel {
                        let Some(column) = self.source(x, tap_x, input.width) else { continue };
                        let values: [i16; LANES] = lanes(&input.values, (row * input.width + column) * stride + at);
                        let taps: [i16; LANES] = lanes(weights, (tap_y * self.kernel + tap_x) * stride + at);
                        for lane in 0..LANES {
                            sums[lane] += i32::from(values[lane]) * i32::from(taps[lane]);
                        }
                    }
                }
                *out = self.finish(sums, at);
            }
        }
    }

    #[inline(always)]
    fn dense_row(&self, weights: &[i16], input: &Plane, y: usize, output: &mut [i16]) {
        let patches = self.patches(input, y, output.len() / self.bias.len());
        let depth = self.kernel * self.kernel * input.stride;
        let out_stride = self.bias.len();
        let tiles = patches.chunks(PIXELS * depth).zip(output.chunks_mut(PIXELS * out_stride));
        for (patches, pixels) in tiles {
            for (block, weights) in weights.chunks_exact(depth * LANES).enumerate() {
                let at = block * LANES;
                let bias: [i32; LANES] = lanes(&self.bias, at);
                let mut sums = [bias; PIXELS];
                if patches.len() == PIXELS * depth {
                    let rows: [&[i16]; PIXELS] =
                        std::array::from_fn(|pixel| &patches[pixel * depth..(pixel + 1) * depth]);
                    multiply(&mut sums, rows, weights);
                } else {
                    for (sums, row) in sums.iter_mut().zip(patches.chunks_exact(depth)) {
                        multiply(std::array::from_mut(sums), [row], weights);
                    }
                }
                for (sums, pixel) in sums.iter().zip(pixels.chunks_exact_mut(out_stride)) {
                    pixel[at..at + LANES].copy_from_slice(&self.finish(*sums, at));
                }
            }
        }
    }

    /// What each pixel of output row `y` reads: `[pixel][tap][padded input channels]`.
    fn patches<'a>(&self, input: &'a Plane, y: usize, n_pixels: usize) -> Cow<'a, [i16]> {
        if self.kernel == 1 && self.stride == 1 && self.padding == 0 {
            return Cow::Borrowed(input.row(y));
        }
        let mut patches = vec![0; n_pixels * self.kernel * self.kernel * input.stride];
        for (idx, patch) in patches.chunks_exact_mut(input.stride).enumerate() {
            let (tap, x) = (idx % (self.kernel * self.kernel), idx / (self.kernel * self.kernel));
            let row = self.source(y, tap / self.kernel, input.height);
            let column = self.source(x, tap % self.kernel, input.width);
            if let (Some(row), Some(column)) = (row, column) {
                patch.copy_from_slice(&input.row(row)[column * input.stride..(column + 1) * input.stride]);
            }
        }
        Cow::Owned(patches)
    }

    /// Rescales, clamps and rounds. Exact: sums have 31 bits, mantissas 8, an `f64` 53.
    #[inline(always)]
    fn finish(&self, sums: [i32; LANES], at: usize) -> [i16; LANES] {
        let scale: [f64; LANES] = lanes(&self.scale, at);
        std::array::from_fn(|lane| round_clamped(f64::from(sums[lane]) * scale[lane], self.clamp))
    }
}

/// The integer nearest to `value` between the integers `low` and `high` of 16 bits, ties to even.
///
/// Adding `1.5 * 2^52` rounds half to even at the units and leaves the integer in the low bits; unlike
/// `f64::round_ties_even`, every processor does it without a function call.
#[inline(always)]
pub(crate) fn round_clamped(value: f64, (low, high): (f64, f64)) -> i16 {
    const ROUND: f64 = 6_755_399_441_055_744.0;
    (value.max(low).min(high) + ROUND).to_bits() as i16
}

/// `sums[pixel][lane] += rows[pixel][k] * weights[k][lane]` over all `k`.
#[inline(always)]
fn multiply<const N: usize>(sums: &mut [[i32; LANES]; N], rows: [&[i16]; N], weights: &[i16]) {
    let weights = weights.as_chunks::<LANES>().0;
    let rows = rows.map(|row| &row[..weights.len()]);
    let mut totals = *sums;
    for (k, taps) in weights.iter().enumerate() {
        for pixel in 0..N {
            let value = i32::from(rows[pixel][k]);
            for lane in 0..LANES {
                totals[pixel][lane] += value * i32::from(taps[lane]);
            }
        }
    }
    *sums = totals;
}

#[inline(always)]
fn lanes<T: Copy + Default>(values: &[T], at: usize) -> [T; LANES] {
    let mut lanes = [T::default(); LANES];
    lanes.copy_from_slice(&values[at..at + LANES]);
    lanes
}

fn row_portable(conv: &PackedConv, input: &Plane, y: usize, output: &mut [i16]) {
    conv.row_body(input, y, output);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn row_avx2(conv: &PackedConv, input: &Plane, y: usize, output: &mut [i16]) {
    conv.row_body(input, y, output);
}

/// The same code compiled for the widest vectors that this processor has; integers, so the results are the same.
fn best_row() -> RowFn {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, which is all that `row_avx2` asks for.
        return |conv, input, y, output| unsafe { row_avx2(conv, input, y, output) };
    }
    row_portable
}

/// Channels that are worked on together.
pub(crate) const LANES: usize = 16;
/// Pixels that share one read of the weights.
const PIXELS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_half_to_even_and_clamped() {
        for idx in -40_000..=40_000 {
            let value = f64::from(idx) / 8.0;
            let expected = value.round_ties_even().clamp(-300.0, 255.0);
            assert_eq!(f64::from(round_clamped(value, (-300.0, 255.0))), expected, "{value}");
        }
        assert_eq!(round_clamped(1e300, (-32768.0, 32767.0)), 32767);
        assert_eq!(round_clamped(-1e300, (-32768.0, 32767.0)), -32768);
    }
}
