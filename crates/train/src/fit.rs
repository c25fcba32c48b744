//! The loop.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use sensei_loss::{LossOutput, distillation_loss};
use sensei_quant::qat::{NormStatistics, Quantizers};
use sensei_samples::batch::HostBatch;
use sensei_samples::source::SampleSource;
use sensei_student::student::{BatchStats, Parameter, Student};
use sensei_student::weights::{NamedWeights, write_weights};
use sensei_tensor::masks::{MaskLogits, MaskProbs};
use sensei_tensor::ops::sum_of_squares;
use sensei_tensor::profile;

use crate::checkpoint::{TrainState, latest, prune, weights_digest};
use crate::error::TrainError;
use crate::event::Event;
use crate::loader::with_batches;
use crate::optimizer::{clip_global_norm, host};
use crate::plan::{StagePlan, TrainPlan};
use crate::quantization::{QuantizerState, calibrated_quantizers};
use crate::tensors::{input_tensor, teacher_target, truth_tensor};

/// What a run does besides changing weights.
pub struct RunOptions<'a> {
    /// Where checkpoints go; looked into for the newest one when `resume` is set.
    pub checkpoint_dir: &'a Path,
    /// Digest of everything that changes the weights; a checkpoint of another one is refused.
    pub plan_digest: &'a str,
    /// Go on from the newest checkpoint, or start if there is none.
    pub resume: bool,
    /// Steps between checkpoints; the last step always has one.
    pub checkpoint_every_steps: u64,
    /// Newest checkpoints kept.
    pub keep_checkpoints: usize,
    /// Threads that prepare samples. Does not change the result.
    pub data_threads: usize,
    /// Where the weights are written with which the first stage on the chip's grid begins.
    pub before_quantization: Option<&'a Path>,
    /// Devices that share a step's batches with the student's own; those of its kind do not change the result.
    pub other_devices: &'a [Device],
}

/// The caller's side of a run.
pub trait Observer {
    /// Called for each event, in order.
    fn event(&mut self, event: &Event);

    /// Asked after each step; true saves a checkpoint and ends the run.
    fn should_stop(&mut self) -> bool;

    /// Asked after each epoch with the weights the run would result in; the mean IoU in the crop and the number of
    /// instances scored, if this epoch is to be scored.
    ///
    /// # Errors
    /// Whatever makes scoring fail; it ends the run.
    fn validate(
        &mut self,
        weights: &NamedWeights,
        epoch: u64,
    ) -> Result<Option<(f64, usize)>, Box<dyn std::error::Error + Send + Sync>>;
}

/// The result of a run.
pub struct Fitted {
    /// The resulting weights.
    pub weights: NamedWeights,
    /// Trained thresholds by name, if the last step was on the chip's grid.
    pub thresholds: Option<NamedWeights>,
    /// Digest over student, moments and average: equal digests mean equal runs.
    pub state_digest: String,
    /// Steps taken.
    pub step: u64,
    /// True if the run was asked to stop before its last step.
    pub stopped: bool,
}

