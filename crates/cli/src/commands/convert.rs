//! `convert`: whether the vendor's converter takes a network, and what it says of the chip's memory beside our estimate.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use sensei_imx500::converter::{ConvertOptions, Converter};
use sensei_imx500::memory::{NetworkShape, memory_estimate};
use sensei_imx500::onnx::read_onnx;

use crate::arguments::ConvertArguments;
use crate::phases::export::CONVERTER_TIME_LIMIT;
use crate::progress::{say, working};
use crate::{stop, usage};

/// Runs the converter on the network of a run, a package or an ONNX file, and prints its account of memory beside our estimate.
///
/// Without `out` it runs beside the system's temporary files, and nothing is kept but what is printed.
///
/// # Errors
/// If there is no such network or converter, or the converter refuses it.
pub fn convert(arguments: &ConvertArguments) -> anyhow::Result<()> {
    let onnx = onnx_of(&arguments.source)?;
    if arguments.packer_out && arguments.out.is_none() {
        return Err(usage(anyhow!("--packer-out: expected --out, the folder to keep packerOut.zip in; found none")));
    }
    let file = read_onnx(&onnx)?;
    let shape = NetworkShape::from(&file.model);
    let estimate = memory_estimate(&shape);
    let keeps_input = !arguments.no_input_persistency;
    let runtime = estimate.runtime - if keeps_input { 0 } else { shape.kept_input() };

    let converter = Converter::find(arguments.converter.as_deref(), &std::env::var_os("PATH").unwrap_or_default())?;
    let scratch = tempfile::tempdir().context("no folder for temporary files")?;
    let out = arguments.out.clone().unwrap_or_else(|| scratch.path().join("converter"));
    let memory_report_only = !arguments.packer_out;
    let options = ConvertOptions { time_limit: CONVERTER_TIME_LIMIT, memory_report_only, keeps_input };
    let shown = working("converting");
    let conversion = converter.convert(&onnx, &out, &options, &stop::is_asked);
    drop(shown);
    stop::check_command("converting")?;
    if conversion.is_err() {
        // Its log, which the error names.
        let _ = scratch.keep();
    }
    let conversion = conversion?;

    let report = conversion.memory;
    say(&format!("{}: accepted in {:.0} s", onnx.display(), conversion.duration.as_secs_f64()));
    say(&format!("{:<14}{:>12}{:>12}{:>11}", "bytes", "converter", "estimate", "off"));
    for (what, report, estimate) in [
        ("coefficients", report.coefficients, estimate.coefficients),
        ("runtime", report.runtime, runtime),
        ("total", report.total(), estimate.coefficients + runtime + estimate.reserved),
    ] {
        let off = 100.0 * (estimate as f64 - report as f64) / report as f64;
        say(&format!("{what:<14}{report:>12}{estimate:>12} {off:>+9.2}%"));
    }
    let share = 100.0 * report.total() as f64 / report.limit as f64;
    say(&format!("{:<14}{:>12}  {share:.1} % used", "limit", report.limit));
    if let Some(packer_out) = conversion.packer_out {
        say(&format!("packerOut.zip: {}", packer_out.display()));
    }
    Ok(())
}

/// The ONNX file that a path stands for: itself, that of a package, or that of a run's package.
fn onnx_of(source: &Path) -> anyhow::Result<PathBuf> {
    if source.is_file() {
        return Ok(source.into());
    }
    let shown = source.display();
    let package = if source.join("plan.toml").is_file() { source.join("package") } else { source.into() };
    let expected = "expected an ONNX file, a package or a run that has one (sensei export RUN)";
    let Ok(entries) = std::fs::read_dir(&package) else { bail!("{shown}: {expected}, found none") };
    let mut found = vec![];
    for entry in entries {
        let path = entry.with_context(|| format!("{}: cannot list", package.display()))?.path();
        found.extend(path.extension().is_some_and(|extension| extension == "onnx").then_some(path));
    }
    match <[PathBuf; 1]>::try_from(found) {
        Ok([onnx]) => Ok(onnx),
        Err(found) => bail!("{shown}: {expected}, found {} of them", found.len()),
    }
}
