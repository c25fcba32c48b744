//! Which instances are worth a picture: the best, the worst, some in the middle, and some that no score chose.

use serde::{Deserialize, Serialize};

use crate::protocol::Space;
use crate::score::InstanceScore;

/// Why an instance is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Of the highest IoU.
    Best,
    /// Of an IoU in the middle.
    Median,
    /// Of the lowest IoU.
    Worst,
    /// Chosen by their annotation's id, whatever their scores. Runs that are scored on almost the same instances show the same ones.
    Fixed,
}

impl Why {
    /// All, in the order of pages.
    pub const ALL: [Self; 4] = [Self::Best, Self::Median, Self::Worst, Self::Fixed];

    /// In a word, for a panel.
    pub fn name(self) -> &'static str {
        match self {
            Self::Best => "best",
            Self::Median => "median",
            Self::Worst => "worst",
            Self::Fixed => "fixed",
        }
    }
}

/// Chooses `n` of the instances, or all if there are fewer: a quarter for each reason, and what is left over in the order worst, best,
/// median. Returns indices into `instances`, each once, in the order of [`Why::ALL`]; of equal IoU the smaller annotation id is the worse.
pub fn choose(instances: &[InstanceScore], space: Space, n: usize) -> Vec<(Why, usize)> {
    let n = n.min(instances.len());
    let share = |nth: usize| n / 4 + usize::from(n % 4 > nth);
    let (n_worst, n_best, n_median, n_fixed) = (share(0), share(1), share(2), share(3));
    let mut fixed: Vec<usize> = (0..instances.len()).collect();
    fixed.sort_by_key(|&idx| scattered(instances[idx].annotation_id));
    fixed.truncate(n_fixed);
    fixed.sort_unstable();
    let iou = |idx: usize| match space {
        Space::Crop => instances[idx].in_crop.unwrap_or(instances[idx].in_image).iou(),
        Space::Image => instances[idx].in_image.iou(),
    };
    let mut rising: Vec<usize> = (0..instances.len()).filter(|idx| !fixed.contains(idx)).collect();
    rising
        .sort_by(|&a, &b| iou(a).total_cmp(&iou(b)).then(instances[a].annotation_id.cmp(&instances[b].annotation_id)));
    let between = &rising[n_worst..rising.len() - n_best];
    let first_median = (between.len() - n_median) / 2;
    let best = rising[rising.len() - n_best..].iter().rev().map(|&idx| (Why::Best, idx));
    let median = between[first_median..first_median + n_median].iter().map(|&idx| (Why::Median, idx));
    let worst = rising[..n_worst].iter().map(|&idx| (Why::Worst, idx));
    best.chain(median).chain(worst).chain(fixed.into_iter().map(|idx| (Why::Fixed, idx))).collect()
}

/// An order of ids that neither follows their own nor depends on which others there are (the last steps of splitmix64).
fn scattered(id: u64) -> u64 {
    let id = id.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let id = (id ^ (id >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let id = (id ^ (id >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    id ^ (id >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::instance;
    use crate::score::Stratum;

    /// Instances of these IoU, in thousandths.
    fn instances(ious: &[u64]) -> Vec<InstanceScore> {
        ious.iter().enumerate().map(|(id, &hits)| instance(id as u64, 1, Stratum::M, [hits, 1000, hits])).collect()
    }

    #[test]
    fn a_quarter_for_each_reason_and_none_twice() {
        let twelve = instances(&[500, 900, 100, 300, 700, 800, 200, 400, 600, 950, 50, 550]);
        let of = |n: usize| choose(&twelve, Space::Crop, n);
        assert_eq!(of(4), [(Why::Best, 9), (Why::Median, 11), (Why::Worst, 2), (Why::Fixed, 10)]);
        assert_eq!(of(1), [(Why::Worst, 10)]);
        assert_eq!(of(2), [(Why::Best, 9), (Why::Worst, 10)]);
        assert_eq!(of(0), []);
        let mut all: Vec<usize> = of(99).into_iter().map(|(_, idx)| idx).collect();
        all.sort_unstable();
        assert_eq!(all, (0..12).collect::<Vec<_>>());
        let fixed = |instances: &[InstanceScore]| -> Vec<usize> {
            let chosen = choose(instances, Space::Crop, 8).into_iter();
            chosen.filter(|(why, _)| *why == Why::Fixed).map(|(_, idx)| idx).collect()
        };
        assert_eq!(fixed(&twelve), fixed(&instances(&[1; 12])), "whatever the scores");
        let hundred = instances(&[1; 100]);
        let ids = |instances: &[InstanceScore]| -> Vec<u64> {
            fixed(instances).into_iter().map(|idx| instances[idx].annotation_id).collect()
        };
        let some_left_out: Vec<InstanceScore> = hundred
            .iter()
            .filter(|one| one.annotation_id % 7 != 0 || ids(&hundred).contains(&one.annotation_id))
            .cloned()
            .collect();
        assert_eq!(ids(&some_left_out), ids(&hundred), "whichever others are left out");
    }

    #[test]
    fn equal_scores_go_by_the_annotation() {
        let chosen = choose(&instances(&[500; 5]), Space::Image, 3);
        assert_eq!(chosen, [(Why::Best, 4), (Why::Median, 2), (Why::Worst, 0)]);
    }
}
