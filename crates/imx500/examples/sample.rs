//! `sample FOLDER [picosam2|picosam3|small2|small3]`: writes a network with random weights as ONNX and int8 model, its
//! input pixels, and prints its memory estimate and the interpreter's time. Input of the golden case's `make.py`.
#![allow(clippy::print_stdout, reason = "a tool for developers")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use sensei_imx500::interpreter::Interpreter;
use sensei_imx500::memory::{NetworkShape, memory_estimate};
use sensei_imx500::{model_file, onnx};

#[path = "../tests/sample/mod.rs"]
mod sample;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let folder = PathBuf::from(args.next().ok_or("usage: sample FOLDER [picosam2|picosam3|small2|small3]")?);
    let sample = match args.next().as_deref() {
        None | Some("picosam2") => sample::PICOSAM2,
        Some("picosam3") => sample::PICOSAM3,
        Some("small2") => sample::SMALL2,
        Some("small3") => sample::SMALL3,
        Some(other) => return Err(format!("{other}: expected picosam2, picosam3, small2 or small3").into()),
    };
    let model = sample.model();
    std::fs::write(folder.join(format!("{}.onnx", sample.name)), onnx::write_onnx(&model, &BTreeMap::new()))?;
    std::fs::write(folder.join(format!("{}.pixels", sample.name)), sample.pixels())?;
    model_file::write_model(&folder.join(format!("{}.s8m", sample.name)), &model)?;
    println!("{}: {:?}", sample.name, memory_estimate(&NetworkShape::from(&model)));

    let interpreter = Interpreter::new(&model);
    let input = interpreter.from_pixels(&sample.pixels())?;
    let mut times: Vec<f64> = vec![];
    for _ in 0..20 {
        let start = Instant::now();
        interpreter.run(&input)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!("{} ms per image: fastest {:.1}, median {:.1}", sample.name, times[0], times[times.len() / 2]);
    Ok(())
}
