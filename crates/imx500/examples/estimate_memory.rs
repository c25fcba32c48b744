//! How much of the chip's memory a network will take, before it is trained: with 8-bit and with 4-bit weights.
//!
//! `cargo run --release --example estimate_memory`

#![expect(clippy::print_stdout, reason = "a program")]

use sensei_graph::layer_graph::{Conv, GraphBuilder, LayerGraph};
use sensei_graph::op::Activation;
use sensei_imx500::memory::{NetworkShape, memory_estimate};

fn main() {
    let graph = encoder(&[32, 64, 128, 256]);
    for bits in [8, 4] {
        // The chip has 4-bit weights in stride-2 convolutions only.
        let weight_bits = |conv: &str| if conv.starts_with("down") { bits } else { 8 };
        let estimate = memory_estimate(&NetworkShape::of_graph(&graph, weight_bits, 8));
        println!(
            "down-convolutions of {bits} bits: coefficients {}, tensors {}, in total {} of {} bytes: {}",
            estimate.coefficients,
            estimate.runtime,
            estimate.total(),
            estimate.limit,
            if estimate.fits() { "fits" } else { "does not fit" }
        );
    }
}

/// Stages of depthwise and pointwise convolution, each ending in one of stride 2.
fn encoder(widths: &[usize]) -> LayerGraph {
    let mut g = GraphBuilder::new(3, 96);
    let (mut x, mut channels) = (0, 3);
    for (stage, &width) in widths.iter().enumerate() {
        let name = |part: &str| format!("{part}{stage}");
        x = g.conv(
            &name("depthwise"),
            x,
            Conv::new(channels, channels, 3).depthwise().norm(&name("norm_a"), Activation::Relu),
        );
        x = g.conv(&name("pointwise"), x, Conv::new(channels, width, 1).norm(&name("norm_b"), Activation::Relu));
        x = g.conv(&name("down"), x, Conv::new(width, width, 3).stride(2).with_bias());
        channels = width;
    }
    g.conv("head", x, Conv::new(channels, 1, 1).with_bias());
    g.finish()
}
