//! Batches in a fixed order, prepared ahead of the training step by threads of their own.

use std::sync::mpsc::{Receiver, sync_channel};

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use sensei_data::sampling::epoch_order;
use sensei_loss::{MaskLogits, TeacherTarget};

use crate::error::TrainError;
use crate::plan::TrainPlan;
use crate::source::{Sample, SampleSource};

/// One batch on the host; every picture at the side of the student's input.
pub struct HostBatch {
    /// The annotations, in batch order.
    pub annotation_ids: Vec<u64>,
    /// Network input, `[batch, 3, grid, grid]`, `(pixel - 128) / 128`.
    pub input: Vec<f32>,
    /// Annotated masks, 0 or 1, `[batch, 1, grid, grid]`.
    pub truth: Vec<f32>,
    /// Teacher's mask logits `[batch, 1, grid, grid]` and weights `[batch]`, if there is a teacher.
    pub teacher: Option<(Vec<f32>, Vec<f32>)>,
    /// Teacher scores that were clamped to become weights.
    pub clamped_teacher_scores: usize,
    grid: usize,
}

impl HostBatch {
    /// Packs samples of one size.
    pub fn new(samples: &[Sample]) -> Self {
        let grid = samples[0].geometry.grid as usize;
        let mut input = Vec::with_capacity(samples.len() * 3 * grid * grid);
        for sample in samples {
            push_input(&sample.pixels, &mut input);
        }
        let truth = samples.iter().flat_map(|sample| sample.truth.iter().map(|&bit| f32::from(bit))).collect();
        let targets: Option<Vec<_>> = samples.iter().map(|sample| sample.teacher.as_ref()).collect();
        let clamped = targets.iter().flatten().filter(|target| target.weight_clamped).count();
        let teacher = targets.map(|targets| {
            let logits = targets.iter().flat_map(|target| target.logits.iter().copied()).collect();
            (logits, targets.iter().map(|target| target.weight).collect())
        });
        let annotation_ids = samples.iter().map(|sample| sample.annotation_id).collect();
        Self { annotation_ids, input, truth, teacher, clamped_teacher_scores: clamped, grid }
    }

    /// The input on a device, `[batch, 3, grid, grid]`.
    pub fn input_tensor(&self, device: &Device) -> Tensor<4> {
        self.picture(&self.input, 3, device)
    }

    /// The annotated masks on a device, `[batch, 1, grid, grid]`.
    pub fn truth_tensor(&self, device: &Device) -> Tensor<4> {
        self.picture(&self.truth, 1, device)
    }

    /// The teacher's answers on a device.
    pub fn teacher_target(&self, device: &Device) -> Option<TeacherTarget> {
        let (logits, weights) = self.teacher.as_ref()?;
        let predicted_iou = Tensor::from_data(TensorData::new(weights.clone(), [weights.len()]), device);
        Some(TeacherTarget { logits: MaskLogits(self.picture(logits, 1, device)), predicted_iou })
    }

    fn picture(&self, values: &[f32], channels: usize, device: &Device) -> Tensor<4> {
        let shape = [self.annotation_ids.len(), channels, self.grid, self.grid];
        Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
    }
}

/// Appends interleaved RGB pixels as planes of `(pixel - 128) / 128`, the sensor's own normalisation.
pub fn push_input(pixels: &[u8], input: &mut Vec<f32>) {
    for channel in 0..3 {
        input.extend(pixels[channel..].iter().step_by(3).map(|&pixel| (f32::from(pixel) - 128.0) / 128.0));
    }
}

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
    let load =
        |&at: &u32| source.augmented_sample(source.instances[at as usize], augmentation, plan.seed, position.epoch);
    let batch = |of_batch: &[u32]| {
        let samples = pool.install(|| of_batch.par_iter().map(load).collect::<Result<Vec<_>, _>>())?;
        Ok(HostBatch::new(&samples))
    };
    Some(of_step.chunks(plan.batch_size).map(batch).collect())
}

/// Batches made ahead; each holds a few MB.
const PREFETCH: usize = 4;
