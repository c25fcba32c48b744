//! How long MobileSAM takes: `cargo run --release --example time_teacher WEIGHTS IMAGE [ROUNDS]`.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a program for benchmarks")]

use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use sensei_answers::record::PromptPoint;
use sensei_data::image_file::{ImageFile, ImageLimits};
use sensei_sam::mask_decoder::MaskChoice;
use sensei_student::weights::read_weights;
use sensei_teacher::teacher::Teacher;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    sensei_tensor::ops::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [weights, image, rounds @ ..] = arguments.as_slice() else {
        return Err("expected WEIGHTS IMAGE [ROUNDS]".into());
    };
    let rounds: usize = rounds.first().map_or(Ok(5), |rounds| rounds.parse())?;
    let tensors = read_weights(Path::new(weights))?.tensors;
    let teacher = Teacher::native(weights, &tensors, "not asked".into(), &Device::flex())?;
    let limits = ImageLimits::default();
    let image = ImageFile::read(Path::new(image), &limits)?.decode(&limits)?;
    let boxes = |n: usize| -> Vec<Vec<PromptPoint>> {
        (0..n).map(|idx| PromptPoint::of_box([10.0 * idx as f64, 20.0, 100.0, 80.0])).collect()
    };
    for n in [0, 1, 16] {
        let mut fastest = f64::INFINITY;
        let seen = teacher.look(&image, &[])?;
        for _ in 0..rounds {
            let started = Instant::now();
            if n == 0 {
                teacher.look(&image, &[])?;
            } else {
                teacher.answer(&seen, &boxes(n), 1, MaskChoice::Single)?;
            }
            fastest = fastest.min(started.elapsed().as_secs_f64());
        }
        match n {
            0 => println!("encoder: {:.1} ms", 1e3 * fastest),
            n => println!("{n} prompts: {:.1} ms, {:.1} each", 1e3 * fastest, 1e3 * fastest / n as f64),
        }
    }
    Ok(())
}
