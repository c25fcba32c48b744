//! Batches in a fixed order, prepared ahead of the training step by threads of their own.

use std::sync::mpsc::{Receiver, sync_channel};

use rayon::{ThreadPool, ThreadPoolBuilder};
use sensei_data::sampling::epoch_order;

use crate::error::TrainError;
use crate::plan::TrainPlan;
use crate::task::Task;

/// Runs `work` with an iterator over the plan's batches from optimiser step `first_step` on.
///
/// Batches are made by `threads` threads, at most `PREFETCH` ahead; their content depends on plan and task alone.
///
/// # Errors
/// Those of `work`; a sample that cannot be had comes out of the iterator.
pub fn with_batches<K: Task, T>(
    plan: &TrainPlan<K::Loss>,
    task: &K,
    first_step: u64,
    threads: usize,
    work: impl FnOnce(&mut dyn Iterator<Item = Result<K::Batch, TrainError>>) -> Result<T, TrainError>,
) -> Result<T, TrainError> {
    let pool = ThreadPoolBuilder::new().num_threads(threads.max(1)).thread_name(|idx| format!("data-{idx}")).build();
    let pool = pool.map_err(|_| TrainError::LoaderGone)?;
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel(PREFETCH);
        scope.spawn(move || {
            let mut step = first_step;
            while let Some(batches) = batches_of_step(plan, task, step, &pool) {
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

struct Batches<B>(Receiver<Result<B, TrainError>>);

impl<B> Iterator for Batches<B> {
    type Item = Result<B, TrainError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.recv().ok()
    }
}

/// The batches of one optimiser step, or `None` behind the last step of the plan.
fn batches_of_step<K: Task>(
    plan: &TrainPlan<K::Loss>,
    task: &K,
    step: u64,
    pool: &ThreadPool,
) -> Option<Vec<Result<K::Batch, TrainError>>> {
    let n_samples = task.n_samples();
    let position = plan.position(step, n_samples)?;
    let order = epoch_order(n_samples, plan.seed, position.epoch);
    let first = position.step_in_epoch as usize * plan.samples_per_step();
    let of_step = &order[first..n_samples.min(first + plan.samples_per_step())];
    let of_step: Vec<usize> = of_step.iter().map(|&at| at as usize).collect();
    let load = || task.batches(plan, &plan.stages[position.stage_idx], position.epoch, &of_step);
    Some(match pool.install(load) {
        Ok(batches) => batches.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error.into())],
    })
}

/// Batches made ahead; each holds a few MB.
const PREFETCH: usize = 4;
