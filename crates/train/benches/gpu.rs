//! What `scripts/bench/gpu.sh` measures: `gpu train|eval wgpu|wgpu:software|cuda BATCH REPEATS [f16|bf16]` times training steps
//! or forward passes of PicoSAM2 at 96 x 96 on a GPU. Every repeat ends with a value read back.
#![expect(clippy::disallowed_methods, reason = "a program that measures")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program that measures")]

use std::time::Instant;

use burn::tensor::{Device, DeviceKind, Tensor, TensorData};
use sensei_loss::{LossPlan, SampleWeighting, TeacherTarget, distillation_loss};
use sensei_student::student::Student;
use sensei_student::unet::UnetConfig;
use sensei_tensor::masks::{MaskLogits, MaskProbs};
use sensei_tensor::network::HalfPrecision;
use sensei_train::optimizer::{AdamW, AdamWConfig};

fn main() {
    // `cargo bench` adds an argument of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [what, device, batch, repeats, ..] = &arguments[..] else {
        panic!("gpu train|eval wgpu|wgpu:software|cuda BATCH REPEATS [f16|bf16]")
    };
    let device = match device.as_str() {
        "wgpu" => Device::wgpu(DeviceKind::DefaultDevice),
        "wgpu:software" => Device::wgpu(DeviceKind::Cpu),
        #[cfg(feature = "cuda")]
        "cuda" => Device::cuda(0),
        other => panic!("expected a device of this build, found {other}"),
    };
    let half = arguments.get(4).map(|half| match half.as_str() {
        "f16" => HalfPrecision::F16,
        "bf16" => HalfPrecision::Bf16,
        other => panic!("expected f16 or bf16, found {other}"),
    });
    let (batch, repeats): (usize, usize) = (batch.parse().unwrap(), repeats.parse().unwrap());
    let name = device.identity().map_or("unnamed".into(), |identity| identity.name);
    let mut seconds = match what.as_str() {
        "train" => train(&device.autodiff(), batch, repeats, half),
        "eval" => eval(&device, batch, repeats),
        other => panic!("expected train or eval, found {other}"),
    };
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    println!("median_ms {:.2} images_per_second {:.1} device {name}", 1e3 * median, batch as f64 / median);
}

/// A ramp of values in [-1, 1], the same on every device.
fn picture(batch: usize, channels: usize, device: &Device) -> Tensor<4> {
    let values: Vec<f32> = (0..batch * channels * 96 * 96).map(|idx| (idx * 37 % 256) as f32 / 128.0 - 1.0).collect();
    Tensor::from_data(TensorData::new(values, [batch, channels, 96, 96]), device)
}

fn train(device: &Device, batch: usize, repeats: usize, half: Option<HalfPrecision>) -> Vec<f64> {
    let mut student = Student::new(UnetConfig::picosam2().graph().unwrap(), 1, device);
    let config = AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
    let mut optimizer = AdamW::new(config, student.parameters());
    let plan = LossPlan::picosam2(SampleWeighting::TeacherScorePerSample);
    let (image, logits) = (picture(batch, 3, device), picture(batch, 1, device));
    let truth = logits.clone().greater_elem(0.0).float();
    let step = || {
        let start = Instant::now();
        let forward = match half {
            Some(half) => student.forward_train_mixed(image.clone(), half),
            None => student.forward_train(image.clone()),
        };
        let teacher =
            TeacherTarget { logits: MaskLogits(logits.clone()), predicted_iou: Tensor::<1>::ones([batch], device) };
        let loss = distillation_loss(
            &plan,
            MaskLogits(forward.masks.0),
            Some(&teacher),
            MaskProbs(truth.clone().autodiff()),
            &[],
        );
        let value: f32 = loss.total.clone().into_scalar();
        assert!(value.is_finite());
        // As training does: small 16-bit gradients are lost without a scale.
        let scale = if half == Some(HalfPrecision::F16) { 1024.0 } else { 1.0 };
        let mut found = (loss.total * scale).backward();
        let gradients = student.parameters().iter().map(|parameter| {
            let gradient = parameter.values.grad_remove(&mut found).unwrap();
            if scale == 1.0 { gradient } else { gradient / scale }
        });
        let gradients = gradients.collect();
        optimizer.step(student.parameters_mut(), gradients, |_| 3e-4);
        student.update_running_stats(&forward.norm_stats);
        device.sync().unwrap();
        start.elapsed().as_secs_f64()
    };
    warmed_up(step, repeats)
}

fn eval(device: &Device, batch: usize, repeats: usize) -> Vec<f64> {
    let student = Student::new(UnetConfig::picosam2().graph().unwrap(), 1, device);
    let image = picture(batch, 3, device);
    let pass = || {
        let start = Instant::now();
        let logits = student.forward_eval(image.clone()).into_data();
        assert_eq!(logits.num_elements(), batch * 96 * 96);
        start.elapsed().as_secs_f64()
    };
    warmed_up(pass, repeats)
}

/// The first passes compile kernels.
fn warmed_up(mut pass: impl FnMut() -> f64, repeats: usize) -> Vec<f64> {
    for _ in 0..3 {
        pass();
    }
    (0..repeats).map(|_| pass()).collect()
}
