//! `data synth`, `data check`, `data split`, `data paste`, `data pack`, `data fetch`.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, anyhow, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use sensei_data::check::check_unless;
use sensei_data::dataset::{DatasetError, UnusableRule};
use sensei_data::fetch::{FetchError, FetchOptions, FetchProgress, fetch};
use sensei_data::paste::PasteConfig;
use sensei_data::split::split_file;
use sensei_data::synth::{SynthConfig, write_synth};
use sensei_files::whole::create_whole;

use crate::arguments::{AnnotationFormat, DataCommand};
use crate::config::{Override, is_promptable, load_manifest, load_plan};
use crate::device::start_threads;
use crate::phases::composed::compose;
use crate::phases::data::{Split, load, open_files};
use crate::phases::packed::pack;
use crate::progress::{bar, log_to_stderr, say, say_result, warn};
use crate::stop;
use crate::usage;

/// Does it.
pub fn execute(command: DataCommand) -> anyhow::Result<()> {
    match command {
        DataCommand::Synth { out } => synth(&out),
        DataCommand::Check { annotations, images, format, decode, json } => {
            if json {
                log_to_stderr();
            }
            check_data(&annotations, &images, format, decode, json)
        }
        DataCommand::Split { annotations, out, val_share, seed } => split(&annotations, &out, val_share, seed),
        DataCommand::Paste {
            annotations,
            images,
            out,
            copies,
            min_objects,
            max_objects,
            seed,
            first_id,
            format,
            unusable,
            threads,
        } => {
            start_threads(threads)?;
            let dataset = load(&annotations, &images, format, unusable.into())?;
            dataset.unusable.iter().for_each(|entry| warn(&format!("left out: {entry}")));
            compose(&dataset, &out, &PasteConfig { seed, copies, min_objects, max_objects, first_id }, &out)
        }
        DataCommand::Pack { config, set, runs, out, threads } => {
            start_threads(threads)?;
            pack_samples(&config, &set.overrides, &runs, out.as_deref())
        }
        DataCommand::Fetch { manifest, out } => fetch_data(&manifest, &out),
    }
}

fn synth(out: &Path) -> anyhow::Result<()> {
    let report = write_synth(out, &SynthConfig::quickstart())?;
    say(&format!(
        "{}: {} + {} scenes, {} + {} objects (train + val); {} objects were too hidden to keep",
        out.display(),
        report.n_train_images,
        report.n_val_images,
        report.n_train_objects,
        report.n_val_objects,
        report.n_dropped
    ));
    Ok(())
}

fn check_data(
    annotations: &Path,
    images: &Path,
    format: AnnotationFormat,
    decode: bool,
    json: bool,
) -> anyhow::Result<()> {
    let report = match load(annotations, images, format, UnusableRule::LeaveOut) {
        Ok(dataset) => {
            let bar = bar("checking", dataset.images.len() + dataset.instances.len(), "images and annotations");
            let report = check_unless(&dataset, decode, &stop::is_asked, &|| bar.inc(1));
            stop::check_command("checking the data")?;
            report.context("a check that nobody stopped")?
        }
        Err(DatasetError::Entries { path, entries, n_sound }) => {
            entries.iter().for_each(|entry| say(&entry.to_string()));
            let n = entries.len();
            let entries = if n == 1 { "entry" } else { "entries" };
            bail!("{}: {n} {entries} cannot be used; {n_sound} annotations are sound", path.display());
        }
        Err(error) => return Err(error.into()),
    };
    if json {
        say_result(&serde_json::to_string_pretty(&report)?);
        return verdict(annotations, report.n_problems);
    }
    for (what, n) in [
        ("images", report.n_images),
        ("  without instances", report.n_images_without_instances),
        ("  missing files", report.n_missing_files),
        ("  decoded", report.n_decoded_images),
        ("  broken", report.n_broken_images),
        ("  of another size than annotated", report.n_wrong_sizes),
        ("  turned by viewers (Exif)", report.n_turned_images),
        ("  files that several images name", report.n_shared_files),
        ("unusable annotations", report.n_unusable),
        ("instances", report.n_instances),
        ("  small (area below 32 x 32)", report.n_small),
        ("  medium", report.n_medium),
        ("  large (area from 96 x 96)", report.n_large),
        ("  of several polygons", report.n_multi_part),
        ("  without a pixel", report.n_empty_masks),
        ("  box without area", report.n_boxes_without_area),
        ("  box beyond the image", report.n_boxes_outside),
        ("  box off its mask", report.n_boxes_off_mask),
        ("  area off its mask", report.n_areas_off_mask),
        ("  drawn again", report.n_drawn_again),
        ("crowd regions", report.n_crowd),
        ("run-length encoded", report.n_run_length_encoded),
        ("categories", report.n_categories),
    ] {
        say(&format!("{what:<36} {n:>9}"));
    }
    say(&format!("digest {}", report.digest));
    report.notes.iter().for_each(|note| say(&format!("note: {note}")));
    say_rest("notes", report.n_notes, report.notes.len());
    report.problems.iter().for_each(|problem| say(problem));
    say_rest("problems", report.n_problems, report.problems.len());
    verdict(annotations, report.n_problems)
}

