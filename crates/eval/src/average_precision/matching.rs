//! Which detection finds which truth.

use super::{AREAS, N_THRESHOLDS, iou_thresholds};

/// A truth, as far as matching needs it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Truth {
    /// The packages store the id of the truth that was found, and 0 for none.
    pub(super) counts_as_found: bool,
    /// As the file states it.
    pub(super) area: f64,
    /// A region that any number of detections may find.
    pub(super) crowd: bool,
}

/// By [`AREAS`].
pub(super) type Mark = [bool; AREAS.len()];

/// What became of a detection, by [`AREAS`]; one bit per threshold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// It found a truth.
    pub(super) found: [u16; AREAS.len()],
    /// It is neither right nor wrong.
    pub(super) ignored: [u16; AREAS.len()],
}

impl Truth {
    /// Whether finding it is neither right nor wrong.
    pub(super) fn ignored_in(&self, area: usize) -> bool {
        let [low, high] = AREAS[area].1;
        self.crowd || self.area < low || self.area > high
    }
}

/// Each detection, in their order, takes the free truth of largest IoU at or above the threshold; of equals the last.
/// Truths that are not ignored come first, and an ignored one is taken only if none of them can be. `excused` says that a
/// detection that finds nothing is ignored.
pub(super) fn match_greedily(ious: &[Vec<f64>], truths: &[Truth], excused: &[Mark]) -> Vec<Marks> {
    let mut marks = vec![Marks::default(); ious.len()];
    let best: Vec<f64> = ious.iter().map(|row| row.iter().copied().fold(0.0, f64::max)).collect();
    for area in 0..AREAS.len() {
        let ignored: Vec<bool> = truths.iter().map(|truth| truth.ignored_in(area)).collect();
        let mut order: Vec<usize> = (0..truths.len()).collect();
        order.sort_by_key(|&idx| ignored[idx]);
        for (threshold_idx, threshold) in iou_thresholds().into_iter().enumerate() {
            let bit = 1 << threshold_idx;
            let mut taken = vec![false; truths.len()];
            for (idx, row) in ious.iter().enumerate().filter(|(idx, _)| best[*idx] >= threshold) {
                let free = order.iter().copied().filter(|&truth| !taken[truth] || truths[truth].crowd);
                let Some(truth) = choose(row, free, &ignored, threshold) else { continue };
                taken[truth] = true;
                marks[idx].found[area] |= if truths[truth].counts_as_found { bit } else { 0 };
                marks[idx].ignored[area] |= if ignored[truth] { bit } else { 0 };
            }
        }
        for (marks, excused) in marks.iter_mut().zip(excused) {
            marks.ignored[area] |= if excused[area] { !marks.found[area] & ALL_THRESHOLDS } else { 0 };
        }
    }
    marks
}

fn choose(row: &[f64], free: impl Iterator<Item = usize>, ignored: &[bool], threshold: f64) -> Option<usize> {
    let (mut least, mut chosen) = (threshold, None);
    for truth in free {
        if ignored[truth] && chosen.is_some_and(|chosen: usize| !ignored[chosen]) {
            break;
        }
        if row[truth] >= least {
            (least, chosen) = (row[truth], Some(truth));
        }
    }
    chosen
}

const ALL_THRESHOLDS: u16 = (1 << N_THRESHOLDS) - 1;
