//! Ten AdamW steps against PyTorch's in 64 bits.
//!
//! No value of these steps comes near a ReLU's kink (`tests/golden/student/make.py`), so rounding is all that may differ.
//! PyTorch's own 32-bit run differs by 1.5e-7 in the losses, 6.4e-5 in what ten steps move all weights and 1.0e-4 in the running
//! statistics; twice to four times that is allowed here.

use burn::tensor::{Tensor, TensorData};
use sensei_loss::{LossPlan, LossTerm, SampleWeighting, TermKind, distillation_loss};
use sensei_student::student::Student;
use sensei_student::unet::UnetConfig;
use sensei_tensor::masks::MaskProbs;
use sensei_tensor::network::{HostTensor, NamedWeights, host_values};
use sensei_testing::{GoldenCase, golden, relative_l2};
use sensei_train::optimizer::{AdamW, AdamWConfig};

use crate::device;

const LEARNING_RATE: f64 = 3e-4;
const LOSS: f64 = 5e-7;
const MOVEMENT: f64 = 2e-4;
const STATISTIC: f64 = 4e-4;

#[test]
fn picosam2_takes_pytorch_s_ten_steps() {
    check("student/picosam2_small", UnetConfig::picosam2());
}

#[test]
fn picosam3_takes_pytorch_s_ten_steps() {
    check("student/picosam3_small", UnetConfig::picosam3());
}

fn check(case: &str, flavour: UnetConfig) {
    let case = golden(case);
    let config = UnetConfig {
        input_size: 32,
        encoder_channels: vec![8, 12, 16, 24],
        bottleneck_channels: 32,
        decoder_channels: vec![24, 16, 12, 8],
        ..flavour
    };
    let mut weights = weights_under(&case, "weight/");
    weights.extend(weights_under(&case, "adamw/start/"));
    let mut student = Student::from_weights(config.graph().unwrap(), &weights, &device()).unwrap();
    let terms = [TermKind::TruthBce, TermKind::TruthDice].map(|kind| LossTerm { kind, weight: 1.0 });
    let plan = LossPlan::new(1.0, SampleWeighting::TruthOnly, terms.to_vec()).unwrap();
    let optimizer = AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
    let mut adamw = AdamW::new(optimizer, student.parameters());
    for (step, expected) in case.f64s("adamw/loss").into_iter().enumerate() {
        let forward = student.forward_train(picture(&case, "input"));
        let target = MaskProbs(picture(&case, "target"));
        let loss = distillation_loss(&plan, forward.masks, None, target, &[]).total;
        let got = f64::from(host_values(&loss)[0]);
        assert!((got - expected).abs() <= LOSS * expected, "loss of step {step}: {got} against {expected}");
        let mut found = loss.backward();
        let gradients = student.parameters().iter().map(|p| p.values.grad_remove(&mut found).unwrap()).collect();
        student.update_running_stats(&forward.norm_stats);
        adamw.step(student.parameters_mut(), gradients, |_| LEARNING_RATE);
    }
    let got = student.to_weights();
    let expected = weights_under(&case, "adamw/weight/");
    assert_eq!(got.len(), expected.len() + case.f64s("adamw/n_undetermined")[0] as usize);
    let (mut moved, mut expected_move) = (vec![], vec![]);
    for (name, expected) in expected {
        let (got, expected, start) = (&got[&name].values, &expected.values, &weights[&name].values);
        if name.contains("running_") {
            let distance = relative_l2(got, expected);
            assert!(distance <= STATISTIC, "{name}: relative distance {distance:.2e}");
        } else {
            moved.extend(movement(start, got));
            expected_move.extend(movement(start, expected));
        }
    }
    let distance = relative_l2(&moved, &expected_move);
    assert!(distance <= MOVEMENT, "relative distance of the weights' movements {distance:.2e}");
}

fn movement(start: &[f32], end: &[f32]) -> Vec<f32> {
    start.iter().zip(end).map(|(start, end)| end - start).collect()
}

fn picture(case: &GoldenCase, name: &str) -> Tensor<4> {
    Tensor::from_data(TensorData::new(case.f32s(name), case.shape(name)), &device())
}

fn weights_under(case: &GoldenCase, folder: &str) -> NamedWeights {
    let names = case.names();
    let named = names.iter().filter_map(|name| Some((name, name.strip_prefix(folder)?)));
    named.map(|(name, bare)| (bare.into(), HostTensor { shape: case.shape(name), values: case.f32s(name) })).collect()
}
