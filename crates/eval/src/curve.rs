//! Scores as boxes get worse: one column a jitter, one row a predictor.

use crate::metric::{Estimate, Group, Metric};
use crate::protocol::Space;
use crate::report::EvalReport;
use crate::table::aligned;

/// Reports of the same instances, prompted by boxes of growing error.
#[derive(Debug)]
pub struct Curve {
    space: Space,
    columns: Vec<Column>,
}

#[derive(Debug)]
struct Column {
    percent: u32,
    protocol: String,
    n_instances: u64,
    rows: Vec<(String, Option<Estimate>)>,
}

impl Curve {
    /// A curve of `mean_iou` in a space.
    pub fn new(space: Space) -> Self {
        Self { space, columns: vec![] }
    }

    /// Adds the scores for boxes that are wrong by up to `percent` of their sides.
    pub fn push(&mut self, percent: u32, report: &EvalReport) {
        let metric = self.metric();
        let estimate = |groups: &std::collections::BTreeMap<_, crate::metric::Summary>| {
            groups.get(&Group::All).and_then(|all| all.estimates.get(&metric)).copied()
        };
        let rows = report.predictors.iter();
        let n_instances = report.predictors.first().map_or(0, |first| first.scores.instances.len() as u64);
        self.columns.push(Column {
            percent,
            protocol: report.protocol.short_hash(),
            n_instances,
            rows: rows.map(|row| (row.scores.predictor.clone(), estimate(&row.groups))).collect(),
        });
    }

    /// One row for each predictor of the first report; a predictor that is not in another has no number there.
    pub fn table(&self) -> String {
        let space = match self.space {
            Space::Crop => "crop",
            Space::Image => "image",
        };
        let head = |text: &str, cell: &dyn Fn(&Column) -> String| -> Vec<String> {
            std::iter::once(text.to_string()).chain(self.columns.iter().map(cell)).collect()
        };
        let mut rows = vec![
            head(&format!("{space} mean_iou, boxes wrong by up to"), &|column| format!("{} %", column.percent)),
            head("protocol", &|column| column.protocol.clone()),
            head("instances", &|column| column.n_instances.to_string()),
        ];
        for (name, _) in self.columns.first().map_or(&[][..], |first| &first.rows) {
            rows.push(head(name, &|column| {
                let found = column.rows.iter().find(|(other, _)| other == name).and_then(|(_, estimate)| *estimate);
                match found {
                    Some(Estimate { value, interval: Some(interval) }) => {
                        format!("{value:.4} [{:.3}, {:.3}]", interval.low, interval.high)
                    }
                    Some(Estimate { value, interval: None }) => format!("{value:.4} [one image]"),
                    None => "-".to_string(),
                }
            }));
        }
        aligned(&rows).join("\n") + "\n"
    }

    fn metric(&self) -> Metric {
        match self.space {
            Space::Crop => Metric::MeanIouInCrop,
            Space::Image => Metric::MeanIouInImage,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::BootstrapConfig;
    use crate::evaluate::Evaluation;
    use crate::fixtures::{protocol, run};

    #[test]
    fn a_row_for_each_predictor_and_a_column_for_each_jitter() {
        let bootstrap = BootstrapConfig { seed: 0, n_resamples: 100 };
        let report = |scores| {
            EvalReport::new(protocol(), Evaluation { scores, left_out: vec![] }, bootstrap, &[]).expect("one run")
        };
        let mut curve = Curve::new(Space::Crop);
        curve.push(0, &report(vec![run("teacher", 9, 0.8, 1), run("float", 9, 0.5, 1)]));
        curve.push(20, &report(vec![run("float", 9, 0.3, 2)]));
        let table = curve.table();
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0].join(" "), "crop mean_iou, boxes wrong by up to 0 % 20 %");
        assert_eq!(rows[1], ["protocol", "28f9e78648cd", "28f9e78648cd"]);
        assert_eq!(rows[2], ["instances", "25", "25"]);
        assert_eq!((rows[3][0], rows[3].last()), ("teacher", Some(&"-")));
        assert_eq!((rows[4][0], rows[4].len()), ("float", 7));
    }
}
