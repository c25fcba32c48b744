//! `eval-masks`.

use std::path::Path;

use sensei_data::detections::Detections;
use sensei_eval::bootstrap::BootstrapConfig;
use sensei_eval::foreign::score_masks;

use crate::arguments::{AnnotationFormat, Unusable};
use crate::config::load_protocol;
use crate::phases::data::{check_annotated, load};
use crate::progress::say;
use crate::usage;

/// Prints the table and writes the report to `out`.
///
/// # Errors
/// Files that cannot be read, instances without a mask, masks that do not say what they answer.
pub fn eval_masks(
    annotations: &Path,
    predictions: &Path,
    protocol: &str,
    (format, unusable): (AnnotationFormat, Unusable),
    name: Option<&str>,
    out: Option<&Path>,
) -> anyhow::Result<()> {
    let rules = load_protocol(protocol).map_err(usage)?;
    // No image is opened: annotations say how large they are.
    let dataset = load(annotations, Path::new(""), format, unusable.into())?;
    check_annotated(&dataset)?;
    let detections = Detections::load(predictions, &dataset)?;
    let stem = predictions.file_stem().unwrap_or_default().to_string_lossy();
    let scores = score_masks(&dataset, &detections, name.unwrap_or(&stem), &rules, BOOTSTRAP)?;
    say(scores.report.table().trim_end());
    if scores.n_not_scored + scores.n_not_chosen > 0 {
        say(&format!(
            "{}: {} annotations are not scored by this protocol, {} masks are not the surest of their prompt",
            predictions.display(),
            scores.n_not_scored,
            scores.n_not_chosen
        ));
    }
    if let Some(out) = out {
        scores.report.write(out)?;
    }
    Ok(())
}

/// As in the shipped configurations, so that runs can be compared.
const BOOTSTRAP: BootstrapConfig = BootstrapConfig { seed: 0, n_resamples: 10_000 };
