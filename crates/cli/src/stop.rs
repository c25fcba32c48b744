//! Being asked to stop: by Ctrl-C, a terminal that closes, or a supervisor.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::progress::warn;

/// The exit code of a program that was asked to stop, and did so where it can go on.
pub const STOPPED: u8 = 4;

/// The exit code of one that was asked twice.
const KILLED: i32 = 130;

/// Work that ended because the program was asked to stop.
#[derive(Debug, thiserror::Error)]
#[error("stopped while {phase}, as asked{advice}")]
pub struct Stopped {
    phase: &'static str,
    advice: &'static str,
}

static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Catches the signals that ask to stop: the first one is obeyed at the next sound point, the second ends the program at once. A
/// signal that is ignored from the start, as `nohup` ignores SIGHUP, stays ignored.
///
/// # Errors
/// If the signals cannot be caught.
pub fn catch_signals() -> anyhow::Result<()> {
    let asked = ASKED.get_or_init(Arc::default);
    for signal in signals() {
        let catch = || {
            // In this order: the first signal finds the flag unset.
            signal_hook::flag::register_conditional_shutdown(signal, KILLED, asked.clone())?;
            signal_hook::flag::register(signal, asked.clone())
        };
        catch().with_context(|| format!("cannot catch signal {signal}"))?;
    }
    // A signal's handler may not print.
    let asked = asked.clone();
    std::thread::spawn(move || {
        while !asked.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
        }
        warn("stopping at the next sound point; once more to stop at once");
    });
    Ok(())
}

#[cfg(unix)]
fn signals() -> Vec<i32> {
    use signal_hook::consts::SIGHUP;
    [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| !is_ignored(signal)).collect()
}

#[cfg(not(unix))]
fn signals() -> Vec<i32> {
    vec![SIGINT, SIGTERM]
}

/// Whether a signal was ignored when the program started, where the system tells it.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

/// Whether the program was asked to stop.
pub fn is_asked() -> bool {
    ASKED.get().is_some_and(|asked| asked.load(Ordering::Relaxed))
}

/// A sound point of a phase of a run: all that was complete before it is kept, and `--resume` goes on from there.
///
/// # Errors
/// If the program was asked to stop.
pub fn check(phase: &'static str) -> Result<(), Stopped> {
    if is_asked() {
        Err(Stopped {
            phase,
            advice: "; what was complete before stays: give the command again, and `run` with --resume",
        })
    } else {
        Ok(())
    }
}

/// A sound point of a command that is to be given again, with what that does.
///
/// # Errors
/// If the program was asked to stop.
pub fn check_resumable(phase: &'static str, advice: &'static str) -> Result<(), Stopped> {
    if is_asked() { Err(Stopped { phase, advice }) } else { Ok(()) }
}

/// A sound point of a command that starts again from its beginning.
///
/// # Errors
/// If the program was asked to stop.
pub fn check_command(phase: &'static str) -> Result<(), Stopped> {
    if is_asked() { Err(Stopped { phase, advice: "" }) } else { Ok(()) }
}
