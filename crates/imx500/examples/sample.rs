//! `sample FOLDER [NAME]`: writes a network of `tests/sample` with random weights as ONNX and int8
//! model, its input pixels, and prints its memory estimate. Input of the golden case's `make.py`.
//! `sample FOLDER NAME REPEATS`: the time of the interpreter on what that wrote, from pixels to integers, on as many
//! threads as `RAYON_NUM_THREADS` says.
#![expect(clippy::disallowed_methods, reason = "a program")]
#![allow(clippy::print_stdout, reason = "a tool for developers")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use sensei_imx500::memory::{NetworkShape, memory_estimate};
use sensei_imx500::onnx;
use sensei_int8::interpreter::Interpreter;
use sensei_int8::model_file;

#[path = "../tests/sample/mod.rs"]
mod sample;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().ok_or("usage: sample FOLDER [NAME [REPEATS]]")?);
    let name = args.next().unwrap_or_else(|| sample::PICOSAM2.name.into());
    let Some(sample) = sample::ALL.iter().find(|sample| sample.name == name) else {
        return Err(format!("{name}: expected {}", sample::ALL.map(|sample| sample.name).join(", ")).into());
    };
    if let Some(repeats) = args.next() {
        return time(&folder, sample.name, repeats.parse()?);
    }
    let model = sample.model();
    std::fs::write(folder.join(format!("{}.onnx", sample.name)), onnx::write_onnx(&model, &BTreeMap::new()))?;
    std::fs::write(folder.join(format!("{}.pixels", sample.name)), sample.pixels())?;
    model_file::write_model(&folder.join(format!("{}.s8m", sample.name)), &model)?;
    println!("{}: {:?}", sample.name, memory_estimate(&NetworkShape::from(&model)));
    Ok(())
}

fn time(folder: &Path, name: &str, repeats: usize) -> Result<(), Box<dyn std::error::Error>> {
    let model = model_file::read_model(&folder.join(format!("{name}.s8m")))?;
    let pixels = std::fs::read(folder.join(format!("{name}.pixels")))?;
    let interpreter = Interpreter::new(&model);
    let mut times: Vec<f64> = vec![];
    let mut sum = 0.0;
    for _ in 0..repeats + 2 {
        let start = Instant::now();
        let output = interpreter.run(&interpreter.from_pixels(&pixels)?)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        let logits = output.dequantize();
        sum = logits.iter().map(|logit| f64::from(logit.abs())).sum::<f64>() / logits.len() as f64;
    }
    let mut times = times.split_off(2);
    times.sort_by(f64::total_cmp);
    println!("median_ms {:.3} min_ms {:.3} mean_abs_logit {sum:.6}", times[repeats / 2], times[0]);
    Ok(())
}
