//! Bars on the screen, lines in `events.jsonl` and curves for TensorBoard.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use sensei_report::run_folder::RunFolder;
use sensei_student::student::WEIGHTS;
use sensei_tensor::network::NamedWeights;
use sensei_train::event::Event;
use sensei_train::fit::Observer;
use serde::Serialize;

use crate::curves::Curves;
use crate::event_log::EventLog;
use crate::profile::Profiler;
use crate::stop;

/// Scores weights after an epoch: the mean IoU in the crop and the number of instances.
pub type Validate<'a> = Box<dyn FnMut(&NamedWeights) -> anyhow::Result<(f64, usize)> + 'a>;

/// Shows a training run and logs it.
pub struct TrainProgress<'a> {
    bar: ProgressBar,
    log: EventLog,
    curves: Curves,
    log_every_steps: u64,
    validate_every_epochs: u64,
    validate: Validate<'a>,
    started: Instant,
    n_samples_done: usize,
    log_failed: Option<std::io::Error>,
    profiler: Option<Profiler>,
}

#[derive(Serialize)]
struct LogLine<'a> {
    unix_time: f64,
    images_per_second: Option<f64>,
    #[serde(flatten)]
    event: &'a Event,
}

impl<'a> TrainProgress<'a> {
    /// Appends to the log of a run, and adds to its curves.
    ///
    /// # Errors
    /// If the log cannot be opened.
    pub fn new(
        folder: &RunFolder,
        log_every_steps: u64,
        validate_every_epochs: u64,
        validate: Validate<'a>,
    ) -> anyhow::Result<Self> {
        let log = EventLog::open(&folder.events())?;
        let curves = Curves::at(folder.tensorboard().join("training"));
        let style = "{prefix} {bar:30} {pos}/{len} steps, ETA {eta}, {msg}";
        let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = shown(ProgressBar::new(0)).with_style(style).with_prefix("train");
        let started = Instant::now();
        let (n_samples_done, log_failed) = (0, None);
        Ok(Self {
            bar,
            log,
            curves,
            log_every_steps,
            validate_every_epochs,
            validate,
            started,
            n_samples_done,
            log_failed,
            profiler: None,
        })
    }

    /// Profiles some steps, prints their table and writes their trace to `trace`.
    pub fn profile(&mut self, trace: PathBuf) {
        self.profiler = Some(Profiler::new(trace));
    }

    /// The first failure to write the log, if there was one: the run goes on without it, and says so at its end.
    pub fn log_failure(&mut self) -> Option<std::io::Error> {
        self.log_failed.take()
    }

    fn log(&mut self, event: &Event) {
        let unix_time =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64();
        let images_per_second = self.images_per_second();
        let line = LogLine { unix_time, images_per_second, event };
        let written = serde_json::to_string(&line).map_err(std::io::Error::other);
        for written in
            [written.and_then(|line| self.log.append(&line)), self.curves.take(unix_time, images_per_second, event)]
        {
            if let Err(error) = written {
                self.log_failed.get_or_insert(error);
            }
        }
    }

    fn images_per_second(&self) -> Option<f64> {
        (self.n_samples_done > 0).then(|| self.n_samples_done as f64 / self.started.elapsed().as_secs_f64())
    }
}

impl Observer for TrainProgress<'_> {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Started { step, total_steps, threads, .. } => {
                let before = self.log.last_threads().ok().flatten().filter(|before| *step > 0 && before != threads);
                if let Some(before) = before {
                    warn(&format!(
                        "the run had {before} threads and goes on with {threads}: other bits than without a stop"
                    ));
                }
                note(&format!("threads: {threads}"));
                match self.log.forget_after(*step) {
                    Ok(0) => {}
                    Ok(n) => warn(&format!("log: {n} events after step {step} are dropped: these steps run again")),
                    Err(error) => {
                        self.log_failed.get_or_insert(error);
                    }
                }
                self.bar.set_length(*total_steps);
                self.bar.set_position(*step);
                self.bar.reset_eta();
                self.started = Instant::now();
                self.log(event);
            }
            Event::Step { step, total_steps, loss, n_samples, .. } => {
                self.n_samples_done += n_samples;
                self.bar.set_position(*step);
                let rate = self.images_per_second().unwrap_or(0.0);
                self.bar.set_message(format!("loss {loss:.4}, {rate:.1} img/s"));
                if step.is_multiple_of(self.log_every_steps) || step == total_steps {
                    self.log(event);
                    if self.bar.is_hidden() {
                        note(&format!("step {step}/{total_steps}: loss {loss:.4}, {rate:.1} img/s"));
                    }
                }
                let profiled = self.profiler.as_mut().map(|profiler| profiler.after_step(*step, step == total_steps));
                match profiled {
                    Some(Ok(Some(table))) => self.bar.suspend(|| say(&table)),
                    Some(Err(error)) => self.bar.suspend(|| warn(&format!("{error:#}"))),
                    Some(Ok(None)) | None => {}
                }
            }
            Event::Validation { epoch, mean_iou_in_crop, n_instances, .. } => {
                self.log(event);
                let line = format!(
                    "after epoch {}: mean IoU in the crop {mean_iou_in_crop:.4} over {n_instances} instances",
                    epoch + 1
                );
                self.bar.suspend(|| note(&line));
            }
            Event::Ended { stopped, .. } => {
                self.log(event);
                // A finished bar jumps to its end.
                if *stopped { self.bar.abandon() } else { self.bar.finish() }
            }
            Event::Epoch { .. } | Event::Checkpoint { .. } => self.log(event),
        }
    }

    fn should_stop(&mut self) -> bool {
        stop::is_asked()
    }

    fn validate(
        &mut self,
        result: &BTreeMap<String, NamedWeights>,
        epoch: u64,
    ) -> Result<Option<(f64, usize)>, Box<dyn std::error::Error + Send + Sync>> {
        if self.validate_every_epochs == 0 || !(epoch + 1).is_multiple_of(self.validate_every_epochs) {
            return Ok(None);
        }
        Ok(Some((self.validate)(&result[WEIGHTS])?))
    }
}

