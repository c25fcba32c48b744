//! Scores of a run: floors, teacher, float, fake-quantized and integer network on the same instances.

use std::fs;
use std::path::Path;

use anyhow::Context;
use burn::tensor::Device;
use rayon::prelude::*;
use sensei_data::image_file::encode_png;
use sensei_data::sampling::subset;
use sensei_eval::bootstrap::BootstrapConfig;
use sensei_eval::evaluate::{EvalItem, Predictor, evaluate};
use sensei_eval::floors::{filled_box, fit_centred_disc, fit_constant_mask, inscribed_ellipse};
use sensei_eval::overlay::{OverlayInstance, OverlayMask, contact_sheet, overlay_row};
use sensei_eval::protocol::{CrowdRule, EmptyTruthRule, EvalProtocol, SCORING};
use sensei_eval::report::EvalReport;
use sensei_eval::score::{EvalSample, Prediction};
use sensei_imx500::interpreter::Interpreter;
use sensei_imx500::model::Int8Model;
use sensei_quant::fake_quant::FakeQuantStudent;
use sensei_student::weights::NamedWeights;
use sensei_train::error::TrainError;
use sensei_train::predict::{EvalInput, candidates, eval_item, float_network, integer_network, network, teacher};
use sensei_train::source::SampleSource;

use crate::config::{DataPlan, RunPlan};
use crate::progress::{say, warn};
use crate::run_folder::write_whole;

/// What is scored besides floors and teacher.
pub struct Networks<'a> {
    /// The float network's weights.
    pub weights: &'a NamedWeights,
    /// The integer model, read back from its file; without it, only the float network is scored.
    pub int8: Option<&'a Int8Model>,
}

/// Scores everything on the validation split and writes `report.json`, `table.txt` and `overlays.png` into `out`.
///
/// # Errors
/// If a sample cannot be had, a prediction not be scored, or a file not be written.
pub fn score(
    plan: &RunPlan,
    networks: &Networks,
    train: &SampleSource,
    val: &SampleSource,
    device: &Device,
    out: &Path,
) -> anyhow::Result<EvalReport> {
    // The integer model's float twin is computed where its thresholds were chosen.
    let cpu = Device::flex();
    let fake = match networks.int8 {
        Some(model) => Some(FakeQuantStudent::new(&plan.graph, model.clone(), &cpu)?),
        None => None,
    };
    let interpreter = networks.int8.map(Interpreter::new);

    let mut predictors = floors(plan, train)?;
    if val.teacher.is_some() {
        predictors.push(teacher());
    }
    let n_before_networks = predictors.len() - usize::from(val.teacher.is_some());
    predictors.push(float_network(&plan.graph, networks.weights, device)?);
    if let (Some(fake), Some(interpreter)) = (&fake, &interpreter) {
        predictors.push(network("fake_quant", &cpu, |image| fake.forward(image)));
        predictors.push(integer_network(interpreter));
    }
    let batch = plan.eval.batch_size;
    let evaluation = evaluate::<_, TrainError>(candidates(val, &val.instances, batch), &mut predictors, batch)?;
    let bootstrap = BootstrapConfig {
        seed: plan.eval.bootstrap_seed,
        n_resamples: u32::try_from(plan.eval.bootstrap_resamples).context("[eval] bootstrap_resamples")?,
    };
    let mut differences = vec![("constant_mask", "float"), ("inscribed_ellipse", "float")];
    if val.teacher.is_some() {
        differences.push(("teacher", "float"));
    }
    if fake.is_some() {
        differences.extend([("float", "fake_quant"), ("float", "int8")]);
    }
    let report = EvalReport::new(protocol(plan, val), evaluation, bootstrap, &differences)?;

    let digest = networks.int8.map(|model| blake3::Hash::from_bytes(model.digest()).to_hex().to_string());
    fs::create_dir_all(out).with_context(|| format!("{}: cannot make the folder", out.display()))?;
    report.write(&out.join(REPORT))?;
    write_whole(&out.join(SCORED_MODEL), digest.unwrap_or_default().as_bytes())?;
    write_whole(&out.join("table.txt"), report.table().as_bytes())?;
    if plan.eval.overlays > 0 {
        let sheet = overlays(plan, val, &mut predictors[n_before_networks..])?;
        write_whole(&out.join("overlays.png"), &sheet)?;
    }
    say(&report.table());
    Ok(report)
}

