//! Counts and problems of a data set, for a person to read before training on it.

use std::collections::BTreeMap;

use rayon::prelude::*;
use serde::Serialize;

use crate::dataset::{Dataset, Segmentation};
use crate::image_file::{ImageLimits, read_image};

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
    /// Images in the folder that cannot be decoded.
    pub n_broken_images: usize,
    /// Decoded images of another size than the annotation file states.
    pub n_wrong_sizes: usize,
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
    /// Categories in the file.
    pub n_categories: usize,
    /// Instances by name of the category; names that are not used have 0.
    pub instances_by_category: BTreeMap<String, usize>,
    /// The first [`MAX_PROBLEMS`] problems in words, images first, in the file's order.
    pub problems: Vec<String>,
    /// All problems: missing, broken and wrongly sized images, empty masks, boxes without area or outside of the image.
    pub n_problems: usize,
}

/// Draws every mask and looks for every image; with `decode_images`, also decodes them within [`ImageLimits::default`]
/// (the slow part). Runs on all of rayon's threads; the result does not depend on their number.
pub fn check(dataset: &Dataset, decode_images: bool) -> CheckReport {
    let images: Vec<ImageFinding> = (0..dataset.images.len())
        .into_par_iter()
        .map(|image_idx| look_at_image(dataset, image_idx, decode_images))
        .collect();
    let instances: Vec<InstanceFinding> = (0..dataset.instances.len())
        .into_par_iter()
        .map(|instance_idx| look_at_instance(dataset, instance_idx))
        .collect();

    let mut has_instances = vec![false; dataset.images.len()];
    let mut instances_by_category: BTreeMap<u64, usize> = dataset.categories.iter().map(|c| (c.id, 0)).collect();
    for instance in &dataset.instances {
        has_instances[instance.image_idx] = true;
        if !instance.is_crowd {
            *instances_by_category.entry(instance.category_id).or_default() += 1;
        }
    }
    let mut by_name: BTreeMap<String, usize> = BTreeMap::new();
    for category in &dataset.categories {
        *by_name.entry(category.name.clone()).or_default() += instances_by_category[&category.id];
    }

    let of_image = |wanted: fn(&ImageFinding) -> bool| images.iter().filter(|finding| wanted(finding)).count();
    let no_crowd = || dataset.instances.iter().zip(&instances).filter(|(instance, _)| !instance.is_crowd);
    let with = |wanted: fn(&InstanceFinding) -> bool| no_crowd().filter(|(_, finding)| wanted(finding)).count();
    let with_area = |from: f64, to: f64| no_crowd().filter(|(instance, _)| (from..to).contains(&instance.area)).count();
    let problems: Vec<String> = (images.iter().filter_map(|finding| finding.problem.clone()))
        .chain(instances.iter().filter_map(|finding| finding.problem.clone()))
        .collect();
    CheckReport {
        annotations: dataset.annotations_path.display().to_string(),
        digest: dataset.digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        n_images: dataset.images.len(),
        n_images_without_instances: has_instances.iter().filter(|has| !**has).count(),
        n_missing_files: of_image(|finding| finding.state == ImageState::Missing),
        n_decoded_images: of_image(|finding| matches!(finding.state, ImageState::Decoded | ImageState::WrongSize)),
        n_broken_images: of_image(|finding| finding.state == ImageState::Broken),
        n_wrong_sizes: of_image(|finding| finding.state == ImageState::WrongSize),
        n_instances: no_crowd().count(),
        n_crowd: dataset.instances.iter().filter(|instance| instance.is_crowd).count(),
        n_multi_part: with(|finding| finding.n_parts > 1),
        n_run_length_encoded: instances.iter().filter(|finding| finding.n_parts == 0).count(),
        n_empty_masks: with(|finding| finding.empty_mask),
        n_small: with_area(0.0, SMALL),
        n_medium: with_area(SMALL, LARGE),
        n_large: with_area(LARGE, f64::INFINITY),
        n_boxes_without_area: with(|finding| finding.flat_box),
        n_boxes_outside: with(|finding| finding.box_outside),
        n_boxes_off_mask: with(|finding| finding.box_off_mask),
        n_categories: dataset.categories.len(),
        instances_by_category: by_name,
        n_problems: problems.len(),
        problems: problems.into_iter().take(MAX_PROBLEMS).collect(),
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
}

struct InstanceFinding {
    /// Number of polygons; 0 if it is given as runs.
    n_parts: usize,
    empty_mask: bool,
    flat_box: bool,
    box_outside: bool,
    box_off_mask: bool,
    problem: Option<String>,
}

fn look_at_image(dataset: &Dataset, image_idx: usize, decode: bool) -> ImageFinding {
    let record = &dataset.images[image_idx];
    let path = dataset.image_path(image_idx);
    let finding = |state, problem| ImageFinding { state, problem };
    if !path.is_file() {
        let problem = format!("{}: image {} is missing", path.display(), record.id);
        return finding(ImageState::Missing, Some(problem));
    }
    if !decode {
        return finding(ImageState::NotDecoded, None);
    }
    match read_image(&path, &ImageLimits::default()) {
        Err(error) => finding(ImageState::Broken, Some(error.to_string())),
        Ok(encoded) if encoded.image.size != record.size => {
            let found = encoded.image.size;
            let problem = format!("{}: image {}: expected {}, found {found}", path.display(), record.id, record.size);
            finding(ImageState::WrongSize, Some(problem))
        }
        Ok(_) => finding(ImageState::Decoded, None),
    }
}

fn look_at_instance(dataset: &Dataset, instance_idx: usize) -> InstanceFinding {
    let instance = &dataset.instances[instance_idx];
    let size = dataset.images[instance.image_idx].size;
    let [x, y, width, height] = instance.bbox;
    let n_parts = match &instance.segmentation {
        Segmentation::Polygons(polygons) => polygons.len(),
        Segmentation::Rle(_) => 0,
    };
    let flat_box = width == 0.0 || height == 0.0;
    let over = [-x, -y, x + width - f64::from(size.width), y + height - f64::from(size.height)];
    let box_outside = over.iter().any(|pixels| *pixels > 1.0);
    let (empty_mask, box_off_mask, unusable) = match dataset.mask(instance_idx) {
        Ok(mask) if mask.area() == 0 => (true, false, None),
        Ok(mask) => {
            let [mx, my, mw, mh] = mask.bbox();
            let off = [x - mx, y - my, x + width - mx - mw, y + height - my - mh];
            (false, off.iter().any(|pixels| pixels.abs() > BOX_TOLERANCE), None)
        }
        Err(error) => (true, false, Some(error.to_string())),
    };
    let kinds = [
        (empty_mask, "mask without a pixel"),
        (flat_box, "box without area"),
        (box_outside, "box outside of the image"),
    ];
    let found: Vec<&str> = kinds.iter().filter(|(is, _)| *is).map(|(_, what)| *what).collect();
    let words = || format!("annotation {}: {}, box {:?}, image {size}", instance.id, found.join(", "), instance.bbox);
    let problem = if found.is_empty() || instance.is_crowd { unusable } else { Some(unusable.unwrap_or_else(words)) };
    InstanceFinding { n_parts, empty_mask, flat_box, box_outside, box_off_mask, problem }
}

/// Areas in square pixels that part COCO's small, medium and large.
const SMALL: f64 = 32.0 * 32.0;
const LARGE: f64 = 96.0 * 96.0;

/// COCO's boxes are those of the polygons; drawn, a side moves by up to a pixel.
pub const BOX_TOLERANCE: f64 = 2.0;

/// Most problems that [`CheckReport::problems`] lists.
pub const MAX_PROBLEMS: usize = 100;
