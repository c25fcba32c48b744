//! What a user gives for an object: a box or a point, derived from its annotation.

use serde::{Deserialize, Serialize};

use crate::geometry::{PointInImage, Size};
use crate::mask::Mask;
use crate::prompt::{PromptError, prompt_point};
use crate::sampling::{Purpose, below, stream, unit};

/// A prompt for one object.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Prompt {
    /// `[x, y, width, height]` in image pixels.
    Box([f64; 4]),
    /// A point on the object.
    Point(PointInImage),
}

impl Prompt {
    /// The box, if it is one.
    pub fn bbox(&self) -> Option<[f64; 4]> {
        match *self {
            Self::Box(bbox) => Some(bbox),
            Self::Point(_) => None,
        }
    }
}

/// How a prompt is derived from an annotation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PromptSource {
    /// The annotation's own box.
    Box,
    /// The annotation's own box, wrong by a random amount: its centre moves by up to `jitter` of its width and height, and each side
    /// changes by up to `jitter` of itself, four independent uniform numbers.
    ///
    /// The numbers come from seed and annotation id, not from `jitter`: more jitter moves every box further the same way.
    JitteredBox {
        /// In `[0, 0.5]`.
        jitter: f64,
        /// Of the random numbers.
        seed: u64,
    },
    /// The smallest box around the mask's pixels.
    MaskBox,
    /// The middle of the annotation's box, which need not lie on the object.
    BoxCenter,
    /// PicoSAM2's [`prompt_point`].
    MaskCenter,
    /// The centre of the mask's pixel that is farthest from what is not mask, of several the first in reading order. Beyond the image's
    /// border nothing is mask.
    ///
    /// # Source
    /// EdgeSAM's "center" prompt and RITM's clicker: the largest value of the distance transform with a frame of one pixel.
    InnermostPoint,
    /// The centre of one of the mask's pixels, each as likely as any other.
    RandomPoint {
        /// Of the random numbers; they depend on it and the annotation's id alone.
        seed: u64,
    },
}

impl PromptSource {
    /// The prompt for an annotation with this id, box (`[x, y, width, height]` in image pixels) and mask.
    ///
    /// # Errors
    /// If a mask is needed and has no pixel.
    pub fn prompt(&self, annotation_id: u64, bbox: [f64; 4], mask: &Mask) -> Result<Prompt, PromptError> {
        let [x, y, width, height] = bbox;
        let point = match *self {
            Self::Box => return Ok(Prompt::Box(bbox)),
            Self::JitteredBox { jitter, seed } => {
                let mut rng = stream(Purpose::BoxJitter, seed, 0, annotation_id);
                let mut within = |range: f64| (2.0 * unit(&mut rng) - 1.0) * range;
                let (dx, dy) = (within(jitter) * width, within(jitter) * height);
                let (new_width, new_height) = (width * (1.0 + within(jitter)), height * (1.0 + within(jitter)));
                let new_x = x + width / 2.0 + dx - new_width / 2.0;
                let new_y = y + height / 2.0 + dy - new_height / 2.0;
                return Ok(Prompt::Box([new_x, new_y, new_width, new_height]));
            }
            Self::MaskBox => return tight_box(mask).map(Prompt::Box).ok_or(PromptError::EmptyMask),
            Self::BoxCenter => Some(PointInImage { x: x + width / 2.0, y: y + height / 2.0 }),
            Self::MaskCenter => prompt_point(mask),
            Self::InnermostPoint => innermost_pixel(mask).map(|idx| center_of(idx, mask.size)),
            Self::RandomPoint { seed } => {
                let mut rng = stream(Purpose::RandomPoint, seed, 0, annotation_id);
                let n_set = u32::try_from(mask.area()).expect("an image has fewer than 2^32 pixels");
                let chosen = (n_set > 0).then(|| below(&mut rng, n_set) as usize);
                let mut set = mask.bits.iter().enumerate().filter(|(_, bit)| **bit != 0);
                chosen.and_then(|nth| set.nth(nth)).map(|(idx, _)| center_of(idx, mask.size))
            }
        };
        point.map(Prompt::Point).ok_or(PromptError::EmptyMask)
    }

    /// Whether the prompts are boxes, not points.
    pub fn is_box(&self) -> bool {
        matches!(self, Self::Box | Self::JitteredBox { .. } | Self::MaskBox)
    }

