//! From proposed boxes and a click to the box of what was clicked on.

use burn::tensor::Tensor;
use sensei_tensor::network::host_values;
use sensei_tensor::prompts::{Propose, box_iou};

/// A proposed box, `[centre x, centre y, width, height]`, and how sure the network is of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoredBox {
    /// In pixels of the square that prompts are given in.
    pub bbox: [f64; 4],
    /// In 0 to 1.
    pub score: f64,
}

/// The boxes that a network proposes for one image, surest first: at most [`MAX_BOXES`], none that overlaps a surer one by more than half.
pub fn boxes_of(proposer: &dyn Propose, embedding: &Tensor<4>) -> Vec<ScoredBox> {
    let proposals = proposer.propose(embedding.clone());
    let flat = |n: usize, values: Tensor<1>| -> Vec<f32> {
        let values = host_values(&values);
        assert_eq!(values.len(), n, "proposals of one image");
        values
    };
    let anchors = proposer.anchors();
    let n = anchors.len();
    let scores = flat(n, proposals.scores.reshape([n]));
    let deltas = flat(4 * n, proposals.deltas.reshape([4 * n]));
    let scored = anchors.iter().zip(scores).zip(deltas.as_chunks::<4>().0).map(|((anchor, score), deltas)| ScoredBox {
        bbox: decoded(anchor, deltas.map(f64::from)),
        score: 1.0 / (1.0 + (-f64::from(score)).exp()),
    });
    let mut all: Vec<ScoredBox> = scored.collect();
    all.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept: Vec<ScoredBox> = vec![];
    for candidate in all.into_iter().take(CANDIDATES) {
        if kept.len() < MAX_BOXES && kept.iter().all(|known| box_iou(&known.bbox, &candidate.bbox) <= MAX_OVERLAP) {
            kept.push(candidate);
        }
    }
    kept
}

/// The mean of the boxes whose centres are nearest to a click, weighed by their scores, as `[x, y, width, height]`; `None` of no boxes.
///
/// # Source
/// EdgeSAM (arXiv 2312.06660), section 3.4; how many boxes is not in the paper.
pub fn box_at([x, y]: [f64; 2], boxes: &[ScoredBox]) -> Option<[f64; 4]> {
    let distance = |found: &ScoredBox| (found.bbox[0] - x).powi(2) + (found.bbox[1] - y).powi(2);
    let mut nearest: Vec<&ScoredBox> = boxes.iter().collect();
    nearest.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
    nearest.truncate(NEAREST);
    let sum: f64 = nearest.iter().map(|found| found.score).sum();
    if sum <= 0.0 {
        return None;
    }
    let mean = |part: usize| nearest.iter().map(|found| found.score * found.bbox[part]).sum::<f64>() / sum;
    let [x, y, width, height] = [0, 1, 2, 3].map(mean);
    Some([x - width / 2.0, y - height / 2.0, width, height])
}

fn decoded([x, y, width, height]: &[f64; 4], [dx, dy, dw, dh]: [f64; 4]) -> [f64; 4] {
    // A side grows at most to 1000 / 16 of its anchor's, as in torchvision's detectors, so that it stays finite.
    let grown = |delta: f64| delta.min(MAX_GROWTH.ln()).exp();
    [x + dx * width, y + dy * height, width * grown(dw), height * grown(dh)]
}

/// Boxes whose mean a click takes.
const NEAREST: usize = 5;
/// Boxes of an image.
pub const MAX_BOXES: usize = 100;
/// Surest anchors that are looked at.
const CANDIDATES: usize = 1000;
/// IoU with a surer box above which one is dropped.
const MAX_OVERLAP: f64 = 0.5;
const MAX_GROWTH: f64 = 1000.0 / 16.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(bbox: [f64; 4], score: f64) -> ScoredBox {
        ScoredBox { bbox, score }
    }

    #[test]
    fn a_click_takes_the_mean_of_the_nearest_boxes() {
        let far = (0..5).map(|idx| scored([500.0 + f64::from(idx), 500.0, 10.0, 10.0], 0.9));
        let near = [scored([100.0, 100.0, 20.0, 40.0], 0.75), scored([104.0, 100.0, 60.0, 40.0], 0.25)];
        let mut boxes: Vec<ScoredBox> = near.into_iter().chain(far.clone()).collect();
        boxes.extend((0..3).map(|idx| scored([102.0, 99.0 + f64::from(idx), 1.0, 1.0], 0.0)));
        // The three without a score are near, and weigh nothing.
        assert_eq!(box_at([102.0, 100.0], &boxes), Some([101.0 - 15.0, 80.0, 30.0, 40.0]));
        assert_eq!(box_at([0.0, 0.0], &[]), None);
        assert_eq!(box_at([0.0, 0.0], &[scored([1.0; 4], 0.0)]), None);
    }

    #[test]
    fn boxes_are_decoded_as_they_were_encoded_and_stay_finite() {
        let anchor = [50.0, 60.0, 40.0, 20.0];
        assert_eq!(decoded(&anchor, [0.0; 4]), anchor);
        let found = decoded(&anchor, [0.5, -1.0, 2f64.ln(), 1000.0]);
        assert_eq!(found[..2], [70.0, 40.0]);
        assert!((found[2] - 80.0).abs() < 1e-9 && (found[3] - 1250.0).abs() < 1e-6, "{found:?}");
    }
}
