//! Several runs beside the first of them, on the instances that all were scored on.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::evaluate::PredictorScores;
use crate::gate::MIN_IMAGES;
use crate::metric::{Group, Metric, Summary, summarize};
use crate::paired::{PairedDifference, PairingError, paired_difference};
use crate::protocol::EvalProtocol;
use crate::report::EvalReport;
use crate::rows::judged;
use crate::score::InstanceScore;
use crate::verdict::Standing;

/// One row of several reports, by the bootstrap of the first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Name of the compared row.
    pub row: String,
    /// What is compared: `mean_iou` in the protocol's space, or in the image where the crops are not the same.
    pub metric: Metric,
    /// Why the crop's numbers are left out: the crops of the runs, where they differ.
    pub crops: Option<Vec<String>>,
    /// Instances that all have.
    pub n_instances: usize,
    /// Their images.
    pub n_images: u64,
    /// In the order of the reports.
    pub runs: Vec<ComparedRun>,
}

/// A run of a [`Comparison`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ComparedRun {
    /// Its name.
    pub name: String,
    /// Its instances that not all runs have.
    pub n_left_out: usize,
    /// Its numbers on the common instances.
    pub groups: BTreeMap<Group, Summary>,
    /// The same minus those of the first run; `None` for the first.
    pub difference: Option<PairedDifference>,
}

/// Runs that cannot be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// One run alone.
    #[error("expected at least two runs to compare, found {found}")]
    TooFew {
        /// Runs.
        found: usize,
    },
    /// No row is in all reports.
    #[error("expected a row int8, float or student that all have, found none: {}", rows.join("; "))]
    NoCommonRow {
        /// The rows of each.
        rows: Vec<String>,
    },
    /// Protocols that differ in more than the crop: their numbers are different quantities.
    #[error("{first} and {other}: expected one protocol but for the crop, found another {}", fields.join(", another "))]
    Protocols {
        /// The first run.
        first: String,
        /// The other.
        other: String,
        /// What differs, with both values.
        fields: Vec<String>,
    },
    /// No instance is in all reports.
    #[error("expected instances that all runs were scored on, found none")]
    NoCommonInstances,
    /// An instance is not the same in two runs.
    #[error("{run}: {reason}", run = names.join(" and "))]
    Pairing {
        /// The two runs.
        names: Vec<String>,
        /// How they differ.
        reason: PairingError,
    },
}

/// Compares `row`, or the first of `int8`, `float` and `student` that all have, in reports with their runs' names.
///
/// The protocols must be the same but for the crop. Where the crops differ, nothing in crop space is compared: the pixels of different
/// crops are different quantities.
///
/// # Errors
/// See [`CompareError`].
pub fn compare(reports: &[(&str, &EvalReport)], row: Option<&str>) -> Result<Comparison, CompareError> {
    let [(first_name, first), others @ ..] = reports else { return Err(CompareError::TooFew { found: 0 }) };
    if others.is_empty() {
        return Err(CompareError::TooFew { found: 1 });
    }
    let mut is_one_crop = true;
    for (name, other) in others {
        let fields = differing(&first.protocol, &other.protocol);
        is_one_crop &= fields.is_empty();
        let fields: Vec<String> =
            fields.into_iter().filter(|(key, _)| *key != "crop" && *key != "space").map(|(_, words)| words).collect();
        if !fields.is_empty() {
            let (first, other) = ((*first_name).to_string(), (*name).to_string());
            return Err(CompareError::Protocols { first, other, fields });
        }
    }
    let row = match row {
        Some(row) => row.to_string(),
        None => common_row(reports)?,
    };
    let of_row = |(name, report): &(&str, &EvalReport)| {
        let scores = report.predictor(&row).map(|predictor| predictor.scores.clone());
        scores.map_err(|reason| CompareError::Pairing { names: vec![(*name).to_string()], reason })
    };
    let scores: Vec<PredictorScores> = reports.iter().map(of_row).collect::<Result<_, _>>()?;
    let (common, n_left_out) = on_common(&scores, is_one_crop);
    let [base, ..] = &common[..] else { return Err(CompareError::TooFew { found: 0 }) };
    if base.instances.is_empty() {
        return Err(CompareError::NoCommonInstances);
    }
    let mut runs = vec![];
    for (idx, ((name, _), scores)) in reports.iter().zip(&common).enumerate() {
        let difference = (idx > 0).then(|| paired_difference(base, scores, &first.bootstrap)).transpose();
        let names = || vec![(*first_name).to_string(), (*name).to_string()];
        let difference = difference.map_err(|reason| CompareError::Pairing { names: names(), reason })?;
        let groups = summarize(&scores.instances, &first.bootstrap);
        runs.push(ComparedRun { name: (*name).to_string(), n_left_out: n_left_out[idx], groups, difference });
    }
    let crop = |report: &EvalReport| report.protocol.crop.clone().unwrap_or_else(|| "none".into());
    Ok(Comparison {
        row,
        metric: if is_one_crop { first.protocol.headline() } else { Metric::MeanIouInImage },
        crops: (!is_one_crop).then(|| reports.iter().map(|(_, report)| crop(report)).collect()),
        n_instances: base.instances.len(),
        n_images: runs[0].groups[&Group::All].n_images,
        runs,
    })
}

