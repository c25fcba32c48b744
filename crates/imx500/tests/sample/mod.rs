//! Networks of the student family with random weights from integers only: the same bytes on every machine.
#![allow(dead_code, reason = "shared by several tests and an example; none uses all of it")]

pub mod package;

use sensei_graph::op::{Activation, ConvShape, Upsampling};
use sensei_int8::grid::{ActivationGrid, WeightThreshold};
use sensei_int8::model::{FloatConv, IntegerConv, IntegerModel, IntegerNode, IntegerOp};

/// Widths and options, as `sensei_student::unet::UnetConfig` has them, and bits.
pub struct Sample {
    pub name: &'static str,
    pub size: usize,
    pub encoder: &'static [usize],
    pub bottleneck: usize,
    pub decoder: &'static [usize],
    /// Channel gate and depthwise head.
    pub is_picosam3: bool,
    /// A second, dilated block in PicoSAM3's bottleneck.
    pub is_dilated: bool,
    pub is_bilinear: bool,
    pub activation: Activation,
    /// Stages end in a depthwise block of stride 2 instead of a dense convolution.
    pub is_depthwise_down: bool,
    /// The blocks of EfficientNet-Lite0 instead of a published student: a dense stem, 5x5 taps, sums without activation. Of the widths
    /// only those of the decoder are read.
    pub is_lite: bool,
    /// Bits of the stride-2 convolutions' weights.
    pub dense_bits: u8,
    pub output_bits: u8,
    pub input: ActivationGrid,
}

pub const PICOSAM2: Sample = Sample {
    name: "picosam2",
    size: 96,
    encoder: &[48, 96, 160, 256],
    bottleneck: 320,
    decoder: &[192, 128, 80, 40],
    is_picosam3: false,
    is_dilated: true,
    is_bilinear: false,
    activation: Activation::Relu,
    is_depthwise_down: false,
    is_lite: false,
    dense_bits: 8,
    output_bits: 8,
    input: ActivationGrid::SIGNED_PIXELS,
};
pub const PICOSAM3: Sample = Sample { name: "picosam3", is_picosam3: true, ..PICOSAM2 };
/// What the golden cases hold: every operator, odd widths.
pub const SMALL2: Sample = Sample {
    name: "small2",
    size: 32,
    encoder: &[8, 12, 20, 32],
    bottleneck: 40,
    decoder: &[24, 16, 12, 6],
    input: ActivationGrid::UNSIGNED_PIXELS,
    ..PICOSAM2
};
/// The same with gate and head, 4-bit weights and a 16-bit output.
pub const SMALL3: Sample = Sample {
    name: "small3",
    is_picosam3: true,
    dense_bits: 4,
    output_bits: 16,
    input: ActivationGrid::SIGNED_PIXELS,
    ..SMALL2
};

/// The same, upsampled between pixels.
pub const BILINEAR: Sample = Sample { name: "bilinear", is_bilinear: true, ..SMALL3 };
/// What only MobileNet's students have: ReLU6, and depthwise convolutions of stride 2.
pub const MOBILE: Sample = Sample { name: "mobile", is_depthwise_down: true, ..RELU6 };
pub const PICOSAM2_MOBILE: Sample =
    Sample { name: "picosam2-mobile", activation: Activation::Relu6, is_depthwise_down: true, ..PICOSAM2 };
/// [`SMALL2`] with ReLU6.
pub const RELU6: Sample = Sample { name: "relu6", activation: Activation::Relu6, ..SMALL2 };
/// What only students on EfficientNet-Lite0 have.
pub const LITE: Sample =
    Sample { name: "lite", size: 64, is_lite: true, is_bilinear: true, decoder: &[24, 16, 12, 8], ..RELU6 };
pub const PICOSAM2_BILINEAR: Sample = Sample { name: "picosam2-bilinear", is_bilinear: true, ..PICOSAM2 };

/// The network of configs/quickstart-w4.toml.
pub const QUICKSTART_W4: Sample = Sample {
    name: "quickstart-w4",
    size: 64,
    encoder: &[24, 32, 64, 96],
    bottleneck: 128,
    decoder: &[96, 64, 32, 32],
    is_picosam3: true,
    is_dilated: true,
    is_bilinear: false,
    activation: Activation::Relu,
    is_depthwise_down: false,
    is_lite: false,
    dense_bits: 4,
    output_bits: 16,
    input: ActivationGrid::SIGNED_PIXELS,
};

/// What `examples/sample.rs` makes by name.
pub const ALL: [&Sample; 11] = [
    &PICOSAM2,
    &PICOSAM2_BILINEAR,
    &PICOSAM3,
    &SMALL2,
    &SMALL3,
    &BILINEAR,
    &RELU6,
    &MOBILE,
    &PICOSAM2_MOBILE,
    &QUICKSTART_W4,
    &LITE,
];

