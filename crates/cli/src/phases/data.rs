//! Data sets and teacher caches of a run, opened and checked.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use sensei_answers::folder_store::FolderStore;
use sensei_answers::import::import_answers;
use sensei_answers::key::AnswerKey;
use sensei_answers::store::Store;
use sensei_data::crop_rule::CropRule;
use sensei_data::dataset::Dataset;
use sensei_data::image_file::ImageLimits;
use sensei_data::synth::{SynthConfig, write_synth};
use sensei_eval::protocol::ProtocolRules;
use sensei_samples::selection::{SelectionRules, Subset};
use sensei_samples::source::{InstanceChoice, SampleSource};

use crate::arguments::AnnotationFormat;
use crate::config::{DataPlan, RunPlan, TeacherAnswers};
use crate::progress::{say, warn};
use crate::usage;

/// The splits of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Trained and calibrated on.
    Train,
    /// Scored on.
    Val,
}

impl Split {
    fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Val => "val",
        }
    }
}

/// Annotations that are scored in place of a run's validation split.
pub struct OtherData<'a> {
    /// The JSON file.
    pub annotations: &'a Path,
    /// The folder that its file names are in.
    pub images: &'a Path,
    /// How it is written.
    pub format: AnnotationFormat,
}

/// Opens a split as the run trains on it and scores it. What has to be made first (synthetic scenes, a cache from a dump) is made below
/// `runs` and found there the next time.
///
/// # Errors
/// If the data set, its teacher cache or one of its masks is missing or broken, or nothing is left of it.
pub fn open(plan: &RunPlan, split: Split, runs: &Path) -> anyhow::Result<SampleSource> {
    let dataset = dataset(plan, split, runs)?;
    let teacher = teacher(plan, split, &dataset, runs)?;
    let rules = SelectionRules::of_student(plan.crop);
    let source = SampleSource::new(dataset, teacher, rules, plan.crop, ImageLimits::default(), plan.instances)?;
    say_counts(split.name(), &source);
    if plan.teacher.is_some()
        && let Some(annotation_id) = source.first_without_teacher()
    {
        let advice = "[data] instances = \"cached\" uses the cached instances only";
        anyhow::bail!("annotation {annotation_id} ({} split): no teacher answer; {advice}", split.name());
    }
    Ok(source)
}

/// The rules that a run's own scores follow.
pub fn own_rules(plan: &RunPlan) -> ProtocolRules {
    let kind = match plan.data {
        DataPlan::Coco { .. } => "coco",
        DataPlan::Lvis { .. } => "lvis",
        DataPlan::Synthetic(_) => "synthetic",
    };
    ProtocolRules::of_student(format!("{kind}-{}", plan.crop.name()), plan.crop)
}

/// Opens a split as a protocol scores it; the training split whole, since floors are fitted to it. The teacher's answers come along if it was
/// prompted as the protocol prompts and answered every instance.
///
/// # Errors
/// As [`open`], and if the protocol's prompt is not one for this student.
pub fn open_by(
    plan: &RunPlan,
    rules: &ProtocolRules,
    split: Split,
    other: Option<&OtherData>,
    runs: &Path,
) -> anyhow::Result<SampleSource> {
    check_student(plan, rules).map_err(usage)?;
    let mut rules = rules.selection.clone();
    if split == Split::Train {
        rules.subset = Subset::All;
    }
    let other = other.filter(|_| split == Split::Val);
    let dataset = match other {
        Some(other) => load(other.annotations, other.images, other.format)?,
        None => dataset(plan, split, runs)?,
    };
    let prompted_alike = rules.prompt == plan.crop.source() && rules.crop.is_none_or(|crop| crop == plan.crop);
    let teacher = match prompted_alike && other.is_none() && split == Split::Val {
        true => teacher(plan, split, &dataset, runs)?,
        false => None,
    };
    let limits = ImageLimits::default();
    let mut source = SampleSource::new(dataset, teacher, rules, plan.crop, limits, InstanceChoice::All)?;
    if split == Split::Val {
        say_counts("scored", &source);
        if plan.teacher.is_some() && source.teacher.is_none() {
            say("no teacher row: the teacher was not asked by this protocol's prompts");
        } else if source.teacher.is_some() && source.first_without_teacher().is_some() {
            say("no teacher row: the teacher has not answered all of these instances");
            source.teacher = None;
        }
    }
    Ok(source)
}

/// Opens an annotation file.
pub fn load(annotations: &Path, images: &Path, format: AnnotationFormat) -> anyhow::Result<Dataset> {
    Ok(match format {
        AnnotationFormat::Coco => Dataset::load_coco(annotations, images)?,
        AnnotationFormat::Lvis => Dataset::load_lvis(annotations, images)?,
    })
}

fn say_counts(what: &str, source: &SampleSource) {
    say(&format!("{what}: {} instances; left out: {:?}", source.instances.len(), source.left_out_by_reason()));
}

/// Refuses a protocol whose crops are not of the student's size, or whose prompts are not what its crops are made of.
fn check_student(plan: &RunPlan, rules: &ProtocolRules) -> anyhow::Result<()> {
    let side = plan.graph.input_size();
    if let Some(CropRule::CenterWindow { grid, .. } | CropRule::Roi { grid, .. }) = rules.selection.crop {
        ensure!(
            grid as usize == side,
            "protocol {}: expected a student of crops of {grid} x {grid}, found one of {side} x {side}",
            rules.name
        );
    } else if matches!(plan.crop, CropRule::Roi { .. }) && !rules.selection.prompt.is_box() {
        anyhow::bail!(
            "protocol {}: prompts by {}; this student's crop is a region around a box",
            rules.name,
            rules.selection.prompt.name()
        );
    }
    Ok(())
}

