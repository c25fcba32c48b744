//! The reference that the kernels are tested against: the operators' definitions, in double precision, one value at a time.

use proptest::prelude::*;

use crate::activation::Activation;
use crate::conv::{self, ConvShape};
use crate::depthwise::{self, DepthwiseShape};
use crate::norm::{self, Norm};
use crate::optimizer::{AdamW, adamw_step, sum_of_squares};
use crate::pixelwise::{self, MapShape};

/// Maximum difference from the reference, relative to the reference's largest value.
pub(crate) const TOLERANCE: f64 = 2e-6;

/// Pseudorandom values in -1..1 (xorshift).
pub(crate) fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / (1u32 << 31) as f32 - 1.0
    };
    (0..len + 8).map(|_| next()).skip(8).collect()
}

pub(crate) fn assert_near(name: &str, got: &[f32], expected: &[f64]) {
    assert_within(TOLERANCE, name, got, expected);
}

/// [`assert_near`] with another tolerance.
pub(crate) fn assert_within(tolerance: f64, name: &str, got: &[f32], expected: &[f64]) {
    assert_eq!(got.len(), expected.len(), "{name}: length");
    let largest = expected.iter().fold(1.0f64, |largest, value| largest.max(value.abs()));
    for (idx, (got, expected)) in got.iter().zip(expected).enumerate() {
        let difference = (f64::from(*got) - expected).abs() / largest;
        assert!(difference <= tolerance, "{name}[{idx}]: {got}, expected {expected}");
    }
}

/// Calls `product(input index, weight index, output index)` for every multiplication of a grouped convolution.
pub(crate) fn for_each_product(shape: &ConvShape, groups: usize, mut product: impl FnMut(usize, usize, usize)) {
    let (ins, outs) = (shape.in_channels / groups, shape.out_channels / groups);
    let (out_height, out_width, kernel) = (shape.out_height(), shape.out_width(), shape.kernel);
    for idx in 0..shape.batch * out_height * out_width * shape.out_channels {
        let (pixel, out) = (idx / shape.out_channels, idx % shape.out_channels);
        let (row, x) = (pixel / out_width, pixel % out_width);
        let (image, y) = (row / out_height, row % out_height);
        for input in 0..ins {
            for tap in 0..kernel * kernel {
                let source_y = (y * shape.stride + tap / kernel * shape.dilation).wrapping_sub(shape.padding);
                let source_x = (x * shape.stride + tap % kernel * shape.dilation).wrapping_sub(shape.padding);
                if source_y < shape.height && source_x < shape.width {
                    let pixel = (image * shape.height + source_y) * shape.width + source_x;
                    let channel = out / outs * ins + input;
                    let weight = (out * ins + input) * kernel * kernel + tap;
                    product(pixel * shape.in_channels + channel, weight, idx);
                }
            }
        }
    }
}

struct ConvCase {
    input: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    grad: Vec<f32>,
    output: Vec<f64>,
    biased: Vec<f64>,
    grad_input: Vec<f64>,
    grad_weight: Vec<f64>,
}

fn conv_case(shape: &ConvShape, groups: usize) -> ConvCase {
    let input = noise(shape.input_len(), 1);
    let weight = noise(shape.weight_len() / groups, 2);
    // Far enough from 0 that ReLU6 has something to cut off.
    let bias: Vec<f32> = noise(shape.out_channels, 3).into_iter().map(|value| 8.0 * value).collect();
    let grad = noise(shape.output_len(), 4);
    let mut output = vec![0.0; grad.len()];
    let (mut grad_input, mut grad_weight) = (vec![0.0; input.len()], vec![0.0; weight.len()]);
    for_each_product(shape, groups, |input_idx, weight_idx, output_idx| {
        let (x, w, g) = (f64::from(input[input_idx]), f64::from(weight[weight_idx]), f64::from(grad[output_idx]));
        output[output_idx] += x * w;
        grad_input[input_idx] += g * w;
        grad_weight[weight_idx] += g * x;
    });
    let biased = output.iter().enumerate().map(|(idx, value)| value + f64::from(bias[idx % shape.out_channels]));
    ConvCase { input, weight, biased: biased.collect(), bias, grad, output, grad_input, grad_weight }
}

