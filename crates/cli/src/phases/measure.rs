//! How long a plan's stages take: a few steps of each, on this machine, with nothing kept of them.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sensei_report::run_folder::RunFolder;
use sensei_samples::source::SampleSource;
use sensei_samples::whole_images::ImageSource;
use sensei_student::student::{Student, WEIGHTS};
use sensei_tensor::network::{NamedWeights, Network};
use sensei_train::event::Event;
use sensei_train::fit::{Observer, RunOptions, fit};
use sensei_train::images::ImageTask;
use sensei_train::plan::TrainPlan;
use sensei_train::run_digests::RunDigests;
use sensei_train::stages::StageNetworks;
use sensei_train::task::Task;
use serde::Serialize;

use crate::config::{PromptablePlan, RunPlan};
use crate::device::Devices;
use crate::phases::promptable::{PromptableForms, SamTeacher, initial_student as initial_promptable};
use crate::phases::stages::ChipStages;
use crate::phases::train::initial_student;
use crate::progress::phase;
use crate::stop;

/// What some steps of a stage say about all of it.
#[derive(Debug, Serialize)]
pub struct StageTime {
    /// Name of the stage.
    pub stage: String,
    /// Steps of the whole stage.
    pub steps: u64,
    /// Steps that were timed, after [`WARM_UP_STEPS`].
    pub timed_steps: u64,
    /// Mean of those.
    pub seconds_per_step: f64,
    /// Of the whole stage at that rate.
    pub seconds: f64,
    /// Bytes of a checkpoint of this stage.
    pub checkpoint_bytes: u64,
}

/// Times the stages of a chip student, each from the first weights.
///
/// # Errors
/// As training, and if a stage has too few steps to be timed.
pub fn time_stages(plan: &mut RunPlan, train: &SampleSource, devices: &Devices) -> anyhow::Result<Vec<StageTime>> {
    phase("measuring");
    let initial = initial_student(plan, &devices.main)?;
    let weights = initial.tensors(WEIGHTS);
    let stages = plan.train.stages.clone();
    let mut times = vec![];
    for stage in &stages {
        plan.train.stages = vec![stage.clone()];
        let scratch = tempfile::tempdir().context("no folder for temporary files")?;
        let folder = RunFolder::at(scratch.path());
        let student = Student::from_weights(plan.graph.clone(), &weights, initial.device())?;
        let mut forms = ChipStages::new(plan, train, &folder);
        let data_threads = plan.logging.data_threads;
        times.push(time_stage(&plan.train, Box::new(student), &mut forms, train, devices, data_threads)?);
    }
    plan.train.stages = stages;
    Ok(times)
}

/// [`time_stages`] of a student that sees whole images.
///
/// # Errors
/// As there.
pub fn time_image_stages(
    plan: &mut PromptablePlan,
    train: &ImageSource,
    devices: &Devices,
) -> anyhow::Result<Vec<StageTime>> {
    phase("measuring");
    let teacher = SamTeacher::open(plan)?;
    let (stages, masked_decoders) = (plan.train.stages.clone(), plan.masked_decoders.clone());
    let mut times = vec![];
    for (stage, masked) in stages.iter().zip(&masked_decoders) {
        (plan.train.stages, plan.masked_decoders) = (vec![stage.clone()], vec![*masked]);
        let initial = initial_promptable(plan, &teacher, &devices.main.clone().autodiff())?;
        let decoder = if stage.loss.asks_teacher() { Some(teacher.decoder()?) } else { None };
        let task = ImageTask { source: train, teacher: decoder.as_ref().map(|decoder| decoder as _) };
        let mut forms = PromptableForms { plan, teacher: &teacher };
        let data_threads = plan.logging.data_threads;
        times.push(time_stage(&plan.train, Box::new(initial), &mut forms, &task, devices, data_threads)?);
    }
    (plan.train.stages, plan.masked_decoders) = (stages, masked_decoders);
    Ok(times)
}

