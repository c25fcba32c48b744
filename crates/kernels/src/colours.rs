//! Saturation, contrast and brightness of pictures.

use crate::instruction_set::{InstructionSet, for_each_instruction_set};

/// Factors of the colours of a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ColourFactors {
    /// Of a value's difference from its pixel's grey, `0.299 r + 0.587 g + 0.114 b`.
    pub saturation: f32,
    /// Of the difference from 128, after that.
    pub contrast: f32,
    /// Of the value, after that.
    pub brightness: f32,
}

/// Changes the colours of pixels, with one rounding at the end; values saturate at 0 and 255. Factors are finite.
///
/// No instruction set fuses a product with a sum here: all give the same bytes.
pub fn change_colours(pixels: &mut [[u8; 3]], factors: ColourFactors) {
    change_colours_for(InstructionSet::detect(), pixels, factors);
}

for_each_instruction_set! {
    fn change_colours_for(pixels: &mut [[u8; 3]], factors: ColourFactors) = colours_body
}

#[inline(always)]
fn colours_body<const FUSED: bool, const LANES: usize>(pixels: &mut [[u8; 3]], factors: ColourFactors) {
    let (blocks, rest) = pixels.as_chunks_mut();
    blocks.iter_mut().for_each(|block| change_block(block, factors));
    let mut last = [[0; 3]; BLOCK];
    last[..rest.len()].copy_from_slice(rest);
    change_block(&mut last, factors);
    rest.copy_from_slice(&last[..rest.len()]);
}

/// Channel by channel, in steps that the compiler vectorises.
#[inline(always)]
fn change_block(pixels: &mut [[u8; 3]; BLOCK], factors: ColourFactors) {
    let mut bytes = [[0u8; BLOCK]; 3];
    let [red, green, blue] = &mut bytes;
    for (((pixel, red), green), blue) in pixels.iter().zip(red).zip(green).zip(blue) {
        [*red, *green, *blue] = *pixel;
    }
    let mut channels = [[0f32; BLOCK]; 3];
    for (values, bytes) in channels.iter_mut().zip(&bytes) {
        for (value, byte) in values.iter_mut().zip(bytes) {
            *value = f32::from(*byte);
        }
    }
    let mut grey = [0f32; BLOCK];
    let [red, green, blue] = &channels;
    for (((grey, red), green), blue) in grey.iter_mut().zip(red).zip(green).zip(blue) {
        *grey = 0.299 * red + 0.587 * green + 0.114 * blue;
    }
    for (bytes, values) in bytes.iter_mut().zip(&channels) {
        for ((byte, value), grey) in bytes.iter_mut().zip(values).zip(&grey) {
            let saturated = grey + (value - grey) * factors.saturation;
            let contrasted = 128.0 + (saturated - 128.0) * factors.contrast;
            *byte = whole_part((contrasted * factors.brightness + 0.5).clamp(0.0, 255.0)) as u8;
        }
    }
    let [red, green, blue] = &bytes;
    for (((pixel, red), green), blue) in pixels.iter_mut().zip(red).zip(green).zip(blue) {
        *pixel = [*red, *green, *blue];
    }
}

/// The whole part of a number from 0 to 255, by additions: a cast checks its range, value by value.
#[inline(always)]
fn whole_part(value: f32) -> u32 {
    // Above 2^23 numbers are whole: the sum is rounded to one, whose low bits are in the low bits of its representation.
    let rounded = value + TWO_TO_23;
    (rounded.to_bits() & 0xff) - u32::from(rounded - TWO_TO_23 > value)
}

/// Pixels that change together.
const BLOCK: usize = 32;
const TWO_TO_23: f32 = 8_388_608.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_parts_are_those_of_a_cast() {
        for value in (0..=255 * 4096).map(|n| n as f32 / 4096.0).chain([0.499_999_97, 254.999_98, f32::MIN_POSITIVE]) {
            assert_eq!(whole_part(value), value as u32, "{value}");
        }
    }

    /// In one formula per value, as the documentation has it.
    #[test]
    fn all_instruction_sets_follow_the_formula() {
        for n_pixels in [0, 1, 31, 32, 33, 200] {
            let before: Vec<[u8; 3]> = (0..n_pixels)
                .map(|at: u32| [0, 1, 2].map(|channel| (at * 167 + channel * 91 + at * at / 7) as u8))
                .collect();
            for step in 0..27 {
                let factor = |divisor: u32| 0.55 + 0.45 * (step / divisor % 3) as f32 + step as f32 / 97.0;
                let factors = ColourFactors { saturation: factor(1), contrast: factor(3), brightness: factor(9) };
                let changed = |pixel: &[u8; 3]| {
                    let [r, g, b] = pixel.map(f32::from);
                    let grey = 0.299 * r + 0.587 * g + 0.114 * b;
                    pixel.map(|value| {
                        let saturated = grey + (f32::from(value) - grey) * factors.saturation;
                        let contrasted = 128.0 + (saturated - 128.0) * factors.contrast;
                        (contrasted * factors.brightness + 0.5).clamp(0.0, 255.0) as u8
                    })
                };
                let expected: Vec<[u8; 3]> = before.iter().map(changed).collect();
                for isa in InstructionSet::available() {
                    let mut pixels = before.clone();
                    change_colours_for(isa, &mut pixels, factors);
                    assert_eq!(pixels, expected, "{isa:?}, {factors:?}");
                }
            }
        }
    }
}
