//! `teacher import`, `teacher verify`, `teacher stats`; `teacher build`, `teacher propose`, `teacher show`, `teacher weights` and what is
//! done to shared stores are beside it.

use std::path::Path;

use anyhow::Context;
use sensei_answers::compare::{Comparison, compare};
use sensei_answers::error::CacheError;
use sensei_answers::folder_store::FolderStore;
use sensei_answers::import::import_answers_unless;
use sensei_answers::kept::RecordKind;
use sensei_answers::manifest::{Manifest, read_manifest};
use sensei_answers::verify::{CacheStats, stats};
use serde::Serialize;

use super::{teacher_build, teacher_propose, teacher_show, teacher_store, teacher_weights};
use crate::arguments::TeacherCommand;
use crate::phases::data::load;
use crate::progress::say;
use crate::stop;
use sensei_files::folder::make_once;

/// Does it.
pub fn execute(command: TeacherCommand) -> anyhow::Result<()> {
    match command {
        TeacherCommand::Build(arguments) => teacher_build::execute(arguments),
        TeacherCommand::Propose(arguments) => teacher_propose::execute(arguments),
        TeacherCommand::Show(arguments) => teacher_show::execute(&arguments),
        TeacherCommand::Weights { encoder, decoder, out } => teacher_weights::execute(&encoder, &decoder, &out),
        TeacherCommand::Import { dump, annotations, images, out, format, unusable } => {
            let dataset = load(&annotations, &images, format, unusable.into())?;
            if out.exists() {
                return Err(CacheError::Exists { path: out }.into());
            }
            let mut report = None;
            make_once(&out, |partial| -> anyhow::Result<()> {
                let imported = import_answers_unless(&dump, &dataset, partial, &stop::is_asked);
                stop::check_command("importing")?;
                report = Some(imported?);
                Ok(())
            })?;
            let Some(report) = report else {
                say(&format!("{}: another process has made it meanwhile", out.display()));
                return describe(&out);
            };
            say(&format!("{}: {} records", out.display(), report.manifest.n_records));
            say(&format!(
                "without an answer: {} instances, {} crowd regions",
                report.missing.len(),
                report.missing_crowd.len()
            ));
            say(&format!(
                "image files: {} are the teacher's, {} could not be compared",
                report.n_images_verified, report.n_images_unverified
            ));
            say(&format!("pictures: {} are as the teacher saw them, decoded and compared", report.n_pictures_verified));
            say(&format!("predicted IoUs outside of [0, 1], to be clamped: {}", report.n_clamped_predicted_ious));
            if let Some(n_clipped) = report.n_clipped_by_exporter {
                say(&format!("logits that the exporter cut to the int8 range: {n_clipped}"));
            }
            if let Some(iou) = report.exporters_mean_iou {
                say(&format!("mean IoU of teacher and truth in the image, as measured by the exporter: {iou:.4}"));
            }
            describe(&out)
        }
        TeacherCommand::Verify { cache } => teacher_store::verify(&cache),
        TeacherCommand::Compare { cache, other } => {
            let found = compare(&FolderStore::open_any(&cache)?, &FolderStore::open_any(&other)?)?;
            say_comparison(&found);
            Ok(())
        }
        TeacherCommand::Stats { cache } => teacher_store::with_store(&cache, |store| {
            say_manifest(store.manifest())?;
            say_stats(&stats(store)?, store.manifest().key.kept.kind());
            Ok(())
        }),
        TeacherCommand::Share { cache, place, worker, unit_records } => {
            teacher_store::share(&cache, &place, worker, unit_records as usize)
        }
        TeacherCommand::Seal { place, max_failed_images } => teacher_store::seal(&place, max_failed_images),
        TeacherCommand::Sweep { place, remove_older_than } => teacher_store::sweep(&place, remove_older_than),
    }
}

/// Prints whose answers a cache holds, as a configuration says it.
pub fn describe(cache: &Path) -> anyhow::Result<()> {
    say_manifest(&read_manifest(cache)?)
}

fn say_manifest(Manifest { teacher, key, .. }: &Manifest) -> anyhow::Result<()> {
    say(&format!("teacher: {} ({})", teacher.name, teacher.licence));
    say(&format!("digest = {}", in_toml(&key.teacher)?));
    say(&format!("preprocessing = {}", in_toml(&key.preprocessing)?));
    say(&format!("question = {}", in_toml(&key.question)?));
    say(&format!("kept = {}", in_toml(&key.kept)?));
    say(&format!("data set {}", key.dataset));
    Ok(())
}

/// A value as it is written behind a key.
fn in_toml(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(toml::Value::try_from(value).context("a part of the key has no TOML form")?.to_string())
}

fn say_comparison(found: &Comparison) {
    say(&format!(
        "{} objects in both, {} only in the first, {} only in the second",
        found.n_common, found.n_only_first, found.n_only_second
    ));
    let lowest = found.lowest_iou.map_or(String::new(), |(iou, id)| format!("; lowest {iou:.4}, annotation {id}"));
    say(&format!("{} masks: mean IoU of one with the other {:.4}{lowest}", found.n_masks, found.mean_iou));
    say(&format!(
        "{} logits: {} on another side of 0, farthest {} apart; predicted IoU at most {:.1e} apart",
        found.n_logits, found.n_other_side, found.farthest_logit, found.farthest_predicted_iou
    ));
}

fn say_stats(stats: &CacheStats, kind: RecordKind) {
    say(&format!(
        "{} records of {} images in {} shards, {} bytes ({} uncompressed)",
        stats.n_records, stats.n_images, stats.n_shards, stats.bytes, stats.uncompressed_bytes
    ));
    if kind == RecordKind::ImageFeatures {
        return;
    }
    say(&format!("masks: {}; logits at the end of the int8 range: {}", stats.n_masks, stats.n_saturated));
    say(&format!(
        "predicted IoU by tenths: {:?}; clamped: {}",
        stats.predicted_iou_histogram, stats.n_clamped_predicted_ious
    ));
}
