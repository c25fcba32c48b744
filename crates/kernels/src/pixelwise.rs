//! Operators without weights: 2x nearest upsampling, sums, ReLU, sigmoid, pooling, channel gates, and the change of layout.
//!
//! All are bound by memory: each reads its inputs once and writes its output once.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::activation::Activation;
use crate::buffer::filled;
use crate::instruction_set::InstructionSet;
use crate::linear::Then;
use crate::tiling::{TASKS_PER_THREAD, chunk_len};

/// Batch, rows, columns and channels of a feature map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapShape {
    /// Images.
    pub batch: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels.
    pub channels: usize,
}

impl MapShape {
    /// Values of the feature map.
    pub fn len(&self) -> usize {
        self.batch * self.height * self.width * self.channels
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn image_len(&self) -> usize {
        self.height * self.width * self.channels
    }
}

/// How a feature map gets twice the height and width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upsampling {
    /// Each pixel repeated in a square of four: [`upsample_2x`].
    Nearest,
    /// Between neighbouring pixels: [`crate::bilinear::upsample_2x`].
    Bilinear,
}

/// 2x nearest upsampling of a feature map of the shape `small`: `[batch, 2 * height, 2 * width, channels]`.
///
/// # Panics
/// If the input has not the length of `small`.
pub fn upsample_2x(small: &MapShape, input: &[f32]) -> Vec<f32> {
    assert_eq!(input.len(), small.len(), "upsample_2x: input, {small:?}");
    let (row_len, channels) = (small.width * small.channels, small.channels);
    let rows = chunk_len(small.batch * small.height, TASKS_PER_THREAD, 1);
    let run = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_mut(rows * 4 * row_len).zip(input.par_chunks(rows * row_len)).for_each(|(out, input)| {
            for (pair, row) in out.chunks_exact_mut(4 * row_len).zip(input.chunks_exact(row_len)) {
                for row_out in pair.chunks_exact_mut(2 * row_len) {
                    for (two, pixel) in row_out.chunks_exact_mut(2 * channels).zip(row.chunks_exact(channels)) {
                        let (left, right) = two.split_at_mut(channels);
                        left.write_copy_of_slice(pixel);
                        right.write_copy_of_slice(pixel);
                    }
                }
            }
        });
    };
    // SAFETY: each input row writes both pixels of both rows of its pair, and the pairs cover the output.
    unsafe { filled(4 * small.len(), run) }
}

/// Gradient of the input of [`upsample_2x`], of the shape `small`: the sum over each square of four output pixels.
///
/// # Panics
/// If the gradient has not four times the length of `small`.
pub fn upsample_2x_backward(small: &MapShape, grad_output: &[f32]) -> Vec<f32> {
    assert_eq!(grad_output.len(), 4 * small.len(), "upsample_2x: output gradient, {small:?}");
    let (row_len, channels) = (small.width * small.channels, small.channels);
    let rows = chunk_len(small.batch * small.height, TASKS_PER_THREAD, 1);
    let run = |out: &mut [MaybeUninit<f32>]| {
        let grads = grad_output.par_chunks(rows * 4 * row_len);
        out.par_chunks_mut(rows * row_len).zip(grads).for_each(|(out, grads)| {
            for (row, pair) in out.chunks_exact_mut(row_len).zip(grads.chunks_exact(4 * row_len)) {
                let (above, below) = pair.split_at(2 * row_len);
                sum_2x2(channels, above, below, row);
            }
        });
    };
    // SAFETY: the chunks cover the output; each of its pixels gets all channels from its block.
    unsafe { filled(small.len(), run) }
}

/// Writes the sums over the squares of four pixels that two neighbouring rows are made of.
fn sum_2x2(channels: usize, above: &[f32], below: &[f32], out: &mut [MaybeUninit<f32>]) {
    assert_eq!((above.len(), below.len()), (2 * out.len(), 2 * out.len()), "sum_2x2: rows");
    let blocks = above.chunks_exact(2 * channels).zip(below.chunks_exact(2 * channels));
    for (pixel, (above, below)) in out.chunks_exact_mut(channels).zip(blocks) {
        let ((a, b), (c, d)) = (above.split_at(channels), below.split_at(channels));
        for (out, ((a, b), (c, d))) in pixel.iter_mut().zip(a.iter().zip(b).zip(c.iter().zip(d))) {
            out.write((a + b) + (c + d));
        }
    }
}

/// Sum of two feature maps.
///
/// # Panics
/// If they differ in length.
pub fn add(a: &[f32], b: &[f32]) -> Vec<f32> {
    zip_values(a, b, |a, b| a + b)
}

