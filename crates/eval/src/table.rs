//! Tables as plain text, and the report as one.

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
    lines.push(
        "S, M, L: image mean_iou of annotations below 32², up to 96² and above; near: by overlapping boxes of others"
            .to_string(),
    );
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
    format!("left out: {}", report.left_out_in_words())
}

fn score_rows(report: &EvalReport) -> Vec<Vec<String>> {
    let n_of = |group: Group| {
        let summary = report.predictors.first().and_then(|predictor| predictor.groups.get(&group));
        summary.map_or(0, |summary| summary.n_instances)
    };
    let mut head = vec!["predictor".to_string()];
    let metrics = if report.protocol.crop.is_some() { WITH_CROP } else { WITHOUT_CROP };
    head.extend(metrics.iter().map(|(_, name)| name.to_string()));
    head.extend(strata(report).map(|(group, name)| format!("{name} (n={})", n_of(group))));
    let mut rows = vec![head];
    for predictor in &report.predictors {
        rows.push(row(
            report,
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
    report
        .differences
        .iter()
        .map(|difference| row(report, name(difference), &difference.groups, points, points))
        .collect()
}

/// The cells below the columns of `score_rows`' first row.
fn row(
    report: &EvalReport,
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
    let metrics = if report.protocol.crop.is_some() { WITH_CROP } else { WITHOUT_CROP };
    let mut row = vec![name];
    row.extend(metrics.iter().map(|&(metric, _)| match metric {
        Metric::HitRateInCrop | Metric::HitRateInImage => alone(Group::All, metric),
        mean => with_interval(mean),
    }));
    row.extend(strata(report).map(|(group, _)| alone(group, Metric::MeanIouInImage)));
    row
}

/// The groups with a column: LVIS's only where categories have a frequency.
fn strata(report: &EvalReport) -> impl Iterator<Item = (Group, &'static str)> + '_ {
    let has = |group: &Group| report.predictors.first().is_some_and(|first| first.groups[group].n_instances > 0);
    let is_lvis = [Group::Rare, Group::Common, Group::Frequent].iter().any(has);
    GROUPS.into_iter().take(if is_lvis { GROUPS.len() } else { N_STRATA })
}

/// Columns as wide as their widest cell.
pub fn aligned(rows: &[Vec<String>]) -> Vec<String> {
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
const WITH_CROP: &[(Metric, &str)] = &[
    (Metric::MeanIouInImage, "image mean_iou"),
    (Metric::MeanIouInCrop, "crop mean_iou"),
    (Metric::HitRateInCrop, "crop hit_rate"),
];
const WITHOUT_CROP: &[(Metric, &str)] =
    &[(Metric::MeanIouInImage, "image mean_iou"), (Metric::HitRateInImage, "image hit_rate")];
/// Groups of instances as columns of tables: by size, by crowding and, of LVIS, by frequency of the category.
pub const GROUPS: [(Group, &str); 9] = [
    (Group::Small, "S"),
    (Group::Medium, "M"),
    (Group::Large, "L"),
    (Group::Alone, "alone"),
    (Group::FewCompetitors, "1-2 near"),
    (Group::ManyCompetitors, "3+ near"),
    (Group::Rare, "r"),
    (Group::Common, "c"),
    (Group::Frequent, "f"),
];
/// Those of every data set.
const N_STRATA: usize = 6;

#[cfg(test)]
mod tests {
    use crate::bootstrap::BootstrapConfig;
    use crate::evaluate::{Evaluation, PredictorScores};
    use crate::fixtures::{instance, protocol};
    use crate::report::EvalReport;
    use crate::score::Stratum;
    use sensei_samples::selection::{LeftOut, LeftOutReason};

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
picosam3-roi96 (28f9e78648cd): n=2 instances of 2 images
left out: 3 (2 crowd, 1 no teacher record)
predictor                 image mean_iou         crop mean_iou          crop hit_rate  S (n=0)  M (n=2)  L (n=0)  alone (n=1)  1-2 near (n=1)  3+ near (n=0)  r (n=1)  c (n=1)  f (n=0)
inscribed_ellipse         0.7000 [0.600, 0.800]  0.7000 [0.600, 0.800]  0.5000         n=0      0.7000   n=0      0.6000       0.8000          n=0            0.6000   0.8000   n=0
int8                      0.6832 [0.584, 0.782]  0.6832 [0.584, 0.782]  0.4000         n=0      0.6832   n=0      0.5842       0.7822          n=0            0.5842   0.7822   n=0
paired, in points:
int8 - inscribed_ellipse  -1.68 [-1.78, -1.58]   -1.68 [-1.78, -1.58]   -10.00         n=0      -1.68    n=0      -1.58        -1.78           n=0            -1.58    -1.78    n=0
S, M, L: image mean_iou of annotations below 32², up to 96² and above; near: by overlapping boxes of others
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
        assert_eq!(
            one[4],
            "int8 0.5842 [one image] 0.5842 [one image] 0.2000 n=0 0.5842 n=0 0.5842 n=0 n=0 0.5842 n=0 n=0"
        );
        let none = words(&[]);
        assert_eq!(none[0], "picosam3-roi96 (28f9e78648cd): n=0 instances of 0 images");
        assert_eq!(none[4], "int8 n=0 n=0 n=0 n=0 n=0 n=0 n=0 n=0 n=0");
        assert_eq!(none[6], "int8 - inscribed_ellipse n=0 n=0 n=0 n=0 n=0 n=0 n=0 n=0 n=0");
    }
}