/// A stream of bits that needs no library and no floating-point function (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Uniform in [-1, 1).
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / f64::from(1 << 26) / f64::from(1 << 26) - 1.0
    }
}

struct Builder {
    nodes: Vec<IntegerNode>,
    random: Random,
    /// What follows the convolutions that have an activation.
    activation: Activation,
}

#[derive(Clone, Copy)]
struct Layer {
    out: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    depthwise: bool,
    has_activation: bool,
    bits: u8,
}

const POINT: Layer =
    Layer { out: 0, kernel: 1, stride: 1, dilation: 1, depthwise: false, has_activation: false, bits: 8 };

impl Builder {
    fn push(
        &mut self,
        name: &str,
        op: IntegerOp,
        inputs: Vec<usize>,
        shape: [usize; 3],
        grid: ActivationGrid,
    ) -> usize {
        self.nodes.push(IntegerNode { name: name.into(), op, inputs, shape, grid });
        self.nodes.len() - 1
    }

    fn conv(&mut self, name: &str, input: usize, layer: Layer, grid: ActivationGrid) -> usize {
        let IntegerNode { shape: [channels, height, width], grid: input_grid, .. } = self.nodes[input];
        let (out_channels, groups) = if layer.depthwise { (channels, channels) } else { (layer.out, 1) };
        let shape = ConvShape {
            in_channels: channels,
            out_channels,
            kernel: layer.kernel,
            stride: layer.stride,
            padding: layer.kernel / 2 * layer.dilation,
            dilation: layer.dilation,
            groups,
        };
        let activation = if layer.has_activation { self.activation } else { Activation::None };
        // Uniform on +-a has variance a^2/3; layers before a ReLU want 2/fan_in, others 1/fan_in. Nine times that takes
        // many values above 6.
        let gain = match activation {
            Activation::None => 3.0,
            Activation::Relu => 6.0,
            Activation::Relu6 => 54.0,
        };
        let reach = (gain / shape.weights_per_channel() as f64).sqrt();
        let weights: Vec<f32> = (0..shape.n_weights()).map(|_| (self.random.unit() * reach) as f32).collect();
        let bias: Vec<f32> = (0..out_channels).map(|_| (self.random.unit() * 0.2) as f32).collect();
        let channels = weights.chunks(shape.weights_per_channel()).zip(&bias);
        let thresholds = channels.map(|(weights, &bias)| {
            let largest = weights.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
            WeightThreshold::for_channel(f64::from(largest), f64::from(bias), input_grid, layer.bits).expect("in range")
        });
        let thresholds = thresholds.collect();
        let floats = FloatConv { weights: &weights, bias: &bias };
        let (conv, _) = IntegerConv::quantize(name, shape, activation, floats, thresholds, layer.bits, input_grid)
            .expect("fitting lengths");
        let out_shape = [out_channels, shape.output_size(height), shape.output_size(width)];
        self.push(name, IntegerOp::Conv(conv), vec![input], out_shape, grid)
    }

    fn depthwise_block(&mut self, name: &str, input: usize, out: usize, dilation: usize, stride: usize) -> usize {
        let depthwise = Layer { kernel: 3, stride, dilation, depthwise: true, has_activation: true, ..POINT };
        let x = self.conv(&format!("{name}.0"), input, depthwise, self.activation_grid());
        self.conv(&format!("{name}.3"), x, Layer { out, has_activation: true, ..POINT }, self.activation_grid())
    }

    /// A block of EfficientNet-Lite0; what the depthwise convolution reads is `expansion` times as wide.
    fn inverted_residual(&mut self, name: &str, input: usize, [expansion, kernel, stride, out]: [usize; 4]) -> usize {
        let channels = self.nodes[input].shape[0];
        let mut x = input;
        if expansion > 1 {
            let expand = Layer { out: channels * expansion, has_activation: true, ..POINT };
            x = self.conv(&format!("{name}._expand_conv"), x, expand, self.activation_grid());
        }
        let depthwise = Layer { kernel, stride, depthwise: true, has_activation: true, ..POINT };
        x = self.conv(&format!("{name}._depthwise_conv"), x, depthwise, self.activation_grid());
        x = self.conv(&format!("{name}._project_conv"), x, Layer { out, ..POINT }, grid(8, true, 3));
        if stride == 1 && channels == out {
            let shape = self.nodes[x].shape;
            x = self.push(&format!("{name}.add"), IntegerOp::Add, vec![x, input], shape, grid(8, true, 4));
        }
        x
    }

    /// Of what comes next. ReLU6 gets a grid that ends below 6, one that goes on to 8 and one to 16 in turn.
    fn activation_grid(&self) -> ActivationGrid {
        match self.activation {
            Activation::None | Activation::Relu => grid(8, false, 3),
            Activation::Relu6 => grid(8, false, 2 + (self.nodes.len() % 3) as i32),
        }
    }
}

