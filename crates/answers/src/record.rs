//! One answer of the teacher about an object: mask logits.

use std::fmt;

use sensei_data::geometry::{PointInImage, RectInImage, Size};

use crate::asked::MAX_PROMPTS;
use crate::kept::{Kept, MAX_GRID, RecordKind};
use crate::key::AnswerKey;

/// A record's place among those of its cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RecordId {
    /// What the id counts.
    pub kind: RecordKind,
    /// An annotation's or an image's.
    pub id: u64,
}

/// The image that the teacher saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageIdentity {
    /// Its id in the annotation file.
    pub id: u64,
    /// BLAKE3 of the image file's bytes.
    pub file_digest: [u8; 32],
    /// BLAKE3 of the decoded pixels (red, green, blue, row by row), where they were compared: two decoders may see
    /// different pictures in one file.
    pub pixel_digest: Option<[u8; 32]>,
    /// Its size.
    pub size: Size,
}

/// What the teacher answered about one object: for each prompt one mask or several, and its own opinion of them.
#[derive(Debug, Clone, PartialEq)]
pub struct MaskRecord {
    /// The object.
    pub annotation_id: u64,
    /// Its image.
    pub image: ImageIdentity,
    /// Samples along each side of a prompt's area, at the centres of equal cells.
    pub grid: u32,
    /// Logit of one unit of [`MaskAnswer::logits`].
    pub logit_step: f32,
    /// One answer for each prompt of the question, in its order.
    pub prompts: Vec<PromptAnswer>,
}

/// What the teacher answered to one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptAnswer {
    /// The prompt as the teacher saw it, in image pixels, without padding points; empty where it is not known.
    pub points: Vec<PromptPoint>,
    /// The area that the logits cover; it may run past the image's border.
    pub rect_in_image: RectInImage,
    /// One mask or several, as many for each prompt; in the order of the decoder's tokens.
    pub masks: Vec<MaskAnswer>,
}

/// A point of a prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PromptPoint {
    /// Where.
    pub at: PointInImage,
    /// What it says.
    pub label: PointLabel,
}

/// What a point says; the numbers are those of SAM's prompt encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointLabel {
    /// Not on the object.
    Background = 0,
    /// On the object.
    Foreground = 1,
    /// Upper left corner of the box.
    UpperLeft = 2,
    /// Lower right corner of the box.
    LowerRight = 3,
}

/// One mask.
#[derive(Debug, Clone, PartialEq)]
pub struct MaskAnswer {
    /// `grid * grid` values, row by row: logit / `logit_step`, positive inside of the mask; -128 where the sample lies
    /// outside of the image.
    pub logits: Vec<i8>,
    /// The teacher's guess of the mask's IoU with the truth, as it gave it: MobileSAM goes up to 1.02.
    pub predicted_iou: f32,
    /// Area of the logits above 1 as a share of that above -1, where it was measured: 0 to 1.
    pub stability: Option<f32>,
}

/// What is wrong with a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: expected {expected}, found {found}")]
pub struct RecordFault {
    /// Which field.
    pub what: String,
    /// What is allowed.
    pub expected: String,
    /// What it holds.
    pub found: String,
}

impl RecordFault {
    pub(crate) fn new(what: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what: what.into(), expected: expected.into(), found: found.into() }
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.subject(), self.id)
    }
}

impl ImageIdentity {
    pub(crate) fn check(&self) -> Result<(), RecordFault> {
        if self.size.width == 0 || self.size.height == 0 {
            return Err(RecordFault::new("image size", "an image with pixels", self.size.to_string()));
        }
        // In files, zeros stand for a digest that is not known.
        match self.pixel_digest {
            Some(digest) if digest == [0; 32] => Err(RecordFault::new("pixel digest", "a digest", "zeros")),
            _ => Ok(()),
        }
    }
}

impl PromptPoint {
    /// The corners by which a box is asked, `[x, y, width, height]` in image pixels.
    pub fn of_box(bbox: [f64; 4]) -> Vec<PromptPoint> {
        let [x, y, width, height] = bbox;
        let at = |x, y, label| PromptPoint { at: PointInImage { x, y }, label };
        vec![at(x, y, PointLabel::UpperLeft), at(x + width, y + height, PointLabel::LowerRight)]
    }
}

impl PointLabel {
    pub(crate) fn from_code(code: u32) -> Option<Self> {
        [Self::Background, Self::Foreground, Self::UpperLeft, Self::LowerRight].into_iter().find(|l| *l as u32 == code)
    }
}

impl MaskAnswer {
    /// The predicted IoU as a share of a loss, in `[0, 1]`, and whether it had to be clamped: the caller counts.
    pub fn clamped_predicted_iou(&self) -> (f32, bool) {
        let clamped = self.predicted_iou.clamp(0.0, 1.0);
        (clamped, clamped != self.predicted_iou)
    }

    /// Number of logits at the end of the int8 range, where the teacher's own value may have been larger.
    ///
    /// -128 is not counted: it stands for a sample outside of the image.
    pub fn n_saturated(&self) -> u64 {
        self.logits.iter().filter(|&&logit| logit == 127 || logit == -127).count() as u64
    }
}

impl PromptAnswer {
    /// Which of the masks the teacher thinks best: the first of the highest predicted IoU.
    pub fn best_mask_idx(&self) -> usize {
        let mut best = 0;
        for (idx, mask) in self.masks.iter().enumerate() {
            if mask.predicted_iou > self.masks[best].predicted_iou {
                best = idx;
            }
        }
        best
    }
}

