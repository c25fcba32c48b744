//! `teacher import`, `teacher verify`, `teacher stats`.

use std::path::Path;

use sensei_answers::import::import_dump;
use sensei_answers::manifest::read_manifest;
use sensei_answers::verify::{CacheStats, stats, verify};

use crate::arguments::TeacherCommand;
use crate::phases::data::load;
use crate::progress::say;

/// Does it.
pub fn execute(command: TeacherCommand) -> anyhow::Result<()> {
    match command {
        TeacherCommand::Import { dump, annotations, images, out, format } => {
            let report = import_dump(&dump, &load(&annotations, &images, format)?, &out)?;
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
            say(&format!("predicted IoUs outside of [0, 1], to be clamped: {}", report.n_clamped_weights));
            if let Some(n_clipped) = report.n_clipped_by_exporter {
                say(&format!("logits that the exporter cut to the int8 range: {n_clipped}"));
            }
            if let Some(iou) = report.exporters_mean_iou {
                say(&format!("mean IoU of teacher and truth in the image, as measured by the exporter: {iou:.4}"));
            }
            describe(&out)
        }
        TeacherCommand::Verify { cache } => {
            let found = verify(&cache)?;
            say(&format!("{}: all {} records are as written", cache.display(), found.n_records));
            Ok(())
        }
        TeacherCommand::Stats { cache } => {
            describe(&cache)?;
            say_stats(&stats(&cache)?);
            Ok(())
        }
    }
}

/// Prints whose answers a cache holds, in the words that a configuration has to use.
pub fn describe(cache: &Path) -> anyhow::Result<()> {
    let manifest = read_manifest(cache)?;
    say(&format!("teacher: {} ({})", manifest.teacher.name, manifest.teacher.licence));
    say(&format!("digest = {:?}", manifest.key.teacher));
    say(&format!("preprocessing = {:?}", manifest.key.preprocessing));
    say(&format!("prompt = {:?}", manifest.key.prompt));
    say(&format!("data set {}", manifest.key.dataset));
    Ok(())
}

fn say_stats(stats: &CacheStats) {
    say(&format!(
        "{} records of {} images in {} shards, {} bytes ({} uncompressed)",
        stats.n_records, stats.n_images, stats.n_shards, stats.bytes, stats.logit_bytes
    ));
    say(&format!("logits at the end of the int8 range: {}", stats.n_saturated));
    say(&format!("predicted IoU by tenths: {:?}; clamped: {}", stats.predicted_iou_histogram, stats.n_clamped_weights));
}
