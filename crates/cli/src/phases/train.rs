//! Training of a run.

use crate::predict::{PredictError, candidates, float_network};
use burn::tensor::Device;
use sensei_data::sampling::subset;
use sensei_eval::evaluate::evaluate;
use sensei_eval::metric::Metric;
use sensei_quant::qat::THRESHOLDS;
use sensei_samples::source::SampleSource;
use sensei_student::init::initial_weights;
use sensei_student::student::{Student, WEIGHTS};
use sensei_student::weights::{read_weights, with_published_encoder, write_weights};
use sensei_tensor::network::{NamedWeights, weights_digest};
use sensei_train::fit::{Fitted, RunOptions, fit};
use sensei_train::recalibrate::recalibrated;
use sensei_train::run_digests::RunDigests;

use crate::config::{FirstWeights, RunPlan};
use crate::device::Devices;
use crate::phases::stages::ChipStages;
use crate::progress::{TrainProgress, Validate, on_one_line, phase, say, warn};
use crate::run_folder;
use crate::stop;
use sensei_report::run_folder::RunFolder;

/// What a training run does besides training.
#[derive(Debug, Clone, Copy)]
pub struct TrainOptions {
    /// Go on from the newest checkpoint.
    pub resume: bool,
    /// Print and write a profile of some steps.
    pub profile: bool,
}

/// Trains, or goes on training, and writes the student's weights.
///
/// # Errors
/// Whatever ends the training early, other than being asked to.
pub fn train(
    plan: &RunPlan,
    folder: &RunFolder,
    train: &SampleSource,
    val: &SampleSource,
    devices: &Devices,
    how: TrainOptions,
) -> anyhow::Result<Fitted> {
    phase("training");
    let device = &devices.main;
    let initial = initial_student(plan, device)?;
    let digests = run_digests(plan, &initial, train);
    let chosen = subset(val.instances.len(), plan.logging.validate_instances.min(val.instances.len()), 0);
    let chosen: Vec<usize> = chosen.into_iter().map(|at| val.instances[at as usize]).collect();
    let batch = plan.eval.batch_size;
    let validate: Validate = Box::new(|weights: &NamedWeights| {
        let mut predictors = [float_network(&plan.graph, weights, device)?];
        let items = candidates(val, &chosen, batch).take(chosen.len());
        let evaluation = evaluate::<_, PredictError>(items, &mut predictors, batch)?;
        let scores = &evaluation.scores[0].instances;
        Ok((Metric::MeanIouInCrop.of(scores).unwrap_or(0.0), scores.len()))
    });
    let logging = &plan.logging;
    let mut progress = TrainProgress::new(folder, logging.log_every_steps, logging.validate_every_epochs, validate)?;
    if how.profile {
        progress.profile(folder.profile());
    }
    let options = RunOptions {
        checkpoint_dir: &folder.checkpoints(),
        run_digests: &digests,
        resume: how.resume,
        checkpoint_every_steps: logging.checkpoint_every_steps,
        keep_checkpoints: logging.keep_checkpoints,
        data_threads: logging.data_threads,
        other_devices: &devices.others,
        device_names: &devices.names,
    };
    let mut stages = ChipStages::new(plan, train, folder);
    let mut fitted = fit(&plan.train, Box::new(initial), &mut stages, train, &options, &mut progress)?;
    if let Some(error) = progress.log_failure() {
        warn(&format!("{}: the log is incomplete: {error}", folder.events().display()));
    }
    if fitted.stopped {
        say(&format!("stopped after step {}; --resume goes on from here", fitted.step));
        return Ok(fitted);
    }
    let metadata =
        [("sensei.graph".to_string(), plan.graph.digest()), ("sensei.plan".to_string(), plan.train_digest.clone())];
    let metadata = metadata.into();
    if let Some(thresholds) = fitted.groups.get(THRESHOLDS) {
        write_weights(&folder.thresholds(), thresholds, &metadata)?;
    }
    if let Some(n_instances) = plan.train.recalibrate_norms {
        let student = Student::from_weights(plan.graph.clone(), &fitted.groups[WEIGHTS], &device.clone().inner())?;
        let found = recalibrated(&student, WEIGHTS, train, n_instances, plan.train.seed, &stop::is_asked)?;
        stop::check("recalibrating batch norms")?;
        if let Some(weights) = found {
            fitted.groups.insert(WEIGHTS.into(), weights);
        }
        say(&format!("batch norms: statistics of {} samples", n_instances.min(train.instances.len())));
    }
    let weights = &fitted.groups[WEIGHTS];
    write_weights(&folder.student(), weights, &metadata)?;
    run_folder::record(folder, &[folder.student(), folder.thresholds(), folder.before_quantization()])?;
    say(&format!("weights digest {} (state {})", weights_digest(weights), fitted.state_digest));
    Ok(fitted)
}

