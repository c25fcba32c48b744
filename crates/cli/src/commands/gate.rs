//! `gate`: whether a run is as good as another. `baseline`: what later runs are compared with.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sensei_eval::gate::{GateReport, Verdict, gate as compare};
use sensei_eval::report::EvalReport;

use crate::progress::say;
use crate::usage;
use sensei_files::whole::write_whole;

/// Files that the verdict goes into, besides the screen.
pub struct GateFiles<'a> {
    /// JUnit's XML.
    pub junit: Option<&'a Path>,
    /// Markdown.
    pub markdown: Option<&'a Path>,
    /// Every number, as JSON.
    pub json: Option<&'a Path>,
}

/// Compares the mean IoU on the same instances: pass (0) if the drop is smaller than `max_drop_points` with
/// 95 % confidence, fail (1) if it is larger with 95 % confidence, cannot tell (3) otherwise.
pub fn gate(
    baseline: &Path,
    candidate: &Path,
    predictor: &str,
    max_drop_points: f64,
    files: &GateFiles,
) -> anyhow::Result<ExitCode> {
    // Exit code 1 is for runs that are worse, not for reports that are not there or cannot be compared.
    let (baseline, candidate) = (read(baseline)?, read(candidate)?);
    let report = compare(&baseline, &candidate, predictor, max_drop_points).map_err(usage)?;
    say(&report.line());
    let GateFiles { junit, markdown, json } = files;
    let write = |file: &Option<&Path>, text: &dyn Fn() -> String| {
        file.map_or(Ok(()), |file| write_whole(file, text().as_bytes())).map_err(usage)
    };
    write(junit, &|| report.junit())?;
    write(markdown, &|| report.markdown())?;
    write(json, &|| serde_json::to_string_pretty(&report).expect("numbers and names are JSON") + "\n")?;
    Ok(ExitCode::from(code(&report)))
}

/// Keeps one row of a run's scores as the standard for later runs, and prints how it differs from what was there.
///
/// # Errors
/// If the run has no such scores, or the file cannot be written.
pub fn baseline(run: &Path, file: &Path, predictor: &str) -> anyhow::Result<()> {
    let mut report = read(run)?;
    report.keep_only(predictor).map_err(usage)?;
    let protocol = format!("{} ({})", report.protocol.name, report.protocol.short_hash());
    if file.exists() {
        match EvalReport::read(file) {
            Ok(before) if before == report => say(&format!("{}: unchanged", file.display())),
            Ok(before) => match compare(&before, &report, predictor, 0.0) {
                Ok(change) => say(&format!("{}: replaced; {}", file.display(), change.difference_line())),
                Err(error) => say(&format!("{}: replaced; not comparable with it: {error}", file.display())),
            },
            Err(error) => {
                // Something else under that name is not ours to replace.
                return Err(usage(anyhow::Error::new(error).context("expected a baseline to replace")));
            }
        }
    } else {
        say(&format!("{}: new", file.display()));
    }
    report.write(file)?;
    let n_instances = report.predictor(predictor)?.scores.instances.len();
    say(&format!("{}: {predictor} on {n_instances} instances, protocol {protocol}", file.display()));
    Ok(())
}

fn code(report: &GateReport) -> u8 {
    match report.verdict {
        Verdict::Pass => 0,
        Verdict::Fail => 1,
        Verdict::CannotTell { .. } => 3,
    }
}

fn read(path: &Path) -> anyhow::Result<EvalReport> {
    // A file, what `--out` of an evaluation named, or a run.
    let in_folder = ["report.json", "eval/report.json"].map(|name| path.join(name));
    let file: PathBuf = match in_folder {
        _ if !path.is_dir() => path.to_path_buf(),
        [here, _] if here.is_file() => here,
        [_, of_run] => of_run,
    };
    if path.is_dir() && !file.is_file() {
        let advice = "`sensei run CONFIG --resume` finishes a run, `sensei eval RUN` scores one that is trained";
        return Err(usage(anyhow::anyhow!("{}: expected scores, found none: {advice}", path.display())));
    }
    EvalReport::read(&file).map_err(usage)
}
