//! What `scripts/bench/*.sh` measure: `bench step THREADS BATCH REPEATS` times whole training steps of PicoSAM2,
//! `bench infer THREADS BATCH REPEATS WEIGHTS` its packed form,
//! `bench data ANNOTATIONS IMAGES DUMP N` the way from an image file to a training sample, on one thread.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program that measures")]

use std::path::Path;
use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use sensei_data::augment::Augmentation;
use sensei_data::dataset::Dataset;
use sensei_data::image_file::ImageLimits;
use sensei_data::prompt::{Border, PromptRule};
use sensei_eval::protocol::ProtocolRules;
use sensei_loss::{LossPlan, MaskLogits, MaskProbs, SampleWeighting, TeacherTarget, distillation_loss};
use sensei_student::inference::InferenceStudent;
use sensei_student::student::Student;
use sensei_student::unet::UnetConfig;
use sensei_student::weights::read_weights;
use sensei_teacher::cache::Cache;
use sensei_teacher::import::import_dump;
use sensei_train::optimizer::{AdamW, AdamWConfig};
use sensei_train::source::{InstanceChoice, SampleSource};

/// The allocator of the `sensei` program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    sensei_student::ops::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |idx: usize| arguments[idx].parse::<usize>().unwrap();
    match arguments.first().map(String::as_str) {
        Some("step") => step(number(1), number(2), number(3)),
        Some("infer") => infer(number(1), number(2), number(3), &arguments[4]),
        Some("data") => data(&arguments[1], &arguments[2], &arguments[3], number(4)),
        _ => panic!(
            "bench step THREADS BATCH REPEATS | bench infer THREADS BATCH REPEATS WEIGHTS | bench data ANNOTATIONS IMAGES DUMP N"
        ),
    }
}

fn step(threads: usize, batch: usize, repeats: usize) {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
    let device = Device::flex().autodiff();
    let mut student = Student::new(UnetConfig::picosam2().graph().unwrap(), 1, &device);
    let config = AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
    let mut optimizer = AdamW::new(config, student.parameters());
    let plan = LossPlan::picosam2(SampleWeighting::TeacherScorePerSample);
    let random = |channels| {
        Tensor::<4>::random([batch, channels, 96, 96], Distribution::Uniform(-1.0, 1.0), &device.clone().inner())
    };
    let (image, logits, truth) = (random(3), random(1), random(1).greater_elem(0.0).float());
    let mut seconds = Vec::new();
    for _ in 0..repeats + 2 {
        let start = Instant::now();
        let forward = student.forward_train(image.clone());
        let predicted_iou = Tensor::<1>::ones([batch], &device);
        let teacher = TeacherTarget { logits: MaskLogits(logits.clone().autodiff()), predicted_iou };
        let truth = MaskProbs(truth.clone().autodiff());
        let loss = distillation_loss(&plan, MaskLogits(forward.mask_logits), Some(&teacher), truth);
        let value: f32 = loss.total.clone().into_scalar();
        assert!(value.is_finite());
        let mut found = loss.total.backward();
        let gradients =
            student.parameters().iter().map(|parameter| parameter.values.grad_remove(&mut found).unwrap()).collect();
        optimizer.step(student.parameters_mut(), gradients, 3e-4);
        student.update_running_stats(&forward.batch_stats);
        seconds.push(start.elapsed().as_secs_f64());
    }
    let mut seconds = seconds.split_off(2);
    seconds.sort_by(f64::total_cmp);
    println!("median_ms {:.1} min_ms {:.1}", 1e3 * seconds[repeats / 2], 1e3 * seconds[0]);
}

fn infer(threads: usize, batch: usize, repeats: usize, weights: &str) {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
    let weights = read_weights(Path::new(weights)).unwrap().tensors;
    let student = InferenceStudent::new(UnetConfig::picosam2().graph().unwrap(), &weights).unwrap();
    // The ramp that scripts/bench/onnx_infer.py makes.
    let images: Vec<f32> = (0..batch * 3 * 96 * 96).map(|idx| (idx * 37 % 256) as f32 / 128.0 - 1.0).collect();
    let mut seconds = Vec::new();
    let mut sum = 0.0;
    for _ in 0..repeats + 2 {
        let start = Instant::now();
        let logits = student.mask_logits(&images);
        seconds.push(start.elapsed().as_secs_f64());
        sum = logits.iter().map(|logit| f64::from(logit.abs())).sum::<f64>() / logits.len() as f64;
    }
    let mut seconds = seconds.split_off(2);
    seconds.sort_by(f64::total_cmp);
    println!("median_ms {:.2} min_ms {:.2} mean_abs_logit {sum:.6}", 1e3 * seconds[repeats / 2], 1e3 * seconds[0]);
}

fn data(annotations: &str, images: &str, dump: &str, n_samples: usize) {
    let dataset = Dataset::load_coco(Path::new(annotations), Path::new(images)).unwrap();
    let folder = std::env::temp_dir().join(format!("sensei-bench-{}", std::process::id()));
    let report = import_dump(Path::new(dump), &dataset, &folder).unwrap();
    let cache = Cache::open(&folder, &report.manifest.key).unwrap();
    let prompt = PromptRule::Roi { padding: 0.1, grid: 96, border: Border::Reference };
    let limits = ImageLimits::default();
    let rules = ProtocolRules::of_student("test".into(), prompt);
    let source = SampleSource::new(dataset, Some(cache), rules, prompt, limits, InstanceChoice::Cached).unwrap();
    let augmentation =
        Augmentation { flip_probability: 0.5, brightness: 0.2, contrast: 0.2, saturation: 0.2, ..Augmentation::NONE };
    let start = Instant::now();
    for at in 0..n_samples {
        let idx = source.instances[at % source.instances.len()];
        let sample = source.augmented_sample(idx, &augmentation, 1, (at / source.instances.len()) as u64).unwrap();
        assert!(sample.teacher.is_some());
    }
    println!("samples_per_second {:.1}", n_samples as f64 / start.elapsed().as_secs_f64());
    std::fs::remove_dir_all(folder).unwrap();
}
