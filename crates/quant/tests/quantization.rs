//! Float, fake-quant and integer networks of one student, held to each other.

mod fixture;

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use fixture::{MSE, calibrated, folded, images, small_config, small_graph, small_graphs, weights};
use sensei_graph::layer_graph::{Conv, GraphBuilder, LayerGraph, Op};
use sensei_graph::op::Activation;
use sensei_imx500::memory::{NetworkShape, memory_estimate};
use sensei_int8::model::IntegerOp;
use sensei_quant::calibration::{CalibrationConfig, calibrate};
use sensei_quant::compare::{LayerReport, compare_layers};
use sensei_quant::equalize::{Equalization, equalize, pairs};
use sensei_quant::error::QuantError;
use sensei_quant::fake_quant::{FakeQuantStudent, fake_quantize};
use sensei_quant::folded::FoldedStudent;
use sensei_quant::gptq::Rounding;
use sensei_quant::lower::lower;
use sensei_quant::qat::Quantizers;
use sensei_quant::sensitivity::sensitivity;
use sensei_quant::thresholds::ThresholdSearch;
use sensei_student::student::Student;
use sensei_student::unet::UnetConfig;
use sensei_tensor::network::NamedWeights;
use sensei_tensor::network::NormStatistics;
use sensei_testing::{golden, relative_l2};

/// Noise of a third of the signal. Untrained networks add up their rounding undamped: 12 to 20 dB are usual here.
const NOT_LOST_DB: f64 = 10.0;

fn values(tensor: Tensor<4>) -> Vec<f32> {
    tensor.into_data().try_to_vec::<f32>().expect("f32 tensors")
}

fn quantized(student: &FoldedStudent, config: &CalibrationConfig) -> FakeQuantStudent {
    let model = lower(student, &calibrated(student, config), "student").expect("a network that the chip holds");
    FakeQuantStudent::new(student.graph(), model, &Device::flex()).expect("a model of this network")
}

/// On images that calibration has not seen.
fn report(student: &FoldedStudent, config: &CalibrationConfig, n_images: usize) -> LayerReport {
    let images = images(n_images, student.graph().input_size(), 77);
    compare_layers(student, &quantized(student, config), &images).expect("one network")
}

fn output_sqnr(report: &LayerReport) -> f64 {
    report.layers.last().expect("networks have nodes").sqnr_db
}

#[test]
fn folding_keeps_the_network() {
    let graph = small_graph();
    let weights = weights(&graph, 3);
    let student = Student::from_weights(graph.clone(), &weights, &Device::flex()).expect("weights of this network");
    let images = images(2, 32, 5);
    let expected = values(student.forward_eval(images.clone()));
    let folded = FoldedStudent::new(&graph, &weights, &Device::flex()).expect("finite weights");
    let got = values(folded.forward(images, |_, output| output));
    assert!(relative_l2(&got, &expected) < 1e-5);
}

#[test]
fn every_integer_layer_is_its_fake_quant_layer() {
    for graph in small_graphs() {
        for method in [ThresholdSearch::MinMax, ThresholdSearch::Mse, ThresholdSearch::Kl] {
            for (weight_bits, output_bits) in [(8, 8), (8, 16), (4, 8)] {
                let rounding = if weight_bits == 4 { Rounding::Gptq } else { Rounding::Nearest };
                let config = CalibrationConfig { method, weight_bits, output_bits, rounding, ..MSE };
                let report = report(&folded(&graph, 8), &config, 4);
                let divergent = report.first_divergent(1e-5).map(|layer| &layer.name);
                assert_eq!(divergent, None, "{config:?}\n{}", report.table());
            }
        }
    }
}

