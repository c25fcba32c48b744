//! The report as plain text.

use std::collections::BTreeMap;

use crate::bootstrap::Interval;
use crate::metric::{Estimate, Group, Metric, Summary};
use crate::paired::PairedDifference;
use crate::report::EvalReport;

pub(crate) fn table(report: &EvalReport) -> String {
    let mut lines = vec![heading(report), left_out(report)];
    let mut rows = score_rows(report);
    if !report.differences.is_empty() {
        rows.push(vec!["paired, in points:".to_string()]);
        rows.extend(difference_rows(report));
    }
    lines.extend(aligned(&rows));
    let bootstrap = &report.bootstrap;
    lines.push("S, M, L: image mean_iou of annotations below 32², up to 96² and above".to_string());
    lines.push(format!("[95 % intervals: {} resamples of the images, seed {}]", bootstrap.n_resamples, bootstrap.seed));
    lines.join("\n") + "\n"
}

fn heading(report: &EvalReport) -> String {
    let all = report.predictors.first().and_then(|predictor| predictor.groups.get(&Group::All));
    let (n_instances, n_images) = all.map_or((0, 0), |all| (all.n_instances, all.n_images));
    let protocol = &report.protocol;
    format!("{} ({}): n={n_instances} instances of {n_images} images", protocol.name, protocol.short_hash())
}

fn left_out(report: &EvalReport) -> String {
    let mut counts = BTreeMap::new();
    for left_out in &report.left_out {
        *counts.entry(left_out.reason).or_insert(0u64) += 1;
    }
    let reasons: Vec<String> = counts.iter().map(|(reason, n)| format!("{n} {}", reason.words())).collect();
    match reasons.is_empty() {
        true => "left out: none".to_string(),
        false => format!("left out: {} ({})", report.left_out.len(), reasons.join(", ")),
    }
}

fn score_rows(report: &EvalReport) -> Vec<Vec<String>> {
    let n_of = |group: Group| {
        let summary = report.predictors.first().and_then(|predictor| predictor.groups.get(&group));
        summary.map_or(0, |summary| summary.n_instances)
    };
    let mut head = vec!["predictor".to_string()];
    head.extend(["crop mean_iou", "image mean_iou", "crop hit_rate"].map(String::from));
    head.extend(STRATA.map(|(group, letter)| format!("{letter} (n={})", n_of(group))));
    let mut rows = vec![head];
    for predictor in &report.predictors {
        rows.push(row(
            predictor.scores.predictor.clone(),
            &predictor.groups,
            |value| format!("{value:.4}"),
            |bound| format!("{bound:.3}"),
        ));
    }
    rows
}

fn difference_rows(report: &EvalReport) -> Vec<Vec<String>> {
    let points = |value: f64| format!("{:+.2}", 100.0 * value);
    let name = |difference: &PairedDifference| format!("{} - {}", difference.candidate, difference.baseline);
    report.differences.iter().map(|difference| row(name(difference), &difference.groups, points, points)).collect()
}

/// The cells below the columns of `score_rows`' first row.
fn row(
    name: String,
    groups: &BTreeMap<Group, Summary>,
    value: impl Fn(f64) -> String,
    bound: impl Fn(f64) -> String,
) -> Vec<String> {
    let estimate = |group: Group, metric: Metric| groups.get(&group).and_then(|summary| summary.estimates.get(&metric));
    let with_interval = |metric: Metric| match estimate(Group::All, metric) {
        Some(Estimate { value: mean, interval: Some(Interval { low, high, .. }) }) => {
            format!("{} [{}, {}]", value(*mean), bound(*low), bound(*high))
        }
        Some(Estimate { value: mean, interval: None }) => format!("{} [one image]", value(*mean)),
        None => NOTHING.to_string(),
    };
    let alone = |group: Group, metric: Metric| {
        estimate(group, metric).map_or(NOTHING.to_string(), |estimate| value(estimate.value))
    };
    let mut row = vec![name, with_interval(Metric::MeanIouInCrop), with_interval(Metric::MeanIouInImage)];
    row.push(alone(Group::All, Metric::HitRateInCrop));
    row.extend(STRATA.map(|(group, _)| alone(group, Metric::MeanIouInImage)));
    row
}

