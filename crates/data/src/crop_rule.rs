//! Crop rules: which part of the image a student is shown for a prompt.

use crate::augment::{Augmentation, JitterBounds};
use crate::crop::CropGeometry;
use crate::geometry::{PixelRect, PointInImage, RectInImage, Size};
use crate::prompt_source::{Prompt, PromptError, PromptSource};
use crate::turn::{extents_in_reach, mirrored};

/// What happens at the image's border and to fractions of a pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Border {
    /// Exactly as the published code: clipped to the image (then stretched onto the square grid), edges truncated to integers.
    Reference,
    /// Always square: runs past the border and is padded; no truncation.
    Corrected,
}

/// What becomes of a box's region at the image's border.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BoxBorder {
    /// It ends there, as a sensor's window must.
    Clipped,
    /// It runs past the border and is padded.
    Padded,
}

/// How a prompt becomes a crop.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CropRule {
    /// PicoSAM2: a window of `grid` x `grid` image pixels around the pixel of the
    /// [central pixel of the mask](crate::prompt_source::PromptSource::MaskCenter).
    ///
    /// `Reference` shifts the window at the left and upper border and cuts it off at the right and lower one.
    CenterWindow {
        /// Side of the student's input, and of the window in image pixels.
        grid: u32,
        /// At the border.
        border: Border,
    },
    /// PicoSAM3: a square around the box, as a sensor's region of interest.
    Roi {
        /// Added on each side of the box, as a share of the box's width and height (published: 0.1).
        padding: f64,
        /// Side of the student's input.
        grid: u32,
        /// At the border.
        border: Border,
    },
    /// The padded box itself, whatever its shape, each axis scaled to the grid by itself: the student is told the box's sides.
    Box {
        /// Added on each side of the box, as a share of the box's width and height.
        padding: f64,
        /// Shortest side of a region in image pixels, 1 or more; a shorter one is lengthened on both ends. A sensor has a smallest window.
        min_side: f64,
        /// Side of the student's input.
        grid: u32,
        /// At the border.
        border: BoxBorder,
    },
}

/// Why an object has no crop. Callers skip it and count by variant.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CropError {
    /// The box has a side of zero or less, or one that is not a finite number.
    #[error("box {bbox:?}: expected finite numbers and a width and height above 0")]
    DegenerateBox {
        /// x, y, width, height.
        bbox: [f64; 4],
    },
    /// The box does not touch the image.
    #[error("box {bbox:?} lies outside of the image of {image}")]
    OutsideImage {
        /// x, y, width, height.
        bbox: [f64; 4],
        /// Size of the image.
        image: Size,
    },
    /// A window that ends at the image's edge and does not begin before it.
    #[error("window around ({x}, {y}): expected some of the image of {image} in it, found nothing")]
    EmptyWindow {
        /// Its middle, in image pixels.
        x: f64,
        /// Its middle, in image pixels.
        y: f64,
        /// Size of the image.
        image: Size,
    },
    /// The region has too few pixels to show anything.
    #[error("region of {width} x {height} pixels: expected at least {MIN_ROI_SIDE} x {MIN_ROI_SIDE}")]
    TooSmall {
        /// Width of the region in image pixels.
        width: f64,
        /// Height of the region in image pixels.
        height: f64,
    },
    /// The region is larger than any image this crate reads: a broken box.
    #[error("region of {side} x {side} pixels: expected at most {MAX_ROI_SIDE} x {MAX_ROI_SIDE}")]
    TooLarge {
        /// Side of the region in image pixels.
        side: f64,
    },
    /// There is no prompt to lay a crop around.
    #[error(transparent)]
    NoPrompt(#[from] PromptError),
    /// The point does not lie in the image.
    #[error("point ({x}, {y}): expected one in the image of {image}")]
    PointOutside {
        /// In image pixels.
        x: f64,
        /// In image pixels.
        y: f64,
        /// Size of the image.
        image: Size,
    },
    /// A region of interest is made of a box.
    #[error("point ({x}, {y}): expected a box to make a region of interest of")]
    NotABox {
        /// In image pixels.
        x: f64,
        /// In image pixels.
        y: f64,
    },
    /// Several points have no middle that a crop could be laid around.
    #[error("{n_points} points: expected a box or a point to lay a crop around")]
    SeveralPoints {
        /// How many.
        n_points: usize,
    },
}

