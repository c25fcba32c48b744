//! One pass over the pixels of a mask, and the soft Dice distance made of its sums.
//!
//! `cargo run --release --example mask_sums`

#![expect(clippy::print_stdout, reason = "a program")]

use sensei_kernels::mask::{Masks, sums};

fn main() {
    // Four pixels: two of the object, two of the background. The student is sure of three of them and wrong about one.
    let masks = Masks {
        pixels: 4,
        sharpness: 1.0,
        student: &[20.0, -20.0, -20.0, -20.0],
        teacher: Some(&[20.0, 20.0, -20.0, -20.0]),
        truth: &[1.0, 1.0, 0.0, 0.0],
    };
    let sums = sums(&masks).sums[0];
    println!("areas: student {:.3}, teacher {:.3}, truth {:.3}", sums.student, sums.teacher, sums.truth);
    println!("student and truth together: {:.3}", sums.student_truth);
    let dice = |both: f32, a: f32, b: f32| 1.0 - 2.0 * both / (a + b);
    println!("dice to the truth: {:.3}", dice(sums.student_truth, sums.student, sums.truth));
    println!("dice to the teacher: {:.3}", dice(sums.student_teacher, sums.student, sums.teacher));
    println!("cross-entropy: {:.3}", sums.cross_entropy);
}
