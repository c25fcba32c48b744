//! A training run between two steps, in one file that is either whole or not there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sensei_files::error::FileError;
use sensei_files::whole::write_whole;
use sensei_graph::layer_graph::LayerGraph;
use sensei_student::student::Student;
use sensei_student::weights::{HostTensor, NamedWeights};
use serde::{Deserialize, Serialize};

use crate::error::TrainError;
use crate::optimizer::{AdamW, Ema, Moments, flat, host};
use crate::plan::TrainPlan;
use crate::precision::LossScale;
use crate::quantization::{QuantizerState, quantizers_of, without_decay};
use crate::run_digests::{DigestMismatch, RunDigests};

/// Version of a checkpoint's layout. Format 1 had one digest over all that decides the weights.
pub const FORMAT: u32 = 2;

/// What a checkpoint belongs to; a run resumes only from its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointHeader {
    /// Version of this layout: [`FORMAT`].
    pub format: u32,
    /// Optimiser steps taken.
    pub step: u64,
    /// What decides the weights.
    pub run: RunDigests,
    /// Digest of the student's graph.
    pub graph_digest: String,
    /// The loss scale, in a run that has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
    /// Steps of the thresholds' optimiser, from the first step on the chip's grid on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold_steps: Option<u64>,
    /// [`TrainState::digest`]: a file with a flipped bit is refused.
    pub state_digest: String,
}

/// The state of a run after a step.
pub struct TrainState {
    /// Steps taken.
    pub step: u64,
    /// The student with its running statistics.
    pub student: Student,
    /// Moments of the optimiser.
    pub optimizer: AdamW,
    /// Moving average, if the plan has one.
    pub ema: Option<Ema>,
    /// Loss scale, if the plan has one.
    pub loss_scale: Option<LossScale>,
    /// Trained thresholds, from the first step on the chip's grid on.
    pub quantizers: Option<QuantizerState>,
}

impl TrainState {
    /// The state before the first step.
    pub fn new(student: Student, plan: &TrainPlan) -> Self {
        let ema = plan.ema_decay.map(|decay| Ema::new(decay, student.parameters()));
        let loss_scale = plan.mixed_precision.and_then(|mixed| mixed.scaling).map(LossScale::new);
        Self {
            step: 0,
            optimizer: AdamW::new(plan.optimizer, student.parameters()),
            ema,
            loss_scale,
            student,
            quantizers: None,
        }
    }

    /// The weights that the run results in: the moving average where there is one, else the student's own.
    pub fn result(&self) -> NamedWeights {
        let mut weights = self.student.to_weights();
        if let Some(ema) = &self.ema {
            for (parameter, average) in self.student.parameters().iter().zip(ema.averages()) {
                if let Some(tensor) = weights.get_mut(&parameter.name) {
                    tensor.values = host(average.clone());
                }
            }
        }
        weights
    }

    /// Digest over every bit that training goes on from: step, student, moments, average and loss scale.
    pub fn digest(&self) -> String {
        state_digest(self.step, self.loss_scale, self.threshold_steps(), &self.tensors())
    }

    /// Writes `step-NNNNNNNN.safetensors` into `dir`, whole or not at all.
    ///
    /// # Errors
    /// If the file cannot be written; nothing is left under its name then.
    pub fn save(&self, dir: &Path, run: &RunDigests) -> Result<PathBuf, TrainError> {
        let path = dir.join(file_name(self.step));
        let tensors = self.tensors();
        let header = CheckpointHeader {
            format: FORMAT,
            step: self.step,
            run: run.clone(),
            graph_digest: self.student.graph().digest(),
            loss_scale: self.loss_scale,
            threshold_steps: self.threshold_steps(),
            state_digest: state_digest(self.step, self.loss_scale, self.threshold_steps(), &tensors),
        };
        let header = serde_json::to_string(&header).expect("a struct of strings and numbers is JSON");
        let bytes = serialize(&tensors, &header)
            .map_err(|problem| TrainError::BrokenCheckpoint { path: path.clone(), problem })?;
        fs::create_dir_all(dir).map_err(FileError::io(dir, "create"))?;
        write_whole(&path, &bytes)?;
        Ok(path)
    }

