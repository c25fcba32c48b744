//! A run's configuration: its sections put together.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use schemars::JsonSchema;
use sensei_data::crop_rule::CropRule;
use sensei_graph::layer_graph::LayerGraph;
use sensei_loss::SampleWeighting;
use sensei_samples::source::InstanceChoice;
use sensei_train::plan::{StagePlan, TrainPlan};
use serde::{Deserialize, Serialize};

use super::overrides::Override;
use super::read::{read, text_of};
use super::sections::crop::CropToml;
use super::sections::data::{AlsoTrainPlan, DataPlan, DataToml};
use super::sections::eval::{EvalPlan, EvalToml};
use super::sections::export::{ExportPlan, ExportToml};
use super::sections::logging::{LoggingPlan, LoggingToml};
use super::sections::quantize::{QuantizePlan, QuantizeToml};
use super::sections::student::StudentToml;
use super::sections::teacher::{TeacherPlan, TeacherToml};
use super::sections::train::{FirstWeights, TrainToml};
use super::trained_keys::TrainedKeys;

/// A run's configuration.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunToml {
    /// Of initial weights, order of samples, augmentation and choice of calibration images.
    pub seed: u64,
    /// Where annotations come from, and which of them are used.
    pub data: DataToml,
    /// What part of the image the student is shown.
    pub crop: CropToml,
    /// Where the teacher's answers come from. Without it every stage needs `weighting = "truth_only"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TeacherToml>,
    /// The student's network.
    pub student: StudentToml,
    /// How the student is trained.
    pub train: TrainToml,
    /// How scores are summarised.
    pub eval: EvalToml,
    /// How the student becomes integers. Without it the run ends with a float network and its scores, and nothing is made for the chip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantize: Option<QuantizeToml>,
    /// What is made for the chip.
    #[serde(default, skip_serializing_if = "ExportToml::is_empty")]
    pub export: ExportToml,
    /// What changes speed, log and files, but no number.
    #[serde(default)]
    pub logging: LoggingToml,
}

/// What a run will do: paths absolute, choices resolved, ranges checked.
pub struct RunPlan {
    /// Stem of the configuration file; names the run and the network.
    pub name: String,
    /// Where annotations and images come from.
    pub data: DataPlan,
    /// Which instances are used.
    pub instances: InstanceChoice,
    /// What part of the image the student is shown.
    pub crop: CropRule,
    /// Where the teacher's answers come from, if there is a teacher.
    pub teacher: Option<TeacherPlan>,
    /// The student's network.
    pub graph: LayerGraph,
    /// What training does.
    pub train: TrainPlan,
    /// Weights that training starts from.
    pub first_weights: FirstWeights,
    /// How scores are summarised.
    pub eval: EvalPlan,
    /// What is made for the chip, if anything is.
    pub deployment: Option<DeploymentPlan>,
    /// What changes the log and the files, but no number.
    pub logging: LoggingPlan,
    /// The configuration with absolute paths, as TOML; what the command line set is named in its head.
    pub resolved_toml: String,
    /// The keys that decide the weights.
    trained_keys: TrainedKeys,
    /// Digest of the keys that change the weights (`[eval]`, `[export]`, `[logging]` do not).
    pub train_digest: String,
}

/// From a trained student to what the chip takes.
pub struct DeploymentPlan {
    /// How the student is quantized.
    pub quantize: QuantizePlan,
    /// How it is exported.
    pub export: ExportPlan,
}

impl RunPlan {
    /// Parts of the training data that have no answers of the teacher.
    pub fn unanswered_parts(&self) -> BTreeSet<usize> {
        let first = self.teacher.as_ref().is_some_and(|teacher| teacher.train.is_some());
        let others = self.data.also_train().iter().map(|part| part.answers.is_some());
        let are_answered = std::iter::once(first).chain(others);
        are_answered.enumerate().filter(|(_, is_answered)| !is_answered).map(|(idx, _)| idx).collect()
    }

    /// What is made for the chip.
    ///
    /// # Errors
    /// If nothing is.
    pub fn deployment(&self) -> anyhow::Result<&DeploymentPlan> {
        let advice = "it is needed for the chip, see docs/configuration.md";
        self.deployment
            .as_ref()
            .with_context(|| format!("run {}: expected [quantize], found none; {advice}", self.name))
    }
}

/// Reads and resolves a configuration, the overridden keys in place of the file's. Relative paths are relative to the file's folder.
///
/// # Errors
/// If the file cannot be read, has an unknown, missing or wrong key, or a number out of range.
pub fn load_plan(path: &Path, overrides: &[Override]) -> anyhow::Result<RunPlan> {
    let shown = path.display();
    let text = text_of(path)?;
    let file: RunToml = read(path, &text, overrides)?;
    resolve(file, run_name(path), overrides).with_context(|| shown.to_string())
}

