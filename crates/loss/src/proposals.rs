//! Losses of proposed boxes.

use burn::tensor::{Device, Tensor, TensorData, activation};

/// What the anchors of a batch of images are to say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProposalTargets {
    /// 1 for an anchor that is to find an object, else 0, `[image * anchor]`.
    pub labels: Vec<f32>,
    /// The object's box relative to the anchor, 0 for one that finds none, `[image * anchor * 4]`.
    pub deltas: Vec<f32>,
    /// Anchors of each image that are to find an object.
    pub n_positive: Vec<f32>,
}

impl ProposalTargets {
    fn tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
    }

    /// At least 1, so that an image without objects has a finite loss.
    fn divisors(&self, factor: f32, device: &Device) -> Tensor<1> {
        let divisors: Vec<f32> = self.n_positive.iter().map(|n| factor * n.max(1.0)).collect();
        Self::tensor(&divisors, [divisors.len()], device)
    }
}

/// Focal cross-entropy of the anchors' scores: the sum over an image's anchors, divided by how many are to find an object, at least 1.
///
/// # Shapes
/// - `scores`: `[image, anchor]`; output: `[image]`, not reduced
/// # Panics
/// If there are not as many labels.
/// # Source
/// Lin et al. 2017 (arXiv 1708.02002), equation 5; EfficientDet (arXiv 1911.09070): alpha 0.25, gamma 1.5.
pub fn proposal_focal(scores: Tensor<2>, targets: &ProposalTargets, alpha: f64, gamma: f64) -> Tensor<1> {
    let (dims, device) = (scores.dims(), scores.device());
    let labels: Tensor<2> = ProposalTargets::tensor(&targets.labels, dims, &device);
    // Of +x for objects and -x for others, so that one formula serves both.
    let toward = scores * (labels.clone() * 2.0 - 1.0);
    let cross_entropy = activation::log_sigmoid(toward.clone()).neg();
    let right: Tensor<2> = activation::sigmoid(toward);
    let unsure = (right.neg() + 1.0).powf_scalar(gamma);
    let share = labels * (2.0 * alpha - 1.0) + (1.0 - alpha);
    let sum = (share * unsure * cross_entropy).sum_dim(1).squeeze_dim::<1>(1);
    sum / targets.divisors(1.0, &device)
}

/// Huber distance of the boxes of anchors that are to find an object: the sum over them and their four numbers, divided by how many numbers these
/// are.
///
/// # Shapes
/// - `deltas`: `[image, anchor, 4]`; output: `[image]`, not reduced
/// # Panics
/// If there are not as many targets.
/// # Source
/// EfficientDet and its code: delta 0.1; the loss's weight there is 50.
pub fn proposal_huber(deltas: Tensor<3>, targets: &ProposalTargets, delta: f64) -> Tensor<1> {
    let ([images, anchors, _], device) = (deltas.dims(), deltas.device());
    let expected = ProposalTargets::tensor(&targets.deltas, [images, anchors, 4], &device);
    let labels: Tensor<3> = ProposalTargets::tensor(&targets.labels, [images, anchors, 1], &device);
    let size = (deltas - expected).abs() * labels;
    let near = size.clone().clamp_max(delta);
    let distance = near.clone() * size - near.clone() * near * 0.5;
    distance.flatten::<2>(1, 2).sum_dim(1).squeeze_dim::<1>(1) / targets.divisors(4.0, &device)
}
