//! The 3x3 depthwise convolution of a map that is upsampled by two first, without the upsampled map.
//!
//! Upsampled pixels are the same in squares of four, so the nine taps of an output pixel read two by two pixels of the
//! small map. The taps that fall on one pixel are summed first, for each of the four places in a square: 4 products
//! instead of 9, forward and for both gradients.

use std::mem::MaybeUninit;

use crate::depthwise::{DepthwiseShape, RowRing, array, blocks};
use crate::instruction_set::{InstructionSet, for_each_instruction_set, multiply_add};

/// Taps on the first and on the second of two pixels, for the output at the first and at the second place over a pixel.
const READ: [[&[usize]; 2]; 2] = [[&[0], &[1, 2]], [&[0, 1], &[2]]];
/// Taps through which four outputs read a pixel: the one before its two places, those, and the one behind.
const READERS: [&[usize]; 4] = [&[2], &[1, 2], &[0, 1], &[0]];

/// Summed taps and bias of the convolution.
pub(crate) struct UpsampledKernel {
    /// `[2 places, 2 places, 2 rows, 2 columns, channels]`
    weight: Vec<f32>,
    bias: Vec<f32>,
    least: f32,
}

impl UpsampledKernel {
    /// `weight`: `[channels, 1, 3, 3]`
    pub(crate) fn new(channels: usize, weight: &[f32], bias: Option<&[f32]>, relu: bool) -> Self {
        let places = (0..4).flat_map(|place| summed(channels, weight, &READ[place / 2], &READ[place % 2]));
        let bias = bias.map_or_else(|| vec![0.0; channels], <[f32]>::to_vec);
        assert_eq!(bias.len(), channels, "doubled depthwise: bias");
        Self { weight: places.collect(), bias, least: if relu { 0.0 } else { f32::NEG_INFINITY } }
    }

    /// Writes the output line at the first or second `place` over the small line that the ring was advanced to.
    pub(crate) fn write_line<'a>(
        &self,
        isa: InstructionSet,
        ring: &RowRing,
        place: usize,
        out: &'a mut [MaybeUninit<f32>],
    ) -> &'a mut [f32] {
        let (values, rows) = two_rows(ring, place);
        let channels = self.bias.len();
        assert!(out.len().is_multiple_of(2 * channels), "doubled depthwise: output line");
        output_line(isa, &self.weight[place * 8 * channels..][..8 * channels], self, values, rows, out);
        // SAFETY: the blocks of `output_line` cover all channels of all pixels of the line.
        unsafe { out.assume_init_mut() }
    }
}

/// The convolution of the output's gradient, a stride of two and 4x4 taps, that makes the small map's gradient.
pub(crate) struct UpsampledTranspose {
    /// `[16, channels]`
    weight: Vec<f32>,
    channels: usize,
}

impl UpsampledTranspose {
    pub(crate) fn new(channels: usize, weight: &[f32]) -> Self {
        Self { weight: summed(channels, weight, &READERS, &READERS), channels }
    }

    /// The ring of gradients from which a line is made; the small line `y` needs it advanced to `2 * y`.
    pub(crate) fn shape(output: &DepthwiseShape) -> DepthwiseShape {
        DepthwiseShape { kernel: 4, ..*output }
    }

    pub(crate) fn write_line(&self, isa: InstructionSet, ring: &RowRing, out: &mut [MaybeUninit<f32>]) {
        let (values, starts) = ring.taps();
        let rows = [starts[0], starts[4], starts[8], starts[12]];
        input_line(isa, &self.weight, self.channels, values, rows, out);
    }
}

/// Sums of the gradients of the summed taps.
pub(crate) struct UpsampledWeightSums {
    channels: usize,
    /// As [`UpsampledKernel`]'s weight.
    sums: Vec<f32>,
}

impl UpsampledWeightSums {
    pub(crate) fn new(channels: usize) -> Self {
        Self { channels, sums: vec![0.0; 16 * channels] }
    }

    /// Adds the products of an output line's gradient with what its taps read, as [`UpsampledKernel::write_line`] reads it.
    pub(crate) fn add(&mut self, isa: InstructionSet, ring: &RowRing, place: usize, grads: &[f32]) {
        let (values, rows) = two_rows(ring, place);
        let len = 8 * self.channels;
        weight_line(isa, self.channels, values, rows, grads, &mut self.sums[place * len..][..len]);
    }