/// Columns as wide as their widest cell.
fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..n_columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_string()
    };
    rows.iter().map(line).collect()
}

const NOTHING: &str = "n=0";
const STRATA: [(Group, char); 3] = [(Group::Small, 'S'), (Group::Medium, 'M'), (Group::Large, 'L')];

#[cfg(test)]
mod tests {
    use crate::bootstrap::BootstrapConfig;
    use crate::evaluate::{Evaluation, LeftOut, LeftOutReason, PredictorScores};
    use crate::fixtures::{instance, protocol};
    use crate::report::EvalReport;
    use crate::score::Stratum;

    fn table(overlaps: &[[u64; 3]]) -> String {
        let scores = |predictor: &str, worse: u64| PredictorScores {
            predictor: predictor.to_string(),
            instances: overlaps
                .iter()
                .enumerate()
                .map(|(idx, &[i, t, p])| instance(idx as u64, idx as u64 % 2, Stratum::M, [i - worse, t, p]))
                .collect(),
        };
        let left_out = [(90, LeftOutReason::NoTeacherRecord), (91, LeftOutReason::Crowd), (92, LeftOutReason::Crowd)];
        let left_out = left_out.map(|(annotation_id, reason)| LeftOut { annotation_id, reason }).to_vec();
        let evaluation = Evaluation { scores: vec![scores("inscribed_ellipse", 0), scores("int8", 1)], left_out };
        let bootstrap = BootstrapConfig { seed: 4, n_resamples: 100 };
        EvalReport::new(protocol(), evaluation, bootstrap, &[("inscribed_ellipse", "int8")]).unwrap().table()
    }

    #[test]
    fn a_stratum_without_instances_prints_its_count_and_never_nan() {
        let expected = "\
picosam3-roi96 (66a999b27129): n=2 instances of 2 images
left out: 3 (2 crowd, 1 no teacher record)
predictor                 crop mean_iou          image mean_iou         crop hit_rate  S (n=0)  M (n=2)  L (n=0)
inscribed_ellipse         0.7000 [0.600, 0.800]  0.7000 [0.600, 0.800]  0.5000         n=0      0.7000   n=0
int8                      0.6832 [0.584, 0.782]  0.6832 [0.584, 0.782]  0.4000         n=0      0.6832   n=0
paired, in points:
int8 - inscribed_ellipse  -1.68 [-1.78, -1.58]   -1.68 [-1.78, -1.58]   -10.00         n=0      -1.68    n=0
S, M, L: image mean_iou of annotations below 32², up to 96² and above
[95 % intervals: 100 resamples of the images, seed 4]
";
        assert_eq!(table(&[[60, 100, 60], [80, 100, 80]]), expected);
    }

    #[test]
    fn one_image_and_no_image_at_all_print_no_interval() {
        let words = |overlaps: &[[u64; 3]]| -> Vec<String> {
            let squeezed = |line: &str| line.split_whitespace().collect::<Vec<&str>>().join(" ");
            table(overlaps).lines().map(squeezed).collect()
        };
        let one = words(&[[60, 100, 60]]);
        assert_eq!(one[4], "int8 0.5842 [one image] 0.5842 [one image] 0.2000 n=0 0.5842 n=0");
        let none = words(&[]);
        assert_eq!(none[0], "picosam3-roi96 (66a999b27129): n=0 instances of 0 images");
        assert_eq!(none[4], "int8 n=0 n=0 n=0 n=0 n=0 n=0");
        assert_eq!(none[6], "int8 - inscribed_ellipse n=0 n=0 n=0 n=0 n=0 n=0");
    }
}
