//! A teacher's answers about a run's data: found, fetched, imported or asked for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;
use sensei_answers::folder_store::FolderStore;
use sensei_answers::import::import_answers_unless;
use sensei_answers::key::AnswerKey;
use sensei_answers::store::Store;
use sensei_data::dataset::Dataset;
use sensei_files::folder::make_once;
use serde::Serialize;

use crate::config::{RunPlan, TeacherAnswers, TeacherFiles, TeacherPlan};
use crate::phases::data::{Split, dataset, load_part};
use crate::phases::shared;
use crate::phases::teacher::ask_for_run;
use crate::progress::{note, say, warn};
use crate::stop;

/// Answers of the plan's teacher about a data set.
///
/// # Errors
/// If they are missing, broken or another teacher's, or the teacher cannot be asked.
pub fn store(
    plan: &RunPlan,
    answers: &TeacherAnswers,
    dataset: &Dataset,
    runs: &Path,
) -> anyhow::Result<Box<dyn Store>> {
    let teacher = plan.teacher.as_ref().context("answers need a [teacher]")?;
    let key = answer_key(teacher, dataset);
    match answers {
        TeacherAnswers::Store(address) => shared::answers(address, &key, plan.logging.fetched_shards_gib, runs),
        TeacherAnswers::Cache(folder) => Ok(Box::new(FolderStore::open(folder, &key)?)),
        TeacherAnswers::Asked(files) => Ok(Box::new(asked_here(files, &key, dataset, runs)?)),
        TeacherAnswers::Dump(dump) => Ok(Box::new(imported(dump, &key, dataset, runs)?)),
    }
}

fn answer_key(teacher: &TeacherPlan, dataset: &Dataset) -> AnswerKey {
    AnswerKey {
        teacher: teacher.digest.clone(),
        preprocessing: teacher.preprocessing.clone(),
        question: teacher.question.clone(),
        kept: teacher.kept.clone(),
        dataset: blake3::Hash::from_bytes(dataset.digest).to_hex().to_string(),
    }
}

/// A data set that a run would ask its teacher about before it trains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenQuestion {
    /// The annotation file.
    pub annotations: PathBuf,
    /// Images with objects that are asked about.
    pub n_images: usize,
    /// Annotations, crowd regions among them.
    pub n_annotations: usize,
}

/// What a run would ask its teacher that nobody has asked it below `runs`.
///
/// # Errors
/// If an annotation file cannot be used, or a teacher's file is not there.
pub fn open_questions(plan: &RunPlan, runs: &Path) -> anyhow::Result<Vec<OpenQuestion>> {
    let Some(teacher) = &plan.teacher else { return Ok(vec![]) };
    let mut asked: Vec<(&TeacherFiles, Dataset)> = vec![];
    if let Some(TeacherAnswers::Asked(files)) = &teacher.train {
        asked.push((files, dataset(&plan.data, Split::Train, runs)?));
    }
    if let TeacherAnswers::Asked(files) = &teacher.val {
        asked.push((files, dataset(&plan.data, Split::Val, runs)?));
    }
    for part in plan.data.also_train() {
        if let Some(TeacherAnswers::Asked(files)) = &part.answers {
            let train = dataset(&plan.data, Split::Train, runs)?;
            asked.push((files, load_part(&plan.data, part, &train, runs)?));
        }
    }
    asked.retain(|(_, dataset)| !cache_folder(&answer_key(teacher, dataset), runs).exists());
    let question = |(files, dataset): &(&TeacherFiles, Dataset)| {
        for path in files.paths() {
            std::fs::metadata(path).with_context(|| format!("{}: cannot read", path.display()))?;
        }
        Ok(OpenQuestion {
            annotations: dataset.annotations_path.clone(),
            n_images: dataset.instances.iter().map(|instance| instance.image_idx).collect::<BTreeSet<_>>().len(),
            n_annotations: dataset.instances.len(),
        })
    };
    asked.iter().map(question).collect()
}

/// A cache of what the teacher of these files answers, which is asked the first time.
///
/// # Errors
/// If the teacher cannot be asked, or is not that of the key.
pub fn asked_here(
    files: &TeacherFiles,
    key: &AnswerKey,
    dataset: &Dataset,
    runs: &Path,
) -> anyhow::Result<FolderStore> {
    let folder = cache_folder(key, runs);
    let mut report = None;
    make_once(&folder, |partial| -> anyhow::Result<()> {
        note(&format!("{}: asking the teacher", dataset.annotations_path.display()));
        report = Some(ask_for_run(files, key, dataset, partial)?);
        Ok(())
    })?;
    if let Some(report) = report {
        let (n, n_images) = (report.manifest.n_records, report.n_images);
        say(&format!("{n} answers about {n_images} images are in {}", folder.display()));
    }
    Ok(FolderStore::open(&folder, key)?)
}

/// A cache of a dump, which is imported the first time.
fn imported(dump: &Path, key: &AnswerKey, dataset: &Dataset, runs: &Path) -> anyhow::Result<FolderStore> {
    let folder = cache_folder(key, runs);
    let mut report = None;
    make_once(&folder, |partial| -> anyhow::Result<()> {
        let imported = import_answers_unless(dump, dataset, partial, &stop::is_asked);
        stop::check("importing the teacher's answers")?;
        report = Some(imported?);
        Ok(())
    })?;
    if let Some(report) = report {
        say(&format!("imported {} teacher answers into {}", report.manifest.n_records, folder.display()));
        if !report.missing.is_empty() {
            warn(&format!("{}: no answer for {} instances", dump.display(), report.missing.len()));
        }
        if report.n_pictures_verified == 0 {
            let advice = "whether the teacher saw the same pictures is not known";
            warn(&format!("{}: the dump has no means of pixels; {advice}", dump.display()));
        }
    }
    // The dump's own key is compared with the configuration's here.
    Ok(FolderStore::open(&folder, key)?)
}

/// Whether the answers of a key are there that a run has made.
pub fn is_cached(key: &AnswerKey, runs: &Path) -> bool {
    cache_folder(key, runs).exists()
}

/// Where the answers of a key are kept that a run has made.
fn cache_folder(key: &AnswerKey, runs: &Path) -> PathBuf {
    let digest = blake3::Hash::from_bytes(key.digest()).to_hex();
    runs.join("teacher-cache").join(&digest[..16])
}
