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

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} x {}", self.width, self.height)
    }
}
