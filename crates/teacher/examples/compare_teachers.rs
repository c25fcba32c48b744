//! How far MobileSAM here is from a pair of ONNX files of the same weights:
//! `cargo run --release --example compare_teachers WEIGHTS ENCODER DECODER LIBRARY IMAGE...`.

#![expect(clippy::print_stdout, clippy::disallowed_methods, reason = "a program for measurements")]

use std::path::Path;

use burn::tensor::Device;
use sensei_answers::record::PromptPoint;
use sensei_data::image_file::{ImageFile, ImageLimits};
use sensei_sam::mask_decoder::MaskChoice;
use sensei_student::weights::read_weights;
use sensei_teacher::teacher::Teacher;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [weights, encoder, decoder, library, images @ ..] = arguments.as_slice() else {
        return Err("expected WEIGHTS ENCODER DECODER LIBRARY IMAGE...".into());
    };
    let tensors = read_weights(Path::new(weights))?.tensors;
    let ours = Teacher::native(weights, &tensors, "ours".into(), &Device::flex())?;
    let theirs = Teacher::onnx(Path::new(library), [Path::new(encoder), Path::new(decoder)], "theirs".into(), 2)?;
    let (mut embedding, mut logits, mut iou) = (0.0f32, 0.0f32, 0.0f32);
    let (mut n_equal, mut n_pixels, mut n_prompts) = (0, 0, 0);
    for image in images {
        let limits = ImageLimits::default();
        let image = ImageFile::read(Path::new(image), &limits)?.decode(&limits)?;
        let taps = ["embedding".to_string()];
        let [seen, other] = [ours.look(&image, &taps)?, theirs.look(&image, &taps)?];
        embedding = embedding.max(farthest(&seen.features[0].values, &other.features[0].values));
        // Boxes of several sizes and places.
        let (width, height) = (f64::from(image.size.width), f64::from(image.size.height));
        let boxes: Vec<Vec<PromptPoint>> = (0..16)
            .map(|idx| {
                let (column, row, part) = (f64::from(idx % 4), f64::from(idx / 4), 0.15 + 0.04 * f64::from(idx));
                PromptPoint::of_box([0.08 * column * width, 0.08 * row * height, part * width, part * height])
            })
            .collect();
        let [mine, answers] = [(&ours, &seen), (&theirs, &other)]
            .map(|(teacher, seen)| teacher.answer(seen, &boxes, 1, MaskChoice::Single));
        for (mine, answer) in mine?.iter().zip(&answers?) {
            logits = logits.max(farthest(&mine.logits[0], &answer.logits[0]));
            iou = iou.max(farthest(&mine.predicted_iou, &answer.predicted_iou));
            n_equal += mine.logits[0].iter().zip(&answer.logits[0]).filter(|(a, b)| (**a > 0.0) == (**b > 0.0)).count();
            n_pixels += mine.logits[0].len();
            n_prompts += 1;
        }
    }
    println!("{} images, {n_prompts} boxes; farthest values:", images.len());
    println!("embedding {embedding:.2e}, logits {logits:.2e}, predicted IoU {iou:.2e}");
    println!("{n_equal} of {n_pixels} mask pixels are equal");
    Ok(())
}

fn farthest(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
