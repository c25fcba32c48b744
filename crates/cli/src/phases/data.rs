//! Data sets and teacher caches of a run, opened and checked.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use sensei_answers::joined_store::JoinedStore;
use sensei_answers::store::Store;
use sensei_data::augment::Augmentation;
use sensei_data::dataset::{Dataset, DatasetError, LoadOptions, UnusableRule};
use sensei_data::image_file::ImageLimits;
use sensei_data::synth::{SynthConfig, write_synth};
use sensei_eval::protocol::ProtocolRules;
use sensei_loss::SampleWeighting;
use sensei_samples::selection::{LeftOutReason, SelectionRules, Subset, in_words};
use sensei_samples::source::{InstanceChoice, SampleSource, TurnCounts};
use sensei_train::plan::StagePlan;

use crate::arguments::AnnotationFormat;
use crate::config::{AlsoTrainPlan, DataPlan, FilesPlan, PartPictures, RunPlan, SplitPlan};
use crate::phases::answers::store;
use crate::phases::composed::composed;
use crate::phases::images::check_images;
use crate::phases::packed::use_packed;
use crate::progress::{on_one_line, phase, say, warn};
use crate::stop;
use crate::usage;
use sensei_files::folder::make_once;

/// The splits of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Trained and calibrated on.
    Train,
    /// Scored on.
    Val,
}

