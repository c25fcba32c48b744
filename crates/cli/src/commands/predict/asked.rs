//! What is asked: images, and the boxes or points on each, all checked before anything is computed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
use sensei_data::crop_rule::{CropError, CropRule, check_prompt};
use sensei_data::dataset::{Dataset, LoadOptions};
use sensei_data::detections::Detections;
use sensei_data::geometry::Size;
use sensei_data::image_file::ImageLimits;
use sensei_data::image_header::read_image_header;
use sensei_data::prompt_source::Prompt;

use super::source::Source;
use crate::arguments::{AnnotationFormat, PredictArguments, Unusable};
use crate::commands::teacher_propose::pictures_of_folder;
use crate::phases::data::is_json_list;
use crate::usage;

/// Everything that is asked.
pub struct Asked {
    /// Images with at least one prompt, in the order of their arguments or of the annotation file.
    pub images: Vec<AskedImage>,
    /// Crowd regions of an annotation file, which are not asked about.
    pub n_crowd: usize,
    /// What else is not asked about, and why.
    pub left_out: Vec<String>,
}

/// An image and what is asked about it.
pub struct AskedImage {
    /// The annotation file's id, or the image's number among the arguments, counted from 1.
    pub id: u64,
    /// The file.
    pub path: PathBuf,
    /// In stored pixels.
    pub size: Size,
    /// In the order in which they were given.
    pub prompts: Vec<AskedPrompt>,
}

/// A prompt and where it comes from.
#[derive(Clone)]
pub struct AskedPrompt {
    /// What the network is given.
    pub prompt: Prompt,
    /// The box's category; 1 for boxes and points of the command line.
    pub category_id: u64,
    /// The annotation whose box it is.
    pub annotation_id: Option<u64>,
    /// How sure the detector is whose box it is.
    pub detector_score: Option<f64>,
    /// For messages: `--box 1`, `detection 3`.
    label: String,
}

impl Asked {
    /// Number of prompts.
    pub fn n_prompts(&self) -> usize {
        self.images.iter().map(|image| image.prompts.len()).sum()
    }

    /// How many boxes reach beyond their image.
    pub fn n_beyond_image(&self) -> usize {
        self.count(|prompt, Size { width, height }| match prompt {
            &Prompt::Box([x, y, w, h]) => x < 0.0 || y < 0.0 || x + w > f64::from(width) || y + h > f64::from(height),
            Prompt::Point(_) | Prompt::Points(_) => false,
        })
    }

    /// How many boxes are shown in a region that is lengthened to the crop rule's shortest side.
    pub fn n_lengthened(&self, crop: CropRule) -> usize {
        self.count(|prompt, size| crop.is_lengthened(prompt.clone(), size))
    }

    fn count(&self, is_one: impl Fn(&Prompt, Size) -> bool) -> usize {
        let of_image =
            |image: &AskedImage| image.prompts.iter().filter(|asked| is_one(&asked.prompt, image.size)).count();
        self.images.iter().map(of_image).sum()
    }
}

/// Reads and checks what the command line asks for.
///
/// # Errors
/// If there is nothing to ask, a prompt is not one for the network, lies beside its image or has no crop, or a file cannot be used.
pub fn read(arguments: &PredictArguments, source: &Source) -> anyhow::Result<Asked> {
    let asked = match &arguments.boxes {
        Some(file) => of_file(arguments, file, source)?,
        None => of_command_line(arguments, source)?,
    };
    ensure!(asked.n_prompts() > 0, "{}: expected boxes to ask about, found none", arguments.source.display());
    Ok(asked)
}

