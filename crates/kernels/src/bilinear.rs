//! 2x bilinear upsampling with half-pixel centres, and its gradient.
//!
//! Along each axis an output pixel lies a quarter of a pixel off the centre of its input pixel, towards one neighbour. So it
//! is 3/4 of that pixel and 1/4 of the neighbour; beyond the border, the border's pixel:
//!
//! ```text
//! input        |     a     |     b     |     c     |
//! output       |  0  |  1  |  2  |  3  |  4  |  5  |       2 = 3/4 b + 1/4 a,  3 = 3/4 b + 1/4 c
//! ```
//!
//! The gradient of `b` reads the four outputs that read `b`, here 1 to 4, with weights 1/4, 3/4, 3/4, 1/4.
//!
//! # Source
//! PyTorch's `interpolate(scale_factor=2, mode="bilinear", align_corners=False)`; ONNX `Resize`, `linear`, `half_pixel`.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::buffer::filled;
use crate::instruction_set::{InstructionSet, for_each_instruction_set, multiply_add};
use crate::lanes::{lane_blocks, load_lanes};
use crate::pixelwise::MapShape;
use crate::tiling::{TASKS_PER_THREAD, chunk_len};

/// 2x bilinear upsampling of a feature map of the shape `small`: `[batch, 2 * height, 2 * width, channels]`.
///
/// # Panics
/// If the input has not the length of `small`.
pub fn upsample_2x(small: &MapShape, input: &[f32]) -> Vec<f32> {
    upsample_on(InstructionSet::detect(), small, input)
}

/// Gradient of the input of [`upsample_2x`], of the shape `small`, from that of its output.
///
/// # Panics
/// If the gradient has not four times the length of `small`.
pub fn upsample_2x_backward(small: &MapShape, grad_output: &[f32]) -> Vec<f32> {
    backward_on(InstructionSet::detect(), small, grad_output)
}

fn upsample_on(isa: InstructionSet, small: &MapShape, input: &[f32]) -> Vec<f32> {
    assert_eq!(input.len(), small.len(), "bilinear: input, {small:?}");
    let row_len = small.width * small.channels;
    let rows = chunk_len(2 * small.batch * small.height, TASKS_PER_THREAD, 1);
    let run = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_mut(rows * 2 * row_len).enumerate().for_each(|(chunk, out)| {
            for (row, out) in (chunk * rows..).zip(out.chunks_exact_mut(2 * row_len)) {
                let (image, y) = (row / (2 * small.height), row % (2 * small.height));
                write_row(isa, small, &input[image * small.height * row_len..], y, out);
            }
        });
    };
    // SAFETY: the chunks cover the output's rows, and `write_row` writes all of each.
    unsafe { filled(4 * small.len(), run) }
}

fn backward_on(isa: InstructionSet, small: &MapShape, grad_output: &[f32]) -> Vec<f32> {
    assert_eq!(grad_output.len(), 4 * small.len(), "bilinear: output gradient, {small:?}");
    let row_len = small.width * small.channels;
    let rows = chunk_len(small.batch * small.height, TASKS_PER_THREAD, 1);
    let run = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_mut(rows * row_len).enumerate().for_each(|(chunk, out)| {
            for (row, out) in (chunk * rows..).zip(out.chunks_exact_mut(row_len)) {
                let (image, y) = (row / small.height, row % small.height);
                let grads = &grad_output[image * 4 * small.height * row_len..];
                let rows = rows_that_read(small, y).map(|y| &grads[y * 2 * row_len..][..2 * row_len]);
                write_gradient_row(isa, small, rows, out);
            }
        });
    };
    // SAFETY: the chunks cover the gradient's rows, and `write_gradient_row` writes all of each.
    unsafe { filled(small.len(), run) }
}

/// Writes row `y` of the upsampled map of an image that starts at the first value of `image`.
pub(crate) fn write_row(isa: InstructionSet, small: &MapShape, image: &[f32], y: usize, out: &mut [MaybeUninit<f32>]) {
    let row_len = small.width * small.channels;
    assert_eq!(out.len(), 2 * row_len, "bilinear: output row");
    let row = |y: usize| &image[y * row_len..][..row_len];
    let neighbour = if y.is_multiple_of(2) { (y / 2).saturating_sub(1) } else { (y / 2 + 1).min(small.height - 1) };
    output_row(isa, small.channels, row(y / 2), row(neighbour), out);
}

