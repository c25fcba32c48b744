//! `report.html`: one page that shows a run to people, readable offline; pictures lie beside it.

use std::fs;

use anyhow::Context;
use sensei_eval::report::EvalReport;
use serde_json::Value;

use crate::run_folder::RunFolder;

/// The page of a run, from the files in its folder. A part whose file is not there yet is left out.
///
/// # Errors
/// If a file is there but cannot be read or is broken.
pub fn page(folder: &RunFolder) -> anyhow::Result<String> {
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
        section(&mut body, "Training", &curves(&read(&folder.events())?)?);
    }
    let layers = folder.layers().with_extension("txt");
    if layers.exists() {
        section(
            &mut body,
            "Float, fake-quant and integers, layer by layer",
            &format!("<pre>{}</pre>", escape(&read(&layers)?)),
        );
    }
    let manifest = folder.package().join("manifest.json");
    if manifest.exists() {
        let manifest: Value =
            serde_json::from_str(&read(&manifest)?).with_context(|| format!("{}: not JSON", manifest.display()))?;
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

fn read(path: &std::path::Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()))
}

/// Loss and validation over the steps, as two pictures.
fn curves(events: &str) -> anyhow::Result<String> {
    let (mut losses, mut scores, mut rate) = (Vec::new(), Vec::new(), 0.0);
    for (idx, line) in events.lines().enumerate() {
        let event: Value = serde_json::from_str(line).with_context(|| format!("events.jsonl:{}: not JSON", idx + 1))?;
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

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 160.0;
const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}\
    pre{background:#f5f5f2;padding:.8rem;overflow-x:auto;font-size:12px}img{max-width:100%}\
    svg{width:100%;background:#f5f5f2}polyline{fill:none;stroke:#16697a;stroke-width:1.5}\
    figure{margin:1rem 0}th{text-align:left;padding-right:1rem;vertical-align:top}td{overflow-wrap:anywhere}";
