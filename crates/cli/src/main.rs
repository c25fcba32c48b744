//! From a config file to a deployment package: the `sensei` command.
//!
//! Only this crate reads configurations, prints, asks the clock and touches the environment. It does no mathematics.

mod arguments;
mod commands;
mod config;
mod curves;
mod device;
mod event_log;
mod examples;
mod phases;
mod predict;
mod profile;
mod progress;
mod run_folder;
mod shipped_models;
mod stop;
mod trials;

use std::process::ExitCode;

use clap::Parser;

use arguments::Arguments;
use progress::{Verbosity, output_failure, set_verbosity, warn};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A mistake in the command line or the configuration, as opposed to a run that failed: exit code 2.
#[derive(Debug)]
pub struct UsageError(anyhow::Error);

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for UsageError {}

/// Marks an error as a mistake in the command line or the configuration.
pub fn usage(error: impl Into<anyhow::Error>) -> anyhow::Error {
    anyhow::Error::new(UsageError(error.into()))
}

fn main() -> ExitCode {
    sensei_tensor::ops::keep_freed_memory();
    let arguments = Arguments::parse();
    set_verbosity(match (arguments.quiet, arguments.verbose) {
        (true, _) => Verbosity::Quiet,
        (false, true) => Verbosity::Verbose,
        (false, false) => Verbosity::Normal,
    });
    let done =
        stop::catch_signals().and_then(|()| commands::execute(arguments)).and_then(|code| match output_failure() {
            Some(error) => Err(anyhow::anyhow!("standard output: cannot write: {error}")),
            None => Ok(code),
        });
    match done {
        Ok(code) => code,
        Err(error) => {
            if let Some(stopped) = error.chain().find_map(|cause| cause.downcast_ref::<stop::Stopped>()) {
                warn(&stopped.to_string());
                return ExitCode::from(stop::STOPPED);
            }
            warn(&format!("error: {}", one_line(&error)));
            ExitCode::from(if error.is::<UsageError>() { 2 } else { 1 })
        }
    }
}

/// An error and its causes on one line. Some libraries' messages repeat their cause or have several lines.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let cause = cause.to_string().lines().map(str::trim).collect::<Vec<_>>().join("; ");
        if line.is_empty() {
            line = cause;
        } else if !line.ends_with(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}
