//! The kernels' operators against burn's own ones, in value and gradient.

use std::cell::RefCell;

use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor, TensorData, module};
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sensei_graph::layer_graph::Conv;
use sensei_graph::op::{Activation, ConvShape, Upsampling};
use sensei_student::student::Student;
use sensei_student::unet::UnetConfig;
use sensei_tensor::ops::{self, Block, BlockWeights, Skip, portable};
use sensei_testing::relative_l2;

mod paths;

/// Relative distance of two operators' results in single precision.
const OPERATOR: f64 = 1e-5;
/// The same for gradients through a whole network, whose ReLUs may fall on either side of a value near zero.
const NETWORK_GRADIENT: f64 = 2e-2;

type Maps = Vec<Tensor<4>>;

fn device() -> Device {
    Device::flex().autodiff()
}

thread_local! {
    /// One stream a test: burn's own generator is shared by all threads, and what a test draws from it would depend on the
    /// others.
    static RNG: RefCell<ChaCha8Rng> = RefCell::new(ChaCha8Rng::seed_from_u64(1));
}

/// Uniform in [-1, 1).
fn uniform<const D: usize>(dims: [usize; D]) -> Tensor<D> {
    let value = |rng: &mut ChaCha8Rng| (rng.next_u32() as f64 / f64::from(1u32 << 31) - 1.0) as f32;
    let n_values = dims.iter().product();
    let values: Vec<f32> = RNG.with_borrow_mut(|rng| (0..n_values).map(|_| value(rng)).collect());
    Tensor::from_data(TensorData::new(values, dims), &device())
}

fn noise<const D: usize>(dims: [usize; D]) -> Tensor<D> {
    uniform(dims).require_grad()
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec_as().expect("single-precision values")
}

fn assert_near(name: &str, got: &[f32], expected: &[f32], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{name}: length");
    let distance = relative_l2(got, expected);
    assert!(distance <= tolerance || expected.iter().chain(got).all(|v| v.abs() < 1e-5), "{name}: {distance:.2e}");
}

/// Compares outputs and, from a random gradient of the output, the gradients of `inputs` and `flat`.
fn check(
    inputs: Maps,
    flat: Vec<Tensor<1>>,
    fast: impl Fn(Maps, Vec<Tensor<1>>) -> Tensor<4>,
    portable: impl Fn(Maps, Vec<Tensor<1>>) -> Tensor<4>,
) {
    let internal = inputs.iter().cloned().map(ops::to_internal).collect();
    let got = ops::to_nchw(fast(internal, flat.clone()));
    let expected = portable(inputs.clone(), flat.clone());
    assert_eq!(got.dims(), expected.dims(), "output shape");
    assert_near("output", &host(got.clone()), &host(expected.clone()), OPERATOR);
    let towards = uniform(got.dims());
    let gradients = (got * towards.clone()).sum().backward();
    let expected_gradients = (expected * towards).sum().backward();
    for (idx, input) in inputs.iter().enumerate() {
        let of = |gradients| host(input.grad(gradients).expect("a gradient of every map"));
        assert_near(&format!("gradient of map {idx}"), &of(&gradients), &of(&expected_gradients), OPERATOR);
    }
    for (idx, values) in flat.iter().enumerate() {
        let of = |gradients| host(values.grad(gradients).expect("a gradient of every weight"));
        assert_near(&format!("gradient of weight {idx}"), &of(&gradients), &of(&expected_gradients), OPERATOR);
    }
}

fn check_conv([batch, height, width]: [usize; 3], conv: ConvShape, bias: bool, activation: Activation) {
    let x = noise([batch, conv.in_channels, height, width]) * beyond_the_end(activation);
    let mut flat = vec![noise([conv.weight_shape().iter().product()])];
    if bias {
        flat.push(noise([conv.out_channels]));
    }
    type Operator = fn(Tensor<4>, Tensor<4>, Option<Tensor<1>>, &ConvShape, Activation) -> Tensor<4>;
    let run = |operator: Operator, mut maps: Maps, flat: Vec<Tensor<1>>| {
        let weight = flat[0].clone().reshape(conv.weight_shape());
        operator(maps.remove(0), weight, flat.get(1).cloned(), &conv, activation)
    };
    let (fast, portable): (Operator, Operator) = (ops::conv2d_activated, |x, weight, bias, conv, activation| {
        portable::activate(portable::conv2d(x, weight, bias, conv), activation)
    });
    check(vec![x], flat, |maps, flat| run(fast, maps, flat), |maps, flat| run(portable, maps, flat));
}

