//! Training: PyTorch's trajectory, resuming to the bit, accumulation, numbers that are not finite, checkpoints.

#![expect(clippy::disallowed_methods, reason = "tests make the files they read")]
#![allow(clippy::unwrap_used)] // tests

mod accumulation;
mod checkpoint;
mod devices;
mod groups;
mod images;
#[allow(dead_code, reason = "of the helpers these tests need two")]
#[path = "../../../sam/tests/made_up/mod.rs"]
mod made_up;
mod mixed;
mod not_finite;
mod quantization;
mod resume;
mod trajectory;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use sensei_data::augment::Augmentation;
use sensei_data::crop_rule::{Border, CropRule};
use sensei_data::dataset::Dataset;
use sensei_data::geometry::Size;
use sensei_data::image_file::ImageLimits;
use sensei_data::synth::{SynthConfig, write_synth};
use sensei_graph::layer_graph::LayerGraph;
use sensei_loss::{LossPlan, SampleWeighting};
use sensei_samples::selection::SelectionRules;
use sensei_samples::source::{InstanceChoice, SampleSource};
use sensei_student::student::{Student, WEIGHTS};
use sensei_student::unet::UnetConfig;
use sensei_tensor::network::NamedWeights;
use sensei_train::error::TrainError;
use sensei_train::event::Event;
use sensei_train::fit::{Fitted, Observer, RunOptions, fit};
use sensei_train::optimizer::AdamWConfig;
use sensei_train::plan::{AveragePlan, GroupPlan, GroupRate, StagePlan, TrainPlan};
use sensei_train::run_digests::RunDigests;
use sensei_train::schedule::{Decay, Schedule};
use sensei_train::stages::{SameNetwork, StageNetworks};

/// Rendered scenes and room for checkpoints, in a folder that goes away with it.
struct Fixture {
    dir: tempfile::TempDir,
    source: SampleSource,
}

impl Fixture {
    /// Six scenes of 64 x 64 with 11 objects (see `fixture_is_what_the_tests_count_on`).
    fn new() -> Self {
        Self::with_annotations(|_| {})
    }

    /// The same images with an edited annotation file.
    fn with_annotations(edit: impl FnOnce(&mut serde_json::Value)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let scenes = dir.path().join("scenes");
        let config = SynthConfig {
            n_train_images: 6,
            n_val_images: 1,
            image_size: Size { width: 64, height: 64 },
            min_objects: 2,
            max_objects: 3,
            min_visible_area: 40,
            ..SynthConfig::quickstart()
        };
        write_synth(&scenes, &config).unwrap();
        let annotations = scenes.join("annotations/instances_train.json");
        let mut file = serde_json::from_slice(&std::fs::read(&annotations).unwrap()).unwrap();
        edit(&mut file);
        std::fs::write(&annotations, serde_json::to_vec(&file).unwrap()).unwrap();
        let dataset = Dataset::load_coco(&annotations, &scenes.join("images")).unwrap();
        let prompt = CropRule::Roi { padding: 0.1, grid: 32, border: Border::Corrected };
        let rules = SelectionRules::of_student(prompt);
        let source =
            SampleSource::new(dataset, None, rules, prompt, ImageLimits::default(), InstanceChoice::All).unwrap();
        Self { dir, source }
    }

    fn checkpoints(&self, run: &str) -> PathBuf {
        self.dir.path().join(run)
    }
}

/// What decides the weights of a test's run.
fn run_digests() -> RunDigests {
    let part = |part: &str| format!("{part} of the test");
    RunDigests {
        configuration: part("configuration"),
        first_weights: part("first weights"),
        annotations: part("annotations"),
        teacher: None,
    }
}

/// How a test runs a plan.
#[derive(Clone, Copy)]
struct Run<'a> {
    checkpoints: &'a Path,
    resume: bool,
    checkpoint_every_steps: u64,
    keep_checkpoints: usize,
    data_threads: usize,
    other_devices: &'a [Device],
    /// Asks to stop after so many steps of this run.
    stop_after: u64,
}

impl<'a> Run<'a> {
    fn new(checkpoints: &'a Path) -> Self {
        Self {
            checkpoints,
            resume: false,
            checkpoint_every_steps: 1000,
            keep_checkpoints: 2,
            data_threads: 1,
            other_devices: &[],
            stop_after: u64::MAX,
        }
    }

    fn resumed(checkpoints: &'a Path) -> Self {
        Self { resume: true, ..Self::new(checkpoints) }
    }

    fn fit(self, plan: &TrainPlan, student: Student, source: &SampleSource) -> Result<Ran, TrainError> {
        self.fit_through(&mut SameNetwork, plan, student, source)
    }