impl ConvCase {
    fn activated(&self, activation: Activation) -> Vec<f64> {
        self.biased.iter().map(|value| activated(*value, activation)).collect()
    }
}

fn activated(value: f64, activation: Activation) -> f64 {
    match activation {
        Activation::None => value,
        Activation::Relu => value.max(0.0),
        Activation::Relu6 => value.clamp(0.0, 6.0),
    }
}

const ACTIVATIONS: [Activation; 3] = [Activation::None, Activation::Relu, Activation::Relu6];

fn check_conv(shape: ConvShape) {
    let case = conv_case(&shape, 1);
    assert_near("output", &conv::forward(&shape, &case.input, &case.weight, None, Activation::None), &case.output);
    for activation in ACTIVATIONS {
        let fused = conv::forward(&shape, &case.input, &case.weight, Some(&case.bias), activation);
        assert_near(&format!("output with bias and {activation:?}"), &fused, &case.activated(activation));
    }
    assert_near("input gradient", &conv::backward_input(&shape, &case.weight, &case.grad), &case.grad_input);
    assert_near("weight gradient", &conv::backward_weight(&shape, &case.input, &case.grad), &case.grad_weight);
}

fn check_depthwise(shape: DepthwiseShape) {
    let DepthwiseShape { batch, height, width, channels, kernel, dilation, padding } = shape;
    let (in_channels, out_channels, stride) = (channels, channels, 1);
    let full = ConvShape { batch, height, width, in_channels, out_channels, kernel, stride, padding, dilation };
    let case = conv_case(&full, channels);
    assert_near("output", &depthwise::forward(&shape, &case.input, &case.weight, None, Activation::None), &case.output);
    for activation in ACTIVATIONS {
        let fused = depthwise::forward(&shape, &case.input, &case.weight, Some(&case.bias), activation);
        assert_near(&format!("output with bias and {activation:?}"), &fused, &case.activated(activation));
    }
    assert_near("input gradient", &depthwise::backward_input(&shape, &case.weight, &case.grad), &case.grad_input);
    assert_near("weight gradient", &depthwise::backward_weight(&shape, &case.input, &case.grad), &case.grad_weight);
}

fn check_norm(pixels: usize, channels: usize, activation: Activation, offset: f32) {
    let input: Vec<f32> = noise(pixels * channels, 5).into_iter().map(|value| value + offset).collect();
    // So large for ReLU6 that values go beyond 6.
    let factor = if activation == Activation::Relu6 { 8.0 } else { 1.0 };
    let scale: Vec<f32> = noise(channels, 6).into_iter().map(|value| factor * value).collect();
    let (shift, grad) = (noise(channels, 7), noise(input.len(), 8));
    let epsilon = 1e-5;
    let norm = Norm { scale: &scale, shift: &shift, epsilon, activation };
    let got = norm::forward(&norm, &input);
    let (count, mut mean, mut variance) = (pixels as f64, vec![0.0; channels], vec![0.0; channels]);
    for (idx, value) in input.iter().enumerate() {
        mean[idx % channels] += f64::from(*value) / count;
    }
    for (idx, value) in input.iter().enumerate() {
        variance[idx % channels] += (f64::from(*value) - mean[idx % channels]).powi(2) / count;
    }
    assert_near("mean", &got.statistics.mean, &mean);
    assert_near("variance", &got.statistics.variance, &variance);
    let deviation: Vec<f64> = variance.iter().map(|variance| (variance + f64::from(epsilon)).sqrt()).collect();
    let normalised = |idx: usize| (f64::from(input[idx]) - mean[idx % channels]) / deviation[idx % channels];
    let value = |idx: usize| normalised(idx) * f64::from(scale[idx % channels]) + f64::from(shift[idx % channels]);
    let output: Vec<f64> = (0..input.len()).map(value).collect();
    let expected: Vec<f64> = output.iter().map(|value| activated(*value, activation)).collect();
    assert_near("output", &got.output, &expected);

    // An activation's kink is where single precision may decide otherwise: take the kernel's side.
    let passes = |output: f32| match activation {
        Activation::None => true,
        Activation::Relu => output > 0.0,
        Activation::Relu6 => output > 0.0 && output < 6.0,
    };
    let passed = |idx: usize| if passes(got.output[idx]) { f64::from(grad[idx]) } else { 0.0 };
    let (mut grad_scale, mut grad_shift) = (vec![0.0; channels], vec![0.0; channels]);
    for idx in 0..input.len() {
        grad_shift[idx % channels] += passed(idx);
        grad_scale[idx % channels] += passed(idx) * normalised(idx);
    }
    let grad_input = |idx: usize| {
        let channel = idx % channels;
        let centred = passed(idx) - (grad_shift[channel] + normalised(idx) * grad_scale[channel]) / count;
        f64::from(scale[channel]) / deviation[channel] * centred
    };
    let expected: Vec<f64> = (0..input.len()).map(grad_input).collect();
    let (got_input, got) = norm::backward(&norm, &input, got.statistics.as_slices(), &grad);
    assert_near("scale gradient", &got.scale, &grad_scale);
    assert_near("shift gradient", &got.shift, &grad_shift);
    if pixels > 2 {
        assert_near("input gradient", &got_input, &expected);
    }
}