/// Both files or none.
fn split(annotations: &Path, out: &Path, val_share: f64, seed: u64) -> anyhow::Result<()> {
    let files = ["train.json", "val.json"].map(|name| out.join(name));
    if let Some(there) = files.iter().find(|file| file.exists()) {
        return Err(usage(anyhow::anyhow!("{}: expected no such file yet, found one", there.display())));
    }
    let split = split_file(annotations, val_share, seed)?;
    std::fs::create_dir_all(out).with_context(|| format!("{}: cannot make the folder", out.display()))?;
    let [train, val] = &files;
    let create = |file: &Path, json: &[u8]| -> anyhow::Result<()> {
        ensure!(create_whole(file, json)?, "{}: expected no such file yet, found one", file.display());
        Ok(())
    };
    create(train, &split.train.json)?;
    create(val, &split.held_out.json).inspect_err(|_| {
        // The first error is the one to report.
        let _ = std::fs::remove_file(train);
    })?;
    for (file, side) in files.iter().zip([&split.train, &split.held_out]) {
        say(&format!("{}: {} annotations of {} images", file.display(), side.n_annotations, side.n_images));
    }
    Ok(())
}

fn verdict(annotations: &Path, n_problems: usize) -> anyhow::Result<()> {
    ensure!(n_problems == 0, "{}: expected no problems, found {n_problems}", annotations.display());
    Ok(())
}

fn pack_samples(config: &Path, overrides: &[Override], runs: &Path, out: Option<&Path>) -> anyhow::Result<()> {
    if is_promptable(config) {
        let shown = config.display();
        return Err(usage(anyhow!("{shown}: expected a configuration of a chip student; whole images are not packed")));
    }
    let plan = load_plan(config, overrides).map_err(usage)?;
    let runs = std::path::absolute(runs).with_context(|| format!("{}: no such folder", runs.display()))?;
    let out = out.map(|out| std::path::absolute(out).with_context(|| format!("{}: no such folder", out.display())));
    let out = out.transpose()?;
    for split in [Split::Train, Split::Val] {
        let packed = || pack(&plan, split, &open_files(&plan, split, &runs)?, out.as_deref(), &runs);
        packed().with_context(|| config.display().to_string())?;
    }
    Ok(())
}

fn say_rest(what: &str, n_found: usize, n_listed: usize) {
    if n_found > n_listed {
        say(&format!("... and {} more {what}", n_found - n_listed));
    }
}

fn fetch_data(manifest: &Path, out: &Path) -> anyhow::Result<()> {
    let manifest = load_manifest(manifest).map_err(usage)?;
    let options = FetchOptions { keep_archives: false, proxy_url: std::env::var("https_proxy").ok() };
    let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, ETA {eta}");
    let bar = ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    for archive in &manifest.archives {
        let mut show = |progress: FetchProgress| {
            bar.set_length(progress.total_bytes);
            bar.set_position(progress.done_bytes);
            bar.set_message(format!("{}: {}", archive.file_name, progress.step.name()));
            if stop::is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let report = match fetch(archive, out, &options, &mut show) {
            Err(FetchError::Interrupted) => {
                return Ok(stop::check_resumable("fetching", "; the same command goes on from what is there")?);
            }
            report => report?,
        };
        let done = if report.already_done { "was there already" } else { "fetched and checked" };
        bar.suspend(|| say(&format!("{}: {done}", archive.file_name)));
    }
    bar.finish_and_clear();
    Ok(())
}
