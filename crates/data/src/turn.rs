//! Turning an object with the picture around it, about the middle of its box.

use crate::augment::Augmentation;
use crate::geometry::{PixelRect, RectInImage, Size};
use crate::image_part::ImagePart;
use crate::mask::Mask;
use crate::rle::Rle;

/// A shear along x and then a turn, both about a point that stays where it is.
///
/// What was turned has the size of the image. Pixels that come from beyond the image's border are those mirrored at it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Turn {
    /// The point that stays, in image pixels.
    center: [f64; 2],
    cos: f64,
    sin: f64,
    shear: f64,
}

impl Turn {
    /// A turn by `2 atan(half_tangent)`, to the right as images are drawn, and a shear by which x grows by `shear` for each pixel down.
    ///
    /// ```
    /// use sensei_data::geometry::Size;
    /// use sensei_data::mask::Mask;
    /// use sensei_data::rle::Rle;
    /// use sensei_data::turn::Turn;
    ///
    /// // A quarter to the right: the upper left pixel goes to the upper right.
    /// let turn = Turn::new([1.5, 1.5], 1.0, 0.0);
    /// let mask = Mask { size: Size { width: 3, height: 3 }, bits: vec![1, 0, 0, 0, 0, 0, 0, 0, 0] };
    /// assert_eq!(turn.mask(&Rle::from_mask(&mask)).to_mask().bits, [0, 0, 1, 0, 0, 0, 0, 0, 0]);
    /// ```
    pub fn new(center: [f64; 2], half_tangent: f64, shear: f64) -> Self {
        // Of the tangent alone, so that it is the same on every machine, as sine and cosine are not.
        let square = half_tangent * half_tangent;
        let (cos, sin) = ((1.0 - square) / (1.0 + square), 2.0 * half_tangent / (1.0 + square));
        Self { center, cos, sin, shear }
    }

    /// A mask of an image, turned: a pixel has the value of the one that its middle comes from; none comes from beyond the border.
    pub fn mask(&self, mask: &Rle) -> Rle {
        let image = mask.size();
        let [x, y, width, height] = mask.bbox();
        let turned = self.turned_bounds(&RectInImage { x0: x, y0: y, x1: x + width, y1: y + height });
        let place = PixelRect::touched(&turned, image);
        if mask.is_empty() || place.is_empty() {
            return Rle::empty(image).expect("an image that has a mask");
        }
        let stored = mask.to_mask();
        let mut bits = Vec::with_capacity(place.width() as usize * place.height() as usize);
        for row in place.y0..place.y1 {
            for column in place.x0..place.x1 {
                let [x, y] = self.stored(column, row);
                let is_inside = x >= 0.0 && y >= 0.0 && x < f64::from(image.width) && y < f64::from(image.height);
                bits.push(u8::from(is_inside && stored.at(x as u32, y as u32)));
            }
        }
        let part = Mask { size: Size { width: place.width(), height: place.height() }, bits };
        Rle::from_mask(&part).in_image([place.x0, place.y0], image)
    }

    /// The pixels of an image, in its own, that those of a place of the turned image are blended from.
    pub fn pixels_needed(&self, place: PixelRect, image: Size) -> PixelRect {
        if place.is_empty() {
            return place;
        }
        let [x0, y0, x1, y1] = [place.x0, place.y0, place.x1, place.y1].map(f64::from);
        mirrored(&bounds([[x0, y0], [x1, y0], [x0, y1], [x1, y1]].map(|point| self.stored_point(point))), image)
    }

