//! Runs by processes of this program, some at a time.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use sensei_files::bounded::read_bounded;

use crate::arguments::Machine;
use crate::config::Override;
use crate::progress::note;
use crate::stop;
use crate::usage;

/// A run that is to be made.
pub struct Trial {
    /// The configuration.
    pub config: PathBuf,
    /// What it changes.
    pub overrides: Vec<Override>,
    /// Name of the run's folder.
    pub name: String,
}

/// Where trials run, and by what.
pub struct Trials {
    program: PathBuf,
    runs: PathBuf,
    logs: PathBuf,
    machine: Machine,
    jobs: usize,
}

/// A trial that is running.
struct Running {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Trials {
    /// Trials below `runs`, whose output goes to `logs/` in `folder`.
    ///
    /// # Errors
    /// If the folder cannot be made, or this program's own file is not known.
    pub fn new(runs: &Path, folder: &Path, machine: &Machine, jobs: usize) -> anyhow::Result<Self> {
        let logs = folder.join("logs");
        std::fs::create_dir_all(&logs).with_context(|| format!("{}: cannot make the folder", logs.display()))?;
        let program = std::env::current_exe().context("cannot find this program's file")?;
        Ok(Self { program, runs: runs.into(), logs, machine: machine.clone(), jobs: jobs.max(1) })
    }

    /// Runs all, as many at a time as there are jobs; why those that failed did, by name.
    ///
    /// # Errors
    /// If the program was asked to stop: the trials then stop where they can go on. If a process cannot be started, an earlier search's still
    /// runs, or one was ended from outside: that says nothing of its candidate. If one refuses its command line.
    pub fn run(&self, trials: Vec<Trial>) -> anyhow::Result<BTreeMap<String, String>> {
        let n_trials = trials.len();
        let mut waiting = VecDeque::from(trials);
        let (mut running, mut failed, mut n_done) = (vec![], BTreeMap::new(), 0);
        // Whether no more trials are begun, and why if nobody asked for it.
        let (mut asked, mut trouble) = (false, None);
        while !running.is_empty() || (!waiting.is_empty() && !asked) {
            if stop::is_asked() && !asked {
                asked = true;
                running.iter_mut().for_each(ask_to_stop);
            }
            while running.len() < self.jobs && !asked {
                let Some(trial) = waiting.pop_front() else { break };
                match self.start(trial) {
                    Ok(started) => running.push(started),
                    Err(error) => {
                        // Nobody is left behind.
                        asked = true;
                        running.iter_mut().for_each(ask_to_stop);
                        trouble = Some(error);
                    }
                }
            }
            let mut still = vec![];
            for mut trial in running {
                let Some(status) = trial.child.try_wait().with_context(|| trial.name.clone())? else {
                    still.push(trial);
                    continue;
                };
                n_done += 1;
                let code = status.code();
                match code {
                    Some(0) => note(&format!("{n_done} of {n_trials}: {}", trial.name)),
                    _ if asked => {}
                    Some(1) => {
                        let why = last_line(&trial.log);
                        note(&format!("{n_done} of {n_trials}: {}: failed: {why}", trial.name));
                        failed.insert(trial.name, why);
                    }
                    _ => {
                        let why = last_line(&trial.log);
                        let found = format!("found one with {status}: {why}");
                        let error = anyhow::anyhow!("{}: expected a training that ends by itself, {found}", trial.name);
                        // A command line that a training refuses is the search's: a device that is not there.
                        trouble = Some(if code == Some(2) { usage(error) } else { error });
                    }
                }
            }
            running = still;
            if trouble.is_some() && !asked {
                asked = true;
                running.iter_mut().for_each(ask_to_stop);
            }
            std::thread::sleep(POLL);
        }
        stop::check_command("searching; the same command goes on")?;
        trouble.map_or(Ok(failed), Err)
    }

    fn start(&self, trial: Trial) -> anyhow::Result<Running> {
        let log = self.logs.join(format!("{}.txt", trial.name));
        let file = File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("{}: cannot write", log.display()))?;
        // Its process inherits the lock with the file, and holds it when the search has been killed.
        if file.try_lock().is_err() {
            bail!("{}: a training that an earlier search began still runs: wait for it, or stop it", trial.name);
        }
        let mut command = Command::new(&self.program);
        command.arg("run").arg(&trial.config).arg("--runs").arg(&self.runs).arg(format!("--name={}", trial.name));
        for Override { key, value } in &trial.overrides {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        let devices: Vec<String> = self.machine.device.iter().map(ToString::to_string).collect();
        command.args(["--device", &devices.join(","), "--threads", &self.threads().to_string()]);
        if self.runs.join(&trial.name).exists() {
            command.arg("--resume");
        }
        // A terminal's Ctrl-C is for the search, which then asks its trials once.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let errors = file.try_clone().with_context(|| format!("{}: cannot write", log.display()))?;
        let child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
        let child = child.with_context(|| format!("{}: cannot start", self.program.display()))?;
        Ok(Running { name: trial.name, child, log })
    }

    /// Of one trial.
    fn threads(&self) -> usize {
        match self.machine.threads {
            0 => std::thread::available_parallelism().map_or(1, |cores| (cores.get() / self.jobs).max(1)),
            threads => threads,
        }
    }
}

/// Asks a run to stop at its next sound point; where the system has no such signal it is ended, and resumes from its last checkpoint.
fn ask_to_stop(trial: &mut Running) {
    #[cfg(not(unix))]
    let _ = trial.child.kill();
    #[cfg(unix)]
    if let Some(pid) = i32::try_from(trial.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        // One that has just ended needs no signal.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

/// What a failed run said last.
fn last_line(log: &Path) -> String {
    let bytes = read_bounded(log, MAX_LOG_BYTES).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    line.trim_start_matches("error: ").to_string()
}

/// How often processes are looked after.
const POLL: Duration = Duration::from_millis(100);

/// Of a run's output.
const MAX_LOG_BYTES: u64 = 64 << 20;
