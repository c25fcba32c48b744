//! The forward pass, gradients and batch statistics against PyTorch's in 64 bits.
//!
//! Tolerances: PyTorch's own 32-bit run differs from its 64-bit run by up to 5.8e-3 of a gradient tensor's length,
//! because a value near 0 may land on the other side of a ReLU; so a gradient may differ by 2e-2, and what no kink
//! amplifies, logits and loss, by 1e-4 and 1e-5.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData, activation};
use sensei_graph::layer_graph::{LayerGraph, TensorRole};
use sensei_student::inference::InferenceStudent;
use sensei_student::lite_unet::LiteUnetConfig;
use sensei_student::lite0::ENCODER_PREFIX;
use sensei_student::student::Student;
use sensei_student::unet::{Downsampling, UnetActivation, UnetConfig};
use sensei_student::weights::{read_weights, with_published_encoder, write_weights};
use sensei_tensor::network::{HostTensor, NamedWeights};
use sensei_testing::{GoldenCase, Tolerance, assert_close, golden, relative_l2, workspace_root};

const LOGITS: Tolerance = Tolerance { absolute: 1e-4, relative: 1e-4 };
const STATISTICS: Tolerance = Tolerance { absolute: 1e-6, relative: 1e-5 };
const LOSS: f64 = 1e-5;
const GRADIENT: f64 = 2e-2;

#[test]
fn picosam2_small_computes_what_pytorch_computes() {
    check_small("student/picosam2_small", UnetConfig::picosam2());
}

#[test]
fn picosam3_small_computes_what_pytorch_computes() {
    check_small("student/picosam3_small", UnetConfig::picosam3());
}

#[test]
fn picosam2_computes_what_pytorch_computes_at_its_published_size() {
    check_full("student/picosam2_full", UnetConfig::picosam2(), 0.0);
}

#[test]
fn picosam3_computes_what_pytorch_computes_at_its_published_size() {
    check_full("student/picosam3_full", UnetConfig::picosam3(), 0.0);
}

#[test]
fn a_student_that_upsamples_between_pixels_computes_what_pytorch_computes() {
    let config = UnetConfig { bilinear_upsampling: true, ..UnetConfig::picosam2() };
    check_full("student/bilinear_full", config, 0.0);
}

#[test]
fn a_student_with_relu6_computes_what_pytorch_computes() {
    let config = UnetConfig { activation: UnetActivation::Relu6, ..UnetConfig::picosam2() };
    check_full("student/relu6_full", config, 4.0);
}

#[test]
fn a_student_that_halves_its_maps_depthwise_computes_what_pytorch_computes() {
    let (activation, downsampling) = (UnetActivation::Relu6, Downsampling::Depthwise);
    let config = UnetConfig { activation, downsampling, ..UnetConfig::picosam2() };
    check_full("student/mobile_full", config, 4.0);
}

#[test]
fn a_student_on_efficientnet_computes_what_pytorch_computes() {
    check_graph("student/lite_full", &lite_graph(), 4.0);
}

/// PyTorch has the published epsilon and input there.
#[test]
fn a_published_encoder_is_folded_to_what_pytorch_computes() {
    let (graph, case) = (lite_graph(), golden("student/lite_published"));
    let mut weights = formula_weights(&graph);
    let stem = weights.get_mut("encoder._conv_stem.weight").expect("the convolution that reads the image");
    for taps in stem.values.chunks_exact_mut(9) {
        [0, 1, 2, 3, 6].into_iter().for_each(|tap| taps[tap] = 0.0);
    }
    let is_published = |name: &str| name.strip_prefix(ENCODER_PREFIX).map(String::from);
    let mut published: NamedWeights =
        weights.iter().filter_map(|(name, tensor)| Some((is_published(name)?, tensor.clone()))).collect();
    published.insert("_fc.bias".into(), HostTensor { shape: vec![1000], values: vec![0.0; 1000] });
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("published.safetensors");
    write_weights(&path, &published, &BTreeMap::new()).expect("a writable folder");
    let file = read_weights(&path).expect("a file just written");
    let (folded, note) = with_published_encoder(&graph, weights.clone(), &file).expect("all tensors of the encoder");
    assert_eq!((note.taken, note.left_out), (published.len() - 1, vec!["_fc.bias".to_string()]));
    assert_eq!(note.input.max_difference, 0.0);

    let logits = |weights: &NamedWeights| {
        let student = Student::from_weights(graph.clone(), weights, &device()).expect("weights of this network");
        values(student.forward_eval(formula_images(2, graph.input_size()).0))
    };
    let expected = case.f32s("logits_eval");
    assert_close("logits", &logits(&folded), &expected, LOGITS);
    let without = relative_l2(&logits(&weights), &expected);
    assert!(without > 1e-3, "the two differences are worth {without:.1e}: nothing was tested");

    published.remove("_blocks.4._bn1.bias");
    write_weights(&path, &published, &BTreeMap::new()).expect("a writable folder");
    let file = read_weights(&path).expect("a file just written");
    let error = with_published_encoder(&graph, weights, &file).expect_err("a tensor is missing").to_string();
    assert!(error.contains("_blocks.4._bn1.bias: expected a tensor of shape [240], found "), "{error}");
}

