//! A training run between two steps, in one file that is either whole or not there.

mod file;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use sensei_files::error::FileError;
use sensei_files::whole::write_whole;
use sensei_tensor::network::{HostTensor, NamedWeights, Network, ParameterGroup, host_values};
use serde::{Deserialize, Serialize};

use crate::error::TrainError;
use crate::groups::{GroupStates, config, track_trained};
use crate::optimizer::{AdamW, Ema, Moments, flat};
use crate::plan::TrainPlan;
use crate::precision::LossScale;
use crate::run_digests::{DigestMismatch, RunDigests};
use crate::stages::StageNetworks;
use file::{file_name, read, serialize, state_digest};

pub use file::{METADATA_HEADER, latest, prune, verified_header};

/// What a checkpoint belongs to; a run resumes only from its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointHeader {
    /// [`FORMAT`].
    pub format: u32,
    /// Optimiser steps taken.
    pub step: u64,
    /// The stage that the last step was of, whose form the network has; none before the first step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage_idx: Option<usize>,
    /// What decides the weights.
    pub run: RunDigests,
    /// Digest of the network's structure.
    pub structure_digest: String,
    /// The network's groups of parameters, in its order.
    pub groups: Vec<GroupHeader>,
    /// The loss scale, in a run that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
    /// [`TrainState::digest`]: a file with a flipped bit is refused.
    pub state_digest: String,
}

/// A group of parameters in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupHeader {
    /// Its name.
    pub name: String,
    /// Parameters in it.
    pub parameters: usize,
    /// Steps of its optimiser; none for a frozen group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer_steps: Option<u64>,
    /// Whether its moving average is in the file.
    pub averaged: bool,
}

/// Version of a checkpoint's layout. Format 1 had one digest over all that decides the weights, and no groups.
pub const FORMAT: u32 = 2;

/// The state of a run after a step.
pub struct TrainState {
    /// Steps taken.
    pub step: u64,
    /// The stage whose form the network has; none before the first one is entered.
    pub stage_idx: Option<usize>,
    /// The network with its running statistics.
    pub network: Box<dyn Network>,
    /// Optimisers and averages of its groups.
    pub groups: GroupStates,
    /// Loss scale, if the plan has one.
    pub loss_scale: Option<LossScale>,
}

impl TrainState {
    /// The state before the first step.
    pub fn new<L>(network: Box<dyn Network>, plan: &TrainPlan<L>) -> Self {
        let loss_scale = plan.mixed_precision.and_then(|mixed| mixed.scaling).map(LossScale::new);
        Self { step: 0, stage_idx: None, network, groups: GroupStates::empty(), loss_scale }
    }

    /// Goes over to a stage, unless the state is in it already.
    ///
    /// # Errors
    /// If the network cannot take the stage's form, or the stage trains nothing or what is not there.
    pub fn enter<L>(
        &mut self,
        plan: &TrainPlan<L>,
        stage_idx: usize,
        stages: &mut dyn StageNetworks,
    ) -> Result<(), TrainError> {
        if self.stage_idx == Some(stage_idx) {
            return Ok(());
        }
        let (stage, result, before) = (&plan.stages[stage_idx], self.result(), names(&*self.network));
        let entered = stages.enter(stage_idx, &mut self.network, &result);
        entered.map_err(|source| TrainError::Stage { stage: stage.name.clone(), source })?;
        let groups = std::mem::replace(&mut self.groups, GroupStates::empty());
        self.groups = groups.enter(&before, plan, stage, &*self.network)?;
        track_trained(stage, &mut *self.network);
        self.stage_idx = Some(stage_idx);
        Ok(())
    }

    /// The tensors that the run results in, by group: the moving average where there is one, else the network's own.
    pub fn result(&self) -> BTreeMap<String, NamedWeights> {
        let averages = self.groups.averages.iter().map(Option::as_ref).chain(std::iter::repeat(None));
        let groups = self.network.groups().into_iter().zip(averages);
        let result = groups.map(|(group, average)| {
            let mut tensors = self.network.tensors(&group.name);
            for (parameter, average) in group.parameters.iter().zip(average.into_iter().flat_map(Ema::averages)) {
                if let Some(tensor) = tensors.get_mut(&parameter.name) {
                    tensor.values = host_values(average);
                }
            }
            (group.name.clone(), tensors)
        });
        result.collect()
    }

    /// Digest over every bit that training goes on from: step, stage, network, moments, averages and loss scale.
    pub fn digest(&self) -> String {
        state_digest(&self.header(&RunDigests::default()), &self.tensors())
    }

