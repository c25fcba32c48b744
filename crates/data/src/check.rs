//! Counts and problems of a data set, for a person to read before training on it.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;

use crate::dataset::{Dataset, Segmentation};
use crate::image_file::{ImageLimits, read_image};
use crate::image_header::read_image_header;

/// What [`check`] found. Counts of instances leave crowd regions out unless they say otherwise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckReport {
    /// The annotation file.
    pub annotations: String,
    /// BLAKE3 of the annotation file, in hexadecimal.
    pub digest: String,
    /// Images in the file.
    pub n_images: usize,
    /// Images without any instance, crowd regions included.
    pub n_images_without_instances: usize,
    /// Images that are not in the folder.
    pub n_missing_files: usize,
    /// Images that were decoded; 0 if that was not asked for.
    pub n_decoded_images: usize,
    /// Images in the folder whose header cannot be read, or that cannot be decoded.
    pub n_broken_images: usize,
    /// Images of another size than the annotation file states.
    pub n_wrong_sizes: usize,
    /// Images that a viewer turns or mirrors by their Exif orientation. Not counted as problems: masks lie in the stored pixels.
    pub n_turned_images: usize,
    /// Files that several images of the list name.
    pub n_shared_files: usize,
    /// Annotations that cannot be used, and are not among the instances.
    pub n_unusable: usize,
    /// Instances that are no crowd regions.
    pub n_instances: usize,
    /// Crowd regions.
    pub n_crowd: usize,
    /// Instances of several polygons.
    pub n_multi_part: usize,
    /// Instances and crowd regions given as runs.
    pub n_run_length_encoded: usize,
    /// Instances without a single pixel: nothing to train on.
    pub n_empty_masks: usize,
    /// Instances below 32 x 32 pixels of area, as the file states it.
    pub n_small: usize,
    /// Instances from 32 x 32 to below 96 x 96.
    pub n_medium: usize,
    /// Instances from 96 x 96.
    pub n_large: usize,
    /// Instances whose box has a side of 0.
    pub n_boxes_without_area: usize,
    /// Instances whose box reaches over the image's border by more than a pixel.
    pub n_boxes_outside: usize,
    /// Instances whose box differs from that of their mask by more than [`BOX_TOLERANCE`] pixels on a side. In COCO about
    /// one in 60, where a part is thinner than a pixel; many more mean boxes in other units. Not counted as problems.
    pub n_boxes_off_mask: usize,
    /// Instances whose stated area is more than twice that of their mask, or less than half, and [`AREA_TOLERANCE`] pixels off. S, M and L,
    /// and a smallest area, go by the stated one. Not counted as problems.
    pub n_areas_off_mask: usize,
    /// Instances with the outline of another one in their image. Not counted as problems.
    pub n_drawn_again: usize,
    /// Categories in the file.
    pub n_categories: usize,
    /// Instances by name of the category; names that are not used have 0.
    pub instances_by_category: BTreeMap<String, usize>,
    /// The first [`MAX_PROBLEMS`] problems in words, images first, in the file's order.
    pub problems: Vec<String>,
    /// All problems: missing, broken and wrongly sized images, files that several images name, unusable annotations, empty masks, boxes
    /// without area or outside of the image, no annotation but crowd regions, coordinates that are no pixels.
    pub n_problems: usize,
    /// The first [`MAX_PROBLEMS`] things in words that may be meant so, in the same order.
    pub notes: Vec<String>,
    /// All of them: turned images, many crowd regions, areas off their masks, outlines drawn again.
    pub n_notes: usize,
}

/// Draws every mask and reads the header of every image; with `decode_images`, also decodes them within [`ImageLimits::default`]
/// (the slow part). Runs on all of rayon's threads; the result does not depend on their number.
///
/// A data set of which everything must be sound has no unusable annotations to report: load it with
/// [`LeaveOut`](crate::dataset::UnusableRule::LeaveOut).
pub fn check(dataset: &Dataset, decode_images: bool) -> CheckReport {
    check_unless(dataset, decode_images, &|| false, &|| ()).expect("nobody stops it")
}

