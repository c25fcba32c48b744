//! Integer convolution over byte planes, a few output rows at a time.
//!
//! A plane holds `q - qmin`, an unsigned byte on every grid. So the products are of unsigned with signed bytes, of which
//! processors add four at once, and what the shift by `qmin` adds to a sum is the same for every pixel, padding
//! included: it is part of the packed bias.

use std::borrow::Cow;
use std::ops::Range;

use crate::grid::ActivationGrid;
use crate::model::IntegerConv;
use crate::plane::{Plane, PlaneElement};
use crate::simd::{ByteRange, InstructionSet, Simd, SimdLoop, Tile};

/// A convolution with its weights in the order in which the loops read them.
pub(crate) struct PackedConv {
    kernel: usize,
    stride: usize,
    padding: usize,
    dilation: usize,
    is_depthwise: bool,
    /// Sixteen quads each. Dense: `[output block][depth / 4]`, the depth being `[kernel, kernel, padded inputs]`, or the
    /// inputs alone for a single tap. Depthwise: `[block][tap row / 4][tap column]`.
    taps: Vec<[i8; 64]>,
    /// Padded to whole vectors, like `scale`; what `qmin` of the input adds is taken off.
    bias: Vec<i32>,
    /// `mantissa * 2^-shift`, exact.
    scale: Vec<f32>,
    finish: Requantization,
    /// The stored byte of 0.
    zero: u8,
}

/// How sums become stored values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Requantization {
    /// Whether [`Simd::requantize`] is exact for every sum that can occur.
    pub floats_are_exact: bool,
    pub range: ByteRange,
    /// Ends of the output's grid, or the activation's where they are nearer.
    pub clamp: (f64, f64),
}

impl PackedConv {
    pub(crate) fn new(conv: &IntegerConv, input: ActivationGrid, output: ActivationGrid) -> Self {
        let shape = conv.shape();
        let out_stride = shape.out_channels.next_multiple_of(LANES);
        let in_stride = shape.in_channels.next_multiple_of(LANES);
        let n_taps = shape.kernel * shape.kernel;
        let (in_group, out_group) = (shape.in_channels / shape.groups, shape.out_channels / shape.groups);
        let is_depthwise = shape.is_depthwise();
        let tap_rows = shape.kernel.div_ceil(4);
        let quads_per_block = match (is_depthwise, n_taps) {
            (true, _) => tap_rows * shape.kernel,
            (false, 1) => shape.in_channels.div_ceil(4),
            (false, _) => n_taps * in_stride / 4,
        };
        let mut taps = vec![[0; 64]; quads_per_block * out_stride / LANES];
        for (idx, &weight) in conv.weights().iter().enumerate() {
            let (tap, in_idx, out) = (idx % n_taps, idx / n_taps % in_group, idx / n_taps / in_group);
            let (quad, part) = if is_depthwise {
                let (row, column) = (tap / shape.kernel, tap % shape.kernel);
                (row / 4 * shape.kernel + column, row % 4)
            } else {
                let depth = tap * in_stride + out / out_group * in_group + in_idx;
                (depth / 4, depth % 4)
            };
            taps[out / LANES * quads_per_block + quad][out % LANES * 4 + part] = weight;
        }
        // Modulo 2^32, like the sums: the whole sum is in range.
        let sums = conv.weights().chunks_exact(shape.weights_per_channel());
        let shifted = sums.zip(conv.bias()).map(|(weights, bias)| {
            let sum: i32 = weights.iter().map(|&weight| i32::from(weight)).sum();
            bias.wrapping_add(sum.wrapping_mul(input.qmin()))
        });
        let mut bias: Vec<i32> = shifted.collect();
        bias.resize(out_stride, 0);
        let rescale = conv.rescale(input, output);
        let mut scale: Vec<f32> =
            rescale.iter().map(|&(m, shift)| (f64::from(m) * f64::from(-shift).exp2()) as f32).collect();
        let floats_are_exact =
            conv.worst_accumulators(input).zip(&scale).all(|(sum, &scale)| rounds_exactly(sum, scale, output));
        scale.resize(out_stride, 0.0);
        let [low, high] = output.range_after(conv.activation());
        let finish = Requantization {
            floats_are_exact,
            range: ByteRange { offset: -output.qmin(), low: low - output.qmin(), high: high - output.qmin() },
            clamp: (f64::from(low), f64::from(high)),
        };
        Self {
            kernel: shape.kernel,
            stride: shape.stride,
            padding: shape.padding,
            dilation: shape.dilation,
            is_depthwise,
            taps,
            bias,
            scale,
            finish,
            zero: -input.qmin() as u8,
        }
    }