/// The boxes and points of the command line, on every image.
fn of_command_line(arguments: &PredictArguments, source: &Source) -> anyhow::Result<Asked> {
    let prompt =
        |prompt, label| AskedPrompt { prompt, category_id: 1, annotation_id: None, detector_score: None, label };
    let boxes = (1..).zip(&arguments.bbox).map(|(nth, bbox)| prompt(Prompt::Box(bbox.0), format!("--box {nth}")));
    let points = (1..).zip(&arguments.point).map(|(nth, at)| prompt(Prompt::Point(at.0), format!("--point {nth}")));
    let prompts: Vec<AskedPrompt> = boxes.chain(points).collect();
    if prompts.is_empty() {
        return Err(usage(anyhow!(
            "expected what to ask about, --box X,Y,W,H, --point X,Y or --boxes FILE; found none of them"
        )));
    }
    if let Some(crop) = source.crop().filter(|crop| crop.needs_box() && !arguments.point.is_empty()) {
        let advice = format!("this student is shown the region of a box ({}), which a point does not say", crop.name());
        return Err(usage(anyhow!("--point: expected --box X,Y,W,H or --boxes FILE; {advice}")));
    }
    let mut images = vec![];
    for (id, path) in (1..).zip(paths(&arguments.images)?) {
        let size = read_image_header(&path, &ImageLimits::default())?.size;
        for prompt in &prompts {
            check(prompt, size, source.crop())
                .map_err(|error| usage(anyhow!("{}: {}: {error}", path.display(), prompt.label)))?;
        }
        images.push(AskedImage { id, path, size, prompts: prompts.clone() });
    }
    Ok(Asked { images, n_crowd: 0, left_out: vec![] })
}

/// The image files that arguments name: files as they are given, the JPEG and PNG files of a folder by name, the lines of standard input
/// for `-`.
fn paths(arguments: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = vec![];
    for argument in arguments {
        if argument == Path::new("-") {
            for line in std::io::stdin().lock().lines() {
                let line = line.context("standard input: expected a path in UTF-8 on each line")?;
                if !line.is_empty() {
                    found.push(PathBuf::from(line));
                }
            }
        } else if argument.is_dir() {
            found.extend(pictures_of_folder(argument)?);
        } else {
            found.push(argument.clone());
        }
    }
    ensure!(!found.is_empty(), "standard input: expected paths of images, found none");
    Ok(found)
}

/// The boxes of an annotation file or a result file, on the images that it names.
fn of_file(arguments: &PredictArguments, file: &Path, source: &Source) -> anyhow::Result<Asked> {
    let [folder] = &arguments.images[..] else {
        let (n, expected) =
            (arguments.images.len(), "the one folder that the annotation file's file names are relative to");
        return Err(usage(anyhow!("--boxes: expected {expected} as IMAGE beside it, found {n} paths")));
    };
    if !folder.is_dir() {
        let expected = "the folder that the annotation file's file names are relative to, beside --boxes";
        return Err(usage(anyhow!("{}: expected {expected}; found no folder", folder.display())));
    }
    let load = |annotations: &Path| {
        let options = LoadOptions { unusable: arguments.unusable.into(), needs_masks: false, needs_areas: false };
        match arguments.format {
            AnnotationFormat::Coco => Dataset::load_coco_with(annotations, folder, options),
            AnnotationFormat::Lvis => Dataset::load_lvis_with(annotations, folder, options),
        }
    };
    let (is_list, shown) = (is_json_list(file)?, file.display());
    let (dataset, of_image, n_crowd) = match (&arguments.annotations, is_list) {
        (Some(annotations), true) => {
            let dataset = load(annotations)?;
            let of_image = of_detections(file, &dataset)?;
            (dataset, of_image, 0)
        }
        (None, false) => {
            let dataset = load(file)?;
            let (of_image, n_crowd) = of_annotations(&dataset);
            (dataset, of_image, n_crowd)
        }
        (None, true) => {
            let advice = "the annotation file whose image_ids a result file's boxes have";
            return Err(usage(anyhow!("{shown}: expected --annotations FILE beside it, {advice}; found none")));
        }
        (Some(annotations), false) => {
            let found = "found another kind of file; an annotation file needs no other";
            let annotations = annotations.display();
            return Err(usage(anyhow!(
                "{shown}: expected a result file, a list, beside --annotations {annotations}, {found}"
            )));
        }
    };
    let unusable = dataset.unusable.iter().map(ToString::to_string).collect();
    let asked = on_images(&dataset, of_image, source)?;
    finish(asked, unusable, arguments, n_crowd).with_context(|| shown.to_string())
}

/// What is asked, and what cannot be used.
type Checked = (Vec<AskedImage>, Vec<String>);

