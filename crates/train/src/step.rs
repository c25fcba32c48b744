//! One optimiser step: forward and backward of its batches, on one device or several, and what follows from the gradients.

use burn::tensor::{Device, Tensor};
use sensei_loss::{LossOutput, LossPlan, SampleWeighting, TeacherTarget, distillation_loss};
use sensei_samples::batch::HostBatch;
use sensei_tensor::masks::MaskProbs;
use sensei_tensor::network::{BatchStats, Inputs, Network, Pass, host_values};
use sensei_tensor::ops::sum_of_squares;
use sensei_tensor::profile;

use crate::checkpoint::TrainState;
use crate::error::TrainError;
use crate::groups::StepRate;
use crate::optimizer::clip_global_norm;
use crate::plan::{StagePlan, TrainPlan};
use crate::tensors::{input_tensor, no_target, teacher_target, truth_tensor};

/// Where in the plan a step is.
pub(crate) struct StepPlan<'a> {
    pub plan: &'a TrainPlan,
    pub stage: &'a StagePlan,
    pub rate: StepRate,
}

/// What a step has to tell.
pub(crate) struct StepReport {
    pub loss: f64,
    pub terms: Vec<(String, f64)>,
    pub gradient_norm: f64,
    pub loss_scale: Option<f64>,
}

/// Takes one step over its batches.
pub(crate) fn step(
    state: &mut TrainState,
    batches: &[HostBatch],
    at: &StepPlan,
    other_devices: &[Device],
) -> Result<StepReport, TrainError> {
    let loss_scale = state.loss_scale.map(|scale| scale.scale);
    let shared = Shared {
        stage: at.stage,
        pass: at.stage.pass(at.plan.mixed_precision, at.rate.step_in_stage),
        n_samples: batches.iter().map(|batch| batch.annotation_ids.len()).sum(),
        loss_scale: loss_scale.unwrap_or(1.0),
        step: state.step,
    };
    let mut sums = sum_batches(&*state.network, batches, &shared, other_devices)?;
    let span = profile::span("optimiser");
    if loss_scale.is_some() {
        let unscaled = |gradient: &mut Tensor<1>| *gradient = gradient.clone() / shared.loss_scale;
        sums.gradients.iter_mut().flatten().for_each(unscaled);
    }
    let (gradient_norm, others_are_finite) = clip(&*state.network, at, &mut sums.gradients);
    let overflowed = !gradient_norm.is_finite() || !others_are_finite;
    if let (Some(scale), Some(scaling)) =
        (&mut state.loss_scale, at.plan.mixed_precision.and_then(|mixed| mixed.scaling))
    {
        scale.update(scaling, overflowed);
    }
    if overflowed && state.loss_scale.is_none_or(|scale| scale.is_exhausted()) {
        return Err(not_finite(state, batches, &sums.gradients, gradient_norm));
    }
    if !overflowed {
        let stats = sums.norm_stats.iter().filter(|stats| !stats.is_empty());
        stats.for_each(|stats| state.network.update_running_stats(stats));
        state.groups.step(&mut *state.network, at.stage, at.rate, sums.gradients);
    }
    drop(span);
    state.step += 1;
    Ok(StepReport { loss: sums.loss, terms: sums.terms, gradient_norm, loss_scale })
}

/// What the batches of a step have in common.
struct Shared<'a> {
    stage: &'a StagePlan,
    pass: Pass,
    n_samples: usize,
    /// Factor of the loss before the backward pass.
    loss_scale: f64,
    step: u64,
}

/// What one batch adds to a step.
struct BatchGradients {
    loss: f64,
    terms: Vec<(String, f64)>,
    /// By group, flat, for the batch's share of the step's loss; empty for a frozen group.
    gradients: Vec<Vec<Tensor<1>>>,
    norm_stats: Vec<BatchStats>,
}

/// The same of all batches of a step.
struct StepSums {
    loss: f64,
    terms: Vec<(String, f64)>,
    gradients: Vec<Vec<Tensor<1>>>,
    norm_stats: Vec<Vec<BatchStats>>,
}