    /// The pixels of a place of the turned image, bilinear between the middles of those of `part`: rows of three bytes a pixel.
    ///
    /// # Panics
    /// If the part lacks [pixels that are needed](Self::pixels_needed), or does not have the size it says.
    pub fn pixels(&self, part: &ImagePart, place: PixelRect) -> Vec<u8> {
        let needed = self.pixels_needed(place, part.image);
        assert!(part.place.holds(needed), "turned pixels: {} of {needed}", part.place);
        assert_eq!(part.pixels.len() as u64, ImagePart::n_bytes(part.place), "turned pixels: bytes of {}", part.place);
        let row_bytes = part.row_bytes();
        let column_at = |x: i64| (mirror(x, part.image.width) - part.place.x0) as usize * 3;
        let row_at = |y: i64| (mirror(y, part.image.height) - part.place.y0) as usize * row_bytes;
        let mut pixels = Vec::with_capacity(ImagePart::n_bytes(place) as usize);
        for row in place.y0..place.y1 {
            for column in place.x0..place.x1 {
                let [x, y] = self.stored(column, row).map(|at| at - 0.5);
                let (left, top) = (x.floor(), y.floor());
                let (right_share, bottom_share) = ((x - left) as f32, (y - top) as f32);
                let (left, top) = (left as i64, top as i64);
                let (columns, rows) = ([left, left + 1].map(column_at), [top, top + 1].map(row_at));
                let at = |row: usize, column: usize| &part.pixels[rows[row] + columns[column]..][..3];
                let corners = [at(0, 0), at(0, 1), at(1, 0), at(1, 1)];
                for channel in 0..3 {
                    let [a, b, c, d] = corners.map(|pixel| f32::from(pixel[channel]));
                    let (upper, lower) = (a + (b - a) * right_share, c + (d - c) * right_share);
                    pixels.push((upper + (lower - upper) * bottom_share + 0.5) as u8);
                }
            }
        }
        pixels
    }

    /// Where the middle of a turned pixel comes from, in image pixels.
    fn stored(&self, column: u32, row: u32) -> [f64; 2] {
        self.stored_point([f64::from(column) + 0.5, f64::from(row) + 0.5])
    }

    fn stored_point(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let ([cx, cy], &Self { cos, sin, shear, .. }) = (self.center, self);
        let (x, y) = (x - cx, y - cy);
        let (x, y) = (cos * x + sin * y, cos * y - sin * x);
        [cx + x - shear * y, cy + y]
    }

    /// What holds a rectangle after it was turned.
    fn turned_bounds(&self, rect: &RectInImage) -> RectInImage {
        let ([cx, cy], &Self { cos, sin, shear, .. }) = (self.center, self);
        let turned = |[x, y]: [f64; 2]| {
            let (x, y) = (x - cx + shear * (y - cy), y - cy);
            [cx + cos * x - sin * y, cy + sin * x + cos * y]
        };
        let &RectInImage { x0, y0, x1, y1 } = rect;
        bounds([[x0, y0], [x1, y0], [x0, y1], [x1, y1]].map(turned))
    }
}

/// Half extents around the point that stays, of what any turn of an augmentation makes of what lies within `half`, there or back.
pub(crate) fn extents_in_reach(most: &Augmentation, [x, y]: [f64; 2]) -> [f64; 2] {
    let tangent = most.roi_rotation / 2.0;
    let sin = 2.0 * tangent / (1.0 + tangent * tangent);
    // There, the shear comes first; back, the turn. Both orders are held by one that shears before and after.
    let x = x + most.roi_shear * y;
    let (x, y) = (x + sin * y, y + sin * x);
    [x + most.roi_shear * y, y]
}

/// The pixels that a rectangle touches, between which bilinear pixels lie, and those that stand in for them beyond the border.
pub(crate) fn mirrored(rect: &RectInImage, image: Size) -> PixelRect {
    let axis = |start: f64, end: f64, image_len: u32| {
        // A pixel on each side for the neighbour that is blended, and for the rounding of sums.
        let (first, last) = (start.floor() as i64 - 2, end.ceil() as i64 + 1);
        let ends = [first, last].map(|pixel| mirror(pixel, image_len));
        // Mirrored pixels go to and fro with this period; between its ends they reach an end of the image where they turn back.
        let period = 2 * i64::from(image_len);
        let stands_for = |pixel: i64| (last - pixel).div_euclid(period) > (first - 1 - pixel).div_euclid(period);
        let image_last = i64::from(image_len) - 1;
        let low = if stands_for(0) || stands_for(-1) { 0 } else { ends[0].min(ends[1]) };
        let high =
            if stands_for(image_last) || stands_for(image_last + 1) { image_len - 1 } else { ends[0].max(ends[1]) };
        (low, high + 1)
    };
    let ((x0, x1), (y0, y1)) = (axis(rect.x0, rect.x1, image.width), axis(rect.y0, rect.y1, image.height));
    PixelRect { x0, y0, x1, y1 }
}

