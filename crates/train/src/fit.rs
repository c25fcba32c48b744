//! The loop.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use sensei_tensor::network::{NamedWeights, Network, weights_digest};
use sensei_tensor::profile;

use crate::checkpoint::{TrainState, latest, prune};
use crate::error::TrainError;
use crate::event::Event;
use crate::groups::StepRate;
use crate::loader::with_batches;
use crate::plan::{Position, TrainPlan};
use crate::run_digests::RunDigests;
use crate::stages::StageNetworks;
use crate::step::{StepPlan, step};
use crate::task::Task;

/// What a run does besides changing weights.
pub struct RunOptions<'a> {
    /// Where checkpoints go; looked into for the newest one when `resume` is set.
    pub checkpoint_dir: &'a Path,
    /// What decides the weights; a checkpoint with other digests is refused.
    pub run_digests: &'a RunDigests,
    /// Go on from the newest checkpoint, or start if there is none.
    pub resume: bool,
    /// Steps between checkpoints; the last step always has one.
    pub checkpoint_every_steps: u64,
    /// Newest checkpoints kept.
    pub keep_checkpoints: usize,
    /// Threads that prepare samples. Does not change the result.
    pub data_threads: usize,
    /// Devices that share a step's batches with the network's own; those of its kind do not change the result.
    pub other_devices: &'a [Device],
    /// What the caller calls the devices, the network's own first, for the log.
    pub device_names: &'a [String],
}

/// The caller's side of a run.
pub trait Observer {
    /// Called for each event, in order.
    fn event(&mut self, event: &Event);

    /// Asked after each step; true saves a checkpoint and ends the run.
    fn should_stop(&mut self) -> bool;

    /// Asked after each epoch with the tensors the run would result in, by group; the mean IoU in the crop and the number of
    /// instances scored, if this epoch is to be scored.
    ///
    /// # Errors
    /// Whatever makes scoring fail; it ends the run.
    fn validate(
        &mut self,
        result: &BTreeMap<String, NamedWeights>,
        epoch: u64,
    ) -> Result<Option<(f64, usize)>, Box<dyn std::error::Error + Send + Sync>>;
}

/// The result of a run.
pub struct Fitted {
    /// The resulting tensors by group of parameters.
    pub groups: BTreeMap<String, NamedWeights>,
    /// Digest over network, moments and average: equal digests mean equal runs.
    pub state_digest: String,
    /// Steps taken.
    pub step: u64,
    /// True if the run was asked to stop before its last step.
    pub stopped: bool,
}

/// Trains a network that lives on a device with gradients, from `initial` on or from the newest checkpoint.
///
/// The result is a function of plan, initial weights, samples and number of threads alone: a run that is stopped or killed and
/// resumed ends with the bits of one that was not.
///
/// # Errors
/// If a sample cannot be had, a batch is too small for a batch norm, a stage trains nothing or what is not there, a loss or gradient
/// is not finite, or a checkpoint cannot be read or written.
pub fn fit<K: Task>(
    plan: &TrainPlan<K::Loss>,
    initial: Box<dyn Network>,
    stages: &mut dyn StageNetworks,
    task: &K,
    options: &RunOptions,
    observer: &mut dyn Observer,
) -> Result<Fitted, TrainError> {
    let n_samples = task.n_samples();
    let total_steps = plan.total_steps(n_samples);
    plan.check_batches(initial.min_train_batch(), n_samples)?;
    let mut run = Run {
        state: start_or_resume(plan, initial, stages, options)?,
        plan,
        task,
        options,
        n_samples,
        total_steps,
        epoch_losses: vec![],
    };
    observer.event(&run.started());
    let stopped = with_batches(plan, task, run.state.step, options.data_threads, |batches| {
        while let Some(position) = plan.position(run.state.step, n_samples) {
            run.state.enter(plan, position.stage_idx, stages)?;
            let batches = run.batches_of_step(&position, batches)?;
            run.step(&position, &batches, observer)?;
            if run.end_step(&position, observer)? {
                return Ok(true);
            }
        }
        Ok(false)
    })?;
    let Run { state, .. } = run;
    let groups = state.result();
    let digests = groups.iter().map(|(name, tensors)| (name.clone(), weights_digest(tensors))).collect();
    observer.event(&Event::Ended { step: state.step, stopped, digests });
    Ok(Fitted { groups, state_digest: state.digest(), step: state.step, stopped })
}

fn start_or_resume<L>(
    plan: &TrainPlan<L>,
    initial: Box<dyn Network>,
    stages: &mut dyn StageNetworks,
    options: &RunOptions,
) -> Result<TrainState, TrainError> {
    let checkpoint = if options.resume { latest(options.checkpoint_dir)? } else { None };
    match checkpoint {
        Some(path) => TrainState::load(&path, initial, stages, options.run_digests, plan),
        None => Ok(TrainState::new(initial, plan)),
    }
}