/// The rows of the upsampled map that read row `y` of the small one, ascending, with weights 1/4, 3/4, 3/4, 1/4; at a border,
/// the border's row twice.
pub(crate) fn rows_that_read(small: &MapShape, y: usize) -> [usize; 4] {
    [(2 * y).saturating_sub(1), 2 * y, 2 * y + 1, (2 * y + 2).min(2 * small.height - 1)]
}

/// Writes a row of the small map's gradient from those of the four rows in [`rows_that_read`].
pub(crate) fn write_gradient_row(
    isa: InstructionSet,
    small: &MapShape,
    rows: [&[f32]; 4],
    out: &mut [MaybeUninit<f32>],
) {
    let row_len = small.width * small.channels;
    assert!(rows.iter().all(|row| row.len() == 2 * row_len), "bilinear: gradient rows");
    assert_eq!(out.len(), row_len, "bilinear: row of the input's gradient");
    input_row(isa, small.channels, rows, out);
}

for_each_instruction_set! {
    fn output_row(
        channels: usize,
        near: &[f32],
        far: &[f32],
        out: &mut [MaybeUninit<f32>],
    ) = output_row_body
}

for_each_instruction_set! {
    fn input_row(channels: usize, rows: [&[f32]; 4], out: &mut [MaybeUninit<f32>]) = input_row_body
}

#[inline(always)]
fn output_row_body<const FUSED: bool, const LANES: usize>(
    channels: usize,
    near: &[f32],
    far: &[f32],
    out: &mut [MaybeUninit<f32>],
) {
    if channels < LANES {
        for lane in 0..channels {
            write_output_lanes::<FUSED, 1>(channels, near, far, lane, out);
        }
        return;
    }
    for lane in lane_blocks::<LANES>(channels) {
        write_output_lanes::<FUSED, LANES>(channels, near, far, lane, out);
    }
}

/// Writes channels `lane..lane + LANES` of a row.
#[inline(always)]
fn write_output_lanes<const FUSED: bool, const LANES: usize>(
    channels: usize,
    near: &[f32],
    far: &[f32],
    lane: usize,
    out: &mut [MaybeUninit<f32>],
) {
    let column = |x: usize| {
        let start = x * channels + lane;
        interpolated::<FUSED, LANES>(load_lanes(near, start), load_lanes(far, start))
    };
    let last = near.len() / channels - 1;
    let mut here = column(0);
    let mut before = here;
    for x in 0..=last {
        let after = column((x + 1).min(last));
        let start = 2 * x * channels + lane;
        out[start..][..LANES].write_copy_of_slice(&interpolated::<FUSED, LANES>(&here, &before));
        out[start + channels..][..LANES].write_copy_of_slice(&interpolated::<FUSED, LANES>(&here, &after));
        before = here;
        here = after;
    }
}

#[inline(always)]
fn input_row_body<const FUSED: bool, const LANES: usize>(
    channels: usize,
    rows: [&[f32]; 4],
    out: &mut [MaybeUninit<f32>],
) {
    if channels < LANES {
        for lane in 0..channels {
            write_gradient_lanes::<FUSED, 1>(channels, rows, lane, out);
        }
        return;
    }
    for lane in lane_blocks::<LANES>(channels) {
        write_gradient_lanes::<FUSED, LANES>(channels, rows, lane, out);
    }
}

/// Writes channels `lane..lane + LANES` of a row of the small map's gradient.
#[inline(always)]
fn write_gradient_lanes<const FUSED: bool, const LANES: usize>(
    channels: usize,
    rows: [&[f32]; 4],
    lane: usize,
    out: &mut [MaybeUninit<f32>],
) {
    let column = |x: usize| {
        let start = x * channels + lane;
        weighted::<FUSED, LANES>(rows.map(|row| load_lanes(row, start)))
    };
    let width = out.len() / channels;
    let mut first = column(0);
    let mut before = first;
    for x in 0..width {
        let second = column(2 * x + 1);
        let after = if x + 1 < width { column(2 * x + 2) } else { second };
        let sum = weighted::<FUSED, LANES>([&before, &first, &second, &after]);
        out[x * channels + lane..][..LANES].write_copy_of_slice(&sum);
        (before, first) = (second, after);
    }
}

