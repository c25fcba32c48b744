//! `replay`: the integer model of a package against tensors recorded on a camera.

use std::path::Path;

use anyhow::bail;
use sensei_imx500::recording::compare;

use crate::commands::verify::{model_of, read_manifest};
use crate::progress::say;

/// Runs a package's integer model on every recorded input and compares with what the chip answered.
///
/// # Errors
/// If package or recording cannot be read, or an output differs.
pub fn replay(package: &Path, recording: &Path) -> anyhow::Result<()> {
    let manifest = read_manifest(&package.join("manifest.json"))?;
    let model = model_of(package, &manifest)?;
    let frames = compare(&model, recording)?;
    let values: usize = frames.iter().map(|frame| frame.values).sum();
    let mut mismatches = 0;
    for frame in &frames {
        mismatches += frame.mismatches;
        if let Some(([channel, row, column], expected, found)) = frame.first {
            say(&format!(
                "{}: {} of {} values differ, at most {} steps, {} pixels of the mask; first: channel {channel}, row {row}, \
                 column {column}: model {expected}, recorded {found}",
                frame.name, frame.mismatches, frame.values, frame.max_steps, frame.mask_flips
            ));
        }
    }
    if mismatches > 0 {
        bail!("{}: {mismatches} of {values} recorded values are not the model's", recording.display());
    }
    say(&format!("{} frames, {values} values: all are the model's", frames.len()));
    Ok(())
}
