//! Metrics over sets of instances. `docs/metrics.md` has the formulas.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bootstrap::{BootstrapConfig, ClusterSums, Interval};
use crate::score::{InstanceScore, Overlap, Rarity, Stratum};

/// A number over a set of instances. Each is a ratio of two sums over instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Mean over instances of the IoU on the crop's grid.
    MeanIouInCrop,
    /// Mean over instances of the IoU at the image's own resolution.
    MeanIouInImage,
    /// Intersections summed over instances, divided by summed unions, on the crop's grid.
    PooledIouInCrop,
    /// The same at the image's own resolution.
    PooledIouInImage,
    /// Mean over the thresholds .50:.05:.95 of the share of instances whose crop IoU is at or above it. Thresholds are exact.
    HitRateInCrop,
    /// The same at the image's own resolution.
    HitRateInImage,
    /// [`Metric::HitRateInCrop`] to the letter of PicoSAM2's "mAP@[0.5:0.95]": instances with an empty truth are skipped,
    /// 1e-8 is added to the union, thresholds are numpy's.
    ///
    /// # Source
    /// pbonazzi/picosam2 `model_compression/benchmark.py`, `calc_map_iou_range`.
    HitRatePicosam2,
}

/// A set of instances that gets its own row of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Every instance.
    All,
    /// Those of [`Stratum::S`].
    Small,
    /// Those of [`Stratum::M`].
    Medium,
    /// Those of [`Stratum::L`].
    Large,
    /// Those without another annotated object close by.
    Alone,
    /// Those with one or two.
    FewCompetitors,
    /// Those with three or more.
    ManyCompetitors,
    /// Those of [`Rarity::R`].
    Rare,
    /// Those of [`Rarity::C`].
    Common,
    /// Those of [`Rarity::F`].
    Frequent,
}

/// A number with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// The metric, or the difference of two, on the instances themselves.
    pub value: f64,
    /// `None` if fewer than two images contribute.
    pub interval: Option<Interval>,
}

/// All metrics of one group. A metric that no instance defines is absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// Instances of the group.
    pub n_instances: u64,
    /// Images with at least one of them.
    pub n_images: u64,
    /// By metric.
    pub estimates: BTreeMap<Metric, Estimate>,
}

/// Every metric of every group, with intervals from a bootstrap over images.
pub fn summarize(instances: &[InstanceScore], bootstrap: &BootstrapConfig) -> BTreeMap<Group, Summary> {
    let sums = cluster_sums(&[instances]);
    summaries(instances, &sums, bootstrap, |sums, cell| sums[2 * cell] / sums[2 * cell + 1])
}

impl Metric {
    /// All, in the order of reports.
    pub const ALL: [Self; 7] = [
        Self::MeanIouInCrop,
        Self::MeanIouInImage,
        Self::PooledIouInCrop,
        Self::PooledIouInImage,
        Self::HitRateInCrop,
        Self::HitRateInImage,
        Self::HitRatePicosam2,
    ];

    /// The metric of `instances`; `None` if nothing defines it.
    pub fn of<'a>(self, instances: impl IntoIterator<Item = &'a InstanceScore>) -> Option<f64> {
        let add = |sum: [f64; 2], instance| {
            let [numerator, denominator] = self.terms(instance);
            [sum[0] + numerator, sum[1] + denominator]
        };
        let [numerator, denominator] = instances.into_iter().fold([0.0; 2], add);
        (denominator > 0.0).then(|| numerator / denominator)
    }

    /// What one instance adds to numerator and denominator.
    pub(crate) fn terms(self, instance: &InstanceScore) -> [f64; 2] {
        let pooled = |overlap: &Overlap| [overlap.intersection as f64, overlap.union() as f64];
        match self {
            Self::MeanIouInImage => [instance.in_image.iou(), 1.0],
            Self::PooledIouInImage => pooled(&instance.in_image),
            Self::HitRateInImage => [hit_share(&instance.in_image), 1.0],
            of_crop => instance.in_crop.as_ref().map_or([0.0, 0.0], |in_crop| match of_crop {
                Self::PooledIouInCrop => pooled(in_crop),
                Self::HitRateInCrop => [hit_share(in_crop), 1.0],
                Self::HitRatePicosam2 if in_crop.truth == 0 => [0.0, 0.0],
                Self::HitRatePicosam2 => [picosam2_hit_share(in_crop), 1.0],
                _ => [in_crop.iou(), 1.0],
            }),
        }
    }
}