    /// The gradient of the weight, `[channels, 1, 3, 3]`.
    pub(crate) fn total(channels: usize, parts: &[Self]) -> Vec<f32> {
        let mut totals = vec![0.0f64; 9 * channels];
        for idx in 0..16 {
            let (taps_y, taps_x) = (READ[idx / 8][idx / 2 % 2], READ[idx / 4 % 2][idx % 2]);
            for tap in taps_y.iter().flat_map(|y| taps_x.iter().map(move |x| 3 * y + x)) {
                for part in parts {
                    let sums = &part.sums[idx * channels..][..channels];
                    sums.iter().enumerate().for_each(|(channel, sum)| totals[9 * channel + tap] += f64::from(*sum));
                }
            }
        }
        totals.into_iter().map(|total| total as f32).collect()
    }
}

/// The two rows of a ring that an output line at the first or second `place` reads.
fn two_rows<'a>(ring: &'a RowRing, place: usize) -> (&'a [f32], [usize; 2]) {
    let (values, starts) = ring.taps();
    (values, [starts[3 * place], starts[3 * (place + 1)]])
}

/// Sums of a weight's taps on pixels, `[rows, columns, channels]`.
fn summed(channels: usize, weight: &[f32], rows: &[&[usize]], columns: &[&[usize]]) -> Vec<f32> {
    assert_eq!(weight.len(), 9 * channels, "doubled depthwise: weight");
    let pixels = rows.iter().flat_map(|row| columns.iter().map(move |column| (row, column)));
    let sums = pixels.flat_map(|(row, column)| {
        weight.chunks_exact(9).map(move |taps| {
            let taps = row.iter().flat_map(|y| column.iter().map(move |x| taps[3 * y + x]));
            taps.sum::<f32>()
        })
    });
    sums.collect()
}

for_each_instruction_set! {
    fn output_line(
        weight: &[f32],
        kernel: &UpsampledKernel,
        values: &[f32],
        rows: [usize; 2],
        out: &mut [MaybeUninit<f32>],
    ) = output_line_body
}

for_each_instruction_set! {
    /// Adds the gradients over a line to `sums`, `[2 places, 2 rows, 2 columns, channels]`.
    fn weight_line(
        channels: usize,
        values: &[f32],
        rows: [usize; 2],
        grads: &[f32],
        sums: &mut [f32],
    ) = weight_line_body
}

for_each_instruction_set! {
    fn input_line(
        weight: &[f32],
        channels: usize,
        values: &[f32],
        rows: [usize; 4],
        out: &mut [MaybeUninit<f32>],
    ) = input_line_body
}

#[inline(always)]
fn output_line_body<const FUSED: bool, const LANES: usize>(
    weight: &[f32],
    kernel: &UpsampledKernel,
    values: &[f32],
    rows: [usize; 2],
    out: &mut [MaybeUninit<f32>],
) {
    let channels = kernel.bias.len();
    if channels < LANES {
        for lane in 0..channels {
            write_lanes::<FUSED, 1>(weight, kernel, values, rows, lane, out);
        }
        return;
    }
    for lane in blocks::<LANES>(channels) {
        write_lanes::<FUSED, LANES>(weight, kernel, values, rows, lane, out);
    }
}

/// Writes channels `lane..lane + LANES` of a line.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "constant indices keep the values in registers")]
fn write_lanes<const FUSED: bool, const LANES: usize>(
    weight: &[f32],
    kernel: &UpsampledKernel,
    values: &[f32],
    rows: [usize; 2],
    lane: usize,
    out: &mut [MaybeUninit<f32>],
) {
    let channels = kernel.bias.len();
    let mut taps = [[0.0; LANES]; 8];
    for tap in 0..8 {
        taps[tap] = *array::<LANES>(weight, tap * channels + lane);
    }
    let bias = *array::<LANES>(&kernel.bias, lane);
    let mut window = window::<LANES>(values, rows, channels, lane);
    for pixel in 0..out.len() / (2 * channels) {
        let mut sums = [bias; 2];
        for row in 0..2 {
            window[row][2] = *array::<LANES>(values, rows[row] + (pixel + 2) * channels + lane);
            for column in 0..2 {
                for place in 0..2 {
                    for lane in 0..LANES {
                        let (value, tap) =
                            (window[row][place + column][lane], taps[4 * place + 2 * row + column][lane]);
                        sums[place][lane] = multiply_add::<FUSED>(value, tap, sums[place][lane]);
                    }
                }
            }
            window[row][0] = window[row][1];
            window[row][1] = window[row][2];
        }
        for place in 0..2 {
            for value in &mut sums[place] {
                *value = if *value < kernel.least { kernel.least } else { *value };
            }
            out[(2 * pixel + place) * channels + lane..][..LANES].write_copy_of_slice(&sums[place]);
        }
    }
}

