//! Scores on a page: the verdict, the rows at a glance, by size and crowding, and paired differences.

use std::collections::BTreeMap;

use sensei_eval::metric::{Estimate, Group, Metric, Summary};
use sensei_eval::paired::PairingError;
use sensei_eval::report::EvalReport;
use sensei_eval::rows::{RowKind, in_words, judged, kind_of};
use sensei_eval::table::GROUPS;
use sensei_eval::verdict::{Standing, Verdict};

use crate::html::{Cell, Table, escape, folded};

/// The verdict as a paragraph, coloured by where the student stands beside the floors.
pub(crate) fn verdict(verdict: &Verdict) -> String {
    let class = verdict.floor.as_ref().map_or("unsure", |floor| class(Standing::of(&floor.difference)));
    format!("<p class=\"verdict {class}\">{}</p>\n", escape(&verdict.sentence()))
}

/// Everything about one report. `id` keeps several on a page apart.
///
/// # Errors
/// If rows are not of the same instances.
pub(crate) fn scores(report: &EvalReport) -> Result<String, PairingError> {
    let judged = judged(report.predictors.iter().map(|predictor| predictor.scores.predictor.as_str()));
    let mut html = at_a_glance(report, judged)?.html();
    html.push_str(&folded("By size and crowding of the object", &by_group(report, judged).html()));
    if !report.differences.is_empty() {
        html.push_str(&folded("Paired differences, by size and crowding", &differences(report).html()));
    }
    html.push_str(&folded("What was scored, and what was left out", &protocol(report)));
    Ok(html)
}

/// A row for each predictor: its score on a line, and the judged row minus it.
fn at_a_glance(report: &EvalReport, judged: Option<&str>) -> Result<Table, PairingError> {
    let headline = report.protocol.headline();
    let other = match headline {
        Metric::MeanIouInCrop => Some(Metric::MeanIouInImage),
        _ if report.protocol.crop.is_some() => Some(Metric::MeanIouInCrop),
        _ => None,
    };
    let hits = if report.protocol.crop.is_some() { Metric::HitRateInCrop } else { Metric::HitRateInImage };
    let space = |metric: Metric| if metric == Metric::MeanIouInCrop { "crop" } else { "image" };
    let minus = judged.map_or_else(String::new, |row| format!("{row} minus this, points"));
    let of_headline = format!("mean IoU, {}", space(headline));
    let of_other = other.map(|metric| format!("mean IoU, {}", space(metric)));
    let mut head = vec!["row", "0 to 1", &of_headline];
    head.extend(judged.map(|_| minus.as_str()));
    head.extend(of_other.as_deref());
    head.push("hit rate");
    let (n_instances, n_images) = all(report).map_or((0, 0), |all| (all.n_instances, all.n_images));
    let caption = format!(
        "Protocol {}, {n_instances} instances of {n_images} images. In brackets: 95 % intervals over images. Hit rate: mean share at IoU \
         .50 to .95.",
        escape(&report.protocol.name)
    );
    let mut table = Table::new(caption, &head).sortable();
    for predictor in &report.predictors {
        let name = predictor.scores.predictor.as_str();
        let of = |metric: Metric| predictor.groups.get(&Group::All).and_then(|all| all.estimates.get(&metric));
        let words = in_words(name);
        let words = if words.is_empty() { String::new() } else { format!("<br><small>{}</small>", escape(&words)) };
        let mut cells = vec![Cell::html(format!("{}{words}", escape(name)))];
        let own = of(headline);
        let mid = judged.and_then(|row| Some(all_of(report, row)?.estimates.get(&headline)?.value));
        cells.push(own.map_or_else(|| Cell::text("n=0"), |own| Cell::number(own.value, track(own, mid))));
        cells.push(estimate(own, &fraction));
        if let Some(row) = judged {
            cells.push(match (name == row, own) {
                (true, _) | (_, None) => Cell::text(""),
                (false, Some(_)) => {
                    let cell = difference(Some(&report.headline_difference(name, row)?));
                    // No answer is above the ceiling, and that is no fault of it.
                    if kind_of(name) == RowKind::Ceiling { cell.plain() } else { cell }
                }
            });
        }
        cells.extend(other.map(|metric| estimate(of(metric), &fraction)));
        cells.push(of(hits).map_or_else(|| Cell::text("n=0"), |hits| Cell::number(hits.value, fraction(hits.value))));
        table.row(row_class(name, judged), &cells);
    }
    Ok(table)
}

