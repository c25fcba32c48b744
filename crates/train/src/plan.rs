//! What a training run does, fully resolved.

use sensei_data::augment::Augmentation;
use sensei_loss::LossPlan;
use sensei_tensor::network::{NormStatistics, Pass};

use crate::error::TrainError;
use crate::optimizer::AdamWConfig;
use crate::precision::MixedPrecision;
use crate::schedule::Schedule;

/// Everything that fixes the trained weights, next to the data, the teacher cache and the student's graph. `L` is what its stages minimise: a
/// [`LossPlan`] over crops, or an [`ImageObjective`](crate::images::ImageObjective) over whole images.
#[derive(Debug, Clone)]
pub struct TrainPlan<L = LossPlan> {
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
    /// The exponential moving average of some groups, if there is one. With it, the average is the result.
    pub average: Option<AveragePlan>,
    /// Samples over which the resulting weights' batch norms take their running statistics again, if they do.
    pub recalibrate_norms: Option<usize>,
    /// 16-bit convolutions, if any.
    pub mixed_precision: Option<MixedPrecision>,
    /// The stages, in order.
    pub stages: Vec<StagePlan<L>>,
}

/// One part of the schedule with its own losses, epochs and augmentation.
#[derive(Debug, Clone)]
pub struct StagePlan<L = LossPlan> {
    /// Names the stage in events and messages.
    pub name: String,
    /// Passes over the training samples.
    pub epochs: u64,
    /// Learning rate over the steps of this stage.
    pub schedule: Schedule,
    /// What is minimised.
    pub loss: L,
    /// What is varied.
    pub augmentation: Augmentation,
    /// The groups of parameters that are trained, and how; all others are frozen.
    pub groups: Vec<GroupPlan>,
    /// Rounding to the chip's grid, if this stage trains on it.
    pub on_grid: Option<OnGrid>,
}

/// How a group of parameters is trained in a stage.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupPlan {
    /// The group's name.
    pub group: String,
    /// Its learning rate.
    pub rate: GroupRate,
    /// Those of its parameters that learn more slowly, if any do.
    pub slower: Option<Slower>,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Whether its gradient counts in the global norm and is clipped by it.
    pub clipped: bool,
    /// Steps of the stage after which its values are held, if they are.
    pub hold_after: Option<u64>,
}

/// Parameters that learn at a share of their group's rate.
#[derive(Debug, Clone, PartialEq)]
pub struct Slower {
    /// How their names begin.
    pub prefix: String,
    /// The share.
    pub factor: f64,
}

/// Where a group's learning rate comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum GroupRate {
    /// It is the stage's.
    Stage,
    /// It follows the stage's in proportion, with this value where the stage has its own learning rate.
    Peak(f64),
}

/// Rounding in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnGrid {
    /// Steps of the stage after which batch norms keep their running statistics, as the chip does.
    pub hold_norms_after: u64,
}

/// A moving average of parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct AveragePlan {
    /// Decay per step, in `[0, 1)`.
    pub decay: f64,
    /// The groups that are averaged.
    pub groups: Vec<String>,
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

impl<L> TrainPlan<L> {
    /// Samples of one optimiser step.
    pub fn samples_per_step(&self) -> usize {
        self.batch_size * self.accumulate_batches
    }

    /// Samples of the smallest batch of an epoch over `n_samples`.
    pub fn smallest_batch(&self, n_samples: usize) -> usize {
        match n_samples % self.batch_size {
            0 => self.batch_size,
            rest => rest,
        }
    }

    /// What is varied in each epoch of the whole plan.
    pub fn augmentation_by_epoch(&self) -> Vec<&Augmentation> {
        self.stages.iter().flat_map(|stage| (0..stage.epochs).map(|_| &stage.augmentation)).collect()
    }

    /// Refuses batches in which a batch norm of the network would see a single value, which has no variance;
    /// `min_train_batch` is the network's.
    ///
    /// # Errors
    /// If the smallest batch of an epoch is below the network's minimum.
    pub fn check_batches(&self, min_train_batch: usize, n_samples: usize) -> Result<(), TrainError> {
        let (expected, found) = (min_train_batch, self.smallest_batch(n_samples));
        if found < expected {
            return Err(TrainError::BatchTooSmall { expected, found, n_samples });
        }
        Ok(())
    }

