//! Scores of a run: floors, teacher, float, fake-quantized and integer network on the same instances.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::predict::{
    EvalInput, PredictError, candidates, eval_item, float_network, integer_network, network, recorded, teacher,
};
use anyhow::Context;
use burn::tensor::Device;
use indicatif::ProgressIterator as _;
use rayon::prelude::*;
use sensei_data::prompt_source::PromptSource;
use sensei_data::sampling::subset;
use sensei_eval::bootstrap::BootstrapConfig;
use sensei_eval::curve::Curve;
use sensei_eval::evaluate::{EvalItem, Predictor, evaluate};
use sensei_eval::floors::{filled_box, fit_centred_disc, fit_constant_mask, grid_ceiling, inscribed_ellipse};
use sensei_eval::protocol::ProtocolRules;
use sensei_eval::report::EvalReport;
use sensei_eval::rows::{INITIAL, RowKind, kind_of};
use sensei_eval::score::{EvalSample, Prediction, SampleCrop};
use sensei_int8::interpreter::Interpreter;
use sensei_int8::model::IntegerModel;
use sensei_quant::fake_quant::FakeQuantStudent;
use sensei_samples::selection::SelectionRules;
use sensei_samples::source::SampleSource;
use sensei_tensor::network::NamedWeights;

use crate::config::RunPlan;
use crate::phases::pictures::{Pictured, chosen, write_pictures};
use crate::progress::{self, say, warn};
use crate::usage;
use sensei_files::whole::write_whole;

/// What is scored besides floors and teacher.
pub struct Networks<'a> {
    /// Weights of the trained student that training started from, if it did.
    pub initial: Option<&'a NamedWeights>,
    /// The float network's weights.
    pub weights: &'a NamedWeights,
    /// The integer model, read back from its file; without it, only the float network is scored.
    pub int8: Option<&'a IntegerModel>,
    /// What a camera answered with the integer model, if it was asked.
    pub recorded: Option<&'a Path>,
}

/// Scores everything on the validation split and writes `report.json`, `table.txt`, `overlays.png` and `gallery.json` into `out`.
///
/// # Errors
/// If a sample cannot be had, a prediction not be scored, or a file not be written.
pub fn score(
    plan: &RunPlan,
    networks: &Networks,
    rules: &ProtocolRules,
    (train, val): (&SampleSource, &SampleSource),
    device: &Device,
    out: &Path,
) -> anyhow::Result<EvalReport> {
    progress::phase("scoring");
    let predicting = Predicting::new(plan, networks)?;
    let mut predictors = predicting.predictors(plan, networks, train, val, device)?;
    let report = report(plan, rules, val, &mut predictors)?;

    let digest = networks.int8.map(|model| blake3::Hash::from_bytes(model.digest()).to_hex().to_string());
    fs::create_dir_all(out).with_context(|| format!("{}: cannot make the folder", out.display()))?;
    report.write(&out.join(REPORT))?;
    write_whole(&out.join(SCORED_MODEL), digest.unwrap_or_default().as_bytes())?;
    write_whole(&out.join("table.txt"), report.table().as_bytes())?;
    // Floors need no picture, and the fake-quantized network's is that of the integers.
    let is_shown = |row: &str| matches!(kind_of(row), RowKind::Teacher | RowKind::Student) && row != "fake_quant";
    predictors.retain(|predictor| is_shown(&predictor.name));
    write_pictures(out, &report, &pictured(plan.eval.overlays, val, &report, &mut predictors)?, 2)?;
    say(&report.table());
    Ok(report)
}

/// A package's model, and what it is scored on.
pub struct PackageScores<'a> {
    /// Read back from the package.
    pub model: &'a IntegerModel,
    /// How it is scored.
    pub rules: &'a ProtocolRules,
    /// The instances.
    pub val: &'a SampleSource,
    /// How intervals are made.
    pub bootstrap: BootstrapConfig,
}

/// Scores a package's model beside the floors that need no training data, and writes the files of [`score`] into `out`.
///
/// # Errors
/// As [`score`].
pub fn score_package(package: &PackageScores, out: &Path) -> anyhow::Result<EvalReport> {
    let PackageScores { model, rules, val, bootstrap } = package;
    let interpreter = Interpreter::new(model);
    let mut predictors = Vec::from(floors_of_boxes());
    predictors.push(integer_network(&interpreter));
    let bar = progress::bar("score", val.instances.len(), "objects");
    let items = candidates(val, &val.instances, PACKAGE_BATCH).progress_with(bar);
    let evaluation = evaluate::<_, PredictError>(items, &mut predictors, PACKAGE_BATCH)?;
    let differences = [("inscribed_ellipse", "int8")];
    let report = EvalReport::new(rules.on(&val.dataset, val.subset_name()), evaluation, *bootstrap, &differences)?;
    fs::create_dir_all(out).with_context(|| format!("{}: cannot make the folder", out.display()))?;
    report.write(&out.join(REPORT))?;
    let digest = blake3::Hash::from_bytes(model.digest()).to_hex().to_string();
    write_whole(&out.join(SCORED_MODEL), digest.as_bytes())?;
    write_whole(&out.join("table.txt"), report.table().as_bytes())?;
    predictors.retain(|predictor| kind_of(&predictor.name) == RowKind::Student);
    write_pictures(out, &report, &pictured(PACKAGE_OVERLAYS, val, &report, &mut predictors)?, 2)?;
    say(&report.table());
    Ok(report)
}