    /// Products of bytes that one stored value of the output takes.
    pub(crate) fn products_per_output(&self) -> usize {
        4 * self.taps.len() * LANES / self.bias.len()
    }

    /// Fills rows `rows` of the output: `[rows, width, padded channels]`.
    pub(crate) fn run_rows<T: PlaneElement>(
        &self,
        isa: InstructionSet,
        input: &Plane<u8>,
        rows: Range<usize>,
        width: usize,
        output: &mut [T],
    ) {
        isa.run(ConvRows { conv: self, input, rows, width, output });
    }

    /// Row `at + tap * dilation - padding` of the input of output row `at`, unless it is padding.
    #[inline(always)]
    fn source(&self, at: usize, tap: usize, len: usize) -> Option<usize> {
        (at * self.stride + tap * self.dilation).checked_sub(self.padding).filter(|&source| source < len)
    }

    /// What each pixel of output row `y` reads: `[pixel][tap][padded input channels]`.
    fn patches<'a>(&self, input: &'a Plane<u8>, rows: Range<usize>, width: usize) -> Cow<'a, [u8]> {
        let stride = input.stride;
        if self.kernel == 1 && self.stride == 1 && self.padding == 0 {
            return Cow::Borrowed(&input.values[rows.start * width * stride..rows.end * width * stride]);
        }
        let tap_row = self.kernel * stride;
        let mut patches = vec![self.zero; rows.len() * width * self.kernel * tap_row];
        for (idx, patch) in patches.chunks_exact_mut(tap_row).enumerate() {
            let (tap, at) = (idx % self.kernel, idx / self.kernel);
            let (y, x) = (rows.start + at / width, at % width);
            let Some(row) = self.source(y, tap, input.height) else { continue };
            let first = (x * self.stride).wrapping_sub(self.padding);
            if self.dilation == 1 && first < input.width && first + self.kernel <= input.width {
                let at = (row * input.width + first) * stride;
                patch.copy_from_slice(&input.values[at..at + tap_row]);
                continue;
            }
            for (tap, patch) in patch.chunks_exact_mut(stride).enumerate() {
                if let Some(column) = self.source(x, tap, input.width) {
                    patch.copy_from_slice(input.pixel(row, column));
                }
            }
        }
        Cow::Owned(patches)
    }
}

/// Whether `sum * scale` rounds as [`Simd::requantize`] does it, for sums up to `worst` in absolute value.
///
/// The product must stay where floats have steps of 1 after the addition. The sum must be a float, or so large that the
/// product, even of the sum rounded to a float, is beyond the ends of the grid, where it is cut off.
fn rounds_exactly(worst: i64, scale: f32, output: ActivationGrid) -> bool {
    let (worst, scale) = (worst as f64, f64::from(scale));
    let (floats, beyond) = (f64::from(1 << 24), 2.0 * (f64::from(output.qmax() - output.qmin()) + 1.0));
    worst * scale < f64::from(1 << 21) && (worst <= floats || floats * scale > beyond)
}

struct ConvRows<'a, T> {
    conv: &'a PackedConv,
    input: &'a Plane<u8>,
    rows: Range<usize>,
    width: usize,
    output: &'a mut [T],
}

impl<T: PlaneElement> SimdLoop for ConvRows<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        if self.conv.is_depthwise {
            self.depthwise(simd);
        } else {
            self.dense(simd);
        }
    }
}

