//! How an image becomes a teacher's input, and where a point of it lies there.

use sensei_answers::asked::{IMAGENET_MEAN, IMAGENET_STD, Normalization, Preprocessing, Resize};
use sensei_data::geometry::{PointInImage, Size};
use sensei_data::image_file::RgbImage;
use sensei_data::resize::resize_bilinear;

/// An image in the square that a teacher sees, normalised.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Of the image.
    pub size: Size,
    /// Of the image in the frame; the rest, on the right and below, is padding.
    pub resized: Size,
    /// Side of the frame, in pixels.
    pub side: u32,
    /// `[side, side, 3]`: red, green, blue, normalised; padding is 0.
    pub values: Vec<f32>,
}

impl Frame {
    /// The image's longest side at `side` pixels, the other in proportion and rounded half up.
    ///
    /// # Source
    /// SAM, `ResizeLongestSide` and `Sam.preprocess`, with Pillow's resizing: [`sam_preprocessing`].
    ///
    /// # Panics
    /// If the image or the frame has no pixel.
    pub fn letterbox(image: &RgbImage, side: u32) -> Self {
        let scale = f64::from(side) / f64::from(image.size.width.max(image.size.height));
        let resized = |extent: u32| ((f64::from(extent) * scale + 0.5) as u32).max(1);
        let resized = Size { width: resized(image.size.width), height: resized(image.size.height) };
        let small = resize_bilinear(image, resized);
        let mut values = vec![0.0; side as usize * side as usize * 3];
        let rows =
            values.chunks_exact_mut(side as usize * 3).zip(small.pixels.chunks_exact(resized.width as usize * 3));
        for (out, row) in rows {
            for (out, pixel) in out.as_chunks_mut::<3>().0.iter_mut().zip(row.as_chunks::<3>().0) {
                for channel in 0..3 {
                    out[channel] = (f32::from(pixel[channel]) - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel];
                }
            }
        }
        Self { size: image.size, resized, side, values }
    }

    /// Where a point of the image is in the frame, in its pixels: both axes by one scale, as `scripts/teacher/export.py` has it. SAM's own code
    /// takes the rounded ratio of each axis, which is less than half a pixel away.
    pub fn point(&self, at: PointInImage) -> [f64; 2] {
        let scale = f64::from(self.side) / f64::from(self.size.width.max(self.size.height));
        [at.x * scale, at.y * scale]
    }

    /// Cells of a map of `grid` cells over the whole frame, per pixel of the image, along x and y.
    pub fn cells_per_pixel(&self, grid: u32) -> [f64; 2] {
        let per_frame_pixel = f64::from(grid) / f64::from(self.side);
        let along = |resized: u32, extent: u32| f64::from(resized) / f64::from(extent) * per_frame_pixel;
        [along(self.resized.width, self.size.width), along(self.resized.height, self.size.height)]
    }

    /// Columns and rows of a map of `grid` cells whose centre lies in the image.
    pub fn used_cells(&self, grid: u32) -> Size {
        let used = |resized: u32| {
            let cells = f64::from(resized) * f64::from(grid) / f64::from(self.side);
            ((cells - 0.5).ceil() as u32).clamp(1, grid)
        };
        Size { width: used(self.resized.width), height: used(self.resized.height) }
    }
}

/// What [`Frame::letterbox`] does, for keys.
pub fn sam_preprocessing(side: u32) -> Preprocessing {
    Preprocessing::Letterbox {
        longest_side: side,
        resize: Resize::PillowBilinear,
        normalization: Normalization::Imagenet,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_fill_the_upper_left_of_the_frame() {
        let image = RgbImage { size: Size { width: 6, height: 4 }, pixels: vec![255; 72] };
        let frame = Frame::letterbox(&image, 9);
        assert_eq!((frame.resized, frame.values.len()), (Size { width: 9, height: 6 }, 243));
        let white = (255.0 - IMAGENET_MEAN[2]) / IMAGENET_STD[2];
        assert!(frame.values[..162].chunks_exact(3).all(|pixel| pixel[2] == white));
        assert!(frame.values[162..].iter().all(|value| *value == 0.0));
        assert_eq!(frame.point(PointInImage { x: 6.0, y: 2.0 }), [9.0, 3.0]);
        assert_eq!(frame.used_cells(3), Size { width: 3, height: 2 });
        assert_eq!(frame.cells_per_pixel(3), [0.5, 0.5]);
    }
}