struct Run<'a, K: Task> {
    state: TrainState,
    plan: &'a TrainPlan<K::Loss>,
    task: &'a K,
    options: &'a RunOptions<'a>,
    n_samples: usize,
    total_steps: u64,
    /// Of the running epoch, since the start or the resume.
    epoch_losses: Vec<f64>,
}

impl<K: Task> Run<'_, K> {
    fn started(&self) -> Event {
        let devices = self.options.device_names.to_vec();
        let (step, total_steps, n_samples) = (self.state.step, self.total_steps, self.n_samples);
        let threads = rayon::current_num_threads();
        Event::Started { step, total_steps, n_samples, devices, threads }
    }

    /// Waits for the batches of a step.
    fn batches_of_step(
        &self,
        position: &Position,
        batches: &mut dyn Iterator<Item = Result<K::Batch, TrainError>>,
    ) -> Result<Vec<K::Batch>, TrainError> {
        let per_step = self.plan.samples_per_step();
        let n_left = self.n_samples - position.step_in_epoch as usize * per_step;
        let n_batches = n_left.min(per_step).div_ceil(self.plan.batch_size);
        let _waiting = profile::span("waiting for data");
        let batches: Vec<K::Batch> = batches.take(n_batches).collect::<Result<_, _>>()?;
        if batches.len() != n_batches {
            return Err(TrainError::LoaderGone);
        }
        Ok(batches)
    }

    /// Takes a step and tells of it.
    fn step(
        &mut self,
        position: &Position,
        batches: &[K::Batch],
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let stage = &self.plan.stages[position.stage_idx];
        let steps_of_stage = stage.epochs * self.plan.steps_per_epoch(self.n_samples);
        let learning_rate = stage.schedule.learning_rate(position.step_in_stage, steps_of_stage);
        let rate = StepRate { step_in_stage: position.step_in_stage, learning_rate };
        let at = StepPlan { plan: self.plan, stage, rate, epoch: position.epoch };
        let (state, task, other_devices) = (&mut self.state, self.task, self.options.other_devices);
        let mut take = || step(state, task, batches, &at, other_devices);
        // As one of the pool's threads, a step need not sleep and be woken for each kernel. With several devices it
        // waits for theirs, which may need the pool.
        let report = if other_devices.is_empty() { rayon::scope(|_| take()) } else { take() }?;
        self.epoch_losses.push(report.loss);
        observer.event(&Event::Step {
            step: self.state.step,
            total_steps: self.total_steps,
            stage: stage.name.clone(),
            epoch: position.epoch,
            loss: report.loss,
            terms: report.terms,
            learning_rate,
            gradient_norm: report.gradient_norm,
            loss_scale: report.loss_scale,
            skipped_steps: self.state.loss_scale.map(|scale| scale.skipped_steps),
            n_samples: batches.iter().map(|batch| K::ids(batch).len()).sum(),
            clamped_predicted_ious: batches.iter().map(|batch| K::clamped_predicted_ious(batch)).sum(),
        });
        Ok(())
    }

    /// What follows a step: the epoch's loss, a checkpoint, scores. Returns whether the run was asked to stop.
    fn end_step(&mut self, position: &Position, observer: &mut dyn Observer) -> Result<bool, TrainError> {
        let epoch_ended = position.step_in_epoch + 1 == self.plan.steps_per_epoch(self.n_samples);
        if epoch_ended {
            let mean_loss = self.epoch_losses.iter().sum::<f64>() / self.epoch_losses.len() as f64;
            self.epoch_losses.clear();
            observer.event(&Event::Epoch { step: self.state.step, epoch: position.epoch, mean_loss });
        }
        let stopped = self.state.step < self.total_steps && observer.should_stop();
        let is_due = self.state.step.is_multiple_of(self.options.checkpoint_every_steps);
        if stopped || self.state.step == self.total_steps || is_due {
            self.save(observer)?;
        }
        if epoch_ended && !stopped {
            self.validate(position.epoch, observer)?;
        }
        Ok(stopped)
    }

    fn save(&self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let path = self.state.save(self.options.checkpoint_dir, self.options.run_digests)?;
        observer.event(&Event::Checkpoint { step: self.state.step, path });
        prune(self.options.checkpoint_dir, self.options.keep_checkpoints)
    }

    fn validate(&self, epoch: u64, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let scored = observer.validate(&self.state.result(), epoch);
        if let Some((mean_iou_in_crop, n_instances)) = scored.map_err(|source| TrainError::Validation { source })? {
            let step = self.state.step;
            observer.event(&Event::Validation { step, epoch, mean_iou_in_crop, n_instances });
        }
        Ok(())
    }
}
