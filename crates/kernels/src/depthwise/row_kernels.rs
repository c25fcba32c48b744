//! The loops over one row: of the output, and of the products that the taps' gradients are summed from.
//!
//! `starts` says where each tap of the row's first pixel lies in `rows`, `[taps]`; the next pixel's are `width` further on.
//! 3x3 taps without dilation have loops of their own: neighbouring pixels share six of nine values, which stay in registers.

use std::mem::MaybeUninit;

use super::{DepthwiseKernel, RowLayout};
use crate::activation::Limits;
use crate::instruction_set::{for_each_instruction_set, multiply_add};
use crate::lanes::{lane_blocks, load_lanes};

for_each_instruction_set! {
    /// Writes an output row: all lanes of all pixels.
    pub(super) fn output_row(
        kernel: &DepthwiseKernel,
        rows: &[f32],
        starts: &[usize],
        out: &mut [MaybeUninit<f32>],
    ) = output_row_body
}

for_each_instruction_set! {
    /// Adds the gradients of the taps over a row to `sums`, `[taps, width of the layout]`.
    pub(super) fn weight_row(
        layout: &RowLayout,
        rows: &[f32],
        starts: &[usize],
        grads: &[f32],
        sums: &mut [f32],
    ) = weight_row_body
}

#[inline(always)]
fn output_row_body<const FUSED: bool, const LANES: usize>(
    kernel: &DepthwiseKernel,
    rows: &[f32],
    starts: &[usize],
    out: &mut [MaybeUninit<f32>],
) {
    let RowLayout { width, pixels } = kernel.layout;
    let row = OutputRow { rows, starts, weight: &kernel.weight, bias: &kernel.bias, width, limits: kernel.limits };
    if width < LANES {
        for lane in 0..width {
            row.write_pixels::<FUSED, 1, 1>(0, lane, out);
        }
        return;
    }
    if let Some(tap_rows) = neighbouring_3x3(starts, width) {
        for lane in lane_blocks::<LANES>(width) {
            row.write_3x3::<FUSED, LANES>(tap_rows, pixels, lane, out);
        }
        return;
    }
    for lane in lane_blocks::<LANES>(width) {
        let mut pixel = 0;
        while pixel + PIXELS_AT_ONCE <= pixels {
            row.write_pixels::<FUSED, LANES, PIXELS_AT_ONCE>(pixel, lane, out);
            pixel += PIXELS_AT_ONCE;
        }
        for pixel in pixel..pixels {
            row.write_pixels::<FUSED, LANES, 1>(pixel, lane, out);
        }
    }
}

/// What one output row is made of.
struct OutputRow<'a> {
    rows: &'a [f32],
    starts: &'a [usize],
    weight: &'a [f32],
    bias: &'a [f32],
    width: usize,
    limits: Limits,
}

impl OutputRow<'_> {
    /// Writes lanes `lane..lane + LANES` of the pixels `pixel..pixel + PIXELS`.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant indices keep the sums in registers")]
    fn write_pixels<const FUSED: bool, const LANES: usize, const PIXELS: usize>(
        &self,
        pixel: usize,
        lane: usize,
        out: &mut [MaybeUninit<f32>],
    ) {
        let start = pixel * self.width + lane;
        let mut sums = [*load_lanes::<LANES>(self.bias, lane); PIXELS];
        for (tap, tap_start) in self.starts.iter().enumerate() {
            let weight = load_lanes::<LANES>(self.weight, tap * self.width + lane);
            for idx in 0..PIXELS {
                let values = load_lanes::<LANES>(self.rows, tap_start + start + idx * self.width);
                for lane in 0..LANES {
                    sums[idx][lane] = multiply_add::<FUSED>(values[lane], weight[lane], sums[idx][lane]);
                }
            }
        }
        for idx in 0..PIXELS {
            self.store(sums[idx], start + idx * self.width, out);
        }
    }

    /// Writes lanes `lane..lane + LANES` of all pixels, of nine taps in three rows of neighbours.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "constant indices keep the values in registers")]
    fn write_3x3<const FUSED: bool, const LANES: usize>(
        &self,
        tap_rows: [usize; 3],
        pixels: usize,
        lane: usize,
        out: &mut [MaybeUninit<f32>],
    ) {
        let mut weight = [[0.0; LANES]; 9];
        for tap in 0..9 {
            weight[tap] = *load_lanes::<LANES>(self.weight, tap * self.width + lane);
        }
        let bias = *load_lanes::<LANES>(self.bias, lane);
        let mut pixel = 0;
        while pixel + PIXELS_AT_ONCE <= pixels {
            let start = pixel * self.width + lane;
            let mut sums = [bias; PIXELS_AT_ONCE];
            for row in 0..3 {
                let mut window = [[0.0; LANES]; PIXELS_AT_ONCE + 2];
                for idx in 0..PIXELS_AT_ONCE + 2 {
                    window[idx] = *load_lanes::<LANES>(self.rows, tap_rows[row] + start + idx * self.width);
                }
                for tap in 0..3 {
                    for idx in 0..PIXELS_AT_ONCE {
                        for lane in 0..LANES {
                            let (value, weight) = (window[idx + tap][lane], weight[3 * row + tap][lane]);
                            sums[idx][lane] = multiply_add::<FUSED>(value, weight, sums[idx][lane]);
                        }
                    }
                }
            }
            for idx in 0..PIXELS_AT_ONCE {
                self.store(sums[idx], start + idx * self.width, out);
            }
            pixel += PIXELS_AT_ONCE;
        }
        for pixel in pixel..pixels {
            self.write_pixels::<FUSED, LANES, 1>(pixel, lane, out);
        }
    }

    #[inline(always)]
    fn store<const LANES: usize>(&self, mut sum: [f32; LANES], start: usize, out: &mut [MaybeUninit<f32>]) {
        for value in &mut sum {
            *value = self.limits.clamp(*value);
        }
        out[start..][..LANES].write_copy_of_slice(&sum);
    }
}

