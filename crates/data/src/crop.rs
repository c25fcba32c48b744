//! The one map between an image and the square input of a student: cutting images and masks out, pasting logits back.

use crate::geometry::{PointInImage, RectInImage, Size};
use crate::image_file::RgbImage;
use crate::mask::Mask;

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
    let (rect, grid) = (checked_rect(geometry), geometry.grid as usize);
    let columns = AxisFilter::new(rect.x0, rect.x1, grid, image.size.width as usize);
    let rows = AxisFilter::new(rect.y0, rect.y1, grid, image.size.height as usize);

    // Columns first, rounded to bytes, then rows: the order is part of the result.
    let (first_row, end_row) = rows.touched();
    let image_stride = image.size.width as usize * 3;
    let mut narrow = vec![0u8; (end_row - first_row) * grid * 3];
    for (out, row) in narrow.chunks_exact_mut(grid * 3).zip(image.pixels.chunks_exact(image_stride).skip(first_row)) {
        for (out, taps) in out.as_chunks_mut::<3>().0.iter_mut().zip(&columns.taps) {
            let mut sums = [HALF + taps.padding; 3];
            let pixels = row[taps.first * 3..(taps.first + taps.len) * 3].as_chunks::<3>().0;
            for (pixel, &weight) in pixels.iter().zip(columns.weights_of(taps)) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            *out = sums.map(to_byte);
        }
    }
    let mut crop = vec![0u8; grid * grid * 3];
    let mut sums = vec![0i32; grid * 3];
    for (out, taps) in crop.chunks_exact_mut(grid * 3).zip(&rows.taps) {
        sums.fill(HALF + taps.padding);
        let touched = narrow.chunks_exact(grid * 3).skip(taps.first.saturating_sub(first_row));
        for (row, &weight) in touched.zip(rows.weights_of(taps)) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        for (out, &sum) in out.iter_mut().zip(&sums) {
            *out = to_byte(sum);
        }
    }
    crop
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
    let columns = nearest_positions(rect.x0, rect.x1, grid, mask.size.width as usize);
    let rows = nearest_positions(rect.y0, rect.y1, grid, mask.size.height as usize);
    let mut crop = Vec::with_capacity(grid * grid);
    for row in rows {
        let start = row.map(|row| row * mask.size.width as usize);
        crop.extend(columns.iter().map(|column| match (start, column) {
            (Some(start), Some(column)) => mask.bits[start + column],
            _ => 0,
        }));
    }
    crop
}

/// The full-image prediction: a pixel is set if its centre lies in the crop and the logits there, bilinear between the
/// centres of crop pixels and constant beyond the outermost ones, are above 0.
///
/// # Panics
/// If there are not `grid * grid` logits; as [`crop_image`].
pub fn paste_logits(logits_in_crop: &[f32], geometry: &CropGeometry, image: Size) -> Mask {
    let (rect, grid) = (checked_rect(geometry), geometry.grid as usize);
    assert_eq!(logits_in_crop.len(), grid * grid, "paste_logits: logits of a grid of {grid}");
    let (first_column, columns) = bilinear_positions(rect.x0, rect.x1, grid, image.width);
    let (first_row, rows) = bilinear_positions(rect.y0, rect.y1, grid, image.height);
    let mut bits = vec![0u8; image.n_pixels()];
    let mut blended = vec![0f32; grid];
    for (y, row) in (first_row..).zip(&rows) {
        let (upper, lower) = (&logits_in_crop[row.low * grid..][..grid], &logits_in_crop[row.high * grid..][..grid]);
        for (out, (&upper, &lower)) in blended.iter_mut().zip(upper.iter().zip(lower)) {
            *out = upper + (lower - upper) * row.share_of_high;
        }
        let out = &mut bits[y * image.width as usize + first_column..][..columns.len()];
        for (bit, at) in out.iter_mut().zip(&columns) {
            let logit = blended[at.low] + (blended[at.high] - blended[at.low]) * at.share_of_high;
            *bit = u8::from(logit > 0.0);
        }
    }
    Mask { size: image, bits }
}

/// The grey of what lies outside of the image: `(128 - 128) / 128 = 0` for the network.
pub const PADDING: u8 = 128;

/// The filter of one axis: for each output pixel its taps inside the image, and what the padding adds.
struct AxisFilter {
    taps: Vec<Taps>,
    weights: Vec<i32>,
}

