//! Whether a run is as good as another: the verdict, and how many more instances one would take.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::bootstrap::{BootstrapConfig, ClusterSums, Interval};
use crate::evaluate::PredictorScores;
use crate::metric::Metric;
use crate::paired::PairingError;
use crate::report::EvalReport;

/// The comparison of one predictor in two reports. Differences are candidate minus baseline; 0.01 is one point.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GateReport {
    /// Name of the compared row.
    pub predictor: String,
    /// Name and hash of the protocol.
    pub protocol: String,
    /// `mean_iou` in the protocol's space.
    pub metric: Metric,
    /// Instances compared.
    pub n_instances: usize,
    /// Their images.
    pub n_images: usize,
    /// The baseline's `mean_iou`.
    pub baseline: f64,
    /// The candidate's.
    pub candidate: f64,
    /// Candidate minus baseline.
    pub difference: f64,
    /// 95 % interval of the difference.
    pub interval: Interval,
    /// The drop that is accepted, in points of IoU: hundredths.
    pub max_drop_points: f64,
    /// What follows.
    pub verdict: Verdict,
    /// Resamples of the images.
    pub n_resamples: u32,
    /// Of the random numbers.
    pub seed: u64,
}

/// With fewer images, a sample may hold none of the rare large failures that a candidate has, and the interval does not know of them.
pub const MIN_IMAGES: usize = 60;

/// What the interval of the difference says of the accepted drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    /// The whole interval is above: the drop is smaller.
    Pass,
    /// The whole interval is below: the drop is larger.
    Fail,
    /// The accepted drop is in the interval, or it is of fewer than [`MIN_IMAGES`] images.
    CannotTell {
        /// About how many instances of further images, as these are, would decide, if the difference stays what it is; `None` where it
        /// is the accepted drop itself, or more than 10^9.
        further_instances: Option<u64>,
    },
}

/// A comparison that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GateError {
    /// Other instances or another protocol.
    #[error(transparent)]
    Pairing(#[from] PairingError),
    /// The interval is over images.
    #[error("expected at least two images to compare on, found {found}")]
    TooFewImages {
        /// Images in both.
        found: usize,
    },
    /// An accepted drop that no IoU can have.
    #[error("accepted drop: expected 0 to 100 points, found {found}")]
    MaxDrop {
        /// In points.
        found: f64,
    },
}

/// Compares `predictor` in two reports by `mean_iou` in the protocol's space, with the baseline's bootstrap. `max_drop_points` in points of
/// IoU: 0.5 is a fraction of 0.005.
///
/// # Errors
/// See [`GateError`].
pub fn gate(
    baseline: &EvalReport,
    candidate: &EvalReport,
    predictor: &str,
    max_drop_points: f64,
) -> Result<GateReport, GateError> {
    if !(0.0..=100.0).contains(&max_drop_points) {
        return Err(GateError::MaxDrop { found: max_drop_points });
    }
    let (of_baseline, of_candidate) = baseline.pair(predictor, candidate, predictor)?;
    let metric = baseline.protocol.headline();
    let clusters = clusters(metric, of_baseline, of_candidate);
    let n_images = clusters.len();
    if n_images < 2 {
        return Err(GateError::TooFewImages { found: n_images });
    }
    let total = |part: fn(&Cluster) -> f64| clusters.iter().map(part).sum::<f64>();
    let n = total(|cluster| cluster.n);
    let (sum_of_baseline, sum_of_candidate) = (total(|cluster| cluster.baseline), total(|cluster| cluster.candidate));
    let (difference, interval) = studentized(&clusters, &baseline.bootstrap);
    let n_instances = of_baseline.instances.len();
    Ok(GateReport {
        predictor: predictor.to_string(),
        protocol: format!("{} ({})", baseline.protocol.name, baseline.protocol.short_hash()),
        metric,
        n_instances,
        n_images,
        baseline: sum_of_baseline / n,
        candidate: sum_of_candidate / n,
        difference,
        interval,
        max_drop_points,
        verdict: verdict(difference, interval, max_drop_points / 100.0, [n_instances, n_images]),
        n_resamples: baseline.bootstrap.n_resamples,
        seed: baseline.bootstrap.seed,
    })
}