/// The trained weights of a run.
///
/// # Errors
/// If it has none yet, or they are of another network.
pub fn trained_weights(plan: &RunPlan, folder: &RunFolder) -> anyhow::Result<NamedWeights> {
    run_folder::expect_trained(folder)?;
    let file = read_weights(&folder.student())?;
    Ok(file.for_graph(&plan.graph)?)
}

fn run_digests(plan: &RunPlan, initial: &Student, train: &SampleSource) -> RunDigests {
    let hex = |digest: [u8; 32]| blake3::Hash::from_bytes(digest).to_hex().to_string();
    RunDigests {
        configuration: plan.train_digest.clone(),
        first_weights: weights_digest(&initial.to_weights()),
        annotations: hex(train.dataset.digest),
        teacher: train.teacher.as_ref().map(|cache| hex(cache.manifest().key.digest())),
    }
}

/// Weights of the trained student that a training starts from; none of one that starts from an encoder of ImageNet or from random numbers.
///
/// # Errors
/// If they cannot be read, or are of another network.
pub fn trained_first_weights(plan: &RunPlan) -> anyhow::Result<Option<NamedWeights>> {
    let file = match &plan.first_weights {
        FirstWeights::Shipped(model) => model.weights()?,
        FirstWeights::File(path) => read_weights(path)?,
        FirstWeights::Random | FirstWeights::PublishedEncoder(_) => return Ok(None),
    };
    Ok(Some(file.for_graph(&plan.graph)?))
}

/// The student that training starts from, with gradients.
///
/// # Errors
/// If its first weights cannot be read, or are of another network.
pub fn initial_student(plan: &RunPlan, device: &Device) -> anyhow::Result<Student> {
    let device = device.clone().autodiff();
    match &plan.first_weights {
        FirstWeights::Random => Ok(Student::new(plan.graph.clone(), plan.train.seed, &device)),
        FirstWeights::Shipped(model) => {
            let weights = model.weights()?.for_graph(&plan.graph)?;
            say(&format!("weights of {}, which ships with Sensei", model.name));
            Ok(Student::from_weights(plan.graph.clone(), &weights, &device)?)
        }
        FirstWeights::File(path) => {
            let file = read_weights(path)?;
            let weights = file.for_graph(&plan.graph)?;
            if let Some(note) = file.note(&plan.graph) {
                say(&format!("{}: {}", path.display(), on_one_line(&note)));
            }
            Ok(Student::from_weights(plan.graph.clone(), &weights, &device)?)
        }
        FirstWeights::PublishedEncoder(path) => {
            let file = read_weights(path)?;
            let random = initial_weights(&plan.graph, plan.train.seed);
            let (weights, note) = with_published_encoder(&plan.graph, random, &file)?;
            say(&format!(
                "{}: {} tensors of the encoder taken, {} of later layers left out; {} of {} output pixels of {} read padding and differ by at \
                 most {:.3}",
                path.display(),
                note.taken,
                note.left_out.len(),
                note.input.border_pixels,
                note.input.pixels,
                note.input.conv,
                note.input.max_difference
            ));
            Ok(Student::from_weights(plan.graph.clone(), &weights, &device)?)
        }
    }
}