/// Each image of `images` plus `one`, of an image's length; then what ends it.
///
/// # Panics
/// If `images` is not whole images.
pub fn add_to_each(images: &[f32], one: &[f32], then: Then) -> Vec<f32> {
    let isa = InstructionSet::detect();
    assert!(!one.is_empty() && images.len().is_multiple_of(one.len()), "sum: images");
    let chunk = chunk_len(one.len(), TASKS_PER_THREAD, MIN_CHUNK);
    let run = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_mut(one.len()).zip(images.par_chunks(one.len())).for_each(|(out, image)| {
            out.par_chunks_mut(chunk).zip(image.par_chunks(chunk)).zip(one.par_chunks(chunk)).for_each(
                |((out, image), one)| {
                    for (out, (image, one)) in out.iter_mut().zip(image.iter().zip(one)) {
                        let sum = image + one;
                        out.write(if then == Then::Relu { sum.max(0.0) } else { sum });
                    }
                    // SAFETY: the loop wrote every value.
                    then.finish(isa, unsafe { out.assume_init_mut() });
                },
            );
        });
    };
    // SAFETY: the chunks cover each image, and the images the output.
    unsafe { filled(images.len(), run) }
}

/// Adds `b` to `a`.
///
/// # Panics
/// If they differ in length.
pub fn add_assign(a: &mut [f32], b: &[f32]) {
    assert_eq!(a.len(), b.len(), "add: lengths");
    let chunk = chunk_len(a.len(), TASKS_PER_THREAD, MIN_CHUNK);
    a.par_chunks_mut(chunk).zip(b.par_chunks(chunk)).for_each(|(a, b)| {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
    });
}

/// The activation of each value.
pub fn activate(input: &[f32], activation: Activation) -> Vec<f32> {
    let limits = activation.limits();
    map_values(input, |value| limits.clamp(value))
}

/// Gradient of the input of [`activate`], from its input or its output.
///
/// # Panics
/// If values and gradient differ in length.
pub fn activate_backward(values: &[f32], grad_output: &[f32], activation: Activation) -> Vec<f32> {
    let limits = activation.limits();
    zip_values(values, grad_output, |value, grad| limits.gradient(value, grad))
}

/// Logistic function of each value, in `(0, 1)`.
pub fn sigmoid(input: &[f32]) -> Vec<f32> {
    map_values(input, |value| 1.0 / (1.0 + (-value).exp()))
}

/// Gradient of the input of [`sigmoid`], from its output.
///
/// # Panics
/// If output and gradient differ in length.
pub fn sigmoid_backward(output: &[f32], grad_output: &[f32]) -> Vec<f32> {
    zip_values(output, grad_output, |output, grad| grad * output * (1.0 - output))
}

/// Mean of each channel of each image, `[batch, channels]`.
///
/// # Panics
/// If the input has not the length of `shape`.
pub fn global_average_pool(shape: &MapShape, input: &[f32]) -> Vec<f32> {
    assert_eq!(input.len(), shape.len(), "global_average_pool: input, {shape:?}");
    let pixels = (shape.height * shape.width) as f64;
    let means: Vec<Vec<f32>> = input
        .par_chunks(shape.image_len())
        .map(|image| {
            image_sums(image, shape.channels, |value, _| value, &[]).map(|sum| (sum / pixels) as f32).collect()
        })
        .collect();
    means.concat()
}

/// Gradient of the input of [`global_average_pool`], of the shape `shape`, from that of its output, `[batch, channels]`.
///
/// # Panics
/// If the gradient has not one value per channel of each image.
pub fn global_average_pool_backward(shape: &MapShape, grad_output: &[f32]) -> Vec<f32> {
    assert_eq!(grad_output.len(), shape.batch * shape.channels, "global_average_pool: output gradient, {shape:?}");
    let share = 1.0 / (shape.height * shape.width) as f32;
    let run = |out: &mut [MaybeUninit<f32>]| {
        let images = out.par_chunks_mut(shape.image_len()).zip(grad_output.par_chunks(shape.channels));
        images.for_each(|(image, grads)| {
            for pixel in image.chunks_exact_mut(shape.channels) {
                pixel.iter_mut().zip(grads).for_each(|(out, grad)| {
                    out.write(grad * share);
                });
            }
        });
    };
    // SAFETY: an image is a whole number of pixels, and each pixel gets all its channels.
    unsafe { filled(shape.len(), run) }
}

/// Each channel of each image times its value in `scale`, `[batch, channels]`; the output is of the shape `shape`.
///
/// # Panics
/// If a length is not that of `shape`.
pub fn scale_channels(shape: &MapShape, input: &[f32], scale: &[f32]) -> Vec<f32> {
    assert_eq!(input.len(), shape.len(), "scale_channels: input, {shape:?}");
    assert_eq!(scale.len(), shape.batch * shape.channels, "scale_channels: scale, {shape:?}");
    let run = |out: &mut [MaybeUninit<f32>]| {
        let images = out.par_chunks_mut(shape.image_len()).zip(input.par_chunks(shape.image_len()));
        images.zip(scale.par_chunks(shape.channels)).for_each(|((out, image), scale)| {
            for (out, pixel) in out.chunks_exact_mut(shape.channels).zip(image.chunks_exact(shape.channels)) {
                out.iter_mut().zip(pixel).zip(scale).for_each(|((out, value), scale)| {
                    out.write(value * scale);
                });
            }
        });
    };
    // SAFETY: an image is a whole number of pixels, and each pixel gets all its channels.
    unsafe { filled(shape.len(), run) }
}