/// Trains a student that lives on a device with gradients, from `initial` on or from the newest checkpoint.
///
/// The result is a function of plan, initial weights, samples and number of threads alone: a run that is stopped or killed and
/// resumed ends with the bits of one that was not.
///
/// # Errors
/// If a sample cannot be had, a batch is too small for a batch norm, a loss or gradient is not finite, or a checkpoint
/// cannot be read or written.
pub fn fit(
    plan: &TrainPlan,
    initial: Student,
    source: &SampleSource,
    options: &RunOptions,
    observer: &mut dyn Observer,
) -> Result<Fitted, TrainError> {
    let device = initial.device().clone();
    let n_samples = source.instances.len();
    let total_steps = plan.total_steps(n_samples);
    plan.check_batches(initial.graph(), n_samples)?;
    let checkpoint = if options.resume { latest(options.checkpoint_dir)? } else { None };
    let mut state = match checkpoint {
        Some(path) => TrainState::load(&path, initial.graph().clone(), &device, options.plan_digest, plan)?,
        None => TrainState::new(initial, plan),
    };
    let devices = std::iter::once(&device).chain(options.other_devices).map(|device| format!("{device:?}")).collect();
    observer.event(&Event::Started { step: state.step, total_steps, n_samples, devices });

    let mut epoch_losses = Vec::new();
    let mut stopped = false;
    with_batches(plan, source, state.step, options.data_threads, |batches| {
        while let Some(position) = plan.position(state.step, n_samples) {
            let stage = &plan.stages[position.stage_idx];
            let steps_per_epoch = plan.steps_per_epoch(n_samples);
            let n_left = n_samples - position.step_in_epoch as usize * plan.samples_per_step();
            let n_batches = n_left.min(plan.samples_per_step()).div_ceil(plan.batch_size);
            let waiting = profile::span("waiting for data");
            let batches: Vec<HostBatch> = batches.take(n_batches).collect::<Result<_, _>>()?;
            drop(waiting);
            if batches.len() != n_batches {
                return Err(TrainError::LoaderGone);
            }
            let learning_rate = stage.schedule.learning_rate(position.step_in_stage, stage.epochs * steps_per_epoch);
            if let (Some(quantization), None) = (&stage.quantization, &state.quantizers) {
                if let Some(path) = options.before_quantization {
                    write_weights(path, &state.result(), &BTreeMap::new())?;
                }
                let quantizers = calibrated_quantizers(quantization, &state.student, source, plan.seed)?;
                state.quantizers = Some(QuantizerState::new(quantizers, plan.optimizer));
            }
            let at = StepPlan { stage, plan, learning_rate, step_in_stage: position.step_in_stage };
            let mut run = || step(&mut state, &batches, &at, options.other_devices);
            // As one of the pool's threads, a step need not sleep and be woken for each kernel. With several devices it
            // waits for theirs, which may need the pool.
            let report = if options.other_devices.is_empty() { rayon::scope(|_| run()) } else { run() }?;
            epoch_losses.push(report.loss);
            observer.event(&Event::Step {
                step: state.step,
                total_steps,
                stage: stage.name.clone(),
                epoch: position.epoch,
                loss: report.loss,
                terms: report.terms,
                learning_rate,
                gradient_norm: report.gradient_norm,
                loss_scale: report.loss_scale,
                skipped_steps: state.loss_scale.map(|scale| scale.skipped_steps),
                n_samples: batches.iter().map(|batch| batch.annotation_ids.len()).sum(),
                clamped_teacher_scores: batches.iter().map(|batch| batch.clamped_predicted_ious).sum(),
            });
            let epoch_ended = position.step_in_epoch + 1 == steps_per_epoch;
            if epoch_ended {
                let mean_loss = epoch_losses.iter().sum::<f64>() / epoch_losses.len() as f64;
                epoch_losses.clear();
                observer.event(&Event::Epoch { step: state.step, epoch: position.epoch, mean_loss });
            }
            stopped = state.step < total_steps && observer.should_stop();
            if stopped || state.step == total_steps || state.step.is_multiple_of(options.checkpoint_every_steps) {
                let path = state.save(options.checkpoint_dir, options.plan_digest)?;
                observer.event(&Event::Checkpoint { step: state.step, path });
                prune(options.checkpoint_dir, options.keep_checkpoints)?;
            }
            if epoch_ended && !stopped {
                let scored = observer.validate(&state.result(), position.epoch);
                let scored = scored.map_err(|source| TrainError::Validation { source })?;
                if let Some((mean_iou_in_crop, n_instances)) = scored {
                    let (step, epoch) = (state.step, position.epoch);
                    observer.event(&Event::Validation { step, epoch, mean_iou_in_crop, n_instances });
                }
            }
            if stopped {
                break;
            }
        }
        Ok(())
    })?;

    let weights = state.result();
    observer.event(&Event::Ended { step: state.step, stopped, weights_digest: weights_digest(&weights) });
    let thresholds = state.quantizers.as_ref().map(|state| state.quantizers.to_named());
    Ok(Fitted { weights, thresholds, state_digest: state.digest(), step: state.step, stopped })
}

struct StepReport {
    loss: f64,
    terms: Vec<(String, f64)>,
    gradient_norm: f64,
    loss_scale: Option<f64>,
}

