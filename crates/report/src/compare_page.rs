//! Several runs on one page: verdicts, paired differences, configurations, curves over each other, pictures side by side.

use sensei_eval::compare::Comparison;
use sensei_eval::metric::{Group, Metric};
use sensei_eval::verdict::{Standing, Verdict};
use serde_json::json;

use crate::events::Training;
use crate::gallery::Gallery;
use crate::html::{Cell, Table, contents, document, escape, section};
use crate::pictures::side_by_side;
use crate::scores::{class, difference, difference_table, estimate, fraction, verdict};
use crate::training::{Drawn, duration, overlaid};

/// What is known of a run besides its scores.
pub struct RunBeside {
    /// Its name, as in the comparison.
    pub name: String,
    /// What its own report says.
    pub verdict: Option<Verdict>,
    /// Its log, if it has one.
    pub training: Option<Training>,
    /// Its pictures, if it has some.
    pub gallery: Option<Gallery>,
}

/// A key of the configurations that is not the same in all runs: its name, and each run's value, if it has one.
pub type ChangedKey = (String, Vec<Option<String>>);

/// The page. Runs are in the comparison's order.
pub fn compare_page(comparison: &Comparison, runs: &[RunBeside], changed: &[ChangedKey]) -> String {
    let title = runs.iter().map(|run| run.name.as_str()).collect::<Vec<&str>>().join(" and ");
    let mut drawn = Drawn::new();
    let mut body = section("scores", "Scores", &scores(comparison, runs));
    body.push_str(&section("configuration", "What was configured otherwise", &configuration(runs, changed)));
    let trained: Vec<(&str, &Training)> =
        runs.iter().filter_map(|run| Some((run.name.as_str(), run.training.as_ref()?))).collect();
    if !trained.is_empty() {
        body.push_str(&section("training", "Training", &overlaid(&trained, &mut drawn)));
    }
    body.push_str(&section("pictures-head", "Pictures", &pictures(comparison, runs)));
    let sentence = |(standing, words): &(Standing, String)| {
        format!("<p class=\"verdict {}\">{}</p>\n", class(*standing), escape(words))
    };
    let sentences: String = comparison.sentences().iter().map(sentence).collect();
    let body = format!(
        "<header>\n<h1>{}</h1>\n{sentences}<p class=\"quiet\">{}.</p>\n{}</header>\n<main id=\"main\">\n{body}</main>\n<footer><p>Made by \
         sensei compare. What the numbers mean: docs/metrics.md; how to read the page: docs/guides/reading-a-run.md.</p></footer>\n",
        escape(&title),
        escape(&comparison.on_what()),
        contents(&body)
    );
    document(&title, &body, &json!({ "charts": drawn, "layers": [] }))
}

fn scores(comparison: &Comparison, runs: &[RunBeside]) -> String {
    let Comparison { metric, runs: compared, .. } = comparison;
    let mut html = String::new();
    if let Some(note) = comparison.crop_note() {
        html.push_str(&format!("<p class=\"verdict unsure\">{}.</p>\n", escape(&note)));
    }
    let space = if *metric == Metric::MeanIouInCrop { "crop" } else { "image" };
    let against = format!("minus {}, points", compared[0].name);
    let of_space = format!("mean IoU, {space}");
    let head = ["run", of_space.as_str(), against.as_str(), "only here", "trained for"];
    let mut table = Table::new(escape(&comparison.on_what()), &head);
    for (run, beside) in compared.iter().zip(runs) {
        let own = run.groups.get(&Group::All).and_then(|all| all.estimates.get(metric));
        let minus = run.difference.as_ref().and_then(|found| found.groups.get(&Group::All)?.estimates.get(metric));
        let time = beside.training.as_ref().map_or_else(|| "not known".into(), |training| duration(training.seconds));
        table.row(
            "",
            &[
                Cell::text(&run.name),
                estimate(own, &fraction),
                if run.difference.is_some() { difference(minus) } else { Cell::text("") },
                Cell::text(&run.n_left_out.to_string()),
                Cell::text(&time),
            ],
        );
    }
    html.push_str(&table.html());
    for (run, beside) in compared.iter().zip(runs) {
        if let Some(found) = &beside.verdict {
            html.push_str(&format!("<h3>{}</h3>\n{}", escape(&run.name), verdict(found)));
        }
    }
    let rows: Vec<_> = compared
        .iter()
        .filter_map(|run| {
            Some((format!("{} \u{2212} {}", run.name, compared[0].name), &run.difference.as_ref()?.groups))
        })
        .collect();
    html.push_str("<h3>By size and crowding</h3>\n");
    html.push_str(&difference_table(&rows, *metric).html());
    html
}