fn by_group(report: &EvalReport, judged: Option<&str>) -> Table {
    let groups: Vec<(Group, &str)> = groups(report).collect();
    let n_of = |group: Group| {
        let groups = report.predictors.first().map(|first| &first.groups);
        groups.and_then(|groups| groups.get(&group)).map_or(0, |summary| summary.n_instances)
    };
    let heads: Vec<String> = groups.iter().map(|&(group, name)| format!("{name} (n={})", n_of(group))).collect();
    let head: Vec<&str> = std::iter::once("row").chain(heads.iter().map(String::as_str)).collect();
    let caption = "Mean IoU in the image. S, M, L: annotations below 32\u{b2} pixels, up to 96\u{b2} and above. near: others whose boxes overlap.";
    let mut table = Table::new(caption, &head).sortable();
    for predictor in &report.predictors {
        let name = predictor.scores.predictor.as_str();
        let mut cells = vec![Cell::text(name)];
        cells.extend(groups.iter().map(|(group, _)| {
            let summary = predictor.groups.get(group);
            estimate(summary.and_then(|summary| summary.estimates.get(&Metric::MeanIouInImage)), &fraction)
        }));
        table.row(row_class(name, judged), &cells);
    }
    table
}

fn differences(report: &EvalReport) -> Table {
    let rows = report
        .differences
        .iter()
        .map(|stored| (format!("{} \u{2212} {}", stored.candidate, stored.baseline), &stored.groups));
    difference_table(&rows.collect::<Vec<_>>(), report.protocol.headline())
}

/// Paired differences in points, by group; each row has a name and its groups. Over all instances the difference is of `headline`, in
/// the groups of the image's mean IoU.
pub(crate) fn difference_table(rows: &[(String, &BTreeMap<Group, Summary>)], headline: Metric) -> Table {
    let groups: Vec<(Group, &str)> = GROUPS
        .into_iter()
        .filter(|(group, _)| rows.iter().any(|(_, of)| of.get(group).is_some_and(|summary| summary.n_instances > 0)))
        .collect();
    let all = if headline == Metric::MeanIouInCrop { "all, in the crop" } else { "all, in the image" };
    let head: Vec<&str> = ["difference", all].into_iter().chain(groups.iter().map(|(_, name)| *name)).collect();
    let caption = "Points of mean IoU (hundredths) on the same instances, with 95 % intervals; by size and crowding in the image. Bold: \
                   0 is not in the interval.";
    let mut table = Table::new(caption, &head);
    for (name, of) in rows {
        let cell = |group: Group, metric: Metric| {
            difference(of.get(&group).and_then(|summary| summary.estimates.get(&metric)))
        };
        let mut cells = vec![Cell::text(name), cell(Group::All, headline)];
        cells.extend(groups.iter().map(|(group, _)| cell(*group, Metric::MeanIouInImage)));
        table.row("", &cells);
    }
    table
}

fn protocol(report: &EvalReport) -> String {
    let protocol = &report.protocol;
    let mut facts = vec![
        ("protocol", format!("{} ({})", protocol.name, protocol.short_hash())),
        ("data set", protocol.dataset.clone()),
        ("instances", protocol.subset.clone()),
        ("prompt", protocol.prompt.clone()),
        ("crop", protocol.crop.clone().unwrap_or_else(|| "none".into())),
        ("left out", report.left_out_in_words()),
        (
            "intervals",
            format!("{} resamples of the images, seed {}", report.bootstrap.n_resamples, report.bootstrap.seed),
        ),
    ];
    facts.retain(|(_, value)| !value.is_empty());
    facts_list(&facts)
}

