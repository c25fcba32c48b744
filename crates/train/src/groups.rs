//! Which groups of parameters a stage trains, and the state that their optimisers carry from step to step.

use burn::tensor::Tensor;
use sensei_tensor::network::{Network, Parameter};

use crate::error::TrainError;
use crate::optimizer::{AdamW, AdamWConfig, Ema};
use crate::plan::{GroupPlan, GroupRate, Slower, StagePlan, TrainPlan};

/// Where in a stage a step is, and its learning rate.
#[derive(Debug, Clone, Copy)]
pub struct StepRate {
    /// Optimiser step within the stage, from 0.
    pub step_in_stage: u64,
    /// Learning rate of the stage at this step.
    pub learning_rate: f64,
}

/// What training keeps of each group, in the order of the network's groups.
pub struct GroupStates {
    /// By group; `None` for a frozen one, which has no optimiser.
    pub optimizers: Vec<Option<AdamW>>,
    /// By group; `None` for one whose values are not averaged.
    pub averages: Vec<Option<Ema>>,
}

impl GroupStates {
    /// None, before the first stage is entered.
    pub fn empty() -> Self {
        Self { optimizers: vec![], averages: vec![] }
    }

    /// Goes over to a stage: groups that it trains keep their optimiser or start one, others lose it; averages stay.
    ///
    /// `before` names the groups that these states are of.
    ///
    /// # Errors
    /// If the stage trains a group that the network does not have, or none.
    pub fn enter<L>(
        self,
        before: &[String],
        plan: &TrainPlan<L>,
        stage: &StagePlan<L>,
        network: &dyn Network,
    ) -> Result<Self, TrainError> {
        let mut known: Vec<(&String, Option<AdamW>, Option<Ema>)> = before
            .iter()
            .zip(self.optimizers.into_iter().zip(self.averages))
            .map(|(name, (optimizer, average))| (name, optimizer, average))
            .collect();
        check_groups(stage, network)?;
        let mut entered = Self::empty();
        for group in network.groups() {
            let at = known.iter().position(|(name, ..)| **name == group.name);
            let (optimizer, average) = match at.map(|at| known.swap_remove(at)) {
                Some((_, optimizer, average)) => (optimizer, average),
                None => (None, None),
            };
            let trained = stage.group(&group.name);
            let start = |rule: &GroupPlan| AdamW::new(config(plan, rule), &group.parameters);
            entered.optimizers.push(trained.map(|rule| optimizer.unwrap_or_else(|| start(rule))));
            let averaged = plan.averages(&group.name);
            entered.averages.push(averaged.map(|decay| average.unwrap_or_else(|| Ema::new(decay, &group.parameters))));
        }
        Ok(entered)
    }

    /// Moves every trained group one step against its gradients, and the averages after them.
    ///
    /// `gradients` has one entry per group, empty for a frozen one.
    pub fn step<L>(
        &mut self,
        network: &mut dyn Network,
        stage: &StagePlan<L>,
        rate: StepRate,
        gradients: Vec<Vec<Tensor<1>>>,
    ) {
        for (group, (optimizer, gradients)) in
            network.groups_mut().into_iter().zip(self.optimizers.iter_mut().zip(gradients))
        {
            let (Some(rule), Some(optimizer)) = (stage.group(&group.name), optimizer) else { continue };
            if rule.hold_after.is_none_or(|hold_after| rate.step_in_stage < hold_after) {
                let learning_rate = rule.learning_rate(stage, rate.learning_rate);
                optimizer.step(&mut group.parameters, gradients, |name| learning_rate * rule.factor(name));
            }
        }
        for (group, average) in network.groups().into_iter().zip(&mut self.averages) {
            if let Some(average) = average {
                average.update(&group.parameters);
            }
        }
    }
}

/// AdamW's constants for a group.
pub(crate) fn config<L>(plan: &TrainPlan<L>, rule: &GroupPlan) -> AdamWConfig {
    AdamWConfig { weight_decay: rule.weight_decay, ..plan.optimizer }
}

impl GroupPlan {
    /// The group's learning rate at a step where the stage's is `learning_rate`.
    fn learning_rate<L>(&self, stage: &StagePlan<L>, learning_rate: f64) -> f64 {
        match self.rate {
            GroupRate::Stage => learning_rate,
            GroupRate::Peak(peak) => {
                let whole = stage.schedule.learning_rate;
                // A stage of rate 0 trains nothing; 0 / 0 would be no number.
                if whole > 0.0 { peak * (learning_rate / whole) } else { 0.0 }
            }
        }
    }
}

impl GroupPlan {
    /// A parameter's share of the group's learning rate.
    fn factor(&self, parameter: &str) -> f64 {
        match &self.slower {
            Some(Slower { prefix, factor }) if parameter.starts_with(prefix.as_str()) => *factor,
            _ => 1.0,
        }
    }
}

/// Lets gradients reach the groups that a stage trains, and no others.
pub(crate) fn track_trained<L>(stage: &StagePlan<L>, network: &mut dyn Network) {
    if !network.device().is_autodiff() {
        return;
    }
    for group in network.groups_mut() {
        let trained = stage.group(&group.name).is_some();
        for parameter in &mut group.parameters {
            track(parameter, trained);
        }
    }
}

fn track(parameter: &mut Parameter, trained: bool) {
    if parameter.values.is_require_grad() != trained {
        let values = Tensor::from_inner(parameter.values.clone().inner());
        parameter.values = if trained { values.require_grad() } else { values };
    }
}

fn check_groups<L>(stage: &StagePlan<L>, network: &dyn Network) -> Result<(), TrainError> {
    let names: Vec<String> = network.groups().into_iter().map(|group| group.name.clone()).collect();
    let unknown = stage.groups.iter().find(|rule| !names.contains(&rule.group));
    if let Some(rule) = unknown {
        let (stage, group) = (stage.name.clone(), rule.group.clone());
        return Err(TrainError::NoSuchGroup { stage, group, groups: names });
    }
    if stage.groups.is_empty() {
        return Err(TrainError::NothingTrained { stage: stage.name.clone(), groups: names });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_a_prefix_learn_at_their_share() {
        let slower = Some(Slower { prefix: "encoder.".into(), factor: 0.25 });
        let (group, rate) = ("weights".into(), GroupRate::Stage);
        let rule = GroupPlan { group, rate, slower, weight_decay: 0.0, clipped: true, hold_after: None };
        assert_eq!([rule.factor("encoder._bn0.bias"), rule.factor("up1.encoder."), rule.factor("")], [0.25, 1.0, 1.0]);
        assert_eq!(GroupPlan { slower: None, ..rule }.factor("encoder._bn0.bias"), 1.0);
    }
}