    /// Name for protocols: says everything that changes the prompt.
    pub fn name(&self) -> String {
        match self {
            Self::Box => "box".to_string(),
            Self::JitteredBox { jitter, seed } => format!("box-jitter{jitter}-seed{seed}"),
            Self::MaskBox => "mask_box".to_string(),
            Self::BoxCenter => "box_center".to_string(),
            Self::MaskCenter => "mask_center".to_string(),
            Self::InnermostPoint => "innermost_point".to_string(),
            Self::RandomPoint { seed } => format!("random_point-seed{seed}"),
        }
    }
}

fn center_of(idx: usize, size: Size) -> PointInImage {
    let stride = size.width as usize;
    PointInImage { x: (idx % stride) as f64 + 0.5, y: (idx / stride) as f64 + 0.5 }
}

/// Columns and rows of the first and last set pixels: `[left, upper, right, lower]`, all inside.
fn extent(mask: &Mask) -> Option<[usize; 4]> {
    let stride = mask.size.width as usize;
    let mut extent: Option<[usize; 4]> = None;
    for (row, bits) in mask.bits.chunks_exact(stride.max(1)).enumerate() {
        let (first, last) = (bits.iter().position(|&bit| bit != 0), bits.iter().rposition(|&bit| bit != 0));
        if let (Some(first), Some(last)) = (first, last) {
            let [left, upper, right, _] = extent.unwrap_or([first, row, last, row]);
            extent = Some([left.min(first), upper, right.max(last), row]);
        }
    }
    extent
}

fn tight_box(mask: &Mask) -> Option<[f64; 4]> {
    let [left, upper, right, lower] = extent(mask)?;
    Some([left as f64, upper as f64, (right - left + 1) as f64, (lower - upper + 1) as f64])
}

