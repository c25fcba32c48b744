//! `runs`: every run of a folder on a line.

use std::fs;
use std::path::Path;

use anyhow::Context;
use sensei_eval::report::EvalReport;
use sensei_eval::table::aligned;
use sensei_eval::verdict::{Standing, Verdict};
use sensei_files::lock::Lock;
use sensei_report::events::Training;
use sensei_report::run_folder::RunFolder;
use sensei_report::training::date;
use serde::Serialize;

use crate::commands::about::about;
use crate::progress::{on_one_line, say};
use crate::usage;

/// A run, as `--json` has it.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    student: Option<String>,
    state: State,
    step: Option<u64>,
    total_steps: Option<u64>,
    /// Seconds since 1970 of the last event of training.
    last_event: Option<f64>,
    verdict: Option<Verdict>,
    sentence: Option<String>,
    /// What of the run cannot be read.
    broken: Vec<String>,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// A process holds it, and its training has not ended.
    Training,
    /// A process holds it for something else.
    Busy,
    /// Trained and scored.
    Finished,
    /// Trained and not scored.
    Trained,
    /// Stopped as asked, or killed: `--resume` goes on with it.
    Stopped,
    /// Not begun.
    New,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Training => "training",
            Self::Busy => "busy",
            Self::Finished => "finished",
            Self::Trained => "trained",
            Self::Stopped => "stopped",
            Self::New => "new",
        }
    }
}

/// Lists the runs of a folder, by name.
///
/// # Errors
/// If the folder cannot be listed. A run that cannot be read is listed with what is wrong.
pub fn runs(folder: &Path, as_json: bool) -> anyhow::Result<()> {
    let mut roots = vec![];
    let entries = fs::read_dir(folder).with_context(|| format!("{}: cannot list", folder.display())).map_err(usage)?;
    for entry in entries {
        let path = entry.with_context(|| format!("{}: cannot list", folder.display()))?.path();
        if path.join("plan.toml").is_file() {
            roots.push(path);
        }
    }
    roots.sort();
    let listed: Vec<Listed> = roots.iter().map(|root| listed(&RunFolder::at(root))).collect();
    if as_json {
        say(&serde_json::to_string_pretty(&listed)?);
        return Ok(());
    }
    if listed.is_empty() {
        say(&format!("{}: no runs", folder.display()));
        return Ok(());
    }
    let head = ["run", "student", "state", "step", "last event, UTC", "mean IoU", "verdict"];
    let mut rows = vec![head.map(String::from).to_vec()];
    rows.extend(listed.iter().map(row));
    aligned(&rows).iter().for_each(|line| say(line));
    Ok(())
}

fn listed(folder: &RunFolder) -> Listed {
    let mut broken = vec![];
    let about = read(&mut broken, about(&folder.plan_toml())).unwrap_or_default();
    let student = about.into_iter().find(|(name, _)| name == "student").map(|(_, value)| value);
    let has_log = folder.events().exists();
    let training = read(&mut broken, has_log.then(|| Ok(Training::read(&folder.events())?)).transpose()).flatten();
    let is_scored = folder.scores().exists();
    let verdict = is_scored.then(|| Ok(Verdict::of(&EvalReport::read(&folder.scores())?)?)).transpose();
    let verdict = read(&mut broken, verdict).flatten().flatten();
    let is_held = read(&mut broken, Lock::holder(&folder.lock()).map_err(anyhow::Error::from)).flatten().is_some();
    let ended = training.as_ref().and_then(|training| training.stopped);
    let state = match (is_held, ended, is_scored) {
        (true, Some(false), _) => State::Busy,
        (true, ..) => State::Training,
        (false, Some(false), true) => State::Finished,
        (false, Some(false), false) => State::Trained,
        (false, Some(true), _) => State::Stopped,
        (false, None, _) if training.as_ref().is_some_and(|training| !training.starts.is_empty()) => State::Stopped,
        // A log may have been lost; scores say that there was one.
        (false, None, true) => State::Finished,
        (false, None, false) => State::New,
    };
    Listed {
        name: folder.root().file_name().unwrap_or_default().to_string_lossy().into_owned(),
        student,
        state,
        step: training.as_ref().map(|training| training.last_step),
        total_steps: training.as_ref().and_then(Training::total_steps),
        last_event: training.as_ref().and_then(|training| training.last_time),
        sentence: verdict.as_ref().map(Verdict::sentence),
        verdict,
        broken,
    }
}

/// What was read; what could not be is told in the list.
fn read<T>(broken: &mut Vec<String>, found: anyhow::Result<T>) -> Option<T> {
    found.map_err(|error| broken.push(format!("{error:#}"))).ok()
}

fn row(run: &Listed) -> Vec<String> {
    let step = run.step.map_or_else(String::new, |step| match run.total_steps {
        Some(total) => format!("{step}/{total}"),
        None => step.to_string(),
    });
    let score = run.verdict.as_ref().map_or_else(String::new, |verdict| {
        let interval = verdict
            .score
            .interval
            .map_or_else(String::new, |interval| format!(" [{:.3}, {:.3}]", interval.low, interval.high));
        format!("{} {:.4}{interval}", verdict.row, verdict.score.value)
    });
    let words = match (&run.verdict, run.broken.is_empty()) {
        (_, false) => format!("broken: {}", on_one_line(&run.broken.join("; "))),
        (Some(verdict), true) => in_short(verdict),
        (None, true) => String::new(),
    };
    let when = run.last_event.map_or_else(String::new, date);
    let student = run.student.clone().unwrap_or_default();
    vec![on_one_line(&run.name), on_one_line(&student), run.state.name().into(), step, when, score, words]
}

/// Where a run stands, without figures.
fn in_short(verdict: &Verdict) -> String {
    let stand = |name: &str, difference| {
        format!(
            "{} {name}",
            match Standing::of(difference) {
                Standing::NotToldApart => "not told apart from",
                Standing::NoInterval => "one image beside",
                standing => standing.in_words(),
            }
        )
    };
    let floor = verdict.floor.as_ref().map(|floor| stand(&floor.row, &floor.difference));
    let teacher = verdict.teacher.as_ref().map(|teacher| stand("teacher", &teacher.difference));
    floor.into_iter().chain(teacher).collect::<Vec<String>>().join(", ")
}