impl CropRule {
    /// The crop for a prompt. A window around a box lies around the pixel in its middle.
    ///
    /// ```
    /// use sensei_data::crop_rule::{Border, CropRule};
    /// use sensei_data::geometry::{RectInImage, Size};
    /// use sensei_data::prompt_source::Prompt;
    ///
    /// let rule = CropRule::Roi { padding: 0.25, grid: 96, border: Border::Corrected };
    /// let crop = rule.crop(Prompt::Box([40.0, 60.0, 40.0, 20.0]), Size { width: 640, height: 480 })?;
    /// // The longer side, padded on both sides, around the middle of the box.
    /// assert_eq!(crop.rect_in_image, RectInImage { x0: 30.0, y0: 40.0, x1: 90.0, y1: 100.0 });
    /// # Ok::<(), sensei_data::crop_rule::CropError>(())
    /// ```
    ///
    /// # Errors
    /// If there is no sensible crop, or a region of interest is asked for around a point.
    /// # Panics
    /// If the grid is 0.
    /// # Source
    /// PicoSAM2, `PicoSAM2Dataset.__getitem__`; PicoSAM3, `pad_bbox_to_square` and, for the smallest region,
    /// `sam3_teacher_precompute.py`. Boxes without area are refused here and not there.
    pub fn crop(&self, prompt: Prompt, image: Size) -> Result<CropGeometry, CropError> {
        let (rect_in_image, grid) = match (*self, prompt) {
            (CropRule::CenterWindow { grid, border }, Prompt::Point(point)) => {
                (window(image, point, grid, border)?, grid)
            }
            (CropRule::CenterWindow { grid, border }, Prompt::Box(bbox)) => {
                check_box(bbox, image)?;
                let [x, y, width, height] = bbox;
                (window(image, PointInImage { x: x + width / 2.0, y: y + height / 2.0 }, grid, border)?, grid)
            }
            (CropRule::Roi { padding, grid, border }, Prompt::Box(bbox)) => {
                (region_of_interest(bbox, image, padding, border)?, grid)
            }
            (CropRule::Box { padding, min_side, grid, border }, Prompt::Box(bbox)) => {
                (region_of_box(padded_box(bbox, image, padding)?, image, min_side, border), grid)
            }
            (CropRule::Roi { .. } | CropRule::Box { .. }, Prompt::Point(PointInImage { x, y })) => {
                return Err(CropError::NotABox { x, y });
            }
            (_, Prompt::Points(points)) => return Err(CropError::SeveralPoints { n_points: points.len() }),
        };
        assert!(grid > 0, "crop rule: grid of 0");
        Ok(CropGeometry { rect_in_image, grid })
    }

    /// What is shown in place of a crop of this rule that was moved or scaled: a box's region keeps the rule's border and shortest side.
    pub fn shown(&self, crop: CropGeometry, image: Size) -> CropGeometry {
        match *self {
            CropRule::Box { min_side, border, .. } => {
                CropGeometry { rect_in_image: region_of_box(crop.rect_in_image, image, min_side, border), ..crop }
            }
            CropRule::CenterWindow { .. } | CropRule::Roi { .. } => crop,
        }
    }

    /// The pixels of an image that crops need which are shown in place of a crop of this rule, whatever jitter is drawn.
    pub fn pixels_in_reach(&self, crop: CropGeometry, jitter: &Augmentation, image: Size) -> PixelRect {
        let JitterBounds { earliest, latest } = jitter.jitter_bounds(&crop.rect_in_image);
        // Of what is shown each edge moves with the edges of the crop, never against them.
        let shown = |rect_in_image| self.shown(CropGeometry { rect_in_image, ..crop }, image).rect_in_image;
        let (first, last) = (shown(earliest), shown(latest));
        let rect = RectInImage {
            x0: first.x0 - ROUNDING_PIXELS,
            y0: first.y0 - ROUNDING_PIXELS,
            x1: last.x1 + ROUNDING_PIXELS,
            y1: last.y1 + ROUNDING_PIXELS,
        };
        PixelRect::touched(&rect, image)
    }

