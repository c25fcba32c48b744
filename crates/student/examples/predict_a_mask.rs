//! Makes a PicoSAM2, writes its weights as PyTorch names them, reads them back and asks it for a mask.
//!
//! The weights are random, so the mask means nothing; trained ones come the same way, also from a PyTorch checkpoint.
//! `cargo run --release --example predict_a_mask`

#![expect(clippy::print_stdout, reason = "a program")]

use sensei_student::inference::InferenceStudent;
use sensei_student::init::initial_weights;
use sensei_student::unet::UnetConfig;
use sensei_student::weights::{read_weights, write_weights};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let graph = UnetConfig::picosam2().graph()?;
    println!("PicoSAM2: {} parameters, {} multiply-accumulates a crop", graph.parameters(), graph.macs());

    let folder = tempfile::tempdir()?;
    let path = folder.path().join("picosam2.safetensors");
    let weights = initial_weights(&graph, 1);
    write_weights(&path, &weights, &[("sensei.graph".into(), graph.digest())].into())?;
    let read = read_weights(&path)?.for_graph(&graph)?;
    println!("{} tensors, read back bit for bit: {}", read.len(), read == weights);

    // Weights of one network are refused by another, with the first tensor that does not fit.
    let other = UnetConfig { bottleneck_channels: 64, ..UnetConfig::picosam2() }.graph()?;
    println!("taken by a narrower network: {}", read_weights(&path)?.for_graph(&other).is_ok());

    // One grey crop, as the sensor delivers it: (pixel - 128) / 128.
    let student = InferenceStudent::new(graph, &read)?;
    let logits = student.mask_logits(&vec![0.0; 3 * 96 * 96]);
    println!("{} mask logits, all finite: {}", logits.len(), logits.iter().all(|logit| logit.is_finite()));
    Ok(())
}