    /// Reads a checkpoint of this plan and this student.
    ///
    /// # Errors
    /// If the file cannot be read, is broken, or belongs to another run or student.
    pub fn load(
        path: &Path,
        graph: LayerGraph,
        device: &Device,
        run: &RunDigests,
        plan: &TrainPlan,
    ) -> Result<Self, TrainError> {
        let (header, mut tensors) = read(path)?;
        let broken = |problem: String| TrainError::BrokenCheckpoint { path: path.to_path_buf(), problem };
        let (expected, found) = (graph.digest(), &header.graph_digest);
        let other_student =
            (expected != *found).then(|| DigestMismatch { part: "student", expected, found: found.clone() });
        if let Some(mismatch) = other_student.or_else(|| run.first_mismatch(&header.run)) {
            let (path, DigestMismatch { part, expected, found }) = (path.to_path_buf(), mismatch);
            return Err(TrainError::OtherCheckpoint { path, part, expected, found });
        }
        let student = Student::from_weights(graph, &take(&mut tensors, "student."), device);
        let student = student.map_err(|error| broken(format!("student: {error}")))?;
        let inner = device.clone().inner();
        let mut left_over = None;
        let mut of = |prefix: &str| -> Result<Vec<_>, TrainError> {
            let mut tensors = take(&mut tensors, prefix);
            let each = student.parameters().iter().map(|parameter| {
                let tensor = tensors.remove(&parameter.name);
                let tensor = tensor.ok_or_else(|| broken(format!("no tensor {prefix}{}", parameter.name)))?;
                let (expected, found) = (parameter.values.dims()[0], tensor.values.len());
                if expected != found {
                    let name = &parameter.name;
                    return Err(broken(format!("{prefix}{name}: expected {expected} values, found {found}")));
                }
                Ok(flat(tensor.values, &inner))
            });
            let found = each.collect::<Result<_, _>>()?;
            left_over = left_over.take().or_else(|| tensors.into_keys().next().map(|name| format!("{prefix}{name}")));
            Ok(found)
        };
        let (first, second) = (of("first_moment.")?, of("second_moment.")?);
        let moments = first.into_iter().zip(second).map(|(first, second)| Moments { first, second }).collect();
        let ema = match plan.ema_decay {
            Some(decay) => Some(Ema::resume(decay, of("average.")?)),
            None => None,
        };
        let thresholds = take(&mut tensors, "threshold.");
        let quantizers = match (plan.quantization(), thresholds.is_empty()) {
            (_, true) => None,
            (None, false) => return Err(broken("thresholds in a run that trains none".into())),
            (Some(quantization), false) => {
                let quantizers = quantizers_of(quantization, student.graph(), thresholds, device).map_err(broken)?;
                let (first, second) =
                    (take(&mut tensors, "threshold_first_moment."), take(&mut tensors, "threshold_second_moment."));
                let flat = |moments| -> Result<Vec<Tensor<1>>, TrainError> {
                    let named = quantizers_of(quantization, student.graph(), moments, &inner).map_err(broken)?;
                    Ok(named.parameters().iter().map(|parameter| parameter.values.clone()).collect())
                };
                let pairs = flat(first)?.into_iter().zip(flat(second)?);
                let moments: Vec<Moments> = pairs.map(|(first, second)| Moments { first, second }).collect();
                Some((quantizers, moments))
            }
        };
        if let Some(name) = left_over.or_else(|| tensors.into_keys().next()) {
            return Err(broken(format!("unexpected tensor {name}")));
        }
        let has_scale = plan.mixed_precision.is_some_and(|mixed| mixed.scaling.is_some());
        if header.loss_scale.is_some() != has_scale {
            return Err(broken(format!("loss_scale: expected {has_scale}, found {:?}", header.loss_scale)));
        }
        let (step, loss_scale) = (header.step, header.loss_scale);
        // AdamW counts the steps that changed weights.
        let skipped = loss_scale.map_or(0, |scale| scale.skipped_steps);
        let taken = step.checked_sub(skipped).ok_or_else(|| broken(format!("{skipped} of {step} steps skipped")))?;
        let optimizer = AdamW::resume(plan.optimizer, taken, moments);
        let quantizers = quantizers.map(|(quantizers, moments)| {
            let steps = header.threshold_steps.ok_or_else(|| broken("thresholds without threshold_steps".into()))?;
            let optimizer = AdamW::resume(without_decay(plan.optimizer), steps, moments);
            Ok::<_, TrainError>(QuantizerState { quantizers, optimizer })
        });
        let quantizers = quantizers.transpose()?;
        Ok(Self { step, optimizer, student, ema, loss_scale, quantizers })
    }

    fn threshold_steps(&self) -> Option<u64> {
        self.quantizers.as_ref().map(|state| state.optimizer.steps())
    }

    fn tensors(&self) -> NamedWeights {
        let mut tensors = NamedWeights::new();
        for (name, tensor) in self.student.to_weights() {
            tensors.insert(format!("student.{name}"), tensor);
        }
        let mut push = |prefix: &str, name: &str, values: Vec<f32>| {
            tensors.insert(format!("{prefix}{name}"), HostTensor { shape: vec![values.len()], values });
        };
        for (parameter, moments) in self.student.parameters().iter().zip(self.optimizer.moments()) {
            push("first_moment.", &parameter.name, host(moments.first.clone()));
            push("second_moment.", &parameter.name, host(moments.second.clone()));
        }
        if let Some(QuantizerState { quantizers, optimizer }) = &self.quantizers {
            for (parameter, moments) in quantizers.parameters().iter().zip(optimizer.moments()) {
                push("threshold.", &parameter.name, host(parameter.values.clone().inner()));
                push("threshold_first_moment.", &parameter.name, host(moments.first.clone()));
                push("threshold_second_moment.", &parameter.name, host(moments.second.clone()));
            }
        }
        if let Some(ema) = &self.ema {
            for (parameter, average) in self.student.parameters().iter().zip(ema.averages()) {
                push("average.", &parameter.name, host(average.clone()));
            }
        }
        tensors
    }
}