/// As [`check`], but none once `is_interrupted` says so. `looked` is called after each image and each annotation.
pub fn check_unless(
    dataset: &Dataset,
    decode_images: bool,
    is_interrupted: &(dyn Fn() -> bool + Sync),
    looked: &(dyn Fn() + Sync),
) -> Option<CheckReport> {
    let images: Vec<ImageFinding> = (0..dataset.images.len())
        .into_par_iter()
        .map(|image_idx| {
            let found = (!is_interrupted()).then(|| look_at_image(dataset, image_idx, decode_images));
            looked();
            found
        })
        .collect::<Option<_>>()?;
    let instances: Vec<InstanceFinding> = (0..dataset.instances.len())
        .into_par_iter()
        .map(|instance_idx| {
            let found = (!is_interrupted()).then(|| look_at_instance(dataset, instance_idx));
            looked();
            found
        })
        .collect::<Option<_>>()?;

    let of_image = |wanted: fn(&ImageFinding) -> bool| images.iter().filter(|finding| wanted(finding)).count();
    let no_crowd = || dataset.instances.iter().zip(&instances).filter(|(instance, _)| !instance.is_crowd);
    let with = |wanted: fn(&InstanceFinding) -> bool| no_crowd().filter(|(_, finding)| wanted(finding)).count();
    let with_area = |from: f64, to: f64| no_crowd().filter(|(instance, _)| (from..to).contains(&instance.area)).count();
    let (shared_files, drawn_again) = (shared_files(dataset), drawn_again(dataset));
    let n_crowd = dataset.instances.len() - no_crowd().count();
    let crowd = CrowdShare { n_crowd, n_annotations: dataset.instances.len() };
    let problems: Vec<String> = (images.iter().filter_map(|finding| finding.problem.clone()))
        .chain(shared_files.iter().cloned())
        .chain(dataset.unusable.iter().map(ToString::to_string))
        .chain(crowd.problem())
        .chain(is_normalised(dataset).then(|| String::from(NORMALISED)))
        .chain(instances.iter().filter_map(|finding| finding.problem.clone()))
        .collect();
    let notes: Vec<String> = (images.iter().filter_map(|finding| finding.turned.clone()))
        .chain(crowd.note())
        .chain(instances.iter().filter_map(|finding| finding.area_off_mask.clone()))
        .chain(drawn_again.iter().cloned())
        .collect();
    let n_decoded_images = of_image(|finding| matches!(finding.state, ImageState::Decoded | ImageState::WrongSize));
    Some(CheckReport {
        annotations: dataset.annotations_path.display().to_string(),
        digest: dataset.digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        n_images: dataset.images.len(),
        n_images_without_instances: n_images_without_instances(dataset),
        n_missing_files: of_image(|finding| finding.state == ImageState::Missing),
        n_decoded_images: if decode_images { n_decoded_images } else { 0 },
        n_broken_images: of_image(|finding| finding.state == ImageState::Broken),
        n_wrong_sizes: of_image(|finding| finding.state == ImageState::WrongSize),
        n_turned_images: of_image(|finding| finding.turned.is_some()),
        n_shared_files: shared_files.len(),
        n_unusable: dataset.unusable.len(),
        n_instances: no_crowd().count(),
        n_crowd,
        n_multi_part: with(|finding| finding.n_parts > 1),
        n_run_length_encoded: instances.iter().filter(|finding| finding.n_parts == 0).count(),
        n_empty_masks: with(|finding| finding.empty_mask),
        n_small: with_area(0.0, SMALL),
        n_medium: with_area(SMALL, LARGE),
        n_large: with_area(LARGE, f64::INFINITY),
        n_boxes_without_area: with(|finding| finding.flat_box),
        n_boxes_outside: with(|finding| finding.box_outside),
        n_boxes_off_mask: with(|finding| finding.box_off_mask),
        n_areas_off_mask: with(|finding| finding.area_off_mask.is_some()),
        n_drawn_again: drawn_again.len(),
        n_categories: dataset.categories.len(),
        instances_by_category: instances_by_category(dataset),
        n_problems: problems.len(),
        problems: problems.into_iter().take(MAX_PROBLEMS).collect(),
        n_notes: notes.len(),
        notes: notes.into_iter().take(MAX_PROBLEMS).collect(),
    })
}

fn n_images_without_instances(dataset: &Dataset) -> usize {
    let mut has_instances = vec![false; dataset.images.len()];
    dataset.instances.iter().for_each(|instance| has_instances[instance.image_idx] = true);
    has_instances.iter().filter(|has| !**has).count()
}

