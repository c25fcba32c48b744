//! A teacher that runs here: its weights, and its answers about a data set.

use std::path::Path;

use anyhow::{Context as _, ensure};
use burn::tensor::Device;
use indicatif::{ProgressBar, ProgressStyle};
use sensei_answers::asked::Preprocessing;
use sensei_answers::key::{AnswerKey, TeacherDescription};
use sensei_data::dataset::Dataset;
use sensei_data::image_file::ImageLimits;
use sensei_files::digest::{sha256_of_file, sha256_of_lines};
use sensei_student::weights::read_weights;
use sensei_teacher::build::{BuildPlan, BuildReport, build};
use sensei_teacher::error::TeacherError;
use sensei_teacher::shared::{SharedReport, Worker, build_shared};
use sensei_teacher::teacher::Teacher;

use crate::arguments::TeacherArguments;
use crate::config::TeacherFiles;
use crate::stop;

/// The teacher of these files.
///
/// # Errors
/// If a file cannot be read or is no teacher's, or onnxruntime cannot be loaded.
pub fn open(files: &TeacherFiles) -> anyhow::Result<Teacher> {
    match files {
        TeacherFiles::Native(weights) => {
            let tensors = read_weights(weights)?.tensors;
            let digest = sha256_of_lines(&[sha256_of_file(weights)?]);
            Ok(Teacher::native(&weights.display().to_string(), &tensors, digest, &Device::flex())?)
        }
        TeacherFiles::Onnx { encoder, decoder, onnxruntime } => {
            let digest = sha256_of_lines(&[sha256_of_file(encoder)?, sha256_of_file(decoder)?]);
            let threads = rayon::current_num_threads();
            Ok(Teacher::onnx(onnxruntime, [encoder, decoder], digest, threads)?)
        }
    }
}

/// [`open`], of the weights that a configuration names.
///
/// # Errors
/// As there, and if the weights are another teacher's.
pub fn open_checked(files: &TeacherFiles, digest: &str) -> anyhow::Result<Teacher> {
    let teacher = open(files)?;
    let found = teacher.digest();
    ensure!(found == digest, "{files}: expected weights of [teacher] digest {digest:?}, found {found:?}");
    Ok(teacher)
}

impl TeacherArguments {
    /// The files that were named.
    ///
    /// # Panics
    /// If the command line had none, which its parser refuses.
    pub fn files(&self) -> TeacherFiles {
        match (&self.weights, &self.teacher, &self.onnxruntime) {
            (Some(weights), _, _) => TeacherFiles::Native(weights.clone()),
            (None, Some([encoder, decoder]), Some(onnxruntime)) => TeacherFiles::Onnx {
                encoder: encoder.clone(),
                decoder: decoder.clone(),
                onnxruntime: onnxruntime.clone(),
            },
            _ => panic!("arguments: --weights, or --teacher with --onnxruntime"),
        }
    }
}

/// The plan of a build whose cache has this key.
pub fn plan_of(key: &AnswerKey) -> BuildPlan {
    BuildPlan {
        question: key.question.clone(),
        kept: key.kept.clone(),
        zoom: match key.preprocessing {
            Preprocessing::Letterbox { zoom, .. } => zoom,
            _ => None,
        },
        max_failed_images: 0,
        limits: ImageLimits::default(),
    }
}

/// Asks a teacher about a data set, with a bar, and makes the cache `out`.
///
/// # Errors
/// If it cannot be asked or the cache cannot be written, or the program was asked to stop. Nothing stands at `out` then.
pub fn ask(
    teacher: &Teacher,
    licence: &str,
    plan: &BuildPlan,
    dataset: &Dataset,
    out: &Path,
) -> anyhow::Result<BuildReport> {
    let description = TeacherDescription { name: teacher.name().into(), licence: licence.into() };
    let built = with_bar(|progress| build(dataset, teacher, description, plan, out, progress, &stop::is_asked))?;
    if matches!(built, Err(TeacherError::Interrupted)) {
        stop::check("asking the teacher")?;
    }
    Ok(built?)
}

/// Asks a teacher what no other worker has asked it, with a bar, until a shared store is complete.
///
/// # Errors
/// If it cannot be asked, the store cannot be written or was begun with other settings, or the program was asked to stop. What was stored
/// before stays.
pub fn ask_shared(
    teacher: &Teacher,
    licence: &str,
    plan: &BuildPlan,
    dataset: &Dataset,
    worker: &Worker<'_>,
) -> anyhow::Result<SharedReport> {
    let description = TeacherDescription { name: teacher.name().into(), licence: licence.into() };
    let built =
        with_bar(|progress| build_shared(dataset, teacher, description, plan, worker, progress, &stop::is_asked))?;
    if matches!(built, Err(TeacherError::Interrupted)) {
        stop::check_command("asking the teacher")?;
    }
    Ok(built?)
}

/// Shows how many images are done.
///
/// # Errors
/// If the bar cannot be made.
pub fn with_bar<T>(run: impl FnOnce(&mut dyn FnMut(usize, usize)) -> T) -> anyhow::Result<T> {
    let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} images, ETA {eta}");
    let bar = ProgressBar::new(0).with_style(style.context("the bar's template")?).with_prefix("teacher");
    let done = run(&mut |n_done: usize, n_images: usize| {
        bar.set_length(n_images as u64);
        bar.set_position(n_done as u64);
    });
    bar.finish_and_clear();
    Ok(done)
}

/// [`ask`] for a run, whose configuration says which teacher.
///
/// # Errors
/// As [`open`] and [`ask`], and if the weights are another teacher's.
pub fn ask_for_run(
    files: &TeacherFiles,
    key: &AnswerKey,
    dataset: &Dataset,
    out: &Path,
) -> anyhow::Result<BuildReport> {
    let teacher = open_checked(files, &key.teacher)?;
    let plan = plan_of(key);
    let shown = teacher.preprocessing(plan.zoom)?;
    ensure!(
        shown == key.preprocessing,
        "{files}: expected [teacher] preprocessing {shown}, found {}",
        key.preprocessing
    );
    ask(&teacher, "not stated", &plan, dataset, out)
}