/// 3/4 of one value and 1/4 of the other.
#[inline(always)]
fn interpolated<const FUSED: bool, const LANES: usize>(near: &[f32; LANES], far: &[f32; LANES]) -> [f32; LANES] {
    let mut sums = [0.0; LANES];
    for lane in 0..LANES {
        sums[lane] = multiply_add::<FUSED>(near[lane], NEAR, far[lane] * FAR);
    }
    sums
}

/// 1/4, 3/4, 3/4 and 1/4 of four values.
#[inline(always)]
fn weighted<const FUSED: bool, const LANES: usize>([a, b, c, d]: [&[f32; LANES]; 4]) -> [f32; LANES] {
    let mut sums = [0.0; LANES];
    for lane in 0..LANES {
        sums[lane] = multiply_add::<FUSED>(b[lane] + c[lane], NEAR, (a[lane] + d[lane]) * FAR);
    }
    sums
}

/// Weight of the pixel that an output pixel lies in.
const NEAR: f32 = 0.75;
/// Weight of the neighbour.
const FAR: f32 = 0.25;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reference::{assert_near, noise};

    /// The pixels around `(position + 0.5) / 2 - 0.5`, which is not beyond the first and the last, and their weights.
    fn definition(position: usize, len: usize) -> [(usize, f64); 2] {
        let source = ((position as f64 + 0.5) / 2.0 - 0.5).clamp(0.0, (len - 1) as f64);
        let first = source.floor();
        let fraction = source - first;
        [(first as usize, 1.0 - fraction), ((first as usize + 1).min(len - 1), fraction)]
    }

    fn check(small: MapShape) {
        let MapShape { height, width, channels, .. } = small;
        let (input, grad) = (noise(small.len(), 1), noise(4 * small.len(), 2));
        let (mut output, mut grad_input) = (vec![0.0; grad.len()], vec![0.0; input.len()]);
        for (idx, grad) in grad.iter().enumerate() {
            let (pixel, channel) = (idx / channels, idx % channels);
            let (row, x) = (pixel / (2 * width), pixel % (2 * width));
            let (image, y) = (row / (2 * height), row % (2 * height));
            for (source_y, weight_y) in definition(y, height) {
                for (source_x, weight_x) in definition(x, width) {
                    let source = ((image * height + source_y) * width + source_x) * channels + channel;
                    output[idx] += weight_y * weight_x * f64::from(input[source]);
                    grad_input[source] += weight_y * weight_x * f64::from(*grad);
                }
            }
        }
        for isa in InstructionSet::available() {
            assert_near(&format!("{isa:?}, {small:?}"), &upsample_on(isa, &small, &input), &output);
            let name = format!("gradient, {isa:?}, {small:?}");
            assert_near(&name, &backward_on(isa, &small, &grad), &grad_input);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn output_and_gradient_follow_the_definition(
            (batch, height, width, channels) in (1usize..4, 1usize..9, 1usize..9, 1usize..40),
        ) {
            check(MapShape { batch, height, width, channels });
        }
    }

    #[test]
    fn a_single_pixel_and_whole_vectors_follow_the_definition() {
        for (batch, height, width, channels) in [(1, 1, 1, 1), (2, 1, 5, 16), (1, 7, 1, 32), (2, 3, 4, 80)] {
            check(MapShape { batch, height, width, channels });
        }
    }

    #[test]
    fn the_same_bits_on_any_number_of_threads() {
        let small = MapShape { batch: 2, height: 9, width: 7, channels: 33 };
        let (input, grad) = (noise(small.len(), 1), noise(4 * small.len(), 2));
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| (upsample_2x(&small, &input), upsample_2x_backward(&small, &grad)))
        };
        assert_eq!(on(1), on(3));
    }
}
