//! A network as a text table.

use std::fmt::Write;

use crate::graph::{LayerGraph, Op};

/// One line per node: name, operator, output shape, trained values, multiply-accumulates; then the sums.
pub fn summary(graph: &LayerGraph) -> String {
    let mut rows = vec![["node", "operator", "output", "parameters", "MACs"].map(String::from)];
    for node in graph.nodes() {
        let [channels, height, width] = node.shape;
        let output = format!("{channels}x{height}x{width}");
        rows.push([
            node.name.clone(),
            operator(&node.op),
            output,
            thousands(node.parameters() as u64),
            thousands(node.macs()),
        ]);
    }
    let parameters = thousands(graph.parameters() as u64);
    rows.push(["total".into(), String::new(), String::new(), parameters, thousands(graph.macs())]);

    let widths: [usize; 5] = std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    let mut table = String::new();
    for [name, operator, output, parameters, macs] in rows {
        let line = format!(
            "{name:<a$}  {operator:<b$}  {output:<c$}  {parameters:>d$}  {macs:>e$}",
            a = widths[0],
            b = widths[1],
            c = widths[2],
            d = widths[3],
            e = widths[4],
        );
        writeln!(table, "{}", line.trim_end()).expect("a string takes any text");
    }
    table
}

fn operator(op: &Op) -> String {
    match op {
        Op::Input => "input".into(),
        Op::UpsampleNearest2x => "upsample nearest x2".into(),
        Op::UpsampleBilinear2x => "upsample bilinear x2".into(),
        Op::Add => "add".into(),
        Op::GlobalAveragePool => "global average pool".into(),
        Op::Sigmoid => "sigmoid".into(),
        Op::ScaleChannels => "scale channels".into(),
        Op::Conv(conv) => {
            let kind = if conv.groups > 1 { "depthwise" } else { "conv" };
            let mut text = format!("{kind} {k}x{k}", k = conv.kernel);
            for (shown, part) in [
                (conv.stride > 1, format!(" stride {}", conv.stride)),
                (conv.dilation > 1, format!(" dilation {}", conv.dilation)),
                (conv.bias, " + bias".into()),
                (conv.batch_norm.is_some(), " + BN".into()),
                (conv.relu, " + ReLU".into()),
            ] {
                text.push_str(if shown { &part } else { "" });
            }
            text
        }
    }
}

/// Decimal digits in groups of three.
fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut grouped = String::new();
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unet::UnetConfig;

    #[test]
    fn the_table_has_a_line_per_node_and_the_sums() {
        let graph = UnetConfig::picosam3().graph().expect("a valid setting");
        let table = summary(&graph);
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split("  ").map(str::trim).collect()).collect();
        assert_eq!(lines.len(), graph.nodes().len() + 2);
        let row = |name: &str| {
            let line = lines.iter().find(|line| line[0] == name).expect("a line of that name");
            line.iter().filter(|cell| !cell.is_empty()).skip(1).copied().collect::<Vec<_>>()
        };
        assert_eq!(row("down1"), ["conv 3x3 stride 2", "48x48x48", "20,736", "47,775,744"]);
        assert_eq!(row("bottleneck.1"), ["depthwise 3x3 dilation 2 + BN + ReLU", "320x6x6", "3,520", "103,680"]);
        assert_eq!(row("skip_conn1"), ["conv 1x1 + bias", "40x96x96", "1,960", "17,694,720"]);
        assert_eq!(row("total"), ["1,371,418", "330,162,496"]);
    }
}
