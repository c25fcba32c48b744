//! Writes an `.s8m` as the ONNX file that stock runtimes open, such as that of a package whose run is elsewhere.
//!
//! `cargo run --release --example write_an_s8m_as_onnx -- models/sensei-box/sensei-box.s8m sensei-box.onnx`

#![expect(clippy::print_stdout, reason = "a program")]
#![expect(clippy::disallowed_methods, reason = "a program reads its command line, and writes its file at once")]

use std::collections::BTreeMap;
use std::path::Path;

use sensei_int8::model_file::read_model;
use sensei_onnx::builder::Ends;
use sensei_onnx::quantized::quantized_network;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [s8m, onnx] = arguments.as_slice() else { return Err("usage: write_an_s8m_as_onnx S8M ONNX".into()) };
    let model = read_model(Path::new(s8m))?;
    let bytes = quantized_network(&model, Ends { input: "image", output: "logits" }, &BTreeMap::new());
    std::fs::write(onnx, &bytes)?;
    println!("{onnx}: {} bytes, {} nodes of {}", bytes.len(), model.nodes().len(), model.name());
    Ok(())
}