impl Split {
    /// In messages and file names.
    pub fn name(self) -> &'static str {
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

/// Opens a split as the run trains on it and scores it. What has to be made first (synthetic scenes, a cache from a dump, packed samples)
/// is made below `runs` and found there the next time.
///
/// # Errors
/// If the data set, its teacher cache or one of its masks is missing or broken, nothing is left of it, or its packed samples cannot be used.
pub fn open(plan: &RunPlan, split: Split, runs: &Path) -> anyhow::Result<SampleSource> {
    let mut source = open_files(plan, split, runs)?;
    use_packed(plan, split, &mut source, runs)?;
    Ok(source)
}

/// [`open`], with samples from image files.
///
/// # Errors
/// As there.
pub fn open_files(plan: &RunPlan, split: Split, runs: &Path) -> anyhow::Result<SampleSource> {
    let mut dataset = dataset(&plan.data, split, runs)?;
    match split {
        Split::Val => check_annotated(&dataset)?,
        Split::Train => check_weighed_as_proposals(plan, 0, &dataset)?,
    }
    // What the files alone tell comes before a teacher is asked, which may take hours.
    let mut parts = vec![];
    if split == Split::Train {
        for (idx, part) in plan.data.also_train().iter().enumerate() {
            let other = load_part(&plan.data, part, &dataset, runs)?;
            check_weighed_as_proposals(plan, 1 + idx, &other)?;
            parts.push((part, other));
        }
        let mut joined = dataset.clone();
        parts.iter().try_for_each(|(_, other)| joined.join(other.clone()))?;
    }
    let mut teacher = teacher(plan, split, &dataset, runs)?;
    let unanswered = if split == Split::Train { plan.unanswered_parts() } else { BTreeSet::new() };
    for (part, other) in parts {
        teacher = join(plan, part, other, &mut dataset, teacher, runs)?;
    }
    let rules = SelectionRules::of_student(plan.crop);
    let limits = ImageLimits::default();
    let source =
        SampleSource::with_unanswered_parts(dataset, teacher, rules, plan.crop, limits, plan.instances, unanswered)?;
    say_counts(split.name(), &source)?;
    if source.teacher.is_some()
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
        DataPlan::Coco(_) => "coco",
        DataPlan::Lvis(_) => "lvis",
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
    let mut dataset = match other {
        Some(other) => load(other.annotations, other.images, other.format, unusable_rule(&plan.data))?,
        None => dataset(&plan.data, split, runs)?,
    };
    if split == Split::Val {
        check_annotated(&dataset)?;
    }
    if split == Split::Train {
        // Their images are training images too: none of them may be scored on.
        let train = dataset.clone();
        let is_in_files = |part: &&AlsoTrainPlan| matches!(part.pictures, PartPictures::Files(_));
        for part in plan.data.also_train().iter().filter(is_in_files) {
            dataset.join(load_part(&plan.data, part, &train, runs)?)?;
        }
    }
    let prompted_alike = rules.prompt == plan.crop.source() && rules.crop.is_none_or(|crop| crop == plan.crop);
    let teacher = match prompted_alike && other.is_none() && split == Split::Val {
        true => teacher(plan, split, &dataset, runs)?,
        false => None,
    };
    let limits = ImageLimits::default();
    let mut source = SampleSource::new(dataset, teacher, rules, plan.crop, limits, InstanceChoice::All)?;
    if split == Split::Val {
        say_counts("scored", &source)?;
        if plan.teacher.is_some() && source.teacher.is_none() {
            say("no teacher row: the teacher was not asked by this protocol's prompts");
        } else if source.teacher.is_some() && source.first_without_teacher().is_some() {
            say("no teacher row: the teacher has not answered all of these instances");
            source.teacher = None;
        }
    }
    Ok(source)
}

/// Whether a JSON file is a list, as result files are.
///
/// # Errors
/// If it cannot be read.
pub fn is_json_list(file: &Path) -> anyhow::Result<bool> {
    let failed = || format!("{}: cannot read", file.display());
    let mut start = BufReader::new(File::open(file).with_context(failed)?);
    let first = start.fill_buf().with_context(failed)?.iter().find(|byte| !byte.is_ascii_whitespace());
    Ok(first == Some(&b'['))
}

/// Opens an annotation file.
///
/// # Errors
/// If it cannot be read, or an entry that cannot be used is not to be left out.
pub fn load(
    annotations: &Path,
    images: &Path,
    format: AnnotationFormat,
    unusable: UnusableRule,
) -> Result<Dataset, DatasetError> {
    let options = LoadOptions { unusable, ..LoadOptions::default() };
    match format {
        AnnotationFormat::Coco => Dataset::load_coco_with(annotations, images, options),
        AnnotationFormat::Lvis => Dataset::load_lvis_with(annotations, images, options),
    }
}

fn unusable_rule(data: &DataPlan) -> UnusableRule {
    match data {
        DataPlan::Coco(files) | DataPlan::Lvis(files) => files.unusable,
        DataPlan::Synthetic(_) => UnusableRule::Refuse,
    }
}

fn say_counts(what: &str, source: &SampleSource) -> anyhow::Result<()> {
    let left_out = source.left_out_by_reason();
    let lengthened = match source.n_lengthened()? {
        0 => String::new(),
        n => format!("; shown in a region lengthened to the shortest side: {n}"),
    };
    let parts = match source.dataset.parts.as_slice() {
        [_] => String::new(),
        parts => {
            let mut counts = vec![0; parts.len()];
            source.instances.iter().for_each(|&idx| counts[source.dataset.part_idx(idx)] += 1);
            let named = parts.iter().zip(counts).map(|(part, n)| {
                let name = part.annotations_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                format!("{n} of {}", on_one_line(&name))
            });
            format!(" ({})", named.collect::<Vec<_>>().join(", "))
        }
    };
    say(&format!("{what}: {} instances{parts}; left out: {}{lengthened}", source.instances.len(), in_words(&left_out)));
    let n_crowd = left_out.get(&LeftOutReason::Crowd).copied().unwrap_or(0);
    if n_crowd >= source.instances.len() {
        let n = source.dataset.instances.len();
        let files = source.dataset.parts.iter().map(|part| part.annotations_path.display().to_string());
        warn(&format!(
            "{}: {n_crowd} of {n} annotations are crowd regions (iscrowd 1) and are left out; does the exporter mark every mask so?",
            files.collect::<Vec<_>>().join(", ")
        ));
    }
    Ok(())
}

/// Refuses a protocol whose crops are not of the student's size, or whose prompts are not what its crops are made of.
fn check_student(plan: &RunPlan, rules: &ProtocolRules) -> anyhow::Result<()> {
    let side = plan.graph.input_size();
    if let Some(grid) = rules.selection.crop.map(|crop| crop.grid()) {
        ensure!(
            grid as usize == side,
            "protocol {}: expected a student of crops of {grid} x {grid}, found one of {side} x {side}",
            rules.name
        );
    } else if rules.selection.prompt.is_of_several_points() {
        anyhow::bail!(
            "protocol {}: prompts by {}; this student's crop is made of one",
            rules.name,
            rules.selection.prompt.name()
        );
    } else if plan.crop.needs_box() && !rules.selection.prompt.is_box() {
        anyhow::bail!(
            "protocol {}: prompts by {}; this student's crop is a region around a box",
            rules.name,
            rules.selection.prompt.name()
        );
    }
    Ok(())
}

/// Further training data; `train` is the training split without any.
///
/// # Errors
/// If it cannot be read or composed, or an entry that cannot be used is not to be left out.
pub fn load_part(data: &DataPlan, part: &AlsoTrainPlan, train: &Dataset, runs: &Path) -> anyhow::Result<Dataset> {
    let format = match data {
        DataPlan::Lvis(_) => AnnotationFormat::Lvis,
        DataPlan::Coco(_) | DataPlan::Synthetic(_) => AnnotationFormat::Coco,
    };
    let SplitPlan { annotations, images } = match &part.pictures {
        PartPictures::Files(files) => files.clone(),
        PartPictures::Composed(config) => composed(train, config, runs)?,
    };
    load(&annotations, &images, format, unusable_rule(data)).map_err(unusable_entries)
}

/// Refuses to take a teacher's masks for the truth, and to score on pictures that nobody took.
///
/// # Errors
/// If a file of the data set says that a teacher drew its masks, or that its pictures were composed.
pub fn check_annotated(dataset: &Dataset) -> anyhow::Result<()> {
    if let Some(part) = dataset.parts.iter().find(|part| part.composed_of.is_some()) {
        let shown = part.annotations_path.display();
        anyhow::bail!(
            "{shown}: expected pictures to score on, found some that were composed of others (info.composed_of)"
        );
    }
    match dataset.parts.iter().find(|part| part.proposed_by.is_some()) {
        None => Ok(()),
        Some(part) => anyhow::bail!(
            "{}: expected annotations to score on, found masks that a teacher proposed (info.proposed_by)",
            part.annotations_path.display()
        ),
    }
}

/// Refuses to train on a teacher's masks as if people had drawn them, or the other way round.
fn check_weighed_as_proposals(plan: &RunPlan, part_idx: usize, dataset: &Dataset) -> anyhow::Result<()> {
    let path = dataset.annotations_path.display();
    let are_proposals = dataset.parts.iter().any(|part| part.proposed_by.is_some());
    let part = part_idx.checked_sub(1).map(|idx| &plan.data.also_train()[idx]);
    let weighting = part.map_or("weighting".into(), |part| format!("weighting_of = {{ {} }}", part.name));
    if part.is_some_and(|part| part.are_proposals) {
        ensure!(are_proposals, "{path}: {weighting}: teacher_hard needs answers beside annotations; found none");
        return Ok(());
    }
    let takes_truth = |stage: &StagePlan| {
        let weighting = stage.loss.weighting_of(part_idx);
        weighting == SampleWeighting::TruthOnly || weighting == SampleWeighting::Constant(0.0) || weighting.is_filter()
    };
    if are_proposals && let Some(stage) = plan.train.stages.iter().find(|stage| takes_truth(stage)) {
        anyhow::bail!(
            "{path}: masks that a teacher proposed (info.proposed_by) are no truth: stage {:?}: {weighting}: expected teacher_hard or \
             shares of the teacher, found what leaves objects to the truth alone",
            stage.name
        );
    }
    Ok(())
}

/// Takes further training data in, and what the teacher answered about them.
fn join(
    plan: &RunPlan,
    part: &AlsoTrainPlan,
    other: Dataset,
    dataset: &mut Dataset,
    teacher: Option<Box<dyn Store>>,
    runs: &Path,
) -> anyhow::Result<Option<Box<dyn Store>>> {
    let answers = match &part.answers {
        Some(answers) => Some(store(plan, answers, &other, runs)?),
        None => None,
    };
    dataset.join(other)?;
    let stores: Vec<Box<dyn Store>> = teacher.into_iter().chain(answers).collect();
    Ok(if stores.is_empty() { None } else { Some(Box::new(JoinedStore::new(stores))) })
}

fn teacher(plan: &RunPlan, split: Split, dataset: &Dataset, runs: &Path) -> anyhow::Result<Option<Box<dyn Store>>> {
    let Some(teacher) = &plan.teacher else { return Ok(None) };
    let answers = match split {
        Split::Train => teacher.train.as_ref(),
        Split::Val => Some(&teacher.val),
    };
    answers.map(|answers| store(plan, answers, dataset, runs)).transpose()
}

/// Both splits of a run, with everything checked that can be checked before training: images, shared images, batches, and the teacher's
/// answers for every epoch's crops.
///
/// # Errors
/// If a split cannot be opened, or a check fails.
pub fn checked_splits(plan: &RunPlan, runs: &Path) -> anyhow::Result<(SampleSource, SampleSource)> {
    phase("opening and checking the data");
    let (train, val) = (open(plan, Split::Train, runs)?, open(plan, Split::Val, runs)?);
    check_disjoint(&train, &val)?;
    check_images("train", &train)?;
    check_images("val", &val)?;
    plan.train.check_batches(plan.graph.min_train_batch(), train.instances.len()).map_err(usage)?;
    stop::check("checking the data")?;
    let covered = train.check_coverage(&plan.train.augmentation_by_epoch(), plan.train.seed, &stop::is_asked);
    stop::check("checking the data")?;
    covered?;
    say_turned(plan, &train)?;
    let covered = val.check_coverage(&[&Augmentation::NONE], plan.train.seed, &stop::is_asked);
    stop::check("checking the data")?;
    covered?;
    Ok((train, val))
}

fn say_turned(plan: &RunPlan, train: &SampleSource) -> anyhow::Result<()> {
    let counts = train.n_turned(&plan.train.augmentation_by_epoch(), plan.train.seed, &stop::is_asked);
    stop::check("checking the data")?;
    let TurnCounts { turned, as_they_are } = counts?;
    if turned + as_they_are > 0 {
        say(&format!(
            "samples that turn, in all epochs: {turned}; too near the border, shown as they are: {as_they_are}"
        ));
    }
    Ok(())
}

/// Refuses splits that share an image: the same file, or the same id, file name and content in two folders, as LVIS's validation
/// images that are COCO training images have. Images of the training split that nothing is scored on may be in it.
///
/// # Errors
/// If there is such an image.
pub fn check_disjoint(train: &SampleSource, val: &SampleSource) -> anyhow::Result<()> {
    let scored = val.instances.iter().map(|&idx| val.dataset.instances[idx].image_idx).collect();
    check_disjoint_images(&train.dataset, &val.dataset, &scored)
}

/// The same of all images of `train` and those of `val` that are scored on, by their indices.
///
/// # Errors
/// As [`check_disjoint`].
pub fn check_disjoint_images(train: &Dataset, val: &Dataset, scored: &BTreeSet<usize>) -> anyhow::Result<()> {
    let val_digests: Vec<String> =
        val.parts.iter().map(|part| blake3::Hash::from_bytes(part.digest).to_hex().to_string()).collect();
    let is_of_val = |composed_of: &Option<String>| composed_of.as_ref().is_some_and(|of| val_digests.contains(of));
    if let Some(part) = train.parts.iter().find(|part| is_of_val(&part.composed_of)) {
        let (composed, val) = (part.annotations_path.display(), val.annotations_path.display());
        anyhow::bail!(
            "{composed}: expected no pictures that were composed of the validation images, found those of {val}"
        );
    }
    let key = |dataset: &Dataset, idx: usize| -> (u64, Option<OsString>) {
        let image = &dataset.images[idx];
        (image.id, Path::new(&image.file_name).file_name().map(OsStr::to_os_string))
    };
    let train_paths: BTreeSet<PathBuf> = (0..train.images.len()).map(|idx| train.image_path(idx)).collect();
    let train_by_key: BTreeMap<_, PathBuf> =
        (0..train.images.len()).map(|idx| (key(train, idx), train.image_path(idx))).collect();
    let mut shared: Vec<PathBuf> = vec![];
    for &idx in scored {
        let path = val.image_path(idx);
        let twin = train_by_key.get(&key(val, idx));
        // Exporters number and name the images of every folder alike.
        if train_paths.contains(&path) || twin.is_some_and(|twin| have_equal_content(twin, &path)) {
            shared.push(path);
        }
    }
    let Some(first) = shared.first() else { return Ok(()) };
    let is_lvis = val.categories.iter().any(|category| category.frequency.is_some());
    let advice = if is_lvis { "; the protocol lvis-minival leaves COCO's training images out" } else { "" };
    anyhow::bail!(
        "{}: expected no image of the training split, found {} (first: {}) of {}{advice}",
        val.annotations_path.display(),
        shared.len(),
        first.display(),
        scored.len()
    );
}

/// Whether two files hold the same bytes; a file that cannot be read holds none, and is found elsewhere.
fn have_equal_content(a: &Path, b: &Path) -> bool {
    let size = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.len()).ok();
    let content = |path: &Path| std::fs::read(path).ok();
    size(a).is_some() && size(a) == size(b) && content(a).is_some_and(|bytes| Some(bytes) == content(b))
}

