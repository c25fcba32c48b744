//! Samples on a device.

use burn::tensor::{Device, Tensor, TensorData};
use sensei_data::sampling::subset;
use sensei_loss::TeacherTarget;
use sensei_samples::batch::HostBatch;
use sensei_samples::error::SampleError;
use sensei_samples::source::SampleSource;
use sensei_tensor::masks::MaskLogits;

/// The input on a device, `[batch, 3, grid, grid]`.
pub fn input_tensor(batch: &HostBatch, device: &Device) -> Tensor<4> {
    picture(batch, &batch.input, 3, device)
}

/// The annotated masks on a device, `[batch, 1, grid, grid]`.
pub fn truth_tensor(batch: &HostBatch, device: &Device) -> Tensor<4> {
    picture(batch, &batch.truth, 1, device)
}

/// The teacher's answers on a device.
pub fn teacher_target(batch: &HostBatch, device: &Device) -> Option<TeacherTarget> {
    let (logits, predicted_iou) = batch.teacher.as_ref()?;
    let predicted_iou = Tensor::from_data(TensorData::new(predicted_iou.clone(), [predicted_iou.len()]), device);
    Some(TeacherTarget { logits: MaskLogits(picture(batch, logits, 1, device)), predicted_iou })
}

/// A teacher's target where nothing is compared with it: all 0.
pub(crate) fn no_target(batch: &HostBatch, device: &Device) -> TeacherTarget {
    let n = batch.annotation_ids.len();
    let logits = Tensor::zeros([n, 1, batch.grid, batch.grid], device);
    TeacherTarget { logits: MaskLogits(logits), predicted_iou: Tensor::zeros([n], device) }
}

/// Inputs of randomly chosen instances, without augmentation, on the CPU, in batches of `[batch, 3, grid, grid]`: what grids are
/// calibrated on.
///
/// # Errors
/// If a sample cannot be had.
pub fn random_inputs(source: &SampleSource, n_instances: usize, seed: u64) -> Result<Vec<Tensor<4>>, SampleError> {
    let mut chosen = subset(source.instances.len(), n_instances.min(source.instances.len()), seed);
    chosen.sort_unstable();
    let batch = |chunk: &[u32]| {
        let instances: Vec<usize> = chunk.iter().map(|&at| source.instances[at as usize]).collect();
        Ok(input_tensor(&HostBatch::new(&source.samples(&instances)?), &Device::flex()))
    };
    chosen.chunks(RANDOM_BATCH).map(batch).collect()
}

fn picture(batch: &HostBatch, values: &[f32], channels: usize, device: &Device) -> Tensor<4> {
    let shape = [batch.annotation_ids.len(), channels, batch.grid, batch.grid];
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

/// Images per batch; sums over images are in this order.
const RANDOM_BATCH: usize = 16;