    /// Writes `step-NNNNNNNN.safetensors` into `dir`, whole or not at all.
    ///
    /// # Errors
    /// If the file cannot be written; nothing is left under its name then.
    pub fn save(&self, dir: &Path, run: &RunDigests) -> Result<PathBuf, TrainError> {
        let path = dir.join(file_name(self.step));
        let tensors = self.tensors();
        let mut header = self.header(run);
        header.state_digest = state_digest(&header, &tensors);
        let header = serde_json::to_string(&header).expect("a struct of strings and numbers is JSON");
        let bytes = serialize(&tensors, &header)
            .map_err(|problem| TrainError::BrokenCheckpoint { path: path.clone(), problem })?;
        fs::create_dir_all(dir).map_err(FileError::io(dir, "create"))?;
        write_whole(&path, &bytes)?;
        Ok(path)
    }

    /// Reads a checkpoint of this plan and this network; `initial` gives the network's form.
    ///
    /// # Errors
    /// If the file cannot be read, is broken, or belongs to another run or network.
    pub fn load<L>(
        path: &Path,
        initial: Box<dyn Network>,
        stages: &mut dyn StageNetworks,
        run: &RunDigests,
        plan: &TrainPlan<L>,
    ) -> Result<Self, TrainError> {
        let (header, tensors) = read(path)?;
        let broken = |problem: String| TrainError::BrokenCheckpoint { path: path.to_path_buf(), problem };
        check_origin(path, &header, &*initial, run)?;
        let mut network = initial;
        if let Some(stage_idx) = header.stage_idx {
            shape(plan, stage_idx, &mut network, stages, &broken)?;
        }
        let mut tensors = Prefixed { tensors, path };
        for group in names(&*network) {
            let values = tensors.take(&format!("value/{group}/"));
            network.set_tensors(&group, values).map_err(|error| broken(in_words(&error)))?;
        }
        let groups = group_states(&header, &*network, plan, &mut tensors)?;
        tensors.check_empty()?;
        let has_scale = plan.mixed_precision.is_some_and(|mixed| mixed.scaling.is_some());
        if header.loss_scale.is_some() != has_scale {
            return Err(broken(format!("loss_scale: expected {has_scale}, found {:?}", header.loss_scale)));
        }
        if let Some(stage_idx) = header.stage_idx {
            track_trained(&plan.stages[stage_idx], &mut *network);
        }
        Ok(Self { step: header.step, stage_idx: header.stage_idx, network, groups, loss_scale: header.loss_scale })
    }

    /// What stands in the header, but for the digest of the state.
    fn header(&self, run: &RunDigests) -> CheckpointHeader {
        let states = self.groups.optimizers.iter().zip(&self.groups.averages);
        let groups = self.network.groups().into_iter().zip(states).map(|(group, (optimizer, average))| GroupHeader {
            name: group.name.clone(),
            parameters: group.parameters.len(),
            optimizer_steps: optimizer.as_ref().map(AdamW::steps),
            averaged: average.is_some(),
        });
        CheckpointHeader {
            format: FORMAT,
            step: self.step,
            stage_idx: self.stage_idx,
            run: run.clone(),
            structure_digest: self.network.structure_digest(),
            groups: groups.collect(),
            loss_scale: self.loss_scale,
            state_digest: String::new(),
        }
    }

    fn tensors(&self) -> NamedWeights {
        let mut tensors = NamedWeights::new();
        let states = self.groups.optimizers.iter().zip(&self.groups.averages);
        for (group, (optimizer, average)) in self.network.groups().into_iter().zip(states) {
            let name = &group.name;
            let values = self.network.tensors(name).into_iter();
            tensors.extend(values.map(|(tensor, values)| (format!("value/{name}/{tensor}"), values)));
            let mut push = |kind: &str, values: Vec<&Tensor<1>>| {
                for (parameter, values) in group.parameters.iter().zip(values) {
                    let values = host_values(values);
                    let tensor = HostTensor { shape: vec![values.len()], values };
                    tensors.insert(format!("{kind}/{name}/{}", parameter.name), tensor);
                }
            };
            if let Some(optimizer) = optimizer {
                push("first_moment", optimizer.moments().iter().map(|moments| &moments.first).collect());
                push("second_moment", optimizer.moments().iter().map(|moments| &moments.second).collect());
            }
            if let Some(average) = average {
                push("average", average.averages().iter().collect());
            }
        }
        tensors
    }
}

fn names(network: &dyn Network) -> Vec<String> {
    network.groups().into_iter().map(|group| group.name.clone()).collect()
}

/// An error with its causes, on one line.
fn in_words(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", in_words(source)),
        None => error.to_string(),
    }
}