impl Comparison {
    /// Where each run but the first stands beside it, and that in a sentence.
    pub fn sentences(&self) -> Vec<(Standing, String)> {
        let (first, row) = (&self.runs[0].name, &self.row);
        let few = if self.n_images < MIN_IMAGES as u64 { ": on too few images to rely on" } else { "" };
        let sentence = |run: &ComparedRun| {
            let found = run.difference.as_ref()?.groups.get(&Group::All)?.estimates.get(&self.metric)?;
            let points = |value: f64| format!("{:+.2}", 100.0 * value);
            let interval = found.interval.map_or_else(
                || "one image: no interval".into(),
                |interval| format!("95 % interval {} to {}", points(interval.low), points(interval.high)),
            );
            let by = format!("{:.2} points", 100.0 * found.value.abs());
            let (name, standing) = (&run.name, Standing::of(found));
            let words = match standing {
                Standing::Above => format!("{name}: {by} above {first} in {row}"),
                Standing::Below => format!("{name}: {by} below {first} in {row}"),
                Standing::NotToldApart | Standing::NoInterval => {
                    format!("{name}: not told apart from {first} in {row}, {} points", points(found.value))
                }
            };
            Some((standing, format!("{words} ({interval}{few})")))
        };
        self.runs.iter().skip(1).filter_map(sentence).collect()
    }

    /// What is compared, and on which instances.
    pub fn on_what(&self) -> String {
        let space = if self.metric == Metric::MeanIouInCrop { "crop" } else { "image" };
        let left_out: Vec<String> = self
            .runs
            .iter()
            .filter(|run| run.n_left_out > 0)
            .map(|run| format!("{} more only in {}", run.n_left_out, run.name))
            .collect();
        let left_out = match left_out.is_empty() {
            true => "each has these and no other".to_string(),
            false => left_out.join(", "),
        };
        format!(
            "row {}, mean IoU in the {space}, on the {} instances of {} images that all were scored on ({left_out})",
            self.row, self.n_instances, self.n_images
        )
    }

    /// Why the crop's numbers are left out, if they are.
    pub fn crop_note(&self) -> Option<String> {
        let crops = self.crops.as_ref()?;
        let of_runs = self.runs.iter().zip(crops).map(|(run, crop)| format!("{} {crop}", run.name));
        Some(format!(
            "the crops differ, so numbers in crop space are different quantities and are not compared: {}",
            of_runs.collect::<Vec<String>>().join(", ")
        ))
    }
}