/// The instances of one image.
struct Cluster {
    n: f64,
    /// Sum of the baseline's IoU.
    baseline: f64,
    /// Sum of the candidate's.
    candidate: f64,
}

/// Images in ascending order of their id.
fn clusters(metric: Metric, baseline: &PredictorScores, candidate: &PredictorScores) -> Vec<Cluster> {
    let mut by_image: BTreeMap<u64, Cluster> = BTreeMap::new();
    for (baseline, candidate) in baseline.instances.iter().zip(&candidate.instances) {
        let ([of_baseline, n], [of_candidate, _]) = (metric.terms(baseline), metric.terms(candidate));
        let none = Cluster { n: 0.0, baseline: 0.0, candidate: 0.0 };
        let cluster = by_image.entry(baseline.image_id).or_insert(none);
        cluster.n += n;
        cluster.baseline += of_baseline;
        cluster.candidate += of_candidate;
    }
    by_image.into_values().collect()
}

/// The mean difference per instance and its 95 % interval, from how the difference of a resample, in its own standard errors, is spread.
///
/// # Source
/// Bootstrap-t, Efron and Tibshirani 1993, chapter 12.5; the standard error is that of a ratio of sums over clusters.
fn studentized(clusters: &[Cluster], bootstrap: &BootstrapConfig) -> (f64, Interval) {
    let sum = |part: &dyn Fn(&Cluster) -> f64| clusters.iter().map(part).sum::<f64>();
    let n = sum(&|cluster| cluster.n);
    let difference = sum(&|cluster| cluster.candidate - cluster.baseline) / n;
    // What an image adds beyond the mean difference: the sums of squares below then do not cancel.
    let beyond = |cluster: &Cluster| cluster.candidate - cluster.baseline - difference * cluster.n;
    let standard_error = sum(&|cluster| beyond(cluster).powi(2)).sqrt() / n;
    let row = |cluster: &Cluster| {
        let (e, n) = (beyond(cluster), cluster.n);
        vec![e, n, e * e, e * n, n * n]
    };
    let in_standard_errors = |sums: &[f64], _| {
        let off = sums[0] / sums[1];
        let variance = sums[2] - 2.0 * off * sums[3] + off * off * sums[4];
        // No difference anywhere is no deviation. A resample of one image over and over has none to measure by: what is left of its
        // variance is rounding, and it is counted as undefined.
        let is_rounding = variance <= 1e-12 * (sums[2] + off * off * sums[4]);
        match off == 0.0 {
            true => 0.0,
            false if is_rounding => f64::NAN,
            false => off * sums[1] / variance.sqrt(),
        }
    };
    let spread = ClusterSums::new(5, clusters.iter().map(row)).intervals(1, in_standard_errors, bootstrap)[0];
    // Every resample of the same image: with 10,000 of at least two images that does not happen.
    let Interval { low, high, n_undefined } =
        spread.unwrap_or(Interval { low: f64::NEG_INFINITY, high: f64::INFINITY, n_undefined: bootstrap.n_resamples });
    let (low, high) = (difference - high * standard_error, difference - low * standard_error);
    (difference, Interval { low, high, n_undefined })
}

/// The interval's width falls with the square root of the number of images. Fractions of IoU, `max_drop` too.
fn verdict(difference: f64, interval: Interval, max_drop: f64, [n_instances, n_images]: [usize; 2]) -> Verdict {
    if n_images < MIN_IMAGES {
        let further = (MIN_IMAGES - n_images) as f64 * n_instances as f64 / n_images as f64;
        return Verdict::CannotTell { further_instances: Some(further.ceil() as u64) };
    }
    if interval.low >= -max_drop {
        return Verdict::Pass;
    }
    if interval.high < -max_drop {
        return Verdict::Fail;
    }
    let distance = difference + max_drop;
    let half_width = if distance > 0.0 { difference - interval.low } else { interval.high - difference };
    let needed = n_instances as f64 * (half_width / distance).powi(2);
    let further = (needed - n_instances as f64).ceil().max(1.0);
    Verdict::CannotTell { further_instances: (further <= 1e9).then_some(further as u64) }
}