fn check_origin(
    path: &Path,
    header: &CheckpointHeader,
    initial: &dyn Network,
    run: &RunDigests,
) -> Result<(), TrainError> {
    let (expected, found) = (initial.structure_digest(), &header.structure_digest);
    let other_network =
        (expected != *found).then(|| DigestMismatch { part: "network", expected, found: found.clone() });
    match other_network.or_else(|| run.first_mismatch(&header.run)) {
        Some(DigestMismatch { part, expected, found }) => {
            Err(TrainError::OtherCheckpoint { path: path.to_path_buf(), part, expected, found })
        }
        None => Ok(()),
    }
}

/// Gives the network the form of the checkpoint's stage.
fn shape<L>(
    plan: &TrainPlan<L>,
    stage_idx: usize,
    network: &mut Box<dyn Network>,
    stages: &mut dyn StageNetworks,
    broken: &impl Fn(String) -> TrainError,
) -> Result<(), TrainError> {
    let n_stages = plan.stages.len();
    let stage = plan.stages.get(stage_idx);
    let stage = stage.ok_or_else(|| broken(format!("stage: expected one of {n_stages}, found {stage_idx}")))?;
    let shaped = stages.shape(stage_idx, network);
    shaped.map_err(|source| TrainError::Stage { stage: stage.name.clone(), source })
}

/// Optimisers and averages of a checkpoint, held to what the plan trains in its stage.
fn group_states<L>(
    header: &CheckpointHeader,
    network: &dyn Network,
    plan: &TrainPlan<L>,
    tensors: &mut Prefixed,
) -> Result<GroupStates, TrainError> {
    let inner = network.device().clone().inner();
    let stage = header.stage_idx.and_then(|stage_idx| plan.stages.get(stage_idx));
    let (expected, found) = (names(network), header.groups.iter().map(|group| group.name.clone()).collect::<Vec<_>>());
    if expected != found {
        return Err(tensors.broken(format!("groups: expected {}, found {}", expected.join(", "), found.join(", "))));
    }
    let mut states = GroupStates::empty();
    for (group, saved) in network.groups().into_iter().zip(&header.groups) {
        let rule = stage.and_then(|stage| stage.group(&group.name));
        let optimizer = match (rule, saved.optimizer_steps) {
            (Some(rule), Some(steps)) => {
                let first = tensors.parameters("first_moment", group, &inner)?;
                let second = tensors.parameters("second_moment", group, &inner)?;
                let moments = first.into_iter().zip(second).map(|(first, second)| Moments { first, second });
                Some(AdamW::resume(config(plan, rule), steps, moments.collect()))
            }
            (None, None) => None,
            (expected, _) => {
                let words = |trained| if trained { "trained" } else { "frozen" };
                let (expected, found) = (words(expected.is_some()), words(expected.is_none()));
                return Err(tensors.broken(format!("group {}: expected {expected}, found {found}", group.name)));
            }
        };
        let average = match plan.averages(&group.name).filter(|_| saved.averaged) {
            Some(decay) => Some(Ema::resume(decay, tensors.parameters("average", group, &inner)?)),
            None => None,
        };
        states.optimizers.push(optimizer);
        states.averages.push(average);
    }
    Ok(states)
}

/// The tensors of a checkpoint that are not yet taken.
struct Prefixed<'a> {
    tensors: NamedWeights,
    path: &'a Path,
}

impl Prefixed<'_> {
    fn broken(&self, problem: String) -> TrainError {
        TrainError::BrokenCheckpoint { path: self.path.to_path_buf(), problem }
    }

    /// Moves the tensors of one prefix out, without the prefix.
    fn take(&mut self, prefix: &str) -> NamedWeights {
        let names: Vec<String> = self.tensors.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
        let found = names.into_iter().filter_map(|name| self.tensors.remove(&name).map(|tensor| (name, tensor)));
        found.map(|(name, tensor)| (name[prefix.len()..].to_string(), tensor)).collect()
    }

    /// Flat tensors of one kind, one for each parameter of a group.
    fn parameters(
        &mut self,
        kind: &str,
        group: &ParameterGroup,
        device: &Device,
    ) -> Result<Vec<Tensor<1>>, TrainError> {
        let prefix = format!("{kind}/{}/", group.name);
        let take = |parameter: &sensei_tensor::network::Parameter| {
            let name = format!("{prefix}{}", parameter.name);
            let tensor = self.tensors.remove(&name).ok_or_else(|| self.broken(format!("no tensor {name}")))?;
            let (expected, found) = (parameter.values.dims()[0], tensor.values.len());
            if expected != found {
                return Err(self.broken(format!("{name}: expected {expected} values, found {found}")));
            }
            Ok(flat(tensor.values, device))
        };
        group.parameters.iter().map(take).collect()
    }

    fn check_empty(&self) -> Result<(), TrainError> {
        match self.tensors.keys().next() {
            Some(name) => Err(self.broken(format!("unexpected tensor {name}"))),
            None => Ok(()),
        }
    }
}
