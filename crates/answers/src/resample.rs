//! The teacher's logits on a student's grid.

use sensei_data::crop::CropGeometry;
use sensei_data::geometry::RectInImage;
use sensei_data::mask::Mask;

use crate::error::CacheError;
use crate::kept::MAX_GRID;
use crate::record::{MaskAnswer, MaskRecord, PromptAnswer};

/// One mask of a record, with what is needed to place it in the image.
#[derive(Debug, Clone, Copy)]
pub struct PlacedMask<'a> {
    record: &'a MaskRecord,
    prompt: &'a PromptAnswer,
    mask: &'a MaskAnswer,
}

impl MaskRecord {
    /// A mask of the answer to a prompt.
    ///
    /// # Panics
    /// If the record has no such prompt or mask: a bug in the caller.
    pub fn mask(&self, prompt_idx: usize, mask_idx: usize) -> PlacedMask<'_> {
        let prompt = &self.prompts[prompt_idx];
        PlacedMask { record: self, prompt, mask: &prompt.masks[mask_idx] }
    }

    /// Whether the answer to a prompt holds what [`PlacedMask::logits_in_crop`] needs for a crop.
    ///
    /// # Errors
    /// `NotCovered`, as there.
    ///
    /// # Panics
    /// If the record has no such prompt: a bug in the caller.
    pub fn check_coverage(&self, prompt_idx: usize, crop: &RectInImage) -> Result<(), CacheError> {
        check_coverage(self, &self.prompts[prompt_idx], crop)
    }
}

impl PlacedMask<'_> {
    /// The mask logits at the pixel centres of a student's crop, row by row, `g.grid * g.grid` values.
    ///
    /// Bilinear between the stored samples inside of the image; beyond the outermost of them their value goes on. A
    /// point outside of the image gets [`OUTSIDE_LOGIT`]. With the record's own area and grid this is the identity.
    ///
    /// # Errors
    /// `NotCovered`, if the part of the crop inside of the image exceeds the record's area by more than
    /// [`COVERAGE_TOLERANCE`] pixels.
    pub fn logits_in_crop(&self, g: &CropGeometry) -> Result<Vec<f32>, CacheError> {
        let (crop, stored, grid) = (g.rect_in_image, self.prompt.rect_in_image, self.record.grid);
        check_coverage(self.record, self.prompt, &crop)?;
        if g.grid == grid && crop == stored {
            return Ok(self.mask.logits.iter().map(|&stored| f32::from(stored) * self.record.logit_step).collect());
        }
        let image = self.record.image.size;
        let columns = taps((crop.x0, crop.x1, g.grid), (stored.x0, stored.x1, grid), image.width);
        let rows = taps((crop.y0, crop.y1, g.grid), (stored.y0, stored.y1, grid), image.height);
        Ok(self.blend(&rows, &columns))
    }

    /// The teacher's mask at the image's own pixels: logits above 0 inside of the record's area, nothing outside of it.
    pub fn mask_in_image(&self) -> Mask {
        let (image, stored, grid) = (self.record.image.size, self.prompt.rect_in_image, self.record.grid);
        let (x0, n_columns) = pixels_inside(stored.x0, stored.x1, image.width);
        let (y0, n_rows) = pixels_inside(stored.y0, stored.y1, image.height);
        let edges = |first: u32, n: u32| (f64::from(first), f64::from(first + n), n);
        let columns = taps(edges(x0, n_columns), (stored.x0, stored.x1, grid), image.width);
        let rows = taps(edges(y0, n_rows), (stored.y0, stored.y1, grid), image.height);
        let logits = self.blend(&rows, &columns);
        let mut mask = Mask::empty(image);
        for row in 0..n_rows as usize {
            let start = (y0 as usize + row) * image.width as usize + x0 as usize;
            let line = &logits[row * n_columns as usize..][..n_columns as usize];
            let bits = &mut mask.bits[start..][..n_columns as usize];
            bits.iter_mut().zip(line).for_each(|(bit, logit)| *bit = u8::from(*logit > 0.0));
        }
        mask
    }

    fn blend(&self, rows: &Taps, columns: &Taps) -> Vec<f32> {
        let (grid, logit_step) = (self.record.grid as usize, self.record.logit_step);
        let mut logits = vec![OUTSIDE_LOGIT; rows.n_points * columns.n_points];
        let (Some(first), Some(last)) = (columns.taps.first(), columns.taps.last()) else { return logits };
        let (start, end) = (first.low as usize, last.high as usize + 1);
        // An index of a few bits needs no check.
        let mut blended = [0.0; MAX_GRID as usize];
        let at = |idx: u32| idx as usize % MAX_GRID as usize;
        let lines = logits.chunks_exact_mut(columns.n_points).skip(rows.first);
        for (row, logits) in rows.taps.iter().zip(lines) {
            let line = |idx: u32| &self.mask.logits[idx as usize * grid..][start..end];
            for (blended, (&low, &high)) in blended[start..end].iter_mut().zip(line(row.low).iter().zip(line(row.high)))
            {
                *blended = row.blend(f32::from(low), f32::from(high)) * logit_step;
            }
            for (logit, tap) in logits[columns.first..].iter_mut().zip(&columns.taps) {
                *logit = tap.blend(blended[at(tap.low)], blended[at(tap.high)]);
            }
        }
        logits
    }
}

