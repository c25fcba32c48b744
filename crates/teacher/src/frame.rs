//! How an image, or a part of it, becomes a teacher's input, and where a point of it lies there.

use sensei_answers::asked::{IMAGENET_MEAN, IMAGENET_STD, Normalization, Preprocessing, Resize, Zoom};
use sensei_data::geometry::{PointInImage, Size};
use sensei_data::image_file::RgbImage;
use sensei_data::resize::{Antialias, resize_bilinear, resize_bilinear_f32};

/// How a teacher is shown images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// In proportion, with padding on the right and below, resized by Pillow's bilinear filter.
    Letterbox {
        /// Side of the square, in pixels.
        side: u32,
        /// What is made of a pixel's values.
        normalization: Normalization,
    },
    /// Each axis by a scale of its own.
    Stretch {
        /// Side of the square, in pixels.
        side: u32,
        /// How pixels are interpolated.
        resize: Resize,
    },
}

impl Framing {
    /// What it does, for keys; none for small objects by themselves in a stretched frame, which keys do not know.
    pub fn preprocessing(self, zoom: Option<Zoom>) -> Option<Preprocessing> {
        match (self, zoom) {
            (Self::Letterbox { side: longest_side, normalization }, zoom) => {
                Some(Preprocessing::Letterbox { longest_side, resize: Resize::PillowBilinear, normalization, zoom })
            }
            (Self::Stretch { side, resize }, None) => {
                Some(Preprocessing::Stretch { side, resize, normalization: Normalization::Imagenet })
            }
            (Self::Stretch { .. }, Some(_)) => None,
        }
    }

    /// Side of the square, in pixels.
    pub fn side(self) -> u32 {
        match self {
            Self::Letterbox { side, .. } | Self::Stretch { side, .. } => side,
        }
    }
}

/// An image, or a part of it, in the square that a teacher sees, normalised.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Column and row of the image's pixel in the upper left corner.
    pub origin: [u32; 2],
    /// Of what is shown, in the image's pixels.
    pub size: Size,
    /// Of what is shown, in the frame; the rest, on the right and below, is padding.
    pub resized: Size,
    /// Side of the frame, in pixels.
    pub side: u32,
    /// Pixels of the frame for one of the image, along x and y, as prompts are placed.
    pub scale: [f64; 2],
    /// `[side, side, 3]`: red, green, blue, normalised; padding is 0.
    pub values: Vec<f32>,
}

impl Frame {
    /// The image as this framing shows it.
    ///
    /// # Panics
    /// If the image or the frame has no pixel.
    pub fn new(image: &RgbImage, framing: Framing) -> Self {
        match framing {
            Framing::Letterbox { side, normalization } => Self::letterbox(image, side, normalization),
            Framing::Stretch { side, resize } => Self::stretch(image, side, resize),
        }
    }

    /// Width and height at `side` pixels each.
    ///
    /// # Source
    /// facebookresearch/sam2 `SAM2Transforms` (widened filter, no rounding); yformer/EfficientSAM `EfficientSam.preprocess` (two pixels
    /// a side, no rounding). Both resize values of 0 to 1; here they are of 0 to 255, which is the same but for rounding.
    ///
    /// # Panics
    /// If the image or the frame has no pixel.
    pub fn stretch(image: &RgbImage, side: u32, resize: Resize) -> Self {
        let resized = Size { width: side, height: side };
        let mut values: Vec<f32> = match resize {
            Resize::PillowBilinear => resize_bilinear(image, resized).pixels.iter().map(|&byte| byte.into()).collect(),
            Resize::Sam2Transforms => resize_bilinear_f32(image, resized, Antialias::Widened),
            Resize::TorchBilinear => resize_bilinear_f32(image, resized, Antialias::None),
        };
        for pixel in values.as_chunks_mut::<3>().0 {
            *pixel = [0, 1, 2].map(|channel| (pixel[channel] - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]);
        }
        let scale = [image.size.width, image.size.height].map(|extent| f64::from(side) / f64::from(extent));
        Self { origin: [0, 0], size: image.size, resized, side, scale, values }
    }

