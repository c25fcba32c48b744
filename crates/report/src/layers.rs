//! `layers.json`: a quantized network node by node, for programs and for people.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use sensei_files::error::FileError;
use sensei_files::whole::write_whole;
use serde::{Deserialize, Serialize};

use crate::error::ReportPageError;

/// One node, as `layers.json` has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerRow {
    /// Its name.
    pub name: String,
    /// Bits of its weights, if it has any.
    pub weight_bits: Option<u8>,
    /// Bits of its values.
    pub bits: u8,
    /// Whether they have a sign.
    pub signed: bool,
    /// Where its grid ends.
    pub threshold: f64,
    /// Smallest float value over the calibration images.
    pub calibration_min: f32,
    /// Largest float value over the calibration images.
    pub calibration_max: f32,
    /// Float values' power over that of their difference to the fake-quant ones; `null` if there is none.
    pub sqnr_db: Option<f64>,
    /// Largest absolute difference of float and fake-quant values.
    pub max_abs_diff: f64,
    /// Share of the compared values that the grid cuts off.
    pub saturated_share: f64,
    /// Integers that differ from the fake-quant ones when the node reads the same inputs.
    pub integer_mismatches: u64,
    /// The largest of those differences, in steps.
    pub max_integer_mismatch_steps: u32,
    /// Values compared.
    pub values: u64,
    /// Float values other than 0 over the calibration images.
    pub float_values: Option<Distribution>,
    /// How often each weight occurs among the integers, from the smallest of `weight_bits` on.
    pub weight_counts: Option<Vec<u64>>,
}

/// Counts of values in equal bins.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    /// The bins span `[-range, range)`.
    pub range: f64,
    /// Values in each.
    pub counts: Vec<u64>,
}

/// Writes rows, one a line.
///
/// # Errors
/// If the file cannot be written.
pub fn write_rows(path: &Path, rows: &[LayerRow]) -> Result<(), ReportPageError> {
    let lines = rows.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>();
    let lines = lines.map_err(ReportPageError::not(path, "a layer report"))?;
    Ok(write_whole(path, format!("[\n{}\n]\n", lines.join(",\n")).as_bytes())?)
}

/// Reads rows.
///
/// # Errors
/// If the file cannot be read or is something else.
pub fn read_rows(path: &Path) -> Result<Vec<LayerRow>, ReportPageError> {
    let text = fs::read_to_string(path).map_err(FileError::io(path, "read"))?;
    serde_json::from_str(&text).map_err(ReportPageError::not(path, "a layer report"))
}

/// What training on the grid changed, one line per node.
pub fn before_and_after(before: &[LayerRow], after: &[LayerRow]) -> String {
    let mut table = format!(
        "{:<20} {:>10} {:>10} {:>8} {:>8} {:>10} {:>10}\n{:<20} {:>10} {:>10} {:>8} {:>8} {:>10} {:>10}\n",
        "layer, before and",
        "threshold",
        "threshold",
        "SQNR dB",
        "SQNR dB",
        "saturated",
        "saturated",
        "after training on it",
        "before",
        "after",
        "before",
        "after",
        "before",
        "after"
    );
    for (before, after) in before.iter().zip(after) {
        let decibels = |row: &LayerRow| row.sqnr_db.map_or_else(|| "inf".into(), |db| format!("{db:.2}"));
        let _ = writeln!(
            table,
            "{:<20} {:>10} {:>10} {:>8} {:>8} {:>9.3}% {:>9.3}%",
            after.name,
            before.threshold,
            after.threshold,
            decibels(before),
            decibels(after),
            100.0 * before.saturated_share,
            100.0 * after.saturated_share,
        );
    }
    table
}
