//! `layers.json` and `layers.txt`: a quantized network node by node, for programs and for people.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Context;
use sensei_imx500::model::{Int8Conv, Int8Model, Int8Op};
use sensei_quant::calibration::Calibration;
use sensei_quant::compare::LayerReport;
use serde::{Deserialize, Serialize};

use crate::run_folder::write_whole;

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

/// The rows of a quantized network, in the order of its nodes.
pub fn rows(layers: &LayerReport, calibration: &Calibration, model: &Int8Model) -> Vec<LayerRow> {
    let nodes = layers.layers.iter().zip(&calibration.nodes).zip(model.nodes());
    nodes
        .map(|((layer, calibrated), node)| LayerRow {
            name: layer.name.clone(),
            weight_bits: layer.weight_bits,
            bits: layer.grid.bits(),
            signed: layer.grid.signed(),
            threshold: layer.grid.threshold(),
            calibration_min: calibrated.seen.min(),
            calibration_max: calibrated.seen.max(),
            sqnr_db: layer.sqnr_db.is_finite().then_some(layer.sqnr_db),
            max_abs_diff: layer.max_abs_diff,
            saturated_share: layer.saturated_share(),
            integer_mismatches: layer.integer_mismatches,
            max_integer_mismatch_steps: layer.max_integer_mismatch,
            values: layer.values,
            float_values: calibrated.seen.merged(N_BINS).map(|(range, counts)| Distribution { range, counts }),
            weight_counts: if let Int8Op::Conv(conv) = &node.op { Some(weight_counts(conv)) } else { None },
        })
        .collect()
}

fn weight_counts(conv: &Int8Conv) -> Vec<u64> {
    let smallest = -(1_i16 << (conv.weight_bits() - 1));
    let mut counts = vec![0; 1 << conv.weight_bits()];
    conv.weights().iter().for_each(|&weight| counts[usize::from((i16::from(weight) - smallest).unsigned_abs())] += 1);
    counts
}

/// Writes rows, one a line.
///
/// # Errors
/// If the file cannot be written.
pub fn write_rows(path: &Path, rows: &[LayerRow]) -> anyhow::Result<()> {
    let lines = rows.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    write_whole(path, format!("[\n{}\n]\n", lines.join(",\n")).as_bytes())
}

/// Reads rows.
///
/// # Errors
/// If the file cannot be read or is something else.
pub fn read_rows(path: &Path) -> anyhow::Result<Vec<LayerRow>> {
    let text = fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{}: not a layer report", path.display()))
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

/// Bins of a distribution: at least a quarter of them are in use.
const N_BINS: usize = 128;
