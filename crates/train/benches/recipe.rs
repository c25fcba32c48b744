//! A step of a recipe's first stage, as `scripts/bench/recipe.sh` measures it: an image encoder learns an embedding.
//!
//! - `recipe THREADS BATCH REPEATS SIDE`: whole training steps of the encoder at SIDE x SIDE; without any arguments, `1 2 3 256`
#![expect(clippy::disallowed_methods, reason = "a program that measures")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program that measures")]

use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use sensei_loss::feature_mse;
use sensei_student::lite_fpn::LiteFpnConfig;
use sensei_student::pyramid::{EMBEDDING_CHANNELS, EMBEDDING_GRID};
use sensei_student::student::Student;
use sensei_train::optimizer::{AdamW, AdamWConfig};

/// The allocator of the `sensei` program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    sensei_tensor::ops::keep_freed_memory();
    // `cargo bench` adds an argument of its own.
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let [threads, batch, repeats, input_size] = <[usize; 4]>::try_from(numbers).unwrap_or([1, 2, 3, 256]);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
    let config = LiteFpnConfig { input_size, encoder_blocks: 11, pyramid_channels: 128, refine_blocks: 1 };
    let device = Device::flex().autodiff();
    let mut student = Student::new(config.graph().unwrap(), 1, &device);
    let constants = AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
    let mut optimizer = AdamW::new(constants, student.parameters());
    let random =
        |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Uniform(-1.0, 1.0), &device.clone().inner());
    let images = random([batch, 3, input_size, input_size]);
    let target = random([batch, EMBEDDING_CHANNELS, EMBEDDING_GRID, EMBEDDING_GRID]);
    let mut step = || {
        let forward = student.forward_train(images.clone());
        let loss = feature_mse(forward.masks.0, target.clone().autodiff(), &[]).mean();
        let value: f32 = loss.clone().into_scalar();
        assert!(value.is_finite());
        let mut found = loss.backward();
        let gradients = student.parameters().iter().map(|parameter| parameter.values.grad_remove(&mut found).unwrap());
        let gradients = gradients.collect();
        optimizer.step(student.parameters_mut(), gradients, |_| 1e-3);
        student.update_running_stats(&forward.norm_stats);
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
    println!("median_ms {:.1} min_ms {:.1}", 1e3 * seconds[seconds.len() / 2], 1e3 * seconds[0]);
}
