//! `report.html`: one file that shows a run to people, and asks for nothing else.

use std::fs;
use std::path::PathBuf;

use sensei_eval::metric::Group;
use sensei_eval::report::EvalReport;
use sensei_eval::rows::ELLIPSE;
use sensei_eval::verdict::Verdict;
use sensei_files::error::FileError;
use serde_json::json;

use crate::error::ReportPageError;
use crate::events::Training;
use crate::gallery::Gallery;
use crate::html::{contents, document, escape, section};
use crate::layer_tables::layers;
use crate::layers::read_rows;
use crate::package::{files, package};
use crate::pictures::{gallery, space_in_words};
use crate::run_folder::RunFolder;
use crate::scores::{facts_list, fraction, scores, verdict};
use crate::training::{Drawn, add, clicks, curves, date, facts};

/// The page of a run, from the files in its folder. A part whose file is not there yet is left out. `about` says what the
/// configuration is, as names and values: what reads it knows.
///
/// # Errors
/// If a file is there but cannot be read or is broken.
pub fn page(folder: &RunFolder, about: &[(String, String)]) -> Result<String, ReportPageError> {
    let name = folder.root().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let report = folder.scores().exists().then(|| EvalReport::read(&folder.scores())).transpose()?;
    let training = folder.events().exists().then(|| Training::read(&folder.events())).transpose()?;
    let (mut drawn, mut layers_drawn) = (Drawn::new(), json!([]));
    let mut body = String::new();
    if let Some(report) = &report {
        body.push_str(&section("scores", "Scores", &scored(report, "scores", &mut drawn)?));
    }
    for (idx, (protocol, other)) in other_reports(folder)?.into_iter().enumerate() {
        let id = format!("scores-{}", idx + 2);
        let found = Verdict::of(&other)?.map_or_else(String::new, |found| verdict(&found));
        let content = format!("{found}{}", scored(&other, &id, &mut drawn)?);
        body.push_str(&section(&id, &format!("Scores: {protocol}"), &content));
    }
    body.push_str(&pictures(folder)?);
    if let Some(training) = &training {
        body.push_str(&section("training", "Training", &curves(training, report.as_ref(), &mut drawn)));
    }
    if folder.layers().exists() {
        let before = folder.layers_before();
        let before = before.exists().then(|| read_rows(&before)).transpose()?;
        let (html, drawn) = layers(&read_rows(&folder.layers())?, before.as_deref());
        layers_drawn = drawn;
        body.push_str(&section("layers", "Quantization, layer by layer", &html));
    }
    if folder.package().join("manifest.json").exists() {
        body.push_str(&section("package", "Package for the IMX500", &package(&folder.package())?));
    }
    let onnx = folder.root().join("onnx");
    if onnx.is_dir() {
        body.push_str(&section("onnx", "ONNX files", &files(&onnx)?));
    }
    let plan = folder.plan_toml();
    let plan = fs::read_to_string(&plan).map_err(FileError::io(&plan, "read"))?;
    let plan = format!("<details><summary>plan.toml</summary><pre>{}</pre></details>", escape(&plan));
    body.push_str(&section("configuration", "Configuration", &plan));
    let head = head(&name, report.as_ref(), training.as_ref(), about)?;
    let body = format!(
        "<header>\n{head}{}</header>\n<main id=\"main\">\n{body}</main>\n<footer><p>Made by sensei report. The page is one file and asks for \
         nothing else. What the numbers mean: docs/metrics.md; how to read the page: docs/guides/reading-a-run.md.</p></footer>\n",
        contents(&body)
    );
    Ok(document(&name, &body, &json!({ "charts": drawn, "layers": layers_drawn })))
}

/// The run's name, its verdict, and what to know before anything else.
fn head(
    name: &str,
    report: Option<&EvalReport>,
    training: Option<&Training>,
    about: &[(String, String)],
) -> Result<String, ReportPageError> {
    let found = report.map(Verdict::of).transpose()?.flatten();
    let mut html = format!("<h1>{}</h1>\n", escape(name));
    html.push_str(&match &found {
        Some(found) => verdict(found),
        None if report.is_some() => "<p class=\"verdict unsure\">No row of this report is a student's.</p>\n".into(),
        None => "<p class=\"verdict unsure\">Not scored yet.</p>\n".into(),
    });
    if let (Some(report), Some(found)) = (report, &found) {
        html.push_str(&tiles(report, found));
    }
    let mut all: Vec<(&str, String)> = about.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
    if let Some(training) = training {
        all.extend(facts(training));
        all.extend(training.last_time.map(|time| ("last event", format!("{} UTC", date(time)))));
    }
    html.push_str(&facts_list(&all));
    Ok(html)
}

/// The numbers that a run is known by, the judged row first.
fn tiles(report: &EvalReport, found: &Verdict) -> String {
    let score = |row: &str| {
        let groups = &report.predictor(row).ok()?.groups;
        groups.get(&Group::All)?.estimates.get(&found.metric).copied()
    };
    let floor = found.floor.as_ref().map_or(ELLIPSE, |floor| floor.row.as_str());
    let rows = [found.row.as_str(), "float", "teacher", floor];
    let mut tiles = String::new();
    for (idx, row) in rows.iter().enumerate().filter(|(idx, row)| *idx == 0 || **row != found.row) {
        let Some(estimate) = score(row) else { continue };
        let interval = estimate
            .interval
            .map_or_else(String::new, |interval| format!(" [{}, {}]", fraction(interval.low), fraction(interval.high)));
        let what = if idx == 0 { found.on_what() } else { String::new() };
        let what = what.split(" on ").next().unwrap_or_default();
        tiles.push_str(&format!(
            "<li><b>{}</b><span>{}{}{}</span></li>",
            fraction(estimate.value),
            escape(row),
            escape(&interval),
            if what.is_empty() { String::new() } else { format!("<br>{}", escape(what)) }
        ));
    }
    format!("<ul class=\"tiles\" aria-label=\"Headline\">{tiles}</ul>\n")
}

