//! What a user gives for an object: a box, a point or several, derived from its annotation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::geometry::PointInImage;
use crate::object_pixels::{central_pixel, innermost_pixel, nth_pixel};
use crate::rle::Rle;
use crate::sampling::{Purpose, below, stream, unit};

/// A prompt for one object.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// `[x, y, width, height]` in image pixels.
    Box([f64; 4]),
    /// A point on the object.
    Point(PointInImage),
    /// Several points on the object, given together.
    Points(Vec<PointInImage>),
}

impl Prompt {
    /// The box, if it is one.
    pub fn bbox(&self) -> Option<[f64; 4]> {
        match *self {
            Self::Box(bbox) => Some(bbox),
            Self::Point(_) | Self::Points(_) => None,
        }
    }

    /// The points, none of a box.
    pub fn points(&self) -> &[PointInImage] {
        match self {
            Self::Box(_) => &[],
            Self::Point(point) => std::slice::from_ref(point),
            Self::Points(points) => points,
        }
    }
}

/// Why an object has no prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// No pixel of the mask is set, so there is no point to prompt with.
    #[error("the mask is empty")]
    EmptyMask,
}

/// How a prompt is derived from an annotation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// PicoSAM2's point: the middle of the mask's bounding box (rounded to the upper left) if that pixel is set, else the centre of
    /// the set pixel nearest to it, of several the first in reading order.
    ///
    /// # Source
    /// PicoSAM2, `PicoSAM2Dataset.__getitem__`.
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
    /// The centres of several of the mask's pixels, each drawn from all of them: a pixel may be drawn twice. The first is that of
    /// [`RandomPoint`](Self::RandomPoint) with the same seed.
    ///
    /// # Source
    /// EfficientSAM (arXiv 2312.00863), section 4.3: clicks drawn uniformly within the annotated mask.
    RandomPoints {
        /// How many, in `1..=`[`MAX_POINTS`].
        count: u32,
        /// Of the random numbers; they depend on it and the annotation's id alone.
        seed: u64,
    },
}

/// Points that an object may be prompted by.
pub const MAX_POINTS: u32 = 16;

impl PromptSource {
    /// The prompt for an annotation with this id, box (`[x, y, width, height]` in image pixels) and mask.
    ///
    /// # Errors
    /// If a mask is needed and has no pixel.
    pub fn prompt(&self, annotation_id: u64, bbox: [f64; 4], mask: &Rle) -> Result<Prompt, PromptError> {
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
            Self::MaskBox if mask.is_empty() => None,
            Self::MaskBox => return Ok(Prompt::Box(mask.bbox())),
            Self::BoxCenter => Some(PointInImage { x: x + width / 2.0, y: y + height / 2.0 }),
            Self::MaskCenter => central_pixel(mask).map(center_of),
            Self::InnermostPoint => innermost_pixel(mask).map(center_of),
            Self::RandomPoint { seed } => random_pixels(mask, 1, seed, annotation_id).pop(),
            Self::RandomPoints { count, seed } => {
                let points = random_pixels(mask, count, seed, annotation_id);
                return if points.is_empty() { Err(PromptError::EmptyMask) } else { Ok(Prompt::Points(points)) };
            }
        };
        point.map(Prompt::Point).ok_or(PromptError::EmptyMask)
    }

    /// Whether a prompt may be several points, which no crop is made of.
    pub fn is_of_several_points(&self) -> bool {
        matches!(self, Self::RandomPoints { .. })
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
            Self::RandomPoints { count, seed } => format!("random_points{count}-seed{seed}"),
        }
    }
}

/// The centre of a mask's `nth` pixel in reading order, counted from 0; `None` if it has fewer.
pub fn centre_of_pixel(mask: &Rle, nth: u32) -> Option<PointInImage> {
    nth_pixel(mask, nth).map(center_of)
}

/// Centres of pixels that are drawn from a mask, none if it has none.
fn random_pixels(mask: &Rle, count: u32, seed: u64, annotation_id: u64) -> Vec<PointInImage> {
    let mut rng = stream(Purpose::RandomPoint, seed, 0, annotation_id);
    let n_set = u32::try_from(mask.area()).expect("an image has fewer than 2^32 pixels");
    let n_drawn = if n_set == 0 { 0 } else { count };
    (0..n_drawn).filter_map(|_| centre_of_pixel(mask, below(&mut rng, n_set))).collect()
}