fn lite_graph() -> LayerGraph {
    let config = LiteUnetConfig {
        input_size: 64,
        encoder_blocks: 11,
        decoder_channels: vec![24, 16, 12, 8],
        decoder_blocks: vec![],
        bilinear_upsampling: true,
    };
    config.graph().expect("a valid setting")
}

#[test]
fn tensor_names_and_shapes_are_the_published_ones() {
    let path = workspace_root().join("tests/golden/student/names/names.json");
    let names: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for (flavour, config) in [("picosam2", UnetConfig::picosam2()), ("picosam3", UnetConfig::picosam3())] {
        let mut expected: Vec<(String, Vec<usize>)> = serde_json::from_value(names[flavour].clone()).unwrap();
        expected.retain(|(name, _)| !name.ends_with("num_batches_tracked"));
        expected.sort();
        let specs = config.graph().unwrap().tensors();
        let mut found: Vec<(String, Vec<usize>)> = specs.into_iter().map(|spec| (spec.name, spec.shape)).collect();
        found.sort();
        assert_eq!(found, expected, "{flavour}");
    }
}

fn check_small(case: &str, flavour: UnetConfig) {
    let case = golden(case);
    let graph = UnetConfig {
        input_size: 32,
        encoder_channels: vec![8, 12, 16, 24],
        bottleneck_channels: 32,
        decoder_channels: vec![24, 16, 12, 8],
        ..flavour
    }
    .graph()
    .expect("a valid setting");
    let weights = weights_under(&case, "weight/");
    let mut student = Student::from_weights(graph, &weights, &device()).expect("the weights of this network");
    let (input, target) = (image(&case, "input"), image(&case, "target"));

    let gradients = check_forward(&case, &student, input.clone(), target);
    for (name, gradient) in gradients {
        let distance = relative_l2(&gradient, &case.f32s(&format!("grad/{name}")));
        assert!(distance <= GRADIENT, "gradient of {name}: relative distance {distance:.2e}");
    }
    let stats = student.forward_train(input).norm_stats;
    student.update_running_stats(&stats);
    let after = student.to_weights();
    for (name, expected) in weights_under(&case, "stats/") {
        assert_close(&name, &after[&name].values, &expected.values, STATISTICS);
    }
}

/// `norm_shift` is added to all shifts of batch norms.
fn check_full(case: &str, config: UnetConfig, norm_shift: f32) {
    check_graph(case, &config.graph().expect("a valid setting"), norm_shift);
}

fn check_graph(case: &str, graph: &LayerGraph, norm_shift: f32) {
    let case = golden(case);
    let mut weights = formula_weights(graph);
    for spec in graph.tensors().iter().filter(|spec| spec.role == TensorRole::NormShift) {
        let shift = weights.get_mut(&spec.name).expect("every tensor of the graph");
        shift.values.iter_mut().for_each(|value| *value += norm_shift);
    }
    let student = Student::from_weights(graph.clone(), &weights, &device()).expect("the weights of this network");
    let (input, target) = formula_images(2, graph.input_size());
    for (name, gradient) in check_forward(&case, &student, input, target) {
        let length = gradient.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        let expected = case.f64s(&format!("grad_norm/{name}"))[0];
        // A shift that the next batch norm takes out again has no gradient, but for rounding.
        if expected < 1e-12 {
            assert!(length < 1e-6, "gradient of {name}: {length} where there is none");
            continue;
        }
        assert!((length / expected - 1.0).abs() <= GRADIENT, "gradient of {name}: {length} against {expected}");
        let sample = case.f32s(&format!("grad_sample/{name}"));
        let at = |i: usize| gradient[i * gradient.len() / sample.len()];
        let distance = relative_l2(&(0..sample.len()).map(at).collect::<Vec<_>>(), &sample);
        assert!(distance <= GRADIENT, "sampled gradient of {name}: relative distance {distance:.2e}");
    }
}

