//! The result file of an evaluation: numbers, their protocol, and the counts of every instance they follow from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sensei_files::bounded::read_bounded;
use sensei_files::error::FileError;
use sensei_files::whole::write_whole;
use sensei_samples::selection::{LeftOut, count_by_reason, in_words};
use serde::{Deserialize, Serialize};

use crate::bootstrap::BootstrapConfig;
use crate::evaluate::{Evaluation, PredictorScores};
use crate::json_lines::to_lines;
use crate::metric::{Estimate, Group, Summary, summarize};
use crate::paired::{PairedDifference, PairingError, check_pairs, headline_difference, paired_difference};
use crate::protocol::EvalProtocol;

/// All numbers of one evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalReport {
    /// [`FORMAT_VERSION`].
    pub version: u32,
    /// What fixed the numbers.
    pub protocol: EvalProtocol,
    /// [`EvalProtocol::hash`] of it.
    pub protocol_hash: String,
    /// What fixed the intervals.
    pub bootstrap: BootstrapConfig,
    /// Instances of the subset that nobody was scored on, sorted by annotation id.
    pub left_out: Vec<LeftOut>,
    /// In the order of the table.
    pub predictors: Vec<PredictorReport>,
    /// The paired differences that were asked for.
    pub differences: Vec<PairedDifference>,
}

/// Numbers of one predictor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PredictorReport {
    /// Results per instance.
    pub scores: PredictorScores,
    /// Metrics by group.
    pub groups: BTreeMap<Group, Summary>,
}

/// A report that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The file cannot be read or written, or is larger than any report.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not JSON, or a field is missing, unknown or of another type.
    #[error("{path}: not a report")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        source: serde_json::Error,
    },
    /// Written by another version.
    #[error("{path}: expected report version {expected}, found {found}")]
    Version {
        /// The file.
        path: PathBuf,
        /// [`FORMAT_VERSION`].
        expected: u32,
        /// Its version.
        found: u32,
    },
    /// The parts of the file contradict each other: it was edited or damaged.
    #[error("{path}: {what}: expected {expected}, found {found}")]
    Inconsistent {
        /// The file.
        path: PathBuf,
        /// Which part.
        what: String,
        /// What follows from the rest of the file.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// The predictors of the file were not scored on the same instances.
    #[error("{path}: predictors differ in their instances")]
    Pairing {
        /// The file.
        path: PathBuf,
        /// Which and how.
        source: PairingError,
    },
}

/// Objects and arrays around an instance: report, rows, row, scores, instances.
const INSTANCE_DEPTH: usize = 5;

/// The version of the file's layout.
pub const FORMAT_VERSION: u32 = 2;

impl EvalReport {
    /// Computes all metrics and intervals, and the paired differences `(baseline, candidate)` of predictors by name.
    ///
    /// Where the protocol has no crop of its own, what was counted in predictors' crops is dropped: it could not be compared.
    pub fn new(
        protocol: EvalProtocol,
        mut evaluation: Evaluation,
        bootstrap: BootstrapConfig,
        differences: &[(&str, &str)],
    ) -> Result<Self, PairingError> {
        if protocol.crop.is_none() {
            let instances = evaluation.scores.iter_mut().flat_map(|scores| &mut scores.instances);
            instances.for_each(|instance| instance.in_crop = None);
        }
        let predictor = |scores: PredictorScores| {
            let groups = summarize(&scores.instances, &bootstrap);
            PredictorReport { scores, groups }
        };
        let mut report = Self {
            version: FORMAT_VERSION,
            protocol_hash: protocol.hash(),
            protocol,
            bootstrap,
            left_out: evaluation.left_out,
            predictors: evaluation.scores.into_iter().map(predictor).collect(),
            differences: Vec::new(),
        };
        for (baseline, candidate) in differences {
            let difference = report.difference_to(baseline, &report, candidate)?;
            report.differences.push(difference);
        }
        Ok(report)
    }

    /// Results of a predictor by name.
    pub fn predictor(&self, name: &str) -> Result<&PredictorReport, PairingError> {
        let named = self.predictors.iter().find(|predictor| predictor.scores.predictor == name);
        named.ok_or_else(|| PairingError::UnknownPredictor {
            name: name.to_string(),
            known: self.predictors.iter().map(|predictor| predictor.scores.predictor.clone()).collect(),
        })
    }

    /// Drops every predictor but one, and the differences.
    ///
    /// # Errors
    /// If there is no such predictor.
    pub fn keep_only(&mut self, name: &str) -> Result<(), PairingError> {
        self.predictor(name)?;
        self.predictors.retain(|predictor| predictor.scores.predictor == name);
        self.differences.clear();
        Ok(())
    }