fn grid(bits: u8, signed: bool, exponent: i32) -> ActivationGrid {
    ActivationGrid::new(bits, signed, exponent).expect("a grid")
}

impl Sample {
    pub fn model(&self) -> IntegerModel {
        let mut b = Builder { nodes: vec![], random: Random(self.size as u64), activation: self.activation };
        let mut x = b.push("input", IntegerOp::Input, vec![], [3, self.size, self.size], self.input);
        let mut skips = vec![];
        if self.is_lite {
            let stem = Layer { out: 12, kernel: 3, stride: 2, has_activation: true, ..POINT };
            x = b.conv("encoder._conv_stem", x, stem, b.activation_grid());
            let blocks = [
                [1, 3, 1, 8],
                [6, 3, 2, 12],
                [6, 3, 1, 12],
                [6, 5, 2, 20],
                [6, 5, 1, 20],
                [6, 3, 2, 36],
                [6, 5, 1, 40],
            ];
            for (idx, block) in blocks.into_iter().enumerate() {
                if block[2] == 2 {
                    skips.push(x);
                }
                x = b.inverted_residual(&format!("encoder._blocks.{idx}"), x, block);
            }
        }
        for (idx, &width) in self.encoder.iter().enumerate().filter(|_| !self.is_lite) {
            let features = b.depthwise_block(&format!("encoder_stage{}", idx + 1), x, width, 1, 1);
            skips.push(features);
            let name = format!("down{}", idx + 1);
            x = if self.is_depthwise_down {
                b.depthwise_block(&name, features, width, 1, 2)
            } else {
                let down = Layer { out: width, kernel: 3, stride: 2, bits: self.dense_bits, ..POINT };
                b.conv(&name, features, down, grid(8, true, 3))
            };
        }
        if !self.is_lite {
            x = b.depthwise_block("bottleneck", x, self.bottleneck, 1, 1);
        }
        if self.is_picosam3 && self.is_dilated {
            x = b.depthwise_block("bottleneck2", x, self.bottleneck, 2, 1);
        }
        let skips = skips.into_iter().rev().map(Some).chain(std::iter::repeat(None));
        for (idx, (&width, skip)) in self.decoder.iter().zip(skips).enumerate() {
            let IntegerNode { shape: [c, h, w], grid: g, .. } = b.nodes[x];
            let op = if self.is_bilinear {
                IntegerOp::Upsample2x(Upsampling::Bilinear)
            } else {
                IntegerOp::Upsample2x(Upsampling::Nearest)
            };
            let up = b.push(&format!("up{}.0", idx + 1), op, vec![x], [c, 2 * h, 2 * w], g);
            let up = b.depthwise_block(&format!("up{}.1", idx + 1), up, width, 1, 1);
            let Some(skip) = skip else {
                x = up;
                continue;
            };
            let skip = b.conv(&format!("skip_conn{}", idx + 1), skip, Layer { out: width, ..POINT }, grid(8, true, 2));
            let shape = b.nodes[up].shape;
            x = b.push(&format!("add{}", idx + 1), IntegerOp::Add, vec![up, skip], shape, grid(8, true, 3));
        }
        if self.is_picosam3 {
            let shape @ [c, ..] = b.nodes[x].shape;
            let mean = b.push("eca.avg_pool", IntegerOp::GlobalAveragePool, vec![x], [c, 1, 1], grid(8, true, 1));
            let gate = b.conv("eca.conv1x1", mean, Layer { out: c, ..POINT }, grid(8, true, 2));
            let gate = b.push("eca.sigmoid", IntegerOp::Sigmoid, vec![gate], [c, 1, 1], grid(8, false, 0));
            x = b.push("eca", IntegerOp::ScaleChannels, vec![x, gate], shape, grid(8, true, 2));
            let head = Layer { kernel: 3, depthwise: true, has_activation: true, ..POINT };
            x = b.conv("refine.0", x, head, b.activation_grid());
        }
        b.conv("head", x, Layer { out: 1, ..POINT }, grid(self.output_bits, true, 4));
        IntegerModel::new(self.name, b.nodes).expect("a valid network")
    }

    /// Pixels with some structure: `[size, size, 3]`.
    pub fn pixels(&self) -> Vec<u8> {
        let mut random = Random(77);
        let mut pixel = |idx: usize| {
            let (y, x, c) = (idx / 3 / self.size, idx / 3 % self.size, idx % 3);
            let wave = (x * (c + 2) + y * 3) * 96 / self.size;
            ((wave as u64 + random.bits() % 48) % 256) as u8
        };
        (0..self.size * self.size * 3).map(&mut pixel).collect()
    }
}