/// Compares both forward passes and the loss; returns the gradients by name.
fn check_forward(case: &GoldenCase, student: &Student, input: Tensor<4>, target: Tensor<4>) -> Vec<(String, Vec<f32>)> {
    let eval = student.forward_eval(input.clone());
    assert!(!eval.is_autodiff(), "forward_eval keeps no graph");
    assert_close("logits_eval", &values(eval), &case.f32s("logits_eval"), LOGITS);
    let packed =
        InferenceStudent::new(student.graph().clone(), &student.to_weights()).expect("weights of this student");
    assert_close("packed logits", &packed.mask_logits(&values(input.clone())), &case.f32s("logits_eval"), LOGITS);
    let logits = student.forward_train(input).masks.0;
    assert_close("logits_train", &values(logits.clone()), &case.f32s("logits_train"), LOGITS);
    let loss = bce_and_dice(logits, target);
    let (got, expected) = (f64::from(values(loss.clone())[0]), case.f64s("loss")[0]);
    assert!((got - expected).abs() <= LOSS * expected, "loss: {got} against {expected}");
    let gradients = loss.backward();
    let of =
        |name: &str, leaf: &Tensor<1>| values(leaf.grad(&gradients).unwrap_or_else(|| panic!("{name}: no gradient")));
    student.parameters().iter().map(|p| (p.name.clone(), of(&p.name, &p.values))).collect()
}

/// The loss of make.py: mean BCE with logits plus the mean of 1 - Dice.
fn bce_and_dice(logits: Tensor<4>, target: Tensor<4>) -> Tensor<1> {
    let softplus = (logits.clone().abs().neg().exp() + 1.0).log();
    let bce = (activation::relu(logits.clone()) - logits.clone() * target.clone() + softplus).mean();
    let p = activation::sigmoid(logits);
    let sum = |x: Tensor<4>| x.flatten::<2>(1, 3).sum_dim(1);
    let overlap = sum(p.clone() * target.clone());
    let dice = (overlap * 2.0 + 1e-6) / (sum(p) + sum(target) + 1e-6);
    bce + 1.0 - dice.mean()
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_to_vec_as::<f32>().expect("a tensor that its device can read back")
}

fn image(case: &GoldenCase, name: &str) -> Tensor<4> {
    Tensor::from_data(TensorData::new(case.f32s(name), case.shape(name)), &device())
}

fn weights_under(case: &GoldenCase, folder: &str) -> NamedWeights {
    let names = case.names();
    let named = names.iter().filter_map(|name| Some((name, name.strip_prefix(folder)?)));
    named.map(|(name, bare)| (bare.into(), HostTensor { shape: case.shape(name), values: case.f32s(name) })).collect()
}

/// `formula` of make.py for every tensor of a network.
fn formula_weights(graph: &LayerGraph) -> NamedWeights {
    let tensor = |name: &str, shape: &[usize]| {
        let fan_in: usize = shape[1..].iter().product();
        let value = |u: f64| match () {
            () if shape.len() == 4 => (2.0 * u - 1.0) * (6.0 / fan_in as f64).sqrt(),
            () if name.ends_with("running_mean") => (2.0 * u - 1.0) * 0.125,
            () if name.ends_with("running_var") || name.ends_with("weight") => 0.5 + u,
            () => (2.0 * u - 1.0) * 0.25,
        };
        unit(name, shape.iter().product()).map(|u| value(u) as f32).collect()
    };
    let specs = graph.tensors().into_iter();
    specs.map(|s| (s.name.clone(), HostTensor { values: tensor(&s.name, &s.shape), shape: s.shape })).collect()
}

/// `formula_input` of make.py.
fn formula_images(batch: usize, size: usize) -> (Tensor<4>, Tensor<4>) {
    let mut noise = unit("input", batch * 3 * size * size);
    let (mut image, mut target) = (vec![], vec![]);
    for b in 0..batch {
        for (c, y, x) in (0..3).flat_map(|c| (0..size).flat_map(move |y| (0..size).map(move |x| (c, y, x)))) {
            let noise = (noise.next().expect("as many as pixels") * 64.0).floor() as usize;
            let pixel = ((c + 2) * x + (3 - c + 2 * b) * y + noise) % 256;
            image.push((pixel as f32 - 128.0) / 128.0);
        }
        for (y, x) in (0..size).flat_map(|y| (0..size).map(move |x| (y as i64, x as i64))) {
            let (half, b) = (size as i64 / 2, b as i64);
            let distance = (x - half + 2 * b).pow(2) + (y - half - b).pow(2);
            target.push(if distance * 16 < (size * size) as i64 { 1.0f32 } else { 0.0 });
        }
    }
    let tensor =
        |values, channels| Tensor::from_data(TensorData::new(values, [batch, channels, size, size]), &device());
    (tensor(image, 3), tensor(target, 1))
}

/// `unit` of make.py: splitmix64 over the FNV-1a hash of the name, 24 bits of each.
fn unit(name: &str, n: usize) -> impl Iterator<Item = f64> {
    let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
    (1..=n as u64).map(move |i| {
        let z = hash.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1u32 << 24)
    })
}