    /// [`pixels_in_reach`](Self::pixels_in_reach) where pictures turn too, about the middle of the prompt's box: by the box and that of the mask.
    pub fn pixels_in_reach_of_turns(
        &self,
        crop: CropGeometry,
        [bbox, mask_bbox]: [[f64; 4]; 2],
        most: &Augmentation,
        image: Size,
    ) -> PixelRect {
        let still = self.pixels_in_reach(crop, most, image);
        let (CropRule::Box { min_side, .. }, true) = (self, most.turns()) else { return still };
        let center = [bbox[0] + bbox[2] / 2.0, bbox[1] + bbox[3] / 2.0];
        let half = [0, 1].map(|axis| {
            let edges = [mask_bbox[axis], mask_bbox[axis] + mask_bbox[axis + 2]];
            edges.iter().map(|edge| (edge - center[axis]).abs()).fold(bbox[axis + 2] / 2.0, f64::max)
        });
        // A pixel more, since a turned mask's box has whole pixels; and what a short side is lengthened by.
        let [x, y] =
            extents_in_reach(most, half).map(|half| (half + 1.0) * (1.0 + 2.0 * self.padding()) + min_side / 2.0);
        let [cx, cy] = center;
        let turned =
            CropGeometry { rect_in_image: RectInImage { x0: cx - x, y0: cy - y, x1: cx + x, y1: cy + y }, ..crop };
        let shown = self.pixels_in_reach(turned, most, image);
        let farthest =
            |start: u32, end: u32, center: f64| (f64::from(start) - center).abs().max((f64::from(end) - center).abs());
        let [x, y] = extents_in_reach(most, [farthest(shown.x0, shown.x1, cx), farthest(shown.y0, shown.y1, cy)]);
        let back = mirrored(&RectInImage { x0: cx - x, y0: cy - y, x1: cx + x, y1: cy + y }, image);
        PixelRect {
            x0: still.x0.min(back.x0),
            y0: still.y0.min(back.y0),
            x1: still.x1.max(back.x1),
            y1: still.y1.max(back.y1),
        }
    }

    /// Whether a prompt's region is lengthened to the rule's shortest side. A prompt without a crop has none.
    pub fn is_lengthened(&self, prompt: Prompt, image: Size) -> bool {
        let (CropRule::Box { padding, min_side, border, .. }, Prompt::Box(bbox)) = (*self, prompt) else {
            return false;
        };
        padded_box(bbox, image, padding).is_ok_and(|rect| {
            let rect = at_border(rect, image, border);
            rect.width() < min_side || rect.height() < min_side
        })
    }

    /// Side of the student's input in pixels.
    pub fn grid(&self) -> u32 {
        match *self {
            CropRule::CenterWindow { grid, .. } | CropRule::Roi { grid, .. } | CropRule::Box { grid, .. } => grid,
        }
    }

    /// Whether a crop can only be made of a box.
    pub fn needs_box(&self) -> bool {
        match self {
            CropRule::CenterWindow { .. } => false,
            CropRule::Roi { .. } | CropRule::Box { .. } => true,
        }
    }

    /// How the rule takes its prompt from an annotation in training.
    pub fn source(&self) -> PromptSource {
        match self {
            CropRule::CenterWindow { .. } => PromptSource::MaskCenter,
            CropRule::Roi { .. } | CropRule::Box { .. } => PromptSource::Box,
        }
    }

    /// What is added on each side of a box, as a share of its width and height; of a window, nothing.
    pub fn padding(&self) -> f64 {
        match *self {
            CropRule::CenterWindow { .. } => 0.0,
            CropRule::Roi { padding, .. } | CropRule::Box { padding, .. } => padding,
        }
    }

    /// What training saw at the border, in the words of configurations.
    pub fn border_name(&self) -> &'static str {
        match self {
            CropRule::CenterWindow { border, .. } | CropRule::Roi { border, .. } => match border {
                Border::Reference => "reference",
                Border::Corrected => "corrected",
            },
            CropRule::Box { border: BoxBorder::Clipped, .. } => "clipped",
            CropRule::Box { border: BoxBorder::Padded, .. } => "padded",
        }
    }

    /// Name for reports and cache keys: says everything that changes the crop.
    pub fn name(&self) -> String {
        let border = self.border_name();
        match *self {
            CropRule::CenterWindow { grid, .. } => format!("center_window-{grid}-{border}"),
            CropRule::Roi { padding, grid, .. } => format!("roi-{grid}-pad{padding}-{border}"),
            CropRule::Box { padding, min_side, grid, .. } => format!("box-{grid}-pad{padding}-min{min_side}-{border}"),
        }
    }
}

/// Refuses a prompt that means nothing in an image: a box without extent or beside it, a point that is not in it.
///
/// # Errors
/// `DegenerateBox`, `OutsideImage`, `PointOutside`.
pub fn check_prompt(prompt: &Prompt, image: Size) -> Result<(), CropError> {
    match prompt {
        Prompt::Box(bbox) => check_box(*bbox, image),
        Prompt::Points(points) => points.iter().try_for_each(|point| check_prompt(&Prompt::Point(*point), image)),
        &Prompt::Point(PointInImage { x, y }) => {
            let within = |at: f64, image_len: u32| (0.0..f64::from(image_len)).contains(&at);
            if within(x, image.width) && within(y, image.height) {
                return Ok(());
            }
            Err(CropError::PointOutside { x, y, image })
        }
    }
}

