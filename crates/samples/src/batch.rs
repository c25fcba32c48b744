//! Samples packed for a network.

use sensei_kernels::planes::push_planes;

use crate::source::Sample;

/// One batch on the host; every picture at the side of the student's input.
pub struct HostBatch {
    /// The annotations, in batch order.
    pub annotation_ids: Vec<u64>,
    /// Which of the data set's parts each sample is of, in batch order.
    pub part_idxs: Vec<usize>,
    /// Network input, `[batch, 3, grid, grid]`, `(pixel - 128) / 128`.
    pub input: Vec<f32>,
    /// Annotated masks, 0 or 1, `[batch, 1, grid, grid]`.
    pub truth: Vec<f32>,
    /// Teacher's mask logits `[batch, 1, grid, grid]` and predicted IoUs `[batch]`, clamped to `[0, 1]`, if a sample has an answer; 0 for
    /// samples without.
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
        let mut truth = Vec::with_capacity(samples.len() * grid * grid);
        samples.iter().for_each(|sample| truth.extend(sample.truth.iter().map(|&bit| f32::from(bit))));
        let answers = || samples.iter().map(|sample| sample.teacher.as_ref());
        let clamped_predicted_ious = answers().flatten().filter(|answer| answer.is_clamped).count();
        let teacher = answers().any(|answer| answer.is_some()).then(|| {
            let mut logits = Vec::with_capacity(samples.len() * grid * grid);
            for answer in answers() {
                match answer {
                    Some(answer) => logits.extend_from_slice(&answer.logits),
                    None => logits.resize(logits.len() + grid * grid, 0.0),
                }
            }
            (logits, answers().map(|answer| answer.map_or(0.0, |answer| answer.predicted_iou)).collect())
        });
        let annotation_ids = samples.iter().map(|sample| sample.annotation_id).collect();
        let part_idxs = samples.iter().map(|sample| sample.part_idx).collect();
        Self { annotation_ids, part_idxs, input, truth, teacher, clamped_predicted_ious, grid }
    }
}

/// Appends interleaved RGB pixels as planes of `(pixel - 128) / 128`, the sensor's own normalisation.
///
/// # Panics
/// If the bytes are not whole pixels.
pub fn push_input(pixels: &[u8], input: &mut Vec<f32>) {
    let (pixels, rest) = pixels.as_chunks::<3>();
    assert!(rest.is_empty(), "push_input: bytes of whole RGB pixels");
    push_planes(pixels, input);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_three_planes_around_zero() {
        let mut input = vec![7.0];
        push_input(&[0, 64, 128, 192, 255, 1], &mut input);
        let plane = |a: f32, b: f32| [(a - 128.0) / 128.0, (b - 128.0) / 128.0];
        let expected = [plane(0.0, 192.0), plane(64.0, 255.0), plane(128.0, 1.0)].concat();
        assert_eq!((input[0], &input[1..]), (7.0, expected.as_slice()));
    }
}