#[test]
fn every_integer_layer_of_the_published_networks_is_its_fake_quant_layer() {
    let bilinear = UnetConfig { bilinear_upsampling: true, ..UnetConfig::picosam2() };
    for config in [UnetConfig::picosam2(), UnetConfig::picosam3(), bilinear] {
        let graph = config.graph().expect("a valid setting");
        let student = folded(&graph, 2);
        let calibration = calibrate(&student, &[images(2, 96, 1)], &MSE).expect("ordinary images");
        let model = lower(&student, &calibration, "student").expect("a network that the chip holds");
        let fake = FakeQuantStudent::new(&graph, model, &Device::flex()).expect("a model of this network");
        let report = compare_layers(&student, &fake, &images(1, 96, 9)).expect("one network");
        assert_eq!(report.first_divergent(1e-5).map(|layer| &layer.name), None, "{}", report.table());
        assert!(output_sqnr(&report) > NOT_LOST_DB, "{}", report.table());
    }
}

#[test]
fn int8_logits_are_close_to_float_ones() {
    let student = folded(&small_graph(), 8);
    let report = report(&student, &MSE, 4);
    assert!(output_sqnr(&report) > NOT_LOST_DB, "{}", report.table());
    assert_eq!(report.first_below(NOT_LOST_DB).map(|layer| &layer.name), None, "{}", report.table());
    let first = report.first_below(200.0).expect("the first convolution rounds, so it loses something");
    assert_eq!(first.name, "encoder_stage1.0");
}

#[test]
fn least_squares_and_more_bits_each_bring_the_logits_closer() {
    let student = folded(&small_graph(), 8);
    let images = images(4, 32, 1);
    let sqnr = |method, weight_bits| {
        let config = CalibrationConfig { method, weight_bits, output_bits: 16, ..MSE };
        let calibration = calibrate(&student, std::slice::from_ref(&images), &config).expect("ordinary images");
        let model = lower(&student, &calibration, "student").expect("a network that the chip holds");
        let fake = FakeQuantStudent::new(student.graph(), model, &Device::flex()).expect("a model of this network");
        output_sqnr(&compare_layers(&student, &fake, &images).expect("one network"))
    };
    let best = sqnr(ThresholdSearch::Mse, 8);
    let (covering, four_bits) = (sqnr(ThresholdSearch::MinMax, 8), sqnr(ThresholdSearch::Mse, 4));
    assert!(best > covering && best > four_bits, "{best} dB, {covering} dB, {four_bits} dB");
}

#[test]
fn sixteen_bits_hold_the_logits_better_than_eight() {
    let student = folded(&small_graph(), 8);
    let (narrow, wide) =
        (report(&student, &MSE, 2), report(&student, &CalibrationConfig { output_bits: 16, ..MSE }, 2));
    assert!(output_sqnr(&wide) > output_sqnr(&narrow));
}

#[test]
fn bias_correction_removes_the_mean_error_of_a_convolution() {
    // One convolution of the sensor's values, which are on the grid, into 16 bits: what is lost is the weights'.
    let mut graph = GraphBuilder::new(3, 16);
    graph.conv("conv", 0, Conv::new(3, 6, 3).with_bias());
    let student = folded(&graph.finish(), 8);
    let images = images(3, 16, 1);
    let mean_error = |bias_correction| {
        let config = CalibrationConfig { weight_bits: 4, output_bits: 16, bias_correction, ..MSE };
        let calibration = calibrate(&student, std::slice::from_ref(&images), &config).expect("ordinary images");
        let model = lower(&student, &calibration, "student").expect("a network that the chip holds");
        let fake = FakeQuantStudent::new(student.graph(), model, &Device::flex()).expect("a model of this network");
        let error = fake.forward(images.clone()) - student.forward(images.clone(), |_, output| output);
        let means = values(error.mean_dims(&[0, 2, 3]));
        means.into_iter().fold(0.0_f32, |max, mean| max.max(mean.abs()))
    };
    let (with, without) = (mean_error(true), mean_error(false));
    assert!(with < 0.02 * without, "mean error with correction {with:e}, without {without:e}");
}

