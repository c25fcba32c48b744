//! A step of a recipe's second stage, as `scripts/bench/prompts.sh` measures it: prompts of one image through the mask decoder, forward and
//! backward, some at a time as training decodes them.
//!
//! - `prompts THREADS PROMPTS AT_ONCE REPEATS WEIGHTS`: WEIGHTS is a file of MobileSAM
#![expect(clippy::disallowed_methods, reason = "a program that measures")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program that measures")]

use std::path::Path;
use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use sensei_sam::student::PromptableStudent;
use sensei_student::lite_fpn::LiteFpnConfig;
use sensei_student::pyramid::{EMBEDDING, EMBEDDING_CHANNELS, EMBEDDING_GRID};
use sensei_student::student::Student;
use sensei_student::weights::read_weights;
use sensei_tensor::network::Network;
use sensei_tensor::prompts::{Decode, MaskTokens, PointLabel, PromptPoint};

/// The allocator of the `sensei` program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    sensei_tensor::ops::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [threads, n_prompts, at_once, repeats, weights] = &arguments[..] else {
        println!("usage: prompts THREADS PROMPTS AT_ONCE REPEATS WEIGHTS");
        return;
    };
    let [threads, n_prompts, at_once, repeats] =
        [threads, n_prompts, at_once, repeats].map(|number| number.parse::<usize>().unwrap());
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
    let config = LiteFpnConfig { input_size: 256, encoder_blocks: 11, pyramid_channels: 128, refine_blocks: 1 };
    let device = Device::flex().autodiff();
    let encoder = Student::new(config.graph().unwrap(), 1, &device);
    let tensors = read_weights(Path::new(weights)).unwrap().tensors;
    let student = PromptableStudent::new(Box::new(encoder), EMBEDDING, weights, &tensors).unwrap();
    let random =
        |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Uniform(-0.2, 0.2), &device.clone().inner());
    let embedding = random([1, EMBEDDING_CHANNELS, EMBEDDING_GRID, EMBEDDING_GRID]);
    let slopes = random([at_once, 1, 256, 256]);
    let point = |x: f64, y: f64, label: PointLabel| PromptPoint { x, y, label };
    let boxes: Vec<Vec<PromptPoint>> = (0..n_prompts)
        .map(|idx| {
            let at = 40.0 * idx as f64;
            vec![point(at, 100.0, PointLabel::UpperLeft), point(at + 300.0, 600.0, PointLabel::LowerRight)]
        })
        .collect();
    let step = || {
        let mut found = 0;
        for boxes in boxes.chunks(at_once) {
            let leaf = Tensor::<4>::from_inner(embedding.clone()).require_grad();
            let masks = student.decode(leaf.clone(), boxes, MaskTokens::Single).masks.0;
            let slopes = slopes.clone().narrow(0, 0, boxes.len()).autodiff();
            let mut gradients = (masks * slopes).mean().backward();
            assert!(leaf.grad_remove(&mut gradients).is_some());
            let parameters = student.groups().into_iter().flat_map(|group| &group.parameters);
            found += parameters.filter(|parameter| parameter.values.grad_remove(&mut gradients).is_some()).count();
        }
        assert!(found > 0, "gradients of the decoder");
    };
    let mut seconds: Vec<f64> = (0..repeats + 1)
        .map(|_| {
            let start = Instant::now();
            rayon::scope(|_| step());
            start.elapsed().as_secs_f64()
        })
        .skip(1)
        .collect();
    seconds.sort_by(f64::total_cmp);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse().ok())
        .unwrap();
    println!(
        "median_ms {:.1} min_ms {:.1} peak_mib {:.0}",
        1e3 * seconds[seconds.len() / 2],
        1e3 * seconds[0],
        peak / 1024.0
    );
}