/// The files that scores leave in a folder.
pub fn score_files(out: &Path) -> Vec<PathBuf> {
    [REPORT, SCORED_MODEL, "table.txt", "overlays.png", "gallery.json"].map(|name| out.join(name)).into()
}

/// Scores all but the integer network's twin with boxes that are more and more wrong, and writes a report for each jitter and `robustness.txt` into `out`.
///
/// # Errors
/// As [`score`], and if the protocol does not prompt by boxes.
pub fn robustness(
    plan: &RunPlan,
    networks: &Networks,
    rules: &ProtocolRules,
    open: impl Fn(&ProtocolRules) -> anyhow::Result<(SampleSource, SampleSource)>,
    device: &Device,
    out: &Path,
) -> anyhow::Result<()> {
    if rules.selection.prompt != PromptSource::Box {
        let name = rules.selection.prompt.name();
        return Err(usage(anyhow::anyhow!(
            "--robustness: expected a protocol that prompts by \"box\", found {name:?}"
        )));
    }
    let predicting = Predicting::new(plan, networks)?;
    fs::create_dir_all(out).with_context(|| format!("{}: cannot make the folder", out.display()))?;
    let mut curve = Curve::new(rules.space);
    for percent in JITTER_PERCENT {
        let prompt = PromptSource::JitteredBox { jitter: f64::from(percent) / 100.0, seed: 0 };
        // No jitter is the protocol itself, under its own hash.
        let prompt = if percent == 0 { PromptSource::Box } else { prompt };
        let selection = SelectionRules { prompt, ..rules.selection.clone() };
        let name = format!("{}, boxes +-{percent} %", rules.name);
        let jittered = ProtocolRules { name, selection, ..rules.clone() };
        let (train, val) = open(&jittered)?;
        let mut predictors = predicting.predictors(plan, networks, &train, &val, device)?;
        // Its integers are the int8 row's.
        predictors.retain(|predictor| predictor.name != "fake_quant");
        let report = report(plan, &jittered, &val, &mut predictors)?;
        report.write(&out.join(format!("jitter-{percent}.json")))?;
        curve.push(percent, &report);
    }
    let table = curve.table();
    write_whole(&out.join("robustness.txt"), table.as_bytes())?;
    say(&table);
    Ok(())
}

/// What the predictors of one plan share, however they are prompted.
struct Predicting<'a> {
    fake: Option<FakeQuantStudent>,
    interpreter: Option<Interpreter<'a>>,
}

impl<'a> Predicting<'a> {
    fn new(plan: &RunPlan, networks: &Networks<'a>) -> anyhow::Result<Self> {
        // The integer model's float twin is computed where its thresholds were chosen.
        let fake = match networks.int8 {
            Some(model) => Some(FakeQuantStudent::new(&plan.graph, model.clone(), &Device::flex())?),
            None => None,
        };
        Ok(Self { fake, interpreter: networks.int8.map(Interpreter::new) })
    }

    /// Floors and ceiling, the teacher where it has answered, and the networks.
    fn predictors<'p>(
        &'p self,
        plan: &RunPlan,
        networks: &Networks<'p>,
        train: &SampleSource,
        val: &SampleSource,
        device: &Device,
    ) -> anyhow::Result<Vec<Predictor<'p, EvalInput, PredictError>>> {
        let mut predictors = floors(plan, train)?;
        if val.teacher.is_some() {
            predictors.push(teacher());
        }
        if let Some(initial) = networks.initial {
            predictors.push(Predictor { name: INITIAL.into(), ..float_network(&plan.graph, initial, device)? });
        }
        predictors.push(float_network(&plan.graph, networks.weights, device)?);
        if let (Some(fake), Some(interpreter)) = (&self.fake, &self.interpreter) {
            predictors.push(network("fake_quant", fake));
            predictors.push(integer_network(interpreter));
            predictors.extend(networks.recorded.map(|folder| recorded(interpreter, folder)));
        }
        Ok(predictors)
    }
}