fn finish(
    (images, faults): Checked,
    unusable: Vec<String>,
    arguments: &PredictArguments,
    n_crowd: usize,
) -> anyhow::Result<Asked> {
    if arguments.unusable == Unusable::Refuse && !faults.is_empty() {
        let first: Vec<&str> = faults.iter().take(MAX_NAMED).map(String::as_str).collect();
        let more = match faults.len().checked_sub(MAX_NAMED) {
            Some(more @ 1..) => format!("; and {more} more"),
            _ => String::new(),
        };
        let n = faults.len();
        bail!(
            "expected boxes on their images, found {n} that cannot be asked about: {}{more}; --unusable leave_out goes on without",
            first.join("; ")
        );
    }
    let left_out: Vec<String> = unusable.into_iter().chain(faults).collect();
    if images.is_empty() {
        bail!("expected boxes to ask about, found none (left out: {}, crowd regions: {n_crowd})", left_out.len());
    }
    Ok(Asked { images, n_crowd, left_out })
}

/// Prompts by the index of their image.
type ByImage = BTreeMap<usize, Vec<AskedPrompt>>;

fn of_detections(file: &Path, dataset: &Dataset) -> anyhow::Result<ByImage> {
    let detections = Detections::load(file, dataset)?;
    let mut by_image = ByImage::new();
    for (idx, detection) in detections.items.iter().enumerate() {
        let expected =
            || format!("{}: detection {idx}: bbox: expected [x, y, width, height], found none", file.display());
        let bbox = detection.bbox.with_context(expected)?;
        by_image.entry(detection.image_idx).or_default().push(AskedPrompt {
            prompt: Prompt::Box(bbox),
            category_id: dataset.categories[detection.category_idx].id,
            annotation_id: detection.annotation_id,
            detector_score: Some(detection.score),
            label: format!("detection {idx}"),
        });
    }
    Ok(by_image)
}

/// The annotated boxes, and the number of crowd regions that are left out.
fn of_annotations(dataset: &Dataset) -> (ByImage, usize) {
    let mut by_image = ByImage::new();
    for instance in dataset.instances.iter().filter(|instance| !instance.is_crowd) {
        by_image.entry(instance.image_idx).or_default().push(AskedPrompt {
            prompt: Prompt::Box(instance.bbox),
            category_id: instance.category_id,
            annotation_id: Some(instance.id),
            detector_score: None,
            label: format!("annotation {}", instance.id),
        });
    }
    (by_image, dataset.instances.iter().filter(|instance| instance.is_crowd).count())
}

/// Prompts on the images of an annotation file, each checked.
///
/// # Errors
/// If an image cannot be read or is not of the size that the file says.
fn on_images(dataset: &Dataset, of_image: ByImage, source: &Source) -> anyhow::Result<Checked> {
    let (mut images, mut faults) = (vec![], vec![]);
    for (image_idx, prompts) in of_image {
        let (record, path) = (&dataset.images[image_idx], dataset.image_path(image_idx));
        let size = read_image_header(&path, &ImageLimits::default())?.size;
        ensure!(size == record.size, "{}: expected {} pixels, as annotated, found {size}", path.display(), record.size);
        let mut usable = vec![];
        for prompt in prompts {
            match check(&prompt, size, source.crop()) {
                Ok(()) => usable.push(prompt),
                Err(error) => faults.push(format!("{} of image {}: {error}", prompt.label, record.id)),
            }
        }
        if !usable.is_empty() {
            images.push(AskedImage { id: record.id, path, size, prompts: usable });
        }
    }
    Ok((images, faults))
}

/// Refuses a prompt that lies beside the image or has no crop.
fn check(prompt: &AskedPrompt, image: Size, crop: Option<CropRule>) -> Result<(), CropError> {
    check_prompt(&prompt.prompt, image)?;
    crop.map(|crop| crop.crop(prompt.prompt.clone(), image)).transpose().map(drop)
}

/// The name of an image's files: its id, and its own name for people.
pub fn stem(image: &AskedImage) -> String {
    format!("{}-{}", image.id, image.path.file_stem().unwrap_or(OsStr::new("image")).to_string_lossy())
}

/// Boxes that an error names.
const MAX_NAMED: usize = 5;