/// Names that several categories share are counted together.
fn instances_by_category(dataset: &Dataset) -> BTreeMap<String, usize> {
    let mut by_id: BTreeMap<u64, usize> = dataset.categories.iter().map(|c| (c.id, 0)).collect();
    for instance in dataset.instances.iter().filter(|instance| !instance.is_crowd) {
        *by_id.entry(instance.category_id).or_default() += 1;
    }
    let mut by_name: BTreeMap<String, usize> = BTreeMap::new();
    for category in &dataset.categories {
        *by_name.entry(category.name.clone()).or_default() += by_id[&category.id];
    }
    by_name
}

/// How much of a file is crowd regions.
struct CrowdShare {
    n_crowd: usize,
    n_annotations: usize,
}

impl CrowdShare {
    /// In words, if all of it is.
    fn problem(&self) -> Option<String> {
        self.is_all().then(|| self.said(": none is left to train or score on"))
    }

    /// In words, if much of it is.
    fn note(&self) -> Option<String> {
        let is_much = self.n_crowd * MANY_CROWD > self.n_annotations && self.n_crowd >= MANY_CROWD_FROM;
        (is_much && !self.is_all()).then(|| self.said(", which are left out; COCO has 1 in 100"))
    }

    fn is_all(&self) -> bool {
        self.n_crowd > 0 && self.n_crowd == self.n_annotations
    }

    fn said(&self, what: &str) -> String {
        format!("{} of {} annotations are crowd regions (iscrowd 1){what}", self.n_crowd, self.n_annotations)
    }
}

#[derive(PartialEq)]
enum ImageState {
    Missing,
    NotDecoded,
    Decoded,
    Broken,
    WrongSize,
}

struct ImageFinding {
    state: ImageState,
    problem: Option<String>,
    /// How a viewer turns it, in words.
    turned: Option<String>,
}

struct InstanceFinding {
    /// Number of polygons; 0 if it is given as runs.
    n_parts: usize,
    empty_mask: bool,
    flat_box: bool,
    box_outside: bool,
    box_off_mask: bool,
    /// In words.
    area_off_mask: Option<String>,
    problem: Option<String>,
}

fn look_at_image(dataset: &Dataset, image_idx: usize, decode: bool) -> ImageFinding {
    let record = &dataset.images[image_idx];
    let path = dataset.image_path(image_idx);
    let finding = |state, problem| ImageFinding { state, problem, turned: None };
    if !path.is_file() {
        let problem = format!("{}: image {} is missing", path.display(), record.id);
        return finding(ImageState::Missing, Some(problem));
    }
    let limits = ImageLimits::default();
    let header = match read_image_header(&path, &limits) {
        Ok(header) => header,
        Err(error) => return finding(ImageState::Broken, Some(error.to_string())),
    };
    let decoded = decode.then(|| read_image(&path, &limits));
    if let Some(Err(error)) = decoded {
        return finding(ImageState::Broken, Some(error.to_string()));
    }
    if header.size != record.size {
        let orientation = match header.orientation {
            Some(orientation @ 2..) => format!(", Exif orientation {orientation}"),
            _ => String::new(),
        };
        let (id, expected, found) = (record.id, record.size, header.size);
        let problem = format!("{}: image {id}: expected {expected}, found {found}{orientation}", path.display());
        return finding(ImageState::WrongSize, Some(problem));
    }
    let turned = header.is_turned().then(|| {
        let orientation = header.orientation.unwrap_or(1);
        format!("{}: Exif orientation {orientation}: viewers turn it, masks lie in the stored pixels", path.display())
    });
    ImageFinding { state: if decode { ImageState::Decoded } else { ImageState::NotDecoded }, problem: None, turned }
}

/// Files that several images name, in words.
fn shared_files(dataset: &Dataset) -> Vec<String> {
    let mut ids_by_name: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for image in &dataset.images {
        ids_by_name.entry(&image.file_name).or_default().push(image.id);
    }
    let shared = ids_by_name.iter().filter(|(_, ids)| ids.len() > 1);
    shared.map(|(name, ids)| format!("{name}: images {} are one file", listed(ids))).collect()
}

