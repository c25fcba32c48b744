//! The one map between an image and the square input of a student: cutting images and masks out, pasting logits back.

use std::ops::Range;

use crate::filter::AxisFilter;
use crate::geometry::{PixelRect, PointInImage, RectInImage, Size};
use crate::image_file::RgbImage;
use crate::image_part::ImagePart;
use crate::mask::Mask;
use crate::rle::Rle;

/// Which rectangle of the image a student sees, and on how many pixels.
///
/// A rectangle that is not square is stretched onto the grid; one that runs past the image's border is padded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CropGeometry {
    /// What the crop shows, in image pixels.
    pub rect_in_image: RectInImage,
    /// Side of the student's square input in pixels, e.g. 96.
    pub grid: u32,
}

impl CropGeometry {
    /// Where a point of the image lies in the crop, as `[x, y]` in crop pixels (continuous: `[0, grid]` inside).
    pub fn point_in_crop(&self, point_in_image: PointInImage) -> [f64; 2] {
        let (rect, grid) = (&self.rect_in_image, f64::from(self.grid));
        [(point_in_image.x - rect.x0) * grid / rect.width(), (point_in_image.y - rect.y0) * grid / rect.height()]
    }

    /// Where a point of the crop, `[x, y]` in crop pixels, lies in the image.
    pub fn point_in_image(&self, point_in_crop: [f64; 2]) -> PointInImage {
        let (rect, grid) = (&self.rect_in_image, f64::from(self.grid));
        PointInImage {
            x: rect.x0 + point_in_crop[0] * rect.width() / grid,
            y: rect.y0 + point_in_crop[1] * rect.height() / grid,
        }
    }
}

/// Cuts the student's input out of an image: `grid * grid * 3` bytes, rows of RGB pixels.
///
/// Bilinear with the support widened when shrinking (anti-aliased). What lies outside of the image is [`PADDING`].
/// The filter sees the pixels that the rectangle touches and no others.
///
/// # Panics
/// If the grid is 0, the rectangle has no extent or is not finite, or `image.pixels` does not have the size it says.
/// # Source
/// Pillow 11.2.1 (the version PicoSAM2 pins), `crop` of the touched pixels followed by `resize((grid, grid), BILINEAR, box)`:
/// equal bit for bit, with the image extended by [`PADDING`] (Pillow pads with 0). Pillow 13 filters rows before columns
/// where the height shrinks much more than the width, and differs there by one level.
pub fn crop_image(image: &RgbImage, geometry: &CropGeometry) -> Vec<u8> {
    assert_eq!(image.pixels.len(), image.size.n_pixels() * 3, "crop_image: bytes of an image of {}", image.size);
    let place = PixelRect { x0: 0, y0: 0, x1: image.size.width, y1: image.size.height };
    cut(&ImagePart { image: image.size, place, pixels: &image.pixels }, geometry)
}

/// The pixels of an image that a crop needs.
///
/// # Panics
/// As [`crop_image`].
pub fn pixels_needed(geometry: &CropGeometry, image: Size) -> PixelRect {
    PixelRect::touched(checked_rect(geometry), image)
}

/// How many of an image's rows a crop needs, counted from the top.
///
/// # Panics
/// As [`crop_image`].
pub fn rows_needed(geometry: &CropGeometry, size: Size) -> u32 {
    pixels_needed(geometry, size).y1
}

/// [`crop_image`] of an image of which only a part is there.
///
/// # Panics
/// As [`crop_image`], and if the part lacks [pixels that are needed](pixels_needed), or does not have the size it says.
pub fn crop_part(part: &ImagePart, geometry: &CropGeometry) -> Vec<u8> {
    let (needed, place) = (pixels_needed(geometry, part.image), part.place);
    assert!(place.holds(needed), "crop_part: {place} of {needed}");
    assert_eq!(part.pixels.len() as u64, ImagePart::n_bytes(place), "crop_part: bytes of {place}");
    cut(part, geometry)
}

/// Cuts out of a part that holds what is needed.
fn cut(part: &ImagePart, geometry: &CropGeometry) -> Vec<u8> {
    let (rect, grid) = (checked_rect(geometry), geometry.grid as usize);
    if pixels_needed(geometry, part.image).is_empty() {
        return vec![PADDING; grid * grid * 3];
    }
    let columns = AxisFilter::new(rect.x0, rect.x1, grid, part.image.width as usize, PADDING);
    let row_filter = AxisFilter::new(rect.y0, rect.y1, grid, part.image.height as usize, PADDING);
    // Columns first, rounded to bytes, then rows: the order is part of the result.
    let (row_bytes, touched) = (part.row_bytes(), row_filter.touched());
    let in_part = |row: usize| (row - part.place.y0 as usize) * row_bytes;
    let rows = &part.pixels[in_part(touched.start)..in_part(touched.end)];
    let narrow = columns.filter_columns(rows, row_bytes, part.place.x0 as usize);
    row_filter.filter_rows(&narrow, grid * 3)
}