    /// A predictor of another report minus one of this report, by this report's bootstrap.
    pub fn difference_to(
        &self,
        baseline: &str,
        other: &Self,
        candidate: &str,
    ) -> Result<PairedDifference, PairingError> {
        let (baseline, candidate) = self.pair(baseline, other, candidate)?;
        paired_difference(baseline, candidate, &self.bootstrap)
    }

    /// One row of this report minus another, by the number that the protocol is quoted by, over all instances: the stored difference, or
    /// where there is none, what it would have been.
    ///
    /// # Errors
    /// If there is no such row, or no instance.
    pub fn headline_difference(&self, baseline: &str, candidate: &str) -> Result<Estimate, PairingError> {
        let metric = self.protocol.headline();
        let stored =
            self.differences.iter().find(|stored| stored.baseline == baseline && stored.candidate == candidate);
        let stored = stored.and_then(|stored| stored.groups.get(&Group::All)?.estimates.get(&metric).copied());
        let (baseline, candidate) = (&self.predictor(baseline)?.scores, &self.predictor(candidate)?.scores);
        stored.map_or_else(|| headline_difference(metric, baseline, candidate, &self.bootstrap), Ok)
    }

    /// A predictor of this report and one of another, if they were scored on the same instances by the same protocol.
    pub(crate) fn pair<'a>(
        &'a self,
        baseline: &str,
        other: &'a Self,
        candidate: &str,
    ) -> Result<(&'a PredictorScores, &'a PredictorScores), PairingError> {
        if self.protocol_hash != other.protocol_hash {
            let label = |report: &Self| format!("{} ({})", report.protocol.name, report.protocol.short_hash());
            return Err(PairingError::Protocols {
                baseline: baseline.to_string(),
                candidate: candidate.to_string(),
                baseline_protocol: label(self),
                candidate_protocol: label(other),
            });
        }
        let (baseline, candidate) = (&self.predictor(baseline)?.scores, &other.predictor(candidate)?.scores);
        check_pairs(baseline, candidate)?;
        Ok((baseline, candidate))
    }

    /// The table that people read: floors, teacher and students as rows, headline metrics as columns.
    pub fn table(&self) -> String {
        crate::table::table(self)
    }

    /// How many instances nobody was scored on, by reason, as `3 (2 crowd, 1 no teacher record)`.
    pub fn left_out_in_words(&self) -> String {
        in_words(&count_by_reason(&self.left_out))
    }

    /// Writes the report as JSON, whole or not at all. Every instance has a line, so that `git diff` shows which ones changed.
    pub fn write(&self, path: &Path) -> Result<(), ReportError> {
        let json = to_lines(self, INSTANCE_DEPTH).map_err(|source| ReportError::Parse { path: path.into(), source })?;
        Ok(write_whole(path, &json)?)
    }

    /// Reads a report strictly: unknown fields, another version, and values that do not follow from the stored instances are
    /// errors. Intervals are taken as stored.
    pub fn read(path: &Path) -> Result<Self, ReportError> {
        let bytes = read_bounded(path, MAX_BYTES)?;
        let not_a_report = |source| ReportError::Parse { path: path.to_path_buf(), source };
        let found = serde_json::from_slice::<VersionOnly>(&bytes).map_err(not_a_report)?.version;
        if found != FORMAT_VERSION {
            return Err(ReportError::Version { path: path.to_path_buf(), expected: FORMAT_VERSION, found });
        }
        let report: Self = serde_json::from_slice(&bytes).map_err(not_a_report)?;
        report.check(path)?;
        Ok(report)
    }

    fn check(&self, path: &Path) -> Result<(), ReportError> {
        let inconsistent = |what: &str, expected: String, found: String| {
            Err(ReportError::Inconsistent { path: path.to_path_buf(), what: what.to_string(), expected, found })
        };
        if self.protocol_hash != self.protocol.hash() {
            return inconsistent("protocol_hash", self.protocol.hash(), self.protocol_hash.clone());
        }
        if !(1..=MAX_RESAMPLES).contains(&self.bootstrap.n_resamples) {
            let expected = format!("1 to {MAX_RESAMPLES} resamples");
            return inconsistent("bootstrap", expected, self.bootstrap.n_resamples.to_string());
        }
        for predictor in &self.predictors {
            let scores = &predictor.scores;
            if let Some(pair) = scores.instances.windows(2).find(|pair| pair[0].annotation_id >= pair[1].annotation_id)
            {
                let found = format!("{} then {}", pair[0].annotation_id, pair[1].annotation_id);
                return inconsistent(&scores.predictor, "ascending annotation ids".to_string(), found);
            }
            let pairs = check_pairs(&self.predictors[0].scores, scores);
            pairs.map_err(|source| ReportError::Pairing { path: path.to_path_buf(), source })?;
            let (expected, found) = (summarize(&scores.instances, &NO_INTERVALS), without_intervals(&predictor.groups));
            if expected != found {
                return inconsistent(&scores.predictor, format!("{expected:?}"), format!("{found:?}"));
            }
        }
        Ok(())
    }
}

