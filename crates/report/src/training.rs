//! The training on a page: how far it has come, and its curves.

use sensei_eval::metric::Metric;
use sensei_eval::report::EvalReport;
use sensei_eval::rows::{ELLIPSE, RowKind, TEACHER, in_words, judged, kind_of};
use serde_json::Value;

use crate::charts::{Chart, Curve, short};
use crate::events::{Step, Training};
use crate::html::escape;
use crate::scores::all_of;

/// What is drawn on a page, by id.
pub(crate) type Drawn = serde_json::Map<String, Value>;

/// The curves of a training; what the script draws is added to `drawn`.
pub(crate) fn curves(training: &Training, report: Option<&EvalReport>, drawn: &mut Drawn) -> String {
    let mut html = String::new();
    if training.n_broken > 0 {
        html.push_str(&format!(
            "<p class=\"note\">{} lines of events.jsonl are no events and are left out.</p>\n",
            training.n_broken
        ));
    }
    let charts = [
        validation(training, report),
        loss(training),
        terms(training),
        of_steps(training, "rate", "Learning rate", "learning rate", false, |step| Some(step.learning_rate)),
        gradient(training),
    ];
    let figures: String = charts.iter().filter_map(|chart| add(chart, drawn)).collect();
    if figures.is_empty() {
        return format!("{html}<p>No curve yet: fewer than two steps are logged.</p>\n");
    }
    format!("{html}{HOW_TO}<div class=\"charts\">\n{figures}</div>\n")
}

/// A chart's figure; what the script draws is added to `drawn`.
pub(crate) fn add(chart: &Chart, drawn: &mut Drawn) -> Option<String> {
    let (html, data) = chart.html()?;
    drawn.insert(chart.id.clone(), data);
    Some(html)
}

/// Score after further clicks, of a student that answers prompts; `None` for others.
pub(crate) fn clicks(report: &EvalReport, id: &str) -> Option<Chart> {
    let metric = report.protocol.headline();
    let score = |row: &str| Some(all_of(report, row)?.estimates.get(&metric)?.value);
    let curve = |who: &str| {
        let row = |clicks: u32| if clicks == 0 { who.to_string() } else { format!("{who}+{clicks}") };
        let points: Vec<(f64, f64)> =
            (0..=MAX_CLICKS).map_while(|clicks| Some((f64::from(clicks), score(&row(clicks))?))).collect();
        Curve { label: who.into(), points }
    };
    let curves = vec![curve("student"), curve(TEACHER)];
    (curves[0].points.len() > 1).then(|| Chart {
        id: format!("{id}-clicks"),
        title: "Mean IoU after further clicks where the mask is wrong".into(),
        x: "further clicks",
        y: "mean IoU in the image".into(),
        is_log: false,
        can_be_log: false,
        curves,
        references: references(report, metric, &[ELLIPSE]),
        stages: vec![],
        note: "Each row has errors, and so clicks, of its own.".into(),
    })
}

fn validation(training: &Training, report: Option<&EvalReport>) -> Chart {
    let points = training.validations.iter().map(|found| (found.step as f64, found.mean_iou_in_crop)).collect();
    let n = training.validations.last().map_or(0, |last| last.n_instances);
    let metric = Metric::MeanIouInCrop;
    let shipped = report.and_then(|report| judged(report.predictors.iter().map(|row| row.scores.predictor.as_str())));
    let rows: Vec<&str> = [ELLIPSE, TEACHER].into_iter().chain(shipped).collect();
    let references = report.map_or_else(Vec::new, |report| references(report, metric, &rows));
    let of_final = report.and_then(|report| report.predictors.first()).map_or(0, |row| row.scores.instances.len());
    let note = match references.is_empty() {
        true => format!("On {n} instances of the validation split."),
        false => {
            format!("On {n} instances of the validation split; the lines are the scores after training, on {of_final}.")
        }
    };
    Chart {
        id: "validation".into(),
        title: "Score between epochs".into(),
        x: "step",
        y: "mean IoU in the crop".into(),
        is_log: false,
        can_be_log: false,
        curves: vec![Curve { label: "student, in training".into(), points }],
        references,
        stages: stages(training),
        note,
    }
}

