//! Images at another size.

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
    let narrow = filter(from.width, size.width).filter_columns(&image.pixels, row_bytes);
    let pixels = filter(from.height, size.height).filter_rows(&narrow, size.width as usize * 3);
    RgbImage { size, pixels }
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
