//! `teacher show`.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, ensure};
use sensei_answers::asked::Question;
use sensei_answers::folder_store::FolderStore;
use sensei_answers::record::MaskRecord;
use sensei_answers::store::Store;
use sensei_answers::verify::compare_with_truth;
use sensei_data::crop::{CropGeometry, crop_image, crop_rle};
use sensei_data::dataset::Dataset;
use sensei_data::geometry::RectInImage;
use sensei_data::image_file::{ImageFile, ImageLimits, RgbImage, encode_png};
use sensei_data::rle::Rle;
use sensei_eval::overlay::{OverlayInstance, OverlayMask, contact_sheet, overlay_row};
use sensei_files::digest::hex;
use sensei_files::whole::write_whole;
use sensei_sam::mask_decoder::N_MASKS;

use crate::arguments::ShowArguments;
use crate::phases::data::load;
use crate::progress::say;

/// Draws some of a teacher's masks beside the annotated ones: of all objects by their agreement, from the best to the worst in equal steps.
///
/// # Errors
/// A cache, data set or image that cannot be used or do not belong together; a picture that cannot be written or is there already.
pub fn execute(arguments: &ShowArguments) -> anyhow::Result<()> {
    ensure!(!arguments.out.exists(), "{}: exists already", arguments.out.display());
    let dataset = load(&arguments.annotations, &arguments.images, arguments.format, arguments.unusable.into())?;
    let store = FolderStore::open_any(&arguments.cache)?;
    let mut ious = compare_with_truth(&store, &dataset)?.ious;
    ensure!(!ious.is_empty(), "{}: expected masks to show, found none", arguments.cache.display());
    ious.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let by_id: BTreeMap<u64, usize> =
        dataset.instances.iter().enumerate().map(|(idx, instance)| (instance.id, idx)).collect();
    let mut sheet = vec![];
    let mut shown: Option<(usize, Arc<RgbImage>)> = None;
    for (annotation_id, _) in spread(&ious, usize::from(arguments.rows)) {
        let idx = *by_id.get(annotation_id).context("an object whose mask was compared is in the data set")?;
        let image_idx = dataset.instances[idx].image_idx;
        let image = match &shown {
            Some((known, image)) if *known == image_idx => image.clone(),
            _ => Arc::new(picture(&dataset, image_idx, &store.masks(*annotation_id)?)?),
        };
        shown = Some((image_idx, image.clone()));
        sheet.push(row(&dataset, idx, &store.masks(*annotation_id)?, &names(&store), &image)?);
    }
    write_whole(&arguments.out, &encode_png(&contact_sheet(&sheet)))?;
    say(&format!("{}: {} of {} objects, best first", arguments.out.display(), sheet.len(), ious.len()));
    Ok(())
}

/// Some of these, from the first to the last in equal steps.
fn spread<T>(all: &[T], n: usize) -> impl Iterator<Item = &T> {
    let n = n.min(all.len());
    (0..n).map(move |at| if n == 1 { &all[0] } else { &all[at * (all.len() - 1) / (n - 1)] })
}

/// The image that the teacher has seen.
fn picture(dataset: &Dataset, image_idx: usize, record: &MaskRecord) -> anyhow::Result<RgbImage> {
    let (path, limits) = (dataset.image_path(image_idx), ImageLimits::default());
    let file = ImageFile::read(&path, &limits)?;
    let (found, expected) = (hex(&file.digest()), hex(&record.image.file_digest));
    ensure!(
        found == expected,
        "{}: expected the image of the answers, digest {expected}, found {found}",
        path.display()
    );
    Ok(file.decode(&limits)?)
}

/// How the teacher was asked, for each of an object's prompts; nothing where a cache does not say.
fn names(store: &FolderStore) -> Vec<String> {
    match &store.manifest().key.question {
        Question::Object { prompts, .. } => prompts.iter().map(|prompt| prompt.name().to_uppercase()).collect(),
        _ => vec![],
    }
}

/// The object in a square of twice its box, its annotated mask, and each mask of the teacher with its IoU in the image.
fn row(
    dataset: &Dataset,
    idx: usize,
    record: &MaskRecord,
    names: &[String],
    image: &RgbImage,
) -> anyhow::Result<RgbImage> {
    let instance = &dataset.instances[idx];
    let [x, y, width, height] = instance.bbox;
    let (side, truth) = (SURROUNDINGS * width.max(height).max(8.0), dataset.mask(idx)?);
    let (x0, y0) = (x + width / 2.0 - side / 2.0, y + height / 2.0 - side / 2.0);
    let rect_in_image = RectInImage { x0, y0, x1: x0 + side, y1: y0 + side };
    let geometry = CropGeometry { rect_in_image, grid: PANEL_SIDE };
    let mut masks = vec![];
    for (prompt_idx, prompt) in record.prompts.iter().enumerate() {
        for mask_idx in 0..prompt.masks.len() {
            let mask = Rle::from_mask(&record.mask(prompt_idx, mask_idx).mask_in_image());
            let name = names.get(prompt_idx).map_or("TEACHER", String::as_str);
            let token = token(prompt.masks.len(), mask_idx).map_or_else(String::new, |token| format!(" T{token}"));
            masks.push((format!("{name}{token} {:.2}", mask.iou(&truth, false)), crop_rle(&mask, &geometry)));
        }
    }
    let predictions = masks.iter().map(|(label, in_crop)| OverlayMask { label: label.clone(), in_crop }).collect();
    let (crop, truth) = (crop_image(image, &geometry), crop_rle(&truth, &geometry));
    let title = format!("ANN {}", instance.id);
    let instance = OverlayInstance { title, crop: &crop, geometry, bbox: instance.bbox, truth: &truth, predictions };
    Ok(overlay_row(&instance, 1))
}

/// The token of SAM's decoder that a mask is of, where an answer has several: all four, or the three of an ambiguous prompt.
fn token(n_masks: usize, mask_idx: usize) -> Option<usize> {
    (n_masks > 1).then(|| N_MASKS - n_masks + mask_idx)
}

/// Side of what is shown, in longer sides of the box.
const SURROUNDINGS: f64 = 2.0;
/// Side of a panel, in pixels.
const PANEL_SIDE: u32 = 192;