/// Rows as lines to compare with.
fn references(report: &EvalReport, metric: Metric, rows: &[&str]) -> Vec<(String, f64)> {
    let line = |row: &&str| {
        let value = all_of(report, row)?.estimates.get(&metric)?.value;
        let name = if kind_of(row) == RowKind::Student { format!("{row} after training") } else { in_words(row) };
        Some((name, value))
    };
    rows.iter().filter_map(line).collect()
}

fn loss(training: &Training) -> Chart {
    of_steps(training, "loss", "Loss that is minimised", "loss", true, |step| step.loss)
}

fn gradient(training: &Training) -> Chart {
    let mut chart =
        of_steps(training, "gradient", "Gradient before clipping", "L2 norm", true, |step| step.gradient_norm);
    let n_missing = training.steps.iter().filter(|step| step.gradient_norm.is_none()).count();
    if n_missing > 0 {
        chart.note = format!("{n_missing} logged steps are left out: their gradient was not finite.");
    }
    chart
}

fn terms(training: &Training) -> Chart {
    let curves = training.terms.iter().enumerate().map(|(idx, name)| {
        let value = |step: &Step| Some((step.step as f64, step.terms.iter().find(|(term, _)| *term == idx)?.1));
        Curve { label: name.clone(), points: training.steps.iter().filter_map(value).collect() }
    });
    Chart {
        id: "terms".into(),
        title: "Terms of the loss, unweighted".into(),
        x: "step",
        y: "mean of the step".into(),
        is_log: true,
        can_be_log: true,
        curves: curves.collect(),
        references: vec![],
        stages: stages(training),
        note: String::new(),
    }
}

fn of_steps(
    training: &Training,
    id: &str,
    title: &str,
    y: &str,
    is_log: bool,
    value: impl Fn(&Step) -> Option<f64>,
) -> Chart {
    let points = training.steps.iter().filter_map(|step| Some((step.step as f64, value(step)?))).collect();
    Chart {
        id: id.into(),
        title: title.into(),
        x: "step",
        y: y.into(),
        is_log,
        can_be_log: true,
        curves: vec![Curve { label: y.into(), points }],
        references: vec![],
        stages: stages(training),
        note: String::new(),
    }
}

/// Where stages begin, of a run that has several.
fn stages(training: &Training) -> Vec<(u64, String)> {
    if training.stages.len() > 1 { training.stages.clone() } else { vec![] }
}

/// How far a training has come, and on what.
pub(crate) fn facts(training: &Training) -> Vec<(&'static str, String)> {
    let mut facts = vec![];
    let total = training.total_steps().map_or_else(String::new, |total| format!(" of {total}"));
    let end = match training.stopped {
        Some(false) => "",
        Some(true) => ", stopped as asked",
        None => ", not at its end",
    };
    facts.push(("steps", format!("{}{total}{end}", training.last_step)));
    if let Some(start) = training.starts.last() {
        let resumed = match training.starts.len() {
            0 | 1 => String::new(),
            n => format!(", begun or resumed {n} times"),
        };
        facts.push(("samples an epoch", start.n_samples.to_string()));
        let devices: Vec<&str> = start.devices.iter().map(|device| device_name(device)).collect();
        let plural = if start.threads == 1 { "" } else { "s" };
        facts.push(("computed on", format!("{}, {} thread{plural}{resumed}", devices.join(", "), start.threads)));
    }
    let speed =
        training.images_per_second.map_or_else(String::new, |rate| format!(", {} images a second", short(rate)));
    facts.push(("training time", format!("{}{speed}", duration(training.seconds))));
    if training.skipped_steps > 0 {
        facts.push(("skipped steps", format!("{}, whose 16-bit gradients overflowed", training.skipped_steps)));
    }
    facts
}

