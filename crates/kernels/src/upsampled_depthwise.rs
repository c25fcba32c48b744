//! The 3x3 depthwise convolution of a map after 2x nearest upsampling, without the upsampled map.
//!
//! Upsampling repeats every pixel in a square of four. So nine taps read only two by two pixels of the small map, and taps
//! that fall on one pixel can be summed beforehand. Which ones do depends on the output pixel's phase, its coordinates
//! modulo two. In one dimension, with taps `t0 t1 t2` and small pixels `a b c`:
//!
//! ```text
//! upsampled        a  a  b  b  c  c
//! phase 0 of b        t0 t1 t2          t0 a + (t1 + t2) b
//! phase 1 of b           t0 t1 t2       (t0 + t1) b + t2 c
//! ```
//!
//! Four multiplications replace nine, in the forward pass and in both gradients.

use std::mem::MaybeUninit;

use crate::activation::{Activation, Limits};
use crate::depthwise::{DepthwiseShape, RowRing};
use crate::instruction_set::{InstructionSet, for_each_instruction_set, multiply_add};
use crate::lanes::{lane_blocks, load_lanes};

/// By phase of the output: the taps on the first and on the second of the two pixels that it reads.
const TAPS_BY_PHASE: [[&[usize]; 2]; 2] = [[&[0], &[1, 2]], [&[0, 1], &[2]]];
/// Taps through which four outputs read a small pixel: the one before its square, the two in it, and the one after.
const TAPS_BY_READER: [&[usize]; 4] = [&[2], &[1, 2], &[0, 1], &[0]];

/// The taps, summed for each phase, and the bias.
pub(crate) struct UpsampledKernel {
    /// `[phase y, phase x, row, column, channels]`, two of each but the channels.
    weight: Vec<f32>,
    bias: Vec<f32>,
    limits: Limits,
}

impl UpsampledKernel {
    /// `weight`: `[channels, 1, 3, 3]`
    pub(crate) fn new(channels: usize, weight: &[f32], bias: Option<&[f32]>, activation: Activation) -> Self {
        let phases = (0..4).map(|idx| (&TAPS_BY_PHASE[idx / 2], &TAPS_BY_PHASE[idx % 2]));
        let weight = phases.flat_map(|(rows, columns)| summed_taps(channels, weight, rows, columns)).collect();
        let bias = bias.map_or_else(|| vec![0.0; channels], <[f32]>::to_vec);
        assert_eq!(bias.len(), channels, "upsampled depthwise: bias");
        Self { weight, bias, limits: activation.limits() }
    }

    /// Writes the output row of `phase`, 0 or 1, over the small row that the ring was advanced to.
    pub(crate) fn write_row<'a>(
        &self,
        isa: InstructionSet,
        ring: &RowRing,
        phase: usize,
        out: &'a mut [MaybeUninit<f32>],
    ) -> &'a mut [f32] {
        let (values, rows) = two_rows(ring, phase);
        let channels = self.bias.len();
        assert!(out.len().is_multiple_of(2 * channels), "upsampled depthwise: output row");
        output_row(isa, &self.weight[phase * 8 * channels..][..8 * channels], self, values, rows, out);
        // SAFETY: the blocks of `output_row` cover all channels of all pixels of the row.
        unsafe { out.assume_init_mut() }
    }
}

/// The transposed convolution, from the gradient of the output to that of the small map: stride 2 and 4x4 taps, of which
/// each is a sum of the convolution's.
pub(crate) struct UpsampledTranspose {
    /// `[4, 4, channels]`
    weight: Vec<f32>,
    channels: usize,
}

impl UpsampledTranspose {
    pub(crate) fn new(channels: usize, weight: &[f32]) -> Self {
        Self { weight: summed_taps(channels, weight, &TAPS_BY_READER, &TAPS_BY_READER), channels }
    }

    /// The shape of the ring of gradients that [`UpsampledTranspose::write_row`] reads; for the small row `y` it is advanced to
    /// `2 * y`.
    pub(crate) fn ring_shape(output: &DepthwiseShape) -> DepthwiseShape {
        DepthwiseShape { kernel: 4, ..*output }
    }

