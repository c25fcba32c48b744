//! Trains a small U-Net on rendered scenes: data, plan, loop.
//!
//! `cargo run --release --example train_a_unet`

#![expect(clippy::print_stdout, reason = "a program")]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use burn::tensor::Device;
use sensei_data::augment::Augmentation;
use sensei_data::crop_rule::{Border, CropRule};
use sensei_data::dataset::Dataset;
use sensei_data::image_file::ImageLimits;
use sensei_data::synth::{SynthConfig, write_synth};
use sensei_loss::{LossPlan, SampleWeighting};
use sensei_samples::selection::SelectionRules;
use sensei_samples::source::{InstanceChoice, SampleSource};
use sensei_student::student::{Student, WEIGHTS};
use sensei_student::unet::UnetConfig;
use sensei_tensor::network::NamedWeights;
use sensei_train::event::Event;
use sensei_train::fit::{Observer, RunOptions, fit};
use sensei_train::optimizer::AdamWConfig;
use sensei_train::plan::{GroupPlan, GroupRate, StagePlan, TrainPlan};
use sensei_train::run_digests::RunDigests;
use sensei_train::schedule::{Decay, Schedule};
use sensei_train::stages::SameNetwork;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let source = samples(&folder.path().join("scenes"))?;
    let config = UnetConfig {
        input_size: 32,
        encoder_channels: vec![8, 16],
        bottleneck_channels: 24,
        decoder_channels: vec![16, 8],
        ..UnetConfig::picosam2()
    };
    let student = Student::new(config.graph()?, 1, &Device::flex().autodiff());

    let weights = GroupPlan {
        group: WEIGHTS.into(),
        rate: GroupRate::Stage,
        slower: None,
        weight_decay: 0.01,
        clipped: true,
        hold_after: None,
    };
    let stage = StagePlan {
        name: "only".into(),
        epochs: 6,
        schedule: Schedule { learning_rate: 5e-3, warmup_steps: 4, decay: Decay::Constant },
        // Without a teacher: binary cross-entropy and Dice to the annotated mask.
        loss: LossPlan::picosam2(SampleWeighting::TruthOnly),
        augmentation: Augmentation::NONE,
        groups: vec![weights],
        on_grid: None,
    };
    let plan = TrainPlan {
        seed: 1,
        batch_size: 8,
        accumulate_batches: 1,
        optimizer: AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 },
        clip_gradient_norm: Some(1.0),
        average: None,
        recalibrate_norms: None,
        mixed_precision: None,
        stages: vec![stage],
    };
    let options = RunOptions {
        checkpoint_dir: &folder.path().join("checkpoints"),
        run_digests: &RunDigests {
            configuration: "example".into(),
            first_weights: "seed 1".into(),
            annotations: "rendered".into(),
            teacher: None,
        },
        resume: false,
        checkpoint_every_steps: 1000,
        keep_checkpoints: 1,
        data_threads: 1,
        other_devices: &[],
        device_names: &["cpu".to_string()],
    };
    let mut losses = Losses(vec![]);
    let fitted = fit(&plan, Box::new(student), &mut SameNetwork, &source, &options, &mut losses)?;

    println!("{} instances, {} steps, {} tensors", source.instances.len(), fitted.step, fitted.groups[WEIGHTS].len());
    let (first, last) = (losses.0[0], losses.0[losses.0.len() - 1]);
    println!("mean loss of an epoch: the last is below two thirds of the first: {}", last < first * 2.0 / 3.0);
    println!("a checkpoint was written: {}", options.checkpoint_dir.read_dir()?.count() == 1);
    Ok(())
}

/// Rendered scenes, cut by PicoSAM3's crop rule.
fn samples(scenes: &Path) -> Result<SampleSource, Box<dyn Error>> {
    write_synth(scenes, &SynthConfig { n_train_images: 16, n_val_images: 1, ..SynthConfig::quickstart() })?;
    let dataset = Dataset::load_coco(&scenes.join("annotations/instances_train.json"), &scenes.join("images"))?;
    let rule = CropRule::Roi { padding: 0.1, grid: 32, border: Border::Corrected };
    let rules = SelectionRules::of_student(rule);
    Ok(SampleSource::new(dataset, None, rules, rule, ImageLimits::default(), InstanceChoice::All)?)
}

/// The mean loss of each epoch.
struct Losses(Vec<f64>);

impl Observer for Losses {
    fn event(&mut self, event: &Event) {
        if let Event::Epoch { mean_loss, .. } = event {
            self.0.push(*mean_loss);
        }
    }

    fn should_stop(&mut self) -> bool {
        false
    }

    fn validate(
        &mut self,
        _result: &BTreeMap<String, NamedWeights>,
        _epoch: u64,
    ) -> Result<Option<(f64, usize)>, Box<dyn Error + Send + Sync>> {
        Ok(None)
    }
}