struct Taps {
    /// First source pixel, an index into the image's row or column.
    first: usize,
    len: usize,
    first_weight: usize,
    /// Sum over the taps outside of the image of weight times [`PADDING`].
    padding: i32,
}

impl AxisFilter {
    /// Triangle filter for `grid` outputs over `[start, end)` of an axis of `image_len` pixels, in fixed point.
    fn new(start: f64, end: f64, grid: usize, image_len: usize) -> Self {
        let window_start = start.floor();
        let window_len = end.ceil() - window_start;
        let scale = (end - start) / grid as f64;
        let support = scale.max(1.0);
        let mut filter = AxisFilter { taps: Vec::with_capacity(grid), weights: Vec::new() };
        let mut exact = Vec::new();
        for out in 0..grid {
            let center = (start - window_start) + (out as f64 + 0.5) * scale;
            let low = (center - support + 0.5).trunc().max(0.0);
            let high = (center + support + 0.5).trunc().min(window_len);
            exact.clear();
            exact.extend((0..(high - low) as usize).map(|tap| {
                let distance = ((tap as f64 + low - center + 0.5) * (1.0 / support)).abs();
                if distance < 1.0 { 1.0 - distance } else { 0.0 }
            }));
            let total: f64 = exact.iter().sum();
            let first_in_image = (window_start + low) as i64;
            let mut taps = Taps { first: 0, len: 0, first_weight: filter.weights.len(), padding: 0 };
            for (position, weight) in (first_in_image..).zip(&exact) {
                let weight = (0.5 + weight / total * f64::from(1 << WEIGHT_BITS)) as i32;
                if position < 0 || position >= image_len as i64 {
                    taps.padding += weight * i32::from(PADDING);
                    continue;
                }
                if taps.len == 0 {
                    taps.first = position as usize;
                }
                taps.len += 1;
                filter.weights.push(weight);
            }
            filter.taps.push(taps);
        }
        filter
    }

    fn weights_of(&self, taps: &Taps) -> &[i32] {
        &self.weights[taps.first_weight..taps.first_weight + taps.len]
    }

    /// First and one past the last source pixel that any output needs; equal if there is none.
    fn touched(&self) -> (usize, usize) {
        let used = || self.taps.iter().filter(|taps| taps.len > 0);
        let first = used().map(|taps| taps.first).min().unwrap_or(0);
        (first, used().map(|taps| taps.first + taps.len).max().unwrap_or(first))
    }
}

fn to_byte(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

/// Source pixel of each output pixel, `None` outside of the image.
fn nearest_positions(start: f64, end: f64, grid: usize, image_len: usize) -> Vec<Option<usize>> {
    let window_start = start.floor();
    let scale = (end - start) / grid as f64;
    // Summed up instead of multiplied, as Pillow does: on an exact tie the rounding decides.
    let mut position = (start - window_start) + scale * 0.5;
    let mut positions = Vec::with_capacity(grid);
    for _ in 0..grid {
        let pixel = window_start as i64 + position as i64;
        positions.push(usize::try_from(pixel).ok().filter(|&pixel| pixel < image_len));
        position += scale;
    }
    positions
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

/// Fraction bits of a filter weight: 8 bits of pixel and 2 of headroom leave 22 of 32 (Pillow's choice).
const WEIGHT_BITS: u32 = 22;
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

#[cfg(test)]
mod tests {
    use super::*;
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
        let (images, masks) = (case.u8s("images"), unpack(&case.u8s("masks")));
        let mut at = 0;
        for (rect, grid) in case.f64s("rects").as_chunks::<4>().0.iter().zip(case.i64s("grids")) {
            let [x0, y0, x1, y1] = *rect;
            let geometry = geometry(x0, y0, x1, y1, grid as u32);
            let n_pixels = (grid * grid) as usize;
            assert!(crop_image(&image, &geometry) == images[at * 3..][..n_pixels * 3], "image, {geometry:?}");
            assert!(crop_mask(&mask, &geometry) == masks[at..][..n_pixels], "mask, {geometry:?}");
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
    #[should_panic(expected = "crop geometry")]
    fn a_rectangle_without_extent_is_a_bug() {
        let size = Size { width: 4, height: 3 };
        crop_mask(&Mask::empty(size), &geometry(2.0, 2.0, 2.0, 3.0, 96));
    }

    proptest! {
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
