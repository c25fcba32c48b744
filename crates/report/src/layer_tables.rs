//! The quantized layers on a page: a table to sort, and histograms that are drawn when they are opened.

use serde_json::{Value, json};

use crate::charts::short;
use crate::html::{Cell, Table, escape, folded};
use crate::layers::{Distribution, LayerRow};

/// The section of the layers, and what the script draws.
pub(crate) fn layers(layers: &[LayerRow], before: Option<&[LayerRow]>) -> (String, Value) {
    let before_of = |layer: &LayerRow| before.and_then(|before| before.iter().find(|row| row.name == layer.name));
    let histograms: String = layers
        .iter()
        .enumerate()
        .filter(|(_, layer)| layer.float_values.is_some() || layer.weight_counts.is_some())
        .map(|(idx, layer)| {
            format!(
                "<details data-layer=\"{idx}\"><summary>{}: {} to {}, grid to {}</summary></details>\n",
                escape(&layer.name),
                short(f64::from(layer.calibration_min)),
                short(f64::from(layer.calibration_max)),
                short(layer.threshold)
            )
        })
        .collect();
    let mut words = String::from(
        "Counts on a logarithmic axis; values of exactly 0 are not counted. Red lines: the ends of the grid.",
    );
    if before.is_some() {
        words.push_str(" Grey, dashed: before training on the grid.");
    }
    let table = table(layers, before.is_some(), before_of);
    let mut content = table.html();
    if !histograms.is_empty() {
        let inner = format!("<p class=\"note\">{words}</p>\n{histograms}");
        content.push_str(&folded("Histograms of values and weights, layer by layer", &inner));
    }
    let html = format!("<div class=\"layers\">{}{}</div>\n", worst(layers), folded(&summary(layers), &content));
    let drawn: Vec<Value> = layers
        .iter()
        .map(|layer| {
            let before = before_of(layer).map(|before| {
                json!({ "values": before.float_values.as_ref().map(distribution), "threshold": before.threshold })
            });
            json!({
                "name": layer.name, "signed": layer.signed, "threshold": layer.threshold,
                "values": layer.float_values.as_ref().map(distribution), "weights": layer.weight_counts, "before": before,
            })
        })
        .collect();
    (html, Value::from(drawn))
}

fn distribution(Distribution { range, counts }: &Distribution) -> Value {
    json!({ "range": range, "counts": counts })
}

fn summary(layers: &[LayerRow]) -> String {
    format!("All {} layers: bits, grids, and how far integers are from floats", layers.len())
}

/// The layers that quantization costs most, in a sentence.
fn worst(layers: &[LayerRow]) -> String {
    let mut by_sqnr: Vec<(&LayerRow, f64)> = layers.iter().filter_map(|layer| Some((layer, layer.sqnr_db?))).collect();
    by_sqnr.sort_by(|a, b| a.1.total_cmp(&b.1));
    let named: Vec<String> =
        by_sqnr.iter().take(3).map(|(layer, db)| format!("{} ({db:.1} dB)", escape(&layer.name))).collect();
    let n_mismatches: u64 = layers.iter().map(|layer| layer.integer_mismatches).sum();
    let n_values: u64 = layers.iter().map(|layer| layer.values).sum();
    let sqnr = match named.is_empty() {
        true => String::new(),
        false => format!("Lowest signal to quantization noise: {}. ", named.join(", ")),
    };
    format!("<p>{sqnr}Integers that differ from their fake-quantized twins: {n_mismatches} of {n_values}.</p>\n")
}

fn table<'a>(layers: &[LayerRow], has_before: bool, before_of: impl Fn(&LayerRow) -> Option<&'a LayerRow>) -> Table {
    let mut head = vec![
        "layer",
        "bits",
        "weight bits",
        "smallest",
        "largest",
        "grid to",
        "SQNR, dB",
        "cut off",
        "integers that differ",
    ];
    if has_before {
        head.extend(["grid to, before", "SQNR before, dB"]);
    }
    let caption = "Ranges over the calibration images. SQNR: power of the float values over that of their difference to the quantized ones.";
    let mut table = Table::new(caption, &head).sortable();
    let number = |value: f64| Cell::number(value, short(value));
    let decibels =
        |row: &LayerRow| row.sqnr_db.map_or_else(|| Cell::text("exact"), |db| Cell::number(db, format!("{db:.2}")));
    for layer in layers {
        let sign = if layer.signed { "signed" } else { "unsigned" };
        let weight_bits =
            layer.weight_bits.map_or_else(|| Cell::text(""), |bits| Cell::number(f64::from(bits), bits.to_string()));
        let mut cells = vec![
            Cell::text(&layer.name),
            Cell::number(f64::from(layer.bits), format!("{} <small>{sign}</small>", layer.bits)),
            weight_bits,
            number(f64::from(layer.calibration_min)),
            number(f64::from(layer.calibration_max)),
            number(layer.threshold),
            decibels(layer),
            Cell::number(layer.saturated_share, format!("{:.3} %", 100.0 * layer.saturated_share)),
            Cell::number(layer.integer_mismatches as f64, layer.integer_mismatches.to_string()),
        ];
        if has_before {
            let before = before_of(layer);
            cells.push(before.map_or_else(|| Cell::text(""), |before| number(before.threshold)));
            cells.push(before.map_or_else(|| Cell::text(""), decibels));
        }
        table.row("", &cells);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_has_a_row_a_histogram_and_its_state_before() {
        let row = |name: &str, sqnr_db: f64| LayerRow {
            name: name.into(),
            weight_bits: Some(8),
            bits: 8,
            signed: true,
            threshold: 4.0,
            calibration_min: -3.0,
            calibration_max: 3.5,
            sqnr_db: Some(sqnr_db),
            max_abs_diff: 0.02,
            saturated_share: 0.001,
            integer_mismatches: 2,
            max_integer_mismatch_steps: 1,
            values: 1024,
            float_values: Some(Distribution { range: 4.0, counts: vec![1, 2] }),
            weight_counts: None,
        };
        let (now, before) = ([row("a", 30.0), row("</script>", 12.25)], [row("a", 10.0), row("</script>", 11.0)]);
        let (html, drawn) = layers(&now, Some(&before));
        assert!(
            html.contains("Lowest signal to quantization noise: &lt;/script&gt; (12.2 dB), a (30.0 dB). "),
            "{html}"
        );
        assert!(html.contains("differ from their fake-quantized twins: 4 of 2048"));
        assert_eq!((html.matches("<tr>").count(), html.matches("data-layer=").count()), (3, 2));
        assert_eq!(drawn[0]["values"]["counts"], json!([1, 2]));
        assert_eq!(drawn[1]["before"]["threshold"], 4.0);
        let (alone, drawn) = layers(&now, None);
        assert!(!alone.contains("before") && drawn[0]["before"].is_null());
    }
}
