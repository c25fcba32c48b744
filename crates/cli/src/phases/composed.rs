//! Pictures that are composed of a run's training images.

use std::path::Path;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use sensei_data::dataset::Dataset;
use sensei_data::image_file::ImageLimits;
use sensei_data::paste::{PasteConfig, PasteError, PasteReport, paste};
use sensei_files::folder::make_once;

use crate::config::SplitPlan;
use crate::progress::say;
use crate::{stop, usage};

/// The pictures composed of a data set; composed now, if they are not there. Their folder only ever exists complete.
///
/// # Errors
/// If they cannot be composed, or the program was asked to stop.
pub fn composed(train: &Dataset, config: &PasteConfig, runs: &Path) -> anyhow::Result<SplitPlan> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{config:?}").as_bytes()).update(&train.digest);
    // Another file may stand under an image's name by now.
    let digest_of = |idx: usize| {
        stop::check("reading the training images' files")?;
        let path = train.image_path(idx);
        let bytes = std::fs::read(&path).with_context(|| format!("{}: cannot read", path.display()))?;
        Ok(*blake3::hash(&bytes).as_bytes())
    };
    let digests: Vec<[u8; 32]> =
        (0..train.images.len()).into_par_iter().map(digest_of).collect::<anyhow::Result<_>>()?;
    hasher.update(digests.as_flattened());
    let folder = runs.join("composed").join(&hasher.finalize().to_hex()[..16]);
    make_once(&folder, |partial| compose(train, partial, config, &folder))?;
    Ok(SplitPlan { annotations: folder.join("annotations.json"), images: folder.join("images") })
}

/// Composes pictures into `out`, and says under which name they will be.
///
/// # Errors
/// If they cannot be composed, or the program was asked to stop.
pub fn compose(train: &Dataset, out: &Path, config: &PasteConfig, name: &Path) -> anyhow::Result<()> {
    let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} pictures, ETA {eta}");
    let bar = ProgressBar::new(u64::from(config.copies) * train.images.len() as u64);
    let bar = bar.with_style(style.context("the bar's template")?).with_prefix("composing");
    let written = paste(train, out, config, &ImageLimits::default(), &|n| bar.set_position(n), &stop::is_asked);
    bar.finish_and_clear();
    stop::check_command("composing pictures")?;
    let PasteReport { n_images, n_objects, n_pasted, n_hidden, n_crowd } = match written {
        Err(error @ PasteError::Config { .. }) => return Err(usage(anyhow::Error::new(error))),
        written => written?,
    };
    say(&format!(
        "{}: {n_images} composed pictures, {n_objects} objects; pasted: {n_pasted}, too hidden to annotate: {n_hidden}, crowd regions left out: {n_crowd}",
        name.display()
    ));
    Ok(())
}
