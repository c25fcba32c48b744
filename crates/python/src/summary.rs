//! The numbers of an evaluation in the order and in the lines that pycocotools and lvis-api print.

use sensei_eval::average_precision::{ApReport, Rules};

/// The numbers in the packages' order; -1 where no truth defines one, as they have it.
pub(crate) fn stats(report: &ApReport) -> Vec<f64> {
    let number = |name: &&str| report.summary.get(name).copied().flatten().unwrap_or(-1.0);
    names(report.rules).iter().map(number).collect()
}

/// A line for each number.
pub(crate) fn lines(report: &ApReport) -> String {
    let lines = names(report.rules).iter().zip(stats(report)).map(|(name, value)| line(report.rules, name, value));
    lines.collect::<Vec<_>>().join("\n")
}

fn line(rules: Rules, name: &str, value: f64) -> String {
    let (title, kind) = match name.starts_with("AP") {
        true => ("Average Precision", "(AP)"),
        false => ("Average Recall", "(AR)"),
    };
    let threshold = match name {
        "AP50" => "0.50",
        "AP75" => "0.75",
        _ => "0.50:0.95",
    };
    let group = name.as_bytes().get(2).copied().unwrap_or_default();
    match rules {
        Rules::Coco => {
            let area = match group {
                b's' => "small",
                b'm' => "medium",
                b'l' => "large",
                _ => "all",
            };
            let limit = name.split_once('@').map_or("100", |(_, limit)| limit);
            format!(" {title:<18} {kind} @[ IoU={threshold:<9} | area={area:>6} | maxDets={limit:>3} ] = {value:.3}")
        }
        Rules::Lvis => {
            let one_of = |groups: &[u8]| if groups.contains(&group) { &name[2..3] } else { "all" };
            let (area, categories) = (one_of(b"sml"), one_of(b"rcf"));
            format!(
                " {title:<18} {kind} @[ IoU={threshold:<9} | area={area:>6} | maxDets=300 catIds={categories:>3}] = {value:.3}"
            )
        }
    }
}

fn names(rules: Rules) -> &'static [&'static str] {
    match rules {
        Rules::Coco => &COCO,
        Rules::Lvis => &LVIS,
    }
}

/// `COCOeval.stats`.
const COCO: [&str; 12] =
    ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR@1", "AR@10", "AR@100", "ARs@100", "ARm@100", "ARl@100"];
/// `LVISEval.results`.
const LVIS: [&str; 13] =
    ["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "AR@300", "ARs@300", "ARm@300", "ARl@300"];
