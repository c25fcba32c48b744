//! A part of an image, wherever its pixels lie.

use crate::geometry::{PixelRect, Size};

/// Pixels of a part of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImagePart<'a> {
    /// Width and height of the whole image in pixels.
    pub image: Size,
    /// Where the part lies in it.
    pub place: PixelRect,
    /// The part's rows, three bytes a pixel: red, green, blue.
    pub pixels: &'a [u8],
}

impl ImagePart<'_> {
    /// Bytes of the pixels of a place.
    pub fn n_bytes(place: PixelRect) -> u64 {
        u64::from(place.width()) * u64::from(place.height()) * 3
    }

    /// Bytes of a row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.place.width() as usize * 3
    }
}
