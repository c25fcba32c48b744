//! GFLOP/s of the layers of PicoSAM2 at batch 8, forward and both gradients: `layers [threads] [repeats]`.
//!
//! Each time is the minimum of several runs, in CPU time of all threads, which other programs on the machine disturb little.
//! Operators without products are given in GB/s of what they read and write.
#![expect(clippy::disallowed_methods, reason = "a program that measures")]
#![allow(clippy::print_stdout, reason = "a program")]

use std::hint::black_box;

use sensei_kernels::activation::Activation;
use sensei_kernels::conv::{self, ConvShape};
use sensei_kernels::depthwise::{self, DepthwiseShape};
use sensei_kernels::norm::{self, Norm};
use sensei_kernels::optimizer::{AdamW, adamw_step};
use sensei_kernels::pixelwise::{self, MapShape};

/// The allocator of the `sensei` program: outputs get memory that is mapped already.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 8;

fn main() {
    sensei_kernels::memory::keep_freed_memory();
    let arguments: Vec<usize> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let (threads, repeats) = (*arguments.first().unwrap_or(&1), *arguments.get(1).unwrap_or(&7));
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("the first pool of the process");
    println!("{threads} threads, batch {BATCH}, minimum CPU time of {repeats} runs");
    let mut total = [0.0; 3];
    let mut all = |name: String, giga: f64, ms: [f64; 3]| {
        let rate = ms.map(|ms| giga / ms * 1e3);
        let [a, b, c] = rate;
        println!("{name:28} {:7.2} {:7.2} {:7.2} ms  {a:6.1} {b:6.1} {c:6.1} G/s", ms[0], ms[1], ms[2]);
        total.iter_mut().zip(ms).for_each(|(total, ms)| *total += ms);
    };
    println!("{:28} {:>7} {:>7} {:>7}", "", "forward", "d input", "d weight");
    for (kernel, ins, outs, side) in DENSE {
        let (stride, padding) = if kernel == 3 { (2, 1) } else { (1, 0) };
        let shape = ConvShape {
            batch: BATCH,
            height: side,
            width: side,
            in_channels: ins,
            out_channels: outs,
            kernel,
            stride,
            padding,
            dilation: 1,
        };
        let (input, weight) = (values(shape.input_len()), values(shape.weight_len()));
        let grad = values(shape.output_len());
        let ms = [
            min_ms(repeats, || conv::forward(&shape, &input, &weight, None, Activation::None)),
            min_ms(repeats, || conv::backward_input(&shape, &weight, &grad)),
            min_ms(repeats, || conv::backward_weight(&shape, &input, &grad)),
        ];
        let giga = 2.0 * (shape.output_len() * ins * kernel * kernel) as f64 / 1e9;
        all(format!("{kernel}x{kernel} {ins} -> {outs} @ {side}"), giga, ms);
    }
    for (channels, side) in DEPTHWISE {
        let shape =
            DepthwiseShape { batch: BATCH, height: side, width: side, channels, kernel: 3, dilation: 1, padding: 1 };
        let (input, weight) = (values(shape.input_len()), values(shape.weight_len()));
        let ms = [
            min_ms(repeats, || depthwise::forward(&shape, &input, &weight, None, Activation::None)),
            min_ms(repeats, || depthwise::backward_input(&shape, &weight, &input)),
            min_ms(repeats, || depthwise::backward_weight(&shape, &input, &input)),
        ];
        all(format!("depthwise 3x3 {channels} @ {side}"), 18.0 * input.len() as f64 / 1e9, ms);
    }
    for (channels, side) in NORMS {
        let input = values(BATCH * side * side * channels);
        let (scale, shift, grad) = (values(channels), values(channels), input.clone());
        let norm = Norm { scale: &scale, shift: &shift, epsilon: 1e-5, activation: Activation::Relu };
        let forward = norm::forward(&norm, &input);
        let ms = [
            min_ms(repeats, || norm::forward(&norm, &input)),
            min_ms(repeats, || norm::backward(&norm, &input, forward.statistics.as_slices(), &grad)),
            0.0,
        ];
        all(format!("batch norm {channels} @ {side}"), 12.0 * input.len() as f64 / 1e9, ms);
    }
    for (channels, side) in UPSAMPLED {
        let small = MapShape { batch: BATCH, height: side, width: side, channels };
        let (input, grad) = (values(small.len()), values(4 * small.len()));
        let ms = [
            min_ms(repeats, || pixelwise::upsample_2x(&small, &input)),
            min_ms(repeats, || pixelwise::upsample_2x_backward(&small, &grad)),
            0.0,
        ];
        all(format!("upsample {channels} @ {side}"), 20.0 * small.len() as f64 / 1e9, ms);
    }
    let (mut parameters, gradients) = (values(1_262_818), values(1_262_818));
    let (mut first, mut second) = (vec![0.0; 1_262_818], vec![0.0; 1_262_818]);
    let config = AdamW { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
    let ms = min_ms(repeats, || adamw_step(&config, 1, &mut parameters, &gradients, &mut first, &mut second));
    all("AdamW".into(), 28.0 * 1.262_818e-3, [ms, 0.0, 0.0]);
    println!("total {:.1} + {:.1} + {:.1} = {:.1} ms", total[0], total[1], total[2], total.iter().sum::<f64>());
}

/// Minimum time of `repeats` runs, in milliseconds.
fn min_ms<T>(repeats: usize, mut run: impl FnMut() -> T) -> f64 {
    let times = (0..repeats).map(|_| {
        let start = cpu_secs();
        black_box(run());
        (cpu_secs() - start) * 1e3
    });
    times.fold(f64::INFINITY, f64::min)
}

/// Seconds that the threads of this process have run.
fn cpu_secs() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one `timespec`, which the pointer is valid for.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|idx| (idx % 251) as f32 / 251.0 - 0.4).collect()
}

/// Kernel, channels read and written, side of the input.
const DENSE: [(usize, usize, usize, usize); 18] = [
    (3, 48, 48, 96),
    (3, 96, 96, 48),
    (3, 160, 160, 24),
    (3, 256, 256, 12),
    (1, 3, 48, 96),
    (1, 48, 96, 48),
    (1, 96, 160, 24),
    (1, 160, 256, 12),
    (1, 256, 320, 6),
    (1, 320, 192, 12),
    (1, 256, 192, 12),
    (1, 192, 128, 24),
    (1, 160, 128, 24),
    (1, 128, 80, 48),
    (1, 96, 80, 48),
    (1, 80, 40, 96),
    (1, 48, 40, 96),
    (1, 40, 1, 96),
];
const DEPTHWISE: [(usize, usize); 9] =
    [(3, 96), (48, 48), (96, 24), (160, 12), (256, 6), (320, 12), (192, 24), (128, 48), (80, 96)];
const NORMS: [(usize, usize); 18] = [
    (3, 96),
    (48, 96),
    (48, 48),
    (96, 48),
    (96, 24),
    (160, 24),
    (160, 12),
    (256, 12),
    (256, 6),
    (320, 6),
    (320, 12),
    (192, 12),
    (192, 24),
    (128, 24),
    (128, 48),
    (80, 48),
    (80, 96),
    (40, 96),
];
/// Channels and side before upsampling.
const UPSAMPLED: [(usize, usize); 4] = [(320, 6), (192, 12), (128, 24), (80, 48)];