/// What a person is told of stages' times.
pub fn lines(times: &[StageTime], keep_checkpoints: usize, batch_size: usize) -> Vec<String> {
    let of_stage = |time: &StageTime| {
        format!(
            "stage {:?}, {} steps timed: {:.3} s a step, {:.1} images a second; its {} steps take {}",
            time.stage,
            time.timed_steps,
            time.seconds_per_step,
            batch_size as f64 / time.seconds_per_step,
            time.steps,
            in_hours(time.seconds)
        )
    };
    let mut lines: Vec<String> = times.iter().map(of_stage).collect();
    let largest = times.iter().map(|time| time.checkpoint_bytes).max().unwrap_or(0);
    lines.push(format!(
        "training here, without asking the teacher and scoring: {}; checkpoints: up to {keep_checkpoints} of {:.1} MB",
        in_hours(times.iter().map(|time| time.seconds).sum()),
        largest as f64 / 1e6
    ));
    lines
}

fn in_hours(seconds: f64) -> String {
    match seconds {
        ..120.0 => format!("{seconds:.0} s"),
        120.0..7200.0 => format!("{:.1} minutes", seconds / 60.0),
        _ => format!("{:.1} hours", seconds / 3600.0),
    }
}

/// Times the only stage of a plan.
///
/// # Errors
/// As training, and if the stage has too few steps.
pub fn time_stage<K: Task>(
    plan: &TrainPlan<K::Loss>,
    initial: Box<dyn Network>,
    forms: &mut dyn StageNetworks,
    task: &K,
    devices: &Devices,
    data_threads: usize,
) -> anyhow::Result<StageTime> {
    let scratch = tempfile::tempdir().context("no folder for temporary files")?;
    let (stage, steps) = (plan.stages[0].name.clone(), plan.total_steps(task.n_samples()));
    ensure!(steps > WARM_UP_STEPS, "stage {stage:?}: expected more than {WARM_UP_STEPS} steps to time, found {steps}");
    let digests = RunDigests {
        configuration: String::new(),
        first_weights: String::new(),
        annotations: String::new(),
        teacher: None,
    };
    let options = RunOptions {
        checkpoint_dir: scratch.path(),
        run_digests: &digests,
        resume: false,
        // The one of the last step says how large they are.
        checkpoint_every_steps: u64::MAX,
        keep_checkpoints: 1,
        data_threads,
        other_devices: &devices.others,
        device_names: &devices.names,
    };
    let mut watch = Watch::default();
    fit(plan, initial, forms, task, &options, &mut watch)?;
    stop::check_command("measuring")?;
    let [first, .., last] = &watch.after_step[WARM_UP_STEPS as usize - 1..] else {
        unreachable!("a stage of more steps than those to warm up")
    };
    let timed_steps = watch.after_step.len() as u64 - WARM_UP_STEPS;
    let seconds_per_step = (*last - *first).as_secs_f64() / timed_steps as f64;
    let checkpoint_bytes = watch.checkpoint_bytes.context("no checkpoint of the last step")?;
    Ok(StageTime {
        stage,
        steps,
        timed_steps,
        seconds_per_step,
        seconds: seconds_per_step * steps as f64,
        checkpoint_bytes,
    })
}

/// Ends a training when there is enough of it.
#[derive(Default)]
struct Watch {
    after_step: Vec<Instant>,
    checkpoint_bytes: Option<u64>,
}

impl Observer for Watch {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Step { .. } => self.after_step.push(Instant::now()),
            Event::Checkpoint { path, .. } => self.checkpoint_bytes = path.metadata().ok().map(|file| file.len()),
            _ => {}
        }
    }

    fn should_stop(&mut self) -> bool {
        let Some(first) = self.after_step.get(WARM_UP_STEPS as usize - 1) else { return stop::is_asked() };
        let n_timed = self.after_step.len() - WARM_UP_STEPS as usize;
        stop::is_asked() || n_timed >= LEAST_STEPS && first.elapsed() >= LEAST_TIME
    }

    fn validate(
        &mut self,
        _: &BTreeMap<String, NamedWeights>,
        _: u64,
    ) -> Result<Option<(f64, usize)>, Box<dyn Error + Send + Sync>> {
        Ok(None)
    }
}

/// The first steps allocate, and wait for the first batches.
pub const WARM_UP_STEPS: u64 = 3;

/// Steps and time that are enough together.
const LEAST_STEPS: usize = 5;
const LEAST_TIME: Duration = Duration::from_secs(6);
