//! Charts: what the page's script draws, and the same in words and numbers for who does not see it.

use serde_json::{Value, json};

use crate::events::{Thinned, thinned};
use crate::html::{Cell, Table, escape};

/// A chart of lines over one axis.
pub(crate) struct Chart {
    /// Unique on the page.
    pub id: String,
    /// Above the chart.
    pub title: String,
    /// The horizontal axis with its unit.
    pub x: &'static str,
    /// The vertical axis with its unit.
    pub y: String,
    /// Whether it starts with a logarithmic axis.
    pub is_log: bool,
    /// Whether a reader may change that.
    pub can_be_log: bool,
    /// Lines.
    pub curves: Vec<Curve>,
    /// Horizontal lines to compare with: name and value.
    pub references: Vec<(String, f64)>,
    /// Where stages begin: step and name.
    pub stages: Vec<(u64, String)>,
    /// What else a reader should know, as text.
    pub note: String,
}

/// A line.
pub(crate) struct Curve {
    /// In the legend.
    pub label: String,
    /// Its points, by rising x.
    pub points: Vec<(f64, f64)>,
}

impl Chart {
    /// The figure, and what draws it; `None` if no curve has two points.
    pub(crate) fn html(&self) -> Option<(String, Value)> {
        let curves: Vec<(&str, Thinned, usize)> = self
            .curves
            .iter()
            .filter(|curve| !curve.points.is_empty())
            .map(|curve| (curve.label.as_str(), thinned(&curve.points, MOST_POINTS), curve.points.len()))
            .collect();
        if curves.iter().all(|(.., n)| *n < 2) {
            return None;
        }
        let figure = format!(
            "<figure class=\"chart\" aria-labelledby=\"{id}-title\">\n<figcaption id=\"{id}-title\">{}</figcaption>\n\
             <div class=\"plot\" data-chart=\"{id}\"></div>\n{}{}</figure>\n",
            escape(&self.title),
            self.notes(&curves),
            self.in_numbers(),
            id = self.id,
        );
        let series = |(label, curve, _): &(&str, Thinned, usize)| {
            let values = |values: &[f64]| values.iter().map(|value| rounded(*value)).collect::<Vec<_>>();
            let mut series = json!({ "label": label, "x": curve.x, "y": values(&curve.mean) });
            if curve.group > 1 {
                series["low"] = json!(values(&curve.low));
                series["high"] = json!(values(&curve.high));
            }
            series
        };
        let references: Vec<Value> =
            self.references.iter().map(|(label, y)| json!({ "label": label, "y": rounded(*y) })).collect();
        let stages: Vec<Value> = self.stages.iter().map(|(step, name)| json!({ "x": step, "label": name })).collect();
        let drawn = json!({
            "title": self.title, "x": self.x, "y": self.y, "log": self.is_log, "canLog": self.can_be_log,
            "series": curves.iter().map(series).collect::<Vec<_>>(), "references": references, "stages": stages,
        });
        Some((figure, drawn))
    }

    /// What is not drawn as it is, and what else there is to know.
    fn notes(&self, curves: &[(&str, Thinned, usize)]) -> String {
        let mut notes: Vec<String> = vec![];
        if !self.note.is_empty() {
            notes.push(escape(&self.note));
        }
        if let Some((_, curve, n)) =
            curves.iter().max_by_key(|(_, curve, _)| curve.group).filter(|(_, curve, _)| curve.group > 1)
        {
            notes.push(format!(
                "{n} values are shown in groups of {}: the line is the mean of a group, the band its smallest and largest value.",
                curve.group
            ));
        }
        if notes.is_empty() { String::new() } else { format!("<p class=\"note\">{}</p>\n", notes.join(" ")) }
    }

    /// The curves as a table.
    fn in_numbers(&self) -> String {
        let caption = format!("{}: each curve in numbers", escape(&self.title));
        let x = self.x;
        let head = ["curve", "values", "first", "smallest", &format!("at {x}"), "largest", &format!("at {x}"), "last"];
        let mut table = Table::new(caption, &head);
        for curve in self.curves.iter().filter(|curve| !curve.points.is_empty()) {
            let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
            let points = &curve.points;
            let (Some(low), Some(high)) = (points.iter().min_by(by_value), points.iter().max_by(by_value)) else {
                continue;
            };
            let number = |value: f64| Cell::text(&short(value));
            table.row(
                "",
                &[
                    Cell::text(&curve.label),
                    Cell::text(&points.len().to_string()),
                    number(points[0].1),
                    number(low.1),
                    number(low.0),
                    number(high.1),
                    number(high.0),
                    number(points[points.len() - 1].1),
                ],
            );
        }
        for (label, y) in &self.references {
            table.row("", &[Cell::text(label), Cell::text("a line to compare with"), Cell::text(&short(*y))]);
        }
        format!("<details class=\"numbers\"><summary>In numbers</summary>{}</details>\n", table.html())
    }
}

/// Six digits: more than a chart shows.
pub(crate) fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// A number for a table: four digits that count.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if (1e-3..1e6).contains(&size) && value.fract() == 0.0 => format!("{value:.0}"),
        size if (1e-3..1e4).contains(&size) => {
            let digits = (3 - size.log10().floor() as i32).max(0) as usize;
            format!("{value:.digits$}")
        }
        _ => format!("{value:.3e}"),
    }
}

/// Points of a curve on the page: about as many as a screen has columns for one.
const MOST_POINTS: usize = 600;

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(n: u32) -> Chart {
        let points = (0..n).map(|x| (f64::from(x), 1.0 / (1.0 + f64::from(x)))).collect();
        Chart {
            id: "loss".into(),
            title: "Loss <b>".into(),
            x: "step",
            y: "loss".into(),
            is_log: true,
            can_be_log: true,
            curves: vec![Curve { label: "loss".into(), points }],
            references: vec![("teacher".into(), 0.5)],
            stages: vec![],
            note: String::new(),
        }
    }

    #[test]
    fn a_long_curve_is_thinned_and_says_so() {
        let (html, drawn) = chart(1201).html().unwrap();
        assert!(html.contains("1201 values are shown in groups of 3: the line is the mean of a group"), "{html}");
        assert!(html.contains("Loss &lt;b&gt;") && !html.contains("<b>"));
        assert_eq!(drawn["series"][0]["y"].as_array().unwrap().len(), 401);
        assert_eq!(drawn["series"][0]["low"].as_array().unwrap().len(), 401);
        let (html, drawn) = chart(600).html().unwrap();
        assert!(!html.contains("groups") && drawn["series"][0].get("low").is_none());
        assert!(chart(1).html().is_none(), "a point is no curve");
    }

    #[test]
    fn numbers_have_four_digits_that_count() {
        let all = [0.0, 1.0, 12345.0, 0.66412, 12.3456, 1234.56, 0.00123456, 0.0002, -3.16227, 2e7].map(short);
        assert_eq!(all, ["0", "1", "12345", "0.6641", "12.35", "1235", "0.001235", "2.000e-4", "-3.162", "2.000e7"]);
        assert_eq!(rounded(0.123_456_789), 0.123457);
    }
}
