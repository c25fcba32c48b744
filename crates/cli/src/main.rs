//! From a config file to a deployment package: the `sensei` command.
//!
//! Only this crate reads configurations, prints, asks the clock and touches the environment. It does no mathematics.

mod arguments;
mod commands;
mod config;
mod html;
mod phases;
mod progress;
mod run_folder;

use std::process::ExitCode;

use clap::Parser;

use arguments::Arguments;

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

#[expect(clippy::print_stderr, reason = "the one place where errors are reported")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match commands::execute(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<UsageError>() { 2 } else { 1 })
        }
    }
}
