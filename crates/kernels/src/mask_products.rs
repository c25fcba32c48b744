//! Gradients of mask logits that are products of a map's pixels with a vector for each mask.

use std::mem::MaybeUninit;

use rayon::prelude::*;

use crate::buffer::filled;
use crate::instruction_set::{InstructionSet, for_each_instruction_set, multiply_add};
use crate::tiling::{MIN_ROWS_PER_TASK, TASKS_PER_THREAD, chunk_len, sum_in_order};

/// Gradient of the map, `[prompt, pixel, channels]`, from that of the logits, `[prompt, mask, pixel]`; `vectors` is `[prompt, mask, channels]`.
///
/// # Panics
/// If the lengths are not those of the sizes.
pub fn backward_map([prompts, masks, channels]: [usize; 3], pixels: usize, vectors: &[f32], grads: &[f32]) -> Vec<f32> {
    assert_eq!(vectors.len(), prompts * masks * channels, "mask products: vectors");
    assert_eq!(grads.len(), prompts * masks * pixels, "mask products: gradient");
    let isa = InstructionSet::detect();
    let chunk = chunk_len(pixels, TASKS_PER_THREAD, MIN_ROWS_PER_TASK);
    let run = |out: &mut [MaybeUninit<f32>]| {
        let of_prompts = vectors.par_chunks(masks * channels).zip(grads.par_chunks(masks * pixels));
        out.par_chunks_mut(pixels * channels).zip(of_prompts).for_each(|(out, (vectors, grads))| {
            out.par_chunks_mut(chunk * channels).enumerate().for_each(|(idx, out)| {
                map_gradient(isa, vectors, &grads[idx * chunk..], pixels, channels, out);
            });
        });
    };
    // SAFETY: the chunks cover each prompt's map, and `map_gradient` writes all channels of each pixel.
    unsafe { filled(prompts * pixels * channels, run) }
}

/// Gradient of the vectors, `[prompt, mask, channels]`, from that of the logits, `[prompt, mask, pixel]`; `map` is `[prompt, pixel, channels]`.
///
/// # Panics
/// If the lengths are not those of the sizes.
pub fn backward_vectors([prompts, masks, channels]: [usize; 3], pixels: usize, map: &[f32], grads: &[f32]) -> Vec<f32> {
    assert_eq!(map.len(), prompts * pixels * channels, "mask products: map");
    assert_eq!(grads.len(), prompts * masks * pixels, "mask products: gradient");
    let isa = InstructionSet::detect();
    let chunk = chunk_len(pixels, 1, MIN_ROWS_PER_TASK);
    let of_prompts = map.chunks(pixels * channels).zip(grads.chunks(masks * pixels)).map(|(map, grads)| {
        let sums = map.par_chunks(chunk * channels).enumerate().map(|(idx, map)| {
            let mut sum = vec![0.0; masks * channels];
            vector_sums(isa, map, &grads[idx * chunk..], pixels, channels, &mut sum);
            sum
        });
        sum_in_order(sums.collect())
    });
    of_prompts.collect::<Vec<_>>().concat()
}

for_each_instruction_set! {
    /// Pixels of a map's gradient; the gradient of a mask's logits is `pixels` behind that of the one before.
    fn map_gradient(
        vectors: &[f32],
        grads: &[f32],
        pixels: usize,
        channels: usize,
        out: &mut [MaybeUninit<f32>],
    ) = map_gradient_body
}
for_each_instruction_set! {
    /// Adds what pixels of the map add to the vectors' gradients.
    fn vector_sums(map: &[f32], grads: &[f32], pixels: usize, channels: usize, sums: &mut [f32]) = vector_sums_body
}

#[inline(always)]
fn map_gradient_body<const FUSED: bool, const LANES: usize>(
    vectors: &[f32],
    grads: &[f32],
    pixels: usize,
    channels: usize,
    out: &mut [MaybeUninit<f32>],
) {
    let (first, others) = vectors.split_at(channels);
    for (pixel, out) in out.chunks_exact_mut(channels).enumerate() {
        let grad = grads[pixel];
        out.iter_mut().zip(first).for_each(|(out, value)| {
            out.write(grad * value);
        });
        // SAFETY: the loop wrote every value.
        let out = unsafe { out.assume_init_mut() };
        for (mask, vector) in others.chunks_exact(channels).enumerate() {
            let grad = grads[(mask + 1) * pixels + pixel];
            out.iter_mut().zip(vector).for_each(|(out, value)| *out = multiply_add::<FUSED>(grad, *value, *out));
        }
    }
}

#[inline(always)]
fn vector_sums_body<const FUSED: bool, const LANES: usize>(
    map: &[f32],
    grads: &[f32],
    pixels: usize,
    channels: usize,
    sums: &mut [f32],
) {
    for (mask, sums) in sums.chunks_exact_mut(channels).enumerate() {
        for (grad, values) in grads[mask * pixels..].iter().zip(map.chunks_exact(channels)) {
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum = multiply_add::<FUSED>(*grad, *value, *sum));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{assert_within, noise};

    #[test]
    fn gradients_follow_their_definition() {
        for sizes @ [prompts, masks, channels] in [[2, 4, 32], [3, 1, 5], [1, 3, 16]] {
            let pixels = 300;
            let vectors = noise(prompts * masks * channels, 1);
            let (map, grads) = (noise(prompts * pixels * channels, 2), noise(prompts * masks * pixels, 3));
            let (mut of_map, mut of_vectors) = (vec![0.0f64; map.len()], vec![0.0f64; vectors.len()]);
            for (at, grad) in grads.iter().enumerate() {
                let (pixel, vector) = (at / (masks * pixels) * pixels + at % pixels, at / pixels);
                for channel in 0..channels {
                    let (in_map, in_vectors) = (pixel * channels + channel, vector * channels + channel);
                    of_map[in_map] += f64::from(*grad) * f64::from(vectors[in_vectors]);
                    of_vectors[in_vectors] += f64::from(*grad) * f64::from(map[in_map]);
                }
            }
            assert_within(5e-6, "map", &backward_map(sizes, pixels, &vectors, &grads), &of_map);
            assert_within(5e-6, "vectors", &backward_vectors(sizes, pixels, &map, &grads), &of_vectors);
        }
    }
}