/// The fields of two protocols that are not the same, with both values in words.
fn differing(first: &EvalProtocol, other: &EvalProtocol) -> Vec<(&'static str, String)> {
    let fields =
        |protocol: &EvalProtocol| serde_json::to_value(protocol).expect("strings, integers and unit variants are JSON");
    let (first, other) = (fields(first), fields(other));
    let words = |value: &Value| value.as_str().map_or_else(|| value.to_string(), String::from);
    let differs = PROTOCOL_FIELDS.into_iter().filter(|key| first[key] != other[key]);
    differs.map(|key| (key, format!("{key} ({} and {})", words(&first[key]), words(&other[key])))).collect()
}

/// The first of the rows that a run is judged by that all reports have.
fn common_row(reports: &[(&str, &EvalReport)]) -> Result<String, CompareError> {
    let rows = |report: &EvalReport| -> BTreeSet<String> {
        report.predictors.iter().map(|predictor| predictor.scores.predictor.clone()).collect()
    };
    let mut common = rows(reports[0].1);
    for (_, report) in &reports[1..] {
        common = common.intersection(&rows(report)).cloned().collect();
    }
    judged(common.iter().map(String::as_str)).map(String::from).ok_or_else(|| {
        let of = |(name, report): &(&str, &EvalReport)| {
            format!("{name} has {}", rows(report).into_iter().collect::<Vec<String>>().join(", "))
        };
        CompareError::NoCommonRow { rows: reports.iter().map(of).collect() }
    })
}

/// Each row on the instances that all have, and how many of its own are left out.
fn on_common(scores: &[PredictorScores], with_crop: bool) -> (Vec<PredictorScores>, Vec<usize>) {
    let ids = |scores: &PredictorScores| scores.instances.iter().map(|of| of.annotation_id).collect::<BTreeSet<u64>>();
    let mut common = ids(&scores[0]);
    for other in &scores[1..] {
        common = common.intersection(&ids(other)).copied().collect();
    }
    let kept = |scores: &PredictorScores| PredictorScores {
        predictor: scores.predictor.clone(),
        instances: scores
            .instances
            .iter()
            .filter(|of| common.contains(&of.annotation_id))
            .map(|of| InstanceScore { in_crop: of.in_crop.filter(|_| with_crop), ..*of })
            .collect(),
    };
    let on_common: Vec<PredictorScores> = scores.iter().map(kept).collect();
    let left_out = scores.iter().zip(&on_common).map(|(all, kept)| all.instances.len() - kept.instances.len());
    let left_out = left_out.collect();
    (on_common, left_out)
}

