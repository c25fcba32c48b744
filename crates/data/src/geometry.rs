//! Sizes, points and rectangles in the pixels of an image.
//!
//! One convention everywhere: coordinates are continuous, x to the right, y down, and the pixel in column `c` and row `r`
//! covers `[c, c + 1) x [r, r + 1)`; its centre is `(c + 0.5, r + 0.5)`.

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size {
    /// Number of columns.
    pub width: u32,
    /// Number of rows.
    pub height: u32,
}

/// A point in an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PointInImage {
    /// To the right; 0 is the left edge of the image.
    pub x: f64,
    /// Down; 0 is the upper edge of the image.
    pub y: f64,
}

/// A half-open rectangle `[x0, x1) x [y0, y1)` in an image, in pixels. It may run past the image's border.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RectInImage {
    /// Left edge.
    pub x0: f64,
    /// Upper edge.
    pub y0: f64,
    /// Right edge, outside.
    pub x1: f64,
    /// Lower edge, outside.
    pub y1: f64,
}

/// Whole pixels of an image: columns `x0..x1` of rows `y0..y1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PixelRect {
    /// First column.
    pub x0: u32,
    /// First row.
    pub y0: u32,
    /// Column behind the last one.
    pub x1: u32,
    /// Row behind the last one.
    pub y1: u32,
}

impl Size {
    /// Number of pixels.
    pub fn n_pixels(self) -> usize {
        self.width as usize * self.height as usize
    }

    /// The rectangle of the whole image.
    pub fn rect(self) -> RectInImage {
        RectInImage { x0: 0.0, y0: 0.0, x1: f64::from(self.width), y1: f64::from(self.height) }
    }
}

impl RectInImage {
    /// Right edge minus left edge.
    pub fn width(&self) -> f64 {
        self.x1 - self.x0
    }

    /// Lower edge minus upper edge.
    pub fn height(&self) -> f64 {
        self.y1 - self.y0
    }

    /// The part that both rectangles cover; without extent (`width() <= 0` or `height() <= 0`) if there is none.
    pub fn intersection(&self, other: &RectInImage) -> RectInImage {
        RectInImage {
            x0: self.x0.max(other.x0),
            y0: self.y0.max(other.y0),
            x1: self.x1.min(other.x1),
            y1: self.y1.min(other.y1),
        }
    }
}

impl PixelRect {
    /// The pixels of an image that a rectangle touches; none where it lies outside.
    ///
    /// ```
    /// use sensei_data::geometry::{PixelRect, RectInImage, Size};
    ///
    /// let rect = RectInImage { x0: -2.5, y0: 1.5, x1: 3.2, y1: 2.0 };
    /// assert_eq!(PixelRect::touched(&rect, Size { width: 9, height: 9 }), PixelRect { x0: 0, y0: 1, x1: 4, y1: 2 });
    /// ```
    pub fn touched(rect: &RectInImage, image: Size) -> PixelRect {
        let axis = |start: f64, end: f64, image_len: u32| {
            let within = |edge: f64| edge.clamp(0.0, f64::from(image_len)) as u32;
            (within(start.floor()), within(end.ceil()))
        };
        let ((x0, x1), (y0, y1)) = (axis(rect.x0, rect.x1, image.width), axis(rect.y0, rect.y1, image.height));
        PixelRect { x0, y0, x1, y1 }
    }

    /// Number of columns.
    pub fn width(self) -> u32 {
        self.x1.saturating_sub(self.x0)
    }

    /// Number of rows.
    pub fn height(self) -> u32 {
        self.y1.saturating_sub(self.y0)
    }

    /// Whether there is no pixel.
    pub fn is_empty(self) -> bool {
        self.width() == 0 || self.height() == 0
    }

    /// Whether all pixels of another one are here too.
    pub fn holds(self, other: PixelRect) -> bool {
        let within = |start: u32, end: u32, other_start: u32, other_end: u32| start <= other_start && other_end <= end;
        other.is_empty()
            || (within(self.x0, self.x1, other.x0, other.x1) && within(self.y0, self.y1, other.y0, other.y1))
    }
}

impl std::fmt::Display for PixelRect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "columns {}..{} of rows {}..{}", self.x0, self.x1, self.y0, self.y1)
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} x {}", self.width, self.height)
    }
}
