//! Samples on a device.

use burn::tensor::{Device, Tensor, TensorData};
use sensei_data::sampling::subset;
use sensei_loss::TeacherTarget;
use sensei_samples::batch::{HostBatch, push_input};
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

/// Randomly chosen instances in the order of the source: what grids are calibrated on.
pub fn random_instances(source: &SampleSource, n_instances: usize, seed: u64) -> Vec<usize> {
    let mut chosen = subset(source.instances.len(), n_instances.min(source.instances.len()), seed);
    chosen.sort_unstable();
    chosen.into_iter().map(|at| source.instances[at as usize]).collect()
}

/// Inputs of [`random_instances`], without augmentation, on the CPU, as [`pixel_inputs`] batches them.
///
/// # Errors
/// If a sample cannot be had.
pub fn random_inputs(source: &SampleSource, n_instances: usize, seed: u64) -> Result<Vec<Tensor<4>>, SampleError> {
    let batch = |instances: &[usize]| {
        let samples = source.samples(instances)?;
        let pixels: Vec<&[u8]> = samples.iter().map(|sample| sample.pixels.as_slice()).collect();
        Ok(pixel_inputs(&pixels))
    };
    let instances = random_instances(source, n_instances, seed);
    let batches: Result<Vec<_>, SampleError> = instances.chunks(RANDOM_BATCH).map(batch).collect();
    Ok(batches?.into_iter().flatten().collect())
}

/// Inputs of square crops of RGB pixels, all `[side, side, 3]`, on the CPU, in batches of `[batch, 3, side, side]`.
///
/// # Panics
/// If a crop is not square, or not of the others' size: a bug in the caller.
pub fn pixel_inputs(crops: &[&[u8]]) -> Vec<Tensor<4>> {
    let batch = |crops: &[&[u8]]| {
        let side = (crops[0].len() / 3).isqrt();
        let mut values = Vec::with_capacity(crops.len() * 3 * side * side);
        for pixels in crops {
            assert_eq!(pixels.len(), 3 * side * side, "bytes of a square crop");
            push_input(pixels, &mut values);
        }
        Tensor::from_data(TensorData::new(values, [crops.len(), 3, side, side]), &Device::flex())
    };
    crops.chunks(RANDOM_BATCH).map(batch).collect()
}

fn picture(batch: &HostBatch, values: &[f32], channels: usize, device: &Device) -> Tensor<4> {
    let shape = [batch.annotation_ids.len(), channels, batch.grid, batch.grid];
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

/// Images per batch; sums over images are in this order.
const RANDOM_BATCH: usize = 16;