/// What takes uniform values beyond the end of ReLU6, which is where it differs from ReLU.
fn beyond_the_end(activation: Activation) -> f32 {
    match activation {
        Activation::None | Activation::Relu => 1.0,
        Activation::Relu6 => 9.0,
    }
}

fn activations() -> impl Strategy<Value = Activation> {
    prop_oneof![Just(Activation::None), Just(Activation::Relu), Just(Activation::Relu6)]
}

fn conv(in_channels: usize, out_channels: usize, kernel: usize) -> ConvShape {
    Conv::new(in_channels, out_channels, kernel).shape
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn convolutions_agree(
        (batch, height, width) in (1usize..4, 4usize..12, 4usize..12),
        (in_channels, out_channels) in (1usize..9, 1usize..9),
        (kernel, stride, padding, dilation) in (1usize..4, 1usize..3, 0usize..3, 1usize..3),
        (bias, activation) in (any::<bool>(), activations()),
    ) {
        prop_assume!(height.min(width) + 2 * padding > dilation * (kernel - 1));
        let conv = ConvShape { stride, padding, dilation, ..conv(in_channels, out_channels, kernel) };
        check_conv([batch, height, width], conv, bias, activation);
    }

    #[test]
    fn depthwise_convolutions_agree(
        (batch, height, width, channels) in (1usize..4, 4usize..12, 4usize..12, 1usize..34),
        (kernel, dilation) in (1usize..4, 1usize..3),
        (bias, activation) in (any::<bool>(), activations()),
    ) {
        let padding = dilation * (kernel / 2);
        let conv = ConvShape { padding, dilation, groups: channels, ..conv(channels, channels, kernel) };
        check_conv([batch, height, width], conv, bias, activation);
    }

    #[test]
    fn batch_norms_agree(
        (batch, side, channels) in (1usize..4, 2usize..9, 1usize..34),
        activation in activations(),
    ) {
        let x = noise([batch, channels, side, side]);
        let flat = vec![noise([channels]) * beyond_the_end(activation), noise([channels])];
        type NormFn = fn(Tensor<4>, Tensor<1>, Tensor<1>, Activation) -> (Tensor<4>, ops::Statistics);
        let run = |norm: NormFn, mut maps: Maps, flat: &[Tensor<1>]| {
            norm(maps.remove(0), flat[0].clone(), flat[1].clone(), activation)
        };
        let (_, got) = run(ops::batch_norm_train, vec![ops::to_internal(x.clone())], &flat);
        let (_, expected) = run(portable::batch_norm_train, vec![x.clone()], &flat);
        prop_assert_eq!(got.count, expected.count);
        assert_near("mean", &host(got.mean), &host(expected.mean), OPERATOR);
        assert_near("variance", &host(got.variance), &host(expected.variance), OPERATOR);
        check(
            vec![x],
            flat,
            |maps, flat| run(ops::batch_norm_train, maps, &flat).0,
            |maps, flat| run(portable::batch_norm_train, maps, &flat).0,
        );
    }
}

#[test]
fn convolutions_that_no_student_has_agree() {
    check_conv([2, 7, 6], ConvShape { groups: 2, ..conv(6, 4, 3) }, true, Activation::Relu);
    check_conv([2, 7, 6], ConvShape { groups: 5, stride: 2, ..conv(5, 5, 3) }, false, Activation::None);
    check_conv([1, 5, 5], ConvShape { groups: 3, padding: 3, ..conv(3, 3, 3) }, false, Activation::Relu6);
}