impl GateReport {
    /// One line for people.
    pub fn line(&self) -> String {
        let what = match self.verdict {
            Verdict::Pass => "pass".to_string(),
            Verdict::Fail => "fail".to_string(),
            Verdict::CannotTell { further_instances: Some(n) } if self.n_images < MIN_IMAGES => {
                let found = self.n_images;
                format!(
                    "cannot tell of {found} images, as an interval takes at least {MIN_IMAGES}; {} further images would do, about {n} instances",
                    MIN_IMAGES - found
                )
            }
            Verdict::CannotTell { further_instances: Some(n) } => {
                let images = (n as f64 * self.n_images as f64 / self.n_instances as f64).ceil();
                format!("cannot tell, about {n} further instances of {images} images would")
            }
            Verdict::CannotTell { further_instances: None } => {
                "cannot tell, nor would any number of further instances".to_string()
            }
        };
        let (difference, accepted) = (self.difference_line(), self.max_drop_points);
        format!("{what}: {difference}, accepted drop {accepted:.2} points")
    }

    /// The difference in words, without a verdict.
    pub fn difference_line(&self) -> String {
        format!(
            "{}: candidate - baseline = {:+.2} points of {} on {} instances of {} images, 95 % interval {:+.2} to {:+.2}, protocol {}",
            self.predictor,
            points(self.difference),
            self.metric_name(),
            self.n_instances,
            self.n_images,
            points(self.interval.low),
            points(self.interval.high),
            self.protocol
        )
    }

    /// A Markdown section, for a pull request or a job's summary.
    pub fn markdown(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::CannotTell { .. } => "cannot tell",
        };
        format!(
            "### Mean IoU gate: {verdict}\n\n\
             | | {} of `{}` |\n|---|---|\n| baseline | {:.4} |\n| candidate | {:.4} |\n\
             | difference, points | {:+.2} [{:+.2}, {:+.2}] |\n| accepted drop, points | {:.2} |\n\
             | instances / images | {} / {} |\n| protocol | {} |\n\n{}\n",
            self.metric_name(),
            self.predictor,
            self.baseline,
            self.candidate,
            100.0 * self.difference,
            100.0 * self.interval.low,
            100.0 * self.interval.high,
            self.max_drop_points,
            self.n_instances,
            self.n_images,
            self.protocol,
            self.line()
        )
    }

    /// A JUnit file of one test case: a failure where the gate fails, an error where it cannot tell.
    pub fn junit(&self) -> String {
        let line = escaped(&self.line());
        let (n_failures, n_errors, body) = match self.verdict {
            Verdict::Pass => (0, 0, format!("<system-out>{line}</system-out>")),
            Verdict::Fail => (1, 0, format!("<failure message=\"{line}\"/>")),
            Verdict::CannotTell { .. } => (0, 1, format!("<error message=\"{line}\"/>")),
        };
        let name = escaped(&format!("{} of {} by {}", self.metric_name(), self.predictor, self.protocol));
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <testsuite name=\"sensei gate\" tests=\"1\" failures=\"{n_failures}\" errors=\"{n_errors}\">\n\
             <testcase classname=\"sensei.gate\" name=\"{name}\">{body}</testcase>\n</testsuite>\n"
        )
    }

    fn metric_name(&self) -> &'static str {
        if self.metric == Metric::MeanIouInCrop { "mean_iou_in_crop" } else { "mean_iou_in_image" }
    }
}

/// Hundredths.
fn points(value: f64) -> f64 {
    100.0 * value
}

