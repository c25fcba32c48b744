//! Some images and categories of annotations, with the results about them.

use std::collections::{BTreeSet, HashMap};

use sensei_data::dataset::Dataset;
use sensei_data::detections::Detections;

/// Annotations and results of these images and categories alone, as if their files held nothing else.
pub(crate) fn of(
    dataset: &Dataset,
    detections: &Detections,
    image_ids: &BTreeSet<u64>,
    category_ids: &BTreeSet<u64>,
) -> (Dataset, Detections) {
    let (mut dataset, mut detections) = (dataset.clone(), detections.clone());
    let images = places(dataset.images.iter().map(|image| image_ids.contains(&image.id)));
    let categories = places(dataset.categories.iter().map(|category| category_ids.contains(&category.id)));
    dataset.images.retain(|image| image_ids.contains(&image.id));
    dataset.categories.retain(|category| category_ids.contains(&category.id));
    dataset.instances.retain_mut(|instance| {
        let place = images.get(&instance.image_idx).filter(|_| category_ids.contains(&instance.category_id));
        place.map(|place| instance.image_idx = *place).is_some()
    });
    detections.items.retain_mut(|item| {
        let places = images.get(&item.image_idx).zip(categories.get(&item.category_idx));
        places.map(|(image, category)| (item.image_idx, item.category_idx) = (*image, *category)).is_some()
    });
    (dataset, detections)
}

/// The new place of each entry that is kept, by its old one.
fn places(kept: impl Iterator<Item = bool>) -> HashMap<usize, usize> {
    let kept = kept.enumerate().filter(|(_, kept)| *kept);
    kept.enumerate().map(|(new, (old, _))| (old, new)).collect()
}
