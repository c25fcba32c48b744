//! A picture in 48 numbers: enough to tell that two programs decoded one file to different pictures.
//!
//! Decoders of JPEG may differ by some levels in a pixel, so a digest of the pixels would tell two sound ones apart. Means do not.

use crate::image_file::RgbImage;

/// Cells along each side of the picture.
pub const CELLS: usize = 4;

/// Mean of each colour in each of 4 x 4 cells, rounded: `[row, column, colour]`.
pub type PixelMeans = [u8; CELLS * CELLS * 3];

/// Largest difference of two sound decoders of one file, in levels. Ours and libjpeg's are up to 2.05 apart over 2,000 made files of all
/// kinds (`scripts/check/jpeg.py --count 2000 --seed 1`).
pub const TOLERANCE: u8 = 4;

/// The means of an image. Cell `i` of `CELLS` along a side of `n` pixels covers those from `i * n / CELLS` up to, not including,
/// `(i + 1) * n / CELLS`; a cell without a pixel has 0.
pub fn pixel_means(image: &RgbImage) -> PixelMeans {
    let (width, height) = (image.size.width as usize, image.size.height as usize);
    let edge = |cell: usize, n: usize| cell * n / CELLS;
    let mut means = [0; CELLS * CELLS * 3];
    for (cell, mean) in means.as_chunks_mut::<3>().0.iter_mut().enumerate() {
        let (row, column) = (cell / CELLS, cell % CELLS);
        let (rows, columns) = (edge(row, height)..edge(row + 1, height), edge(column, width)..edge(column + 1, width));
        let n_pixels = (rows.len() * columns.len()) as u64;
        let mut sums = [0u64; 3];
        for y in rows {
            let line = &image.pixels[(y * width + columns.start) * 3..(y * width + columns.end) * 3];
            for pixel in line.as_chunks::<3>().0 {
                (0..3).for_each(|colour| sums[colour] += u64::from(pixel[colour]));
            }
        }
        *mean = sums.map(|sum| if n_pixels == 0 { 0 } else { ((2 * sum + n_pixels) / (2 * n_pixels)) as u8 });
    }
    means
}

/// Where two pictures differ by more than [`TOLERANCE`], and how, in words; the first such cell.
pub fn difference(seen: &PixelMeans, decoded: &PixelMeans) -> Option<(String, u8, u8)> {
    let mut pairs = seen.iter().zip(decoded).enumerate();
    pairs.find(|(_, (a, b))| a.abs_diff(**b) > TOLERANCE).map(|(idx, (&seen, &decoded))| {
        let (cell, colour) = (idx / 3, ["red", "green", "blue"][idx % 3]);
        (format!("mean {colour} of cell {}, {} of {CELLS} x {CELLS}", cell / CELLS, cell % CELLS), seen, decoded)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Size;

    #[test]
    fn cells_have_their_own_means() {
        let size = Size { width: 8, height: 5 };
        let pixels = (0..40u8).flat_map(|at| [at, 100, if at < 8 { 255 } else { 0 }]).collect();
        let means = pixel_means(&RgbImage { size, pixels });
        // Two columns and one row: pixels 0 and 1.
        assert_eq!(means[..3], [1, 100, 255]);
        // The last cell covers rows 3 and 4, columns 6 and 7: 30, 31, 38, 39, of mean 34.5.
        assert_eq!(means[45..], [35, 100, 0]);
        let narrow = pixel_means(&RgbImage { size: Size { width: 1, height: 1 }, pixels: vec![7, 8, 9] });
        assert_eq!(narrow[..45], [0; 45]);
        assert_eq!(narrow[45..], [7, 8, 9]);
    }

    #[test]
    fn differences_are_named() {
        let mut other = [100; 48];
        other[3 * 6 + 1] = 104;
        assert_eq!(difference(&[100; 48], &other), None);
        other[3 * 6 + 1] = 105;
        let expected = (String::from("mean green of cell 1, 2 of 4 x 4"), 100, 105);
        assert_eq!(difference(&[100; 48], &other), Some(expected));
    }
}