/// Text as XML's attribute values and character data hold it. Control characters have no form in XML 1.0.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            char if char.is_control() => out.push('\u{fffd}'),
            char => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{Rng, SeedableRng};
    use rayon::prelude::*;

    use super::*;
    use crate::evaluate::Evaluation;
    use crate::fixtures::{instance, protocol, run};
    use crate::score::Stratum;

    fn report(scores: PredictorScores, n_resamples: u32) -> EvalReport {
        let evaluation = Evaluation { scores: vec![scores], left_out: vec![] };
        let mut report = EvalReport::new(protocol(), evaluation, BootstrapConfig { seed: 3, n_resamples: 10 }, &[])
            .expect("one row");
        report.bootstrap.n_resamples = n_resamples;
        report
    }

    /// The run with the intersections of every instance changed by what `change` says, in thousandths of the union.
    fn changed(of: &PredictorScores, mut change: impl FnMut(usize) -> i64) -> PredictorScores {
        let mut scores = of.clone();
        for (idx, instance) in scores.instances.iter_mut().enumerate() {
            let intersection = (instance.in_image.intersection as i64 + change(idx)).clamp(0, 1000) as u64;
            instance.in_image.intersection = intersection;
            instance.in_image.prediction = intersection;
            instance.in_crop = Some(instance.in_image);
        }
        scores
    }

    #[test]
    fn three_verdicts() {
        let baseline = run("int8", 60, 0.6, 1);
        let compare = |candidate: PredictorScores| {
            gate(&report(baseline.clone(), 1000), &report(candidate, 1000), "int8", 0.5).expect("one protocol")
        };
        assert_eq!(compare(baseline.clone()).verdict, Verdict::Pass);
        assert_eq!(compare(changed(&baseline, |idx| -40 - (idx as i64 % 3))).verdict, Verdict::Fail);
        let unsure = compare(run("int8", 60, 0.6, 2));
        let Verdict::CannotTell { further_instances: Some(further) } = unsure.verdict else {
            panic!("expected no verdict, found {:?}", unsure.verdict)
        };
        assert!(unsure.line().starts_with(&format!("cannot tell, about {further} further instances of ")));
        assert!(unsure.markdown().contains("### Mean IoU gate: cannot tell"));
        assert!(unsure.junit().contains("failures=\"0\" errors=\"1\""));
        let few = run("int8", 3, 0.6, 1);
        let few = gate(&report(few.clone(), 1000), &report(few, 1000), "int8", 0.5).expect("one protocol");
        let expected = format!(
            "cannot tell of {} images, as an interval takes at least 60; {} further images would do, about ",
            few.n_images,
            60 - few.n_images
        );
        assert!(few.n_images < MIN_IMAGES && few.line().starts_with(&expected), "{}", few.line());
        let same = compare(baseline.clone());
        assert_eq!((same.difference, same.interval.low, same.interval.high), (0.0, 0.0, 0.0));
        assert!(gate(&report(baseline.clone(), 10), &report(baseline.clone(), 10), "int8", f64::NAN).is_err());
        assert!(gate(&report(baseline.clone(), 10), &report(baseline, 10), "int8", 100.5).is_err());
    }

    #[test]
    fn the_further_instances_are_those_of_the_narrower_interval() {
        let interval = |low, high| Interval { low, high, n_undefined: 0 };
        // Half the width is needed: four times the instances.
        let verdict_of = |difference, low, high| verdict(difference, interval(low, high), 0.01, [1000, 100]);
        assert_eq!(verdict_of(0.0, -0.02, 0.02), Verdict::CannotTell { further_instances: Some(3000) });
        assert_eq!(verdict_of(-0.02, -0.04, 0.0), Verdict::CannotTell { further_instances: Some(3000) });
        assert_eq!(verdict_of(-0.01, -0.02, 0.0), Verdict::CannotTell { further_instances: None });
        assert_eq!(verdict_of(0.0, -0.01, 0.02), Verdict::Pass);
        assert_eq!(verdict_of(-0.03, -0.04, -0.0101), Verdict::Fail);
        // Three images of twelve instances tell nothing, whatever they say.
        let few = verdict(0.0, interval(0.0, 0.0), 0.01, [12, 3]);
        assert_eq!(few, Verdict::CannotTell { further_instances: Some(228) });
    }

    /// Two runs of one quality: 95 % of the intervals have to contain 0. Instances of an image share an effect.
    #[test]
    fn intervals_cover_no_difference_as_often_as_they_say() {
        let n_trials = 4000;
        let covers = |seed: u64, n_images: u64| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut uniform = |n: i64| ((u64::from(rng.next_u32()) * n as u64) >> 32) as i64 - n / 2;
            let (mut baseline, mut candidate) = (vec![], vec![]);
            for image in 0..n_images {
                let shared = uniform(61);
                for nth in 0..1 + image % 7 {
                    let quality = 600 + uniform(301);
                    let drawn = |change: i64| {
                        let hits = (quality + change) as u64;
                        instance(10 * image + nth, image, Stratum::M, [hits, 1000, hits])
                    };
                    // Rounded down to whole pixels on both sides alike: the true difference is 0.
                    baseline.push(drawn(0));
                    candidate.push(drawn(shared + uniform(101)));
                }
            }
            let scores = |instances| PredictorScores { predictor: "int8".to_string(), instances };
            let clusters = clusters(Metric::MeanIouInCrop, &scores(baseline), &scores(candidate));
            let (_, interval) = studentized(&clusters, &BootstrapConfig { seed, n_resamples: 1000 });
            interval.low <= 0.0 && 0.0 <= interval.high
        };
        for n_images in [MIN_IMAGES as u64, 100] {
            let n_covered = (0..n_trials).into_par_iter().filter(|&seed| covers(seed, n_images)).count();
            let share = n_covered as f64 / n_trials as f64;
            assert!((0.94..=0.96).contains(&share), "{n_images} images: covered {share}");
        }
    }

    /// A candidate that fails on 5 images of 100 by 18 points, or on 3 by 30, loses .90 points. Few comparisons may let that pass as less
    /// than .5: those whose images hold no such failure, .95^n or .97^n of those with n images.
    #[test]
    fn rare_large_failures_pass_seldom() {
        let n_trials = 1000;
        let passes = |seed: u64, n_images: u64, (percent, points): (u64, i64)| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let (mut baseline, mut candidate) = (vec![], vec![]);
            for image in 0..n_images {
                let noise = ((u64::from(rng.next_u32()) * 21) >> 32) as i64 - 10;
                let fails = (u64::from(rng.next_u32()) * 100) >> 32 < percent;
                let hits = 700 + noise - if fails { 10 * points } else { 0 };
                baseline.push(instance(image, image, Stratum::M, [700, 1000, 700]));
                candidate.push(instance(image, image, Stratum::M, [hits as u64, 1000, hits as u64]));
            }
            let scores = |instances| PredictorScores { predictor: "int8".to_string(), instances };
            let clusters = clusters(Metric::MeanIouInCrop, &scores(baseline), &scores(candidate));
            let (_, interval) = studentized(&clusters, &BootstrapConfig { seed, n_resamples: 1000 });
            interval.low >= -0.005
        };
        let share = |n_images, failures| {
            let passed = (0..n_trials).into_par_iter().filter(|&seed| passes(seed, n_images, failures)).count();
            passed as f64 / n_trials as f64
        };
        for (failures, most) in [((5, 18), 0.06), ((3, 30), 0.2)] {
            let shares = [20, MIN_IMAGES as u64, 300].map(|n_images| share(n_images, failures));
            assert!(shares[0] > 0.3, "20 images: {shares:?}: the floor would not be needed");
            assert!(shares[1] <= most && shares[2] <= 0.01, "{failures:?}: {shares:?}");
        }
    }

    #[test]
    fn what_stands_in_a_junit_file_is_escaped() {
        assert_eq!(escaped("a<b & \"c\"\u{7}"), "a&lt;b &amp; &quot;c&quot;\u{fffd}");
    }
}