    /// Writes a row of the small map's gradient, all of `out`.
    pub(crate) fn write_row(&self, isa: InstructionSet, ring: &RowRing, out: &mut [MaybeUninit<f32>]) {
        let (values, starts) = ring.taps();
        let rows = [starts[0], starts[4], starts[8], starts[12]];
        input_row(isa, &self.weight, self.channels, values, rows, out);
    }
}

/// Gradients of the summed taps.
pub(crate) struct UpsampledTapGradients {
    channels: usize,
    /// As [`UpsampledKernel`]'s weight.
    sums: Vec<f32>,
}

impl UpsampledTapGradients {
    pub(crate) fn new(channels: usize) -> Self {
        Self { channels, sums: vec![0.0; 16 * channels] }
    }

    /// Adds the products of the gradient of the output row of `phase` with what its taps read of the small map.
    pub(crate) fn add(&mut self, isa: InstructionSet, ring: &RowRing, phase: usize, grads: &[f32]) {
        let (values, rows) = two_rows(ring, phase);
        let len = 8 * self.channels;
        weight_row(isa, self.channels, values, rows, grads, &mut self.sums[phase * len..][..len]);
    }

    /// The gradient of the weight, `[channels, 1, 3, 3]`, from the sums of all tasks.
    pub(crate) fn total(channels: usize, tasks: &[Self]) -> Vec<f32> {
        let mut totals = vec![0.0f64; 9 * channels];
        for idx in 0..16 {
            let (taps_y, taps_x) = (TAPS_BY_PHASE[idx / 8][idx / 2 % 2], TAPS_BY_PHASE[idx / 4 % 2][idx % 2]);
            for tap in taps_y.iter().flat_map(|y| taps_x.iter().map(move |x| 3 * y + x)) {
                for task in tasks {
                    let sums = &task.sums[idx * channels..][..channels];
                    sums.iter().enumerate().for_each(|(channel, sum)| totals[9 * channel + tap] += f64::from(*sum));
                }
            }
        }
        totals.into_iter().map(|total| total as f32).collect()
    }
}

/// The two rows of the small map that an output row of `phase` reads.
fn two_rows<'a>(ring: &'a RowRing, phase: usize) -> (&'a [f32], [usize; 2]) {
    let (values, starts) = ring.taps();
    (values, [starts[3 * phase], starts[3 * (phase + 1)]])
}

/// Sums of the taps in each pair of `rows` and `columns`, `[rows, columns, channels]`.
fn summed_taps(channels: usize, weight: &[f32], rows: &[&[usize]], columns: &[&[usize]]) -> Vec<f32> {
    assert_eq!(weight.len(), 9 * channels, "upsampled depthwise: weight");
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
    fn output_row(
        weight: &[f32],
        kernel: &UpsampledKernel,
        values: &[f32],
        rows: [usize; 2],
        out: &mut [MaybeUninit<f32>],
    ) = output_row_body
}

for_each_instruction_set! {
    /// Adds the gradients over a row to `sums`, `[phase x, row, column, channels]`.
    fn weight_row(
        channels: usize,
        values: &[f32],
        rows: [usize; 2],
        grads: &[f32],
        sums: &mut [f32],
    ) = weight_row_body
}

for_each_instruction_set! {
    fn input_row(
        weight: &[f32],
        channels: usize,
        values: &[f32],
        rows: [usize; 4],
        out: &mut [MaybeUninit<f32>],
    ) = input_row_body
}

#[inline(always)]
fn output_row_body<const FUSED: bool, const LANES: usize>(
    weight: &[f32],
    kernel: &UpsampledKernel,
    values: &[f32],
    rows: [usize; 2],
    out: &mut [MaybeUninit<f32>],
) {
    let channels = kernel.bias.len();
    if channels < LANES {
        for lane in 0..channels {
            write_output_lanes::<FUSED, 1>(weight, kernel, values, rows, lane, out);
        }
        return;
    }
    for lane in lane_blocks::<LANES>(channels) {
        write_output_lanes::<FUSED, LANES>(weight, kernel, values, rows, lane, out);
    }
}