fn center_of([column, row]: [u32; 2]) -> PointInImage {
    PointInImage { x: f64::from(column) + 0.5, y: f64::from(row) + 0.5 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Size;
    use crate::mask::Mask;
    use sensei_testing::golden;

    fn mask(width: u32, height: u32, bits: Vec<u8>) -> Rle {
        Rle::from_mask(&Mask { size: Size { width, height }, bits })
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
        assert!(random.x < 4.0 && random.y < 3.0, "{random:?}");
    }

    #[test]
    fn mask_centers_are_picosam2s() {
        let case = golden("prompt");
        let bits: Vec<u8> =
            case.u8s("masks").iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
        let (sizes, points) = (case.i64s("window_sizes"), case.i64s("window_points"));
        let mut at = 0;
        for ([width, height], [x, y]) in sizes.as_chunks::<2>().0.iter().zip(points.as_chunks::<2>().0) {
            let n_pixels = (width * height) as usize;
            let mask = mask(*width as u32, *height as u32, bits[at..][..n_pixels].to_vec());
            at += n_pixels;
            let expected = match x {
                -1 => Err(PromptError::EmptyMask),
                _ => Ok(Prompt::Point(center_of([*x as u32, *y as u32]))),
            };
            assert_eq!(PromptSource::MaskCenter.prompt(1, [0.0; 4], &mask), expected, "{width} x {height}");
        }
        assert!(at <= bits.len() && bits.len() < at + 8);
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
    fn several_random_points_begin_with_the_one_and_are_drawn_like_it() {
        let bits: Vec<u8> = (0..64).map(|idx| u8::from(idx % 3 == 0)).collect();
        let mask = mask(8, 8, bits);
        let points = |count: u32, seed: u64, id: u64| match (PromptSource::RandomPoints { count, seed })
            .prompt(id, [0.0; 4], &mask)
        {
            Ok(Prompt::Points(points)) => points,
            other => panic!("expected points, found {other:?}"),
        };
        let mut counts = [[0; 64]; 3];
        for id in 0..22_000 {
            for (nth, point) in points(3, 0, id).iter().enumerate() {
                counts[nth][(point.y as usize) * 8 + point.x as usize] += 1;
            }
        }
        for counts in &counts {
            let of_set: Vec<i32> = (0..64).filter(|idx| idx % 3 == 0).map(|idx| counts[idx]).collect();
            assert_eq!(of_set.iter().sum::<i32>(), 22_000, "only pixels of the mask");
            assert!(of_set.iter().all(|count| (850..1150).contains(count)), "{of_set:?}");
        }
        for id in 0..20 {
            let one = PromptSource::RandomPoint { seed: 5 }.prompt(id, [0.0; 4], &mask).unwrap();
            assert_eq!(Prompt::Point(points(3, 5, id)[0]), one);
            assert_eq!(points(3, 5, id)[..2], points(2, 5, id));
        }
        assert!((0..20).any(|id| points(3, 3, id) != points(3, 4, id)));
    }

    #[test]
    fn jitter_stays_in_its_range_is_fixed_and_grows_along_one_line() {
        let clear = mask(4, 4, vec![0; 16]);
        let jittered = |jitter: f64, id: u64| {
            let source = PromptSource::JitteredBox { jitter, seed: 5 };
            match source.prompt(id, [100.0, 50.0, 40.0, 20.0], &clear).unwrap() {
                Prompt::Box(bbox) => bbox,
                other => panic!("expected a box, found {other:?}"),
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
            PromptSource::RandomPoints { count: 3, seed: 0 },
        ] {
            assert_eq!(source.prompt(1, [0.0, 0.0, 2.0, 2.0], &clear), Err(PromptError::EmptyMask), "{source:?}");
        }
        assert!(PromptSource::Box.prompt(1, [0.0, 0.0, 2.0, 2.0], &clear).is_ok());
    }
}