/// Refuses to go on with a run whose configuration would have trained other weights.
///
/// # Errors
/// If `plan_toml`, the run's own configuration, cannot be read or differs, with the keys that do.
pub fn check_same_run(plan_toml: &Path, plan: &RunPlan) -> anyhow::Result<()> {
    let run = load_plan(plan_toml, &[])?;
    differing_keys(plan_toml, plan.trained_keys.differences(&run.trained_keys))
}

/// Refuses keys in which a run differs from its own configuration, `plan_toml`.
///
/// # Errors
/// If there are any, with them.
pub(super) fn differing_keys(plan_toml: &Path, differences: Vec<String>) -> anyhow::Result<()> {
    if !differences.is_empty() {
        let more = match differences.len().checked_sub(MOST_SHOWN) {
            Some(more @ 1..) => format!(", and {more} more"),
            _ => String::new(),
        };
        let shown = differences.into_iter().take(MOST_SHOWN).collect::<Vec<_>>().join(", ");
        let text = fs::read_to_string(plan_toml).unwrap_or_default();
        let set: Vec<&str> =
            text.lines().map_while(|line| line.strip_prefix("# ")).filter(|line| line.starts_with("--set")).collect();
        let advice = if set.is_empty() { String::new() } else { format!("; the run began with {}", set.join(" ")) };
        bail!("{}: expected the configuration that the run began with, but {shown}{more}{advice}", plan_toml.display());
    }
    Ok(())
}

/// How many differences a message lists.
const MOST_SHOWN: usize = 5;

/// A run folder keeps its configuration as `plan.toml`; the run is named after the folder then, else after the file.
pub(super) fn run_name(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    match (stem.as_str(), absolute.parent().and_then(Path::file_name)) {
        ("plan", Some(run)) => run.to_string_lossy().into_owned(),
        _ => stem,
    }
}

fn resolve(file: RunToml, name: String, overrides: &[Override]) -> anyhow::Result<RunPlan> {
    let resolved_toml = resolved_toml(&file, overrides)?;
    let trained_keys = TrainedKeys::of(&file)?;
    let train_digest = trained_keys.digest();

    let has_published_encoder = matches!(file.student, StudentToml::LiteUnet { .. });
    if file.train.encoder_weights.is_some() && !has_published_encoder {
        bail!("[train] encoder_weights: expected [student] family = \"lite_unet\" beside it, found another");
    }
    if let Some(stage) = file.train.stage.iter().find(|stage| stage.encoder_rate_factor.is_some())
        && !has_published_encoder
    {
        let name = &stage.name;
        bail!(
            "[[train.stage]] {name:?}: encoder_rate_factor: expected [student] family = \"lite_unet\" beside it, found another"
        );
    }
    let graph = file.student.resolve()?;
    let crop = file.crop.resolve(u32::try_from(graph.input_size()).context("[student] input_size")?);
    let deployment = deployment(file.quantize, file.export, &graph)?;
    let quantize = deployment.as_ref().map(|deployment| &deployment.quantize);
    let (mut data, instances) = file.data.resolve()?;
    let also_train: Vec<String> = data.also_train().iter().map(|part| part.name.clone()).collect();
    let (mut train, first_weights) = file.train.resolve(file.seed, quantize, &also_train)?;
    take_masks_for_answers(&mut train, data.also_train_mut())?;
    let teacher = file.teacher.map(TeacherToml::resolve).transpose()?;
    check_teacher(teacher.as_ref(), instances, &train, data.also_train())?;
    check_turns(crop, teacher.as_ref(), &train, data.also_train())?;
    Ok(RunPlan {
        name,
        data,
        instances,
        crop,
        teacher,
        graph,
        train,
        first_weights,
        eval: file.eval.resolve(),
        deployment,
        logging: file.logging.resolve(),
        resolved_toml,
        trained_keys,
        train_digest,
    })
}

fn deployment(
    quantize: Option<QuantizeToml>,
    export: ExportToml,
    graph: &LayerGraph,
) -> anyhow::Result<Option<DeploymentPlan>> {
    let Some(quantize) = quantize else {
        ensure!(export.is_empty(), "[export]: expected [quantize] beside it, found none");
        return Ok(None);
    };
    Ok(Some(DeploymentPlan { quantize: quantize.resolve(graph)?, export: export.resolve()? }))
}