impl Group {
    /// All, in the order of reports.
    pub const ALL: [Self; 10] = [
        Self::All,
        Self::Small,
        Self::Medium,
        Self::Large,
        Self::Alone,
        Self::FewCompetitors,
        Self::ManyCompetitors,
        Self::Rare,
        Self::Common,
        Self::Frequent,
    ];

    /// Whether the instance belongs to the group.
    pub fn contains(self, instance: &InstanceScore) -> bool {
        match self {
            Self::All => true,
            Self::Small => instance.stratum == Stratum::S,
            Self::Medium => instance.stratum == Stratum::M,
            Self::Large => instance.stratum == Stratum::L,
            Self::Alone => instance.competitors == 0,
            Self::FewCompetitors => (1..=2).contains(&instance.competitors),
            Self::ManyCompetitors => instance.competitors > 2,
            Self::Rare => instance.rarity == Some(Rarity::R),
            Self::Common => instance.rarity == Some(Rarity::C),
            Self::Frequent => instance.rarity == Some(Rarity::F),
        }
    }
}

/// Numerator and denominator of every cell (group by metric, [`N_CELLS`] of them) of every run, summed per image.
///
/// # Panics
/// If the runs are not of the same instances in the same order: the caller has checked that.
pub(crate) fn cluster_sums(runs: &[&[InstanceScore]]) -> ClusterSums {
    let mut rows: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for (run_idx, run) in runs.iter().enumerate() {
        assert_eq!(run.len(), runs[0].len(), "cluster_sums: instances of the runs");
        for instance in run.iter() {
            let row = rows.entry(instance.image_id).or_insert_with(|| vec![0.0; 2 * N_CELLS * runs.len()]);
            for (cell, (group, metric)) in cells().enumerate() {
                if group.contains(instance) {
                    let [numerator, denominator] = metric.terms(instance);
                    row[2 * (run_idx * N_CELLS + cell)] += numerator;
                    row[2 * (run_idx * N_CELLS + cell) + 1] += denominator;
                }
            }
        }
    }
    ClusterSums::new(2 * N_CELLS * runs.len(), rows.into_values())
}

/// Of two runs, the columns of [`cluster_sums`] of one metric over all instances.
pub(crate) fn headline_sums(metric: Metric, runs: [&[InstanceScore]; 2]) -> ClusterSums {
    let mut rows: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for (run_idx, run) in runs.iter().enumerate() {
        for instance in run.iter() {
            let row = rows.entry(instance.image_id).or_insert_with(|| vec![0.0; 4]);
            let [numerator, denominator] = metric.terms(instance);
            row[2 * run_idx] += numerator;
            row[2 * run_idx + 1] += denominator;
        }
    }
    ClusterSums::new(4, rows.into_values())
}

/// Values and intervals of `statistic(sums, cell)`, which is not finite where the cell is undefined.
pub(crate) fn summaries(
    instances: &[InstanceScore],
    sums: &ClusterSums,
    bootstrap: &BootstrapConfig,
    statistic: impl Fn(&[f64], usize) -> f64 + Sync,
) -> BTreeMap<Group, Summary> {
    let intervals = sums.intervals(N_CELLS, &statistic, bootstrap);
    let total = sums.total();
    let mut summaries = BTreeMap::new();
    for group in Group::ALL {
        let members = || instances.iter().filter(|instance| group.contains(instance));
        let images: std::collections::BTreeSet<u64> = members().map(|instance| instance.image_id).collect();
        let summary = Summary {
            n_instances: members().count() as u64,
            n_images: images.len() as u64,
            estimates: BTreeMap::new(),
        };
        summaries.insert(group, summary);
    }
    for (cell, (group, metric)) in cells().enumerate() {
        let value = statistic(&total, cell);
        if let (true, Some(summary)) = (value.is_finite(), summaries.get_mut(&group)) {
            let n_contributing = sums.n_clusters_with(2 * cell + 1);
            let interval = intervals[cell].filter(|_| n_contributing >= 2);
            summary.estimates.insert(metric, Estimate { value, interval });
        }
    }
    summaries
}

/// Groups times metrics.
pub(crate) const N_CELLS: usize = Group::ALL.len() * Metric::ALL.len();

fn cells() -> impl Iterator<Item = (Group, Metric)> {
    Group::ALL.into_iter().flat_map(|group| Metric::ALL.into_iter().map(move |metric| (group, metric)))
}

/// The share of the thresholds 10/20, 11/20, .. 19/20 that the IoU reaches, in whole numbers.
fn hit_share(overlap: &Overlap) -> f64 {
    (10..20).filter(|twentieths| overlap.reaches(*twentieths, 20)).count() as f64 / 10.0
}

