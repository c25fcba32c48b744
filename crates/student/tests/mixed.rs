//! The 16-bit forward pass beside the 32-bit one.

use burn::tensor::{Device, Tensor, TensorData};
use sensei_student::student::Student;
use sensei_student::unet::UnetConfig;
use sensei_tensor::network::HalfPrecision;

fn gradients(student: &Student, half: Option<HalfPrecision>) -> (Vec<f32>, Vec<f32>) {
    let side = student.graph().input_size();
    let values: Vec<f32> = (0..4 * 3 * side * side).map(|at| ((at * 37 % 101) as f32 - 50.0) / 64.0).collect();
    let image = Tensor::from_data(TensorData::new(values, [4, 3, side, side]), &Device::flex());
    let forward = match half {
        Some(half) => student.forward_train_mixed(image, half),
        None => student.forward_train(image),
    };
    assert_eq!(forward.masks.0.dtype(), burn::tensor::DType::F32);
    let logits = forward.masks.0.clone().inner().try_to_vec_as::<f32>().expect("on the host");
    // Scaled, as training does: gradients of a mean over pixels are below the smallest 16-bit number.
    let mut found = (forward.masks.0.clone() * forward.masks.0).mean().mul_scalar(4096.0).backward();
    let each = student.parameters().iter().map(|parameter| {
        let gradient = parameter.values.grad_remove(&mut found).expect("a tracked leaf");
        gradient.try_to_vec_as::<f32>().expect("32-bit gradients of 32-bit weights")
    });
    (logits, each.flatten().collect())
}

fn relative(found: &[f32], expected: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let difference = square(&mut found.iter().zip(expected).map(|(a, b)| f64::from(a - b)));
    (difference / square(&mut expected.iter().map(|&b| f64::from(b)))).sqrt()
}

#[test]
fn sixteen_bits_stay_near_thirty_two() {
    let bilinear = UnetConfig { bilinear_upsampling: true, ..UnetConfig::picosam2() };
    for config in [UnetConfig::picosam2(), UnetConfig::picosam3(), bilinear] {
        let graph = UnetConfig { input_size: 64, ..config }.graph().expect("a valid setting");
        let student = Student::new(graph, 3, &Device::flex().autodiff());
        let exact = gradients(&student, None);
        // 2^-11 and 2^-8 per operation, through some 20 convolutions and batch norms of an untrained network. Gradients are
        // further off the deeper they lie, as every ReLU that changes sides moves all below it, which 32 bits do too (5e-3
        // against 64); a wrong operator is
        // off by 1 or more.
        let bounds = [(HalfPrecision::F16, 0.02, 0.4), (HalfPrecision::Bf16, 0.15, 0.9)];
        for (half, logits_off, gradients_off) in bounds {
            let mixed = gradients(&student, Some(half));
            let (logits, gradients) = (relative(&mixed.0, &exact.0), relative(&mixed.1, &exact.1));
            assert!(logits < logits_off && gradients < gradients_off, "{half:?}: {logits} {gradients}");
            assert!(logits > 1e-5, "{half:?}: it did not compute in 16 bits");
        }
    }
}