/// The configuration as a run folder keeps it.
pub(super) fn resolved_toml(file: &impl Serialize, overrides: &[Override]) -> anyhow::Result<String> {
    let toml = toml::to_string(file).context("cannot write the resolved configuration")?;
    let set: String =
        overrides.iter().map(|set| format!("# --set {}\n", set.to_string().replace('\n', "\\n"))).collect();
    let head = if set.is_empty() { "" } else { "# Set on the command line; the values below are those:\n" };
    Ok(format!("{head}{set}{toml}"))
}

/// Further training data that is weighed `teacher_hard` and has no answers brings the teacher's masks itself.
///
/// # Errors
/// If only some stages weigh it so.
fn take_masks_for_answers(train: &mut TrainPlan, also_train: &mut [AlsoTrainPlan]) -> anyhow::Result<()> {
    for (idx, part) in also_train.iter_mut().enumerate().filter(|(_, part)| part.answers.is_none()) {
        let is_hard = |stage: &StagePlan| stage.loss.weighting_of(1 + idx) == SampleWeighting::TeacherHard;
        part.are_proposals = train.stages.iter().any(is_hard);
        if !part.are_proposals {
            continue;
        }
        if let Some(stage) = train.stages.iter().find(|stage| !is_hard(stage)) {
            let (name, stage) = (&part.name, &stage.name);
            bail!("[train] stage {stage:?}: weighting_of = {{ {name} }}: expected teacher_hard as in other stages");
        }
        for stage in &mut train.stages {
            stage.loss = stage.loss.clone().with_teachers_masks_in_part(1 + idx);
        }
    }
    Ok(())
}

/// Refuses pictures that turn where something that training takes would not turn with them.
fn check_turns(
    crop: CropRule,
    teacher: Option<&TeacherPlan>,
    train: &TrainPlan,
    also_train: &[AlsoTrainPlan],
) -> anyhow::Result<()> {
    let Some(stage) = train.stages.iter().find(|stage| stage.augmentation.turns()) else { return Ok(()) };
    let expected = format!("[train] stage {:?}: roi_rotation and roi_shear: expected", stage.name);
    ensure!(matches!(crop, CropRule::Box { .. }), "{expected} [crop] rule = \"box\", found another");
    let are_answered =
        teacher.is_some_and(|teacher| teacher.train.is_some()) || also_train.iter().any(|part| part.answers.is_some());
    ensure!(!are_answered, "{expected} no answers of a teacher to train on, which do not turn; found some");
    Ok(())
}

/// Refuses what needs a teacher where there is none.
fn check_teacher(
    teacher: Option<&TeacherPlan>,
    instances: InstanceChoice,
    train: &TrainPlan,
    also_train: &[AlsoTrainPlan],
) -> anyhow::Result<()> {
    let Some(teacher) = teacher else {
        ensure!(instances == InstanceChoice::All, "[data] instances: \"cached\" needs a [teacher]");
        if let Some(stage) = train.stages.iter().find(|stage| stage.loss.needs().teacher_masks) {
            bail!("[train] stage {:?}: its loss needs a [teacher], found none", stage.name);
        }
        if let Some(part) = also_train.iter().find(|part| part.answers.is_some()) {
            bail!("[[data.also_train]] {:?}: answers need a [teacher], found none", part.name);
        }
        return Ok(());
    };
    let asks = |part_idx| train.stages.iter().find(|stage| !is_truth_only(stage, part_idx));
    if teacher.train.is_none() {
        ensure!(instances == InstanceChoice::All, "[data] instances: \"cached\" needs [teacher] train, found none");
        if let Some(stage) = asks(0) {
            bail!("[train] stage {:?}: its loss needs [teacher] train, found none", stage.name);
        }
    }
    for (idx, part) in also_train.iter().enumerate().filter(|(_, part)| part.answers.is_none()) {
        if let Some(stage) = asks(1 + idx) {
            let name = &part.name;
            bail!(
                "[train] stage {:?}: its loss needs answers of [[data.also_train]] {name:?}, found none; weighting_of = {{ {name} = \
                 \"truth_only\" }} needs none, nor does \"teacher_hard\" of proposals",
                stage.name
            );
        }
    }
    Ok(())
}

