//! The difference of two runs on the same instances.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::bootstrap::BootstrapConfig;
use crate::evaluate::PredictorScores;
use crate::metric::{Estimate, Group, Metric, N_CELLS, Summary, cluster_sums, headline_sums, summaries};

/// Candidate minus baseline, by group and metric; the interval is of the difference, both resampled together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairedDifference {
    /// Name of the predictor that is subtracted.
    pub baseline: String,
    /// Name of the other.
    pub candidate: String,
    /// `Estimate::value` is a difference here: 0.01 is one point.
    pub groups: BTreeMap<Group, Summary>,
}

/// Two runs that cannot be compared instance by instance.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PairingError {
    /// Different instances.
    #[error(
        "{baseline} and {candidate}: expected the same instances, found {n_baseline} and {n_candidate}: \
         {n_only_baseline} only in {baseline}, {n_only_candidate} only in {candidate} (first: annotation {first})"
    )]
    Instances {
        /// Name of the one.
        baseline: String,
        /// Name of the other.
        candidate: String,
        /// Instances of the one.
        n_baseline: usize,
        /// Instances of the other.
        n_candidate: usize,
        /// Without partner in the candidate.
        n_only_baseline: usize,
        /// Without partner in the baseline.
        n_only_candidate: usize,
        /// Smallest annotation id without partner.
        first: u64,
    },
    /// The same annotations, but another image, stratum or truth: another dataset or another crop.
    #[error(
        "{baseline} and {candidate}: expected the same image, stratum and truth for each annotation, \
         found {n_different} different (first: annotation {first})"
    )]
    Truths {
        /// Name of the one.
        baseline: String,
        /// Name of the other.
        candidate: String,
        /// Annotations that differ.
        n_different: usize,
        /// Smallest annotation id that differs.
        first: u64,
    },
    /// Scores under different protocols are different quantities.
    #[error("{baseline} and {candidate}: expected one protocol, found {baseline_protocol} and {candidate_protocol}")]
    Protocols {
        /// Name of the one.
        baseline: String,
        /// Name of the other.
        candidate: String,
        /// Name and hash of its protocol.
        baseline_protocol: String,
        /// Name and hash of its protocol.
        candidate_protocol: String,
    },
    /// No instance has the number that is compared.
    #[error("{baseline} and {candidate}: expected an instance to compare on, found none")]
    Undefined {
        /// Name of the one.
        baseline: String,
        /// Name of the other.
        candidate: String,
    },
    /// No such predictor in a report.
    #[error("predictor {name}: expected one of {}", known.join(", "))]
    UnknownPredictor {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: Vec<String>,
    },
}

/// Candidate minus baseline, with an image-clustered interval of the difference itself.
///
/// Both must have scored the same annotations of the same images against the same truths; they are sorted by annotation id,
/// as [`evaluate`](crate::evaluate::evaluate) returns them.
pub fn paired_difference(
    baseline: &PredictorScores,
    candidate: &PredictorScores,
    bootstrap: &BootstrapConfig,
) -> Result<PairedDifference, PairingError> {
    check_pairs(baseline, candidate)?;
    let sums = cluster_sums(&[&baseline.instances, &candidate.instances]);
    let difference = |sums: &[f64], cell: usize| {
        let ratio = |cell: usize| sums[2 * cell] / sums[2 * cell + 1];
        ratio(N_CELLS + cell) - ratio(cell)
    };
    Ok(PairedDifference {
        baseline: baseline.predictor.clone(),
        candidate: candidate.predictor.clone(),
        groups: summaries(&baseline.instances, &sums, bootstrap, difference),
    })
}

/// One number of [`paired_difference`], that of `metric` over all instances, to the same bits: a seventieth of the work.
///
/// # Errors
/// As [`paired_difference`], and if no instance defines the metric.
pub fn headline_difference(
    metric: Metric,
    baseline: &PredictorScores,
    candidate: &PredictorScores,
    bootstrap: &BootstrapConfig,
) -> Result<Estimate, PairingError> {
    check_pairs(baseline, candidate)?;
    let sums = headline_sums(metric, [&baseline.instances, &candidate.instances]);
    let difference = |sums: &[f64], _| sums[2] / sums[3] - sums[0] / sums[1];
    let value = difference(&sums.total(), 0);
    if !value.is_finite() {
        let (baseline, candidate) = (baseline.predictor.clone(), candidate.predictor.clone());
        return Err(PairingError::Undefined { baseline, candidate });
    }
    let interval = sums.intervals(1, difference, bootstrap)[0].filter(|_| sums.n_clusters_with(1) >= 2);
    Ok(Estimate { value, interval })
}

