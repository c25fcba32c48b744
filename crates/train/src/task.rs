//! What a training loop trains on and minimises: crops around objects, or whole images.

use burn::tensor::{Gradients, Tensor};
use sensei_samples::error::SampleError;
use sensei_tensor::network::{BatchStats, Network, Pass, host_values};

use crate::error::TrainError;
use crate::plan::{StagePlan, TrainPlan};

/// Samples, and what a network is to do with them.
pub trait Task: Sync {
    /// What a stage minimises.
    type Loss: Sync;
    /// Samples of one forward pass, on the host.
    type Batch: Send + Sync;

    /// Samples of an epoch.
    fn n_samples(&self) -> usize;

    /// The batches of an optimiser step, of these samples in this order: a function of its arguments alone.
    ///
    /// # Errors
    /// If a sample cannot be had.
    fn batches(
        &self,
        plan: &TrainPlan<Self::Loss>,
        stage: &StagePlan<Self::Loss>,
        epoch: u64,
        samples: &[usize],
    ) -> Result<Vec<Self::Batch>, SampleError>;

    /// What a batch's samples are called in errors; as many as there are samples.
    fn ids(batch: &Self::Batch) -> &[u64];

    /// Predicted IoUs of the teacher that had to be clamped into 0 to 1.
    fn clamped_predicted_ious(batch: &Self::Batch) -> usize;

    /// Forward and backward pass of a batch.
    ///
    /// # Errors
    /// If the loss or a term is not finite, or the network cannot do what the stage asks of it.
    fn gradients(
        &self,
        network: &dyn Network,
        batch: &Self::Batch,
        shared: &Shared<'_, Self::Loss>,
    ) -> Result<BatchGradients, TrainError>;
}

/// What the batches of a step have in common.
pub struct Shared<'a, L> {
    /// The stage.
    pub stage: &'a StagePlan<L>,
    /// How the network computes.
    pub pass: Pass,
    /// Samples of the whole step.
    pub n_samples: usize,
    /// Factor of the loss before the backward pass.
    pub loss_scale: f64,
    /// Optimiser step of the run.
    pub step: u64,
    /// Seeds what is drawn.
    pub seed: u64,
    /// Epoch over all stages, from 0.
    pub epoch: u64,
}

/// What one batch adds to a step.
pub struct BatchGradients {
    /// Mean over the batch.
    pub loss: f64,
    /// The same of each term, without its weight.
    pub terms: Vec<(String, f64)>,
    /// By group, flat, for the batch's share of the step's loss; empty for a frozen group.
    pub gradients: Vec<Vec<Tensor<1>>>,
    /// What the batch norms saw.
    pub norm_stats: Vec<BatchStats>,
}

impl<L> Shared<'_, L> {
    /// What a batch's loss is multiplied by before its backward pass.
    pub fn weight(&self, n_samples_of_batch: usize) -> f64 {
        self.loss_scale * n_samples_of_batch as f64 / self.n_samples as f64
    }

    /// The gradients of the groups that the stage trains; 0 for a parameter that had no part in the loss.
    pub fn gradients_of(&self, network: &dyn Network, found: &mut Gradients) -> Vec<Vec<Tensor<1>>> {
        let gradients = network.groups().into_iter().map(|group| {
            if self.stage.group(&group.name).is_none() {
                return vec![];
            }
            let gradients = group.parameters.iter().map(|parameter| {
                let gradient = parameter.values.grad_remove(found);
                gradient.unwrap_or_else(|| parameter.values.clone().inner().zeros_like())
            });
            gradients.collect()
        });
        gradients.collect()
    }
}

/// The mean of a term over its samples.
///
/// # Errors
/// If one is not finite, with its name and the sample's id.
pub(crate) fn read_term(
    name: &str,
    per_sample: &Tensor<1>,
    step: u64,
    id: impl Fn(usize) -> u64,
) -> Result<f64, TrainError> {
    let per_sample = host_values(per_sample);
    if let Some(at) = per_sample.iter().position(|value| !value.is_finite()) {
        let (what, value) = (format!("loss term {name}"), f64::from(per_sample[at]));
        return Err(TrainError::NotFinite { step, what, value, annotation_ids: vec![id(at)] });
    }
    Ok(per_sample.iter().copied().map(f64::from).sum::<f64>() / per_sample.len() as f64)
}

/// A loss.
///
/// # Errors
/// If it is not finite.
pub(crate) fn read_total(total: &Tensor<1>, step: u64, ids: &[u64]) -> Result<f64, TrainError> {
    let total = f64::from(host_values(total)[0]);
    if !total.is_finite() {
        let (what, annotation_ids) = ("loss".to_string(), ids.to_vec());
        return Err(TrainError::NotFinite { step, what, value: total, annotation_ids });
    }
    Ok(total)
}
