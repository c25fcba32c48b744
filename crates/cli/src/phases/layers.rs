//! What `layers.json` says of a quantized network, node by node.

use sensei_int8::model::{IntegerConv, IntegerModel};
use sensei_quant::calibration::Calibration;
use sensei_quant::compare::LayerReport;
use sensei_report::layers::{Distribution, LayerRow};

/// The rows of a quantized network, in the order of its nodes.
pub fn rows(layers: &LayerReport, calibration: &Calibration, model: &IntegerModel) -> Vec<LayerRow> {
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
            weight_counts: node.op.conv().map(weight_counts),
        })
        .collect()
}

fn weight_counts(conv: &IntegerConv) -> Vec<u64> {
    let smallest = -(1_i16 << (conv.weight_bits() - 1));
    let mut counts = vec![0; 1 << conv.weight_bits()];
    conv.weights().iter().for_each(|&weight| counts[usize::from((i16::from(weight) - smallest).unsigned_abs())] += 1);
    counts
}

/// Bins of a distribution: at least a quarter of them are in use.
const N_BINS: usize = 128;