/// Gradient of the scale of [`scale_channels`], `[batch, channels]`; that of its input is [`scale_channels`] of the output
/// gradient.
///
/// # Panics
/// If a length is not that of `shape`.
pub fn scale_channels_backward_scale(shape: &MapShape, input: &[f32], grad_output: &[f32]) -> Vec<f32> {
    assert_eq!(input.len(), shape.len(), "scale_channels: input, {shape:?}");
    assert_eq!(grad_output.len(), shape.len(), "scale_channels: output gradient, {shape:?}");
    let images = input.par_chunks(shape.image_len()).zip(grad_output.par_chunks(shape.image_len()));
    let product = |value: f32, grad: f32| value * grad;
    let sums: Vec<Vec<f32>> = images
        .map(|(image, grads)| image_sums(image, shape.channels, product, grads).map(|sum| sum as f32).collect())
        .collect();
    sums.concat()
}

/// `[batch, channels, height, width]` to `[batch, height, width, channels]`; `shape` names the sizes.
///
/// # Panics
/// If the input has not the length of `shape`.
pub fn nhwc_from_nchw(shape: &MapShape, input: &[f32]) -> Vec<f32> {
    assert_eq!(input.len(), shape.len(), "nhwc_from_nchw: input, {shape:?}");
    transposed_images(shape.image_len(), shape.channels, shape.height * shape.width, input)
}

/// `[batch, height, width, channels]` to `[batch, channels, height, width]`; `shape` names the sizes.
///
/// # Panics
/// If the input has not the length of `shape`.
pub fn nchw_from_nhwc(shape: &MapShape, input: &[f32]) -> Vec<f32> {
    assert_eq!(input.len(), shape.len(), "nchw_from_nhwc: input, {shape:?}");
    transposed_images(shape.image_len(), shape.height * shape.width, shape.channels, input)
}

/// Each image, `[rows, columns]`, transposed.
fn transposed_images(image_len: usize, rows: usize, columns: usize, input: &[f32]) -> Vec<f32> {
    let run = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_mut(image_len).zip(input.par_chunks(image_len)).for_each(|(out, image)| {
            for (column, out) in out.chunks_exact_mut(rows).enumerate() {
                for (row, out) in out.iter_mut().enumerate() {
                    out.write(image[row * columns + column]);
                }
            }
        });
    };
    // SAFETY: an image is `columns` chunks of `rows` values, all of which are written.
    unsafe { filled(input.len(), run) }
}

/// Sums per channel over the pixels of one image of `term(value, other)`; `other` may be empty if it is not read.
fn image_sums(
    image: &[f32],
    channels: usize,
    term: impl Fn(f32, f32) -> f32,
    other: &[f32],
) -> impl Iterator<Item = f64> {
    let mut sums = vec![0.0f64; channels];
    for (pixel_idx, pixel) in image.chunks_exact(channels).enumerate() {
        if other.is_empty() {
            sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += f64::from(term(*value, 0.0)));
        } else {
            let other = &other[pixel_idx * channels..][..channels];
            sums.iter_mut().zip(pixel).zip(other).for_each(|((sum, a), b)| *sum += f64::from(term(*a, *b)));
        }
    }
    sums.into_iter()
}

fn map_values(input: &[f32], value: impl Fn(f32) -> f32 + Sync) -> Vec<f32> {
    let chunk = chunk_len(input.len(), TASKS_PER_THREAD, MIN_CHUNK);
    let run = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_mut(chunk).zip(input.par_chunks(chunk)).for_each(|(out, input)| {
            out.iter_mut().zip(input).for_each(|(out, input)| {
                out.write(value(*input));
            });
        });
    };
    // SAFETY: the chunks of both cover both, and each value is written.
    unsafe { filled(input.len(), run) }
}

fn zip_values(a: &[f32], b: &[f32], value: impl Fn(f32, f32) -> f32 + Sync) -> Vec<f32> {
    assert_eq!(a.len(), b.len(), "operator on two feature maps: lengths");
    let chunk = chunk_len(a.len(), TASKS_PER_THREAD, MIN_CHUNK);
    let run = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_mut(chunk).zip(a.par_chunks(chunk)).zip(b.par_chunks(chunk)).for_each(|((out, a), b)| {
            out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| {
                out.write(value(*a, *b));
            });
        });
    };
    // SAFETY: the slices are equally long, the chunks cover them, and each value is written.
    unsafe { filled(a.len(), run) }
}

/// Values per task below which a task costs more than it saves.
const MIN_CHUNK: usize = 8192;