fn report(
    plan: &RunPlan,
    rules: &ProtocolRules,
    val: &SampleSource,
    predictors: &mut [Predictor<'_, EvalInput, PredictError>],
) -> anyhow::Result<EvalReport> {
    let batch = plan.eval.batch_size;
    let bar = progress::bar("score", val.instances.len(), "objects");
    let items = candidates(val, &val.instances, batch).progress_with(bar);
    let evaluation = evaluate::<_, PredictError>(items, predictors, batch)?;
    let bootstrap = BootstrapConfig {
        seed: plan.eval.bootstrap_seed,
        n_resamples: u32::try_from(plan.eval.bootstrap_resamples).context("[eval] bootstrap_resamples")?,
    };
    let has = |name: &str| predictors.iter().any(|predictor| predictor.name == name);
    let differences = [
        ("constant_mask", "float"),
        ("inscribed_ellipse", "float"),
        ("teacher", "float"),
        (INITIAL, "float"),
        ("float", "fake_quant"),
        ("float", "int8"),
        ("int8", "device"),
    ];
    let differences: Vec<_> = differences.into_iter().filter(|(a, b)| has(a) && has(b)).collect();
    Ok(EvalReport::new(rules.on(&val.dataset, val.subset_name()), evaluation, bootstrap, &differences)?)
}

/// The scores of an int8 model, if `folder` has a report and it is of this model; says so if it is of another.
///
/// # Errors
/// If the report is broken.
pub fn scores_of(folder: &Path, model: &IntegerModel) -> anyhow::Result<Option<EvalReport>> {
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
    let report =
        EvalReport::read(&file).context("the run's scores cannot be used; `sensei eval RUN` makes new ones")?;
    Ok(Some(report))
}

/// The predictors that have learned nothing but where objects lie in a crop.
fn floors<'a>(plan: &RunPlan, train: &SampleSource) -> anyhow::Result<Vec<Predictor<'a, EvalInput, PredictError>>> {
    let grid = u32::try_from(plan.graph.input_size()).context("input size")?;
    // What else the student is trained on, such as a teacher's proposals, is no truth.
    let annotated: Vec<usize> =
        train.instances.iter().copied().filter(|&idx| train.dataset.part_idx(idx) == 0).collect();
    let chosen = subset(annotated.len(), FLOOR_INSTANCES.min(annotated.len()), 0);
    let truth = |at: &u32| train.truth_in_crop(annotated[*at as usize]);
    let truths: Vec<Vec<u8>> = chosen.par_iter().map(truth).collect::<Result<_, _>>()?;
    let (mask, disc) = (fit_constant_mask(&truths, grid)?, fit_centred_disc(&truths, grid)?);
    let mut floors =
        vec![floor("constant_mask", move |_| mask.prediction()), floor("centred_disc", move |_| disc.prediction())];
    floors.extend(floors_of_boxes());
    Ok(floors)
}

/// Those that need no training data, and the ceiling.
fn floors_of_boxes<'a>() -> [Predictor<'a, EvalInput, PredictError>; 3] {
    [
        floor("filled_box", filled_box),
        floor("inscribed_ellipse", inscribed_ellipse),
        floor("grid_ceiling", grid_ceiling),
    ]
}

fn floor<'a>(name: &str, answer: impl Fn(&EvalSample) -> Prediction + 'a) -> Predictor<'a, EvalInput, PredictError> {
    let predict = move |items: &[EvalItem<EvalInput>]| Ok(items.iter().map(|item| answer(&item.sample)).collect());
    Predictor { name: name.into(), predict: Box::new(predict) }
}

/// The instances that are shown, and what each predictor says of them.
fn pictured(
    n_overlays: usize,
    val: &SampleSource,
    report: &EvalReport,
    predictors: &mut [Predictor<'_, EvalInput, PredictError>],
) -> anyhow::Result<Vec<Pictured>> {
    let by_id: BTreeMap<u64, usize> = val.instances.iter().map(|&idx| (val.dataset.instances[idx].id, idx)).collect();
    let mut pictured = vec![];
    for (why, annotation_id) in chosen(report, n_overlays) {
        let instance_idx = *by_id.get(&annotation_id).context("a scored instance is one of the split")?;
        let item = eval_item(val, instance_idx, val.sample(instance_idx)?);
        let mut answers = Vec::new();
        for predictor in predictors.iter_mut() {
            let answer = (predictor.predict)(std::slice::from_ref(&item))?.pop();
            if let Some(Prediction::CropLogits(logits)) = answer {
                answers.push((predictor.name.clone(), logits.iter().map(|&logit| u8::from(logit > 0.0)).collect()));
            }
        }
        let EvalItem { sample, input } = item;
        let SampleCrop { geometry, truth } = sample.crop.context("a sample of a student has a crop")?;
        let (crop, bbox) = (input.pixels, sample.bbox);
        pictured.push(Pictured { annotation_id, why, crop, geometry, bbox, truth, answers });
    }
    Ok(pictured)
}

/// How wrong boxes are on the robustness curve, in percent of their sides.
const JITTER_PERCENT: [u32; 5] = [0, 5, 10, 20, 30];

/// Training instances that the constant masks are fitted to.
const FLOOR_INSTANCES: usize = 4096;

const REPORT: &str = "report.json";

/// Objects that are scored at a time; results do not depend on it.
const PACKAGE_BATCH: usize = 32;

/// Objects that are shown.
const PACKAGE_OVERLAYS: usize = 12;

/// Beside the report: the digest of the int8 model in it.
const SCORED_MODEL: &str = "int8-model-digest.txt";
