//! `teacher build`.

use std::path::Path;

use anyhow::Context as _;
use sensei_answers::asked::{Question, Zoom};
use sensei_answers::kept::{Context, FeatureDtype, Kept, KeptMasks, ScaleSource};
use sensei_data::dataset::Dataset;
use sensei_data::image_file::ImageLimits;
use sensei_data::prompt_source::PromptSource;
use sensei_teacher::build::{BuildPlan, BuildReport};
use sensei_teacher::shared::{SharedReport, Worker};
use sensei_teacher::teacher::Teacher;

use super::teacher::describe;
use super::teacher_store::{say_fill, worker_name};
use crate::arguments::{BuildArguments, BuildDtype, BuildMasks, BuildPrompt};
use crate::device::start_threads;
use crate::phases::data::load;
use crate::phases::{shared, teacher};
use crate::progress::{say, warn};
use crate::usage;

/// Asks the teacher, and makes a cache or fills a store.
///
/// # Errors
/// Weights or data that cannot be used, or a cache that cannot be written; nothing stands at its name then. A store keeps what is in it.
pub fn execute(arguments: BuildArguments) -> anyhow::Result<()> {
    start_threads(arguments.threads)?;
    let dataset = load(&arguments.annotations, &arguments.images, arguments.format, arguments.unusable.into())?;
    let teacher = teacher::open(&arguments.teacher.files())?;
    let plan = plan(&arguments, &teacher)?;
    match (&arguments.store, &arguments.out) {
        (Some(place), _) => fill(&arguments, &teacher, &plan, &dataset, place),
        (None, Some(out)) => make(&arguments, &teacher, &plan, &dataset, out),
        (None, None) => Err(usage(anyhow::anyhow!("expected the new cache or --store, found neither"))),
    }
}

/// Makes a cache here.
fn make(
    arguments: &BuildArguments,
    teacher: &Teacher,
    plan: &BuildPlan,
    dataset: &Dataset,
    out: &Path,
) -> anyhow::Result<()> {
    let report = teacher::ask(teacher, &arguments.licence, plan, dataset, out)?;
    let BuildReport { manifest, n_images, n_without_objects, n_crowd, n_zoomed, n_cut, failures } = report;
    failures.iter().for_each(|failure| warn(failure));
    say(&format!("{}: {} records of {n_images} images", out.display(), manifest.n_records));
    say_counts(
        arguments,
        &Counts { n_without_objects, n_crowd, n_zoomed: n_zoomed as u64, n_cut, n_unusable: failures.len() },
    );
    describe(out)
}

/// Fills a shared store, with others.
fn fill(
    arguments: &BuildArguments,
    teacher: &Teacher,
    plan: &BuildPlan,
    dataset: &Dataset,
    address: &str,
) -> anyhow::Result<()> {
    let place = shared::place(address)?;
    let name = arguments.worker.clone().unwrap_or_else(worker_name);
    let worker = Worker { place: &place, name: &name, unit_images: arguments.unit_images as usize };
    let report = teacher::ask_shared(teacher, &arguments.licence, plan, dataset, &worker)?;
    let SharedReport { store, fill, n_units, n_records, counts, n_without_objects, n_crowd, unusable } = report;
    unusable.iter().for_each(|failure| warn(failure));
    say_fill(&store, n_units, &fill);
    say(&format!("{store}: {n_records} records of {} images", counts.n_images));
    let (n_zoomed, n_cut, n_unusable) = (counts.n_zoomed, counts.n_cut, unusable.len());
    say_counts(arguments, &Counts { n_without_objects, n_crowd, n_zoomed, n_cut, n_unusable });
    Ok(())
}

struct Counts {
    n_without_objects: usize,
    n_crowd: usize,
    n_zoomed: u64,
    n_cut: u64,
    n_unusable: usize,
}

fn say_counts(arguments: &BuildArguments, counts: &Counts) {
    let Counts { n_without_objects, n_crowd, n_zoomed, n_cut, n_unusable } = counts;
    if arguments.features.is_none() {
        say(&format!("not asked about: {n_without_objects} images without objects, {n_crowd} crowd regions"));
        if arguments.zoom_below.is_some() {
            say(&format!("shown on a part of the image of their own: {n_zoomed} objects"));
        }
        say(&format!("logits that were cut to the int8 range: {n_cut}"));
    }
    if *n_unusable > 0 {
        say(&format!("images that could not be used: {n_unusable}"));
    }
}

fn plan(arguments: &BuildArguments, teacher: &Teacher) -> anyhow::Result<BuildPlan> {
    let (question, kept) = match &arguments.features {
        Some(tap) => {
            let taps = teacher.taps();
            let names = || taps.iter().map(|tap| tap.name.as_str()).collect::<Vec<_>>().join(", ");
            let known = taps.iter().find(|known| known.name == *tap);
            let known = known
                .with_context(|| format!("--features: expected one of {}, found {tap:?}", names()))
                .map_err(usage)?;
            let [channels, grid, _] = known.shape;
            let kept = Kept::ImageFeatures {
                tap: tap.clone(),
                grid: grid as u32,
                channels: channels as u32,
                dtype: dtype(arguments.dtype),
            };
            (Question::Image, kept)
        }
        None => {
            let prompts = arguments.prompt.iter().map(|&prompt| source(prompt)).collect();
            let kept = Kept::MaskLogits {
                context: Context::AroundBox {
                    region_scale: 1.2,
                    context_scale: arguments.context_scale,
                    min_side: arguments.min_side,
                },
                grid: arguments.grid,
                logit_step: 0.125,
                masks: masks(arguments.masks),
            };
            let published = if teacher.pads_prompts() { 0 } else { 1 };
            let padding_points = arguments.padding_points.unwrap_or(published);
            (Question::Object { prompts, padding_points }, kept)
        }
    };
    let zoom = arguments.zoom_below.map(|below| Zoom { below, surroundings: arguments.zoom_surroundings });
    let (max_failed_images, limits) = (arguments.max_failed_images, ImageLimits::default());
    Ok(BuildPlan { question, kept, zoom, max_failed_images, limits })
}

fn source(prompt: BuildPrompt) -> PromptSource {
    match prompt {
        BuildPrompt::Box => PromptSource::Box,
        BuildPrompt::MaskBox => PromptSource::MaskBox,
        BuildPrompt::MaskCenter => PromptSource::MaskCenter,
        BuildPrompt::InnermostPoint => PromptSource::InnermostPoint,
    }
}

fn masks(masks: BuildMasks) -> KeptMasks {
    match masks {
        BuildMasks::Single => KeptMasks::Single,
        BuildMasks::BestOfThree => KeptMasks::BestOfThree,
        BuildMasks::Three => KeptMasks::Three,
        BuildMasks::Four => KeptMasks::Four,
    }
}

fn dtype(dtype: BuildDtype) -> FeatureDtype {
    match dtype {
        BuildDtype::F32 => FeatureDtype::F32,
        BuildDtype::F16 => FeatureDtype::F16,
        BuildDtype::Int8 => FeatureDtype::Int8 { scales: ScaleSource::Image },
        BuildDtype::Int4 => FeatureDtype::Int4 { scales: ScaleSource::Image },
    }
}
