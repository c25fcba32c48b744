//! A picture as a network reads it: planes of floats, out of interleaved bytes.

use crate::instruction_set::{InstructionSet, for_each_instruction_set};

/// Appends pixels as three planes of `(byte - 128) / 128`, which no rounding changes.
pub fn push_planes(pixels: &[[u8; 3]], planes: &mut Vec<f32>) {
    planes.reserve(3 * pixels.len());
    planes_for(InstructionSet::detect(), pixels, planes);
}

for_each_instruction_set! {
    fn planes_for(pixels: &[[u8; 3]], planes: &mut Vec<f32>) = planes_body
}

/// In blocks, whose bytes are taken apart before they become floats: the compiler vectorises each of both steps, and not both at once. Planes are
/// written once, as they are larger than what a processor keeps near.
#[inline(always)]
fn planes_body<const FUSED: bool, const LANES: usize>(pixels: &[[u8; 3]], planes: &mut Vec<f32>) {
    let (blocks, rest) = pixels.as_chunks::<BLOCK>();
    for channel in 0..3 {
        for pixels in blocks {
            let (mut bytes, mut values) = ([0; BLOCK], [0.0; BLOCK]);
            for at in 0..BLOCK {
                bytes[at] = pixels[at][channel];
            }
            for at in 0..BLOCK {
                values[at] = normalised(bytes[at]);
            }
            planes.extend_from_slice(&values);
        }
        planes.extend(rest.iter().map(|pixel| normalised(pixel[channel])));
    }
}

#[inline(always)]
fn normalised(byte: u8) -> f32 {
    (f32::from(byte) - 128.0) / 128.0
}

/// Pixels that are taken apart together.
const BLOCK: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_instruction_sets_write_the_same_planes() {
        for n_pixels in [0, 1, 63, 64, 65, 300] {
            let pixels: Vec<[u8; 3]> =
                (0..n_pixels).map(|at| [at as u8, (at * 7 + 1) as u8, (255 - at % 256) as u8]).collect();
            let plane = |channel: usize| pixels.iter().map(move |pixel| (f32::from(pixel[channel]) - 128.0) / 128.0);
            let expected: Vec<f32> = std::iter::once(7.0).chain((0..3).flat_map(plane)).collect();
            for isa in InstructionSet::available() {
                let mut planes = vec![7.0];
                planes_for(isa, &pixels, &mut planes);
                assert_eq!(planes, expected, "{isa:?}, {n_pixels} pixels");
            }
        }
    }
}
