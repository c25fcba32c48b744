//! Folding changes the weights and not the function.

use burn::tensor::{Device, Tensor, TensorData};
use sensei_graph::layer_graph::{Conv, LayerGraph, Op};
use sensei_graph::steps::run_graph;
use sensei_student::fold::{fold_batch_norm, fold_input_normalization};
use sensei_student::student::without_weights;
use sensei_student::unet::UnetConfig;
use sensei_student::weights::WeightsError;
use sensei_tensor::network::{HostTensor, NamedWeights};
use sensei_tensor::ops;
use sensei_testing::{GoldenCase, Tolerance, assert_close, golden};

const IMAGENET_MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const IMAGENET_STD: [f64; 3] = [0.229, 0.224, 0.225];

#[test]
fn folded_convolutions_compute_what_pytorch_computes_in_eval_mode() {
    let (graph, case) = small();
    let folded = fold_batch_norm(&graph, &weights(&graph, &case)).unwrap();
    let input = ops::to_internal(tensor(&case.f32s("input"), [4, 3, 32, 32]));
    let output = run_graph(&graph, input, |idx, node, mut inputs| {
        let Op::Conv(conv) = &node.op else { return without_weights(&node.op, inputs) };
        let bias = Tensor::from_data(TensorData::from(folded[&idx].bias.as_slice()), &Device::flex());
        let x = inputs.remove(0);
        let weight = tensor(&folded[&idx].weight.values, conv.shape.weight_shape());
        ops::conv2d_activated(x, weight, Some(bias), &conv.shape, conv.activation)
    });
    let tolerance = Tolerance { absolute: 1e-4, relative: 1e-4 };
    assert_close("logits_eval", &values(ops::to_nchw(output)), &case.f32s("logits_eval"), tolerance);
    // A convolution that has neither keeps its weight and gets zeros.
    let down = graph.nodes().iter().position(|node| node.name == "down1").unwrap();
    assert_eq!(folded[&down].weight.values, case.f32s("weight/down1.weight"));
    assert_eq!(folded[&down].bias, [0.0; 8]);
}

#[test]
fn a_folded_input_normalisation_is_exact_inside_and_told_at_the_border() {
    let (graph, case) = small();
    let trained = weights(&graph, &case);
    let (ours, note) = fold_input_normalization(&graph, &trained, IMAGENET_MEAN, IMAGENET_STD).unwrap();
    assert_eq!((note.conv.as_str(), note.pixels, note.border_pixels), ("encoder_stage1.0", 32 * 32, 4 * 31));

    let Op::Conv(conv) = &graph.nodes()[1].op else { panic!("node 1 is the first convolution") };
    let pixels: Vec<f64> = case.f32s("input").iter().map(|x| f64::from(*x) * 128.0 + 128.0).collect();
    let normalised = |idx: usize| {
        let channel = idx / (32 * 32) % 3;
        ((pixels[idx] / 255.0 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel]) as f32
    };
    let normalised: Vec<f32> = (0..pixels.len()).map(normalised).collect();
    let before = centred(conv, &trained, &normalised);
    let after = centred(conv, &ours, &case.f32s("input"));
    let (mut inside, mut border) = (0.0f32, 0.0f32);
    for (idx, (before, after)) in before.iter().zip(&after).enumerate() {
        let (y, x) = (idx / 32 % 32, idx % 32);
        let is_border = y == 0 || y == 31 || x == 0 || x == 31;
        let worst = if is_border { &mut border } else { &mut inside };
        *worst = worst.max((before - after).abs());
    }
    assert!(inside < 1e-5, "{inside}");
    assert!((f64::from(border) - note.max_difference).abs() < 1e-5, "{border} against {note:?}");
    assert!(border > 0.01, "this case would not notice a wrong note: {border}");
    // Nothing but the first convolution and its mean has changed.
    let changed: Vec<&String> = trained.keys().filter(|name| trained[*name] != ours[*name]).collect();
    assert_eq!(changed, ["encoder_stage1.0.weight", "encoder_stage1.1.running_mean"]);
}

#[test]
fn a_normalisation_by_zero_is_refused() {
    let (graph, case) = small();
    let error = fold_input_normalization(&graph, &weights(&graph, &case), IMAGENET_MEAN, [0.0; 3]).unwrap_err();
    assert!(matches!(error, WeightsError::Normalization { .. }), "{error}");
}

/// Output of the first convolution less its running mean: what batch norm scales.
fn centred(conv: &Conv, weights: &NamedWeights, input: &[f32]) -> Vec<f32> {
    let weight = tensor(&weights["encoder_stage1.0.weight"].values, conv.shape.weight_shape());
    let x = ops::to_internal(tensor(input, [4, 3, 32, 32]));
    let output = values(ops::to_nchw(ops::conv2d(x, weight, None, &conv.shape)));
    let mean = &weights["encoder_stage1.1.running_mean"].values;
    output.iter().enumerate().map(|(idx, value)| value - mean[idx / (32 * 32) % 3]).collect()
}

fn small() -> (LayerGraph, GoldenCase) {
    let config = UnetConfig {
        input_size: 32,
        encoder_channels: vec![8, 12, 16, 24],
        bottleneck_channels: 32,
        decoder_channels: vec![24, 16, 12, 8],
        ..UnetConfig::picosam3()
    };
    (config.graph().expect("a valid setting"), golden("student/picosam3_small"))
}

fn weights(graph: &LayerGraph, case: &GoldenCase) -> NamedWeights {
    let specs = graph.tensors().into_iter();
    specs
        .map(|spec| {
            let values = case.f32s(&format!("weight/{}", spec.name));
            (spec.name, HostTensor { shape: spec.shape, values })
        })
        .collect()
}

fn tensor(values: &[f32], shape: [usize; 4]) -> Tensor<4> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), &Device::flex())
}

fn values(tensor: Tensor<4>) -> Vec<f32> {
    tensor.try_to_vec_as::<f32>().expect("a tensor that its device can read back")
}