#[test]
fn blocks_are_their_operators_one_after_the_other() {
    let [nearest, bilinear] = [Some(Upsampling::Nearest), Some(Upsampling::Bilinear)];
    for ((upsampling, dilation, is_merged), activation) in [
        (None, 1, false),
        (nearest, 1, true),
        (nearest, 1, false),
        (bilinear, 1, true),
        (bilinear, 1, false),
        (None, 2, true),
    ]
    .into_iter()
    .flat_map(|case| [(case, Activation::Relu), (case, Activation::Relu6)])
    {
        let [batch, channels, outs, skips, side] = [2, 17, 9, 5, 6];
        let block = Block { upsampling, kernel: 3, dilation, out_channels: outs, activation };
        let out_side = if upsampling.is_some() { 2 * side } else { side };
        let mut maps = vec![noise([batch, channels, side, side])];
        let scale = |channels: usize| noise([channels]) * beyond_the_end(activation);
        let mut flat = vec![noise([channels * 9]), scale(channels), noise([channels])];
        flat.extend([noise([outs * channels]), scale(outs), noise([outs])]);
        if is_merged {
            maps.push(noise([batch, skips, out_side, out_side]));
            flat.extend([noise([outs * skips]), noise([outs])]);
        }
        let as_one = |mut maps: Maps, flat: Vec<Tensor<1>>| {
            let mut flat = flat.into_iter();
            let mut next = || flat.next().expect("as many as above");
            let [depthwise, scale1, shift1, pointwise, scale2, shift2] = std::array::from_fn(|_| next());
            let weights = BlockWeights { depthwise, scale1, shift1, pointwise, scale2, shift2 };
            let x = maps.remove(0);
            let skip = maps.pop().map(|x| Skip { x, weight: next(), bias: next() });
            ops::block_train(block, x, weights, skip).0
        };
        let separate = |mut maps: Maps, flat: Vec<Tensor<1>>| {
            let mut x = maps.remove(0);
            if let Some(upsampling) = upsampling {
                x = portable::upsample_2x(x, upsampling);
            }
            let depthwise = ConvShape { padding: dilation, dilation, groups: channels, ..conv(channels, channels, 3) };
            let x = portable::conv2d(x, flat[0].clone().reshape([channels, 1, 3, 3]), None, &depthwise);
            let (x, _) = portable::batch_norm_train(x, flat[1].clone(), flat[2].clone(), activation);
            let pointwise = conv(channels, outs, 1);
            let x = portable::conv2d(x, flat[3].clone().reshape([outs, channels, 1, 1]), None, &pointwise);
            let (x, _) = portable::batch_norm_train(x, flat[4].clone(), flat[5].clone(), activation);
            let Some(skip) = maps.pop() else { return x };
            let weight = flat[6].clone().reshape([outs, skips, 1, 1]);
            x + portable::conv2d(skip, weight, Some(flat[7].clone()), &conv(skips, outs, 1))
        };
        check(maps, flat, as_one, separate);
    }
}

#[test]
fn operators_without_weights_agree() {
    for dims in [[1, 1, 3, 5], [3, 18, 4, 4]] {
        let [batch, channels, ..] = dims;
        let two = || vec![noise(dims), noise(dims)];
        let swap =
            |add: fn(Tensor<4>, Tensor<4>) -> Tensor<4>| move |mut maps: Maps, _| add(maps.remove(0), maps.remove(0));
        check(two(), vec![], swap(ops::add), swap(portable::add));
        let one = |operator: fn(Tensor<4>) -> Tensor<4>| move |mut maps: Maps, _| operator(maps.remove(0));
        for upsampling in [Upsampling::Nearest, Upsampling::Bilinear] {
            let fast = move |mut maps: Maps, _| ops::upsample_2x(maps.remove(0), upsampling);
            check(vec![noise(dims)], vec![], fast, move |mut maps, _| {
                portable::upsample_2x(maps.remove(0), upsampling)
            });
        }
        check(vec![noise(dims)], vec![], one(ops::global_average_pool), one(portable::global_average_pool));
        check(vec![noise(dims)], vec![], one(ops::sigmoid), one(portable::sigmoid));
        for activation in [Activation::None, Activation::Relu, Activation::Relu6] {
            let x = noise(dims) * beyond_the_end(activation);
            let fast = move |mut maps: Maps, _| ops::activate(maps.remove(0), activation);
            check(vec![x], vec![], fast, move |mut maps, _| portable::activate(maps.remove(0), activation));
        }
        let gate = || vec![noise(dims), noise([batch, channels, 1, 1])];
        check(gate(), vec![], swap(ops::scale_channels), swap(portable::scale_channels));
    }
}

#[test]
fn bilinear_upsampling_is_burns_with_half_pixel_centres() {
    for dims in [[1, 1, 1, 1], [2, 3, 1, 4], [2, 5, 4, 3]] {
        let [_, _, height, width] = dims;
        let options = InterpolateOptions::new(InterpolateMode::Bilinear)
            .with_output_size([2 * height, 2 * width])
            .with_align_corners(false);
        let fast = |mut maps: Maps, _| ops::upsample_2x(maps.remove(0), Upsampling::Bilinear);
        check(vec![noise(dims)], vec![], fast, |mut maps, _| module::interpolate(maps.remove(0), options.clone()));
    }
}

#[test]
fn a_map_that_is_read_again_is_not_added_to() {
    let (x, y) = (noise([1, 2, 3, 3]).inner(), noise([1, 2, 3, 3]).inner());
    let (before, sum) = (host(x.clone()), host(x.clone() + y.clone()));
    assert_eq!(host(ops::add(x.clone(), y)), sum);
    assert_eq!(host(x), before);
}