/// What ReLU6 cuts off is no saturation, and what it leaves fits an unsigned grid that ends at 8 or before.
#[test]
fn relu6_is_clamped_in_integers_and_its_work_is_no_saturation() {
    let [_, _, graph, _] = small_graphs();
    let student = folded(&graph, 8);
    let config = CalibrationConfig { method: ThresholdSearch::MinMax, ..MSE };
    let calibration = calibrated(&student, &config);
    let model = lower(&student, &calibration, "student").expect("a network that the chip holds");
    let mut ends = BTreeMap::new();
    for (node, calibrated) in model.nodes().iter().zip(&calibration.nodes) {
        if node.op.conv().is_some_and(|conv| conv.activation() == Activation::Relu6) {
            let grid = calibrated.grid;
            assert!(!grid.signed() && grid.threshold() <= 8.0, "{}: {grid:?}", node.name);
            assert!(f64::from(calibrated.seen.max()) <= 6.0, "{}", node.name);
            // The smallest threshold that covers every value cuts none off, whatever ReLU6 did before.
            assert_eq!(calibrated.saturated, 0, "{}", node.name);
            *ends.entry(grid.range_after(Activation::Relu6)[1]).or_insert(0) += 1;
        }
    }
    assert!(ends[&192] > 2, "{ends:?}");
    // With finer steps the grid ends before 6: values in between are saturation, those above 6 are not.
    let fake = FakeQuantStudent::new(&graph, model, &Device::flex()).expect("a model of this network");
    let mut above = 0;
    fake.forward_observed(images(2, 32, 1), |idx, real, rounded| {
        if graph.nodes()[idx].op.activation() == Activation::Relu6 {
            let largest = |tensor: &Tensor<4>| values(tensor.clone()).into_iter().fold(0.0_f32, f32::max);
            assert!(largest(rounded) <= 6.0);
            above += usize::from(largest(real) >= 6.0);
        }
    });
    assert!(above > 2, "{above} layers reach 6");
    let pairs = pairs(&graph);
    assert!(pairs.is_empty(), "no scale can be moved across ReLU6: {pairs:?}");
}

#[test]
fn grids_follow_the_rules_of_the_chip() {
    let student = folded(&small_graph(), 8);
    let calibration = calibrated(&student, &MSE);
    let nodes = student.graph().nodes();
    for (idx, node) in nodes.iter().enumerate() {
        let grid = calibration.nodes[idx].grid;
        let input = |slot: usize| calibration.nodes[node.inputs[slot]].grid;
        let expected_sign = match &node.op {
            Op::Input => {
                assert_eq!((grid.step(), grid.qmin()), (1.0 / 128.0, -128));
                true
            }
            Op::Conv(conv) => conv.activation == Activation::None,
            Op::Add => true,
            Op::Sigmoid => {
                assert_eq!(grid.threshold(), 1.0);
                false
            }
            Op::Upsample2x(_) => {
                assert_eq!(grid, input(0));
                input(0).signed()
            }
            Op::GlobalAveragePool | Op::ScaleChannels => input(0).signed(),
        };
        assert_eq!((grid.signed(), grid.bits()), (expected_sign, 8), "{}", node.name);
    }
    let model = lower(&student, &calibration, "student").expect("a network that the chip holds");
    assert_eq!(NetworkShape::of_graph(student.graph(), |_| 8, 8), NetworkShape::from(&model));
}

#[test]
fn equalised_networks_have_the_same_logits_and_other_weights() {
    let student = folded(&small_graph(), 8);
    let images = images(3, 32, 1);
    let expected = values(student.forward(images.clone(), |_, output| output));
    for by in [Equalization::Weights, Equalization::Activations] {
        let equalised = equalize(&student, std::slice::from_ref(&images), by).expect("ordinary images");
        let got = values(equalised.forward(images.clone(), |_, output| output));
        assert!(relative_l2(&got, &expected) < 1e-5, "{by:?}: {}", relative_l2(&got, &expected));
        let moved = pairs(student.graph()).into_iter().filter(|pair| {
            let weight = |student: &FoldedStudent| student.weights()[&pair.first].weight.values.clone();
            relative_l2(&weight(&equalised), &weight(&student)) > 0.01
        });
        assert_eq!(moved.count(), pairs(student.graph()).len(), "{by:?}");
        let again = equalize(&student, std::slice::from_ref(&images), by).expect("ordinary images");
        assert_eq!(again.weights(), equalised.weights());
    }
}