    fn fit_through(
        self,
        stages: &mut dyn StageNetworks,
        plan: &TrainPlan,
        student: Student,
        source: &SampleSource,
    ) -> Result<Ran, TrainError> {
        let options = RunOptions {
            other_devices: self.other_devices,
            device_names: &["cpu".to_string()],
            checkpoint_dir: self.checkpoints,
            run_digests: &run_digests(),
            resume: self.resume,
            checkpoint_every_steps: self.checkpoint_every_steps,
            keep_checkpoints: self.keep_checkpoints,
            data_threads: self.data_threads,
        };
        let mut observer = Recorder { steps_left: self.stop_after, events: vec![] };
        let fitted = fit(plan, Box::new(student), stages, source, &options, &mut observer)?;
        Ok(Ran { fitted, events: observer.events })
    }
}

/// A run that ended well, and what it told.
struct Ran {
    fitted: Fitted,
    events: Vec<Event>,
}

impl Ran {
    /// The resulting weights.
    fn weights(&self) -> &NamedWeights {
        &self.fitted.groups[WEIGHTS]
    }

    /// The loss of each step.
    fn losses(&self) -> Vec<f64> {
        let loss = |event: &Event| match event {
            Event::Step { loss, .. } => Some(*loss),
            _ => None,
        };
        self.events.iter().filter_map(loss).collect()
    }
}

struct Recorder {
    steps_left: u64,
    events: Vec<Event>,
}

impl Observer for Recorder {
    fn event(&mut self, event: &Event) {
        self.events.push(event.clone());
    }

    fn should_stop(&mut self) -> bool {
        self.steps_left = self.steps_left.saturating_sub(1);
        self.steps_left == 0
    }

    fn validate(
        &mut self,
        _result: &BTreeMap<String, NamedWeights>,
        _epoch: u64,
    ) -> Result<Option<(f64, usize)>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(None)
    }
}

/// A network with every kind of operator that steps in milliseconds.
fn graph() -> LayerGraph {
    let config = UnetConfig {
        input_size: 32,
        encoder_channels: vec![4, 6],
        bottleneck_channels: 8,
        decoder_channels: vec![6, 4],
        ..UnetConfig::picosam3()
    };
    config.graph().unwrap()
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn student() -> Student {
    Student::new(graph(), 7, &device())
}

/// The weights, trained at the stage's learning rate.
fn weights_rule() -> GroupPlan {
    GroupPlan {
        group: WEIGHTS.into(),
        rate: GroupRate::Stage,
        slower: None,
        weight_decay: 0.01,
        clipped: true,
        hold_after: None,
    }
}

/// Two stages of two epochs, batches of two, two a step, everything on that changes a sample, moving average.
fn plan() -> TrainPlan {
    let stage = |name: &str, schedule| StagePlan {
        name: name.into(),
        epochs: 2,
        schedule,
        loss: LossPlan::picosam3(SampleWeighting::TruthOnly),
        augmentation: Augmentation {
            flip_probability: 0.5,
            roi_shift: 0.1,
            roi_scale: 0.2,
            roi_aspect: 0.0,
            brightness: 0.2,
            contrast: 0.2,
            saturation: 0.2,
            ..Augmentation::NONE
        },
        groups: vec![weights_rule()],
        on_grid: None,
    };
    let cosine = Decay::Cosine { final_learning_rate: 1e-5 };
    TrainPlan {
        seed: 5,
        batch_size: 2,
        accumulate_batches: 2,
        optimizer: AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 },
        clip_gradient_norm: Some(1.0),
        average: Some(AveragePlan { decay: 0.9, groups: vec![WEIGHTS.into()] }),
        recalibrate_norms: None,
        mixed_precision: None,
        stages: vec![
            stage("first", Schedule { learning_rate: 1e-2, warmup_steps: 3, decay: Decay::Constant }),
            stage("second", Schedule { learning_rate: 5e-3, warmup_steps: 0, decay: cosine }),
        ],
    }
}

/// An error with its causes, as a user sees it.
fn text(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", text(source)),
        None => error.to_string(),
    }
}

/// File names in a folder, sorted; none if there is no folder.
fn listed(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return vec![] };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn fixture_is_what_the_tests_count_on() {
    let n_samples = Fixture::new().source.instances.len();
    assert_eq!(n_samples, N_SAMPLES);
    assert_eq!((plan().steps_per_epoch(n_samples), plan().total_steps(n_samples)), (N_STEPS / 4, N_STEPS));
}

/// An odd number: the last batch of an epoch is one sample.
const N_SAMPLES: usize = 11;

/// Four epochs of steps of 4, 4 and 3 samples.
const N_STEPS: u64 = 12;