/// Each takes some megabytes for a report of COCO's size.
pub const MAX_RESAMPLES: u32 = 100_000;

/// Read before anything else, whatever else another version holds.
#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

fn without_intervals(groups: &BTreeMap<Group, Summary>) -> BTreeMap<Group, Summary> {
    let mut groups = groups.clone();
    let estimates = groups.values_mut().flat_map(|summary| summary.estimates.values_mut());
    estimates.for_each(|estimate| estimate.interval = None);
    groups
}

const NO_INTERVALS: BootstrapConfig = BootstrapConfig { seed: 0, n_resamples: 0 };
/// Full COCO train with six predictors stays below.
const MAX_BYTES: u64 = 1 << 30;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make the files they read")]
mod tests {
    use super::*;
    use std::fs;

    use sensei_samples::selection::LeftOutReason;

    use crate::fixtures::{protocol, run};

    const BOOTSTRAP: BootstrapConfig = BootstrapConfig { seed: 0, n_resamples: 100 };

    fn report() -> EvalReport {
        let left_out = vec![LeftOut { annotation_id: 7000, reason: LeftOutReason::Crowd }];
        let evaluation = Evaluation { scores: vec![run("float", 12, 0.5, 1), run("int8", 12, 0.4, 2)], left_out };
        EvalReport::new(protocol(), evaluation, BOOTSTRAP, &[("float", "int8")]).unwrap()
    }

    #[test]
    fn a_report_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("eval.json");
        report().write(&path).unwrap();
        report().write(&path).unwrap();
        assert_eq!(EvalReport::read(&path).unwrap(), report());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
        let bytes = fs::read(&path).unwrap();
        EvalReport::read(&path).unwrap().write(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn a_report_that_contradicts_itself_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("eval.json");
        report().write(&path).unwrap();
        let json = fs::read_to_string(&path).unwrap();
        let check = |edited: String, expected: &str| {
            assert_ne!(edited, json, "the edit for: {expected}");
            fs::write(&path, edited).unwrap();
            let error = EvalReport::read(&path).unwrap_err();
            let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            let message = format!("{error}{source}").replace(&path.display().to_string(), "eval.json");
            assert!(message.starts_with(expected), "expected {expected}\nfound    {message}");
        };
        check(json.replacen(r#""version":2"#, r#""version":1"#, 1), "eval.json: expected report version 2, found 1");
        let unknown = json.replacen(r#""left_out":["#, r#""left_outs":[],"left_out":["#, 1);
        check(unknown, "eval.json: not a report: unknown field `left_outs`");
        check(json[..json.len() / 2].to_string(), "eval.json: not a report: EOF");
        let harder = json.replacen(r#""subset":"all""#, r#""subset":"easy""#, 1);
        check(harder, "eval.json: protocol_hash: expected ");
        let better = json.replacen(r#""mean_iou_in_crop":{"value":0."#, r#""mean_iou_in_crop":{"value":0.9"#, 1);
        check(better, "eval.json: float: expected {All: Summary");
        let swapped = json.replacen(r#""annotation_id":10,"#, r#""annotation_id":0,"#, 1);
        check(swapped, "eval.json: float: expected ascending annotation ids, found 0 then 0");
        let last = json.rfind(r#""annotation_id":110,"#).unwrap();
        let other = format!("{}{}", &json[..last], json[last..].replacen(":110,", ":109,", 1));
        check(other, "eval.json: predictors differ in their instances: float and int8: expected the same instances");
        let impossible = json.replacen("[", "[-1,", 1);
        check(impossible, "eval.json: not a report");
    }

    #[test]
    fn a_file_that_cannot_be_read_or_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none/eval.json");
        let expected = |what: &str, path: &Path| format!("{}: cannot {what}", path.display());
        assert_eq!(EvalReport::read(&missing).unwrap_err().to_string(), expected("read", &missing));
        assert_eq!(report().write(&missing).unwrap_err().to_string(), expected("write", &missing));
        // A folder stands where the report should be: the temporary file goes away again.
        let folder = dir.path().join("eval.json");
        fs::create_dir(&folder).unwrap();
        assert_eq!(report().write(&folder).unwrap_err().to_string(), expected("write", &folder));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn another_protocol_is_not_compared() {
        let (ours, mut other) = (report(), report());
        other.protocol.subset = "first 1000".to_string();
        other.protocol_hash = other.protocol.hash();
        let message = ours.difference_to("float", &other, "float").unwrap_err().to_string();
        assert!(message.starts_with("float and float: expected one protocol, found picosam3-roi96 ("), "{message}");
        let expected = "predictor fp32: expected one of float, int8";
        assert_eq!(ours.difference_to("float", &report(), "fp32").unwrap_err().to_string(), expected);
    }
}