impl<T: PlaneElement> ConvRows<'_, T> {
    #[inline(always)]
    fn depthwise<S: Simd>(self, simd: S) {
        let ConvRows { conv, input, rows, width, output } = self;
        let stride = input.stride;
        let quads_per_block = conv.taps.len() * LANES / stride;
        let (padding, finish) = ([conv.zero; LANES], conv.finish);
        let n_columns = input.width + 2 * conv.padding;
        let n_tap_rows = conv.kernel.div_ceil(4);
        let mut columns = vec![simd.splat([conv.zero; 4]); n_tap_rows * n_columns];
        for (y, output) in rows.zip(output.chunks_exact_mut(width * stride)) {
            for (block, taps) in conv.taps.chunks_exact(quads_per_block).enumerate() {
                let at = block * LANES;
                // Each column of the taps' rows once, as quads.
                for (tap_row, columns) in columns.chunks_exact_mut(n_columns).enumerate() {
                    let row = |part: usize| {
                        let tap = 4 * tap_row + part;
                        let row = conv.source(y, tap, input.height).filter(|_| tap < conv.kernel)?;
                        let repeat = input.log2_upsampling;
                        let stored = (input.width >> repeat) * stride;
                        Some(&input.values[(row >> repeat) * stored..][..stored])
                    };
                    let rows: [Option<&[u8]>; 4] = std::array::from_fn(row);
                    let columns = &mut columns[conv.padding..conv.padding + input.width];
                    for (idx, columns) in columns.chunks_exact_mut(1 << input.log2_upsampling).enumerate() {
                        let quads = simd.interleave(rows.map(|row| match row {
                            Some(row) => lanes(row, idx * stride + at),
                            None => &padding,
                        }));
                        columns.fill(quads);
                    }
                }
                let sums = |x: usize, sums: S::Sums, taps: &[[i8; 64]], columns: &[S::Quads]| {
                    let taps = taps.iter().enumerate();
                    taps.fold(sums, |sums, (tap, taps)| {
                        simd.dot(sums, columns[x * conv.stride + tap * conv.dilation], simd.taps(taps))
                    })
                };
                let (bias, scale) = (simd.sums(lanes(&conv.bias, at)), lanes(&conv.scale, at));
                for (x, output) in output.chunks_exact_mut(stride).enumerate() {
                    let total = match <&[[i8; 64]; 3]>::try_from(taps) {
                        // The common case on its own keeps the taps in registers.
                        Ok(taps) => sums(x, bias, taps, &columns),
                        Err(_) => taps
                            .chunks_exact(conv.kernel)
                            .zip(columns.chunks_exact(n_columns))
                            .fold(bias, |total, (taps, columns)| sums(x, total, taps, columns)),
                    };
                    output[at..at + LANES].copy_from_slice(&T::requantize(simd, total, scale, finish));
                }
            }
        }
    }

    #[inline(always)]
    fn dense<S: Simd>(self, simd: S) {
        let ConvRows { conv, input, rows, width, output } = self;
        let depth = conv.kernel * conv.kernel * input.stride;
        let rows_per_panel = (PANEL / (width * depth)).max(1);
        let mut outputs = output.chunks_mut(rows_per_panel * width * conv.bias.len());
        for start in rows.clone().step_by(rows_per_panel) {
            let panel = start..rows.end.min(start + rows_per_panel);
            let patches = conv.patches(input, panel, width);
            let output = outputs.next().expect("as many panels of the output as of the input");
            product(simd, conv, &patches, depth, output);
        }
    }
}