/// Cuts the ground truth of a crop out of a mask: `grid * grid` values 0 or 1, row-major; 0 outside of the image.
///
/// # Panics
/// As [`crop_image`].
/// # Source
/// Pillow, `crop` of the touched pixels followed by `resize((grid, grid), NEAREST, box)`: equal bit for bit.
pub fn crop_mask(mask: &Mask, geometry: &CropGeometry) -> Vec<u8> {
    assert_eq!(mask.bits.len(), mask.size.n_pixels(), "crop_mask: bits of a mask of {}", mask.size);
    let (rect, grid) = (checked_rect(geometry), geometry.grid as usize);
    let (first_column, columns) = nearest_positions(rect.x0, rect.x1, grid, mask.size.width as usize);
    let (first_row, rows) = nearest_positions(rect.y0, rect.y1, grid, mask.size.height as usize);
    let mut crop = vec![0; grid * grid];
    for (out, row) in crop.chunks_exact_mut(grid).skip(first_row).zip(rows) {
        let bits = &mask.bits[row * mask.size.width as usize..];
        out[first_column..].iter_mut().zip(&columns).for_each(|(out, &column)| *out = bits[column]);
    }
    crop
}

/// [`crop_mask`] of a mask in runs, of which only those in the crop are looked at.
///
/// # Panics
/// As [`crop_image`].
pub fn crop_rle(mask: &Rle, geometry: &CropGeometry) -> Vec<u8> {
    let (rect, grid, size) = (checked_rect(geometry), geometry.grid as usize, mask.size());
    let (first_column, columns) = nearest_positions(rect.x0, rect.x1, grid, size.width as usize);
    let (first_row, rows) = nearest_positions(rect.y0, rect.y1, grid, size.height as usize);
    // Positions ascend: what comes from a range of the image is a range of the crop.
    let outs = |first: usize, positions: &[usize], within: Range<u32>| {
        let before = |end: u32| first + positions.partition_point(|&position| position < end as usize);
        before(within.start)..before(within.end)
    };
    let mut crop = vec![0; grid * grid];
    for (column, run) in mask.column_runs() {
        let outs_of_column = outs(first_column, &columns, column..column + 1);
        if !outs_of_column.is_empty() {
            let outs_of_run = outs(first_row, &rows, run);
            outs_of_run.for_each(|row| crop[row * grid..][outs_of_column.clone()].fill(1));
        }
    }
    crop
}

/// The full-image prediction: a pixel is set if its centre lies in the crop and the logits there, bilinear between the
/// centres of crop pixels and constant beyond the outermost ones, are above 0.
///
/// # Panics
/// If there are not `grid * grid` logits; as [`crop_image`].
pub fn paste_logits(logits_in_crop: &[f32], geometry: &CropGeometry, image: Size) -> Mask {
    let pasting = Pasting::new(logits_in_crop, geometry, image);
    let mut mask = Mask::empty(image);
    let first = pasting.first_row * image.width as usize + pasting.first_column;
    pasting.write(logits_in_crop, &mut mask.bits, first, image.width as usize);
    mask
}

/// [`paste_logits`] in runs, in the time that the crop's pixels take, however large the image is.
///
/// # Panics
/// As there, and if the image has no pixel or more than 2^32.
pub fn paste_logits_rle(logits_in_crop: &[f32], geometry: &CropGeometry, image: Size) -> Rle {
    let pasting = Pasting::new(logits_in_crop, geometry, image);
    let (width, height) = (pasting.columns.len(), pasting.rows.len());
    if width * height == 0 {
        return Rle::empty(image).expect("an image with pixels");
    }
    let mut bits = vec![0; width * height];
    pasting.write(logits_in_crop, &mut bits, 0, width);
    let part = Mask { size: Size { width: width as u32, height: height as u32 }, bits };
    Rle::from_mask(&part).in_image([pasting.first_column as u32, pasting.first_row as u32], image)
}