/// The pixel of a line that stands for one beyond its ends: the first stands beside itself.
fn mirror(pixel: i64, len: u32) -> u32 {
    let len = i64::from(len);
    let at = pixel.rem_euclid(2 * len);
    at.min(2 * len - 1 - at) as u32
}

fn bounds(points: [[f64; 2]; 4]) -> RectInImage {
    let of = |axis: usize, pick: fn(f64, f64) -> f64| {
        points.iter().map(|point| point[axis]).reduce(pick).expect("four points")
    };
    RectInImage { x0: of(0, f64::min), y0: of(1, f64::min), x1: of(0, f64::max), y1: of(1, f64::max) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::{Augmentation, draw, sample_rng};
    use crate::crop::pixels_needed;
    use crate::crop_rule::{BoxBorder, CropRule};
    use crate::prompt_source::Prompt;
    use proptest::prelude::*;

    fn whole(size: Size) -> PixelRect {
        PixelRect { x0: 0, y0: 0, x1: size.width, y1: size.height }
    }

    fn turned_image(turn: &Turn, size: Size, pixels: &[u8]) -> Vec<u8> {
        turn.pixels(&ImagePart { image: size, place: whole(size), pixels }, whole(size))
    }

    #[test]
    fn a_quarter_turn_moves_pixels_and_keeps_their_values() {
        let size = Size { width: 4, height: 4 };
        let stored: Vec<u8> = (0..16).flat_map(|value| [value, 100 + value, 200 - value]).collect();
        let turned = turned_image(&Turn::new([2.0, 2.0], 1.0, 0.0), size, &stored);
        // To the right: the left column, from below, is the upper row.
        let expected: Vec<u8> = [12, 8, 4, 0, 13, 9, 5, 1, 14, 10, 6, 2, 15, 11, 7, 3]
            .iter()
            .flat_map(|&value| [value, 100 + value, 200 - value])
            .collect();
        assert_eq!(turned, expected);
        let back = turned_image(&Turn::new([2.0, 2.0], -1.0, 0.0), size, &turned);
        assert_eq!(back, stored);
    }

    #[test]
    fn a_shear_moves_each_row_by_its_height() {
        let size = Size { width: 5, height: 3 };
        let mask = Mask { size, bits: vec![0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0] };
        // About the middle row: the row above goes to the left, the one below to the right.
        let sheared = Turn::new([2.5, 1.5], 0.0, 1.0).mask(&Rle::from_mask(&mask)).to_mask();
        assert_eq!(sheared.bits, [0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0]);
    }

    #[test]
    fn what_lies_beyond_the_border_is_mirrored_and_no_object() {
        let size = Size { width: 2, height: 1 };
        let stored = [10, 10, 10, 20, 20, 20];
        // About the right pixel's middle, by half a turn and a little less than that: the left of it comes from the right of it.
        let half = Turn::new([1.5, 0.5], 1e9, 0.0);
        assert_eq!(turned_image(&half, size, &stored), [20; 6]);
        let mask = Rle::from_mask(&Mask { size, bits: vec![1, 1] });
        assert_eq!(half.mask(&mask).to_mask().bits, [0, 1]);
        assert_eq!([-3, -2, -1, 0, 1, 2, 3, 4].map(|pixel| mirror(pixel, 2)), [1, 1, 0, 0, 1, 1, 0, 0]);
        assert_eq!([-9, -1, 0, 7].map(|pixel| mirror(pixel, 1)), [0; 4]);
    }

    #[test]
    fn a_mask_turns_with_its_picture() {
        let size = Size { width: 40, height: 30 };
        let is_in = |idx: usize| (8..22).contains(&(idx % 40)) && (9..19).contains(&(idx / 40));
        let bits: Vec<u8> = (0..size.n_pixels()).map(|idx| u8::from(is_in(idx))).collect();
        let pixels: Vec<u8> = bits.iter().flat_map(|&bit| [bit * 255; 3]).collect();
        let turn = Turn::new([15.0, 14.0], 0.17, 0.1);
        let mask = turn.mask(&Rle::from_mask(&Mask { size, bits })).to_mask();
        let turned = turned_image(&turn, size, &pixels);
        // Inside and outside of the edge, on which bilinear values lie between.
        let mut n_sure = 0;
        for (bit, pixel) in mask.bits.iter().zip(turned.as_chunks::<3>().0) {
            if pixel[0] < 10 || pixel[0] > 245 {
                assert_eq!(*bit, u8::from(pixel[0] > 245));
                n_sure += 1;
            }
        }
        assert!(n_sure > 1000 && (mask.bits.iter().map(|&bit| u32::from(bit)).sum::<u32>()).abs_diff(140) < 8);
    }

    proptest! {
        #[test]
        fn pixels_of_a_part_are_those_of_the_image(
            size in (1u32..40, 1u32..40), half_tangent in -0.6f64..0.6, shear in -0.5f64..0.5,
            center in (-5f64..45.0, -5f64..45.0), place in (0u32..40, 0u32..40, 0u32..40, 0u32..40), seed: u8,
        ) {
            let size = Size { width: size.0, height: size.1 };
            let place = PixelRect {
                x0: place.0.min(size.width - 1), y0: place.1.min(size.height - 1),
                x1: (place.0 + place.2 + 1).min(size.width), y1: (place.1 + place.3 + 1).min(size.height),
            };
            let image: Vec<u8> = (0..size.n_pixels() * 3).map(|idx| (idx as u8).wrapping_mul(37) ^ seed).collect();
            let turn = Turn::new([center.0, center.1], half_tangent, shear);
            let whole_image = ImagePart { image: size, place: whole(size), pixels: &image };
            let expected = turn.pixels(&whole_image, place);
            let needed = turn.pixels_needed(place, size);
            let rows = needed.y0..needed.y1;
            let row = |row: u32| &image[(row * size.width + needed.x0) as usize * 3..(row * size.width + needed.x1) as usize * 3];
            let part: Vec<u8> = rows.flat_map(row).copied().collect();
            prop_assert_eq!(turn.pixels(&ImagePart { image: size, place: needed, pixels: &part }, place), expected);
        }

        #[test]
        fn what_turned_crops_need_lies_in_reach(
            width in 2u32..120, height in 2u32..120, min_side in 1f64..40.0, padding in 0f64..0.4, is_clipped: bool,
            x in 0f64..1.0, y in 0f64..1.0, sides in (0.01f64..1.2, 0.01f64..1.2), before in (0f64..0.9, 0f64..0.9),
            off in (-6f64..6.0, -6f64..6.0), ranges in [0f64..=0.5, 0f64..=0.9, 0f64..=0.9, 0f64..=0.9, 0f64..=0.5], seed: u64,
        ) {
            let image = Size { width, height };
            let border = if is_clipped { BoxBorder::Clipped } else { BoxBorder::Padded };
            let rule = CropRule::Box { padding, min_side, grid: 16, border };
            let (w, h) = (f64::from(width) * sides.0, f64::from(height) * sides.1);
            let bbox = [f64::from(width) * x - w * before.0, f64::from(height) * y - h * before.1, w, h];
            let Ok(crop) = rule.crop(Prompt::Box(bbox), image) else { return Ok(()) };
            // A mask that fills the box, which does not lie quite where it was drawn.
            let is_in = |at: u32, start: f64, len: f64| (start..start + len).contains(&(f64::from(at) + 0.5));
            let at = |idx: u32| is_in(idx % width, bbox[0] + off.0, w) && is_in(idx / width, bbox[1] + off.1, h);
            let mask = Rle::from_mask(&Mask { size: image, bits: (0..width * height).map(|idx| u8::from(at(idx))).collect() });
            let [roi_shift, roi_scale, roi_aspect, roi_rotation, roi_shear] = ranges;
            let most = Augmentation { roi_shift, roi_scale, roi_aspect, roi_rotation, roi_shear, ..Augmentation::NONE };
            let reach = rule.pixels_in_reach_of_turns(crop, [bbox, mask.bbox()], &most, image);
            prop_assert!(reach.holds(pixels_needed(&crop, image)));
            for epoch in 0..20 {
                let drawn = draw(&most, &mut sample_rng(seed, epoch, 1));
                let Some(turn) = drawn.turn(bbox) else { continue };
                let turned = turn.mask(&mask);
                let Ok(crop) = rule.crop(Prompt::Box(turned.bbox()), image) else { continue };
                let shown = rule.shown(drawn.jittered(&crop), image);
                let needed = turn.pixels_needed(pixels_needed(&shown, image), image);
                prop_assert!(reach.holds(needed), "{} of {}", reach, needed);
            }
        }
    }
}
