//! `check FILE.onnx OUT [--full]`: runs the vendor's converter on a file of the dialect and prints its memory report
//! against our estimate; with `--full` makes `packerOut.zip` too. `imxconv-pt` is looked for on PATH.
#![expect(clippy::disallowed_methods, reason = "a program")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool for developers")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use sensei_imx500::converter::{ConvertOptions, Converter};
use sensei_imx500::memory::{NetworkShape, memory_estimate};
use sensei_imx500::onnx::read_onnx;

fn main() -> ExitCode {
    match check() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [onnx, out, rest @ ..] = args.as_slice() else { return Err("usage: check FILE.onnx OUT [--full]".into()) };
    let (onnx, out) = (PathBuf::from(onnx), PathBuf::from(out));
    let memory_report_only = rest.first().is_none_or(|arg| arg != "--full");
    let file = read_onnx(&onnx)?;
    let estimate = memory_estimate(&NetworkShape::from(&file.model));

    let converter = Converter::find(None, &std::env::var_os("PATH").unwrap_or_default())?;
    let options = ConvertOptions { time_limit: Duration::from_secs(3600), memory_report_only };
    let conversion = converter.convert(&onnx, &out, &options, &|| false)?;
    let report = conversion.memory;

    println!("{}: accepted in {:.0} s", onnx.display(), conversion.duration.as_secs_f64());
    println!("{:<14}{:>12}{:>12}{:>9}", "bytes", "converter", "estimate", "off");
    for (what, report, estimate) in [
        ("coefficients", report.coefficients, estimate.coefficients),
        ("runtime", report.runtime, estimate.runtime),
        ("total", report.total(), estimate.total()),
    ] {
        let off = 100.0 * (estimate as f64 - report as f64) / report as f64;
        println!("{what:<14}{report:>12}{estimate:>12}{off:>+8.2}%");
    }
    println!("{:<14}{:>12}  {:.0} % used", "limit", report.limit, 100.0 * report.total() as f64 / report.limit as f64);
    if let Some(packer_out) = conversion.packer_out {
        println!("package       {}", packer_out.display());
    }
    Ok(())
}