/// Where the pixels of an image lie between those of a crop, for those in the crop.
struct Pasting {
    grid: usize,
    first_column: usize,
    columns: Vec<Between>,
    first_row: usize,
    rows: Vec<Between>,
}

impl Pasting {
    fn new(logits_in_crop: &[f32], geometry: &CropGeometry, image: Size) -> Self {
        let (rect, grid) = (checked_rect(geometry), geometry.grid as usize);
        assert_eq!(logits_in_crop.len(), grid * grid, "paste_logits: logits of a grid of {grid}");
        let (first_column, columns) = bilinear_positions(rect.x0, rect.x1, grid, image.width);
        let (first_row, rows) = bilinear_positions(rect.y0, rect.y1, grid, image.height);
        Self { grid, first_column, columns, first_row, rows }
    }

    /// Writes the crop's part of a mask whose rows have so many pixels; `first` is its first pixel.
    fn write(&self, logits_in_crop: &[f32], bits: &mut [u8], first: usize, row_len: usize) {
        let grid = self.grid;
        let mut blended = vec![0f32; grid];
        for (y, row) in self.rows.iter().enumerate() {
            let (upper, lower) =
                (&logits_in_crop[row.low * grid..][..grid], &logits_in_crop[row.high * grid..][..grid]);
            for (out, (&upper, &lower)) in blended.iter_mut().zip(upper.iter().zip(lower)) {
                *out = upper + (lower - upper) * row.share_of_high;
            }
            let out = &mut bits[first + y * row_len..][..self.columns.len()];
            for (bit, at) in out.iter_mut().zip(&self.columns) {
                let logit = blended[at.low] + (blended[at.high] - blended[at.low]) * at.share_of_high;
                *bit = u8::from(logit > 0.0);
            }
        }
    }
}

/// The grey of what lies outside of the image: `(128 - 128) / 128 = 0` for the network.
pub const PADDING: u8 = 128;

/// The first output pixel whose source pixel lies in the image, and the source pixels of it and those after it, as far as they do;
/// they ascend.
fn nearest_positions(start: f64, end: f64, grid: usize, image_len: usize) -> (usize, Vec<usize>) {
    let window_start = start.floor();
    let scale = (end - start) / grid as f64;
    // Summed up instead of multiplied, as Pillow does: on an exact tie the rounding decides.
    let mut position = (start - window_start) + scale * 0.5;
    let (mut first, mut positions) = (0, Vec::with_capacity(grid));
    for _ in 0..grid {
        let pixel = window_start as i64 + position as i64;
        if pixel < 0 {
            first += 1;
        } else if pixel < image_len as i64 {
            positions.push(pixel as usize);
        }
        position += scale;
    }
    (first, positions)
}

/// Between which two crop pixels an image pixel's centre lies.
struct Between {
    low: usize,
    high: usize,
    share_of_high: f32,
}

/// The first image pixel whose centre lies in `[start, end)`, and where it and those after it lie between crop pixels.
fn bilinear_positions(start: f64, end: f64, grid: usize, image_len: u32) -> (usize, Vec<Between>) {
    let inside = |edge: f64| (edge - 0.5).ceil().clamp(0.0, f64::from(image_len)) as usize;
    let (first, after) = (inside(start), inside(end));
    let last = grid - 1;
    let between = |pixel: usize| {
        let at = ((pixel as f64 + 0.5 - start) * grid as f64 / (end - start) - 0.5).clamp(0.0, last as f64);
        let low = at.floor();
        Between { low: low as usize, high: (low as usize + 1).min(last), share_of_high: (at - low) as f32 }
    };
    (first, (first..after).map(between).collect())
}