/// After equalisation by weights, each channel of a pair is made and read by weights of one range.
#[test]
fn equalised_ranges_are_equal() {
    let student = folded(&small_graph(), 8);
    let equalised = equalize(&student, &[], Equalization::Weights).expect("finite weights");
    let node = |name: &str| student.graph().nodes().iter().position(|node| node.name == name).expect("a node");
    let (made, read) =
        (&equalised.weights()[&node("encoder_stage2.0")], &equalised.weights()[&node("encoder_stage2.3")]);
    let n_channels = made.bias.len();
    for channel in 0..n_channels {
        let max = |values: &mut dyn Iterator<Item = &f32>| values.fold(0.0_f32, |max, value| max.max(value.abs()));
        let made = max(&mut made.weight.values[9 * channel..9 * (channel + 1)].iter());
        let read = max(&mut read.weight.values.iter().skip(channel).step_by(n_channels));
        assert!((made / read - 1.0).abs() < 1e-3, "channel {channel}: {made} and {read}");
    }
}

/// After equalisation by activations, every channel before a depthwise convolution ends just below a power of two.
#[test]
fn equalised_activations_fill_their_grid() {
    let student = folded(&small_graph(), 8);
    let images = images(3, 32, 1);
    let equalised = equalize(&student, std::slice::from_ref(&images), Equalization::Activations).expect("images");
    let at = student.graph().nodes().iter().position(|node| node.name == "bottleneck.0.3").expect("a node");
    equalised.forward(images, |idx, output| {
        if idx == at {
            let maxima = values(sensei_tensor::ops::to_nchw(output.clone()).max_dim(3).max_dim(2).max_dim(0));
            let live: Vec<f32> = maxima.into_iter().filter(|max| *max > 0.0).collect();
            let top = live.iter().fold(0.0_f32, |top, max| top.max(*max));
            assert!((f64::from(top).log2().ceil().exp2() * 511.0 / 512.0 - f64::from(top)).abs() < 1e-5, "{top}");
            assert!(live.len() > 10 && live.iter().all(|max| (max / top - 1.0).abs() < 1e-4), "{live:?}");
        }
        output
    });
    let error = equalize(&student, &[], Equalization::Activations).err().expect("nothing to look at");
    assert!(matches!(error, QuantError::NoImages), "{error}");
}

#[test]
fn reconstructed_weights_bring_the_logits_of_other_images_closer_than_nearest_ones() {
    let student = folded(&small_graph(), 8);
    let calibration_images = images(24, 32, 1);
    let others = images(4, 32, 77);
    let sqnr = |rounding| {
        let config = CalibrationConfig { weight_bits: 4, output_bits: 16, rounding, ..MSE };
        let calibration = calibrate(&student, std::slice::from_ref(&calibration_images), &config).expect("images");
        let model = lower(&student, &calibration, "student").expect("a network that the chip holds");
        let fake = FakeQuantStudent::new(student.graph(), model, &Device::flex()).expect("a model of this network");
        output_sqnr(&compare_layers(&student, &fake, &others).expect("one network"))
    };
    let (nearest, gptq) = (sqnr(Rounding::Nearest), sqnr(Rounding::Gptq));
    assert!(gptq > nearest + 2.0, "{gptq} dB, nearest {nearest} dB");
    let config = CalibrationConfig { rounding: Rounding::Gptq, weight_bits: 4, ..MSE };
    assert_eq!(calibrated(&student, &config), calibrated(&student, &config));
}