fn on_several_pools(check: impl Fn() + Send + Sync) {
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        pool.install(&check);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn convolution_follows_its_definition(
        (batch, height, width) in (1usize..4, 1usize..14, 1usize..14),
        (in_channels, out_channels) in (1usize..20, 1usize..20),
        (kernel, stride, padding, dilation) in (1usize..5, 1usize..4, 0usize..4, 1usize..3),
    ) {
        let shape =
            ConvShape { batch, height, width, in_channels, out_channels, kernel, stride, padding, dilation };
        prop_assume!(height.min(width) + 2 * padding > dilation * (kernel - 1));
        check_conv(shape);
    }

    #[test]
    fn depthwise_convolution_follows_its_definition(
        (batch, height, width, channels) in (1usize..4, 1usize..12, 1usize..12, 1usize..40),
        (kernel, dilation, padding) in (1usize..6, 1usize..3, 0usize..5),
    ) {
        let shape = DepthwiseShape { batch, height, width, channels, kernel, dilation, padding };
        prop_assume!(padding <= dilation * (kernel - 1));
        prop_assume!(height.min(width) + 2 * padding > dilation * (kernel - 1));
        check_depthwise(shape);
    }

    #[test]
    fn batch_norm_follows_its_definition(
        (pixels, channels) in (2usize..700, 1usize..70),
        activation in prop::sample::select(&ACTIVATIONS),
        offset in -3.0f32..3.0,
    ) {
        check_norm(pixels, channels, activation, offset);
    }
}

#[test]
fn layers_of_the_student_follow_their_definition() {
    on_several_pools(|| {
        let shape = ConvShape {
            batch: 8,
            height: 12,
            width: 12,
            in_channels: 96,
            out_channels: 40,
            kernel: 3,
            stride: 2,
            padding: 1,
            dilation: 1,
        };
        check_conv(shape);
        check_conv(ConvShape { batch: 3, kernel: 1, stride: 1, padding: 0, ..shape });
        check_conv(ConvShape { in_channels: 20, out_channels: 144, ..shape });
        check_conv(ConvShape { out_channels: 1, kernel: 1, stride: 1, padding: 0, ..shape });
        let shape =
            DepthwiseShape { batch: 8, height: 12, width: 13, channels: 40, kernel: 3, dilation: 1, padding: 1 };
        check_depthwise(shape);
        check_depthwise(DepthwiseShape { batch: 1, channels: 3, ..shape });
        check_depthwise(DepthwiseShape { batch: 2, channels: 80, dilation: 2, padding: 2, ..shape });
        check_norm(5000, 48, Activation::Relu, 0.3);
        check_norm(20_000, 3, Activation::Relu6, 0.0);
    });
}

