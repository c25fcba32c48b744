//! PicoSAM2 at 96 x 96, as `scripts/bench/*.sh` and people measure it. NETWORK is `picosam2`, or `bilinear` for PicoSAM2 with
//! bilinear upsampling:
//!
//! - `picosam2 step THREADS BATCH REPEATS [NETWORK]`: whole training steps; without any arguments, `step 1 8 5`
//! - `picosam2 parts BATCH REPEATS [NETWORK]`: their layers, on one thread and on two
//! - `picosam2 infer THREADS BATCH REPEATS WEIGHTS [NETWORK]`: the packed form for inference
//! - `picosam2 data ANNOTATIONS IMAGES DUMP N`: from an image file to a training sample, on one thread
#![expect(clippy::disallowed_methods, reason = "a program that measures")]
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program that measures")]

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use burn::tensor::{Device, Distribution, Tensor};
use sensei_answers::folder_store::FolderStore;
use sensei_answers::import::import_answers;
use sensei_data::augment::Augmentation;
use sensei_data::crop_rule::{Border, CropRule};
use sensei_data::dataset::Dataset;
use sensei_data::image_file::ImageLimits;
use sensei_graph::layer_graph::LayerGraph;
use sensei_loss::{LossPlan, SampleWeighting, TeacherTarget, distillation_loss};
use sensei_samples::selection::SelectionRules;
use sensei_samples::source::{InstanceChoice, SampleSource};
use sensei_student::inference::InferenceStudent;
use sensei_student::student::Student;
use sensei_student::unet::UnetConfig;
use sensei_student::weights::read_weights;
use sensei_tensor::masks::{MaskLogits, MaskProbs};
use sensei_tensor::profile::{self, Pass, Span};
use sensei_train::optimizer::{AdamW, AdamWConfig};

/// The allocator of the `sensei` program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    sensei_tensor::ops::keep_freed_memory();
    // `cargo bench` adds an argument of its own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let number = |idx: usize| arguments[idx].parse::<usize>().unwrap();
    let network = |idx: usize| {
        let bilinear_upsampling = match arguments.get(idx).map_or("picosam2", String::as_str) {
            "picosam2" => false,
            "bilinear" => true,
            other => panic!("{other}: expected picosam2 or bilinear"),
        };
        UnetConfig { bilinear_upsampling, ..UnetConfig::picosam2() }.graph().unwrap()
    };
    match arguments.first().map(String::as_str) {
        None => step(1, 8, 5, network(1)),
        Some("step") => step(number(1), number(2), number(3), network(4)),
        Some("parts") => parts(number(1), number(2), network(3)),
        Some("infer") => infer(number(1), number(2), number(3), &arguments[4], network(5)),
        Some("data") => data(&arguments[1], &arguments[2], &arguments[3], number(4)),
        _ => panic!(
            "step THREADS BATCH REPEATS [NETWORK] | parts BATCH REPEATS [NETWORK] | infer THREADS BATCH REPEATS WEIGHTS [NETWORK] | data ANNOTATIONS IMAGES DUMP N"
        ),
    }
}

/// A student in training, and a batch that it sees again and again.
struct Training {
    device: Device,
    student: Student,
    optimizer: AdamW,
    plan: LossPlan,
    image: Tensor<4>,
    logits: Tensor<4>,
    truth: Tensor<4>,
}

impl Training {
    fn new(batch: usize, network: LayerGraph) -> Self {
        let device = Device::flex().autodiff();
        let student = Student::new(network, 1, &device);
        let config = AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };
        let optimizer = AdamW::new(config, student.parameters());
        let plan = LossPlan::picosam2(SampleWeighting::TeacherScorePerSample);
        let random = |channels| {
            Tensor::<4>::random([batch, channels, 96, 96], Distribution::Uniform(-1.0, 1.0), &device.clone().inner())
        };
        let (image, logits, truth) = (random(3), random(1), random(1).greater_elem(0.0).float());
        Self { student, optimizer, plan, image, logits, truth, device }
    }

    fn step(&mut self) {
        let span = profile::span("forward");
        let forward = self.student.forward_train(self.image.clone());
        drop(span);
        let span = profile::span("loss");
        let predicted_iou = Tensor::<1>::ones([self.image.dims()[0]], &self.device);
        let teacher = TeacherTarget { logits: MaskLogits(self.logits.clone().autodiff()), predicted_iou };
        let truth = MaskProbs(self.truth.clone().autodiff());
        let loss = distillation_loss(&self.plan, MaskLogits(forward.masks.0), Some(&teacher), truth, &[]);
        let value: f32 = loss.total.clone().into_scalar();
        assert!(value.is_finite());
        drop(span);
        let span = profile::span("backward");
        let mut found = loss.total.backward();
        drop(span);
        let span = profile::span("optimiser");
        let parameters = self.student.parameters();
        let gradients = parameters.iter().map(|parameter| parameter.values.grad_remove(&mut found).unwrap()).collect();
        self.optimizer.step(self.student.parameters_mut(), gradients, |_| 3e-4);
        self.student.update_running_stats(&forward.norm_stats);
        drop(span);
    }
}