/// Index of the pixel with the largest squared distance to a pixel that is not set or lies outside of the image.
///
/// # Source
/// Meijster et al. 2000, "A general algorithm for computing distance transforms in linear time": exact, in whole numbers.
fn innermost_pixel(mask: &Mask) -> Option<usize> {
    let [left, upper, right, lower] = extent(mask)?;
    let stride = mask.size.width as usize;
    // A frame of one pixel around the extent: nothing set lies beyond it.
    let (width, height) = (right - left + 3, lower - upper + 3);
    let is_set = |column: usize, row: usize| {
        (1..width - 1).contains(&column)
            && (1..height - 1).contains(&row)
            && mask.bits[(upper + row - 1) * stride + left + column - 1] != 0
    };
    // Distance to the nearest clear pixel of the same column.
    let mut vertical = vec![0i64; width * height];
    for column in 0..width {
        for row in 1..height {
            let above = vertical[(row - 1) * width + column];
            vertical[row * width + column] = if is_set(column, row) { above + 1 } else { 0 };
        }
        for row in (0..height - 1).rev() {
            let below = vertical[(row + 1) * width + column];
            let here = &mut vertical[row * width + column];
            *here = (*here).min(below + 1);
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
                (best, best_distance) = (Some((upper + row - 1) * stride + left + at as usize - 1), distance);
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mask(width: u32, height: u32, bits: Vec<u8>) -> Mask {
        Mask { size: Size { width, height }, bits }
    }

    /// Every set pixel against every clear one, the frame around the image included.
    fn innermost_by_force(mask: &Mask) -> Option<usize> {
        let (width, height) = (i64::from(mask.size.width), i64::from(mask.size.height));
        let is_set =
            |x: i64, y: i64| (0..width).contains(&x) && (0..height).contains(&y) && mask.at(x as u32, y as u32);
        let distance = |x: i64, y: i64| {
            let pixels = (-1..=height).flat_map(|v| (-1..=width).map(move |u| (u, v)));
            pixels.filter(|&(u, v)| !is_set(u, v)).map(|(u, v)| (u - x).pow(2) + (v - y).pow(2)).min()
        };
        let mut best = (0, None);
        for (idx, _) in mask.bits.iter().enumerate().filter(|(_, bit)| **bit != 0) {
            let found = distance(idx as i64 % width, idx as i64 / width).expect("the frame is clear");
            if found > best.0 {
                best = (found, Some(idx));
            }
        }
        best.1
    }

    proptest! {
        #[test]
        fn the_innermost_point_is_the_farthest_from_all_that_is_clear(
            width in 1u32..24,
            height in 1u32..24,
            density in 0u32..=100,
            seed in any::<u64>(),
        ) {
            let mut rng = stream(Purpose::Synth, seed, 0, 0);
            let bits = (0..width * height).map(|_| u8::from(below(&mut rng, 100) < density)).collect();
            let mask = mask(width, height, bits);
            prop_assert_eq!(innermost_pixel(&mask), innermost_by_force(&mask));
        }
    }

    #[test]
    fn prompts_of_a_square_in_a_corner() {
        // Columns 0 to 3, rows 0 to 2 of 6 x 5; the annotated box is a little larger.
        let bits = (0..30).map(|idx| u8::from(idx % 6 < 4 && idx / 6 < 3)).collect();
        let mask = mask(6, 5, bits);
        let of = |source: PromptSource| source.prompt(7, [0.0, 0.0, 4.5, 3.5], &mask).unwrap();
        let point = |x: f64, y: f64| Prompt::Point(PointInImage { x, y });
        assert_eq!(of(PromptSource::Box), Prompt::Box([0.0, 0.0, 4.5, 3.5]));
        assert_eq!(of(PromptSource::MaskBox), Prompt::Box([0.0, 0.0, 4.0, 3.0]));
        assert_eq!(of(PromptSource::BoxCenter), point(2.25, 1.75));
        assert_eq!(of(PromptSource::MaskCenter), point(1.5, 1.5));
        assert_eq!(of(PromptSource::InnermostPoint), point(1.5, 1.5));
        let Prompt::Point(random) = of(PromptSource::RandomPoint { seed: 1 }) else { panic!("expected a point") };
        assert!(mask.at(random.x as u32, random.y as u32));
    }

    #[test]
    fn random_points_are_spread_over_the_mask_and_depend_on_seed_and_annotation_alone() {
        let bits: Vec<u8> = (0..64).map(|idx| u8::from(idx % 3 == 0)).collect();
        let mask = mask(8, 8, bits);
        let point = |seed: u64, id: u64| match (PromptSource::RandomPoint { seed }).prompt(id, [0.0; 4], &mask) {
            Ok(Prompt::Point(point)) => (point.y as usize) * 8 + point.x as usize,
            other => panic!("expected a point, found {other:?}"),
        };
        let mut counts = [0; 64];
        (0..22_000).for_each(|id| counts[point(0, id)] += 1);
        let of_set: Vec<i32> = (0..64).filter(|idx| idx % 3 == 0).map(|idx| counts[idx]).collect();
        assert_eq!(of_set.iter().sum::<i32>(), 22_000, "only pixels of the mask");
        assert!(of_set.iter().all(|count| (850..1150).contains(count)), "{of_set:?}");
        assert_eq!(point(3, 99), point(3, 99));
        assert!((0..20).any(|id| point(3, id) != point(4, id)));
    }

    #[test]
    fn jitter_stays_in_its_range_is_fixed_and_grows_along_one_line() {
        let clear = mask(4, 4, vec![0; 16]);
        let jittered = |jitter: f64, id: u64| {
            let source = PromptSource::JitteredBox { jitter, seed: 5 };
            match source.prompt(id, [100.0, 50.0, 40.0, 20.0], &clear).unwrap() {
                Prompt::Box(bbox) => bbox,
                Prompt::Point(_) => panic!("expected a box"),
            }
        };
        let relative = |[x, y, width, height]: [f64; 4]| {
            [
                (x + width / 2.0 - 120.0) / 40.0,
                (y + height / 2.0 - 60.0) / 20.0,
                width / 40.0 - 1.0,
                height / 20.0 - 1.0,
            ]
        };
        let mut largest = [0.0f64; 4];
        for id in 0..2000 {
            let (small, large) = (relative(jittered(0.1, id)), relative(jittered(0.3, id)));
            for part in 0..4 {
                assert!(large[part].abs() <= 0.3 + 1e-12 && (3.0 * small[part] - large[part]).abs() < 1e-9);
                largest[part] = largest[part].max(large[part].abs());
            }
        }
        assert!(largest.iter().all(|&range| range > 0.29), "{largest:?}");
        assert_eq!(jittered(0.0, 3), [100.0, 50.0, 40.0, 20.0]);
    }

    #[test]
    fn an_empty_mask_has_no_point() {
        let clear = mask(3, 2, vec![0; 6]);
        for source in [
            PromptSource::MaskBox,
            PromptSource::MaskCenter,
            PromptSource::InnermostPoint,
            PromptSource::RandomPoint { seed: 0 },
        ] {
            assert_eq!(source.prompt(1, [0.0, 0.0, 2.0, 2.0], &clear), Err(PromptError::EmptyMask), "{source:?}");
        }
        assert!(PromptSource::Box.prompt(1, [0.0, 0.0, 2.0, 2.0], &clear).is_ok());
    }
}