fn checked_rect(geometry: &CropGeometry) -> &RectInImage {
    let rect = &geometry.rect_in_image;
    let finite = [rect.x0, rect.y0, rect.x1, rect.y1].iter().all(|edge| edge.is_finite());
    assert!(geometry.grid > 0 && finite && rect.width() > 0.0 && rect.height() > 0.0, "crop geometry: {geometry:?}");
    rect
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image_file::UpperRows;
    use proptest::prelude::*;
    use sensei_testing::golden;

    fn geometry(x0: f64, y0: f64, x1: f64, y1: f64, grid: u32) -> CropGeometry {
        CropGeometry { rect_in_image: RectInImage { x0, y0, x1, y1 }, grid }
    }

    /// High bit first, as numpy's `packbits`.
    fn unpack(bytes: &[u8]) -> Vec<u8> {
        bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect()
    }

    #[test]
    fn crops_are_pillows_bit_for_bit() {
        let case = golden("crop");
        let shape = case.shape("image");
        let size = Size { width: shape[1] as u32, height: shape[0] as u32 };
        let image = RgbImage { size, pixels: case.u8s("image") };
        let mask = Mask { size, bits: case.u8s("mask") };
        let runs = Rle::from_mask(&mask);
        let (images, masks) = (case.u8s("images"), unpack(&case.u8s("masks")));
        let mut at = 0;
        for (rect, grid) in case.f64s("rects").as_chunks::<4>().0.iter().zip(case.i64s("grids")) {
            let [x0, y0, x1, y1] = *rect;
            let geometry = geometry(x0, y0, x1, y1, grid as u32);
            let n_pixels = (grid * grid) as usize;
            assert!(crop_image(&image, &geometry) == images[at * 3..][..n_pixels * 3], "image, {geometry:?}");
            assert!(crop_mask(&mask, &geometry) == masks[at..][..n_pixels], "mask, {geometry:?}");
            assert!(crop_rle(&runs, &geometry) == masks[at..][..n_pixels], "runs, {geometry:?}");
            at += n_pixels;
        }
        assert_eq!(at * 3, images.len());
    }

    #[test]
    fn points_go_there_and_back() {
        let geometry = geometry(-12.5, 30.0, 107.5, 90.0, 96);
        let upper_left = geometry.point_in_crop(PointInImage { x: -12.5, y: 30.0 });
        assert_eq!(upper_left, [0.0, 0.0]);
        assert_eq!(geometry.point_in_crop(PointInImage { x: 47.5, y: 90.0 }), [48.0, 96.0]);
        assert_eq!(geometry.point_in_image([48.0, 48.0]), PointInImage { x: 47.5, y: 60.0 });
    }

    #[test]
    fn outside_of_the_image_is_grey_and_background() {
        let size = Size { width: 4, height: 3 };
        let image = RgbImage { size, pixels: vec![255; 36] };
        let mask = Mask { size, bits: vec![1; 12] };
        let right_half_outside = geometry(2.0, 0.0, 6.0, 3.0, 4);
        let crop = crop_image(&image, &right_half_outside);
        assert_eq!(crop[..12], [255, 255, 255, 255, 255, 255, 128, 128, 128, 128, 128, 128]);
        assert_eq!(crop_mask(&mask, &right_half_outside)[..4], [1, 1, 0, 0]);
        let far_away = geometry(1e5, -1e5, 1e5 + 50.0, -1e5 + 50.0, 8);
        assert!(crop_image(&image, &far_away).iter().all(|&value| value == PADDING));
        assert!(crop_mask(&mask, &far_away).iter().all(|&bit| bit == 0));
        assert!(crop_rle(&Rle::from_mask(&mask), &far_away).iter().all(|&bit| bit == 0));
        assert_eq!(paste_logits(&[1.0; 64], &far_away, size).area(), 0);
    }

    #[test]
    fn pasting_marks_the_pixels_under_positive_logits() {
        let size = Size { width: 10, height: 8 };
        // Four image pixels a logit; the left column of logits is positive, so the edge lies halfway between the centres.
        let geometry = geometry(1.0, 2.0, 9.0, 6.0, 2);
        let pasted = paste_logits(&[1.0, -1.0, 1.0, -1.0], &geometry, size);
        let expected = |x: u32, y: u32| (1..5).contains(&x) && (2..6).contains(&y);
        for (x, y) in (0..10).flat_map(|x| (0..8).map(move |y| (x, y))) {
            assert_eq!(pasted.at(x, y), expected(x, y), "pixel ({x}, {y})");
        }
        // 0 is background.
        assert_eq!(paste_logits(&[0.0; 4], &geometry, size).area(), 0);
    }

    #[test]
    #[should_panic(expected = "crop_part: columns 0..4 of rows 0..1 of columns 0..2 of rows 0..2")]
    fn rows_that_are_not_there_are_a_bug() {
        let size = Size { width: 4, height: 3 };
        let upper = UpperRows { size, pixels: vec![0; 12] };
        crop_part(&upper.as_part(), &geometry(0.0, 0.0, 2.0, 1.5, 8));
    }

    #[test]
    #[should_panic(expected = "crop geometry")]
    fn a_rectangle_without_extent_is_a_bug() {
        let size = Size { width: 4, height: 3 };
        crop_mask(&Mask::empty(size), &geometry(2.0, 2.0, 2.0, 3.0, 96));
    }

    proptest! {
        #[test]
        fn pasted_runs_are_the_pasted_mask(
            width in 1u32..50, height in 1u32..50, grid in 1u32..12,
            x in -40f64..60.0, y in -40f64..60.0, sides in (0.5f64..90.0, 0.5f64..90.0),
            logits in proptest::collection::vec(-1f32..1.0, 144),
        ) {
            let image = Size { width, height };
            let crop = geometry(x, y, x + sides.0, y + sides.1, grid);
            let logits = &logits[..(grid * grid) as usize];
            let expected = Rle::from_mask(&paste_logits(logits, &crop, image));
            prop_assert_eq!(paste_logits_rle(logits, &crop, image), expected);
            let full = vec![1.0; (grid * grid) as usize];
            let expected = Rle::from_mask(&paste_logits(&full, &crop, image));
            prop_assert_eq!(paste_logits_rle(&full, &crop, image), expected);
        }
    }

    proptest! {
        #[test]
        fn runs_and_the_needed_pixels_are_enough(
            width in 1u32..50, height in 1u32..50, grid in 1u32..40,
            x in -30f64..60.0, y in -30f64..60.0, sides in (0.5f64..80.0, 0.5f64..80.0), seed: u64,
            more in [0u32..3, 0u32..3, 0u32..3, 0u32..3],
        ) {
            let size = Size { width, height };
            let random = |idx: u64| ((idx ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8;
            let image = RgbImage { size, pixels: (0..size.n_pixels() as u64 * 3).map(random).collect() };
            let mask = Mask { size, bits: image.pixels.chunks(3).map(|pixel| u8::from(pixel[0] < 100)).collect() };
            let geometry = geometry(x, y, x + sides.0, y + sides.1, grid);
            let upper = &image.pixels[..(rows_needed(&geometry, size) * width * 3) as usize];
            let rows = UpperRows { size, pixels: upper.to_vec() };
            prop_assert_eq!(crop_part(&rows.as_part(), &geometry), crop_image(&image, &geometry));
            let needed = pixels_needed(&geometry, size);
            let place = PixelRect {
                x0: needed.x0.saturating_sub(more[0]),
                y0: needed.y0.saturating_sub(more[1]),
                x1: (needed.x1 + more[2]).min(width),
                y1: (needed.y1 + more[3]).min(height),
            };
            let row = |y: u32| &image.pixels[((y * width + place.x0) * 3) as usize..][..(place.width() * 3) as usize];
            let pixels: Vec<u8> = (place.y0..place.y1).flat_map(row).copied().collect();
            let part = ImagePart { image: size, place, pixels: &pixels };
            prop_assert_eq!(crop_part(&part, &geometry), crop_image(&image, &geometry));
            prop_assert_eq!(crop_rle(&Rle::from_mask(&mask), &geometry), crop_mask(&mask, &geometry));
        }

        #[test]
        fn a_native_window_is_copied_and_pasted_back(x0 in -40i32..70, y0 in -40i32..60, seed: u64) {
            let size = Size { width: 61, height: 47 };
            let random = |idx: u64| (idx ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            let pixels: Vec<u8> = (0..size.n_pixels() as u64 * 3).map(|idx| random(idx) as u8).collect();
            let mask = Mask { size, bits: pixels.chunks(3).map(|pixel| pixel[0] & 1).collect() };
            let (x, y) = (f64::from(x0), f64::from(y0));
            let geometry = geometry(x, y, x + 32.0, y + 32.0, 32);
            let (crop, truth) = (crop_image(&RgbImage { size, pixels: pixels.clone() }, &geometry), crop_mask(&mask, &geometry));
            let logits: Vec<f32> = truth.iter().map(|&bit| f32::from(bit) - 0.5).collect();
            let pasted = paste_logits(&logits, &geometry, size);
            for (idx, (row, column)) in (0..32).flat_map(|row| (0..32).map(move |column| (row, column))).enumerate() {
                let (column, row) = (x0 + column, y0 + row);
                if (0..61).contains(&column) && (0..47).contains(&row) {
                    let at = row as usize * 61 + column as usize;
                    prop_assert_eq!(&crop[idx * 3..][..3], &pixels[at * 3..][..3]);
                    prop_assert_eq!(truth[idx], mask.bits[at]);
                    prop_assert_eq!(pasted.bits[at], mask.bits[at]);
                } else {
                    prop_assert_eq!(&crop[idx * 3..][..3], &[PADDING; 3]);
                    prop_assert_eq!(truth[idx], 0);
                }
            }
        }
    }
}
