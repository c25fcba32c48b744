//! Two caches of answers about the same objects: how far they are apart.

use rayon::prelude::*;
use sensei_data::rle::Rle;

use crate::error::CacheError;
use crate::record::{MaskRecord, RecordFault};
use crate::store::Store;

/// How far two caches' answers are apart, over the objects that both have.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Objects with a record in both.
    pub n_common: usize,
    /// Objects that only the first has.
    pub n_only_first: usize,
    /// Objects that only the second has.
    pub n_only_second: usize,
    /// Masks compared.
    pub n_masks: u64,
    /// Mean IoU of the first's mask with the second's, in the image, over all masks; two empty ones agree.
    pub mean_iou: f64,
    /// The lowest of these IoUs, and its annotation.
    pub lowest_iou: Option<(f64, u64)>,
    /// Of logits over the same cells, how many are in both caches, equal or not.
    pub n_logits: u64,
    /// How many of these are on other sides of 0.
    pub n_other_side: u64,
    /// The largest difference of two logits.
    pub farthest_logit: f32,
    /// The largest difference of two predicted IoUs.
    pub farthest_predicted_iou: f32,
}

/// Compares the masks of two caches, which may be of different teachers. Prompts and masks of an object are compared in their order.
///
/// # Errors
/// If a record is damaged or no mask logits, or an object's records have other numbers of prompts or masks, another area or grid, or are
/// about other image files.
pub fn compare(first: &dyn Store, second: &dyn Store) -> Result<Comparison, CacheError> {
    let common: Vec<u64> = first.ids().into_iter().filter(|id| second.contains(*id)).collect();
    let compare_one = |&id: &u64| -> Result<Vec<Difference>, CacheError> {
        let (a, b) = (first.masks(id)?, second.masks(id)?);
        differences(&a, &b).map_err(|fault| CacheError::Damaged {
            path: second.location().into(),
            what: format!("annotation {id}: {}", fault.what),
            expected: format!("{} as in {}", fault.expected, first.location().display()),
            found: fault.found,
        })
    };
    let found: Vec<Vec<Difference>> = common.par_iter().map(compare_one).collect::<Result<_, _>>()?;
    let ids = common.iter().zip(&found).flat_map(|(id, found)| found.iter().map(move |difference| (*id, difference)));
    let n_masks = found.iter().map(Vec::len).sum::<usize>();
    let all = || found.iter().flatten();
    let farthest = |of: fn(&Difference) -> f32| all().map(of).fold(0.0, f32::max);
    Ok(Comparison {
        n_common: common.len(),
        n_only_first: first.ids().len() - common.len(),
        n_only_second: second.ids().len() - common.len(),
        n_masks: n_masks as u64,
        mean_iou: all().map(|difference| difference.iou).sum::<f64>() / n_masks.max(1) as f64,
        lowest_iou: ids.map(|(id, difference)| (difference.iou, id)).min_by(|a, b| a.0.total_cmp(&b.0)),
        n_logits: all().map(|difference| difference.n_logits).sum(),
        n_other_side: all().map(|difference| difference.n_other_side).sum(),
        farthest_logit: farthest(|difference| difference.farthest_logit),
        farthest_predicted_iou: farthest(|difference| difference.predicted_iou),
    })
}

/// Of two masks.
struct Difference {
    iou: f64,
    n_logits: u64,
    n_other_side: u64,
    farthest_logit: f32,
    predicted_iou: f32,
}

fn differences(a: &MaskRecord, b: &MaskRecord) -> Result<Vec<Difference>, RecordFault> {
    let same = |what: &str, a: String, b: String| if a == b { Ok(()) } else { Err(RecordFault::new(what, a, b)) };
    same(
        "image",
        blake3::Hash::from(a.image.file_digest).to_string(),
        blake3::Hash::from(b.image.file_digest).to_string(),
    )?;
    same("grid", a.grid.to_string(), b.grid.to_string())?;
    same("prompts", a.prompts.len().to_string(), b.prompts.len().to_string())?;
    same("masks of a prompt", a.n_masks().to_string(), b.n_masks().to_string())?;
    let mut found = vec![];
    for (prompt_idx, (of_a, of_b)) in a.prompts.iter().zip(&b.prompts).enumerate() {
        let corners =
            |rect: &sensei_data::geometry::RectInImage| format!("{},{}..{},{}", rect.x0, rect.y0, rect.x1, rect.y1);
        let (area_a, area_b) = (&of_a.rect_in_image, &of_b.rect_in_image);
        let is_near = [area_a.x0 - area_b.x0, area_a.y0 - area_b.y0, area_a.x1 - area_b.x1, area_a.y1 - area_b.y1];
        if is_near.iter().any(|edge| edge.abs() > NEAR_PIXELS) {
            return Err(RecordFault::new("area", corners(area_a), corners(area_b)));
        }
        for (mask_idx, (mask_a, mask_b)) in of_a.masks.iter().zip(&of_b.masks).enumerate() {
            let [in_a, in_b] = [a, b].map(|record| Rle::from_mask(&record.mask(prompt_idx, mask_idx).mask_in_image()));
            let is_empty = in_a.area() == 0 && in_b.area() == 0;
            // Cells outside of the image hold no logit.
            let cells = mask_a.logits.iter().zip(&mask_b.logits).filter(|(a, b)| **a != OUTSIDE && **b != OUTSIDE);
            let logit = |record: &MaskRecord, code: i8| f32::from(code) * record.logit_step;
            let mut difference = Difference {
                iou: if is_empty { 1.0 } else { in_a.iou(&in_b, false) },
                n_logits: 0,
                n_other_side: 0,
                farthest_logit: 0.0,
                predicted_iou: (mask_a.predicted_iou - mask_b.predicted_iou).abs(),
            };
            for (&code_a, &code_b) in cells {
                difference.n_logits += 1;
                difference.n_other_side += u64::from((code_a > 0) != (code_b > 0));
                let apart = (logit(a, code_a) - logit(b, code_b)).abs();
                difference.farthest_logit = difference.farthest_logit.max(apart);
            }
            found.push(difference);
        }
    }
    Ok(found)
}

/// Areas are one if no edge is farther: exporters compute them in another order of sums.
const NEAR_PIXELS: f64 = 1e-6;
/// A cell outside of the image.
const OUTSIDE: i8 = -128;
