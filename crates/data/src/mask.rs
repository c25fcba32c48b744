//! Binary masks, one byte a pixel.

use crate::geometry::Size;

/// A binary mask of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    /// Size of the image.
    pub size: Size,
    /// Row-major, `size.n_pixels()` values, each 0 or 1.
    pub bits: Vec<u8>,
}

impl Mask {
    /// A mask without foreground.
    pub fn empty(size: Size) -> Mask {
        Mask { size, bits: vec![0; size.n_pixels()] }
    }

    /// Number of foreground pixels.
    pub fn area(&self) -> u64 {
        self.bits.iter().map(|bit| u64::from(*bit != 0)).sum()
    }

    /// Whether the pixel in `column`, `row` is foreground.
    ///
    /// # Panics
    /// If the pixel lies outside of the mask.
    pub fn at(&self, column: u32, row: u32) -> bool {
        assert!(column < self.size.width && row < self.size.height, "pixel ({column}, {row}) of a {} mask", self.size);
        self.bits[row as usize * self.size.width as usize + column as usize] != 0
    }
}