#[test]
fn results_are_the_same_bits_for_the_same_number_of_threads() {
    let shape = ConvShape {
        batch: 3,
        height: 24,
        width: 24,
        in_channels: 20,
        out_channels: 24,
        kernel: 3,
        stride: 1,
        padding: 1,
        dilation: 1,
    };
    let (input, grad) = (noise(shape.input_len(), 1), noise(shape.output_len(), 2));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a thread pool");
    pool.install(|| {
        let run = || (conv::backward_weight(&shape, &input, &grad), norm::channel_sums(&grad, 24));
        let first = run();
        (0..5).for_each(|_| assert_eq!(run(), first));
    });
}

#[test]
fn variance_survives_a_mean_far_from_zero() {
    let channels = 4;
    let input: Vec<f32> = noise(4000 * channels, 9).into_iter().map(|value| value * 1e-2 + 100.0).collect();
    let ones = vec![1.0; channels];
    let norm = Norm { scale: &ones, shift: &vec![0.0; channels], epsilon: 1e-5, activation: Activation::None };
    let got = norm::forward(&norm, &input).statistics.variance;
    for (channel, got) in got.into_iter().enumerate() {
        let values: Vec<f64> = input.iter().skip(channel).step_by(channels).map(|value| f64::from(*value)).collect();
        let mean = values.iter().sum::<f64>() / 4000.0;
        let expected = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 4000.0;
        assert!((f64::from(got) / expected - 1.0).abs() < 1e-4, "{got} {expected}");
    }
}

#[test]
fn upsampling_repeats_pixels_and_its_gradient_sums_them() {
    for shape in [(1, 1, 1, 1), (2, 3, 5, 7), (3, 4, 4, 40)] {
        let (batch, height, width, channels) = shape;
        let small = MapShape { batch, height, width, channels };
        let (input, grad) = (noise(small.len(), 1), noise(4 * small.len(), 2));
        let mut output = vec![0.0; grad.len()];
        let mut grad_input = vec![0.0; input.len()];
        for (idx, grad) in grad.iter().enumerate() {
            let (pixel, channel) = (idx / channels, idx % channels);
            let (row, x) = (pixel / (2 * width), pixel % (2 * width));
            let (image, y) = (row / (2 * height), row % (2 * height));
            let source = ((image * height + y / 2) * width + x / 2) * channels + channel;
            output[idx] = f64::from(input[source]);
            grad_input[source] += f64::from(*grad);
        }
        assert_near("upsampled", &pixelwise::upsample_2x(&small, &input), &output);
        assert_near("gradient", &pixelwise::upsample_2x_backward(&small, &grad), &grad_input);
    }
}

#[test]
fn channel_gate_follows_its_definition() {
    let shape = MapShape { batch: 3, height: 5, width: 7, channels: 6 };
    let (input, grad) = (noise(shape.len(), 1), noise(shape.len(), 2));
    let scale = pixelwise::sigmoid(&noise(18, 3));
    let gate = |idx: usize| idx / (35 * 6) * 6 + idx % 6;
    let (mut means, mut grad_scale) = (vec![0.0; 18], vec![0.0; 18]);
    for idx in 0..input.len() {
        means[gate(idx)] += f64::from(input[idx]) / 35.0;
        grad_scale[gate(idx)] += f64::from(input[idx]) * f64::from(grad[idx]);
    }
    assert_near("mean", &pixelwise::global_average_pool(&shape, &input), &means);
    let scaled: Vec<f64> = (0..input.len()).map(|idx| f64::from(input[idx]) * f64::from(scale[gate(idx)])).collect();
    assert_near("scaled", &pixelwise::scale_channels(&shape, &input, &scale), &scaled);
    let got = pixelwise::scale_channels_backward_scale(&shape, &input, &grad);
    assert_near("scale gradient", &got, &grad_scale);
    let spread: Vec<f64> = (0..input.len()).map(|idx| f64::from(scale[gate(idx)]) / 35.0).collect();
    assert_near("pool gradient", &pixelwise::global_average_pool_backward(&shape, &scale), &spread);
}

