//! Asks the model that ships with Sensei about a drawn picture, as a page does.

#![expect(clippy::print_stdout, reason = "a program")]

use std::path::Path;

use sensei_web::session::Session;

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/sensei-box");
    let model = std::fs::read(folder.join("sensei-box.s8m")).expect("the model is in the repository");
    let mut session = Session::open(&model, "box-128-pad0.1-min7.5-clipped").expect("a model and its crop");
    println!("crops of {0} x {0}, asked by boxes: {1}", session.input_side(), session.needs_box());

    // A red disc of radius 40 on green, as a canvas would have it.
    let (width, height) = (200u32, 160u32);
    let pixel = |at: u32| {
        let (x, y) = (f64::from(at % width) - 99.5, f64::from(at / width) - 79.5);
        if x.hypot(y) < 40.0 { [190, 40, 40, 255] } else { [90, 140, 80, 255] }
    };
    let rgba: Vec<u8> = (0..width * height).flat_map(pixel).collect();
    session.show(&rgba, width, height).expect("a picture");
    let answer = session.answer_box([60.0, 40.0, 80.0, 80.0]).expect("a box in it");
    let area: u32 = answer.mask.bits.iter().map(|&bit| u32::from(bit)).sum();
    let disc = std::f64::consts::PI * 1600.0;
    println!("mask within a tenth of the disc's area: {}", (f64::from(area) - disc).abs() < disc / 10.0);

    let beside = session.answer_box([300.0, 40.0, 80.0, 80.0]).expect_err("a box beside the picture");
    println!("{}", beside.0);
    println!("{}", Session::open(b"no model", "box-128-pad0.1-min7.5-clipped").err().expect("no model").0);
}