/// Names and values, both escaped.
pub(crate) fn facts_list(facts: &[(&str, String)]) -> String {
    let fact = |(name, value): &(&str, String)| format!("<dt>{}</dt><dd>{}</dd>", escape(name), escape(value));
    format!("<dl class=\"facts\">{}</dl>\n", facts.iter().map(fact).collect::<String>())
}

/// A number with its interval, for a table.
pub(crate) fn estimate(estimate: Option<&Estimate>, shown: &dyn Fn(f64) -> String) -> Cell {
    let Some(Estimate { value, interval }) = estimate else { return Cell::text("n=0") };
    let interval = match interval {
        Some(interval) => format!("[{}, {}]", shown(interval.low), shown(interval.high)),
        None => "[one image]".into(),
    };
    Cell::number(*value, format!("{} <small>{interval}</small>", shown(*value)))
}

/// A paired difference in points.
pub(crate) fn difference(difference: Option<&Estimate>) -> Cell {
    let Some(found) = difference else { return Cell::text("n=0") };
    let interval = match found.interval {
        Some(interval) => format!("[{}, {}]", points(interval.low), points(interval.high)),
        None => "[one image]".into(),
    };
    let standing = Standing::of(found);
    let value = match standing {
        Standing::Above | Standing::Below => {
            format!("<strong class=\"{}\">{}</strong>", class(standing), points(found.value))
        }
        Standing::NotToldApart | Standing::NoInterval => points(found.value),
    };
    Cell::number(found.value, format!("{value} <small>{interval}<br>{}</small>", standing.in_words()))
}

/// A score's decimals as the tables have them.
pub(crate) fn fraction(value: f64) -> String {
    let text = format!("{value:.4}");
    text.strip_prefix('0').map_or(text.clone(), String::from)
}

fn points(value: f64) -> String {
    format!("{:+.2}", 100.0 * value).replace('-', "\u{2212}")
}

/// A score and its interval on a line from 0 to 1, with a mark at `mid`. The number stands in the next cell.
fn track(estimate: &Estimate, mid: Option<f64>) -> String {
    let percent = |value: f64| format!("{:.2}%", 100.0 * value.clamp(0.0, 1.0));
    let interval = estimate.interval.map_or_else(String::new, |interval| {
        format!("<i style=\"--low:{};--high:{}\"></i>", percent(interval.low), percent(interval.high))
    });
    let mid = mid.map_or_else(String::new, |mid| format!("<u style=\"--mid:{}\"></u>", percent(mid)));
    format!(
        "<span class=\"track\" aria-hidden=\"true\">{interval}<b style=\"--at:{}\"></b>{mid}</span>",
        percent(estimate.value)
    )
}

fn row_class(row: &str, judged: Option<&str>) -> &'static str {
    match kind_of(row) {
        _ if judged == Some(row) => "judged",
        RowKind::Floor | RowKind::Ceiling => "floor",
        RowKind::Teacher => "teacher",
        RowKind::Student => "",
    }
}

/// Good, bad or unsure.
pub(crate) fn class(standing: Standing) -> &'static str {
    match standing {
        Standing::Above => "good",
        Standing::Below => "bad",
        Standing::NotToldApart | Standing::NoInterval => "unsure",
    }
}

/// The numbers of a row over all instances.
pub(crate) fn all_of<'a>(report: &'a EvalReport, row: &str) -> Option<&'a Summary> {
    report.predictor(row).ok()?.groups.get(&Group::All)
}

fn all(report: &EvalReport) -> Option<&Summary> {
    report.predictors.first()?.groups.get(&Group::All)
}

/// The groups that have a column: those with an instance.
fn groups(report: &EvalReport) -> impl Iterator<Item = (Group, &'static str)> + '_ {
    let has = |group: &Group| {
        let first = report.predictors.first();
        first.and_then(|first| first.groups.get(group)).is_some_and(|summary| summary.n_instances > 0)
    };
    GROUPS.into_iter().filter(move |(group, _)| has(group))
}
