//! The operators as docs/formats/int8-model.md defines them, in integers and without hurry; every isa of the
//! interpreter against them, bit for bit.

use proptest::prelude::*;
use sensei_graph::op::{Activation, ConvShape, Upsampling};

use crate::grid::{ActivationGrid, WeightThreshold};
use crate::interpreter::{IntTensor, Interpreter};
use crate::model::{IntegerConv, IntegerModel, IntegerNode, IntegerOp};
use crate::simd::InstructionSet;

/// Of equal bits for equal seeds (splitmix64).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn up_to(&mut self, low: i64, high: i64) -> i64 {
        low + (self.bits() % (high - low + 1) as u64) as i64
    }
}

fn plain_conv(conv: &IntegerConv, input: &IntTensor, output: ActivationGrid) -> Vec<i16> {
    let shape = conv.shape();
    let [_, height, width] = input.shape;
    let (out_h, out_w) = (shape.output_size(height), shape.output_size(width));
    let (in_group, out_group) = (shape.in_channels / shape.groups, shape.out_channels / shape.groups);
    let mut values = vec![];
    for (out, (mantissa, shift)) in conv.rescale(input.grid, output).into_iter().enumerate() {
        for (y, x) in (0..out_h).flat_map(|y| (0..out_w).map(move |x| (y, x))) {
            let mut sum = i64::from(conv.bias()[out]);
            for (c, (ky, kx)) in (0..in_group)
                .flat_map(|c| (0..shape.kernel.pow(2)).map(move |k| (c, (k / shape.kernel, k % shape.kernel))))
            {
                let at = |position: usize, tap: usize| {
                    (position * shape.stride + tap * shape.dilation) as i64 - shape.padding as i64
                };
                let (row, column) = (at(y, ky), at(x, kx));
                if (0..height as i64).contains(&row) && (0..width as i64).contains(&column) {
                    let channel = out / out_group * in_group + c;
                    let q = input.values[(channel * height + row as usize) * width + column as usize];
                    let weight = conv.weights()[((out * in_group + c) * shape.kernel + ky) * shape.kernel + kx];
                    sum += i64::from(q) * i64::from(weight);
                }
            }
            let (low, high) = match conv.activation() {
                Activation::None => (output.qmin(), output.qmax()),
                Activation::Relu => (0, output.qmax()),
                Activation::Relu6 => (0, i32::from(on_grid(6, output.log2_step(), 0, output.qmax()))),
            };
            values.push(on_grid(i128::from(sum) * i128::from(mantissa), shift, low, high));
        }
    }
    values
}

fn plain_sum(a: &IntTensor, b: &IntTensor, output: ActivationGrid) -> Vec<i16> {
    let low = a.grid.log2_step().min(b.grid.log2_step());
    let sum = |(&qa, &qb): (&i16, &i16)| {
        let part = |q: i16, tensor: &IntTensor| i128::from(q) << (tensor.grid.log2_step() - low);
        on_grid(part(qa, a) + part(qb, b), output.log2_step() - low, output.qmin(), output.qmax())
    };
    a.values.iter().zip(&b.values).map(sum).collect()
}

/// Sixteen times the value at a position between pixels, then rounded.
fn plain_bilinear(input: &IntTensor) -> Vec<i16> {
    let [channels, height, width] = input.shape;
    // Quarters of an upsampled position, of which the centre of pixel `i` is `4 * i`; none is beyond the first and the last.
    let parts = |at: usize, len: usize| {
        let quarters = (2 * at as i128 - 1).clamp(0, 4 * (len as i128 - 1));
        let first = quarters / 4;
        [(first as usize, 4 - quarters % 4), ((first as usize + 1).min(len - 1), quarters % 4)]
    };
    let mut values = vec![];
    for channel in input.values.chunks_exact(height * width) {
        for (y, x) in (0..2 * height).flat_map(|y| (0..2 * width).map(move |x| (y, x))) {
            let mut sum = 0;
            for (row, rows) in parts(y, height) {
                for (column, columns) in parts(x, width) {
                    sum += rows * columns * i128::from(channel[row * width + column]);
                }
            }
            values.push(on_grid(sum, 4, input.grid.qmin(), input.grid.qmax()));
        }
    }
    assert_eq!(values.len(), 4 * channels * height * width);
    values
}

/// `value * 2^-shift`, half to even, clamped.
fn on_grid(value: i128, shift: i32, low: i32, high: i32) -> i16 {
    let rounded = if shift <= 0 {
        value << -shift
    } else {
        let (floor, half) = (value >> shift, 1_i128 << (shift - 1));
        let rest = value - (floor << shift);
        floor + i128::from(rest > half || (rest == half && floor % 2 != 0))
    };
    rounded.clamp(i128::from(low), i128::from(high)) as i16
}

