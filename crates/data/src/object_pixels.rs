//! The pixels of an object that prompts are made of, found in its runs: no mask of the whole image is written for them.
//!
//! A pixel is `[column, row]`; "the first" of several is the first in row-major order.

use crate::rle::Rle;

/// The middle of the mask's bounding box (rounded to the upper left) if that pixel is set, else the set pixel nearest to it, of
/// several the first. `None` for an empty mask.
///
/// # Source
/// PicoSAM2, `PicoSAM2Dataset.__getitem__`.
pub(crate) fn central_pixel(mask: &Rle) -> Option<[u32; 2]> {
    let [x, y, width, height] = mask.bbox().map(|value| value as i64);
    let (center_x, center_y) = ((2 * x + width - 1) / 2, (2 * y + height - 1) / 2);
    let nearest = mask.column_runs().map(|(column, rows)| {
        let (column, row) = (i64::from(column), center_y.clamp(i64::from(rows.start), i64::from(rows.end) - 1));
        let distance = (column - center_x).pow(2) + (row - center_y).pow(2);
        (distance, row, column)
    });
    nearest.min().map(|(_, row, column)| [column as u32, row as u32])
}

/// The set pixel that `n` others precede in row-major order, if there are more than `n`.
pub(crate) fn nth_pixel(mask: &Rle, n: u32) -> Option<[u32; 2]> {
    // How many columns more are set in a row than in the one above.
    let mut more = vec![0i64; mask.size().height as usize + 1];
    for (_, rows) in mask.column_runs() {
        more[rows.start as usize] += 1;
        more[rows.end as usize] -= 1;
    }
    let (mut before, mut in_row) = (i64::from(n), 0);
    let row = more.iter().position(|more| {
        in_row += more;
        let found = before < in_row;
        before -= if found { 0 } else { in_row };
        found
    })? as u32;
    let column = mask.column_runs().filter(|(_, rows)| rows.contains(&row)).nth(before as usize)?.0;
    Some([column, row])
}

/// The set pixel with the largest distance to a pixel that is not set or lies outside of the image, of several the first. `None` for
/// an empty mask.
///
/// # Source
/// Meijster et al. 2000, "A general algorithm for computing distance transforms in linear time": exact, in whole numbers.
pub(crate) fn innermost_pixel(mask: &Rle) -> Option<[u32; 2]> {
    let [left, upper, width, height] = mask.bbox().map(|value| value as u32);
    // A frame of one pixel around the extent: nothing set lies beyond it.
    let (width, height) = (width as usize + 2, height as usize + 2);
    // Distance to the nearest clear pixel of the same column.
    let mut vertical = vec![0i64; width * height];
    for (column, rows) in mask.column_runs() {
        for row in rows.clone() {
            let at = (row - upper + 1) as usize * width + (column - left + 1) as usize;
            vertical[at] = i64::from((row - rows.start + 1).min(rows.end - row));
        }
    }
    let (mut best, mut best_distance) = (None, 0);
    // Of the parabolas `(x - column)^2 + vertical^2`, those that are the lowest somewhere, and from where on.
    let mut lowest: Vec<(i64, i64)> = Vec::with_capacity(width);
    for row in 1..height - 1 {
        let squared = |column: i64| vertical[row * width + column as usize].pow(2);
        let value = |at: i64, column: i64| (at - column).pow(2) + squared(column);
        lowest.clear();
        for column in 0..width as i64 {
            while lowest.last().is_some_and(|&(other, from)| value(from, other) > value(from, column)) {
                lowest.pop();
            }
            // The first place where the new parabola is the lower one.
            let from = lowest.last().map_or(0, |&(other, _)| {
                1 + (column * column - other * other + squared(column) - squared(other))
                    .div_euclid(2 * (column - other))
            });
            if from < width as i64 {
                lowest.push((column, from));
            }
        }
        let mut nth = 0;
        for at in 1..width as i64 - 1 {
            while lowest.get(nth + 1).is_some_and(|&(_, from)| from <= at) {
                nth += 1;
            }
            let distance = value(at, lowest[nth].0);
            if distance > best_distance {
                (best, best_distance) = (Some([left + at as u32 - 1, upper + row as u32 - 1]), distance);
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::geometry::Size;
    use crate::mask::Mask;
    use crate::sampling::{Purpose, below, stream};

    /// Each pixel of its own; `density` in percent.
    fn random_mask(width: u32, height: u32, density: u32, seed: u64) -> Mask {
        let mut rng = stream(Purpose::Synth, seed, 0, 0);
        let bits = (0..width * height).map(|_| u8::from(below(&mut rng, 100) < density)).collect();
        Mask { size: Size { width, height }, bits }
    }

    /// The set pixels in row-major order, as `[x, y]`.
    fn set_pixels(mask: &Mask) -> Vec<[i64; 2]> {
        let width = mask.size.width as usize;
        let set = mask.bits.iter().enumerate().filter(|(_, bit)| **bit != 0);
        set.map(|(idx, _)| [(idx % width) as i64, (idx / width) as i64]).collect()
    }

    /// By the definition, over the pixels.
    fn central_by_force(mask: &Mask) -> Option<[i64; 2]> {
        let set = set_pixels(mask);
        let range = |axis: usize| {
            let values = || set.iter().map(|pixel| pixel[axis]);
            Some((values().min()? + values().max()?) / 2)
        };
        let center = [range(0)?, range(1)?];
        // `min_by_key` returns the first of equal ones, as numpy's argmin over row-major positions does.
        set.iter().copied().min_by_key(|[x, y]| (x - center[0]).pow(2) + (y - center[1]).pow(2))
    }

    /// Every set pixel against every clear one, the frame around the image included.
    fn innermost_by_force(mask: &Mask) -> Option<[i64; 2]> {
        let (width, height) = (i64::from(mask.size.width), i64::from(mask.size.height));
        let is_set =
            |x: i64, y: i64| (0..width).contains(&x) && (0..height).contains(&y) && mask.at(x as u32, y as u32);
        let distance = |x: i64, y: i64| {
            let pixels = (-1..=height).flat_map(|v| (-1..=width).map(move |u| (u, v)));
            pixels.filter(|&(u, v)| !is_set(u, v)).map(|(u, v)| (u - x).pow(2) + (v - y).pow(2)).min()
        };
        let mut best = (0, None);
        for [x, y] in set_pixels(mask) {
            let found = distance(x, y).expect("the frame is clear");
            if found > best.0 {
                best = (found, Some([x, y]));
            }
        }
        best.1
    }

    proptest! {
        #[test]
        fn runs_give_the_pixels_that_the_definitions_give(
            width in 1u32..24,
            height in 1u32..24,
            density in 0u32..=100,
            seed in any::<u64>(),
        ) {
            let mask = random_mask(width, height, density, seed);
            let (rle, set) = (Rle::from_mask(&mask), set_pixels(&mask));
            let signed = |pixel: Option<[u32; 2]>| pixel.map(|pixel| pixel.map(i64::from));
            prop_assert_eq!(signed(central_pixel(&rle)), central_by_force(&mask));
            prop_assert_eq!(signed(innermost_pixel(&rle)), innermost_by_force(&mask));
            for n in 0..=set.len() {
                prop_assert_eq!(signed(nth_pixel(&rle, n as u32)), set.get(n).copied(), "pixel {}", n);
            }
        }
    }
}
