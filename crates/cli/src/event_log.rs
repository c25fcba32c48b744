//! `events.jsonl`: one line for each event, also after a kill and a resume.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use sensei_files::whole::write_whole;
use serde::Deserialize;

use crate::progress::warn;

/// An open log.
pub struct EventLog {
    path: PathBuf,
    file: File,
}

/// What every event has, and what the first one has besides.
#[derive(Deserialize)]
struct Line {
    event: String,
    step: u64,
    threads: Option<usize>,
}

impl EventLog {
    /// Opens a log to append to. A last line that a kill cut off is removed.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        if path.exists() {
            let bytes = fs::read(path).with_context(|| format!("{shown}: cannot read"))?;
            let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
            if whole < bytes.len() {
                warn(&format!("{shown}: its last line was cut off, and is removed"));
                write_whole(path, &bytes[..whole])?;
            }
        }
        let file = append_to(path).with_context(|| format!("{shown}: cannot open for writing"))?;
        Ok(Self { path: path.into(), file })
    }

    /// Appends a line, in one write: a kill leaves all of it or none.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&mut self, line: &str) -> io::Result<()> {
        self.file.write_all(format!("{line}\n").as_bytes())
    }

    /// The number of threads that the last run before this one in the log had, if there was one.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn last_threads(&self) -> io::Result<Option<usize>> {
        let text = fs::read_to_string(&self.path)?;
        Ok(text.lines().rev().find_map(|line| serde_json::from_str::<Line>(line).ok()?.threads))
    }

    /// Drops the events of steps after this one, and how an earlier run ended there: training goes on from here, and its curves must
    /// not run backwards. Returns how many.
    ///
    /// # Errors
    /// If the log cannot be read or written.
    pub fn forget_after(&mut self, step: u64) -> io::Result<usize> {
        let text = fs::read_to_string(&self.path)?;
        let stays = |line: &&str| match serde_json::from_str::<Line>(line) {
            Ok(Line { event, step: of, .. }) => of < step || (of == step && event != "ended"),
            // A reader counts what is none of ours.
            Err(_) => true,
        };
        let kept: Vec<&str> = text.lines().filter(stays).collect();
        let n_dropped = text.lines().count() - kept.len();
        if n_dropped > 0 {
            let kept: String = kept.iter().flat_map(|line| [line, "\n"]).collect();
            write_whole(&self.path, kept.as_bytes()).map_err(io::Error::other)?;
            self.file = append_to(&self.path)?;
        }
        Ok(n_dropped)
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make the files they read")]
mod tests {
    use super::*;

    const WHOLE: &str =
        "{\"event\":\"step\",\"step\":1}\n{\"event\":\"step\",\"step\":2}\n{\"event\":\"ended\",\"step\":2}\n";

    #[test]
    fn a_cut_line_is_removed_and_the_rest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        for n_cut in 0..20 {
            fs::write(&path, format!("{WHOLE}{}", &"{\"event\":\"step\",\"st"[..n_cut])).unwrap();
            let mut log = EventLog::open(&path).unwrap();
            log.append("{}").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{WHOLE}{{}}\n"), "{n_cut} bytes");
        }
    }

    #[test]
    fn what_will_happen_again_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.jsonl");
        for (step, n_dropped, n_kept) in [(0, 3, 0), (1, 2, 1), (2, 1, 2), (3, 0, 3)] {
            fs::write(&path, WHOLE).unwrap();
            let mut log = EventLog::open(&path).unwrap();
            assert_eq!(log.forget_after(step).unwrap(), n_dropped);
            log.append("{}").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), n_kept + 1);
        }
    }
}
