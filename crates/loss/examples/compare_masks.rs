//! The distillation loss of one mask: how far it is from a teacher's and from the annotated one, term by term.
//!
//! `cargo run --release --example compare_masks`

#![expect(clippy::print_stdout, reason = "a program")]

use burn::tensor::{Device, Tensor, TensorData};
use sensei_loss::{LossPlan, SampleWeighting, TeacherTarget, distillation_loss};
use sensei_tensor::masks::{MaskLogits, MaskProbs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    // 2 x 2 pixels. The object is the left column; the student finds its upper half, the teacher all of it.
    let map = |values: [f32; 4]| Tensor::<1>::from_data(TensorData::from(values), &device).reshape([1, 1, 2, 2]);
    let student = MaskLogits(map([2.0, -2.0, -2.0, -2.0]));
    let truth = MaskProbs(map([1.0, 0.0, 1.0, 0.0]));
    let teacher = TeacherTarget {
        logits: MaskLogits(map([4.0, -4.0, 4.0, -4.0])),
        predicted_iou: Tensor::<1>::from_data(TensorData::from([0.75]), &device),
    };

    // PicoSAM3's loss: alpha is the IoU that the teacher expects of its own mask.
    let plan = LossPlan::picosam3(SampleWeighting::TeacherScorePerSample);
    let loss = distillation_loss(&plan, student, Some(&teacher), truth, &[]);
    for ((name, distances), term) in loss.terms.into_iter().zip(plan.terms()) {
        println!("{name:<15} {:.3}, weighed {}", distances.into_scalar::<f32>(), term.weight);
    }
    println!("to minimise     {:.3}", loss.total.into_scalar::<f32>());
    Ok(())
}