fn is_truth_only(stage: &StagePlan, part_idx: usize) -> bool {
    stage.loss.weighting_of(part_idx) == SampleWeighting::TruthOnly
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use sensei_files::whole::write_whole;
    use sensei_imx500::memory::{NetworkShape, memory_estimate};

    use super::*;
    use crate::config::promptable::{is_promptable, load_promptable};

    fn shipped(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(name)
    }

    #[test]
    fn every_shipped_configuration_loads() {
        let folder = shipped("");
        let mut n_loaded = 0;
        for entry in fs::read_dir(&folder).expect("the repository's configurations") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                if is_promptable(&path) {
                    let plan = load_promptable(&path, &[]).unwrap_or_else(|error| panic!("{error:#}"));
                    assert_eq!(Some(plan.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
                    n_loaded += 1;
                    continue;
                }
                let plan = load_plan(&path, &[]).unwrap_or_else(|error| panic!("{error:#}"));
                assert_eq!(Some(plan.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
                crate::commands::plan::check_budget(&plan).unwrap_or_else(|error| panic!("{}: {error:#}", plan.name));
                n_loaded += 1;
            }
        }
        assert!(n_loaded > 0, "{}: no configurations", folder.display());
    }

    #[test]
    fn weight_bits_that_the_chip_or_the_network_does_not_have_are_refused() {
        let text = fs::read_to_string(shipped("quickstart.toml")).expect("a shipped configuration");
        let folder = tempfile::tempdir().expect("a folder");
        let load = |from: &str, to: &str, appended: &str| {
            assert!(text.contains(from), "{from}");
            let path = folder.path().join("changed.toml");
            write_whole(&path, (text.replace(from, to) + appended).as_bytes()).expect("a writable folder");
            let plan = load_plan(&path, &[])?;
            crate::commands::plan::check_budget(&plan).map(|_| plan)
        };
        let bits = "\nweight_bits = 8";
        let of = |table: &str| format!("\n[quantize.weight_bits_of]\n{table}\n");
        let budget = |limit: &str| format!("\n[quantize.budget]\nweight_bits = 4\nlimit = {{ {limit} }}\n");
        let plan = load(bits, "\nweight_bits = 4", &of("down1 = 8")).unwrap_or_else(|error| panic!("{error:#}"));
        let quantize = &plan.deployment.expect("a shipped run for the chip").quantize;
        assert_eq!((quantize.weight_bits_of("down1"), quantize.weight_bits_of("down2")), (8, 4));
        assert!(load(bits, bits, &budget("coefficient_bytes = 1000000")).is_ok());
        for (to, appended, expected) in [
            ("\nweight_bits = 3", String::new(), "quantize.weight_bits: expected 8, 4 or 2, found 3"),
            (bits, of("down9 = 4"), "[quantize.weight_bits_of] \"down9\""),
            (bits, of("add1 = 4"), "[quantize.weight_bits_of] \"add1\""),
            (bits, of("down1 = 6"), "quantize.weight_bits_of.down1: expected 8, 4 or 2, found 6"),
            (bits, budget("coefficient_bytes = 1000"), "[quantize.budget]"),
            (
                bits,
                budget("bytes = 1000"),
                "expected { coefficient_bytes = ... } or { total_bytes = ... }, found a table of `bytes`",
            ),
            ("", String::new(), "quantize: missing key `weight_bits`"),
        ] {
            let error = load(bits, to, &appended).err().unwrap_or_else(|| panic!("{to}{appended}: accepted"));
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
    }

    /// Converter 3.19.2's totals of the networks as trained: docs/results/imx500-memory.md.
    #[test]
    fn the_memory_of_networks_with_a_published_encoder_is_the_converters() {
        for (name, set, converted) in [
            ("sensei-box-ablation.toml", None, 2_174_816),
            ("sensei-box-sample.toml", None, 3_442_528),
            ("sensei-box-sample.toml", Some("student.decoder_blocks=[2, 2, 2, 1, 0]"), 3_592_768),
            ("sensei-box-whole-chip.toml", None, 7_638_912),
        ] {
            let set: Vec<Override> = set.iter().map(|set| set.parse().expect("a key and its value")).collect();
            let plan = load_plan(&shipped(name), &set).unwrap_or_else(|error| panic!("{error:#}"));
            let total = memory_estimate(&NetworkShape::of_graph(&plan.graph, |_| 8, 8)).total();
            assert!(total.abs_diff(converted) * 1000 <= converted, "{name}: {total} / {converted}");
        }
    }

    /// A run folder's plan.toml is the configuration, also when it is read again.
    #[test]
    fn resolved_configuration_is_the_same_plan() {
        let folder = tempfile::tempdir().expect("a folder");
        let plan = load_plan(&shipped("coco-sample-picosam3.toml"), &[]).unwrap_or_else(|error| panic!("{error:#}"));
        let path = folder.path().join("plan.toml");
        write_whole(&path, plan.resolved_toml.as_bytes()).expect("a writable folder");
        let again = load_plan(&path, &[]).unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!((&again.train_digest, &again.resolved_toml), (&plan.train_digest, &plan.resolved_toml));
        assert_eq!(Some(again.name.as_str()), folder.path().file_name().and_then(|name| name.to_str()));
        assert!(check_same_run(&path, &plan).is_ok());
    }
}
