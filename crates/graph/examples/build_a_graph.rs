//! Describes a network of one encoder stage and one decoder stage, and prints what follows from the description alone.
//!
//! `cargo run --release --example build_a_graph`

#![expect(clippy::print_stdout, reason = "a program")]

use sensei_graph::layer_graph::{Conv, GraphBuilder};
use sensei_graph::op::{Activation, Upsampling};
use sensei_graph::steps::{StepKind, block_steps};
use sensei_graph::summary::summary;

fn main() {
    let mut g = GraphBuilder::new(3, 32);
    let depthwise =
        g.conv("encoder.depthwise", 0, Conv::new(3, 3, 3).depthwise().norm("encoder.norm1", Activation::Relu));
    let encoder = g.conv("encoder.pointwise", depthwise, Conv::new(3, 8, 1).norm("encoder.norm2", Activation::Relu));
    let down = g.conv("down", encoder, Conv::new(8, 8, 3).stride(2).with_bias());
    let up = g.upsample_2x("up", down, Upsampling::Nearest);
    let sum = g.add("skip", up, encoder);
    g.conv("head", sum, Conv::new(8, 1, 1).with_bias());
    let graph = g.finish();

    print!("{}", summary(&graph));
    println!("first tensors: {:?}", graph.tensors().iter().take(3).map(|tensor| &tensor.name).collect::<Vec<_>>());
    // Where a device has our kernels, depthwise, norm, ReLU, pointwise, norm and ReLU are computed as one.
    let steps = block_steps(&graph, &[]);
    let n_blocks = steps.iter().filter(|step| matches!(step.kind, StepKind::Block { .. })).count();
    println!("{} nodes are computed in {} steps, {n_blocks} of them blocks", graph.nodes().len(), steps.len());
}