/// All but the name, which is for people.
const PROTOCOL_FIELDS: [&str; 11] = [
    "dataset",
    "subset",
    "prompt",
    "crop",
    "space",
    "min_area",
    "crowd",
    "empty_truth",
    "n_unusable",
    "mask_choice",
    "scoring",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::BootstrapConfig;
    use crate::evaluate::Evaluation;
    use crate::fixtures::{instance, protocol};
    use crate::protocol::Space;
    use crate::score::Stratum;

    /// A report of one row whose IoU is `thousandths` on the annotations from `first` on.
    fn report(row: &str, first: u64, n: u64, thousandths: u64) -> EvalReport {
        let of = |id: u64| instance(id, id / 2, Stratum::M, [thousandths + id % 3, 1000, thousandths + id % 3]);
        let scores = PredictorScores { predictor: row.into(), instances: (first..first + n).map(of).collect() };
        let evaluation = Evaluation { scores: vec![scores], left_out: vec![] };
        EvalReport::new(protocol(), evaluation, BootstrapConfig { seed: 1, n_resamples: 200 }, &[]).unwrap()
    }

    #[test]
    fn runs_are_compared_on_what_all_have() {
        let (a, b, c) = (report("int8", 0, 200, 500), report("int8", 20, 200, 530), report("int8", 10, 180, 490));
        let found = compare(&[("a", &a), ("b", &b), ("c", &c)], None).unwrap();
        assert_eq!((found.row.as_str(), found.metric, found.n_instances), ("int8", Metric::MeanIouInCrop, 170));
        assert_eq!(found.runs.iter().map(|run| run.n_left_out).collect::<Vec<_>>(), [30, 30, 10]);
        assert!(found.on_what().ends_with("170 instances of 85 images that all were scored on (30 more only in a, 30 more only in b, 10 more only in c)"), "{}", found.on_what());
        let sentences = found.sentences();
        assert_eq!(sentences[0].1, "b: 3.00 points above a in int8 (95 % interval +3.00 to +3.00)");
        assert_eq!(
            sentences[1],
            (Standing::Below, "c: 1.00 points below a in int8 (95 % interval -1.00 to -1.00)".into())
        );
        let same = compare(&[("a", &a), ("a again", &a)], None).unwrap();
        assert_eq!(
            same.sentences()[0].1,
            "a again: not told apart from a in int8, +0.00 points (95 % interval +0.00 to +0.00)"
        );
        assert!(same.on_what().ends_with("(each has these and no other)"));
    }

    #[test]
    fn what_differs_by_group_is_the_paired_difference() {
        let (a, b) = (report("int8", 0, 200, 500), report("int8", 0, 200, 530));
        let found = compare(&[("a", &a), ("b", &b)], None).unwrap();
        assert_eq!(found.runs[1].difference.as_ref().unwrap(), &a.difference_to("int8", &b, "int8").unwrap());
        assert_eq!(found.runs[1].groups, b.predictors[0].groups);
    }

    #[test]
    fn other_crops_are_compared_in_the_image_alone() {
        let (a, mut b) = (report("int8", 0, 200, 500), report("int8", 0, 200, 530));
        b.protocol.crop = Some("box-96".into());
        b.protocol.space = Space::Image;
        let found = compare(&[("a", &a), ("b", &b)], None).unwrap();
        assert_eq!(found.metric, Metric::MeanIouInImage);
        let all = &found.runs[1].difference.as_ref().unwrap().groups[&Group::All].estimates;
        assert!(all.contains_key(&Metric::MeanIouInImage) && !all.contains_key(&Metric::MeanIouInCrop));
        assert!(!found.runs[0].groups[&Group::All].estimates.contains_key(&Metric::PooledIouInCrop));
        assert!(found.crop_note().unwrap().ends_with("a roi-96-pad0.1-reference, b box-96"), "{:?}", found.crop_note());
    }

    #[test]
    fn what_cannot_be_compared_is_refused_with_a_reason() {
        let (a, b) = (report("int8", 0, 20, 500), report("int8", 0, 20, 530));
        let check = |other: EvalReport, words: &str| {
            let error = compare(&[("a", &a), ("b", &other)], None).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        let mut other = b.clone();
        other.protocol.prompt = "innermost_point".into();
        other.protocol.dataset = "11ee".into();
        check(
            other,
            "a and b: expected one protocol but for the crop, found another dataset (00ff and 11ee), another prompt (box and innermost_point)",
        );
        check(report("float", 0, 20, 500), "found none: a has int8; b has float");
        check(report("int8", 100, 20, 500), "expected instances that all runs were scored on, found none");
        let mut other = b;
        other.predictors[0].scores.instances[3].in_image.truth = 999;
        check(other, "a and b: int8 and int8: expected the same image, stratum and truth");
        assert!(compare(&[("a", &a)], None).unwrap_err().to_string().ends_with("found 1"));
        assert!(compare(&[("a", &a), ("b", &a)], Some("device")).unwrap_err().to_string().contains("predictor device"));
    }

    #[test]
    fn every_field_of_a_protocol_is_looked_at() {
        let mut with_all = protocol();
        with_all.n_unusable = 1;
        let fields = serde_json::to_value(with_all).unwrap();
        let keys: BTreeSet<&str> = fields.as_object().unwrap().keys().map(String::as_str).collect();
        let known: BTreeSet<&str> = PROTOCOL_FIELDS.into_iter().chain(["name"]).collect();
        assert_eq!(keys, known);
    }
}