/// The scores of an int8 model, if `folder` has a report and it is of this model; says so if it is of another.
///
/// # Errors
/// If the report is broken.
pub fn scores_of(folder: &Path, model: &Int8Model) -> anyhow::Result<Option<EvalReport>> {
    let file = folder.join(REPORT);
    if !file.exists() {
        return Ok(None);
    }
    let expected = blake3::Hash::from_bytes(model.digest()).to_hex().to_string();
    let found = fs::read_to_string(folder.join(SCORED_MODEL)).unwrap_or_default();
    if expected != found {
        warn(&format!("{}: scores of another int8 model, left out; `sensei eval` makes new ones", file.display()));
        return Ok(None);
    }
    Ok(Some(EvalReport::read(&file)?))
}

/// What fixes the scores of this run.
fn protocol(plan: &RunPlan, val: &SampleSource) -> EvalProtocol {
    let grid = u32::try_from(plan.graph.input_size()).expect("an input side is at most 1024");
    let subset = match plan.instances {
        sensei_train::source::InstanceChoice::All => "all".to_string(),
        sensei_train::source::InstanceChoice::Cached => {
            format!("the {} instances with a teacher answer", val.instances.len())
        }
    };
    let space = match plan.data {
        DataPlan::Coco { .. } => "coco",
        DataPlan::Lvis { .. } => "lvis",
        DataPlan::Synthetic(_) => "synthetic",
    };
    EvalProtocol {
        name: format!("{space}-{}", plan.prompt.name()),
        dataset: blake3::Hash::from_bytes(val.dataset.digest).to_hex().to_string(),
        subset,
        prompt: plan.prompt.name(),
        crop_grid: grid,
        crowd: CrowdRule::LeftOut,
        empty_truth: EmptyTruthRule::LeftOut,
        scoring: SCORING,
    }
}

/// The predictors that have learned nothing but where objects lie in a crop.
fn floors<'a>(plan: &RunPlan, train: &SampleSource) -> anyhow::Result<Vec<Predictor<'a, EvalInput, TrainError>>> {
    let grid = u32::try_from(plan.graph.input_size()).context("input size")?;
    let chosen = subset(train.instances.len(), FLOOR_INSTANCES.min(train.instances.len()), 0);
    let truth = |at: &u32| train.truth_in_crop(train.instances[*at as usize]);
    let truths: Vec<Vec<u8>> = chosen.par_iter().map(truth).collect::<Result<_, _>>()?;
    let (mask, disc) = (fit_constant_mask(&truths, grid)?, fit_centred_disc(&truths, grid)?);
    Ok(vec![
        floor("constant_mask", move |_| mask.prediction()),
        floor("centred_disc", move |_| disc.prediction()),
        floor("filled_box", filled_box),
        floor("inscribed_ellipse", inscribed_ellipse),
    ])
}

fn floor<'a>(name: &str, answer: impl Fn(&EvalSample) -> Prediction + 'a) -> Predictor<'a, EvalInput, TrainError> {
    let predict = move |items: &[EvalItem<EvalInput>]| Ok(items.iter().map(|item| answer(&item.sample)).collect());
    Predictor { name: name.into(), predict: Box::new(predict) }
}

/// A PNG of some instances, spread evenly over the split: crop, truth and what each predictor says.
fn overlays(
    plan: &RunPlan,
    val: &SampleSource,
    predictors: &mut [Predictor<'_, EvalInput, TrainError>],
) -> anyhow::Result<Vec<u8>> {
    let n_rows = plan.eval.overlays.min(val.instances.len());
    let mut rows = Vec::with_capacity(n_rows);
    for row in 0..n_rows {
        let instance_idx = val.instances[row * val.instances.len() / n_rows];
        let item = eval_item(val, instance_idx, val.sample(instance_idx)?);
        let mut masks = Vec::new();
        for predictor in predictors.iter_mut() {
            let answer = (predictor.predict)(std::slice::from_ref(&item))?.pop();
            if let Some(Prediction::CropLogits(logits)) = answer {
                let mask: Vec<u8> = logits.iter().map(|&logit| u8::from(logit > 0.0)).collect();
                masks.push((predictor.name.clone(), mask));
            }
        }
        rows.push(overlay_row(
            &OverlayInstance {
                title: format!("annotation {}", item.sample.annotation_id),
                crop: &item.input.pixels,
                geometry: item.sample.geometry,
                bbox: item.sample.bbox,
                truth: &item.sample.truth_in_crop,
                predictions: masks
                    .iter()
                    .map(|(label, mask)| OverlayMask { label: label.clone(), in_crop: mask })
                    .collect(),
            },
            2,
        ));
    }
    Ok(encode_png(&contact_sheet(&rows)))
}

/// Training instances that the constant masks are fitted to.
const FLOOR_INSTANCES: usize = 4096;

const REPORT: &str = "report.json";

/// Beside the report: the digest of the int8 model in it.
const SCORED_MODEL: &str = "int8-model-digest.txt";