#[test]
fn single_convolutions_have_their_own_bits() {
    let student = folded(&small_graph(), 8);
    let weight_bits_of: BTreeMap<String, u8> = [("down1".into(), 4), ("down2".into(), 2)].into();
    let config = CalibrationConfig { weight_bits_of: weight_bits_of.clone(), ..MSE };
    let report = report(&student, &config, 2);
    for layer in &report.layers {
        let expected = weight_bits_of.get(&layer.name).copied().unwrap_or(8);
        assert!(layer.weight_bits.is_none_or(|bits| bits == expected), "{}", report.table());
    }
    assert_eq!(report.first_divergent(1e-5).map(|layer| &layer.name), None, "{}", report.table());
    let config = CalibrationConfig { weight_bits_of: [("add1".into(), 4)].into(), ..MSE };
    let error = calibrate(&student, &[images(1, 32, 1)], &config).expect_err("a sum has no weights");
    assert!(matches!(&error, QuantError::NoSuchConv { name } if name == "add1"), "{error}");
}

#[test]
fn the_cheapest_convolutions_are_narrowed_until_the_budget_is_met() {
    let student = folded(&small_graph(), 8);
    let batch = images(4, 32, 1);
    let bytes = |narrowed: &[&str]| {
        let bits = |name: &str| if narrowed.contains(&name) { 4 } else { 8 };
        memory_estimate(&NetworkShape::of_graph(student.graph(), bits, 8)).coefficients
    };
    let saved = |conv: &str| bytes(&[]) - bytes(&[conv]);
    let found =
        sensitivity(&student, std::slice::from_ref(&batch), &MSE, 4, saved, &|| false).expect("ordinary images");
    let n_convs = student.weights().len();
    assert_eq!((found.convs.len(), found.n_images), (n_convs, 4), "{}", found.table());
    // One narrowed alone is what a calibration with that one narrowed gives.
    let down2 = found.convs.iter().find(|conv| conv.name == "down2").expect("the network has it");
    let config = CalibrationConfig { weight_bits_of: [("down2".into(), 4)].into(), ..MSE };
    let calibration = calibrate(&student, std::slice::from_ref(&batch), &config).expect("ordinary images");
    let model = lower(&student, &calibration, "student").expect("a network that the chip holds");
    let fake = FakeQuantStudent::new(student.graph(), model, &Device::flex()).expect("a model of this network");
    let layers = compare_layers(&student, &fake, &batch).expect("one network");
    assert!((output_sqnr(&layers) - down2.error.sqnr_db).abs() < 1e-6, "{}", found.table());
    let all: Vec<&str> = found.convs.iter().map(|conv| conv.name.as_str()).collect();
    assert_eq!(bytes(&[]) - bytes(&["down2"]), down2.bytes_saved);
    assert_eq!(found.choose(bytes(&[]), bytes).expect("nothing to do"), Vec::<String>::new());
    let limit = bytes(&[]) - down2.bytes_saved;
    let chosen = found.choose(limit, bytes).expect("enough to save");
    let names: Vec<&str> = chosen.iter().map(String::as_str).collect();
    assert!(bytes(&names) <= limit && names.len() < all.len(), "{names:?}");
    for name in &names {
        let without: Vec<&str> = names.iter().copied().filter(|other| other != name).collect();
        assert!(bytes(&without) > limit, "{name} is not needed");
    }
    let error = found.choose(bytes(&all) - 1, bytes).expect_err("less than there can be");
    assert!(matches!(error, QuantError::Budget { bits: 4, reached, .. } if reached == bytes(&all)), "{error}");
}

