//! `report.html`: one page that shows a run to people, readable offline; pictures lie beside it.

use std::fs;
use std::path::Path;

use sensei_eval::report::EvalReport;
use sensei_files::error::FileError;
use serde_json::Value;

use crate::error::ReportPageError;
use crate::layers::{LayerRow, read_rows};
use crate::run_folder::RunFolder;

/// The page of a run, from the files in its folder. A part whose file is not there yet is left out.
///
/// # Errors
/// If a file is there but cannot be read or is broken.
pub fn page(folder: &RunFolder) -> Result<String, ReportPageError> {
    let name = folder.root().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut body = format!("<h1>{}</h1>\n", escape(&name));
    let report_file = folder.eval().join("report.json");
    if report_file.exists() {
        let report = EvalReport::read(&report_file)?;
        section(&mut body, "Scores", &format!("<pre>{}</pre>", escape(&report.table())));
    }
    if folder.eval().join("overlays.png").exists() {
        let picture = "<img src=\"eval/overlays.png\" alt=\"Crops with truth, teacher and student masks\">";
        section(&mut body, "What it sees", picture);
    }
    if folder.events().exists() {
        section(&mut body, "Training", &curves(&folder.events())?);
    }
    let layers = folder.layers().with_extension("txt");
    if layers.exists() {
        section(
            &mut body,
            "Float, fake-quant and integers, layer by layer",
            &format!("<pre>{}</pre>", escape(&read(&layers)?)),
        );
    }
    if folder.layers().exists() {
        let before = folder.layers_before();
        let before = before.exists().then(|| read_rows(&before)).transpose()?;
        section(&mut body, "Values, weights and their grids", &distributions(&read_rows(&folder.layers())?, before));
    }
    let manifest = folder.package().join("manifest.json");
    if manifest.exists() {
        let manifest: Value =
            serde_json::from_str(&read(&manifest)?).map_err(ReportPageError::not(&manifest, "JSON"))?;
        let mut rows = String::new();
        for (key, value) in manifest.as_object().into_iter().flatten().filter(|(key, _)| *key != "scores") {
            let value = value.as_str().map_or_else(|| value.to_string(), String::from);
            rows.push_str(&format!("<tr><th>{}</th><td>{}</td></tr>\n", escape(key), escape(&value)));
        }
        section(&mut body, "Package", &format!("<table>{rows}</table>"));
    }
    section(&mut body, "Configuration", &format!("<pre>{}</pre>", escape(&read(&folder.plan_toml())?)));
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title><style>{STYLE}</style></head>\n\
         <body>\n{body}</body></html>\n",
        escape(&name)
    ))
}

fn section(body: &mut String, title: &str, content: &str) {
    body.push_str(&format!("<h2>{title}</h2>\n{content}\n"));
}

fn read(path: &Path) -> Result<String, ReportPageError> {
    Ok(fs::read_to_string(path).map_err(FileError::io(path, "read"))?)
}

/// Loss and validation over the steps, as two pictures.
fn curves(path: &Path) -> Result<String, ReportPageError> {
    let events = read(path)?;
    let (mut losses, mut scores, mut rate, mut n_broken) = (Vec::new(), Vec::new(), 0.0, 0);
    for line in events.lines() {
        // A power cut can leave half a line; the curves of the others are worth showing.
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            n_broken += 1;
            continue;
        };
        let number = |key: &str| event[key].as_f64();
        match event["event"].as_str() {
            Some("step") => {
                losses.extend(number("step").zip(number("loss")));
                rate = number("images_per_second").unwrap_or(rate);
            }
            Some("validation") => scores.extend(number("step").zip(number("mean_iou_in_crop"))),
            _ => {}
        }
    }
    let mut html = format!("<p>{rate:.1} images per second at the end.</p>\n");
    if n_broken > 0 {
        html.push_str(&format!("<p>{n_broken} lines of events.jsonl are no JSON and are left out.</p>\n"));
    }
    html.push_str(&chart("loss", &losses));
    html.push_str(&chart("mean IoU in the crop, validation subset", &scores));
    Ok(html)
}

/// A line through points, with the range of both axes in words; nothing for fewer than two points.
fn chart(title: &str, points: &[(f64, f64)]) -> String {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return String::new() };
    if points.len() < 2 || last.0 <= first.0 {
        return String::new();
    }
    let low = points.iter().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max);
    let (x, y) = (
        |step: f64| WIDTH * (step - first.0) / (last.0 - first.0),
        |value: f64| HEIGHT * (1.0 - (value - low) / (high - low).max(f64::MIN_POSITIVE)),
    );
    let line: Vec<String> = points.iter().map(|&(step, value)| format!("{:.1},{:.1}", x(step), y(value))).collect();
    format!(
        "<figure><figcaption>{title}: {low:.4} to {high:.4}, steps {} to {}; last {:.4}</figcaption>\
         <svg viewBox=\"-4 -4 {} {}\"><polyline points=\"{}\"/></svg></figure>\n",
        first.0,
        last.0,
        last.1,
        WIDTH + 8.0,
        HEIGHT + 8.0,
        line.join(" ")
    )
}