#[inline(always)]
fn weight_line_body<const FUSED: bool, const LANES: usize>(
    channels: usize,
    values: &[f32],
    rows: [usize; 2],
    grads: &[f32],
    sums: &mut [f32],
) {
    if channels < LANES {
        for lane in 0..channels {
            let found = lane_sums::<FUSED, 1>(channels, values, rows, grads, lane);
            found.iter().enumerate().for_each(|(tap, [sum])| sums[tap * channels + lane] += sum);
        }
        return;
    }
    let mut done = 0;
    for lane in blocks::<LANES>(channels) {
        // The last block may go over lanes that an earlier one has summed.
        let new = done - lane..LANES;
        done = lane + LANES;
        let found = lane_sums::<FUSED, LANES>(channels, values, rows, grads, lane);
        for (tap, found) in found.iter().enumerate() {
            let sums = &mut sums[tap * channels + lane..][..LANES];
            sums[new.clone()].iter_mut().zip(&found[new.clone()]).for_each(|(sum, found)| *sum += found);
        }
    }
}

/// Sums over a line's pixels of gradient times input.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "constant indices keep the sums in registers")]
fn lane_sums<const FUSED: bool, const LANES: usize>(
    channels: usize,
    values: &[f32],
    rows: [usize; 2],
    grads: &[f32],
    lane: usize,
) -> [[f32; LANES]; 8] {
    let mut sums = [[0.0; LANES]; 8];
    let mut window = window::<LANES>(values, rows, channels, lane);
    for pixel in 0..grads.len() / (2 * channels) {
        let first = *array::<LANES>(grads, 2 * pixel * channels + lane);
        let second = *array::<LANES>(grads, (2 * pixel + 1) * channels + lane);
        let grads = [first, second];
        for row in 0..2 {
            window[row][2] = *array::<LANES>(values, rows[row] + (pixel + 2) * channels + lane);
            for column in 0..2 {
                for place in 0..2 {
                    for lane in 0..LANES {
                        let (value, grad) = (window[row][place + column][lane], grads[place][lane]);
                        let sum = &mut sums[4 * place + 2 * row + column][lane];
                        *sum = multiply_add::<FUSED>(value, grad, *sum);
                    }
                }
            }
            window[row][0] = window[row][1];
            window[row][1] = window[row][2];
        }
    }
    sums
}

/// What the first pixel's left and middle columns read of two rows.
#[inline(always)]
fn window<const LANES: usize>(
    values: &[f32],
    rows: [usize; 2],
    channels: usize,
    lane: usize,
) -> [[[f32; LANES]; 3]; 2] {
    let mut window = [[[0.0; LANES]; 3]; 2];
    for row in 0..2 {
        window[row][0] = *array::<LANES>(values, rows[row] + lane);
        window[row][1] = *array::<LANES>(values, rows[row] + channels + lane);
    }
    window
}

#[inline(always)]
fn input_line_body<const FUSED: bool, const LANES: usize>(
    weight: &[f32],
    channels: usize,
    values: &[f32],
    rows: [usize; 4],
    out: &mut [MaybeUninit<f32>],
) {
    if channels < LANES {
        for lane in 0..channels {
            read_lanes::<FUSED, 1>(weight, channels, values, rows, lane, out);
        }
        return;
    }
    for lane in blocks::<LANES>(channels) {
        read_lanes::<FUSED, LANES>(weight, channels, values, rows, lane, out);
    }
}

/// Writes channels `lane..lane + LANES` of a line of the small map's gradient.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "constant indices keep the values in registers")]
fn read_lanes<const FUSED: bool, const LANES: usize>(
    weight: &[f32],
    channels: usize,
    values: &[f32],
    rows: [usize; 4],
    lane: usize,
    out: &mut [MaybeUninit<f32>],
) {
    let mut taps = [[0.0; LANES]; 16];
    for tap in 0..16 {
        taps[tap] = *array::<LANES>(weight, tap * channels + lane);
    }
    for pixel in 0..out.len() / channels {
        // Two sums, so that an addition need not wait for the one before.
        let mut sums = [[0.0; LANES]; 2];
        for row in 0..4 {
            for column in 0..4 {
                let value = array::<LANES>(values, rows[row] + (2 * pixel + column) * channels + lane);
                for lane in 0..LANES {
                    let sum = sums[row / 2][lane];
                    sums[row / 2][lane] = multiply_add::<FUSED>(value[lane], taps[4 * row + column][lane], sum);
                }
            }
        }
        let mut sum = sums[0];
        for lane in 0..LANES {
            sum[lane] += sums[1][lane];
        }
        out[pixel * channels + lane..][..LANES].write_copy_of_slice(&sum);
    }
}