/// 64 hex digits that two sets of tensors share only if names, shapes and bits are the same: BLAKE3.
pub fn weights_digest(weights: &NamedWeights) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, tensor) in weights {
        hasher.update(format!("{name} {:?}\n", tensor.shape).as_bytes());
        for value in &tensor.values {
            hasher.update(&value.to_le_bytes());
        }
    }
    hasher.finalize().to_hex().to_string()
}

fn state_digest(
    step: u64,
    loss_scale: Option<LossScale>,
    threshold_steps: Option<u64>,
    tensors: &NamedWeights,
) -> String {
    let scale = loss_scale.map_or(String::new(), |scale| format!("{scale:?} "));
    let thresholds = threshold_steps.map_or(String::new(), |steps| format!("thresholds {steps} "));
    let text = format!("step {step} {scale}{thresholds}{}", weights_digest(tensors));
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

/// The checkpoint with the most steps in a folder, if there is one.
///
/// # Errors
/// If the folder is there but cannot be listed.
pub fn latest(dir: &Path) -> Result<Option<PathBuf>, TrainError> {
    Ok(list(dir)?.pop())
}

/// Removes all but the `keep` newest checkpoints.
///
/// # Errors
/// If the folder cannot be listed or a file not removed.
pub fn prune(dir: &Path, keep: usize) -> Result<(), TrainError> {
    let mut paths = list(dir)?;
    paths.truncate(paths.len().saturating_sub(keep));
    for path in paths {
        fs::remove_file(&path).map_err(FileError::io(&path, "remove"))?;
    }
    Ok(())
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, TrainError> {
    if !dir.exists() {
        return Ok(vec![]);
    }
    let mut steps = vec![];
    for entry in fs::read_dir(dir).map_err(FileError::io(dir, "list"))? {
        // Other files in the folder are somebody else's.
        steps.extend(entry.map_err(FileError::io(dir, "list"))?.file_name().to_str().and_then(step_of));
    }
    steps.sort_unstable();
    Ok(steps.into_iter().map(|step| dir.join(file_name(step))).collect())
}

fn step_of(file: &str) -> Option<u64> {
    let step = file.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok()?;
    (file_name(step) == file).then_some(step)
}

fn file_name(step: u64) -> String {
    format!("step-{step:08}.safetensors")
}

/// Moves the tensors of one prefix out, without the prefix.
fn take(tensors: &mut NamedWeights, prefix: &str) -> NamedWeights {
    let names: Vec<String> = tensors.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
    let found = names.into_iter().filter_map(|name| tensors.remove(&name).map(|tensor| (name, tensor)));
    found.map(|(name, tensor)| (name[prefix.len()..].to_string(), tensor)).collect()
}

fn serialize(tensors: &NamedWeights, header: &str) -> Result<Vec<u8>, String> {
    let bytes: BTreeMap<&str, Vec<u8>> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect()))
        .collect();
    let mut views = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), &bytes[name.as_str()]);
        views.push((name.as_str(), view.map_err(|error| format!("{name}: {error}"))?));
    }
    let metadata = [("sensei_checkpoint".to_string(), header.to_string())].into();
    safetensors::serialize(views, Some(metadata)).map_err(|error| error.to_string())
}

fn read(path: &Path) -> Result<(CheckpointHeader, NamedWeights), TrainError> {
    let broken = |problem: String| TrainError::BrokenCheckpoint { path: path.to_path_buf(), problem };
    let bytes = fs::read(path).map_err(FileError::io(path, "read"))?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| broken(error.to_string()))?;
    let header = metadata.metadata().as_ref().and_then(|map| map.get("sensei_checkpoint"));
    let header = header.ok_or_else(|| broken("no sensei_checkpoint entry in its metadata".into()))?;
    let header: serde_json::Value = serde_json::from_str(header).map_err(|error| broken(error.to_string()))?;
    // Before the fields, which are another format's: its reader has to say that, not that a field is missing.
    if header["format"] != FORMAT {
        return Err(broken(format!("checkpoint format: expected {FORMAT}, found {}", header["format"])));
    }
    let header: CheckpointHeader = serde_json::from_value(header).map_err(|error| broken(error.to_string()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| broken(error.to_string()))?;
    let mut tensors = NamedWeights::new();
    for (name, view) in file.tensors() {
        if view.dtype() != Dtype::F32 {
            return Err(broken(format!("{name}: expected F32, found {:?}", view.dtype())));
        }
        let values = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        tensors.insert(name, HostTensor { shape: view.shape().to_vec(), values });
    }
    let found = state_digest(header.step, header.loss_scale, header.threshold_steps, &tensors);
    if found != header.state_digest {
        return Err(broken(format!("damaged: expected a state of digest {}, found {found}", header.state_digest)));
    }
    Ok((header, tensors))
}