fn configuration(runs: &[RunBeside], changed: &[ChangedKey]) -> String {
    if changed.is_empty() {
        return "<p>Nothing: every key is the same.</p>\n".into();
    }
    let head: Vec<&str> = std::iter::once("key").chain(runs.iter().map(|run| run.name.as_str())).collect();
    let caption = if changed.len() == 1 { "One key differs".into() } else { format!("{} keys differ", changed.len()) };
    let mut table = Table::new(caption, &head).wide();
    for (key, values) in changed {
        let value = |value: &Option<String>| match value {
            Some(value) => Cell::html(format!("<code>{}</code>", escape(value))),
            None => Cell::html("<small>not set</small>"),
        };
        let mut cells = vec![Cell::html(format!("<code>{}</code>", escape(key)))];
        cells.extend(values.iter().map(value));
        table.row("", &cells);
    }
    table.html()
}

fn pictures(comparison: &Comparison, runs: &[RunBeside]) -> String {
    let with: Vec<(&str, &Gallery)> =
        runs.iter().filter_map(|run| Some((run.name.as_str(), run.gallery.as_ref()?))).collect();
    if with.len() < runs.len() {
        return "<p>Not every run has pictures (eval/gallery.json): <code>sensei eval RUN</code> draws them.</p>\n"
            .into();
    }
    match side_by_side(&with, &comparison.row) {
        html if html.is_empty() => "<p>The runs show no instance in common.</p>\n".into(),
        html => {
            format!("<p class=\"note\">The instances that all runs show; the number is each run's IoU.</p>\n{html}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gallery::tests::gallery;
    use sensei_eval::compare::ComparedRun;
    use std::collections::BTreeMap;

    fn page(changed: &[ChangedKey]) -> String {
        let compared = |name: &str, n_left_out| ComparedRun {
            name: name.into(),
            n_left_out,
            groups: BTreeMap::new(),
            difference: None,
        };
        let comparison = Comparison {
            row: "int8".into(),
            metric: Metric::MeanIouInImage,
            crops: Some(vec!["roi".into(), "<script>alert(1)</script>".into()]),
            n_instances: 10,
            n_images: 5,
            runs: vec![compared("<script>alert(2)</script>", 0), compared("b", 3)],
        };
        let beside =
            |name: &str| RunBeside { name: name.into(), verdict: None, training: None, gallery: Some(gallery()) };
        compare_page(&comparison, &[beside("<script>alert(2)</script>"), beside("b")], changed)
    }

    #[test]
    fn names_and_values_are_text() {
        let html = page(&[("train.<script>alert(3)".into(), vec![Some("<script>alert(4)</script>".into()), None])]);
        assert!(!html.contains("<script>alert"), "{html}");
        for words in [
            "alert(1)",
            "alert(2)",
            "alert(3)",
            "alert(4)",
            "not set",
            "3 more only in b",
            "crop space are different quantities",
        ] {
            assert!(html.contains(words), "{words}");
        }
        assert_eq!(html.matches("class=\"answer\"").count(), 4, "two instances of two runs");
        assert_eq!(html.matches("<image ").count(), 2, "which see the same picture");
        assert!(page(&[]).contains("every key is the same"));
    }
}
