//! A whole data set asked, image by image.

use std::path::Path;

use sensei_answers::asked::{Question, Zoom};
use sensei_answers::kept::Kept;
use sensei_answers::key::TeacherDescription;
use sensei_answers::manifest::Manifest;
use sensei_answers::writer::CacheWriter;
use sensei_data::dataset::Dataset;
use sensei_data::image_file::ImageLimits;

use crate::asking::Asking;
use crate::error::TeacherError;
use crate::picture::Failures;
use crate::teacher::Teacher;

/// What is asked, and what is kept of the answers.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildPlan {
    /// What the teacher is asked about each object, or nothing.
    pub question: Question,
    /// What of its answers is kept.
    pub kept: Kept,
    /// Small objects on a part of the image of their own, which the teacher looks at for each of them.
    pub zoom: Option<Zoom>,
    /// Images that may be unusable; each is counted and named.
    pub max_failed_images: usize,
    /// What an image file may cost.
    pub limits: ImageLimits,
}

/// What a build did.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildReport {
    /// The cache's.
    pub manifest: Manifest,
    /// Images that the teacher has looked at.
    pub n_images: usize,
    /// Images without an object to ask about, which it has not seen.
    pub n_without_objects: usize,
    /// Crowd regions, which it is not asked about.
    pub n_crowd: usize,
    /// Objects that it was shown by themselves.
    pub n_zoomed: usize,
    /// Logits that were cut to what 8 bits hold.
    pub n_cut: u64,
    /// Images that could not be used, with the reason.
    pub failures: Vec<String>,
}

/// Asks the teacher about every object of a data set that is no crowd region, and writes the cache `out`. `progress` hears of each image:
/// how many are done, of how many.
///
/// # Errors
/// If the question is not one for this teacher, more images are unusable than allowed, an answer is not finite, or the cache cannot be
/// written. Then nothing stands at `out`.
pub fn build(
    dataset: &Dataset,
    teacher: &Teacher,
    description: TeacherDescription,
    plan: &BuildPlan,
    out: &Path,
    progress: &mut dyn FnMut(usize, usize),
    is_interrupted: &dyn Fn() -> bool,
) -> Result<BuildReport, TeacherError> {
    let asking = Asking::new(dataset, teacher, plan)?;
    let provenance = vec![format!("asked by {TOOL}")];
    let mut writer = CacheWriter::create(out, asking.key(plan)?, description, provenance)?;
    let (n_images, mut n_cut, mut n_zoomed) = (asking.images.len(), 0, 0);
    let mut failures = Failures::new(n_images, plan.max_failed_images);
    for nth in 0..n_images {
        match asking.image(nth, &mut writer, is_interrupted)? {
            Ok(found) => {
                n_cut += found.n_cut;
                n_zoomed += found.n_zoomed;
            }
            Err(error) => failures.add(&error)?,
        }
        progress(nth + 1, n_images);
    }
    let failures = failures.finish()?;
    Ok(BuildReport {
        manifest: writer.finish()?,
        n_images: n_images - failures.len(),
        n_without_objects: asking.n_without_objects(),
        n_crowd: asking.n_crowd(),
        n_zoomed,
        n_cut,
        failures,
    })
}

/// Program and version, for provenance.
pub(crate) const TOOL: &str = concat!("sensei ", env!("CARGO_PKG_VERSION"));