fn teacher(plan: &RunPlan, split: Split, dataset: &Dataset, runs: &Path) -> anyhow::Result<Option<Box<dyn Store>>> {
    let Some(teacher) = &plan.teacher else { return Ok(None) };
    let answers = match split {
        Split::Train => &teacher.train,
        Split::Val => &teacher.val,
    };
    let key = AnswerKey {
        teacher: teacher.digest.clone(),
        preprocessing: teacher.preprocessing.clone(),
        question: teacher.question.clone(),
        kept: teacher.kept.clone(),
        dataset: blake3::Hash::from_bytes(dataset.digest).to_hex().to_string(),
    };
    Ok(Some(Box::new(cache(answers, &key, dataset, runs)?)))
}

/// Refuses splits that share an image: the same file, or the same id and file name in two folders, as LVIS's validation
/// images that are COCO training images have. Images of the training split that nothing is scored on may be in it.
///
/// # Errors
/// If there is such an image.
pub fn check_disjoint(train: &SampleSource, val: &SampleSource) -> anyhow::Result<()> {
    let key = |source: &SampleSource, idx: usize| -> (PathBuf, (u64, Option<OsString>)) {
        let image = &source.dataset.images[idx];
        let name = Path::new(&image.file_name).file_name().map(OsStr::to_os_string);
        (source.dataset.image_path(idx), (image.id, name))
    };
    let (files, ids): (BTreeSet<PathBuf>, BTreeSet<_>) =
        (0..train.dataset.images.len()).map(|idx| key(train, idx)).unzip();
    let scored: BTreeSet<usize> = val.instances.iter().map(|&idx| val.dataset.instances[idx].image_idx).collect();
    let images = scored.iter().map(|&idx| key(val, idx));
    let shared: Vec<PathBuf> =
        images.filter(|(file, id)| files.contains(file) || ids.contains(id)).map(|(file, _)| file).collect();
    let Some(first) = shared.first() else { return Ok(()) };
    let is_lvis = val.dataset.categories.iter().any(|category| category.frequency.is_some());
    let advice = if is_lvis { "; the protocol lvis-minival leaves COCO's training images out" } else { "" };
    anyhow::bail!(
        "{}: expected no image of the training split, found {} (first: {}) of {}{advice}",
        val.dataset.annotations_path.display(),
        shared.len(),
        first.display(),
        scored.len()
    );
}

fn dataset(plan: &RunPlan, split: Split, runs: &Path) -> anyhow::Result<Dataset> {
    let of = |train, val| if split == Split::Train { train } else { val };
    Ok(match &plan.data {
        DataPlan::Coco { train, val } => {
            let paths = of(train, val);
            Dataset::load_coco(&paths.annotations, &paths.images)?
        }
        DataPlan::Lvis { train, val } => {
            let paths = of(train, val);
            Dataset::load_lvis(&paths.annotations, &paths.images)?
        }
        DataPlan::Synthetic(config) => {
            let scenes = scenes(config, runs)?;
            let annotations = scenes.join("annotations").join(format!("instances_{}.json", split.name()));
            Dataset::load_coco(&annotations, &scenes.join("images"))?
        }
    })
}

/// The folder of rendered scenes; rendered now if it is not there. It only ever exists complete.
fn scenes(config: &SynthConfig, runs: &Path) -> anyhow::Result<PathBuf> {
    let digest = blake3::hash(format!("{config:?}").as_bytes()).to_hex();
    let folder = runs.join("synthetic").join(&digest[..16]);
    if !folder.exists() {
        std::fs::create_dir_all(runs.join("synthetic"))
            .with_context(|| format!("{}: cannot make the folder", runs.display()))?;
        let report = write_synth(&folder, config)?;
        let (images, objects) =
            (report.n_train_images + report.n_val_images, report.n_train_objects + report.n_val_objects);
        say(&format!("rendered {images} scenes with {objects} objects into {}", folder.display()));
    }
    Ok(folder)
}

fn cache(answers: &TeacherAnswers, key: &AnswerKey, dataset: &Dataset, runs: &Path) -> anyhow::Result<FolderStore> {
    match answers {
        TeacherAnswers::Cache(folder) => Ok(FolderStore::open(folder, key)?),
        TeacherAnswers::Dump(dump) => {
            let digest = blake3::Hash::from_bytes(key.digest()).to_hex();
            let folder = runs.join("teacher-cache").join(&digest[..16]);
            if !folder.exists() {
                std::fs::create_dir_all(runs.join("teacher-cache"))
                    .with_context(|| format!("{}: cannot make the folder", runs.display()))?;
                let report = import_answers(dump, dataset, &folder)?;
                say(&format!("imported {} teacher answers into {}", report.manifest.n_records, folder.display()));
                if !report.missing.is_empty() {
                    warn(&format!("{}: no answer for {} instances", dump.display(), report.missing.len()));
                }
            }
            // The dump's own key is compared with the configuration's here.
            Ok(FolderStore::open(&folder, key)?)
        }
    }
}