/// Tables of a report, and its curve over clicks where it has one.
fn scored(report: &EvalReport, id: &str, drawn: &mut Drawn) -> Result<String, ReportPageError> {
    let over_clicks = clicks(report, id).and_then(|chart| add(&chart, drawn));
    let over_clicks =
        over_clicks.map_or_else(String::new, |figure| format!("<div class=\"charts\">\n{figure}</div>\n"));
    Ok(format!("{}{over_clicks}", scores(report)?))
}

/// Reports by other protocols, `eval-NAME/report.json`, sorted by name.
fn other_reports(folder: &RunFolder) -> Result<Vec<(String, EvalReport)>, ReportPageError> {
    let reports = other_report_files(folder)?.into_iter().map(|(name, file)| Ok((name, EvalReport::read(&file)?)));
    reports.collect()
}

/// The files of [`page`] that are scores by other protocols than the run's own, with the protocols' names.
///
/// # Errors
/// If the folder cannot be listed.
pub fn other_report_files(folder: &RunFolder) -> Result<Vec<(String, PathBuf)>, ReportPageError> {
    let root = folder.root();
    let mut found = vec![];
    for entry in fs::read_dir(root).map_err(FileError::io(root, "list"))? {
        let name = entry.map_err(FileError::io(root, "list"))?.file_name().to_string_lossy().into_owned();
        let file = root.join(&name).join("report.json");
        if let Some(protocol) = name.strip_prefix("eval-").filter(|_| file.is_file()) {
            found.push((protocol.to_string(), file));
        }
    }
    found.sort();
    Ok(found)
}

/// The pictures, or what to do for them.
fn pictures(folder: &RunFolder) -> Result<String, ReportPageError> {
    let file = folder.gallery();
    let content = match file.exists() {
        true => {
            let found = Gallery::read(&file)?;
            let space = space_in_words(found.space);
            format!(
                "<p class=\"note\">IoU {space}, as in the scores. Masks are drawn on the pixels of the panel.</p>\n{}",
                gallery(&found)
            )
        }
        false if folder.overlays().exists() => {
            "<p>These scores were made by an earlier version, which left no pictures for this page: see \
             <code>eval/overlays.png</code>, or run <code>sensei eval RUN</code>.</p>\n"
                .into()
        }
        false => return Ok(String::new()),
    };
    Ok(section("pictures-head", "Pictures", &content))
}

#[cfg(test)]
mod tests {
    use sensei_files::whole::write_whole;

    use super::*;
    use crate::gallery::tests::gallery as two;

    fn run(name: &str) -> (tempfile::TempDir, RunFolder) {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::at(folder.path().join(name));
        fs::create_dir_all(run.eval()).unwrap();
        write_whole(&run.plan_toml(), b"seed = 1 # </pre><script>alert(0)</script>\n").unwrap();
        (folder, run)
    }

    #[test]
    fn names_from_a_folder_and_its_files_are_never_markup() {
        // No `/` may stand in a name of a folder, so the tag is left open.
        let (_folder, run) = run("<script>alert(1)");
        let log = r#"{"unix_time":1.0,"event":"started","step":0,"total_steps":2,"n_samples":8,"devices":["<script>alert(2)</script>"],"threads":2}
{"unix_time":2.0,"event":"step","step":1,"stage":"<script>alert(3)</script>","loss":0.5,"terms":[["<script>alert(4)</script>",1.0]],"learning_rate":0.1,"gradient_norm":1.0}
{"unix_time":3.0,"event":"step","step":2,"stage":"</script>","loss":0.4,"terms":[["<script>alert(4)</script>",0.5]],"learning_rate":0.1,"gradient_norm":1.0}"#;
        write_whole(&run.events(), log.as_bytes()).unwrap();
        let mut evil = two();
        evil.shown[0].answers[0].row = "<script>alert(5)</script>".into();
        evil.write(&run.gallery()).unwrap();
        fs::create_dir_all(run.package()).unwrap();
        write_whole(&run.package().join("manifest.json"), br#"{"network": "<script>alert(6)</script>"}"#).unwrap();
        let page = page(&run, &[("<script>".into(), "<script>alert(7)</script>".into())]).unwrap();
        assert!(!page.contains("<script>alert"), "{page}");
        for n in 0..=7 {
            assert!(page.contains(&format!("alert({n})")), "{n} is on the page, as text");
        }
        assert_eq!(page.matches("<script").count(), 3, "the page's own");
        assert!(page.contains("Not scored yet."));
    }

    #[test]
    fn a_part_without_a_file_is_left_out_and_old_pictures_are_named() {
        let (_folder, run) = run("young");
        let bare = page(&run, &[]).unwrap();
        assert_eq!(bare.matches("<h2 ").count(), 1, "the configuration");
        write_whole(&run.eval().join("overlays.png"), b"of an earlier version").unwrap();
        assert!(page(&run, &[]).unwrap().contains("made by an earlier version"));
        two().write(&run.gallery()).unwrap();
        let now = page(&run, &[]).unwrap();
        assert!(now.contains("IoU 0.50") && !now.contains("earlier version"));
        write_whole(&run.gallery(), b"{}").unwrap();
        assert!(page(&run, &[]).unwrap_err().to_string().ends_with("gallery.json: not a gallery"));
    }
}
