//! What `--profile` prints and writes: the time of each layer over some training steps.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use sensei_tensor::profile::{self, Pass, Span};
use serde_json::json;

use sensei_files::whole::write_whole;

/// Steps before the profile, which allocate memory that later ones use again.
const WARMUP_STEPS: u64 = 3;
/// Steps that are profiled.
const STEPS: u64 = 20;

/// A profile of a few steps of a run.
pub struct Profiler {
    trace: PathBuf,
    begin: Option<u64>,
}

impl Profiler {
    /// One that writes its trace to `trace`.
    pub fn new(trace: PathBuf) -> Self {
        Self { trace, begin: None }
    }

    /// Told that the run has done `step` steps; the table, when it is complete.
    ///
    /// # Errors
    /// If the trace cannot be written, or the run is too short.
    pub fn after_step(&mut self, step: u64, is_last: bool) -> anyhow::Result<Option<String>> {
        let begin = *self.begin.get_or_insert(step + WARMUP_STEPS);
        if step == begin {
            profile::start(clock);
        }
        if step <= begin && is_last {
            bail!(
                "--profile: expected more than {WARMUP_STEPS} steps after the first, found fewer: there is no profile"
            );
        }
        if step <= begin || !(step == begin + STEPS || (is_last && step < begin + STEPS)) {
            return Ok(None);
        }
        let spans = profile::stop();
        write_trace(&self.trace, &spans)?;
        let table = table(&spans, step - begin);
        Ok(Some(format!("{table}trace: {} (opens in Perfetto and chrome://tracing)", self.trace.display())))
    }
}

fn clock() -> Duration {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    STARTED.get_or_init(Instant::now).elapsed()
}

/// Times per step in ms, and GFLOP/s of the products; everything as a share of the whole.
fn table(spans: &[Span], n_steps: u64) -> String {
    let total = |name: &str, pass: Pass| {
        let its = spans.iter().filter(|span| &*span.name == name && span.pass == pass);
        its.fold((0.0, 0), |(seconds, flops), span| (seconds + span.duration.as_secs_f64(), flops + span.flops))
    };
    let per_step = |seconds: f64| 1e3 * seconds / n_steps as f64;
    let of_step: Vec<(&str, f64)> = names(spans, Pass::Step).map(|name| (name, total(name, Pass::Step).0)).collect();
    let whole: f64 = of_step.iter().map(|part| part.1).sum();
    let rate =
        |seconds: f64, flops: u64| if flops == 0 { "-".into() } else { format!("{:.1}", flops as f64 / seconds / 1e9) };
    let mut text = format!("profile of {n_steps} steps, {:.1} ms each\n", per_step(whole));
    let width = names(spans, Pass::Forward).map(str::len).max().unwrap_or(0).max(20);
    let _ = writeln!(
        text,
        "{:width$}  {:>10} {:>8}  {:>10} {:>8}  {:>6}",
        "layer", "forward ms", "GFLOP/s", "back. ms", "GFLOP/s", "share"
    );
    let mut line = |name: &str, (forward, forward_flops): (f64, u64), (backward, backward_flops): (f64, u64)| {
        let _ = writeln!(
            text,
            "{name:width$}  {:10.2} {:>8}  {:10.2} {:>8}  {:5.1}%",
            per_step(forward),
            rate(forward, forward_flops),
            per_step(backward),
            rate(backward, backward_flops),
            100.0 * (forward + backward) / whole
        );
    };
    let sum = |a: (f64, u64), b: (f64, u64)| (a.0 + b.0, a.1 + b.1);
    let (mut forward, mut backward) = ((0.0, 0), (0.0, 0));
    for name in names(spans, Pass::Forward) {
        let both = (total(name, Pass::Forward), total(name, Pass::Backward));
        line(name, both.0, both.1);
        (forward, backward) = (sum(forward, both.0), sum(backward, both.1));
    }
    line("all layers", forward, backward);
    let _ = writeln!(text, "{:width$}  {:>10} {:>28}", "part of the step", "ms", "share");
    for (name, seconds) in of_step {
        let _ = writeln!(text, "{name:width$}  {:10.2} {:>27.1}%", per_step(seconds), 100.0 * seconds / whole);
    }
    text
}

/// The names of a pass, in the order in which they first ended.
fn names(spans: &[Span], pass: Pass) -> impl Iterator<Item = &str> {
    let mut seen = vec![];
    let its = spans.iter().filter(move |span| span.pass == pass).map(|span| &*span.name);
    its.filter(move |name| {
        let is_new = !seen.contains(name);
        seen.push(*name);
        is_new
    })
}

/// Complete events of the trace event format, one row for parts of the step and one for layers.
fn write_trace(path: &Path, spans: &[Span]) -> anyhow::Result<()> {
    let event = |span: &Span| {
        let (row, category) = match span.pass {
            Pass::Step => (0, "step"),
            Pass::Forward => (1, "forward"),
            Pass::Backward => (1, "backward"),
        };
        let seconds = span.duration.as_secs_f64();
        json!({
            "name": &*span.name, "cat": category, "ph": "X", "pid": 1, "tid": row,
            "ts": span.start.as_secs_f64() * 1e6, "dur": seconds * 1e6,
            "args": { "flops": span.flops, "gflop_per_s": span.flops as f64 / seconds.max(1e-9) / 1e9 },
        })
    };
    let events: Vec<_> = spans.iter().map(event).collect();
    let text = serde_json::to_vec(&json!({ "traceEvents": events, "displayTimeUnit": "ms" }))?;
    write_whole(path, &text).with_context(|| format!("{}: cannot write the profile", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(name: &str, pass: Pass, start: u64, milliseconds: u64, flops: u64) -> Span {
        let (start, duration) = (Duration::from_millis(start), Duration::from_millis(milliseconds));
        Span { name: name.into(), pass, start, duration, flops }
    }

    #[test]
    fn table_has_times_per_step_rates_and_shares() {
        let two_steps = [
            span("a", Pass::Forward, 10, 2, 4_000_000),
            span("forward", Pass::Step, 10, 4, 0),
            span("a", Pass::Backward, 14, 6, 8_000_000),
            span("backward", Pass::Step, 14, 8, 0),
            span("a", Pass::Forward, 30, 2, 4_000_000),
            span("data", Pass::Step, 40, 8, 0),
        ];
        let table = table(&two_steps, 2);
        let fields = |start: &str| -> Vec<String> {
            let line = table.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {table}"));
            line.split_whitespace().map(String::from).collect()
        };
        assert_eq!(fields("profile"), ["profile", "of", "2", "steps,", "10.0", "ms", "each"]);
        assert_eq!(fields("a "), ["a", "2.00", "2.0", "3.00", "1.3", "50.0%"]);
        assert_eq!(fields("data"), ["data", "4.00", "40.0%"]);
    }
}