fn check_coverage(record: &MaskRecord, prompt: &PromptAnswer, crop: &RectInImage) -> Result<(), CacheError> {
    let (needed, stored) = (crop.intersection(&record.image.size.rect()), prompt.rect_in_image);
    let is_finite = [crop.x0, crop.y0, crop.x1, crop.y1].iter().all(|edge| edge.is_finite());
    let is_outside_image = needed.width() <= 0.0 || needed.height() <= 0.0;
    let missing = [stored.x0 - needed.x0, stored.y0 - needed.y0, needed.x1 - stored.x1, needed.y1 - stored.y1];
    if is_finite && (is_outside_image || missing.iter().all(|&pixels| pixels <= COVERAGE_TOLERANCE)) {
        return Ok(());
    }
    let text = |r: RectInImage| format!("{:.1},{:.1}..{:.1},{:.1}", r.x0, r.y0, r.x1, r.y1);
    let (needed, stored) = (text(needed), text(stored));
    Err(CacheError::NotCovered { annotation_id: record.annotation_id, needed, stored })
}

/// Along one axis: where a crop's pixels lie among the stored samples.
struct Taps {
    /// Pixels of the crop.
    n_points: usize,
    /// The first pixel whose centre is in the image.
    first: usize,
    /// Of it and those after it, as far as their centres are in the image.
    taps: Vec<Tap>,
}

/// Between which two stored samples a point lies, and how far it is from the first: 0 to 1.
struct Tap {
    low: u32,
    high: u32,
    fraction: f32,
}

impl Tap {
    fn blend(&self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.fraction
    }
}

/// Crop and stored area are given as (first edge, last edge, number of cells).
fn taps(crop: (f64, f64, u32), stored: (f64, f64, u32), image_extent: u32) -> Taps {
    let extent = f64::from(image_extent);
    let pixel = (crop.1 - crop.0) / f64::from(crop.2);
    let cell = (stored.1 - stored.0) / f64::from(stored.2);
    // Stored samples outside of the image are no answer of the teacher: only those inside take part.
    let last = f64::from(stored.2 - 1);
    let first_inside = (-stored.0 / cell - 0.5).ceil().clamp(0.0, last);
    let last_inside = ((extent - stored.0) / cell - 0.5).floor().clamp(first_inside, last);
    let mut taps = Taps { n_points: crop.2 as usize, first: 0, taps: Vec::with_capacity(crop.2 as usize) };
    // Points ascend: those in the image follow each other.
    for idx in 0..crop.2 {
        let point = crop.0 + (f64::from(idx) + 0.5) * pixel;
        if !(0.0..extent).contains(&point) {
            taps.first += usize::from(taps.taps.is_empty());
            continue;
        }
        let at = ((point - stored.0) / cell - 0.5).clamp(first_inside, last_inside);
        let low = at.floor();
        let tap = Tap { low: low as u32, high: (low + 1.0).min(last_inside) as u32, fraction: (at - low) as f32 };
        taps.taps.push(tap);
    }
    taps
}

/// First pixel whose centre lies in `[start, end)`, and the number of such pixels in an image of this extent.
fn pixels_inside(start: f64, end: f64, image_extent: u32) -> (u32, u32) {
    let extent = f64::from(image_extent);
    let first = (start - 0.5).ceil().clamp(0.0, extent);
    let beyond = (end - 0.5).ceil().clamp(first, extent);
    (first as u32, (beyond - first) as u32)
}

/// Logit of a point outside of the image: as sure a "no" as a record with a step of 0.125 can hold.
pub const OUTSIDE_LOGIT: f32 = -16.0;

/// By how many pixels a crop may exceed a record's area: published crop rules truncate edges to integers.
pub const COVERAGE_TOLERANCE: f64 = 1.0;