/// Where the rows of three by three taps start, if the taps of each are neighbouring pixels.
#[inline(always)]
fn neighbouring_3x3(starts: &[usize], width: usize) -> Option<[usize; 3]> {
    let starts: &[usize; 9] = starts.try_into().ok()?;
    let rows = [starts[0], starts[3], starts[6]];
    let in_row = |row: usize| starts[3 * row + 1] == rows[row] + width && starts[3 * row + 2] == rows[row] + 2 * width;
    (in_row(0) && in_row(1) && in_row(2)).then_some(rows)
}

#[inline(always)]
fn weight_row_body<const FUSED: bool, const LANES: usize>(
    layout: &RowLayout,
    rows: &[f32],
    starts: &[usize],
    grads: &[f32],
    sums: &mut [f32],
) {
    if layout.width < LANES {
        for (tap, start) in starts.iter().enumerate() {
            for (lane, grad) in grads.iter().enumerate() {
                sums[tap * layout.width + lane] += grad * rows[start + lane];
            }
        }
        return;
    }
    let mut done = 0;
    for lane in lane_blocks::<LANES>(layout.width) {
        // The last block may go over lanes that an earlier one has summed.
        let new = done - lane..LANES;
        done = lane + LANES;
        let mut add = |tap: usize, sum: [f32; LANES]| {
            let sums = &mut sums[tap * layout.width + lane..][..LANES];
            sums[new.clone()].iter_mut().zip(&sum[new.clone()]).for_each(|(total, value)| *total += value);
        };
        if let Some(tap_rows) = neighbouring_3x3(starts, layout.width) {
            let sums = sums_3x3::<FUSED, LANES>(rows, tap_rows, grads, layout, lane);
            sums.into_iter().enumerate().for_each(|(tap, sum)| add(tap, sum));
            continue;
        }
        let (threes, rest) = starts.as_chunks::<3>();
        for (idx, starts) in threes.iter().enumerate() {
            let sums = tap_sums::<FUSED, LANES, 3>(rows, starts, grads, layout, lane);
            sums.into_iter().enumerate().for_each(|(tap, sum)| add(3 * idx + tap, sum));
        }
        for (idx, start) in rest.iter().enumerate() {
            let [sum] = tap_sums::<FUSED, LANES, 1>(rows, &[*start], grads, layout, lane);
            add(3 * threes.len() + idx, sum);
        }
    }
}

/// Sums over a row's pixels of gradient times input, for three rows of neighbouring taps.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "constant indices keep the sums in registers")]
fn sums_3x3<const FUSED: bool, const LANES: usize>(
    rows: &[f32],
    tap_rows: [usize; 3],
    grads: &[f32],
    layout: &RowLayout,
    lane: usize,
) -> [[f32; LANES]; 9] {
    let mut sums = [[0.0; LANES]; 9];
    // What the pixel's left and middle taps read; the right one's is the next pixel's middle.
    let mut window = [[[0.0; LANES]; 3]; 3];
    for row in 0..3 {
        window[row][0] = *load_lanes::<LANES>(rows, tap_rows[row] + lane);
        window[row][1] = *load_lanes::<LANES>(rows, tap_rows[row] + layout.width + lane);
    }
    for pixel in 0..layout.pixels {
        let start = pixel * layout.width + lane;
        let grad = *load_lanes::<LANES>(grads, start);
        for row in 0..3 {
            window[row][2] = *load_lanes::<LANES>(rows, tap_rows[row] + start + 2 * layout.width);
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

/// Sums over a row's pixels of gradient times input, for any taps.
#[inline(always)]
fn tap_sums<const FUSED: bool, const LANES: usize, const TAPS: usize>(
    rows: &[f32],
    starts: &[usize; TAPS],
    grads: &[f32],
    layout: &RowLayout,
    lane: usize,
) -> [[f32; LANES]; TAPS] {
    // Two sums per tap, so that an addition need not wait for the one before.
    let (mut even, mut odd) = ([[0.0; LANES]; TAPS], [[0.0; LANES]; TAPS]);
    for pair in 0..layout.pixels / 2 {
        let start = 2 * pair * layout.width + lane;
        add_pixel::<FUSED, LANES, TAPS>(&mut even, rows, starts, grads, start);
        add_pixel::<FUSED, LANES, TAPS>(&mut odd, rows, starts, grads, start + layout.width);
    }
    if layout.pixels % 2 == 1 {
        let start = (layout.pixels - 1) * layout.width + lane;
        add_pixel::<FUSED, LANES, TAPS>(&mut even, rows, starts, grads, start);
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
    rows: &[f32],
    starts: &[usize; TAPS],
    grads: &[f32],
    start: usize,
) {
    let grad = load_lanes::<LANES>(grads, start);
    for tap in 0..TAPS {
        let values = load_lanes::<LANES>(rows, starts[tap] + start);
        for lane in 0..LANES {
            sums[tap][lane] = multiply_add::<FUSED>(values[lane], grad[lane], sums[tap][lane]);
        }
    }
}

/// Pixels whose sums are in registers together.
const PIXELS_AT_ONCE: usize = 4;