/// The bar, drawn unless nothing is to be said.
fn shown(bar: ProgressBar) -> ProgressBar {
    if is_quiet() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar
}

/// A bar on a terminal for work of known length, which disappears with it.
pub fn bar(what: &'static str, len: usize, unit: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(&format!("{{prefix}} {{bar:30}} {{pos}}/{{len}} {unit}, ETA {{eta}}"));
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    shown(ProgressBar::new(len as u64)).with_style(style).with_prefix(what).with_finish(ProgressFinish::AndClear)
}

/// A line on a terminal for work whose length nobody knows, with the time so far; it disappears with the work.
pub fn working(what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {prefix}, {elapsed} so far");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
    let line =
        shown(ProgressBar::new_spinner()).with_style(style).with_prefix(what).with_finish(ProgressFinish::AndClear);
    line.enable_steady_tick(Duration::from_millis(200));
    line
}

/// How much the program says of what it is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// Nothing: results, warnings and errors alone.
    Quiet,
    /// Bars on a terminal, elsewhere a line for every logged step.
    Normal,
    /// As well when each phase begins, with the time so far on every such line.
    Verbose,
}

/// From here on the program says so much; its clock starts.
pub fn set_verbosity(verbosity: Verbosity) {
    // Only the first one counts: there is one command line.
    let _ = VERBOSITY.set((verbosity, Instant::now()));
}

static VERBOSITY: OnceLock<(Verbosity, Instant)> = OnceLock::new();

fn is_quiet() -> bool {
    VERBOSITY.get().is_some_and(|(verbosity, _)| *verbosity == Verbosity::Quiet)
}

/// Prints a line about what is being done, which no result depends on.
pub fn note(line: &str) {
    match VERBOSITY.get() {
        Some((Verbosity::Quiet, _)) => {}
        Some((Verbosity::Verbose, start)) => say(&format!("[{:7.1} s] {line}", start.elapsed().as_secs_f64())),
        Some((Verbosity::Normal, _)) | None => say(line),
    }
}

/// Says, where much is said, that a phase of a run begins.
pub fn phase(name: &str) {
    if VERBOSITY.get().is_some_and(|(verbosity, _)| *verbosity == Verbosity::Verbose) {
        note(name);
    }
}

/// Prints a line of the program's results, control characters of it escaped. A failure does not end a run, whose results
/// are in files; it is told at the end, see [`output_failure`].
pub fn say(line: &str) {
    if IS_LOG_ON_STDERR.load(Ordering::Relaxed) {
        return warn(line);
    }
    say_result(line);
}

/// From here on what is done goes to standard error, so that standard output holds one document; [`say_result`] prints it.
pub fn log_to_stderr() {
    IS_LOG_ON_STDERR.store(true, Ordering::Relaxed);
}

static IS_LOG_ON_STDERR: AtomicBool = AtomicBool::new(false);

/// Prints what a command was asked for, wherever its log goes; otherwise as [`say`].
pub fn say_result(line: &str) {
    if let Err(error) = writeln!(std::io::stdout(), "{}", escaped(line)) {
        // Only the first one is kept.
        let _ = OUTPUT_FAILURE.set(error);
    }
}

/// The first failure to print results, if there was one; a reader that has gone away is none.
pub fn output_failure() -> Option<&'static std::io::Error> {
    OUTPUT_FAILURE.get().filter(|error| error.kind() != std::io::ErrorKind::BrokenPipe)
}

static OUTPUT_FAILURE: OnceLock<std::io::Error> = OnceLock::new();

/// Prints a line about the program's doings, control characters of it escaped.
pub fn warn(line: &str) {
    // There is nowhere left to tell that this fails.
    let _ = writeln!(std::io::stderr(), "{}", escaped(line));
}

/// A text from a file as part of a line: its line ends must not make lines of their own.
pub fn on_one_line(text: &str) -> String {
    text.replace('\n', "\\n")
}

/// Names from files are part of lines: what would steer a terminal becomes `\u{1b}`. Line ends and tabs stay.
fn escaped(line: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !line.contains(steers) {
        return Cow::Borrowed(line);
    }
    let escape = |c: char| if steers(c) { c.escape_unicode().to_string() } else { c.to_string() };
    Cow::Owned(line.chars().map(escape).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_line_ends_are_not() {
        let check = |line: &str, expected: &str| assert_eq!(escaped(line), expected);
        check("conv1.weight [3, 3]", "conv1.weight [3, 3]");
        check("a\u{1b}[2J\u{7}\r", "a\\u{1b}[2J\\u{7}\\u{d}");
        // The 8-bit form of the escape sequence, and DEL.
        check("a\u{9b}2J\u{7f}", "a\\u{9b}2J\\u{7f}");
        assert_eq!(on_one_line("a\nerror: b"), "a\\nerror: b");
        check("name\tvalue\nGrößen → 1", "name\tvalue\nGrößen → 1");
    }
}
