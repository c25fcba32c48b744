//! PicoSAM2's decoder blocks at batch 8 with nearest and with bilinear upsampling, in the block and before it:
//! `upsampling [threads] [repeats]`.
//!
//! Each time is the minimum wall time of several runs; the four variants alternate.
#![expect(clippy::disallowed_methods, reason = "a program that measures")]
#![allow(clippy::print_stdout, reason = "a program")]

use std::hint::black_box;
use std::time::Instant;

use sensei_kernels::activation::Activation;
use sensei_kernels::depthwise::DepthwiseShape;
use sensei_kernels::norm::Norm;
use sensei_kernels::pixelwise::{self, MapShape, Upsampling};
use sensei_kernels::separable::{self, PackedSeparable, SeparableShape, SeparableWeights};
use sensei_kernels::{bilinear, memory};

/// The allocator of the `sensei` program: outputs get memory that is mapped already.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 8;
/// Channels read and written, side before upsampling.
const BLOCKS: [(usize, usize, usize); 4] = [(320, 192, 6), (192, 128, 12), (128, 80, 24), (80, 40, 48)];
const VARIANTS: [(&str, Upsampling, bool); 4] = [
    ("nearest in the block", Upsampling::Nearest, true),
    ("nearest before it", Upsampling::Nearest, false),
    ("bilinear in the block", Upsampling::Bilinear, true),
    ("bilinear before it", Upsampling::Bilinear, false),
];

fn main() {
    memory::keep_freed_memory();
    let arguments: Vec<usize> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let (threads, repeats) = (*arguments.first().unwrap_or(&1), *arguments.get(1).unwrap_or(&9));
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("the first pool of the process");
    println!("{threads} threads, batch {BATCH}, minimum of {repeats} runs, ms");
    println!("{:40} {:>9} {:>9} {:>9}", "", "forward", "backward", "inference");
    let mut totals = [[0.0; 3]; 4];
    for (ins, outs, side) in BLOCKS {
        let variants = VARIANTS.map(|(_, upsampling, fused)| Block::new(ins, outs, side, upsampling, fused));
        let mut minimum = [[f64::INFINITY; 3]; 4];
        for _ in 0..repeats {
            for (variant, minimum) in variants.iter().zip(&mut minimum) {
                minimum.iter_mut().zip(variant.times()).for_each(|(minimum, ms)| *minimum = minimum.min(ms));
            }
        }
        for (((name, ..), ms), total) in VARIANTS.iter().zip(minimum).zip(&mut totals) {
            print_row(&format!("{ins} -> {outs} @ {side}: {name}"), ms);
            total.iter_mut().zip(ms).for_each(|(total, ms)| *total += ms);
        }
    }
    for ((name, ..), total) in VARIANTS.iter().zip(totals) {
        print_row(&format!("all: {name}"), total);
    }
}

fn print_row(name: &str, [forward, backward, inference]: [f64; 3]) {
    println!("{name:40} {forward:9.2} {backward:9.2} {inference:9.2}");
}

/// A block on one input, with the upsampling in it or as an operator before it.
struct Block {
    upsampling: Upsampling,
    shape: SeparableShape,
    small: MapShape,
    input: Vec<f32>,
    depthwise: Vec<f32>,
    pointwise: Vec<f32>,
    ones: Vec<f32>,
    packed: PackedSeparable,
}

impl Block {
    fn new(ins: usize, outs: usize, side: usize, upsampling: Upsampling, fused: bool) -> Self {
        let small = MapShape { batch: BATCH, height: side, width: side, channels: ins };
        let (height, width, channels) = (2 * side, 2 * side, ins);
        let depthwise = DepthwiseShape { batch: BATCH, height, width, channels, kernel: 3, dilation: 1, padding: 1 };
        let shape = SeparableShape { depthwise, upsampling: fused.then_some(upsampling), out_channels: outs };
        let (depthwise, pointwise) = (values(9 * ins), values(ins * outs));
        let bias = values(ins.max(outs));
        let folded = separable::FoldedSeparable {
            depthwise: &depthwise,
            depthwise_bias: &bias[..ins],
            pointwise: &pointwise,
            pointwise_bias: &bias[..outs],
            activation: Activation::Relu,
        };
        let packed = PackedSeparable::new(&shape, &folded, None, None);
        let ones = vec![1.0; ins.max(outs)];
        Self { upsampling, shape, small, input: values(small.len()), depthwise, pointwise, ones, packed }
    }

    /// Milliseconds of training's forward pass, its backward pass, and inference.
    fn times(&self) -> [f64; 3] {
        let (ins, outs) = (self.small.channels, self.shape.out_channels);
        let norm = |channels| Norm {
            scale: &self.ones[..channels],
            shift: &self.ones[..channels],
            epsilon: 1e-5,
            activation: Activation::Relu,
        };
        let weights = SeparableWeights {
            depthwise: &self.depthwise,
            norm1: norm(ins),
            pointwise: &self.pointwise,
            norm2: norm(outs),
        };
        let grad = values(self.shape.output_len());
        let start = Instant::now();
        let upsampled = self.upsampled();
        let input = upsampled.as_ref().unwrap_or(&self.input);
        let saved = separable::forward(&self.shape, &weights, input);
        let saved = saved.as_slices();
        black_box(separable::output(&self.shape, &weights, &saved, None));
        let forward = start.elapsed();
        let start = Instant::now();
        let made = separable::backward(&self.shape, &weights, input, None, &saved, &grad);
        if upsampled.is_some() {
            black_box(match self.upsampling {
                Upsampling::Nearest => pixelwise::upsample_2x_backward(&self.small, &made.input),
                Upsampling::Bilinear => bilinear::upsample_2x_backward(&self.small, &made.input),
            });
        }
        let backward = start.elapsed();
        drop((made, upsampled));
        let start = Instant::now();
        let upsampled = self.upsampled();
        black_box(self.packed.forward(BATCH, upsampled.as_ref().unwrap_or(&self.input), None));
        [forward, backward, start.elapsed()].map(|time| time.as_secs_f64() * 1e3)
    }

    /// What the block reads, if it does not upsample by itself.
    fn upsampled(&self) -> Option<Vec<f32>> {
        self.shape.upsampling.is_none().then(|| match self.upsampling {
            Upsampling::Nearest => pixelwise::upsample_2x(&self.small, &self.input),
            Upsampling::Bilinear => bilinear::upsample_2x(&self.small, &self.input),
        })
    }
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|idx| (idx % 251) as f32 / 251.0 - 0.4).collect()
}