fn step(threads: usize, batch: usize, repeats: usize, network: LayerGraph) {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
    let mut training = Training::new(batch, network);
    let mut seconds = Vec::new();
    for _ in 0..repeats + 2 {
        let start = Instant::now();
        rayon::scope(|_| training.step());
        seconds.push(start.elapsed().as_secs_f64());
    }
    let seconds = seconds.split_off(2);
    let minimum = seconds.iter().copied().fold(f64::INFINITY, f64::min);
    // Twice the forward products again for each of the two gradients.
    let gflop = 6e-9 * (training.student.graph().macs() * batch as u64) as f64;
    println!("median_ms {:.1} min_ms {:.1} gflop {gflop:.2}", 1e3 * median(seconds), 1e3 * minimum);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Median time of each part of a step on one thread and on two, in alternating steps.
fn parts(batch: usize, repeats: usize, network: LayerGraph) {
    let pools = [1, 2].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
    let mut training = Training::new(batch, network);
    let mut names: Vec<(Arc<str>, Pass, u64)> = vec![];
    let mut times: Vec<[Vec<f64>; 2]> = vec![];
    for _ in 0..repeats + 1 {
        for (idx, pool) in pools.iter().enumerate() {
            profile::start(clock);
            pool.install(|| {
                let whole = profile::span("whole step");
                training.step();
                drop(whole);
            });
            // A name may come more than once in a step: convolution and batch norm of one layer.
            let mut step: Vec<(Arc<str>, Pass, u64, f64)> = vec![];
            for Span { name, pass, duration, flops, .. } in profile::stop() {
                match step.iter_mut().find(|part| (&part.0, part.1) == (&name, pass)) {
                    Some(part) => (part.2, part.3) = (part.2 + flops, part.3 + duration.as_secs_f64()),
                    None => step.push((name, pass, flops, duration.as_secs_f64())),
                }
            }
            if names.is_empty() {
                names = step.iter().map(|(name, pass, flops, _)| (name.clone(), *pass, *flops)).collect();
                times = vec![Default::default(); names.len()];
            } else {
                times.iter_mut().zip(&step).for_each(|(times, part)| times[idx].push(part.3));
            }
        }
    }
    println!("batch {batch}, medians of {repeats} alternating steps; threads, ms, GFLOP/s");
    for ((name, pass, flops), times) in names.iter().zip(times) {
        let [one, two] = times.map(median);
        let rate = |secs: f64| if *flops == 0 { "-".to_string() } else { format!("{:.0}", *flops as f64 / secs / 1e9) };
        let pass = format!("{pass:?}").to_lowercase();
        println!(
            "{name:24} {pass:9} 1: {:8.2} {:>4}   2: {:8.2} {:>4}   {:.2}x",
            1e3 * one,
            rate(one),
            1e3 * two,
            rate(two),
            one / two
        );
    }
}

fn clock() -> Duration {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    STARTED.get_or_init(Instant::now).elapsed()
}

fn infer(threads: usize, batch: usize, repeats: usize, weights: &str, network: LayerGraph) {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().unwrap();
    let weights = read_weights(Path::new(weights)).unwrap().tensors;
    let student = InferenceStudent::new(network, &weights).unwrap();
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
    let report = import_answers(Path::new(dump), &dataset, &folder).unwrap();
    let cache = FolderStore::open(&folder, &report.manifest.key).unwrap();
    let prompt = CropRule::Roi { padding: 0.1, grid: 96, border: Border::Reference };
    let limits = ImageLimits::default();
    let rules = SelectionRules::of_student(prompt);
    let source =
        SampleSource::new(dataset, Some(Box::new(cache)), rules, prompt, limits, InstanceChoice::Cached).unwrap();
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