/// One optimiser step over its batches.
fn step(
    state: &mut TrainState,
    batches: &[HostBatch],
    at: &StepPlan,
    other_devices: &[Device],
) -> Result<StepReport, TrainError> {
    let &StepPlan { stage, plan, learning_rate, step_in_stage } = at;
    let n_samples: usize = batches.iter().map(|batch| batch.annotation_ids.len()).sum();
    let loss_scale = state.loss_scale.map(|scale| scale.scale);
    let (factor, step) = (loss_scale.unwrap_or(1.0), state.step);
    let quantization = stage.quantization.as_ref();
    let statistics = quantization.map(|quantization| quantization.norm_statistics(step_in_stage));
    let shared = Shared { stage, plan, n_samples, factor, step, statistics };
    let mut gradients: Vec<Tensor<1>> = Vec::new();
    let mut batch_stats = Vec::with_capacity(batches.len());
    let (mut loss, mut terms) = (0.0, Vec::<(String, f64)>::new());
    for wave in batches.chunks(1 + other_devices.len()) {
        // Added in the order of the batches, whichever device they were on.
        for (part, batch) in wave_gradients(&state.model(), wave, &shared, other_devices)?.into_iter().zip(wave) {
            let share = batch.annotation_ids.len() as f64 / n_samples as f64;
            loss += share * part.loss.total;
            for (idx, (name, value)) in part.loss.terms.into_iter().enumerate() {
                match terms.get_mut(idx) {
                    Some((_, sum)) => *sum += share * value,
                    None => terms.push((name, share * value)),
                }
            }
            for (idx, gradient) in part.gradients.into_iter().enumerate() {
                match gradients.get_mut(idx) {
                    Some(sum) => *sum = sum.clone() + gradient,
                    None => gradients.push(gradient),
                }
            }
            batch_stats.push(part.batch_stats);
        }
    }
    let span = profile::span("optimiser");
    if let Some(scale) = loss_scale {
        gradients.iter_mut().for_each(|gradient| *gradient = gradient.clone() / scale);
    }
    // Of another scale than the weights', and not clipped with them: AdamW divides it away.
    let of_thresholds = gradients.split_off(state.student.parameters().len());
    let gradient_norm = clip_global_norm(&mut gradients, plan.clip_gradient_norm);
    let overflowed = !gradient_norm.is_finite() || !sum_of_squares(&of_thresholds).is_finite();
    if let (Some(scale), Some(scaling)) = (&mut state.loss_scale, plan.mixed_precision.and_then(|mixed| mixed.scaling))
    {
        scale.update(scaling, overflowed);
    }
    if overflowed && state.loss_scale.is_none_or(|scale| scale.is_exhausted()) {
        let model = state.model();
        let named = model.parameters().zip(gradients.iter().chain(&of_thresholds));
        let culprit = named.map(|(p, g)| (&p.name, host(g.clone().sum())[0])).find(|(_, sum)| !sum.is_finite());
        let what = culprit.map_or("gradient norm".into(), |(name, _)| format!("gradient of {name}"));
        let annotation_ids = batches.iter().flat_map(|batch| batch.annotation_ids.iter().copied()).collect();
        return Err(TrainError::NotFinite { step: state.step, what, value: gradient_norm, annotation_ids });
    }
    if !overflowed {
        if statistics != Some(NormStatistics::Running) {
            batch_stats.iter().for_each(|stats| state.student.update_running_stats(stats));
        }
        state.optimizer.step(state.student.parameters_mut(), gradients, learning_rate);
        if let (Some(quantization), Some(QuantizerState { quantizers, optimizer })) =
            (quantization, &mut state.quantizers)
            && quantization.trains_thresholds(step_in_stage)
        {
            let whole = stage.schedule.learning_rate;
            // A stage of rate 0 trains nothing; 0 / 0 would be no number.
            let proportion = if whole > 0.0 { learning_rate / whole } else { 0.0 };
            let learning_rate = quantization.threshold_learning_rate * proportion;
            optimizer.step(quantizers.parameters_mut(), of_thresholds, learning_rate);
        }
        if let Some(ema) = &mut state.ema {
            ema.update(state.student.parameters());
        }
    }
    drop(span);
    state.step += 1;
    Ok(StepReport { loss, terms, gradient_norm, loss_scale })
}

/// Where in the plan a step is.
struct StepPlan<'a> {
    stage: &'a StagePlan,
    plan: &'a TrainPlan,
    learning_rate: f64,
    step_in_stage: u64,
}

/// What is trained.
struct Model<'a> {
    student: &'a Student,
    quantizers: Option<&'a Quantizers>,
}

impl TrainState {
    fn model(&self) -> Model<'_> {
        let quantizers = self.quantizers.as_ref().map(|state| &state.quantizers);
        Model { student: &self.student, quantizers }
    }
}

impl Model<'_> {
    /// The student's, then the thresholds.
    fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.student.parameters().iter().chain(self.quantizers.into_iter().flat_map(Quantizers::parameters))
    }
}

/// What the batches of a step have in common.
struct Shared<'a> {
    stage: &'a StagePlan,
    plan: &'a TrainPlan,
    n_samples: usize,
    /// Loss scale.
    factor: f64,
    step: u64,
    /// Of a stage on the chip's grid.
    statistics: Option<NormStatistics>,
}