/// Adds up the batches in their order, whichever device they were on, so that the bits do not depend on the devices.
fn sum_batches(
    network: &dyn Network,
    batches: &[HostBatch],
    shared: &Shared,
    other_devices: &[Device],
) -> Result<StepSums, TrainError> {
    let mut sums = StepSums { loss: 0.0, terms: vec![], gradients: vec![], norm_stats: vec![] };
    for shard in batches.chunks(1 + other_devices.len()) {
        for (found, batch) in shard_gradients(network, shard, shared, other_devices)?.into_iter().zip(shard) {
            let share = batch.annotation_ids.len() as f64 / shared.n_samples as f64;
            sums.loss += share * found.loss;
            for (idx, (name, value)) in found.terms.into_iter().enumerate() {
                match sums.terms.get_mut(idx) {
                    Some((_, sum)) => *sum += share * value,
                    None => sums.terms.push((name, share * value)),
                }
            }
            sums.gradients = match std::mem::take(&mut sums.gradients) {
                none if none.is_empty() => found.gradients,
                before => before.into_iter().zip(found.gradients).map(|(a, b)| added(a, b)).collect(),
            };
            sums.norm_stats.push(found.norm_stats);
        }
    }
    Ok(sums)
}

fn added(a: Vec<Tensor<1>>, b: Vec<Tensor<1>>) -> Vec<Tensor<1>> {
    a.into_iter().zip(b).map(|(a, b)| a + b).collect()
}

/// The gradients of one batch on each device, in order; all tensors come back to the network's own device.
fn shard_gradients(
    network: &dyn Network,
    shard: &[HostBatch],
    shared: &Shared,
    other_devices: &[Device],
) -> Result<Vec<BatchGradients>, TrainError> {
    let [first, rest @ ..] = shard else { return Ok(vec![]) };
    std::thread::scope(|scope| {
        let others = rest.iter().zip(other_devices).map(|(batch, device)| {
            scope.spawn(move || batch_gradients(&*network.to_device(&device.clone().autodiff()), batch, shared))
        });
        let others: Vec<_> = others.collect();
        let mut all = vec![batch_gradients(network, first, shared)?];
        let home = network.device().clone().inner();
        for other in others {
            // A panic goes on here: it is a fault of a device or of this program.
            let mut found = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            let gradients = found.gradients.iter_mut().flatten();
            gradients.for_each(|gradient| *gradient = gradient.clone().to_device(&home));
            found.norm_stats = found.norm_stats.iter().map(|stats| stats.to_device(&home)).collect();
            all.push(found);
        }
        Ok(all)
    })
}

/// Forward and backward pass of one batch.
fn batch_gradients(network: &dyn Network, batch: &HostBatch, shared: &Shared) -> Result<BatchGradients, TrainError> {
    let device = network.device();
    let needs = shared.stage.loss.needs();
    let span = profile::span("forward");
    let inputs = Inputs { images: input_tensor(batch, device), taps: &needs.taps };
    let outputs = network.forward(inputs, shared.pass)?;
    drop(span);
    let span = profile::span("loss");
    let teacher = if needs.teacher_masks { asked(batch, &shared.stage.loss, device) } else { None };
    let truth = MaskProbs(truth_tensor(batch, device));
    let output = distillation_loss(&shared.stage.loss, outputs.masks, teacher.as_ref(), truth, &batch.part_idxs);
    let (loss, terms) = read_loss(&output, shared.step, &batch.annotation_ids)?;
    let weight = shared.loss_scale * batch.annotation_ids.len() as f64 / shared.n_samples as f64;
    let total = if weight == 1.0 { output.total } else { output.total * weight };
    drop(span);
    let span = profile::span("backward");
    let mut found = total.backward();
    drop(span);
    let gradients = network.groups().into_iter().map(|group| {
        if shared.stage.group(&group.name).is_none() {
            return vec![];
        }
        let gradients = group.parameters.iter().map(|parameter| {
            let gradient = parameter.values.grad_remove(&mut found);
            gradient.unwrap_or_else(|| parameter.values.clone().inner().zeros_like())
        });
        gradients.collect()
    });
    let gradients = gradients.collect();
    Ok(BatchGradients { loss, terms, gradients, norm_stats: outputs.norm_stats })
}

