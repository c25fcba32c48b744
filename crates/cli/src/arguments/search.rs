//! The command line of `search`.

use std::path::PathBuf;

use clap::Args;

use super::Machine;

/// What is searched, and by what.
#[derive(Debug, Args)]
pub struct SearchArguments {
    /// The search: a configuration, values of its keys, limits and rounds, see configs/searches
    pub file: PathBuf,
    /// Folder of all runs; the search's own folder in it is search-NAME
    #[arg(long, default_value = "runs")]
    pub runs: PathBuf,
    /// Say what would be tried and what each costs; train nothing
    #[arg(long)]
    pub plan: bool,
    /// The rounds as JSON; what is done goes to standard error
    #[arg(long)]
    pub json: bool,
    /// Trainings at a time; each has its share of the threads, and results are the same bits for the same number of threads of each
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: u16,
    #[command(flatten)]
    pub machine: Machine,
}

/// At the end of `--help`.
pub const EXAMPLES: &str = "\
Examples:
  sensei search configs/searches/equal-cost.toml --plan
  sensei search MY-SEARCH.toml --jobs 2
  sensei search MY-SEARCH.toml --jobs 2          again: goes on after Ctrl-C, a kill or a power cut";