#[test]
fn calibration_is_deterministic_and_counts_what_is_cut_off() {
    let student = folded(&small_graph(), 8);
    let first = calibrated(&student, &MSE);
    assert_eq!(first, calibrated(&student, &MSE));
    assert_eq!(first.n_images, 5);
    assert_eq!(first.nodes[0].seen.count(), 5 * 3 * 32 * 32);

    // The comparison counts the same values on the same images.
    let all = Tensor::cat(vec![images(3, 32, 1), images(2, 32, 2)], 0);
    let model = lower(&student, &first, "student").expect("a network that the chip holds");
    let fake = FakeQuantStudent::new(student.graph(), model, &Device::flex()).expect("a model of this network");
    let report = compare_layers(&student, &fake, &all).expect("one network");
    let counted: Vec<u64> = first.nodes.iter().map(|node| node.saturated).collect();
    assert_eq!(counted, report.layers.iter().map(|layer| layer.saturated).collect::<Vec<_>>());
    assert!(counted.iter().sum::<u64>() > 0, "least squares cuts something off");
    assert_eq!(counted[0], 0, "the sensor's values are all on the grid");
}

#[test]
fn fake_quantize_rounds_and_differentiates_as_pytorch_does() {
    let case = golden("quant/fake_quantize");
    for (name, log2_threshold, signed) in [("signed", 1, true), ("unsigned", 2, false)] {
        let grid = sensei_int8::grid::ActivationGrid::new(8, signed, log2_threshold).expect("a grid");
        let tensor = |what: &str, device: &Device| {
            Tensor::<1>::from_data(TensorData::from(case.f32s(&format!("{name}.{what}")).as_slice()), device)
        };
        let host = |tensor: Tensor<1>| tensor.into_data().try_to_vec::<f32>().expect("f32 tensors");
        let device = Device::flex().autodiff();
        let x = tensor("x", &device).require_grad();
        let y = fake_quantize(x.clone(), grid);
        let gradients = (y.clone() * tensor("weight", &device)).sum().backward();
        assert_eq!(host(y), case.f32s(&format!("{name}.y")), "{name}");
        let gradient = host(x.grad(&gradients).expect("x is a leaf"));
        assert_eq!(gradient, case.f32s(&format!("{name}.gradient")), "{name}");
        let without = fake_quantize(tensor("x", &Device::flex()), grid);
        assert_eq!(host(without), case.f32s(&format!("{name}.y")), "{name} without gradients");
    }
}

#[test]
fn a_dead_channel_is_quantized_like_any_other() {
    let graph = small_graph();
    let mut weights = weights(&graph, 8);
    let weight = weights.get_mut("down1.weight").expect("the network has it");
    weight.values[..8 * 9].fill(0.0);
    let student = FoldedStudent::new(&graph, &weights, &Device::flex()).expect("finite weights");
    let report = report(&student, &MSE, 2);
    assert_eq!(report.first_divergent(1e-5).map(|layer| &layer.name), None, "{}", report.table());
    let model = lower(&student, &calibrated(&student, &MSE), "student").expect("a network that the chip holds");
    let down1 = model.nodes().iter().find(|node| node.name == "down1").expect("the network has it");
    let IntegerOp::Conv(conv) = &down1.op else { panic!("down1 is a convolution") };
    assert!(conv.weights()[..8 * 9].iter().all(|&weight| weight == 0));
}