fn check_network(config: UnetConfig) {
    let student = Student::new(config.graph().expect("a valid setting"), 7, &device());
    let image = noise([2, 3, config.input_size, config.input_size]).inner();
    let got = student.forward_train(image.clone()).masks.0;
    let expected = paths::portable_forward_train(&student, image);
    assert_near("mask logits", &host(got.clone()), &host(expected.clone()), OPERATOR);
    let gradients = got.square().mean().backward();
    let expected_gradients = expected.square().mean().backward();
    for parameter in student.parameters() {
        let of = |gradients| host(parameter.values.grad(gradients).expect("a gradient of every parameter"));
        assert_near(&parameter.name, &of(&gradients), &of(&expected_gradients), NETWORK_GRADIENT);
    }
}

#[test]
fn narrow_picosam2_agrees() {
    let (encoder_channels, decoder_channels) = (vec![8, 12, 16, 24], vec![20, 12, 10, 5]);
    check_network(UnetConfig {
        input_size: 32,
        encoder_channels,
        bottleneck_channels: 20,
        decoder_channels,
        ..UnetConfig::picosam2()
    });
}

#[test]
fn a_student_that_upsamples_between_pixels_agrees() {
    check_network(UnetConfig {
        input_size: 32,
        encoder_channels: vec![8, 17],
        bottleneck_channels: 20,
        decoder_channels: vec![18, 5],
        bilinear_upsampling: true,
        ..UnetConfig::picosam3()
    });
}

#[test]
fn narrow_picosam3_agrees() {
    let (encoder_channels, decoder_channels) = (vec![8, 17, 16, 24], vec![20, 12, 10, 5]);
    check_network(UnetConfig {
        input_size: 48,
        encoder_channels,
        bottleneck_channels: 33,
        decoder_channels,
        ..UnetConfig::picosam3()
    });
}

#[test]
fn optimiser_steps_agree_and_leave_shared_values_alone() {
    let constants =
        ops::AdamWConstants { learning_rate: 1e-2, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
    let [values, gradient, first] = std::array::from_fn(|_| uniform([50_000]).inner());
    let second = uniform([50_000]).inner().square();
    let before = [&values, &gradient, &first, &second].map(|tensor| host(tensor.clone()));
    let step = |adamw: fn(&_, u64, _, _, [_; 2]) -> (Tensor<1>, [Tensor<1>; 2])| {
        let (values, [first, second]) =
            adamw(&constants, 3, values.clone(), gradient.clone(), [first.clone(), second.clone()]);
        [values, first, second].map(host)
    };
    for (got, expected) in step(ops::adamw_step).iter().zip(&step(portable::adamw_step)) {
        assert_near("AdamW", got, expected, 1e-6);
    }
    let average = ops::moving_average(first.clone(), values.clone(), 0.75);
    let expected = first.clone() * 0.75 + values.clone() * 0.25;
    assert_near("moving average", &host(average), &host(expected), 1e-6);
    assert_eq!([&values, &gradient, &first, &second].map(|tensor| host(tensor.clone())), before);
    let tensors = [values, gradient];
    let (got, expected) = (ops::sum_of_squares(&tensors), portable::sum_of_squares(&tensors));
    assert!((got - expected).abs() <= 1e-5 * expected, "{got} against {expected}");
    assert_eq!(ops::sum_of_squares(&[]), 0.0);
}

#[test]
fn rounding_to_a_trained_grid_is_the_same_on_both_paths() {
    for (dims, rows, range) in [([3, 5, 4, 6], 3, [-8.0, 7.0]), ([2, 3, 5, 7], 1, [0.0, 15.0])] {
        let (x, steps) = (noise(dims), (uniform([rows]) * 0.02 + 0.05).detach().require_grad());
        let towards = uniform(dims);
        let run = |round: fn(Tensor<4>, Tensor<1>, [f32; 2]) -> Tensor<4>| {
            let output = round(x.clone(), steps.clone(), range);
            let gradients = (output.clone() * towards.clone()).sum().backward();
            let of_x = host(x.grad(&gradients).expect("the input's gradient"));
            (host(output), of_x, host(steps.grad(&gradients).expect("the steps' gradient")))
        };
        let (got, expected) = (run(ops::round_to_grid), run(portable::round_to_grid));
        assert!(got.0 == expected.0, "the same values");
        assert_near("gradient of the input", &got.1, &expected.1, OPERATOR);
        assert!(got.1.contains(&0.0) && got.1.iter().any(|value| *value != 0.0), "some values are beyond the grid");
        assert_near("gradient of the steps", &got.2, &expected.2, OPERATOR);
    }
}
