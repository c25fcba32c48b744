//! `gate`: whether a run is as good as another.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use sensei_eval::metric::{Group, Metric};
use sensei_eval::report::EvalReport;

use crate::progress::say;
use crate::usage;

/// Compares the mean IoU in the crop on the same instances: pass (0) if the drop is smaller than `max_drop_points` with
/// 95 % confidence, fail (1) if it is larger with 95 % confidence, cannot tell (3) otherwise.
pub fn gate(baseline: &Path, candidate: &Path, predictor: &str, max_drop_points: f64) -> anyhow::Result<ExitCode> {
    let (baseline, candidate) = (read(baseline)?, read(candidate)?);
    let difference = baseline.difference_to(predictor, &candidate, predictor).map_err(usage)?;
    let estimate = difference.groups.get(&Group::All).and_then(|all| all.estimates.get(&Metric::MeanIouInCrop));
    let estimate = estimate.context("the reports have no mean IoU in the crop")?;
    let interval = estimate.interval.context("expected at least two images for an interval")?;
    let (low, high) = (100.0 * interval.low, 100.0 * interval.high);
    let (verdict, code) = if low >= -max_drop_points {
        ("pass", 0)
    } else if high < -max_drop_points {
        ("fail", 1)
    } else {
        ("cannot tell", 3)
    };
    say(&format!(
        "{verdict}: {predictor}: candidate - baseline = {:+.2} points of mean IoU in the crop, 95 % interval {low:+.2} to \
         {high:+.2}, accepted drop {max_drop_points:.2} (protocol {})",
        100.0 * estimate.value,
        baseline.protocol.short_hash()
    ));
    Ok(ExitCode::from(code))
}

fn read(path: &Path) -> anyhow::Result<EvalReport> {
    let file: PathBuf = if path.is_dir() { path.join("eval/report.json") } else { path.to_path_buf() };
    // Exit code 1 is for runs that are worse, not for reports that are not there.
    EvalReport::read(&file).map_err(usage)
}
