//! One optimiser step: forward and backward of its batches, on one device or several, and what follows from the gradients.

use burn::tensor::{Device, Tensor};
use sensei_tensor::network::{BatchStats, Network, host_values};
use sensei_tensor::ops::sum_of_squares;
use sensei_tensor::profile;

use crate::checkpoint::TrainState;
use crate::error::TrainError;
use crate::groups::StepRate;
use crate::optimizer::clip_global_norm;
use crate::plan::{StagePlan, TrainPlan};
use crate::task::{BatchGradients, Shared, Task};

/// Where in the plan a step is.
pub(crate) struct StepPlan<'a, L> {
    pub plan: &'a TrainPlan<L>,
    pub stage: &'a StagePlan<L>,
    pub rate: StepRate,
    /// Epoch over all stages, from 0.
    pub epoch: u64,
}

/// What a step has to tell.
pub(crate) struct StepReport {
    pub loss: f64,
    pub terms: Vec<(String, f64)>,
    pub gradient_norm: f64,
    pub loss_scale: Option<f64>,
}

/// Takes one step over its batches.
pub(crate) fn step<K: Task>(
    state: &mut TrainState,
    task: &K,
    batches: &[K::Batch],
    at: &StepPlan<'_, K::Loss>,
    other_devices: &[Device],
) -> Result<StepReport, TrainError> {
    let loss_scale = state.loss_scale.map(|scale| scale.scale);
    let shared = Shared {
        stage: at.stage,
        pass: at.stage.pass(at.plan.mixed_precision, at.rate.step_in_stage),
        n_samples: batches.iter().map(|batch| K::ids(batch).len()).sum(),
        loss_scale: loss_scale.unwrap_or(1.0),
        step: state.step,
        seed: at.plan.seed,
        epoch: at.epoch,
    };
    let mut sums = sum_batches(&*state.network, task, batches, &shared, other_devices)?;
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
        let ids = batches.iter().flat_map(|batch| K::ids(batch).iter().copied()).collect();
        return Err(not_finite(state, ids, &sums.gradients, gradient_norm));
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

/// The same of all batches of a step.
struct StepSums {
    loss: f64,
    terms: Vec<(String, f64)>,
    gradients: Vec<Vec<Tensor<1>>>,
    norm_stats: Vec<Vec<BatchStats>>,
}

/// Adds up the batches in their order, whichever device they were on, so that the bits do not depend on the devices.
fn sum_batches<K: Task>(
    network: &dyn Network,
    task: &K,
    batches: &[K::Batch],
    shared: &Shared<'_, K::Loss>,
    other_devices: &[Device],
) -> Result<StepSums, TrainError> {
    let mut sums = StepSums { loss: 0.0, terms: vec![], gradients: vec![], norm_stats: vec![] };
    for shard in batches.chunks(1 + other_devices.len()) {
        for (found, batch) in shard_gradients(network, task, shard, shared, other_devices)?.into_iter().zip(shard) {
            let share = K::ids(batch).len() as f64 / shared.n_samples as f64;
            sums.loss += share * found.loss;
            for (name, value) in found.terms {
                match sums.terms.iter_mut().find(|(known, _)| *known == name) {
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
fn shard_gradients<K: Task>(
    network: &dyn Network,
    task: &K,
    shard: &[K::Batch],
    shared: &Shared<'_, K::Loss>,
    other_devices: &[Device],
) -> Result<Vec<BatchGradients>, TrainError> {
    let [first, rest @ ..] = shard else { return Ok(vec![]) };
    std::thread::scope(|scope| {
        let others = rest.iter().zip(other_devices).map(|(batch, device)| {
            scope.spawn(move || task.gradients(&*network.to_device(&device.clone().autodiff()), batch, shared))
        });
        let others: Vec<_> = others.collect();
        let mut all = vec![task.gradients(network, first, shared)?];
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

/// Clips the groups that are clipped, together; returns their norm before, and whether the others are finite.
fn clip<L>(network: &dyn Network, at: &StepPlan<'_, L>, gradients: &mut [Vec<Tensor<1>>]) -> (f64, bool) {
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
    annotation_ids: Vec<u64>,
    gradients: &[Vec<Tensor<1>>],
    gradient_norm: f64,
) -> TrainError {
    let groups = state.network.groups();
    let named = groups.iter().zip(gradients).flat_map(|(group, gradients)| group.parameters.iter().zip(gradients));
    let sums = named.map(|(parameter, gradient)| (&parameter.name, host_values(&gradient.clone().sum())[0]));
    let culprit = sums.into_iter().find(|(_, sum)| !sum.is_finite());
    let what = culprit.map_or("gradient norm".into(), |(name, _)| format!("gradient of {name}"));
    TrainError::NotFinite { step: state.step, what, value: gradient_norm, annotation_ids }
}