#[test]
fn pointwise_functions_follow_their_definition() {
    let (a, b) = (noise(30_000, 1), noise(30_000, 2));
    let check = |name: &str, got: Vec<f32>, expected: &dyn Fn(f64, f64) -> f64| {
        let expected: Vec<f64> = a.iter().zip(&b).map(|(a, b)| expected(f64::from(*a), f64::from(*b))).collect();
        assert_near(name, &got, &expected);
    };
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    check("add", pixelwise::add(&a, &b), &|a, b| a + b);
    let mut sum = a.clone();
    pixelwise::add_assign(&mut sum, &b);
    check("add_assign", sum, &|a, b| a + b);
    let large: Vec<f32> = a.iter().map(|value| 9.0 * value).collect();
    for activation in ACTIVATIONS {
        let output = pixelwise::activate(&large, activation);
        check(&format!("{activation:?}"), output.clone(), &|a, _| activated(f64::from(9.0 * a as f32), activation));
        let gradient = |a: f64, b: f64| {
            let is_inside = activated(9.0 * a, activation) == 9.0 * a;
            if is_inside { b } else { 0.0 }
        };
        for values in [&large, &output] {
            let got = pixelwise::activate_backward(values, &b, activation);
            check(&format!("{activation:?} gradient"), got, &gradient);
        }
    }
    // As PyTorch has it: no gradient at the ends themselves.
    let ends = pixelwise::activate_backward(&[0.0, 6.0, 3.0, -1.0, 7.0], &[1.0; 5], Activation::Relu6);
    assert_eq!(ends, [0.0, 0.0, 1.0, 0.0, 0.0]);
    check("sigmoid", pixelwise::sigmoid(&a), &|a, _| sigmoid(a));
    let gradient = pixelwise::sigmoid_backward(&pixelwise::sigmoid(&a), &b);
    check("sigmoid gradient", gradient, &|a, b| b * sigmoid(a) * (1.0 - sigmoid(a)));
}

#[test]
fn layouts_are_each_others_inverse() {
    let shape = MapShape { batch: 2, height: 3, width: 5, channels: 4 };
    let nchw = noise(shape.len(), 1);
    let nhwc = pixelwise::nhwc_from_nchw(&shape, &nchw);
    assert_eq!(nhwc[(15 + 7) * 4 + 2], nchw[(4 + 2) * 15 + 7]);
    assert_eq!(pixelwise::nchw_from_nhwc(&shape, &nhwc), nchw);
}

#[test]
fn adamw_follows_its_definition() {
    let config = AdamW { learning_rate: 1e-2, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.1 };
    let len = 40_000;
    let mut parameters = noise(len, 1);
    let mut expected: Vec<f64> = parameters.iter().map(|value| f64::from(*value)).collect();
    let (mut first, mut second) = (vec![0.0; len], vec![0.0; len]);
    let (mut expected_first, mut expected_second) = (vec![0.0f64; len], vec![0.0f64; len]);
    for step in 1..=3 {
        let gradients = noise(len, 10 + step as u32);
        adamw_step(&config, step, &mut parameters, &gradients, &mut first, &mut second);
        for idx in 0..len {
            let gradient = f64::from(gradients[idx]);
            expected[idx] *= 1.0 - 1e-2 * 0.1;
            expected_first[idx] = 0.9 * expected_first[idx] + 0.1 * gradient;
            expected_second[idx] = 0.999 * expected_second[idx] + 0.001 * gradient * gradient;
            let mean = expected_first[idx] / (1.0 - 0.9f64.powi(step as i32));
            let square = expected_second[idx] / (1.0 - 0.999f64.powi(step as i32));
            expected[idx] -= 1e-2 * mean / (square.sqrt() + 1e-8);
        }
    }
    assert_near("parameters", &parameters, &expected);
    let squares: f64 = parameters.iter().map(|value| f64::from(*value).powi(2)).sum();
    assert!((sum_of_squares(&parameters) / squares - 1.0).abs() < 1e-12);
}