#[test]
fn what_cannot_be_quantized_is_named() {
    let graph = small_graph();
    let fold = |change: fn(&mut f32)| {
        let mut weights = weights(&graph, 8);
        change(&mut weights.get_mut("down2.weight").expect("the network has it").values[5]);
        FoldedStudent::new(&graph, &weights, &Device::flex())
    };
    for (change, name) in [((|w| *w = f32::NAN) as fn(&mut f32), "down2"), (|w| *w = f32::INFINITY, "down2")] {
        let error = fold(change).err().expect("not a finite weight").to_string();
        assert!(error.contains(name), "{error}");
    }
    let huge = fold(|w| *w = 1e9).expect("finite");
    let error = calibrate(&huge, &[images(1, 32, 1)], &MSE).expect_err("beyond every grid").to_string();
    assert!(error.starts_with("down2: "), "{error}");

    // A variance of 0 with a huge scale: finite before folding, not after.
    let mut overflow = weights(&graph, 8);
    overflow.get_mut("encoder_stage1.1.weight").expect("the network has it").values[0] = 3e38;
    overflow.get_mut("encoder_stage1.1.running_var").expect("the network has it").values[0] = 0.0;
    let error = FoldedStudent::new(&graph, &overflow, &Device::flex()).err().expect("overflow");
    assert!(matches!(&error, QuantError::NotFinite { node, .. } if node == "encoder_stage1.0"), "{error}");

    let student = folded(&graph, 8);
    let bad = |batches: &[Tensor<4>], config| calibrate(&student, batches, &config).expect_err("bad input").to_string();
    assert_eq!(bad(&[], MSE), "calibration: expected at least one image, found none");
    let expected = "image batch: expected [batch, 3, 32, 32], found [1, 3, 16, 16]";
    assert_eq!(bad(&[images(1, 16, 1)], MSE), expected);
    let nan = images(1, 32, 1) * f32::NAN;
    assert!(bad(&[nan], MSE).starts_with("input: output: expected finite numbers, found NaN at 0"));
    let three_bits = bad(&[images(1, 32, 1)], CalibrationConfig { weight_bits: 3, ..MSE });
    assert_eq!(three_bits, "encoder_stage1.0: weight bits: expected 8, 4 or 2, found 3");
    let odd_output = bad(&[images(1, 32, 1)], CalibrationConfig { output_bits: 12, ..MSE });
    assert!(odd_output.starts_with("refine.3: "), "{odd_output}");

    let other = UnetConfig { encoder_channels: vec![8, 16], ..small_config() }.graph().expect("a valid setting");
    let model = lower(&student, &calibrated(&student, &MSE), "student").expect("a network that the chip holds");
    let error = FakeQuantStudent::new(&other, model, &Device::flex()).err().expect("another network");
    assert!(matches!(error, QuantError::OtherNetwork { node_idx: 5, .. }), "{error}");
}

#[test]
fn training_on_the_grid_sees_what_the_integers_compute() {
    for graph in small_graphs() {
        check_training_on_the_grid(&graph);
    }
}

fn check_training_on_the_grid(graph: &LayerGraph) {
    let device = Device::flex().autodiff();
    let apart = |weights: &NamedWeights| {
        let student = Student::from_weights(graph.clone(), weights, &device).expect("weights of this network");
        let folded = FoldedStudent::new(graph, weights, &Device::flex()).expect("finite weights");
        let (batches, config) = ([images(6, 32, 5)], CalibrationConfig { bias_correction: false, ..MSE });
        let calibration = calibrate(&folded, &batches, &config).expect("ordinary images");
        let quantizers = Quantizers::new(graph, &calibration, &device);

        let calibration = quantizers.calibration(&folded, &batches, &|| false).expect("ordinary images");
        assert_eq!(quantizers.grids(), calibration.nodes.iter().map(|node| node.grid).collect::<Vec<_>>());
        let model = lower(&folded, &calibration, "small").expect("a network that the chip holds");
        let fake = FakeQuantStudent::new(graph, model, &Device::flex()).expect("a model of this network");
        let held_out = images(4, 32, 9);
        let expected = values(fake.forward(held_out.clone()));
        let found = quantizers.forward_train(&student, held_out.clone(), NormStatistics::Running).masks.0;
        let float = values(folded.forward(held_out, |_, output| output));
        (relative_l2(&values(found.inner()), &expected), relative_l2(&expected, &float))
    };
    let mut weights = weights(graph, 3);
    // Folding in 32 bits in one and in 64 in the other turns a few weights to the neighbouring integer; from there on the two
    // are as far apart as any two roundings.
    let (found, rounding) = apart(&weights);
    assert!(found < rounding, "{found}, where rounding makes {rounding}");
    // Where folding multiplies by 1, only biases that are between two integers are left to differ.
    for (name, tensor) in &mut weights {
        let value = match name.rsplit('.').next() {
            Some("running_mean") => 0.0,
            Some("running_var") => 1.0 - 1e-5,
            Some("weight") if tensor.shape.len() == 1 => 1.0,
            _ => continue,
        };
        tensor.values.fill(value);
    }
    let biases_are_added_up = graph.nodes().iter().any(|node| node.name.ends_with("._project_conv"));
    if !biases_are_added_up {
        let (found, rounding) = apart(&weights);
        assert!(found < 0.25 * rounding, "{found}, where rounding makes {rounding}");
    }
    // Without biases nothing is.
    let biases = weights.iter_mut().filter(|(name, _)| name.ends_with(".bias"));
    biases.for_each(|(_, tensor)| tensor.values.fill(0.0));
    let (found, rounding) = apart(&weights);
    assert!(found < 1e-5 && rounding > 1e-3, "{found}, where rounding makes {rounding}");
}

