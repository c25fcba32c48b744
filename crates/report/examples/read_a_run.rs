//! Reads the layer report of a run and makes its page, as `sensei report` does.
//!
//! `cargo run --release --example read_a_run`

#![expect(clippy::print_stdout, reason = "a program")]

use sensei_files::whole::write_whole;
use sensei_report::layers::{LayerRow, read_rows, write_rows};
use sensei_report::page::page;
use sensei_report::run_folder::RunFolder;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A run that has been quantized and not scored: whatever is there is shown.
    let folder = tempfile::tempdir()?;
    let run = RunFolder::at(folder.path().join("example"));
    std::fs::create_dir_all(run.root())?;
    write_whole(&run.plan_toml(), b"seed = 1\n")?;
    write_rows(&run.layers(), &[row("down1", 31.5), row("head", 18.0)])?;

    for layer in read_rows(&run.layers())? {
        let sqnr = layer.sqnr_db.unwrap_or(f64::INFINITY);
        let verdict = if sqnr < 20.0 { "look here" } else { "fine" };
        println!("{:<6} {} bits, {sqnr} dB: {verdict}", layer.name, layer.bits);
    }

    let html = page(&run, &[("student".into(), "an example".into())])?;
    write_whole(&run.report(), html.as_bytes())?;
    let headings = html.split("<h2 id=").skip(1).filter_map(|part| part.split_once('>')?.1.split("</h2>").next());
    println!("sections of the page: {}", headings.collect::<Vec<_>>().join("; "));
    Ok(())
}

fn row(name: &str, sqnr_db: f64) -> LayerRow {
    LayerRow {
        name: name.into(),
        weight_bits: Some(8),
        bits: 8,
        signed: true,
        threshold: 4.0,
        calibration_min: -3.0,
        calibration_max: 3.5,
        sqnr_db: Some(sqnr_db),
        max_abs_diff: 0.02,
        saturated_share: 0.0,
        integer_mismatches: 0,
        max_integer_mismatch_steps: 0,
        values: 1024,
        float_values: None,
        weight_counts: None,
    }
}
