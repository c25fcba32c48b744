//! Images at another size.

use rayon::prelude::*;

use crate::filter::AxisFilter;
use crate::geometry::Size;
use crate::image_file::RgbImage;

/// The image at another size: bilinear, with the support widened where it shrinks (anti-aliased).
///
/// # Source
/// Pillow 11.2.1, `resize(size, BILINEAR)`: equal bit for bit. Pillow 13 filters rows before columns where the height shrinks much more than
/// the width, and differs there by one level.
///
/// # Panics
/// If a side is 0, or `image.pixels` does not have the size it says.
pub fn resize_bilinear(image: &RgbImage, size: Size) -> RgbImage {
    let from = image.size;
    assert!(from.n_pixels() > 0 && size.n_pixels() > 0, "resize: sizes {from} and {size}");
    assert_eq!(image.pixels.len(), from.n_pixels() * 3, "resize: bytes of an image of {from}");
    let filter = |from: u32, to: u32| AxisFilter::new(0.0, f64::from(from), to as usize, from as usize, 0);
    let row_bytes = from.width as usize * 3;
    let narrow = filter(from.width, size.width).filter_columns(&image.pixels, row_bytes, 0);
    let pixels = filter(from.height, size.height).filter_rows(&narrow, size.width as usize * 3);
    RgbImage { size, pixels }
}

/// Whether the filter of [`resize_bilinear_f32`] widens where the image shrinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Antialias {
    /// It does: PyTorch's `interpolate(..., antialias=True)`, and torchvision's `Resize`.
    Widened,
    /// Two pixels a side, however much the image shrinks.
    None,
}

/// The image at another size, bilinear in single precision and not rounded: `[height, width, 3]`, 0 to 255.
///
/// # Source
/// PyTorch, `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`, but for the order of sums.
///
/// # Panics
/// If a side is 0, or `image.pixels` does not have the size it says.
pub fn resize_bilinear_f32(image: &RgbImage, size: Size, antialias: Antialias) -> Vec<f32> {
    let from = image.size;
    assert!(from.n_pixels() > 0 && size.n_pixels() > 0, "resize: sizes {from} and {size}");
    assert_eq!(image.pixels.len(), from.n_pixels() * 3, "resize: bytes of an image of {from}");
    let (columns, rows) = (taps(from.width, size.width, antialias), taps(from.height, size.height, antialias));
    let (row_bytes, out_len) = (from.width as usize * 3, size.width as usize * 3);
    let mut narrow = vec![0.0f32; from.height as usize * out_len];
    narrow.par_chunks_exact_mut(out_len).zip(image.pixels.par_chunks_exact(row_bytes)).for_each(|(out, row)| {
        let row = row.as_chunks::<3>().0;
        for (out, Taps { first, weights }) in out.as_chunks_mut::<3>().0.iter_mut().zip(&columns) {
            for (pixel, weight) in row[*first..].iter().zip(weights) {
                (0..3).for_each(|channel| out[channel] += weight * f32::from(pixel[channel]));
            }
        }
    });
    let mut resized = vec![0.0f32; size.height as usize * out_len];
    resized.par_chunks_exact_mut(out_len).zip(&rows).for_each(|(out, Taps { first, weights })| {
        for (row, weight) in narrow[first * out_len..].chunks_exact(out_len).zip(weights) {
            out.iter_mut().zip(row).for_each(|(out, value)| *out += weight * value);
        }
    });
    resized
}

/// The pixels of an axis that make one of the new ones.
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

/// For each pixel of an axis at its new size.
fn taps(from: u32, to: u32, antialias: Antialias) -> Vec<Taps> {
    let scale = f64::from(from) / f64::from(to);
    let support = if antialias == Antialias::Widened { scale.max(1.0) } else { 1.0 };
    let of = |out: u32| {
        let center = (f64::from(out) + 0.5) * scale;
        // Without widening, PyTorch repeats the image's edge; with it, the filter ends there and its weights still add up to 1.
        let center = if antialias == Antialias::None { center.clamp(0.5, f64::from(from) - 0.5) } else { center };
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(from as usize).max(first + 1);
        let weight = |at: usize| (1.0 - ((at as f64 + 0.5 - center) / support).abs()).max(0.0);
        let total: f64 = (first..end).map(weight).sum();
        Taps { first, weights: (first..end).map(|at| (weight(at) / total) as f32).collect() }
    };
    (0..to).map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crop::{CropGeometry, crop_image};

    /// Crops are held to Pillow's values; a whole image onto a square is one.
    #[test]
    fn a_square_is_a_crop_of_the_whole() {
        let size = Size { width: 23, height: 31 };
        let image = RgbImage { size, pixels: (0..size.n_pixels() * 3).map(|at| (at * 37 % 251) as u8).collect() };
        for side in [1, 7, 31, 64] {
            let square = resize_bilinear(&image, Size { width: side, height: side });
            assert_eq!(square.pixels, crop_image(&image, &CropGeometry { rect_in_image: size.rect(), grid: side }));
        }
        assert_eq!(resize_bilinear(&image, size), image);
    }
}