/// The device itself, of what burn calls it with its wrapper: `Flex(Cpu)` of `Device<Autodiff { device: Flex(Cpu), ... }>`.
fn device_name(device: &str) -> &str {
    device.split_once("device: ").map_or(device, |(_, rest)| rest.split(", ").next().unwrap_or(rest))
}

/// Seconds as people say them.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Seconds since 1970 as a date and time in UTC.
pub fn date(unix_time: f64) -> String {
    let seconds = unix_time.max(0.0) as u64;
    let (mut days, mut year, mut month) = (seconds / 86_400, 1970, 1);
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let days_of = |month: u64| match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    while days >= days_of(month) {
        days -= days_of(month);
        month += 1;
    }
    format!("{year}-{month:02}-{:02} {:02}:{:02}", days + 1, seconds % 86_400 / 3600, seconds % 3600 / 60)
}

/// The curves of several trainings over each other; what the script draws is added to `drawn`.
pub(crate) fn overlaid(runs: &[(&str, &Training)], drawn: &mut Drawn) -> String {
    let together = |of: &dyn Fn(&Training) -> Chart| {
        let mut chart = of(runs[0].1);
        chart.curves = vec![];
        chart.references = vec![];
        chart.stages = vec![];
        chart.note = String::new();
        for (name, training) in runs {
            let own = of(training).curves.into_iter();
            chart.curves.extend(own.map(|curve| Curve { label: (*name).to_string(), points: curve.points }));
        }
        chart
    };
    let mut names: Vec<&String> = runs.iter().flat_map(|(_, training)| &training.terms).collect();
    names.sort();
    names.dedup();
    let term = |(idx, name): (usize, &&String)| {
        together(&|training| {
            let mut chart = terms(training);
            chart.curves.retain(|curve| curve.label == **name);
            (chart.id, chart.title) = (format!("term-{idx}"), format!("Term {name} of the loss, unweighted"));
            chart
        })
    };
    let mut charts = vec![together(&|training| validation(training, None)), together(&loss)];
    charts.extend(names.iter().enumerate().map(term));
    charts.push(together(&|training| {
        of_steps(training, "rate", "Learning rate", "learning rate", false, |step| Some(step.learning_rate))
    }));
    charts.push(together(&gradient));
    let figures: String = charts.iter().filter_map(|chart| add(chart, drawn)).collect();
    let broken: Vec<String> =
        runs.iter().filter(|(_, training)| training.n_broken > 0).map(|(name, _)| escape(name)).collect();
    let broken = match broken.is_empty() {
        true => String::new(),
        false => format!("<p class=\"note\">Lines that are no events are left out: {}.</p>\n", broken.join(", ")),
    };
    if figures.is_empty() {
        return format!("{broken}<p>No curve: no run has two logged steps.</p>\n");
    }
    format!("{broken}{HOW_TO}<div class=\"charts\">\n{figures}</div>\n")
}

const HOW_TO: &str = "<p class=\"note\">Point at a chart, or focus it and press the arrow keys, for its values. Drag to zoom, double-click \
                      for all; the names above it hide curves.</p>\n";

/// More than any run asks for.
const MAX_CLICKS: u32 = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_durations_and_devices() {
        // `date -u -d @SECONDS '+%F %H:%M'`
        for (seconds, expected) in [
            (0.0, "1970-01-01 00:00"),
            (951_782_399.0, "2000-02-28 23:59"),
            (951_868_800.0, "2000-03-01 00:00"),
            (1_709_208_060.5, "2024-02-29 12:01"),
            (4_102_444_800.0, "2100-01-01 00:00"),
        ] {
            assert_eq!(date(seconds), expected);
        }
        assert_eq!(device_name("Device<Autodiff { device: Flex(Cpu), checkpointing: Disabled }>"), "Flex(Cpu)");
        assert_eq!(device_name("CPU"), "CPU");
        assert_eq!([0.4, 59.7, 3599.0, 7380.0].map(duration), ["0 s", "1 min 00 s", "59 min 59 s", "2 h 03 min"]);
    }
}