/// Writes channels `lane..lane + LANES` of a row.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "constant indices keep the values in registers")]
fn write_output_lanes<const FUSED: bool, const LANES: usize>(
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
        taps[tap] = *load_lanes::<LANES>(weight, tap * channels + lane);
    }
    let bias = *load_lanes::<LANES>(&kernel.bias, lane);
    let mut window = window::<LANES>(values, rows, channels, lane);
    for pixel in 0..out.len() / (2 * channels) {
        let mut sums = [bias; 2];
        for row in 0..2 {
            window[row][2] = *load_lanes::<LANES>(values, rows[row] + (pixel + 2) * channels + lane);
            for column in 0..2 {
                for phase in 0..2 {
                    for lane in 0..LANES {
                        let (value, tap) =
                            (window[row][phase + column][lane], taps[4 * phase + 2 * row + column][lane]);
                        sums[phase][lane] = multiply_add::<FUSED>(value, tap, sums[phase][lane]);
                    }
                }
            }
            window[row][0] = window[row][1];
            window[row][1] = window[row][2];
        }
        for phase in 0..2 {
            for value in &mut sums[phase] {
                *value = kernel.limits.clamp(*value);
            }
            out[(2 * pixel + phase) * channels + lane..][..LANES].write_copy_of_slice(&sums[phase]);
        }
    }
}

#[inline(always)]
fn weight_row_body<const FUSED: bool, const LANES: usize>(
    channels: usize,
    values: &[f32],
    rows: [usize; 2],
    grads: &[f32],
    sums: &mut [f32],
) {
    if channels < LANES {
        for lane in 0..channels {
            let row_sums = lane_sums::<FUSED, 1>(channels, values, rows, grads, lane);
            row_sums.iter().enumerate().for_each(|(tap, [sum])| sums[tap * channels + lane] += sum);
        }
        return;
    }
    let mut done = 0;
    for lane in lane_blocks::<LANES>(channels) {
        // The last block may go over lanes that an earlier one has summed.
        let new = done - lane..LANES;
        done = lane + LANES;
        let row_sums = lane_sums::<FUSED, LANES>(channels, values, rows, grads, lane);
        for (tap, row_sums) in row_sums.iter().enumerate() {
            let sums = &mut sums[tap * channels + lane..][..LANES];
            sums[new.clone()].iter_mut().zip(&row_sums[new.clone()]).for_each(|(sum, row_sum)| *sum += row_sum);
        }
    }
}

/// Sums over a row's pixels of gradient times input.
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
        let first = *load_lanes::<LANES>(grads, 2 * pixel * channels + lane);
        let second = *load_lanes::<LANES>(grads, (2 * pixel + 1) * channels + lane);
        let grads = [first, second];
        for row in 0..2 {
            window[row][2] = *load_lanes::<LANES>(values, rows[row] + (pixel + 2) * channels + lane);
            for column in 0..2 {
                for phase in 0..2 {
                    for lane in 0..LANES {
                        let (value, grad) = (window[row][phase + column][lane], grads[phase][lane]);
                        let sum = &mut sums[4 * phase + 2 * row + column][lane];
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
        window[row][0] = *load_lanes::<LANES>(values, rows[row] + lane);
        window[row][1] = *load_lanes::<LANES>(values, rows[row] + channels + lane);
    }
    window
}

#[inline(always)]
fn input_row_body<const FUSED: bool, const LANES: usize>(
    weight: &[f32],
    channels: usize,
    values: &[f32],
    rows: [usize; 4],
    out: &mut [MaybeUninit<f32>],
) {
    if channels < LANES {
        for lane in 0..channels {
            write_gradient_lanes::<FUSED, 1>(weight, channels, values, rows, lane, out);
        }
        return;
    }
    for lane in lane_blocks::<LANES>(channels) {
        write_gradient_lanes::<FUSED, LANES>(weight, channels, values, rows, lane, out);
    }
}

/// Writes channels `lane..lane + LANES` of a row of the small map's gradient.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "constant indices keep the values in registers")]
fn write_gradient_lanes<const FUSED: bool, const LANES: usize>(
    weight: &[f32],
    channels: usize,
    values: &[f32],
    rows: [usize; 4],
    lane: usize,
    out: &mut [MaybeUninit<f32>],
) {
    let mut taps = [[0.0; LANES]; 16];
    for tap in 0..16 {
        taps[tap] = *load_lanes::<LANES>(weight, tap * channels + lane);
    }
    for pixel in 0..out.len() / channels {
        // Two sums, so that an addition need not wait for the one before.
        let mut sums = [[0.0; LANES]; 2];
        for row in 0..4 {
            for column in 0..4 {
                let value = load_lanes::<LANES>(values, rows[row] + (2 * pixel + column) * channels + lane);
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