/// `[pixels, depth]` times weights to `[pixels, padded outputs]`.
#[inline(always)]
fn product<S: Simd, T: PlaneElement>(simd: S, conv: &PackedConv, pixels: &[u8], depth: usize, output: &mut [T]) {
    let n_blocks = conv.bias.len() / LANES;
    let most = match S::TILE {
        Tile::Large => 4,
        Tile::Small => 1,
    };
    let n_groups = n_blocks.div_ceil(most);
    for group in 0..n_groups {
        // Groups of blocks as equal as can be.
        let blocks = group * n_blocks / n_groups..(group + 1) * n_blocks / n_groups;
        match (S::TILE, blocks.len()) {
            (Tile::Small, _) => tiles::<S, T, 2, 1>(simd, conv, blocks.start, pixels, depth, output),
            (Tile::Large, 1) => tiles::<S, T, 12, 1>(simd, conv, blocks.start, pixels, depth, output),
            (Tile::Large, 2) => tiles::<S, T, 8, 2>(simd, conv, blocks.start, pixels, depth, output),
            (Tile::Large, 3) => tiles::<S, T, 6, 3>(simd, conv, blocks.start, pixels, depth, output),
            (Tile::Large, _) => tiles::<S, T, 4, 4>(simd, conv, blocks.start, pixels, depth, output),
        }
    }
}

#[inline(always)]
fn tiles<S: Simd, T: PlaneElement, const PIXELS: usize, const BLOCKS: usize>(
    simd: S,
    conv: &PackedConv,
    block: usize,
    pixels: &[u8],
    depth: usize,
    output: &mut [T],
) {
    let n_pixels = pixels.len() / depth;
    if n_pixels < PIXELS {
        (0..n_pixels).for_each(|pixel| tile::<S, T, 1, BLOCKS>(simd, conv, block, pixels, depth, pixel, output));
        return;
    }
    for first in (0..n_pixels).step_by(PIXELS) {
        // The last tile may compute some pixels a second time.
        let first = first.min(n_pixels - PIXELS);
        tile::<S, T, PIXELS, BLOCKS>(simd, conv, block, pixels, depth, first, output);
    }
}

#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "loops of constant length, which are unrolled")]
fn tile<S: Simd, T: PlaneElement, const PIXELS: usize, const BLOCKS: usize>(
    simd: S,
    conv: &PackedConv,
    block: usize,
    pixels: &[u8],
    depth: usize,
    first: usize,
    output: &mut [T],
) {
    let stride = conv.bias.len();
    let n_quads = conv.taps.len() * LANES / stride;
    let taps: [&[[i8; 64]]; BLOCKS] = std::array::from_fn(|idx| &conv.taps[(block + idx) * n_quads..][..n_quads]);
    let quads: [&[[u8; 4]]; PIXELS] =
        std::array::from_fn(|idx| &pixels[(first + idx) * depth..][..4 * n_quads].as_chunks::<4>().0[..n_quads]);
    // Loops in place of `from_fn`, whose closure may stay a function that is compiled for no instruction set.
    let mut bias = [simd.sums(lanes(&conv.bias, block * LANES)); BLOCKS];
    for idx in 1..BLOCKS {
        bias[idx] = simd.sums(lanes(&conv.bias, (block + idx) * LANES));
    }
    let mut sums = [bias; PIXELS];
    for at in 0..n_quads {
        let mut taps_here = [simd.taps(&taps[0][at]); BLOCKS];
        for idx in 1..BLOCKS {
            taps_here[idx] = simd.taps(&taps[idx][at]);
        }
        for pixel in 0..PIXELS {
            let quad = simd.splat(quads[pixel][at]);
            for idx in 0..BLOCKS {
                sums[pixel][idx] = simd.dot(sums[pixel][idx], quad, taps_here[idx]);
            }
        }
    }
    let finish = conv.finish;
    for idx in 0..BLOCKS {
        let at = (block + idx) * LANES;
        let scale = lanes(&conv.scale, at);
        for pixel in 0..PIXELS {
            let output = &mut output[(first + pixel) * stride + at..][..LANES];
            output.copy_from_slice(&T::requantize(simd, sums[pixel][idx], scale, finish));
        }
    }
}

#[inline(always)]
fn lanes<T>(values: &[T], at: usize) -> &[T; LANES] {
    values[at..at + LANES].as_array().expect("as many as asked for")
}

/// Channels that are worked on together.
pub(crate) const LANES: usize = 16;
/// Bytes of patches that are gathered at a time, to be read again for each block of outputs.
const PANEL: usize = 1 << 16;