#[test]
fn statistics_of_the_batch_are_those_of_training_without_a_grid() {
    for graph in small_graphs() {
        check_statistics_of_the_batch(&graph);
    }
}

fn check_statistics_of_the_batch(graph: &LayerGraph) {
    let weights = weights(graph, 3);
    let device = Device::flex().autodiff();
    let student = Student::from_weights(graph.clone(), &weights, &device).expect("weights of this network");
    let folded = FoldedStudent::new(graph, &weights, &Device::flex()).expect("finite weights");
    let quantizers =
        Quantizers::new(graph, &calibrate(&folded, &[images(6, 32, 5)], &MSE).expect("ordinary images"), &device);
    let plain = student.forward_train(images(6, 32, 5));
    let on_grid = quantizers.forward_train(&student, images(6, 32, 5), NormStatistics::Batch);
    assert_eq!(plain.norm_stats.len(), on_grid.norm_stats.len());
    for (plain, on_grid) in plain.norm_stats.iter().zip(&on_grid.norm_stats) {
        assert_eq!(plain.norm, on_grid.norm);
        let (plain, on_grid) = (values1(&plain.variance), values1(&on_grid.variance));
        assert!(relative_l2(&on_grid, &plain) < 0.1, "eight bits change little: {}", relative_l2(&on_grid, &plain));
    }
    // Every weight, scale and threshold that is used has a gradient.
    let mut found = (on_grid.masks.0.clone() * on_grid.masks.0).mean().backward();
    for parameter in student.parameters().iter().chain(&quantizers.group().parameters) {
        let gradient = parameter.values.grad_remove(&mut found).unwrap_or_else(|| panic!("{}", parameter.name));
        let gradient = values1(&gradient);
        assert!(gradient.iter().any(|value| *value != 0.0) && gradient.iter().all(|value| value.is_finite()));
    }
}

fn values1(tensor: &Tensor<1>) -> Vec<f32> {
    tensor.clone().into_data().try_to_vec::<f32>().expect("f32 tensors")
}

#[test]
fn trained_thresholds_beyond_the_chips_are_counted() {
    let graph = small_graph();
    let device = Device::flex();
    let folded = folded(&graph, 3);
    let batches = [images(2, 32, 5)];
    let quantizers = Quantizers::new(&graph, &calibrate(&folded, &batches, &MSE).expect("ordinary images"), &device);
    let clamped = |thresholds: NamedWeights| {
        let quantizers = Quantizers::for_config(&graph, &MSE, &device).with_values(thresholds).expect("its names");
        quantizers.calibration(&folded, &batches, &|| false).expect("a network that the chip holds").clamped_thresholds
    };
    let mut thresholds = quantizers.to_named();
    assert_eq!(clamped(thresholds.clone()), 0);
    thresholds.get_mut("activations").expect("activations").values[2] = -24.6;
    let weights = thresholds.iter_mut().find(|(name, _)| name.ends_with(".weight")).expect("weights").1;
    (weights.values[0], weights.values[1]) = (-31.0, -24.0);
    assert_eq!(clamped(thresholds), 2);
}
