//! A student as a [`Network`]: its group, its taps, and the passes it knows.

#![allow(clippy::unwrap_used)] // tests

use burn::tensor::{Device, Tensor, TensorData};
use sensei_student::student::{Student, WEIGHTS};
use sensei_student::unet::UnetConfig;
use sensei_tensor::network::{HalfPrecision, Inputs, Network, NetworkError, NormStatistics, Pass};

fn student(device: &Device) -> Student {
    let config = UnetConfig {
        input_size: 32,
        encoder_channels: vec![4, 6],
        bottleneck_channels: 8,
        decoder_channels: vec![6, 4],
        ..UnetConfig::picosam3()
    };
    Student::new(config.graph().unwrap(), 3, device)
}

fn images(device: &Device) -> Tensor<4> {
    let values: Vec<f32> = (0..2 * 3 * 32 * 32).map(|idx| ((idx * 37 % 255) as f32 - 128.0) / 128.0).collect();
    Tensor::from_data(TensorData::new(values, [2, 3, 32, 32]), device)
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

fn values(tensor: Tensor<4>) -> Vec<f32> {
    tensor.inner().into_data().try_to_vec().unwrap()
}

#[test]
fn taps_are_the_nodes_by_name_and_an_unknown_one_lists_them_with_shapes() {
    let student = student(&Device::flex());
    let taps = student.taps();
    assert_eq!(taps.len(), student.graph().nodes().len() - 1);
    assert!(taps.iter().any(|tap| tap.name == "down1" && tap.shape == [4, 16, 16]), "{taps:?}");
    let asked = names(&["down1", "encoder_9"]);
    let inputs = Inputs { images: images(&Device::flex()), taps: &asked };
    let error = student.forward(inputs, Pass::Eval).unwrap_err();
    assert!(matches!(&error, NetworkError::NoSuchTap { name, .. } if name == "encoder_9"));
    let message = error.to_string();
    assert!(
        message.starts_with("tap \"encoder_9\": expected one of ") && message.contains("down1 [4, 16, 16]"),
        "{message}"
    );
}

#[test]
fn features_are_those_of_the_nodes_and_masks_do_not_change_for_being_asked() {
    for device in [Device::flex(), Device::flex().autodiff()] {
        let student = student(&device);
        // Inside of a block (`up1.1.0`), its end, its merging sum, an operator without weights, the output, one twice.
        let asked = names(&["up1.1.0", "up1.1.3", "add1", "up1.0", "refine.3", "down2", "add1"]);
        for pass in [Pass::Train, Pass::Eval] {
            if pass == Pass::Train && !device.is_autodiff() {
                continue;
            }
            let plain = student.forward(Inputs { images: images(&device), taps: &[] }, pass).unwrap();
            let tapped = student.forward(Inputs { images: images(&device), taps: &asked }, pass).unwrap();
            assert!(plain.taps.is_empty() && plain.scores.is_none());
            let nodes = student.graph().nodes();
            for (name, feature) in asked.iter().zip(&tapped.taps) {
                let shape = nodes[student.graph().node_idx(name).unwrap()].shape;
                assert_eq!(feature.dims(), [2, shape[0], shape[1], shape[2]], "{name}");
            }
            let of = |tap: usize| values(tapped.taps[tap].clone());
            assert_eq!(of(2), of(6));
            assert_eq!(of(4), values(tapped.masks.0.clone()), "the last node is the mask");
            // A block that is taken apart rounds in another order.
            for (plain, tapped) in values(plain.masks.0).into_iter().zip(values(tapped.masks.0)) {
                assert!((plain - tapped).abs() <= 1e-4 * (1.0 + plain.abs()), "{pass:?}: {plain} and {tapped}");
            }
            assert_eq!(plain.norm_stats.len(), tapped.norm_stats.len());
            let order = |stats: &[sensei_tensor::network::BatchStats]| {
                stats.iter().map(|stats| stats.norm.clone()).collect::<Vec<_>>()
            };
            assert_eq!(order(&plain.norm_stats), order(&tapped.norm_stats));
        }
    }
}

#[test]
fn a_feature_carries_its_gradient() {
    let device = Device::flex().autodiff();
    let student = student(&device);
    let asked = names(&["down2"]);
    let outputs = student.forward(Inputs { images: images(&device), taps: &asked }, Pass::Train).unwrap();
    let gradients = outputs.taps[0].clone().powf_scalar(2.0).mean().backward();
    let has = |name: &str| {
        let parameter = student.parameters().iter().find(|parameter| parameter.name == name).unwrap();
        parameter.values.grad(&gradients).is_some()
    };
    assert!(has("down2.weight") && has("encoder_stage1.0.weight"));
    assert!(!has("refine.3.weight"), "what comes after the tap");
}

#[test]
fn the_group_comes_back_as_it_was_and_takes_only_its_own_tensors() {
    let mut first = student(&Device::flex());
    let network: &mut dyn Network = &mut first;
    assert_eq!(network.groups().iter().map(|group| group.name.as_str()).collect::<Vec<_>>(), [WEIGHTS]);
    let mut tensors = network.tensors(WEIGHTS);
    tensors.values_mut().for_each(|tensor| tensor.values.iter_mut().for_each(|value| *value += 0.5));
    network.set_tensors(WEIGHTS, tensors.clone()).unwrap();
    assert_eq!(network.tensors(WEIGHTS), tensors);
    assert_eq!(network.to_device(&Device::flex()).tensors(WEIGHTS), tensors);
    let error = network.set_tensors("thresholds", tensors.clone()).unwrap_err();
    assert_eq!(error.to_string(), "group \"thresholds\": expected one of weights");
    tensors.remove("down1.weight");
    let error = network.set_tensors(WEIGHTS, tensors).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.contains("down1.weight: expected a tensor of shape [4, 4, 3, 3], found none"), "{source}");
}

#[test]
fn a_pass_that_it_does_not_know_is_an_error() {
    let student = student(&Device::flex());
    let pass = Pass::TrainOnGrid(NormStatistics::Batch);
    let error = student.forward(Inputs { images: images(&Device::flex()), taps: &[] }, pass).unwrap_err();
    assert!(error.to_string().starts_with("a student in floating point: expected a pass that it computes"), "{error}");
}

#[test]
fn features_of_a_mixed_pass_are_in_32_bits() {
    let device = Device::flex().autodiff();
    let (student, asked) = (student(&device), names(&["down1"]));
    let forward = |pass| {
        let inputs = Inputs { images: images(&device), taps: &asked };
        values(student.forward(inputs, pass).unwrap().taps.remove(0))
    };
    let (half, full) = (forward(Pass::TrainMixed(HalfPrecision::F16)), forward(Pass::Train));
    let worst = half.iter().zip(&full).map(|(half, full)| (half - full).abs()).fold(0.0, f32::max);
    assert!(worst > 0.0 && worst < 0.02, "{worst}");
}
