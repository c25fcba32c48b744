//! The band of pixels along a mask's outline, found on the runs.

use std::cmp::{max, min};

use crate::geometry::Size;
use crate::rle::Rle;

/// How far a boundary reaches inwards, in pixels: 2 % of the image's diagonal, rounded (halves to even), at least 1.
///
/// # Source
/// Cheng et al., "Boundary IoU", CVPR 2021, with the ratio that the paper fixes for COCO and LVIS.
pub fn boundary_distance(size: Size) -> u32 {
    let (width, height) = (f64::from(size.width), f64::from(size.height));
    ((0.02 * (width * width + height * height).sqrt()).round_ties_even() as u32).max(1)
}

/// The pixels of a mask that have background or the outside of the image within `distance` pixels, diagonals counting as 1.
///
/// The same as the mask less its erosion by a 3 x 3 square, repeated `distance` times on a canvas with a background frame.
pub fn boundary(mask: &Rle, distance: u32) -> Rle {
    let (first_column, columns) = shrink_in_columns(mask, distance);
    // A column of the erosion is what 2 * distance + 1 columns share. Those are two spans of a power of two that overlap.
    let window = 2 * distance as usize + 1;
    let n_eroded = (columns.len() + 1).saturating_sub(window);
    let (mut span, mut shared) = (1, columns);
    while 2 * span <= window && n_eroded > 0 {
        shared = (0..shared.len() - span).map(|at| common(&shared[at], &shared[at + span])).collect();
        span *= 2;
    }
    let eroded = (0..n_eroded).map(|at| common(&shared[at], &shared[at + window - span]));
    let height = mask.size().height;
    mask.without(eroded.enumerate().flat_map(|(at, rows)| {
        let start = (first_column + distance + at as u32) * height;
        rows.into_iter().map(move |[low, high]| [start + low, start + high])
    }))
}

/// Boundary IoU: [`Rle::iou`] of the two masks' boundaries at the image's [`boundary_distance`].
///
/// # Panics
/// If the sizes differ.
/// # Source
/// Cheng et al., "Boundary IoU", CVPR 2021, equation 3.
pub fn boundary_iou(a: &Rle, b: &Rle) -> f64 {
    let distance = boundary_distance(a.size());
    boundary(a, distance).iou(&boundary(b, distance), false)
}

/// A column's foreground as half-open ranges of rows, in order and apart.
type Rows = Vec<[u32; 2]>;

/// The first column with foreground, and the foreground of each from there to the last, less `distance` pixels at both ends
/// of each run.
fn shrink_in_columns(mask: &Rle, distance: u32) -> (u32, Vec<Rows>) {
    let height = mask.size().height;
    let [x, _, width, _] = mask.bbox();
    let first_column = x as u32;
    let mut columns = vec![Rows::new(); width as usize];
    for (start, end) in mask.foreground() {
        let mut at = start;
        while at < end {
            let column = at / height;
            let column_end = min(end, (column + 1) * height);
            let (low, high) =
                (at - column * height + distance, (column_end - column * height).saturating_sub(distance));
            if low < high {
                columns[(column - first_column) as usize].push([low, high]);
            }
            at = column_end;
        }
    }
    (first_column, columns)
}

fn common(a: &Rows, b: &Rows) -> Rows {
    let mut rows = Rows::new();
    let (mut a_idx, mut b_idx) = (0, 0);
    while let (Some(&[a_low, a_high]), Some(&[b_low, b_high])) = (a.get(a_idx), b.get(b_idx)) {
        let (low, high) = (max(a_low, b_low), min(a_high, b_high));
        if low < high {
            rows.push([low, high]);
        }
        if a_high <= b_high { a_idx += 1 } else { b_idx += 1 }
    }
    rows
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mask::Mask;

    /// By the definition, pixel by pixel.
    fn boundary_of_pixels(mask: &Mask, distance: u32) -> Mask {
        let size = mask.size;
        let (width, height, reach) = (i64::from(size.width), i64::from(size.height), i64::from(distance));
        let inside = |x: i64, y: i64| {
            (0..width).contains(&x) && (0..height).contains(&y) && mask.bits[(y * width + x) as usize] != 0
        };
        let deep = |x: i64, y: i64| (-reach..=reach).all(|dx| (-reach..=reach).all(|dy| inside(x + dx, y + dy)));
        let pixel = |idx: i64| u8::from(inside(idx % width, idx / width) && !deep(idx % width, idx / width));
        Mask { size, bits: (0..width * height).map(pixel).collect() }
    }

    fn check(mask: &Mask, distance: u32) {
        let got = boundary(&Rle::from_mask(mask), distance);
        assert_eq!(got, Rle::from_mask(&boundary_of_pixels(mask, distance)), "{mask:?}, {distance}");
    }

    #[test]
    fn full_masks_have_a_frame() {
        for (width, height) in [(1, 1), (1, 9), (9, 1), (2, 2), (7, 5), (30, 20)] {
            let size = Size { width, height };
            let mask = Mask { size, bits: vec![1; size.n_pixels()] };
            (1..12).for_each(|distance| check(&mask, distance));
            (1..3).for_each(|distance| check(&Mask::empty(size), distance));
        }
    }

    #[test]
    fn distance_is_two_percent_of_the_diagonal() {
        let cases = [((640, 480), 16), ((480, 640), 16), ((1, 1), 1), ((30, 40), 1), ((75, 100), 2), ((175, 600), 12)];
        for ((width, height), expected) in cases {
            assert_eq!(boundary_distance(Size { width, height }), expected, "{width} x {height}");
        }
    }

    #[test]
    fn boundary_iou_looks_at_the_boundary_only() {
        let size = Size { width: 40, height: 30 };
        let square = |low: u32, high: u32| {
            let inside = |side: u32| (low..high).contains(&side);
            let bits = (0..30).flat_map(|y| (0..40).map(move |x| u8::from(inside(x) && inside(y)))).collect();
            Rle::from_mask(&Mask { size, bits })
        };
        assert_eq!(boundary_iou(&square(5, 25), &square(5, 25)), 1.0);
        // The frames of one pixel around 20 x 20 and 18 x 18 pixels share nothing; the squares have an IoU of .81.
        assert_eq!(boundary_iou(&square(5, 25), &square(6, 24)), 0.0);
        assert_eq!(square(5, 25).iou(&square(6, 24), false), 0.81);
    }

    proptest! {
        #[test]
        fn runs_give_what_pixels_give(width in 1u32..40, height in 1u32..40, distance in 1u32..6, holes in prop::collection::vec((0u32..1600, 1u32..60), 0..8)) {
            let size = Size { width, height };
            let mut mask = Mask { size, bits: vec![1; size.n_pixels()] };
            for (start, length) in holes {
                let n = mask.bits.len();
                let start = start as usize % n;
                mask.bits[start..n.min(start + length as usize)].fill(0);
            }
            check(&mask, distance);
        }
    }
}