impl MaskRecord {
    /// All masks, those of the first prompt first.
    pub fn masks(&self) -> impl Iterator<Item = &MaskAnswer> {
        self.prompts.iter().flat_map(|prompt| &prompt.masks)
    }

    /// Masks of each prompt; 0 if there is no prompt.
    pub fn n_masks(&self) -> usize {
        self.prompts.first().map_or(0, |prompt| prompt.masks.len())
    }

    /// # Errors
    /// If a field is outside of what the file format allows.
    pub(crate) fn check(&self) -> Result<(), RecordFault> {
        let fault = |what: &str, expected: String, found: String| Err(RecordFault::new(what, expected, found));
        self.image.check()?;
        check_shape(self.grid, self.prompts.len(), self.n_masks())?;
        if !(self.logit_step.is_finite() && self.logit_step > 0.0) {
            return fault("logit step", "a positive number".into(), self.logit_step.to_string());
        }
        for prompt in &self.prompts {
            check_area(&prompt.rect_in_image, self.image.size)?;
            if prompt.points.len() > MAX_POINTS {
                return fault("points", format!("at most {MAX_POINTS}"), prompt.points.len().to_string());
            }
            if let Some(point) = prompt.points.iter().find(|point| !(point.at.x.is_finite() && point.at.y.is_finite()))
            {
                return fault("point", "numbers".into(), format!("{}, {}", point.at.x, point.at.y));
            }
            if prompt.masks.len() != self.n_masks() {
                return fault("masks of a prompt", self.n_masks().to_string(), prompt.masks.len().to_string());
            }
            for mask in &prompt.masks {
                if mask.logits.len() != (self.grid * self.grid) as usize {
                    return fault("logits", format!("{0} x {0} values", self.grid), mask.logits.len().to_string());
                }
                if !mask.predicted_iou.is_finite() {
                    return fault("predicted IoU", "a number".into(), mask.predicted_iou.to_string());
                }
                if mask.stability.is_some_and(|stability| !(0.0..=1.0).contains(&stability)) {
                    return fault("stability", "0 to 1".into(), format!("{:?}", mask.stability));
                }
            }
        }
        Ok(())
    }

    /// # Errors
    /// If a cache of this key does not hold such a record.
    pub(crate) fn check_key(&self, key: &AnswerKey) -> Result<(), RecordFault> {
        let Kept::MaskLogits { context: _, grid, logit_step, masks } = key.kept else {
            return Err(RecordFault::new("kind of record", key.kept.kind().to_string(), "mask logits"));
        };
        let differs = |what: &str, expected: usize, found: usize| {
            let fault = || RecordFault::new(what, format!("{expected} by the key"), found.to_string());
            if expected == found { Ok(()) } else { Err(fault()) }
        };
        differs("grid", grid as usize, self.grid as usize)?;
        differs("masks of a prompt", masks.n_masks(), self.n_masks())?;
        if let Some(n_prompts) = key.question.n_prompts() {
            differs("prompts", n_prompts, self.prompts.len())?;
        }
        if self.logit_step != logit_step {
            let expected = format!("{logit_step} by the key");
            return Err(RecordFault::new("logit step", expected, self.logit_step.to_string()));
        }
        Ok(())
    }
}

/// Refuses numbers of samples, prompts and masks that no record has: what a reader allocates follows from them.
pub(crate) fn check_shape(grid: u32, n_prompts: usize, n_masks: usize) -> Result<(), RecordFault> {
    if !(1..=MAX_GRID).contains(&grid) {
        return Err(RecordFault::new("grid", format!("1 to {MAX_GRID}"), grid.to_string()));
    }
    if !(1..=MAX_PROMPTS as usize).contains(&n_prompts) {
        return Err(RecordFault::new("prompts", format!("1 to {MAX_PROMPTS}"), n_prompts.to_string()));
    }
    if !(1..=MAX_MASKS).contains(&n_masks) {
        return Err(RecordFault::new("masks of a prompt", format!("1 to {MAX_MASKS}"), n_masks.to_string()));
    }
    let n_samples = (grid * grid) as usize * n_prompts * n_masks;
    if n_samples > MAX_SAMPLES {
        return Err(RecordFault::new("samples of all masks", format!("at most {MAX_SAMPLES}"), n_samples.to_string()));
    }
    Ok(())
}

fn check_area(rect: &RectInImage, image: Size) -> Result<(), RecordFault> {
    let text = format!("{},{}..{},{}", rect.x0, rect.y0, rect.x1, rect.y1);
    let is_finite = [rect.x0, rect.y0, rect.x1, rect.y1].iter().all(|edge| edge.is_finite());
    if !is_finite || rect.width() <= 0.0 || rect.height() <= 0.0 {
        return Err(RecordFault::new("area", "a finite, non-empty rectangle", text));
    }
    let in_image = rect.intersection(&image.rect());
    if in_image.width() <= 0.0 || in_image.height() <= 0.0 {
        return Err(RecordFault::new("area", "a rectangle that overlaps the image", format!("{text} in {image}")));
    }
    Ok(())
}

/// Most points of a prompt.
pub const MAX_POINTS: usize = 256;
/// Most masks of a prompt.
pub const MAX_MASKS: usize = 16;
/// Most samples of all masks of a record: 64 MiB.
pub const MAX_SAMPLES: usize = 64 << 20;