/// What one batch adds to a step.
struct Part {
    loss: LossValues,
    /// Flat, of each parameter, for its share of the step's loss.
    gradients: Vec<Tensor<1>>,
    batch_stats: Vec<BatchStats>,
}

/// The parts of one batch on each device, in order; tensors are on the student's own.
fn wave_gradients(
    model: &Model,
    wave: &[HostBatch],
    shared: &Shared,
    other_devices: &[Device],
) -> Result<Vec<Part>, TrainError> {
    let [first, rest @ ..] = wave else { return Ok(vec![]) };
    std::thread::scope(|scope| {
        let others = rest.iter().zip(other_devices).map(|(batch, device)| {
            scope.spawn(move || {
                let device = device.clone().autodiff();
                let student = model.student.to_device(&device);
                let quantizers = model.quantizers.map(|quantizers| quantizers.to_device(&device));
                part(&Model { student: &student, quantizers: quantizers.as_ref() }, batch, shared)
            })
        });
        let others: Vec<_> = others.collect();
        let mut parts = vec![part(model, first, shared)?];
        let home = model.student.device().clone().inner();
        let moved = |tensor: Tensor<1>| tensor.to_device(&home);
        for other in others {
            // A panic goes on here: it is a fault of a device or of this program.
            let mut part = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            part.gradients = part.gradients.into_iter().map(moved).collect();
            for stats in &mut part.batch_stats {
                stats.mean = moved(stats.mean.clone());
                stats.variance = moved(stats.variance.clone());
            }
            parts.push(part);
        }
        Ok(parts)
    })
}

/// Forward and backward pass of one batch.
fn part(model: &Model, batch: &HostBatch, shared: &Shared) -> Result<Part, TrainError> {
    let student = model.student;
    let device = student.device();
    let Shared { stage, plan, n_samples, factor, step, statistics } = *shared;
    let span = profile::span("forward");
    let input = input_tensor(batch, device);
    let forward = match (model.quantizers.zip(statistics), plan.mixed_precision) {
        (Some((quantizers, statistics)), _) => quantizers.forward_train(student, input, statistics),
        (None, Some(mixed)) => student.forward_train_mixed(input, mixed.half),
        (None, None) => student.forward_train(input),
    };
    drop(span);
    let span = profile::span("loss");
    let teacher = teacher_target(batch, device);
    let truth = MaskProbs(truth_tensor(batch, device));
    let output = distillation_loss(&stage.loss, MaskLogits(forward.mask_logits), teacher.as_ref(), truth);
    let loss = read_loss(&output, step, &batch.annotation_ids)?;
    let weight = factor * batch.annotation_ids.len() as f64 / n_samples as f64;
    let total = if weight == 1.0 { output.total } else { output.total * weight };
    drop(span);
    let span = profile::span("backward");
    let mut found = total.backward();
    drop(span);
    let gradients = model.parameters().map(|parameter| {
        let gradient = parameter.values.grad_remove(&mut found);
        gradient.unwrap_or_else(|| parameter.values.clone().inner().zeros_like())
    });
    Ok(Part { loss, gradients: gradients.collect(), batch_stats: forward.batch_stats })
}

struct LossValues {
    total: f64,
    terms: Vec<(String, f64)>,
}

/// Reads loss and terms from the device; the first one that is not finite is an error with its name and samples.
fn read_loss(output: &LossOutput, step: u64, annotation_ids: &[u64]) -> Result<LossValues, TrainError> {
    let mut terms = Vec::with_capacity(output.terms.len());
    for (name, per_sample) in &output.terms {
        let per_sample = host(per_sample.clone().inner());
        if let Some(at) = per_sample.iter().position(|value| !value.is_finite()) {
            let (what, value) = (format!("loss term {name}"), f64::from(per_sample[at]));
            return Err(TrainError::NotFinite { step, what, value, annotation_ids: vec![annotation_ids[at]] });
        }
        let mean = per_sample.iter().copied().map(f64::from).sum::<f64>() / per_sample.len() as f64;
        terms.push((name.to_string(), mean));
    }
    let total = f64::from(host(output.total.clone().inner())[0]);
    if !total.is_finite() {
        let (what, annotation_ids) = ("loss".to_string(), annotation_ids.to_vec());
        return Err(TrainError::NotFinite { step, what, value: total, annotation_ids });
    }
    Ok(LossValues { total, terms })
}
