//! Samples packed for a network.

use crate::source::Sample;

/// One batch on the host; every picture at the side of the student's input.
pub struct HostBatch {
    /// The annotations, in batch order.
    pub annotation_ids: Vec<u64>,
    /// Network input, `[batch, 3, grid, grid]`, `(pixel - 128) / 128`.
    pub input: Vec<f32>,
    /// Annotated masks, 0 or 1, `[batch, 1, grid, grid]`.
    pub truth: Vec<f32>,
    /// Teacher's mask logits `[batch, 1, grid, grid]` and predicted IoUs `[batch]`, clamped to `[0, 1]`, if there is a teacher.
    pub teacher: Option<(Vec<f32>, Vec<f32>)>,
    /// Predicted IoUs that had to be clamped into that range.
    pub clamped_predicted_ious: usize,
    /// Side of every picture.
    pub grid: usize,
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
        let answers: Option<Vec<_>> = samples.iter().map(|sample| sample.teacher.as_ref()).collect();
        let clamped_predicted_ious = answers.iter().flatten().filter(|answer| answer.is_clamped).count();
        let teacher = answers.map(|answers| {
            let logits = answers.iter().flat_map(|answer| answer.logits.iter().copied()).collect();
            (logits, answers.iter().map(|answer| answer.predicted_iou).collect())
        });
        let annotation_ids = samples.iter().map(|sample| sample.annotation_id).collect();
        Self { annotation_ids, input, truth, teacher, clamped_predicted_ious, grid }
    }
}

/// Appends interleaved RGB pixels as planes of `(pixel - 128) / 128`, the sensor's own normalisation.
pub fn push_input(pixels: &[u8], input: &mut Vec<f32>) {
    for channel in 0..3 {
        input.extend(pixels[channel..].iter().step_by(3).map(|&pixel| (f32::from(pixel) - 128.0) / 128.0));
    }
}
