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
    let size = mask.size();
    let n_columns = size.width as usize;
    let shrunk = shrink_in_columns(mask, distance);
    // A column of the erosion is what 2 * distance + 1 columns share. Those are two spans of a power of two that overlap.
    let window = 2 * distance as usize + 1;
    if window > n_columns {
        return mask.clone();
    }
    let (mut span, mut shared) = (1, shrunk);
    while 2 * span <= window {
        shared = (0..shared.len().saturating_sub(span)).map(|at| common(&shared[at], &shared[at + span])).collect();
        span *= 2;
    }
    let eroded = (0..=n_columns - window).map(|at| common(&shared[at], &shared[at + window - span]));
    let first_column = distance as usize;
    let height = size.height;
    let inside = eroded.enumerate().flat_map(|(idx, rows)| {
        let start = (first_column + idx) as u32 * height;
        rows.into_iter().map(move |[low, high]| [start + low, start + high])
    });
    mask.without(inside)
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

/// The foreground of each column, less `distance` pixels at both ends of each of its runs.
fn shrink_in_columns(mask: &Rle, distance: u32) -> Vec<Rows> {
    let Size { width, height } = mask.size();
    let mut columns = vec![Rows::new(); width as usize];
    for (start, end) in mask.foreground() {
        let mut at = start;
        while at < end {
            let column = at / height;
            let column_end = min(end, (column + 1) * height);
            let (low, high) = (at - column * height + distance, (column_end - column * height).saturating_sub(distance));
            if low < high {
                columns[column as usize].push([low, high]);
            }
            at = column_end;
        }
    }
    columns
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