/// Instances whose outline another one before them in their image has, in words.
fn drawn_again(dataset: &Dataset) -> Vec<String> {
    let mut first_by_outline = BTreeMap::new();
    let mut again = vec![];
    for instance in dataset.instances.iter().filter(|instance| !instance.is_crowd) {
        let mut hasher = blake3::Hasher::new();
        match &instance.segmentation {
            Segmentation::Polygons(polygons) => {
                for polygon in polygons {
                    hasher.update(&(polygon.len() as u64).to_le_bytes());
                    for coordinate in polygon.iter() {
                        hasher.update(&coordinate.to_le_bytes());
                    }
                }
            }
            Segmentation::Rle(rle) => {
                for run in rle.counts() {
                    hasher.update(&run.to_le_bytes());
                }
            }
            Segmentation::NotRead => continue,
        }
        let outline = (instance.image_idx, *hasher.finalize().as_bytes());
        let first = *first_by_outline.entry(outline).or_insert(instance.id);
        if first != instance.id {
            again.push(format!("annotation {}: the outline of annotation {first}", instance.id));
        }
    }
    again
}

/// Whether every box lies within one pixel of the corner, as those from 0 to 1 do.
fn is_normalised(dataset: &Dataset) -> bool {
    let within = |[x, y, width, height]: [f64; 4]| x + width <= 1.0 && y + height <= 1.0;
    !dataset.instances.is_empty() && dataset.instances.iter().all(|instance| within(instance.bbox))
}

fn listed(ids: &[u64]) -> String {
    ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

fn look_at_instance(dataset: &Dataset, instance_idx: usize) -> InstanceFinding {
    let instance = &dataset.instances[instance_idx];
    let size = dataset.images[instance.image_idx].size;
    let [x, y, width, height] = instance.bbox;
    let n_parts = match &instance.segmentation {
        Segmentation::Polygons(polygons) => polygons.len(),
        Segmentation::Rle(_) | Segmentation::NotRead => 0,
    };
    let flat_box = width == 0.0 || height == 0.0;
    let over = [-x, -y, x + width - f64::from(size.width), y + height - f64::from(size.height)];
    let box_outside = over.iter().any(|pixels| *pixels > 1.0);
    let (mask_area, box_off_mask, unusable) = match dataset.mask(instance_idx) {
        Ok(mask) if mask.area() == 0 => (0, false, None),
        Ok(mask) => {
            let [mx, my, mw, mh] = mask.bbox();
            let off = [x - mx, y - my, x + width - mx - mw, y + height - my - mh];
            (mask.area(), off.iter().any(|pixels| pixels.abs() > BOX_TOLERANCE), None)
        }
        Err(error) => (0, false, Some(error.to_string())),
    };
    let empty_mask = mask_area == 0;
    let (area, drawn) = (instance.area, mask_area as f64);
    let is_off = (area > 2.0 * drawn || 2.0 * area < drawn) && (area - drawn).abs() > AREA_TOLERANCE;
    let area_off_mask = (is_off && !instance.is_crowd)
        .then(|| format!("annotation {}: area {area}, but a mask of {mask_area} pixels", instance.id));
    let kinds = [
        (empty_mask, "mask without a pixel"),
        (flat_box, "box without area"),
        (box_outside, "box outside of the image"),
    ];
    let found: Vec<&str> = kinds.iter().filter(|(is, _)| *is).map(|(_, what)| *what).collect();
    let words = || format!("annotation {}: {}, box {:?}, image {size}", instance.id, found.join(", "), instance.bbox);
    let problem = if found.is_empty() || instance.is_crowd { unusable } else { Some(unusable.unwrap_or_else(words)) };
    InstanceFinding { n_parts, empty_mask, flat_box, box_outside, box_off_mask, area_off_mask, problem }
}

/// Areas in square pixels that part COCO's small, medium and large.
const SMALL: f64 = 32.0 * 32.0;
const LARGE: f64 = 96.0 * 96.0;

/// COCO's boxes are those of the polygons; drawn, a side moves by up to a pixel.
pub const BOX_TOLERANCE: f64 = 2.0;

/// Outlines of small parts are drawn some pixels larger or smaller than the area they enclose.
pub const AREA_TOLERANCE: f64 = 16.0;

/// Crowd regions are worth a note from one in as many annotations on, and from as many on.
const MANY_CROWD: usize = 10;
const MANY_CROWD_FROM: usize = 3;

const NORMALISED: &str = "all boxes lie within one pixel: coordinates from 0 to 1 where pixels are expected";

/// Most problems that [`CheckReport::problems`] lists, and most notes.
pub const MAX_PROBLEMS: usize = 100;