/// Smallest side of a region of interest in image pixels, after truncation.
pub const MIN_ROI_SIDE: u32 = 4;

/// More than sums of coordinates up to [`MAX_ROI_SIDE`] are rounded by, in pixels.
const ROUNDING_PIXELS: f64 = 1e-6;

/// Largest side of a region of interest in image pixels.
pub const MAX_ROI_SIDE: u32 = 1 << 20;

/// `grid` pixels each way around the pixel that the point lies in.
fn window(image: Size, point: PointInImage, grid: u32, border: Border) -> Result<RectInImage, CropError> {
    let axis = |center: f64, image_len: u32| {
        let start = center.floor() as i64 - i64::from(grid / 2);
        let (start, end) = match border {
            Border::Corrected => (start, start + i64::from(grid)),
            Border::Reference => (start.max(0), i64::from(image_len).min(start.max(0) + i64::from(grid))),
        };
        (start as f64, end as f64)
    };
    let ((x0, x1), (y0, y1)) = (axis(point.x, image.width), axis(point.y, image.height));
    let rect = RectInImage { x0, y0, x1, y1 };
    if rect.width() > 0.0 && rect.height() > 0.0 {
        return Ok(rect);
    }
    Err(CropError::EmptyWindow { x: point.x, y: point.y, image })
}

/// Refuses boxes without extent or outside of the image.
fn check_box(bbox: [f64; 4], image: Size) -> Result<(), CropError> {
    let [x, y, width, height] = bbox;
    if !(bbox.iter().all(|value| value.is_finite()) && width > 0.0 && height > 0.0) {
        return Err(CropError::DegenerateBox { bbox });
    }
    let visible = RectInImage { x0: x, y0: y, x1: x + width, y1: y + height }.intersection(&image.rect());
    if !(visible.width() > 0.0 && visible.height() > 0.0) {
        return Err(CropError::OutsideImage { bbox, image });
    }
    Ok(())
}

/// The box with its padding.
fn padded_box(bbox: [f64; 4], image: Size, padding: f64) -> Result<RectInImage, CropError> {
    check_box(bbox, image)?;
    let [x, y, width, height] = bbox;
    let (around_x, around_y) = (width * padding, height * padding);
    let rect = RectInImage { x0: x - around_x, y0: y - around_y, x1: x + width + around_x, y1: y + height + around_y };
    let side = rect.width().max(rect.height());
    if side > f64::from(MAX_ROI_SIDE) { Err(CropError::TooLarge { side }) } else { Ok(rect) }
}

/// What is shown of a region: what lies in the image, if it ends there, and no side shorter than the shortest.
fn region_of_box(rect: RectInImage, image: Size, min_side: f64, border: BoxBorder) -> RectInImage {
    let RectInImage { x0, y0, x1, y1 } = at_border(rect, image, border);
    let axis = |start: f64, end: f64, image_len: u32| {
        let image_len = f64::from(image_len);
        match border {
            BoxBorder::Clipped => {
                let len = (end - start).max(min_side.min(image_len));
                if len == end - start {
                    return (start, end);
                }
                let start = (start + (end - start - len) / 2.0).clamp(0.0, image_len - len);
                (start, start + len)
            }
            BoxBorder::Padded => {
                let more = (min_side - (end - start)).max(0.0);
                (start - more / 2.0, end + more / 2.0)
            }
        }
    };
    let ((x0, x1), (y0, y1)) = (axis(x0, x1, image.width), axis(y0, y1, image.height));
    RectInImage { x0, y0, x1, y1 }
}

/// A region that ends at the image's border, if it does; one that lies outside is without extent then.
fn at_border(rect: RectInImage, image: Size, border: BoxBorder) -> RectInImage {
    match border {
        BoxBorder::Clipped => {
            let within = |edge: f64, image_len: u32| edge.clamp(0.0, f64::from(image_len));
            RectInImage {
                x0: within(rect.x0, image.width),
                y0: within(rect.y0, image.height),
                x1: within(rect.x1, image.width),
                y1: within(rect.y1, image.height),
            }
        }
        BoxBorder::Padded => rect,
    }
}

