//! Writes a small network as ONNX and says what is in the file.

#![expect(clippy::print_stdout, reason = "a program")]

use std::collections::BTreeMap;

use prost::Message;
use sensei_graph::layer_graph::{Conv, GraphBuilder};
use sensei_graph::op::{Activation, Upsampling};
use sensei_onnx::builder::{Ends, NamedValues};
use sensei_onnx::encoder::{BatchNorms, float_network};
use sensei_onnx::proto::Model;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut g = GraphBuilder::new(3, 8);
    let conv = g.conv("conv", 0, Conv::new(3, 4, 3).stride(2).norm("norm", Activation::Relu6));
    g.upsample_2x("up", conv, Upsampling::Nearest);
    let graph = g.finish();
    let tensors: NamedValues = graph
        .tensors()
        .into_iter()
        .map(|spec| {
            let n_values = spec.shape.iter().product();
            (spec.name, (spec.shape, vec![0.5; n_values]))
        })
        .collect();
    let ends = Ends { input: "input", output: "output" };
    let norms = BatchNorms::Separate { epsilon: 1e-5 };
    let bytes = float_network("small", &graph, &tensors, norms, ends, &BTreeMap::new())?;
    let model = Model::decode(bytes.as_slice())?;
    let graph = model.graph.unwrap_or_default();
    let operators: Vec<String> = graph.node.into_iter().filter_map(|node| node.op_type).collect();
    println!("{} bytes: {}", bytes.len(), operators.join(", "));
    Ok(())
}