/// What the teacher said of a batch; of one that no sample of is compared with it, nothing.
fn asked(batch: &HostBatch, loss: &LossPlan, device: &Device) -> Option<TeacherTarget> {
    let is_truth_only = |&part_idx: &usize| loss.weighting_of(part_idx) == SampleWeighting::TruthOnly;
    match batch.part_idxs.iter().all(is_truth_only) {
        true => Some(no_target(batch, device)),
        false => teacher_target(batch, device),
    }
}

/// Clips the groups that are clipped, together; returns their norm before, and whether the others are finite.
fn clip(network: &dyn Network, at: &StepPlan, gradients: &mut [Vec<Tensor<1>>]) -> (f64, bool) {
    let names: Vec<&str> = network.groups().into_iter().map(|group| group.name.as_str()).collect();
    let is_clipped = |name: &str| at.stage.group(name).is_some_and(|rule| rule.clipped);
    let (mut clipped, mut others) = (vec![], vec![]);
    for (name, gradients) in names.iter().zip(gradients.iter_mut()) {
        if is_clipped(name) { &mut clipped } else { &mut others }.append(&mut gradients.clone());
    }
    let norm = clip_global_norm(&mut clipped, at.plan.clip_gradient_norm);
    let mut clipped = clipped.into_iter();
    for (name, gradients) in names.iter().zip(gradients.iter_mut()) {
        if is_clipped(name) {
            *gradients = clipped.by_ref().take(gradients.len()).collect();
        }
    }
    (norm, sum_of_squares(&others).is_finite())
}

/// The error of a step whose gradients are no numbers: the first parameter whose is not, and the step's samples.
fn not_finite(
    state: &TrainState,
    batches: &[HostBatch],
    gradients: &[Vec<Tensor<1>>],
    gradient_norm: f64,
) -> TrainError {
    let groups = state.network.groups();
    let named = groups.iter().zip(gradients).flat_map(|(group, gradients)| group.parameters.iter().zip(gradients));
    let sums = named.map(|(parameter, gradient)| (&parameter.name, host_values(&gradient.clone().sum())[0]));
    let culprit = sums.into_iter().find(|(_, sum)| !sum.is_finite());
    let what = culprit.map_or("gradient norm".into(), |(name, _)| format!("gradient of {name}"));
    let annotation_ids = batches.iter().flat_map(|batch| batch.annotation_ids.iter().copied()).collect();
    TrainError::NotFinite { step: state.step, what, value: gradient_norm, annotation_ids }
}

/// Reads loss and terms from the device; the first one that is not finite is an error with its name and samples.
fn read_loss(output: &LossOutput, step: u64, annotation_ids: &[u64]) -> Result<(f64, Vec<(String, f64)>), TrainError> {
    let mut terms = Vec::with_capacity(output.terms.len());
    for (name, per_sample) in &output.terms {
        let per_sample = host_values(per_sample);
        if let Some(at) = per_sample.iter().position(|value| !value.is_finite()) {
            let (what, value) = (format!("loss term {name}"), f64::from(per_sample[at]));
            return Err(TrainError::NotFinite { step, what, value, annotation_ids: vec![annotation_ids[at]] });
        }
        let mean = per_sample.iter().copied().map(f64::from).sum::<f64>() / per_sample.len() as f64;
        terms.push((name.to_string(), mean));
    }
    let total = f64::from(host_values(&output.total)[0]);
    if !total.is_finite() {
        let (what, annotation_ids) = ("loss".to_string(), annotation_ids.to_vec());
        return Err(TrainError::NotFinite { step, what, value: total, annotation_ids });
    }
    Ok((total, terms))
}
