//! Precision and recall of a category over all images.

use super::cell::{Cell, descending};
use super::matching::Marks;
use super::{AREAS, COCO_LIMITS, N_THRESHOLDS};

/// A category's numbers by threshold; `None` where it has no truth.
pub(super) struct CategoryCurve {
    /// Truths that can be found, of any area.
    pub(super) n_truths: u64,
    /// Mean of the interpolated precision at the recalls 0, .01, .. 1, by [`AREAS`].
    pub(super) precision: [Option<[f64; N_THRESHOLDS]>; AREAS.len()],
    /// By [`AREAS`].
    pub(super) recall: [Option<[f64; N_THRESHOLDS]>; AREAS.len()],
    /// With that many detections per image, of any area.
    pub(super) recall_at_limit: [Option<[f64; N_THRESHOLDS]>; COCO_LIMITS.len()],
}

impl CategoryCurve {
    /// `cells` by rising id of their image.
    pub(super) fn new(cells: &[Cell]) -> Self {
        let ranked = cells.iter().flat_map(|cell| cell.scores.iter().zip(&cell.marks));
        let mut ranked: Vec<(&f64, &Marks)> = ranked.collect();
        ranked.sort_by(|(a, _), (b, _)| descending(a, b));
        let n_truths = |area: usize| cells.iter().map(|cell| u64::from(cell.n_truths[area])).sum::<u64>();
        let mut curve = Self {
            n_truths: n_truths(0),
            precision: [None; AREAS.len()],
            recall: [None; AREAS.len()],
            recall_at_limit: [None; COCO_LIMITS.len()],
        };
        for area in (0..AREAS.len()).filter(|&area| n_truths(area) > 0) {
            let n_truths = n_truths(area) as f64;
            let precisions: [Vec<f64>; N_THRESHOLDS] =
                std::array::from_fn(|threshold| precisions(ranked.iter().map(|(_, marks)| *marks), area, threshold));
            curve.precision[area] = Some(std::array::from_fn(|at| mean_precision(&precisions[at], n_truths)));
            curve.recall[area] = Some(std::array::from_fn(|at| precisions[at].len() as f64 / n_truths));
        }
        for (of_limit, limit) in curve.recall_at_limit.iter_mut().zip(COCO_LIMITS) {
            let marks = || cells.iter().flat_map(|cell| cell.marks.iter().take(limit));
            let n_found = |at: usize| marks().filter(|marks| marks.found[0] & !marks.ignored[0] & 1 << at != 0).count();
            *of_limit =
                (curve.n_truths > 0).then(|| std::array::from_fn(|at| n_found(at) as f64 / curve.n_truths as f64));
        }
        curve
    }
}

/// The precision at each detection that is right, and the largest from there on.
fn precisions<'a>(ranked: impl Iterator<Item = &'a Marks>, area: usize, threshold: usize) -> Vec<f64> {
    let (mut right, mut wrong) = (0.0, 0.0);
    let mut precisions = Vec::new();
    for marks in ranked.filter(|marks| marks.ignored[area] >> threshold & 1 == 0) {
        if marks.found[area] >> threshold & 1 == 1 {
            right += 1.0;
            precisions.push(right / (wrong + right + f64::EPSILON));
        } else {
            wrong += 1.0;
        }
    }
    for idx in (1..precisions.len()).rev() {
        precisions[idx - 1] = precisions[idx - 1].max(precisions[idx]);
    }
    precisions
}

/// Over the 101 recalls, each at the first detection that reaches it; 0 where none does.
fn mean_precision(precisions: &[f64], n_truths: f64) -> f64 {
    let mut idx = 0;
    let mut sum = 0.0;
    for percent in 0..=100 {
        // numpy's linspace(0, 1, 101), to the bit.
        let recall = if percent == 100 { 1.0 } else { f64::from(percent) * 0.01 };
        while idx < precisions.len() && ((idx + 1) as f64 / n_truths) < recall {
            idx += 1;
        }
        sum += precisions.get(idx).copied().unwrap_or(0.0);
    }
    sum / 101.0
}