fn random_conv(
    shape: ConvShape,
    activation: Activation,
    bits: u8,
    exponent: i32,
    largest_bias: i64,
    random: &mut Random,
) -> IntegerConv {
    let limit = 1_i64 << (bits - 1);
    let weights = (0..shape.n_weights()).map(|_| random.up_to(-limit, limit - 1) as i8).collect();
    let bias = (0..shape.out_channels).map(|_| random.up_to(-largest_bias, largest_bias) as i32).collect();
    let threshold = |random: &mut Random| WeightThreshold::new(random.up_to(128, 255) as u8, exponent);
    let thresholds = (0..shape.out_channels).map(|_| threshold(random).expect("on the grid")).collect();
    IntegerConv::from_integers("conv", shape, activation, weights, bias, thresholds, bits).expect("fitting lengths")
}

fn node(name: &str, op: IntegerOp, inputs: &[usize], shape: [usize; 3], grid: ActivationGrid) -> IntegerNode {
    IntegerNode { name: name.into(), op, inputs: inputs.to_vec(), shape, grid }
}

fn random_tensor(shape: [usize; 3], grid: ActivationGrid, random: &mut Random) -> IntTensor {
    let value = |_| random.up_to(i64::from(grid.qmin()), i64::from(grid.qmax())) as i16;
    IntTensor { shape, grid, values: (0..shape.iter().product()).map(value).collect() }
}

/// Twice: the second run takes its memory from the first, with what is left in it.
fn check(model: &IntegerModel, input: &IntTensor, expected: &[i16]) {
    for isa in InstructionSet::available() {
        let interpreter = Interpreter::on(model, isa);
        for _ in 0..2 {
            let got = interpreter.run(&input.values).expect("the right input");
            assert_eq!((got.shape, got.grid), (model.output().shape, model.output().grid));
            assert_eq!(got.values, expected, "{isa:?}");
        }
        let all = interpreter.run_all(&input.values).expect("the right input");
        assert_eq!(all.last().expect("an output").values, expected, "{isa:?}");
    }
}

fn check_conv(conv: IntegerConv, input: &IntTensor, output: ActivationGrid) {
    let [channels, height, width] = input.shape;
    let out_shape = |height: usize, width: usize| {
        let shape = conv.shape();
        [shape.out_channels, shape.output_size(height), shape.output_size(width)]
    };
    let image = node("input", IntegerOp::Input, &[], input.shape, input.grid);
    let op = IntegerOp::Conv(conv.clone());
    let last = node("conv", op.clone(), &[0], out_shape(height, width), output);
    let model = IntegerModel::new("conv", vec![image.clone(), last]).expect("a valid network");
    check(&model, input, &plain_conv(&conv, input, output));

    let doubled = [channels, 2 * height, 2 * width];
    let up = node("up", IntegerOp::Upsample2x(Upsampling::Nearest), &[0], doubled, input.grid);
    let last = node("conv", op, &[1], out_shape(2 * height, 2 * width), output);
    let model = IntegerModel::new("up", vec![image, up, last]).expect("a valid network");
    let pixel = |at: usize| {
        let (y, x) = (at / (2 * width) % (2 * height), at % (2 * width));
        input.values[(at / (4 * height * width) * height + y / 2) * width + x / 2]
    };
    let values = (0..doubled.iter().product()).map(pixel).collect();
    check(&model, input, &plain_conv(&conv, &IntTensor { shape: doubled, values, ..*input }, output));
}

fn grids() -> impl Strategy<Value = ActivationGrid> {
    (any::<bool>(), -8..8).prop_map(|(signed, exponent)| ActivationGrid::new(8, signed, exponent).expect("a grid"))
}

fn outputs() -> impl Strategy<Value = ActivationGrid> {
    let wide = (-24..=24).prop_map(|exponent| ActivationGrid::new(16, true, exponent).expect("a grid"));
    let any = (any::<bool>(), -24..=24)
        .prop_map(|(signed, exponent)| ActivationGrid::new(8, signed, exponent).expect("a grid"));
    prop_oneof![4 => grids(), 1 => any, 1 => wide]
}

fn activations() -> impl Strategy<Value = Activation> {
    prop_oneof![Just(Activation::None), Just(Activation::Relu), Just(Activation::Relu6)]
}

