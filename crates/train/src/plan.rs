//! What a training run does, fully resolved.

use sensei_data::augment::Augmentation;
use sensei_loss::LossPlan;

use crate::optimizer::AdamWConfig;
use crate::schedule::Schedule;

/// Everything that fixes the trained weights, next to the data, the teacher cache and the student's graph.
#[derive(Debug, Clone)]
pub struct TrainPlan {
    /// Seeds the weights, the order of the samples and their augmentation.
    pub seed: u64,
    /// Samples per forward pass; the last batch of an epoch may be smaller.
    pub batch_size: usize,
    /// Forward passes per optimiser step; gradients are averaged over them.
    pub accumulate_batches: usize,
    /// The optimiser's constants.
    pub optimizer: AdamWConfig,
    /// Largest global L2 norm of the gradient; larger ones are scaled down to it.
    pub clip_gradient_norm: Option<f64>,
    /// Decay per step of the exponential moving average of the weights. With it, the average is the result.
    pub ema_decay: Option<f64>,
    /// The stages, in order.
    pub stages: Vec<StagePlan>,
}

/// One part of the schedule with its own losses, epochs and augmentation.
#[derive(Debug, Clone)]
pub struct StagePlan {
    /// Names the stage in events and messages.
    pub name: String,
    /// Passes over the training samples.
    pub epochs: u64,
    /// Learning rate over the steps of this stage.
    pub schedule: Schedule,
    /// What is minimised.
    pub loss: LossPlan,
    /// What is varied.
    pub augmentation: Augmentation,
}

/// Where in a plan a step lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Index into [`TrainPlan::stages`].
    pub stage_idx: usize,
    /// Epoch over all stages, from 0: it seeds order and augmentation.
    pub epoch: u64,
    /// Optimiser step within the stage, from 0.
    pub step_in_stage: u64,
    /// Optimiser step within the epoch, from 0.
    pub step_in_epoch: u64,
}

impl TrainPlan {
    /// Samples of one optimiser step.
    pub fn samples_per_step(&self) -> usize {
        self.batch_size * self.accumulate_batches
    }

    /// Optimiser steps of one epoch over `n_samples`.
    pub fn steps_per_epoch(&self, n_samples: usize) -> u64 {
        n_samples.div_ceil(self.samples_per_step()) as u64
    }

    /// Optimiser steps of the whole plan.
    pub fn total_steps(&self, n_samples: usize) -> u64 {
        self.stages.iter().map(|stage| stage.epochs).sum::<u64>() * self.steps_per_epoch(n_samples)
    }

    /// Where step `step` lies, or `None` behind the last.
    pub fn position(&self, step: u64, n_samples: usize) -> Option<Position> {
        let per_epoch = self.steps_per_epoch(n_samples);
        let (mut first_step, mut first_epoch) = (0, 0);
        for (stage_idx, stage) in self.stages.iter().enumerate() {
            let step_in_stage = step - first_step;
            if step_in_stage < stage.epochs * per_epoch {
                let epoch = first_epoch + step_in_stage / per_epoch;
                return Some(Position { stage_idx, epoch, step_in_stage, step_in_epoch: step_in_stage % per_epoch });
            }
            first_step += stage.epochs * per_epoch;
            first_epoch += stage.epochs;
        }
        None
    }
}