/// Fails unless both scored the same annotations of the same images against the same truths.
pub(crate) fn check_pairs(baseline: &PredictorScores, candidate: &PredictorScores) -> Result<(), PairingError> {
    let ids = |scores: &PredictorScores| -> BTreeSet<u64> {
        scores.instances.iter().map(|instance| instance.annotation_id).collect()
    };
    let (baseline_ids, candidate_ids) = (ids(baseline), ids(candidate));
    let (names, of) =
        ((baseline.predictor.clone(), candidate.predictor.clone()), |n: &PredictorScores| n.instances.len());
    if let Some(&first) = baseline_ids.symmetric_difference(&candidate_ids).next() {
        return Err(PairingError::Instances {
            baseline: names.0,
            candidate: names.1,
            n_baseline: of(baseline),
            n_candidate: of(candidate),
            n_only_baseline: baseline_ids.difference(&candidate_ids).count(),
            n_only_candidate: candidate_ids.difference(&baseline_ids).count(),
            first,
        });
    }
    let pairs = || baseline.instances.iter().zip(&candidate.instances);
    let differ = pairs().filter(|(b, c)| {
        let key = |i: &crate::score::InstanceScore| {
            (i.annotation_id, i.image_id, i.stratum, i.in_crop.map(|in_crop| in_crop.truth), i.in_image.truth)
        };
        key(b) != key(c)
    });
    let different: Vec<u64> = differ.map(|(b, _)| b.annotation_id).collect();
    match different.first() {
        None => Ok(()),
        Some(&first) => {
            Err(PairingError::Truths { baseline: names.0, candidate: names.1, n_different: different.len(), first })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::run;
    use crate::metric::Metric;
    use crate::score::Overlap;

    const BOOTSTRAP: BootstrapConfig = BootstrapConfig { seed: 0, n_resamples: 500 };

    #[test]
    fn a_run_does_not_differ_from_itself() {
        let float = run("float", 30, 0.3, 1);
        let difference = paired_difference(&float, &float, &BOOTSTRAP).unwrap();
        let estimate = difference.groups[&Group::All].estimates[&Metric::MeanIouInImage];
        let interval = estimate.interval.unwrap();
        assert_eq!((estimate.value, interval.low, interval.high), (0.0, 0.0, 0.0));
    }

    #[test]
    fn the_interval_is_of_the_difference_and_not_of_two_means() {
        let float = run("float", 60, 0.3, 1);
        let mut int8 = PredictorScores { predictor: "int8".to_string(), ..float.clone() };
        for (idx, instance) in int8.instances.iter_mut().enumerate() {
            let lost = idx as u64 % 3;
            let Overlap { intersection, truth, prediction } = instance.in_image;
            instance.in_crop =
                Some(Overlap { intersection: intersection - lost, truth, prediction: prediction - lost });
        }
        let difference = paired_difference(&float, &int8, &BOOTSTRAP).unwrap();
        let estimate = difference.groups[&Group::All].estimates[&Metric::MeanIouInCrop];
        let of = |scores: &PredictorScores| Metric::MeanIouInCrop.of(&scores.instances).unwrap();
        assert!((estimate.value - (of(&int8) - of(&float))).abs() < 1e-12);
        let interval = estimate.interval.unwrap();
        assert!(interval.low < -0.0005 && interval.high < 0.0 && interval.high - interval.low < 0.001, "{interval:?}");
    }

    #[test]
    fn other_instances_are_an_error_that_counts_them() {
        let float = run("float", 10, 0.3, 1);
        let mut int8 = run("int8", 10, 0.3, 2);
        int8.instances.retain(|instance| instance.annotation_id != 11);
        int8.instances.last_mut().unwrap().annotation_id = 5000;
        let message = paired_difference(&float, &int8, &BOOTSTRAP).unwrap_err().to_string();
        let expected = "float and int8: expected the same instances, found 30 and 29: 2 only in float, 1 only in int8 \
                        (first: annotation 11)";
        assert_eq!(message, expected);
    }

    #[test]
    fn another_truth_is_another_protocol() {
        let float = run("float", 10, 0.3, 1);
        let mut int8 = run("int8", 10, 0.3, 2);
        int8.instances[3].in_image.truth += 1;
        int8.instances[4].image_id += 1;
        let expected = "float and int8: expected the same image, stratum and truth for each annotation, found 2 different \
                        (first: annotation 20)";
        assert_eq!(paired_difference(&float, &int8, &BOOTSTRAP).unwrap_err().to_string(), expected);
    }
}
