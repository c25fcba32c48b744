//! Data sets and teacher caches of a run, opened and checked.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use sensei_data::dataset::Dataset;
use sensei_data::image_file::ImageLimits;
use sensei_data::synth::{SynthConfig, write_synth};
use sensei_teacher::cache::Cache;
use sensei_teacher::import::import_dump;
use sensei_teacher::key::{CacheKey, FORMAT_VERSION};
use sensei_train::source::SampleSource;

use crate::config::{DataPlan, RunPlan, TeacherAnswers};
use crate::progress::{say, warn};

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

/// Opens a split. What has to be made first (synthetic scenes, a cache from a dump) is made below `runs` and found
/// there the next time.
///
/// # Errors
/// If the data set, its teacher cache or one of its masks is missing or broken, or nothing is left of it.
pub fn open(plan: &RunPlan, split: Split, runs: &Path) -> anyhow::Result<SampleSource> {
    let dataset = dataset(plan, split, runs)?;
    let teacher = match &plan.teacher {
        Some(teacher) => {
            let answers = match split {
                Split::Train => &teacher.train,
                Split::Val => &teacher.val,
            };
            let key = CacheKey {
                teacher: teacher.digest.clone(),
                preprocessing: teacher.preprocessing.clone(),
                prompt: teacher.prompt.clone(),
                dataset: blake3::Hash::from_bytes(dataset.digest).to_hex().to_string(),
                format: FORMAT_VERSION,
            };
            Some(cache(answers, &key, &dataset, runs)?)
        }
        None => None,
    };
    let limits = ImageLimits::default();
    let source = SampleSource::new(dataset, teacher, plan.prompt, limits, plan.instances)?;
    let used = source.instances.len();
    say(&format!("{}: {used} instances; left out: {:?}", split.name(), source.left_out_by_reason()));
    if plan.teacher.is_some()
        && let Some(annotation_id) = source.first_without_teacher()
    {
        let advice = "[data] instances = \"cached\" uses the cached instances only";
        anyhow::bail!("annotation {annotation_id} ({} split): no teacher answer; {advice}", split.name());
    }
    Ok(source)
}

/// Refuses splits that share an image: the same file, or the same id and file name in two folders.
///
/// # Errors
/// If there is such an image.
pub fn check_disjoint(train: &SampleSource, val: &SampleSource) -> anyhow::Result<()> {
    let names = |source: &SampleSource| -> Vec<(PathBuf, (u64, String))> {
        let images = source.dataset.images.iter().enumerate();
        images.map(|(idx, image)| (source.dataset.image_path(idx), (image.id, image.file_name.clone()))).collect()
    };
    let (files, ids): (BTreeSet<PathBuf>, BTreeSet<(u64, String)>) = names(train).into_iter().unzip();
    let mut shared = names(val);
    shared.retain(|(file, id)| files.contains(file) || ids.contains(id));
    ensure!(
        shared.is_empty(),
        "{}: expected no image of the training split, found {} (first: {})",
        val.dataset.annotations_path.display(),
        shared.len(),
        shared[0].0.display()
    );
    Ok(())
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

fn cache(answers: &TeacherAnswers, key: &CacheKey, dataset: &Dataset, runs: &Path) -> anyhow::Result<Cache> {
    match answers {
        TeacherAnswers::Cache(folder) => Ok(Cache::open(folder, key)?),
        TeacherAnswers::Dump(dump) => {
            let digest = blake3::Hash::from_bytes(key.digest()).to_hex();
            let folder = runs.join("teacher-cache").join(&digest[..16]);
            if !folder.exists() {
                std::fs::create_dir_all(runs.join("teacher-cache"))
                    .with_context(|| format!("{}: cannot make the folder", runs.display()))?;
                let report = import_dump(dump, dataset, &folder)?;
                say(&format!("imported {} teacher answers into {}", report.manifest.n_records, folder.display()));
                if !report.missing.is_empty() {
                    warn(&format!("{}: no answer for {} instances", dump.display(), report.missing.len()));
                }
            }
            // The dump's own key is compared with the configuration's here.
            Ok(Cache::open(&folder, key)?)
        }
    }
}