    /// The image's longest side at `side` pixels, the other in proportion and rounded half up.
    ///
    /// # Source
    /// SAM, `ResizeLongestSide` and `Sam.preprocess`, with Pillow's resizing. Prompts are placed by one scale on both axes, as `scripts/teacher/export.py` has
    /// it; SAM's own code takes the rounded ratio of each axis, which is less than half a pixel away.
    ///
    /// # Panics
    /// If the image or the frame has no pixel.
    pub fn letterbox(image: &RgbImage, side: u32, normalization: Normalization) -> Self {
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
                    let (mean, deviation) = normalization.mean_and_deviation(channel);
                    out[channel] = (f32::from(pixel[channel]) - mean) / deviation;
                }
            }
        }
        Self { origin: [0, 0], size: image.size, resized, side, scale: [scale; 2], values }
    }

    /// A part of the image as this framing shows it.
    ///
    /// # Panics
    /// If the part is empty or reaches beyond the image.
    pub fn of_part(image: &RgbImage, part: Part, framing: Framing) -> Self {
        let Part { origin: [x, y], size } = part;
        let columns = x as usize * 3..(x + size.width) as usize * 3;
        let rows = image.pixels.chunks_exact(image.size.width as usize * 3).skip(y as usize).take(size.height as usize);
        let pixels: Vec<u8> = rows.flat_map(|row| &row[columns.clone()]).copied().collect();
        Self { origin: part.origin, ..Self::new(&RgbImage { size, pixels }, framing) }
    }

    /// Where a point of the image is in the frame, in its pixels.
    pub fn point(&self, at: PointInImage) -> [f64; 2] {
        [0, 1].map(|axis| ([at.x, at.y][axis] - f64::from(self.origin[axis])) * self.scale[axis])
    }

    /// Cells of a map of `grid` cells over the whole frame, per pixel of what is shown, along x and y.
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

/// A part of an image, in its pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Column and row of its upper left pixel.
    pub origin: [u32; 2],
    /// Pixels across and down, at least one each.
    pub size: Size,
}

impl Part {
    /// The square of this side around a point, in pixels of the image; grown to whole pixels and clipped at the image's edge, where at least one
    /// pixel is left.
    pub fn around(at: PointInImage, side: f64, image: Size) -> Self {
        let along = |at: f64, extent: u32| {
            let start = (at - side / 2.0).floor().clamp(0.0, f64::from(extent - 1)) as u32;
            let end = (at + side / 2.0).ceil().clamp(f64::from(start + 1), f64::from(extent)) as u32;
            (start, end - start)
        };
        let ((x, width), (y, height)) = (along(at.x, image.width), along(at.y, image.height));
        Self { origin: [x, y], size: Size { width, height } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_fill_the_upper_left_of_the_frame() {
        let image = RgbImage { size: Size { width: 6, height: 4 }, pixels: vec![255; 72] };
        let frame = Frame::letterbox(&image, 9, Normalization::Imagenet);
        assert_eq!((frame.resized, frame.values.len()), (Size { width: 9, height: 6 }, 243));
        let white = (255.0 - IMAGENET_MEAN[2]) / IMAGENET_STD[2];
        assert!(frame.values[..162].chunks_exact(3).all(|pixel| pixel[2] == white));
        assert!(frame.values[162..].iter().all(|value| *value == 0.0));
        assert_eq!(frame.point(PointInImage { x: 6.0, y: 2.0 }), [9.0, 3.0]);
        assert_eq!(frame.used_cells(3), Size { width: 3, height: 2 });
        assert_eq!(frame.cells_per_pixel(3), [0.5, 0.5]);
    }

    #[test]
    fn a_part_is_shown_as_if_it_were_the_image() {
        let size = Size { width: 7, height: 5 };
        let image = RgbImage { size, pixels: (0..105).collect() };
        let part = Part::around(PointInImage { x: 5.5, y: 1.0 }, 3.0, size);
        assert_eq!(part, Part { origin: [4, 0], size: Size { width: 3, height: 3 } });
        let alone: Vec<u8> = [12..21, 33..42, 54..63].into_iter().flatten().collect();
        let alone = Frame::letterbox(&RgbImage { size: part.size, pixels: alone }, 6, Normalization::Imagenet);
        let frame =
            Frame::of_part(&image, part, Framing::Letterbox { side: 6, normalization: Normalization::Imagenet });
        assert_eq!((&frame.values, frame.resized), (&alone.values, alone.resized));
        assert_eq!(frame.point(PointInImage { x: 5.5, y: 1.0 }), [3.0, 2.0]);
        let beyond = Part::around(PointInImage { x: 90.0, y: -3.0 }, 2.0, size);
        assert_eq!(beyond, Part { origin: [6, 0], size: Size { width: 1, height: 1 } });
    }
    #[test]
    fn a_stretched_frame_has_a_scale_for_each_axis() {
        let image = RgbImage { size: Size { width: 4, height: 2 }, pixels: vec![255; 24] };
        let frame = Frame::stretch(&image, 8, Resize::Sam2Transforms);
        let white = (255.0 - IMAGENET_MEAN[0]) / IMAGENET_STD[0];
        assert!(frame.values.chunks_exact(3).all(|pixel| (pixel[0] - white).abs() < 1e-5));
        assert_eq!(frame.point(PointInImage { x: 1.0, y: 1.0 }), [2.0, 4.0]);
        assert_eq!((frame.used_cells(4), frame.cells_per_pixel(4)), (Size { width: 4, height: 4 }, [1.0, 2.0]));
        let zoom = Some(Zoom { below: 5, surroundings: 4 });
        assert_eq!(Framing::Stretch { side: 8, resize: Resize::Sam2Transforms }.preprocessing(zoom), None);
    }
}
