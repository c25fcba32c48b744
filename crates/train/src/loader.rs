//! Batches in a fixed order, prepared ahead of the training step by threads of their own.

use std::sync::mpsc::{Receiver, sync_channel};

use rayon::{ThreadPool, ThreadPoolBuilder};
use sensei_data::sampling::epoch_order;
use sensei_samples::batch::HostBatch;
use sensei_samples::source::SampleSource;

use crate::error::TrainError;
use crate::plan::TrainPlan;

/// Runs `work` with an iterator over the plan's batches from optimiser step `first_step` on.
///
/// Batches are made by `threads` threads, at most `PREFETCH` ahead; their content depends on plan and source alone.
///
/// # Errors
/// Those of `work`; a sample that cannot be had comes out of the iterator.
pub fn with_batches<T>(
    plan: &TrainPlan,
    source: &SampleSource,
    first_step: u64,
    threads: usize,
    work: impl FnOnce(&mut dyn Iterator<Item = Result<HostBatch, TrainError>>) -> Result<T, TrainError>,
) -> Result<T, TrainError> {
    let pool = ThreadPoolBuilder::new().num_threads(threads.max(1)).thread_name(|idx| format!("data-{idx}")).build();
    let pool = pool.map_err(|_| TrainError::LoaderGone)?;
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(PREFETCH);
        scope.spawn(move || {
            let mut step = first_step;
            while let Some(batches) = batches_of_step(plan, source, step, &pool) {
                for batch in batches {
                    let failed = batch.is_err();
                    // A closed channel means that the training has ended.
                    if sender.send(batch).is_err() || failed {
                        return;
                    }
                }
                step += 1;
            }
        });
        work(&mut Batches(receiver))
    })
}

struct Batches(Receiver<Result<HostBatch, TrainError>>);

impl Iterator for Batches {
    type Item = Result<HostBatch, TrainError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.recv().ok()
    }
}

/// The batches of one optimiser step, or `None` behind the last step of the plan.
fn batches_of_step(
    plan: &TrainPlan,
    source: &SampleSource,
    step: u64,
    pool: &ThreadPool,
) -> Option<Vec<Result<HostBatch, TrainError>>> {
    let n_samples = source.instances.len();
    let position = plan.position(step, n_samples)?;
    let order = epoch_order(n_samples, plan.seed, position.epoch);
    let first = position.step_in_epoch as usize * plan.samples_per_step();
    let of_step = &order[first..n_samples.min(first + plan.samples_per_step())];
    let augmentation = &plan.stages[position.stage_idx].augmentation;
    let instances: Vec<usize> = of_step.iter().map(|&at| source.instances[at as usize]).collect();
    // All of a step's samples together, so that an image is decoded once for all of its batches.
    let load = || source.augmented_samples(&instances, augmentation, plan.seed, position.epoch);
    Some(match pool.install(load) {
        Ok(samples) => samples.chunks(plan.batch_size).map(|batch| Ok(HostBatch::new(batch))).collect(),
        Err(error) => vec![Err(error.into())],
    })
}

/// Batches made ahead; each holds a few MB.
const PREFETCH: usize = 4;
