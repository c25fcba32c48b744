//! One answer of the teacher.

use sensei_data::geometry::{RectInImage, Size};

use crate::error::CacheError;

/// What the teacher answered for one instance: mask logits over a part of the image, and its own opinion of them.
#[derive(Debug, Clone, PartialEq)]
pub struct TeacherRecord {
    /// The instance.
    pub annotation_id: u64,
    /// Its image.
    pub image_id: u64,
    /// BLAKE3 of the image file's bytes.
    pub image_digest: [u8; 32],
    /// Size of the image.
    pub image_size: Size,
    /// The area that the logits cover; it may run past the image's border.
    pub rect_in_image: RectInImage,
    /// Samples along each side of the area, at the centres of equal cells.
    pub grid: u32,
    /// `grid * grid` values, row by row: logit / `logit_step`, positive inside of the mask.
    pub logits: Vec<i8>,
    /// Logit of one unit.
    pub logit_step: f32,
    /// The teacher's guess of its mask's IoU with the truth, as it gave it: MobileSAM goes up to 1.02.
    pub predicted_iou: f32,
}

impl TeacherRecord {
    /// The predicted IoU as a mixing weight in `[0, 1]`, and whether it had to be clamped: the caller counts.
    pub fn weight(&self) -> (f32, bool) {
        let weight = self.predicted_iou.clamp(0.0, 1.0);
        (weight, weight != self.predicted_iou)
    }

    /// Number of logits at the end of the int8 range, where the teacher's own value may have been larger.
    ///
    /// -128 is not counted: exporters put it where a sample lies outside of the image.
    pub fn n_saturated(&self) -> u64 {
        self.logits.iter().filter(|&&logit| logit == 127 || logit == -127).count() as u64
    }

    /// # Errors
    /// `InvalidRecord`, if a field is outside of what the file format allows.
    pub(crate) fn check(&self) -> Result<(), CacheError> {
        let invalid = |what, expected: &str, found: String| {
            let (annotation_id, expected) = (self.annotation_id, expected.into());
            Err(CacheError::InvalidRecord { annotation_id, what, expected, found })
        };
        let rect = self.rect_in_image;
        let is_finite = [rect.x0, rect.y0, rect.x1, rect.y1].iter().all(|edge| edge.is_finite());
        if !is_finite || rect.width() <= 0.0 || rect.height() <= 0.0 {
            return invalid("area", "a finite, non-empty rectangle", format!("{rect:?}"));
        }
        let in_image = rect.intersection(&self.image_size.rect());
        if in_image.width() <= 0.0 || in_image.height() <= 0.0 {
            return invalid("area", "a rectangle that overlaps the image", format!("{rect:?} in {}", self.image_size));
        }
        if !(1..=MAX_GRID).contains(&self.grid) {
            return invalid("grid", "1 to 1024", self.grid.to_string());
        }
        if self.logits.len() != (self.grid * self.grid) as usize {
            return invalid("logits", &format!("{0} x {0} values", self.grid), self.logits.len().to_string());
        }
        if !(self.logit_step.is_finite() && self.logit_step > 0.0) {
            return invalid("logit step", "a positive number", self.logit_step.to_string());
        }
        if !self.predicted_iou.is_finite() {
            return invalid("predicted IoU", "a number", self.predicted_iou.to_string());
        }
        Ok(())
    }
}

/// Largest allowed [`TeacherRecord::grid`].
pub const MAX_GRID: u32 = 1024;
