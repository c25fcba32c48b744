//! The image files of a run, looked at before anything costly happens.

use rayon::prelude::*;
use sensei_data::dataset::Dataset;
use sensei_data::image_file::ImageLimits;
use sensei_data::image_header::read_image_header;
use sensei_samples::source::SampleSource;

use crate::progress::warn;
use crate::stop;

/// What is wrong with an image, or worth a word.
enum Finding {
    Broken(String),
    Turned(String),
}

/// Reads the header of every image that a split uses: all are there, and of the size that the annotations say. Counts and names those
/// that a viewer turns.
///
/// # Errors
/// If an image is missing, is none, or has another size; with the first of them named.
pub fn check_images(what: &str, source: &SampleSource) -> anyhow::Result<()> {
    let mut used: Vec<usize> = source.instances.iter().map(|&idx| source.dataset.instances[idx].image_idx).collect();
    used.sort_unstable();
    used.dedup();
    check_images_of(what, &source.dataset, &used)
}

/// The same of some images of a data set, by their indices.
///
/// # Errors
/// As [`check_images`].
pub fn check_images_of(what: &str, dataset: &Dataset, used: &[usize]) -> anyhow::Result<()> {
    let look = |&image_idx: &usize| -> Result<Option<Finding>, stop::Stopped> {
        stop::check("reading the images' headers")?;
        let (image, path) = (&dataset.images[image_idx], dataset.image_path(image_idx));
        Ok(match read_image_header(&path, &ImageLimits::default()) {
            Err(error) => Some(Finding::Broken(in_words(&error))),
            Ok(header) if header.size != image.size => {
                let shown = path.display();
                Some(Finding::Broken(format!("{shown}: expected {} as annotated, found {}", image.size, header.size)))
            }
            Ok(header) => header.is_turned().then(|| Finding::Turned(image.file_name.clone())),
        })
    };
    let findings = used.par_iter().map(look).collect::<Result<Vec<_>, _>>()?;
    let (mut broken, mut turned) = (vec![], vec![]);
    for finding in findings.into_iter().flatten() {
        match finding {
            Finding::Broken(why) => broken.push(why),
            Finding::Turned(name) => turned.push(name),
        }
    }
    if !turned.is_empty() {
        warn(&format!(
            "{what}: viewers turn {} of {} images by their Exif orientation ({}); masks are taken to lie in the stored pixels",
            turned.len(),
            used.len(),
            first_of(&turned, ", ")
        ));
    }
    if broken.is_empty() {
        return Ok(());
    }
    anyhow::bail!(
        "{} of {} images of the {what} split cannot be used: {}",
        broken.len(),
        used.len(),
        first_of(&broken, "; ")
    )
}

/// An error with its causes.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

/// The first few, and how many more there are.
fn first_of(all: &[String], separator: &str) -> String {
    let first = all.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(separator);
    match all.len().checked_sub(MAX_NAMED) {
        None | Some(0) => first,
        Some(n_more) => format!("{first}{separator}and {n_more} more"),
    }
}

const MAX_NAMED: usize = 5;
