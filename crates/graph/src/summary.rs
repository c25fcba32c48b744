//! A network as a text table.

use std::fmt::Write;

use crate::layer_graph::{LayerGraph, Op};
use crate::op::{Activation, Upsampling};

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
        Op::Upsample2x(Upsampling::Nearest) => "upsample nearest x2".into(),
        Op::Upsample2x(Upsampling::Bilinear) => "upsample bilinear x2".into(),
        Op::Add => "add".into(),
        Op::GlobalAveragePool => "global average pool".into(),
        Op::Sigmoid => "sigmoid".into(),
        Op::ScaleChannels => "scale channels".into(),
        Op::Conv(conv) => {
            let kind = if conv.shape.groups > 1 { "depthwise" } else { "conv" };
            let mut text = format!("{kind} {k}x{k}", k = conv.shape.kernel);
            for (shown, part) in [
                (conv.shape.stride > 1, format!(" stride {}", conv.shape.stride)),
                (conv.shape.dilation > 1, format!(" dilation {}", conv.shape.dilation)),
                (conv.bias, " + bias".into()),
                (conv.batch_norm.is_some(), " + BN".into()),
                (conv.activation != Activation::None, format!(" + {}", conv.activation.name())),
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