fn region_of_interest(bbox: [f64; 4], image: Size, padding: f64, border: Border) -> Result<RectInImage, CropError> {
    check_box(bbox, image)?;
    let [x, y, width, height] = bbox;
    // In the order of the published code: the truncation below would show a different rounding.
    let padded = |start: f64, len: f64| (start - len * padding, len + 2.0 * (len * padding));
    let ((x, width), (y, height)) = (padded(x, width), padded(y, height));
    let side = width.max(height);
    if side > f64::from(MAX_ROI_SIDE) {
        return Err(CropError::TooLarge { side });
    }
    let (x0, y0) = (x + width / 2.0 - side / 2.0, y + height / 2.0 - side / 2.0);
    let square = RectInImage { x0, y0, x1: x0 + side, y1: y0 + side };
    let rect = match border {
        Border::Corrected => square,
        Border::Reference => {
            let clipped = square.intersection(&image.rect());
            let (x0, y0) = (clipped.x0.trunc(), clipped.y0.trunc());
            RectInImage { x0, y0, x1: clipped.x1.trunc(), y1: clipped.y1.trunc() }
        }
    };
    if rect.width() < f64::from(MIN_ROI_SIDE) || rect.height() < f64::from(MIN_ROI_SIDE) {
        return Err(CropError::TooSmall { width: rect.width(), height: rect.height() });
    }
    Ok(rect)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::augment::{draw, sample_rng};
    use crate::crop::pixels_needed;
    use crate::dataset::Dataset;
    use crate::mask::Mask;
    use sensei_testing::golden;

    const WINDOW: CropRule = CropRule::CenterWindow { grid: 96, border: Border::Reference };
    const FREE_WINDOW: CropRule = CropRule::CenterWindow { grid: 96, border: Border::Corrected };
    const ROI: CropRule = CropRule::Roi { padding: 0.1, grid: 96, border: Border::Reference };
    const FREE_ROI: CropRule = CropRule::Roi { padding: 0.1, grid: 96, border: Border::Corrected };
    const VGA: Size = Size { width: 640, height: 480 };

    fn size([width, height]: [i64; 2]) -> Size {
        Size { width: width as u32, height: height as u32 }
    }

    fn rect_of(edges: [i64; 4]) -> RectInImage {
        let [x0, y0, x1, y1] = edges.map(|edge| edge as f64);
        RectInImage { x0, y0, x1, y1 }
    }

    fn roi(rule: CropRule, bbox: [f64; 4]) -> Result<RectInImage, CropError> {
        rule.crop(Prompt::Box(bbox), VGA).map(|crop| crop.rect_in_image)
    }

    #[test]
    fn reference_windows_are_picosam2s() {
        let case = golden("prompt");
        let bits: Vec<u8> =
            case.u8s("masks").iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
        let (sizes, points) = (case.i64s("window_sizes"), case.i64s("window_points"));
        let rects = case.i64s("window_rects");
        let mut at = 0;
        for (idx, rect) in rects.as_chunks::<4>().0.iter().enumerate() {
            let size = size([sizes[idx * 2], sizes[idx * 2 + 1]]);
            let mask = Mask { size, bits: bits[at..][..size.n_pixels()].to_vec() };
            at += size.n_pixels();
            let prompt = match WINDOW.source().prompt(1, [0.0; 4], &crate::rle::Rle::from_mask(&mask)) {
                Ok(prompt) => prompt,
                // The rules of a selection say what an empty mask is prompted with: crates/samples/tests/golden_crops.rs.
                Err(PromptError::EmptyMask) => {
                    assert_eq!([-1, -1], points[idx * 2..][..2], "mask {idx}");
                    continue;
                }
            };
            let Prompt::Point(point) = prompt else { panic!("mask {idx}: expected a point, found {prompt:?}") };
            assert_eq!([point.x.floor() as i64, point.y.floor() as i64], points[idx * 2..][..2], "point of mask {idx}");
            let crop = WINDOW.crop(prompt.clone(), size).unwrap();
            assert_eq!(crop.rect_in_image, rect_of(*rect), "window of mask {idx}");
            let free = FREE_WINDOW.crop(prompt, size).unwrap();
            assert_eq!((free.rect_in_image.width(), free.rect_in_image.height()), (96.0, 96.0));
            assert_eq!(free.point_in_crop(point), [48.5, 48.5], "mask {idx}");
        }
        assert!(at <= bits.len() && bits.len() < at + 8);
    }

    #[test]
    fn reference_regions_are_picosam3s() {
        let case = golden("prompt");
        let (boxes, sizes, rects) = (case.f64s("boxes"), case.i64s("roi_sizes"), case.i64s("roi_rects"));
        for (idx, bbox) in boxes.as_chunks::<4>().0.iter().enumerate() {
            let size = size([sizes[idx * 2], sizes[idx * 2 + 1]]);
            let expected = rect_of([0, 1, 2, 3].map(|edge| rects[idx * 4 + edge]));
            let found = ROI.crop(Prompt::Box(*bbox), size).unwrap();
            assert_eq!(found.rect_in_image, expected, "box {bbox:?} in {size}");
        }
    }

    #[test]
    fn reference_regions_are_those_of_the_real_teacher_answers() {
        let Some(shared) = sensei_testing::shared_dir("reference_regions_are_those_of_the_real_teacher_answers") else {
            return;
        };
        let bytes = std::fs::read(shared.join("data/teacher_cache/roi96_box_train.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let roi: Vec<i64> = integers(&tensors.tensor("roi").unwrap());
        let annotations = shared.join("data/coco/annotations/instances_train.json");
        let dataset = Dataset::load_coco(&annotations, &shared.join("data/coco/images/train")).unwrap();
        let by_id: BTreeMap<u64, _> = dataset.instances.iter().map(|instance| (instance.id, instance)).collect();
        let ids = integers(&tensors.tensor("ann_id").unwrap());
        assert_eq!(ids.len(), 986);
        for (id, expected) in ids.iter().zip(roi.as_chunks::<4>().0) {
            let instance = by_id[&(*id as u64)];
            let size = dataset.images[instance.image_idx].size;
            let found = ROI.crop(Prompt::Box(instance.bbox), size).unwrap();
            assert_eq!(found.rect_in_image, rect_of(*expected), "annotation {id}");
        }
    }

    fn integers(tensor: &safetensors::tensor::TensorView<'_>) -> Vec<i64> {
        match tensor.dtype() {
            safetensors::Dtype::I64 => {
                tensor.data().as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
            }
            safetensors::Dtype::I32 => {
                tensor.data().as_chunks().0.iter().map(|bytes| i64::from(i32::from_le_bytes(*bytes))).collect()
            }
            other => panic!("expected integers, found {other:?}"),
        }
    }

    const BOX: CropRule = CropRule::Box { padding: 0.1, min_side: 8.0, grid: 96, border: BoxBorder::Clipped };
    const FREE_BOX: CropRule = CropRule::Box { padding: 0.1, min_side: 8.0, grid: 96, border: BoxBorder::Padded };

    fn edges(rule: CropRule, bbox: [f64; 4]) -> [f64; 4] {
        let RectInImage { x0, y0, x1, y1 } = roi(rule, bbox).unwrap();
        [x0, y0, x1, y1]
    }

    #[test]
    fn a_box_keeps_its_shape_and_ends_at_the_border() {
        assert_eq!(edges(BOX, [100.0, 50.0, 200.0, 10.0]), [80.0, 49.0, 320.0, 61.0]);
        assert_eq!(edges(FREE_BOX, [100.0, 50.0, 200.0, 10.0]), [80.0, 49.0, 320.0, 61.0]);
        assert_eq!(edges(BOX, [0.0, 470.0, 100.0, 40.0]), [0.0, 466.0, 110.0, 480.0]);
        assert_eq!(edges(FREE_BOX, [0.0, 470.0, 100.0, 40.0]), [-10.0, 466.0, 110.0, 514.0]);
        let crop = BOX.crop(Prompt::Box([100.0, 50.0, 200.0, 10.0]), VGA).unwrap();
        assert_eq!(crop.point_in_crop(PointInImage { x: 200.0, y: 55.0 }), [48.0, 48.0]);
        assert_eq!(crop.point_in_image([0.0, 96.0]), PointInImage { x: 80.0, y: 61.0 });
    }

    #[test]
    fn a_short_side_is_lengthened_and_counted() {
        let is_lengthened = |rule: CropRule, bbox| rule.is_lengthened(Prompt::Box(bbox), VGA);
        // 5 pixels become 6 with the padding, then 8 around the same middle; the other side stays.
        assert_eq!(edges(BOX, [100.0, 50.0, 5.0, 100.0]), [98.5, 40.0, 106.5, 160.0]);
        assert_eq!(edges(FREE_BOX, [100.0, 50.0, 5.0, 100.0]), [98.5, 40.0, 106.5, 160.0]);
        // At the border it is lengthened inwards, unless it may run past it.
        assert_eq!(edges(BOX, [637.0, 0.0, 5.0, 5.0]), [632.0, 0.0, 640.0, 8.0]);
        assert_eq!(edges(FREE_BOX, [637.0, 0.0, 5.0, 5.0]), [635.5, -1.5, 643.5, 6.5]);
        for rule in [BOX, FREE_BOX] {
            assert!(is_lengthened(rule, [100.0, 50.0, 5.0, 100.0]));
            assert!(!is_lengthened(rule, [100.0, 50.0, 7.0, 7.0]));
        }
        // What is left of it within the image counts.
        assert!(is_lengthened(BOX, [635.0, 0.0, 20.0, 20.0]) && !is_lengthened(FREE_BOX, [635.0, 0.0, 20.0, 20.0]));
        assert!(!is_lengthened(ROI, [100.0, 50.0, 5.0, 5.0]));
        let tiny = Size { width: 3, height: 480 };
        let crop = BOX.crop(Prompt::Box([1.0, 1.0, 1.0, 1.0]), tiny).unwrap().rect_in_image;
        assert_eq!((crop.x0, crop.x1), (0.0, 3.0));
    }

    #[test]
    fn a_moved_region_is_shown_by_the_same_rule() {
        let moved =
            |x0: f64, x1: f64| CropGeometry { rect_in_image: RectInImage { x0, y0: 10.0, x1, y1: 30.0 }, grid: 96 };
        let shown = |rule: CropRule, x0, x1| {
            let RectInImage { x0, x1, .. } = rule.shown(moved(x0, x1), VGA).rect_in_image;
            [x0, x1]
        };
        assert_eq!(shown(BOX, -5.0, 40.0), [0.0, 40.0]);
        assert_eq!(shown(BOX, 660.0, 700.0), [632.0, 640.0]);
        assert_eq!(shown(FREE_BOX, 660.0, 700.0), [660.0, 700.0]);
        assert_eq!(shown(BOX, 20.0, 22.0), [17.0, 25.0]);
        assert_eq!(shown(ROI, -5.0, 40.0), [-5.0, 40.0]);
    }

    proptest! {
        #[test]
        fn what_is_shown_lies_in_reach(
            rule in 0usize..6, width in 1u32..200, height in 1u32..200, grid in 1u32..64, min_side in 1f64..40.0,
            x in 0f64..1.0, y in 0f64..1.0, sides in (0.01f64..1.5, 0.01f64..1.5), before in (0f64..0.9, 0f64..0.9),
            ranges in [0f64..=1.0, 0f64..=1.0, 0f64..=1.0], seed: u64,
        ) {
            let image = Size { width, height };
            let rule = match rule {
                0 => CropRule::CenterWindow { grid, border: Border::Reference },
                1 => CropRule::CenterWindow { grid, border: Border::Corrected },
                2 => CropRule::Roi { padding: 0.1, grid, border: Border::Reference },
                3 => CropRule::Roi { padding: 0.1, grid, border: Border::Corrected },
                4 => CropRule::Box { padding: 0.1, min_side, grid, border: BoxBorder::Clipped },
                _ => CropRule::Box { padding: 0.1, min_side, grid, border: BoxBorder::Padded },
            };
            let (w, h) = (f64::from(width) * sides.0, f64::from(height) * sides.1);
            let bbox = [f64::from(width) * x - w * before.0, f64::from(height) * y - h * before.1, w, h];
            let Ok(crop) = rule.crop(Prompt::Box(bbox), image) else { return Ok(()) };
            let [roi_shift, roi_scale, roi_aspect] = ranges;
            let augmentation = Augmentation { roi_shift, roi_scale, roi_aspect, ..Augmentation::NONE };
            let reach = rule.pixels_in_reach(crop, &augmentation, image);
            prop_assert!(reach.holds(pixels_needed(&crop, image)));
            for epoch in 0..50 {
                let moved = draw(&augmentation, &mut sample_rng(seed, epoch, 1)).jittered(&crop);
                let needed = pixels_needed(&rule.shown(moved, image), image);
                prop_assert!(reach.holds(needed), "{} of {}, crop {:?}", reach, needed, crop);
            }
        }
    }

    #[test]
    fn a_published_window_around_a_middle_outside_of_the_image_is_no_crop() {
        let image = Size { width: 100, height: 80 };
        let rule = |border| CropRule::CenterWindow { grid: 32, border };
        let prompt = Prompt::Box([90.0, 10.0, 100.0, 20.0]);
        let expected = CropError::EmptyWindow { x: 140.0, y: 20.0, image };
        assert_eq!(rule(Border::Reference).crop(prompt.clone(), image), Err(expected));
        assert_eq!(rule(Border::Corrected).crop(prompt, image).unwrap().rect_in_image.width(), 32.0);
        let beside = Prompt::Point(PointInImage { x: 20.0, y: 200.0 });
        assert!(rule(Border::Reference).crop(beside, image).is_err());
        let several = Prompt::Points(vec![PointInImage { x: 20.0, y: 20.0 }; 3]);
        for rule in [rule(Border::Corrected), ROI, BOX] {
            assert_eq!(rule.crop(several.clone(), image), Err(CropError::SeveralPoints { n_points: 3 }));
        }
    }

    #[test]
    fn corrected_regions_stay_square_and_centred() {
        let rect = roi(FREE_ROI, [600.5, 10.25, 39.5, 100.0]).unwrap();
        assert!((rect.width() - 120.0).abs() < 1e-9 && (rect.height() - 120.0).abs() < 1e-9, "{rect:?}");
        assert!(
            (rect.x0 + rect.x1 - 2.0 * 620.25).abs() < 1e-9 && (rect.y0 + rect.y1 - 2.0 * 60.25).abs() < 1e-9,
            "{rect:?}"
        );
        assert!(rect.x1 > 640.0, "runs past the border: {rect:?}");
    }

    #[test]
    fn boxes_that_show_nothing_are_refused() {
        for rule in [ROI, FREE_ROI, BOX, FREE_BOX] {
            for bbox in [
                [10.0, 10.0, 0.0, 5.0],
                [10.0, 10.0, 5.0, -1.0],
                [f64::NAN, 0.0, 5.0, 5.0],
                [0.0, 0.0, f64::INFINITY, 5.0],
            ] {
                assert!(matches!(roi(rule, bbox), Err(CropError::DegenerateBox { .. })), "{rule:?} {bbox:?}");
            }
            for bbox in
                [[640.0, 10.0, 20.0, 20.0], [-30.0, 10.0, 30.0, 20.0], [10.0, 480.0, 9.0, 9.0], [10.0, -9.0, 9.0, 9.0]]
            {
                assert!(matches!(roi(rule, bbox), Err(CropError::OutsideImage { .. })), "{rule:?} {bbox:?}");
            }
            // A box's region is lengthened where a square is refused.
            let is_too_small = matches!(roi(rule, [10.0, 10.0, 2.0, 3.0]), Err(CropError::TooSmall { .. }));
            assert_eq!(is_too_small, matches!(rule, CropRule::Roi { .. }), "{rule:?}");
            assert!(roi(rule, [10.0, 10.0, 4.0, 4.0]).is_ok());
            assert!(matches!(roi(rule, [0.0, 0.0, 1e6, 3.0]), Err(CropError::TooLarge { .. })), "{rule:?}");
        }
        // Truncated and clipped to 3 columns; the corrected square keeps all of its 12.
        let sliver = [638.0, 10.0, 10.0, 10.0];
        assert_eq!(roi(ROI, sliver), Err(CropError::TooSmall { width: 3.0, height: 12.0 }));
        assert!(roi(FREE_ROI, sliver).is_ok());
    }

    #[test]
    fn prompts_beside_the_image_are_refused() {
        let point = |x, y| check_prompt(&Prompt::Point(PointInImage { x, y }), VGA);
        assert_eq!((point(0.0, 0.0), point(639.9, 479.9)), (Ok(()), Ok(())));
        for (x, y) in [(640.0, 3.0), (3.0, 480.0), (-0.1, 3.0), (f64::NAN, 3.0), (3.0, f64::INFINITY)] {
            assert!(matches!(point(x, y), Err(CropError::PointOutside { .. })), "{x} {y}");
        }
        assert_eq!(check_prompt(&Prompt::Box([-5.0, -5.0, 6.0, 6.0]), VGA), Ok(()));
        let beside = [640.0, 10.0, 20.0, 20.0];
        let expected = CropError::OutsideImage { bbox: beside, image: VGA };
        assert_eq!(check_prompt(&Prompt::Box(beside), VGA), Err(expected));
    }

    #[test]
    fn names_say_what_changes_the_crop() {
        assert_eq!(WINDOW.name(), "center_window-96-reference");
        assert_eq!(FREE_ROI.name(), "roi-96-pad0.1-corrected");
    }
}