/// For each layer, how its values and weights lie on their grids.
fn distributions(layers: &[LayerRow], before: Option<Vec<LayerRow>>) -> String {
    let mut html = String::from(
        "<p>Left: float values other than 0 over the calibration images, counts on a logarithmic axis; red lines are the \
         ends of the grid.",
    );
    if before.is_some() {
        html.push_str(" Grey, with dashed lines: before training on the grid.");
    }
    html.push_str(
        " Right: the integers of the weights, from the smallest to the largest.</p>\n<div class=\"layers\">\n",
    );
    for (idx, layer) in layers.iter().enumerate() {
        let before = before.as_ref().and_then(|before| before.get(idx));
        let values = values_picture(layer, before);
        let weights = layer.weight_counts.as_deref().map_or_else(String::new, |counts| {
            let bars = bars(counts, 0.0, SMALL_WIDTH / counts.len() as f64);
            format!("<svg viewBox=\"0 0 {SMALL_WIDTH} {SMALL_HEIGHT}\"><path class=\"bars\" d=\"{bars}\"/></svg>")
        });
        let weight_bits = layer.weight_bits.map_or_else(String::new, |bits| format!(", {bits}-bit weights"));
        html.push_str(&format!(
            "<figure><figcaption>{}: {:.4} to {:.4}, grid to {}{weight_bits}</figcaption>{values}{weights}</figure>\n",
            escape(&layer.name),
            layer.calibration_min,
            layer.calibration_max,
            layer.threshold,
        ));
    }
    html.push_str("</div>");
    html
}

/// The distribution of a layer's values, with the ends of its grid, over the same before training on the grid.
fn values_picture(layer: &LayerRow, before: Option<&LayerRow>) -> String {
    let both = || std::iter::once((layer, "bars", "end")).chain(before.map(|layer| (layer, "bars was", "end was")));
    let range = |layer: &LayerRow| layer.float_values.as_ref().map_or(0.0, |values| values.range).max(layer.threshold);
    let high = both().map(|(layer, ..)| range(layer)).fold(0.0, f64::max);
    let low = if both().any(|(layer, ..)| layer.signed) { -high } else { 0.0 };
    let x = |value: f64| SMALL_WIDTH * (value - low) / (high - low);
    let mut svg = format!("<svg viewBox=\"0 0 {SMALL_WIDTH} {SMALL_HEIGHT}\">");
    for (layer, bars_class, end_class) in both().collect::<Vec<_>>().into_iter().rev() {
        if let Some(values) = &layer.float_values {
            let width = 2.0 * values.range / values.counts.len() as f64;
            let path = bars(&values.counts, x(-values.range), x(low + width));
            svg.push_str(&format!("<path class=\"{bars_class}\" d=\"{path}\"/>"));
        }
        for end in [Some(layer.threshold), layer.signed.then_some(-layer.threshold)].into_iter().flatten() {
            let at = x(end);
            svg.push_str(&format!("<path class=\"{end_class}\" d=\"M{at:.1},0V{SMALL_HEIGHT}\"/>"));
        }
    }
    svg + "</svg>"
}

/// Counts as a path of bars of one width, the first at `left`; heights are logarithms.
fn bars(counts: &[u64], left: f64, width: f64) -> String {
    let most = counts.iter().copied().max().unwrap_or(0);
    let mut path = String::new();
    for (idx, &count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let height = SMALL_HEIGHT * (count as f64 + 1.0).ln() / (most as f64 + 1.0).ln();
        path.push_str(&format!(
            "M{:.1},{SMALL_HEIGHT}v{:.1}h{width:.2}v{height:.1}z",
            left + width * idx as f64,
            -height
        ));
    }
    path
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 160.0;
const SMALL_WIDTH: f64 = 256.0;
const SMALL_HEIGHT: f64 = 64.0;
const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}\
    pre{background:#f5f5f2;padding:.8rem;overflow-x:auto;font-size:12px}img{max-width:100%}\
    svg{width:100%;background:#f5f5f2}polyline{fill:none;stroke:#16697a;stroke-width:1.5}\
    .layers{display:grid;grid-template-columns:repeat(auto-fill,minmax(26rem,1fr));gap:.5rem 1.5rem;font-size:12px}\
    .layers svg{width:49%;margin-right:1%}.bars{fill:#16697a;fill-opacity:.8}.was{fill:#bbb}.end{stroke:#c0392b;fill:none}\
    .end.was{stroke-dasharray:4}figure{margin:1rem 0}th{text-align:left;padding-right:1rem;vertical-align:top}td{overflow-wrap:anywhere}";
