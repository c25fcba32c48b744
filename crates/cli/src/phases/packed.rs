//! Packed samples of a run: found, made, and held to the image files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use sensei_data::augment::Augmentation;
use sensei_files::error::FileError;
use sensei_files::folder::{Made, make_once};
use sensei_files::free_space::free_bytes;
use sensei_files::whole::sync_folder;
use sensei_samples::error::SampleError;
use sensei_samples::packed::key::PackKey;
use sensei_samples::packed::pack::PackedSamples;
use sensei_samples::packed::write::PackPlan;
use sensei_samples::source::SampleSource;

use crate::config::{PackedSamplesPlan, RunPlan};
use crate::phases::data::Split;
use crate::progress::say;
use crate::stop;

/// Takes a split's samples from a pack, if the plan says so and one is there or is to be made.
///
/// # Errors
/// If the pack cannot be made, opened or trusted, is of other samples, or an image file is not the one that was packed.
pub fn use_packed(plan: &RunPlan, split: Split, source: &mut SampleSource, runs: &Path) -> anyhow::Result<()> {
    let augmentations = augmentations(plan, split);
    let key = PackKey::of(source, &augmentations);
    let folder = match &plan.logging.packed_samples {
        PackedSamplesPlan::Never => return Ok(()),
        PackedSamplesPlan::Folder(folder) => folder.join(split.name()),
        PackedSamplesPlan::IfMade => {
            let folder = folder_of(&key, runs);
            if !folder.exists() {
                return Ok(());
            }
            folder
        }
        PackedSamplesPlan::Make => {
            let folder = folder_of(&key, runs);
            make(split, source, &augmentations, &folder)?;
            folder
        }
    };
    let pack = PackedSamples::open(&folder.join(FILE), &key)?;
    let checked = pack.check_images(&source.dataset, &stop::is_asked);
    stop::check("reading the packed images' files")?;
    let n_images = checked?;
    say(&format!(
        "{}: packed samples of {n_images} image files, which are unchanged: {}",
        split.name(),
        folder.display()
    ));
    Ok(source.use_pack(pack, &augmentations)?)
}

/// Packs a split's samples into `folder`, or into their own one below `runs`, if they are not there.
///
/// # Errors
/// If an image or mask cannot be had, there is no room, or what is there is of other samples.
pub fn pack(
    plan: &RunPlan,
    split: Split,
    source: &SampleSource,
    out: Option<&Path>,
    runs: &Path,
) -> anyhow::Result<()> {
    let augmentations = augmentations(plan, split);
    let key = PackKey::of(source, &augmentations);
    let folder = out.map_or_else(|| folder_of(&key, runs), |out| out.join(split.name()));
    if make(split, source, &augmentations, &folder)? == Made::Elsewhere {
        let pack = PackedSamples::open(&folder.join(FILE), &key)?;
        let (n, n_bytes) = (pack.n_records(), pack.n_bytes());
        say(&format!(
            "{}: {n} packed samples, {n_bytes} bytes, were there already: {}",
            split.name(),
            folder.display()
        ));
    }
    Ok(())
}

/// Makes the pack in a folder that then holds nothing else, unless it is there.
fn make(split: Split, source: &SampleSource, augmentations: &[&Augmentation], folder: &Path) -> anyhow::Result<Made> {
    make_once(folder, |partial| -> anyhow::Result<()> {
        let plan = uninterrupted(PackPlan::new(source, augmentations, &stop::is_asked))?;
        check_room(folder, plan.n_bytes())?;
        fs::create_dir(partial).map_err(FileError::io(partial, "create"))?;
        let (started, style) = (Instant::now(), "{prefix} {bar:30} {bytes}/{total_bytes}, {bytes_per_sec}, ETA {eta}");
        let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(plan.n_bytes()).with_style(style).with_prefix(format!("pack {}", split.name()));
        let written = plan.write(&partial.join(FILE), &stop::is_asked, &mut |done| bar.set_position(done.n_bytes));
        bar.finish_and_clear();
        uninterrupted(written)?;
        sync_folder(partial)?;
        let (n, n_bytes, secs) = (plan.n_records(), plan.n_bytes(), started.elapsed().as_secs_f64());
        say(&format!(
            "{}: packed {n} samples of {} images, {n_bytes} bytes ({} a sample), in {secs:.1} s ({:.0} samples/s): {}",
            split.name(),
            plan.n_images(),
            n_bytes / n.max(1),
            n as f64 / secs.max(1e-3),
            folder.display()
        ));
        Ok(())
    })
}

/// In place of a library's word that it was interrupted, what was asked for.
fn uninterrupted<T>(done: Result<T, SampleError>) -> anyhow::Result<T> {
    if matches!(done, Err(SampleError::Interrupted)) {
        stop::check_command("packing samples; nothing is left of the unfinished pack")?;
    }
    Ok(done?)
}

/// Refuses to fill a disk: a pack is as large as it says beforehand.
fn check_room(folder: &Path, n_bytes: u64) -> anyhow::Result<()> {
    let parent = folder.parent().with_context(|| format!("{}: no folder to pack into", folder.display()))?;
    if let Some(free) = free_bytes(parent)? {
        ensure!(
            n_bytes <= free,
            "{}: expected {n_bytes} bytes of room for packed samples, found {free}; [logging] packed_samples = \"never\" goes on from image \
             files",
            folder.display()
        );
    }
    Ok(())
}

/// What crops of a split go through: the validation split is scored as it is.
fn augmentations(plan: &RunPlan, split: Split) -> Vec<&Augmentation> {
    match split {
        Split::Train => plan.train.stages.iter().map(|stage| &stage.augmentation).collect(),
        Split::Val => vec![],
    }
}

/// Where the packed samples of a key are kept that a run or `sensei data pack` has made.
fn folder_of(key: &PackKey, runs: &Path) -> PathBuf {
    runs.join("packed").join(&key.digest()[..16])
}

const FILE: &str = "samples.pack";