/// As `hit_share`, in the floating-point steps of PicoSAM2's code.
fn picosam2_hit_share(overlap: &Overlap) -> f64 {
    let iou = overlap.intersection as f64 / (overlap.union() as f64 + 1e-8);
    // numpy's arange adds multiples of the rounded difference of its first two values.
    let step = (0.5 + 0.05) - 0.5;
    let n_hits = (0..10).filter(|&idx| iou >= 0.5 + f64::from(idx) * step).count();
    n_hits as f64 / 10.0
}

#[cfg(test)]
mod tests {
    use sensei_testing::golden;

    use super::*;
    use crate::fixtures::{instance, run};

    #[test]
    fn means_and_hit_rates_are_numpys() {
        let case = golden("eval/hit_rate");
        let counts = case.i64s("counts");
        let instances: Vec<InstanceScore> = counts
            .as_chunks::<3>()
            .0
            .iter()
            .enumerate()
            .map(|(idx, counts)| instance(idx as u64, 0, Stratum::S, counts.map(|n| n as u64)))
            .collect();
        let check = |metric: Metric, name: &str| {
            let (got, expected) = (metric.of(&instances).unwrap(), case.f64s(name)[0]);
            assert!((got - expected).abs() < 1e-12, "{metric:?}: got {got}, expected {expected}");
        };
        check(Metric::MeanIouInCrop, "mean_iou");
        check(Metric::MeanIouInImage, "mean_iou");
        check(Metric::PooledIouInCrop, "pooled_iou");
        check(Metric::PooledIouInImage, "pooled_iou");
        check(Metric::HitRateInCrop, "hit_rate");
        check(Metric::HitRateInImage, "hit_rate");
        check(Metric::HitRatePicosam2, "hit_rate_picosam2");
    }

    #[test]
    fn picosam2_misses_what_lies_exactly_on_a_threshold() {
        let half = [instance(1, 1, Stratum::S, [10, 15, 15])];
        assert_eq!(Metric::HitRateInCrop.of(&half), Some(0.1));
        assert_eq!(Metric::HitRatePicosam2.of(&half), Some(0.0));
        let identical = [instance(1, 1, Stratum::S, [9, 9, 9])];
        assert_eq!(Metric::HitRatePicosam2.of(&identical), Some(1.0));
    }

    #[test]
    fn a_stratum_without_instances_has_a_count_and_no_numbers() {
        let instances = [instance(1, 1, Stratum::S, [1, 2, 1]), instance(2, 2, Stratum::L, [0, 0, 0])];
        let groups = summarize(&instances, &BootstrapConfig { seed: 0, n_resamples: 100 });
        assert_eq!((groups[&Group::All].n_instances, groups[&Group::All].n_images), (2, 2));
        assert_eq!(groups[&Group::All].estimates[&Metric::MeanIouInCrop].value, 0.75);
        assert_eq!(groups[&Group::All].estimates[&Metric::PooledIouInCrop].value, 0.5);
        assert_eq!(groups[&Group::Medium].n_instances, 0);
        assert!(groups[&Group::Medium].estimates.is_empty());
        // Both empty: right, but neither a truth to hit nor a pixel to pool.
        let large = &groups[&Group::Large].estimates;
        assert_eq!(large[&Metric::MeanIouInCrop].value, 1.0);
        assert!(!large.contains_key(&Metric::PooledIouInCrop) && !large.contains_key(&Metric::HitRatePicosam2));
        assert!(large[&Metric::MeanIouInCrop].interval.is_none(), "one image has no interval");
        assert!(summarize(&[], &BootstrapConfig { seed: 0, n_resamples: 100 })[&Group::All].estimates.is_empty());
    }

    #[test]
    fn groups_are_the_metrics_of_their_members() {
        let scores = run("float", 30, 0.3, 5);
        let groups = summarize(&scores.instances, &BootstrapConfig { seed: 0, n_resamples: 200 });
        for (group, metric) in cells() {
            let members = scores.instances.iter().filter(|instance| group.contains(instance));
            let estimate = &groups[&group].estimates[&metric];
            assert!((estimate.value - metric.of(members).unwrap()).abs() < 1e-12, "{group:?} {metric:?}");
            let interval = estimate.interval.unwrap();
            assert!(
                interval.low <= estimate.value && estimate.value <= interval.high,
                "{group:?} {metric:?}: {interval:?}"
            );
        }
        let parts = [Group::Small, Group::Medium, Group::Large].map(|group| groups[&group].n_instances);
        assert_eq!(parts.iter().sum::<u64>(), groups[&Group::All].n_instances);
    }
}
