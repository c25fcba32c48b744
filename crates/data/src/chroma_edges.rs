//! The last column and row of pictures whose colours are sampled half as often as their brightness.
//!
//! Between two samples a decoder interpolates: `o[2i] = (3 c[i] + c[i-1]) / 4` and `o[2i+1] = (3 c[i] + c[i+1]) / 4`. The last of an even
//! number of pixels lies beyond the last sample, which libjpeg repeats. zune-jpeg 0.5.15 takes the sample that follows in the block, which is
//! the encoder's filling. The last sample can be had from the two pixels before: `c[i] = (3 o[2i] - o[2i-1]) / 2`, at most 1 off by rounding.

use crate::geometry::Size;

/// Which of a picture's edges zune-jpeg makes of filling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChromaEdges {
    column: bool,
    row: bool,
}

impl ChromaEdges {
    /// `luma_sampling` is 1 or 2, across and down, where the chroma's is 1.
    pub(crate) fn new(size: Size, luma_sampling: (u8, u8)) -> Self {
        // Of 16 pixels are the blocks that 8 samples make: there is no filling after them.
        let ends_in_filling =
            |len: u32, sampling: u8| sampling == 2 && len.is_multiple_of(2) && !len.is_multiple_of(16);
        Self {
            column: ends_in_filling(size.width, luma_sampling.0),
            row: ends_in_filling(size.height, luma_sampling.1),
        }
    }

    /// Whether there is nothing to mend.
    pub(crate) fn are_right(self) -> bool {
        !self.column && !self.row
    }

    /// Mends a decoded picture, or the upper rows of it, and turns its YCbCr into RGB. `size` is that of the pixels.
    pub(crate) fn mend(self, pixels: &mut [u8], size: Size) {
        let (pixels, _) = pixels.as_chunks_mut::<3>();
        let (width, height) = (size.width as usize, size.height as usize);
        if self.column {
            for row in pixels.chunks_exact_mut(width) {
                let last = last_sample(row[width - 2], row[width.saturating_sub(3)]);
                row[width - 1][1..].copy_from_slice(&last);
            }
        }
        // Of the upper rows alone the last one is none of the picture's edge.
        if self.row && !height.is_multiple_of(16) {
            let (before, last) = pixels.split_at_mut((height - 1) * width);
            let (second, first) = (&before[(height - 2) * width..], &before[height.saturating_sub(3) * width..]);
            for ((pixel, &second), &first) in last.iter_mut().zip(second).zip(first) {
                pixel[1..].copy_from_slice(&last_sample(second, first));
            }
        }
        let (blocks, rest) = pixels.as_chunks_mut();
        blocks.iter_mut().for_each(to_rgb);
        let mut last = [[0; 3]; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        to_rgb(&mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// The sample at the edge, of the pixel that lies in it and the one before, in both colours. Of two pixels, the first is both.
fn last_sample(pixel: [u8; 3], before: [u8; 3]) -> [u8; 2] {
    [1, 2].map(|channel| ((3 * i32::from(pixel[channel]) - i32::from(before[channel]) + 1) >> 1).clamp(0, 255) as u8)
}

/// JFIF's conversion in whole numbers, as libjpeg rounds it; channel by channel, so that the compiler vectorises it.
fn to_rgb(pixels: &mut [[u8; 3]; BLOCK]) {
    let mut channels = [[0i32; BLOCK]; 3];
    for (at, pixel) in pixels.iter().enumerate() {
        (0..3).for_each(|channel| channels[channel][at] = i32::from(pixel[channel]));
    }
    let mut rgb = [[0u8; BLOCK]; 3];
    for at in 0..BLOCK {
        let (y, cb, cr) = (channels[0][at], channels[1][at] - 128, channels[2][at] - 128);
        let rounded = |sum: i32| (y + ((sum + (1 << 15)) >> 16)).clamp(0, 255) as u8;
        rgb[0][at] = rounded(RED_OF_CR * cr);
        rgb[1][at] = rounded(-GREEN_OF_CB * cb - GREEN_OF_CR * cr);
        rgb[2][at] = rounded(BLUE_OF_CB * cb);
    }
    for (at, pixel) in pixels.iter_mut().enumerate() {
        *pixel = [0, 1, 2].map(|channel| rgb[channel][at]);
    }
}

/// 1.402, 0.344136, 0.714136 and 1.772 in 2^-16 (JFIF 1.02, "Colorspace").
const RED_OF_CR: i32 = 91_881;
const GREEN_OF_CB: i32 = 22_554;
const GREEN_OF_CR: i32 = 46_802;
const BLUE_OF_CB: i32 = 116_130;

/// Pixels that are converted together.
const BLOCK: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    /// Chroma samples, as a decoder interpolates them with `filling` after the last.
    fn interpolated(samples: &[u8], filling: u8, len: usize) -> Vec<u8> {
        let at = |idx: isize| match usize::try_from(idx) {
            Ok(idx) => i32::from(*samples.get(idx).unwrap_or(&filling)),
            Err(_) => i32::from(samples[0]),
        };
        let value = |x: usize| {
            let near = (x / 2) as isize;
            ((3 * at(near) + at(if x.is_multiple_of(2) { near - 1 } else { near + 1 }) + 2) >> 2) as u8
        };
        (0..len).map(value).collect()
    }

    #[test]
    fn the_last_sample_is_repeated_instead_of_filling() {
        let samples = [10, 200, 40, 90, 250];
        let size = Size { width: 10, height: 10 };
        for (luma_sampling, edges) in [((2, 1), [true, false]), ((1, 2), [false, true]), ((2, 2), [true, true])] {
            let edges = ChromaEdges { column: edges[0], row: edges[1] };
            assert_eq!(ChromaEdges::new(size, luma_sampling), edges);
            let (wrong, right) = (interpolated(&samples, 0, 10), interpolated(&samples, 250, 10));
            let picture = |of: &[u8]| -> Vec<u8> {
                let chroma = |x: usize, y: usize| if luma_sampling.0 == 2 { of[x] } else { of[y] };
                (0..100).flat_map(|at| [128, chroma(at % 10, at / 10), 128]).collect()
            };
            let (mut found, mut expected) = (picture(&wrong), picture(&right));
            edges.mend(&mut found, size);
            ChromaEdges { column: false, row: false }.mend(&mut expected, size);
            let off = found.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max();
            assert!(off <= Some(2), "{luma_sampling:?}: {off:?}");
        }
    }

    #[test]
    fn whole_blocks_and_odd_sides_are_right() {
        for (width, height) in [(16, 32), (15, 481), (640, 427), (1, 1)] {
            assert!(ChromaEdges::new(Size { width, height }, (2, 2)).are_right(), "{width} x {height}");
        }
        assert!(ChromaEdges::new(Size { width: 30, height: 30 }, (1, 1)).are_right());
        assert!(!ChromaEdges::new(Size { width: 640, height: 360 }, (2, 2)).are_right());
    }

    #[test]
    fn colours_are_jfifs() {
        let size = Size { width: 4, height: 1 };
        let mut pixels = [[76, 85, 255], [150, 44, 21], [29, 255, 107], [128, 128, 128]].concat();
        ChromaEdges { column: false, row: false }.mend(&mut pixels, size);
        assert_eq!(pixels, [[254, 0, 0], [0, 255, 1], [0, 0, 254], [128, 128, 128]].concat());
    }
}