/// The annotations of a split, without further training data. Scenes are rendered below `runs` the first time.
///
/// # Errors
/// If they cannot be read, or an entry that cannot be used is not to be left out.
pub fn dataset(data: &DataPlan, split: Split, runs: &Path) -> anyhow::Result<Dataset> {
    let load = |FilesPlan { train, val, unusable, .. }: &FilesPlan, format| {
        let paths = if split == Split::Train { train } else { val };
        load(&paths.annotations, &paths.images, format, *unusable).map_err(unusable_entries)
    };
    Ok(match data {
        DataPlan::Coco(files) => load(files, AnnotationFormat::Coco)?,
        DataPlan::Lvis(files) => load(files, AnnotationFormat::Lvis)?,
        DataPlan::Synthetic(config) => {
            let scenes = scenes(config, runs)?;
            let annotations = scenes.join("annotations").join(format!("instances_{}.json", split.name()));
            Dataset::load_coco(&annotations, &scenes.join("images"))?
        }
    })
}

fn unusable_entries(error: DatasetError) -> anyhow::Error {
    match error {
        DatasetError::Entries { .. } => anyhow::Error::new(error).context(UNUSABLE),
        other => other.into(),
    }
}

/// The cause follows.
const UNUSABLE: &str = "entries cannot be used (`sensei data check` names all, [data] unusable = \"leave_out\" goes on without annotations)";

/// The folder of rendered scenes; rendered now if it is not there. It only ever exists complete.
fn scenes(config: &SynthConfig, runs: &Path) -> anyhow::Result<PathBuf> {
    let digest = blake3::hash(format!("{config:?}").as_bytes()).to_hex();
    let folder = runs.join("synthetic").join(&digest[..16]);
    let mut report = None;
    make_once(&folder, |partial| -> anyhow::Result<()> {
        stop::check("rendering scenes")?;
        report = Some(write_synth(partial, config)?);
        Ok(())
    })?;
    if let Some(report) = report {
        let (images, objects) =
            (report.n_train_images + report.n_val_images, report.n_train_objects + report.n_val_objects);
        say(&format!("rendered {images} scenes with {objects} objects into {}", folder.display()));
    }
    Ok(folder)
}
