//! Training on crops around objects.

use burn::tensor::Device;
use sensei_loss::{LossPlan, SampleWeighting, TeacherTarget, distillation_loss};
use sensei_samples::batch::HostBatch;
use sensei_samples::error::SampleError;
use sensei_samples::source::SampleSource;
use sensei_tensor::masks::MaskProbs;
use sensei_tensor::network::{Inputs, Network};
use sensei_tensor::profile;

use crate::error::TrainError;
use crate::plan::{StagePlan, TrainPlan};
use crate::task::{BatchGradients, Shared, Task, read_term, read_total};
use crate::tensors::{input_tensor, no_target, teacher_target, truth_tensor};

impl Task for SampleSource {
    type Loss = LossPlan;
    type Batch = HostBatch;

    fn n_samples(&self) -> usize {
        self.instances.len()
    }

    fn batches(
        &self,
        plan: &TrainPlan,
        stage: &StagePlan,
        epoch: u64,
        samples: &[usize],
    ) -> Result<Vec<HostBatch>, SampleError> {
        let instances: Vec<usize> = samples.iter().map(|&at| self.instances[at]).collect();
        // All of a step's samples together, so that an image is decoded once for all of its batches.
        let samples = self.augmented_samples(&instances, &stage.augmentation, plan.seed, epoch)?;
        Ok(samples.chunks(plan.batch_size).map(HostBatch::new).collect())
    }

    fn ids(batch: &HostBatch) -> &[u64] {
        &batch.annotation_ids
    }

    fn clamped_predicted_ious(batch: &HostBatch) -> usize {
        batch.clamped_predicted_ious
    }

    fn gradients(
        &self,
        network: &dyn Network,
        batch: &HostBatch,
        shared: &Shared<'_, LossPlan>,
    ) -> Result<BatchGradients, TrainError> {
        let (device, loss) = (network.device(), &shared.stage.loss);
        let needs = loss.needs();
        let span = profile::span("forward");
        let inputs = Inputs { images: input_tensor(batch, device), taps: &needs.taps };
        let outputs = network.forward(inputs, shared.pass)?;
        drop(span);
        let span = profile::span("loss");
        let teacher = if needs.teacher_masks { asked(batch, loss, device) } else { None };
        let truth = MaskProbs(truth_tensor(batch, device));
        let output = distillation_loss(loss, outputs.masks, teacher.as_ref(), truth, &batch.part_idxs);
        let term = |(name, per_sample): &(&str, _)| {
            let mean = read_term(name, per_sample, shared.step, |at| batch.annotation_ids[at])?;
            Ok((name.to_string(), mean))
        };
        let terms = output.terms.iter().map(term).collect::<Result<_, TrainError>>()?;
        let loss = read_total(&output.total, shared.step, &batch.annotation_ids)?;
        let weight = shared.weight(batch.annotation_ids.len());
        let total = if weight == 1.0 { output.total } else { output.total * weight };
        drop(span);
        let span = profile::span("backward");
        let mut found = total.backward();
        drop(span);
        let gradients = shared.gradients_of(network, &mut found);
        Ok(BatchGradients { loss, terms, gradients, norm_stats: outputs.norm_stats })
    }
}

/// What the teacher said of a batch; of one that no sample of is compared with it, nothing.
fn asked(batch: &HostBatch, loss: &LossPlan, device: &Device) -> Option<TeacherTarget> {
    let is_truth_only = |&part_idx: &usize| loss.weighting_of(part_idx) == SampleWeighting::TruthOnly;
    match batch.part_idxs.iter().all(is_truth_only) {
        true => Some(no_target(batch, device)),
        false => teacher_target(batch, device),
    }
}