fn shapes() -> impl Strategy<Value = ConvShape> {
    let groups = prop_oneof![
        (1_usize..70, 1_usize..150).prop_map(|(inputs, outputs)| (inputs, outputs, 1)),
        (1_usize..50).prop_map(|channels| (channels, channels, channels)),
        (1_usize..4, 1_usize..4, 1_usize..4)
            .prop_map(|(groups, inputs, outputs)| { (groups * inputs, groups * outputs, groups) }),
    ];
    (groups, 1_usize..6, 1_usize..4, 1_usize..3, 0_usize..9).prop_map(
        |((in_channels, out_channels, groups), kernel, stride, dilation, padding)| ConvShape {
            in_channels,
            out_channels,
            kernel,
            stride,
            padding: padding % ((kernel - 1) * dilation + 1),
            dilation,
            groups,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_level_convolves_as_plain_sums_do(
        shape in shapes(),
        size in (1_usize..12, 1_usize..30),
        (activation, bits) in (activations(), prop_oneof![4 => Just(8_u8), 1 => Just(4), 1 => Just(2)]),
        (input, output) in (grids(), outputs()),
        exponent in -6..3,
        largest_bias in prop_oneof![Just(0_i64), Just(20_000), Just(1 << 30)],
        seed in any::<u64>(),
    ) {
        let extent = shape.dilation * (shape.kernel - 1) + 1;
        let (height, width) = (size.0.max(extent), size.1.max(extent));
        let mut random = Random(seed);
        let conv = random_conv(shape, activation, bits, exponent, largest_bias, &mut random);
        let input = random_tensor([shape.in_channels, height, width], input, &mut random);
        check_conv(conv, &input, output);
    }

    #[test]
    fn every_level_adds_as_integers_do(
        shape in (1_usize..40, 1_usize..9, 1_usize..9),
        (a, b) in (grids(), (any::<bool>(), -24..16)),
        output in outputs(),
        seed in any::<u64>(),
    ) {
        let b = ActivationGrid::new(8, b.0, b.1).expect("a grid");
        let shape: [usize; 3] = shape.into();
        let mut random = Random(seed);
        let input = random_tensor(shape, a, &mut random);
        // A second tensor on another grid: one weight per channel, its largest.
        let one = ConvShape {
            in_channels: shape[0], out_channels: shape[0], kernel: 1, stride: 1, padding: 0, dilation: 1,
            groups: shape[0],
        };
        let conv = random_conv(one, Activation::None, 8, 0, 100, &mut random);
        let second = IntTensor { shape, grid: b, values: plain_conv(&conv, &input, b) };
        let nodes = vec![
            node("input", IntegerOp::Input, &[], shape, a),
            node("second", IntegerOp::Conv(conv), &[0], shape, b),
            node("sum", IntegerOp::Add, &[0, 1], shape, output),
        ];
        let model = IntegerModel::new("sum", nodes).expect("a valid network");
        check(&model, &input, &plain_sum(&input, &second, output));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_level_upsamples_between_pixels_as_integers_do(
        shape in (1_usize..40, 1_usize..9, 1_usize..9),
        grid in grids(),
        seed in any::<u64>(),
    ) {
        let shape: [usize; 3] = shape.into();
        let input = random_tensor(shape, grid, &mut Random(seed));
        let expected = plain_bilinear(&input);
        let doubled = [shape[0], 2 * shape[1], 2 * shape[2]];
        let image = node("input", IntegerOp::Input, &[], shape, grid);
        let up = node("up", IntegerOp::Upsample2x(Upsampling::Bilinear), &[0], doubled, grid);
        let model = IntegerModel::new("up", vec![image.clone(), up.clone()]).expect("a valid network");
        check(&model, &input, &expected);
        // And where a convolution reads it.
        let one = ConvShape {
            in_channels: shape[0], out_channels: shape[0], kernel: 3, stride: 1, padding: 1, dilation: 1,
            groups: shape[0],
        };
        let conv = random_conv(one, Activation::Relu, 8, 0, 100, &mut Random(seed));
        let upsampled = IntTensor { shape: doubled, values: expected, grid };
        let expected = plain_conv(&conv, &upsampled, grid);
        let last = node("conv", IntegerOp::Conv(conv), &[1], doubled, grid);
        let model = IntegerModel::new("up", vec![image, up, last]).expect("a valid network");
        check(&model, &input, &expected);
    }
}

#[test]
fn extreme_sums_and_scales_are_exact() {
    let shape =
        ConvShape { in_channels: 300, out_channels: 17, kernel: 3, stride: 1, padding: 1, dilation: 1, groups: 1 };
    let mut random = Random(5);
    for (signed, exponent) in [(true, -24), (true, 24), (false, 3), (false, -24)] {
        for output in [-24, 0, 24].map(|exponent| ActivationGrid::new(8, signed, exponent).expect("a grid")) {
            let conv = random_conv(
                shape,
                Activation::None,
                8,
                exponent,
                i64::from(i32::MAX) - 300 * 9 * 256 * 128,
                &mut random,
            );
            let grid = ActivationGrid::new(8, signed, -exponent).expect("a grid");
            let mut input = random_tensor([300, 3, 3], grid, &mut random);
            input.values.iter_mut().step_by(3).for_each(|q| *q = grid.qmax() as i16);
            input.values.iter_mut().skip(1).step_by(5).for_each(|q| *q = grid.qmin() as i16);
            check_conv(conv, &input, output);
        }
    }
}