    /// Whether a stage trains on the chip's grid.
    pub fn trains_on_grid(&self) -> bool {
        self.stages.iter().any(|stage| stage.on_grid.is_some())
    }

    /// Decay of the moving average of a group, if it is averaged.
    pub fn averages(&self, group: &str) -> Option<f64> {
        let averaged = |average: &&AveragePlan| average.groups.iter().any(|name| name == group);
        self.average.as_ref().filter(averaged).map(|average| average.decay)
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

impl<L> StagePlan<L> {
    /// How a group is trained, if it is.
    pub fn group(&self, name: &str) -> Option<&GroupPlan> {
        self.groups.iter().find(|rule| rule.group == name)
    }

    /// How a step of the stage, counted from 0, computes.
    pub fn pass(&self, mixed_precision: Option<MixedPrecision>, step_in_stage: u64) -> Pass {
        match (self.on_grid, mixed_precision) {
            (Some(on_grid), _) if step_in_stage < on_grid.hold_norms_after => Pass::TrainOnGrid(NormStatistics::Batch),
            (Some(_), _) => Pass::TrainOnGrid(NormStatistics::Running),
            (None, Some(mixed)) => Pass::TrainMixed(mixed.half),
            (None, None) => Pass::Train,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Decay;
    use sensei_loss::{LossTerm, SampleWeighting, TermKind};

    /// Batches of 2, two a step, over stages of these epochs.
    fn plan(epochs: &[u64]) -> TrainPlan {
        let terms = vec![LossTerm { kind: TermKind::TruthBce, weight: 1.0 }];
        let loss = LossPlan::new(1.0, SampleWeighting::TruthOnly, terms).expect("a valid loss");
        let stage = |&epochs: &u64| StagePlan {
            name: String::new(),
            epochs,
            schedule: Schedule { learning_rate: 1e-3, warmup_steps: 0, decay: Decay::Constant },
            loss: loss.clone(),
            augmentation: Augmentation::NONE,
            groups: vec![],
            on_grid: None,
        };
        TrainPlan {
            seed: 0,
            batch_size: 2,
            accumulate_batches: 2,
            optimizer: AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 },
            clip_gradient_norm: None,
            average: None,
            recalibrate_norms: None,
            mixed_precision: None,
            stages: epochs.iter().map(stage).collect(),
        }
    }

    #[test]
    fn steps_walk_through_epochs_and_stages() {
        // 9 samples are steps of 4, 4 and 1.
        let plan = plan(&[2, 1]);
        assert_eq!((plan.samples_per_step(), plan.steps_per_epoch(9), plan.total_steps(9)), (4, 3, 9));
        let walked: Vec<_> = (0..9).filter_map(|step| plan.position(step, 9)).collect();
        let expected = [
            (0, 0, 0, 0),
            (0, 0, 1, 1),
            (0, 0, 2, 2),
            (0, 1, 3, 0),
            (0, 1, 4, 1),
            (0, 1, 5, 2),
            (1, 2, 0, 0),
            (1, 2, 1, 1),
            (1, 2, 2, 2),
        ];
        let expected = expected.map(|(stage_idx, epoch, step_in_stage, step_in_epoch)| Position {
            stage_idx,
            epoch,
            step_in_stage,
            step_in_epoch,
        });
        assert_eq!(walked, expected);
        assert_eq!((plan.position(9, 9), plan.position(u64::MAX, 9)), (None, None));
    }

    #[test]
    fn no_samples_and_no_stages_have_no_steps() {
        assert_eq!(plan(&[3]).position(0, 0), None);
        assert_eq!(plan(&[]).position(0, 9), None);
    }

    #[test]
    fn smallest_batch_is_the_last() {
        let smallest = [1, 2, 3, 4, 7, 8].map(|n_samples| plan(&[1]).smallest_batch(n_samples));
        assert_eq!(smallest, [1, 2, 1, 2, 1, 2]);
    }
}
