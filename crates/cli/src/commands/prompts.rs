//! `prompts`: what a protocol gives for each object, for other programs to answer.

use std::path::Path;

use sensei_data::prompt_source::Prompt;
use serde::Serialize;

use crate::arguments::{AnnotationFormat, Unusable};
use crate::config::load_protocol;
use crate::phases::data::load;
use crate::progress::say;
use crate::usage;
use sensei_files::whole::write_whole;

/// One object of the file. Coordinates are continuous image pixels; a pixel's centre is at its column and row plus a half.
#[derive(Serialize)]
struct PromptJson<'a> {
    annotation_id: u64,
    image_id: u64,
    category_id: u64,
    file_name: &'a str,
    /// `[x, y, width, height]`
    #[serde(skip_serializing_if = "Option::is_none", rename = "box")]
    bbox: Option<[f64; 4]>,
    /// `[x, y]`
    #[serde(skip_serializing_if = "Option::is_none")]
    point: Option<[f64; 2]>,
    /// `[x, y]` each
    #[serde(skip_serializing_if = "Vec::is_empty")]
    points: Vec<[f64; 2]>,
    /// `[x0, y0, x1, y1]`, where the protocol has a crop
    #[serde(skip_serializing_if = "Option::is_none")]
    crop: Option<[f64; 4]>,
}

/// Writes the prompts of all instances that the protocol scores.
///
/// # Errors
/// Files that cannot be read or written.
pub fn prompts(
    annotations: &Path,
    protocol: &str,
    (format, unusable): (AnnotationFormat, Unusable),
    out: &Path,
) -> anyhow::Result<()> {
    let rules = load_protocol(protocol).map_err(usage)?;
    let dataset = load(annotations, Path::new(""), format, unusable.into())?;
    let (chosen, left_out) = rules.selection.select(&dataset)?;
    let (mut prompts, mut n_left_out) = (vec![], left_out.len());
    for idx in chosen {
        let instance = &dataset.instances[idx];
        let image = &dataset.images[instance.image_idx];
        let mask = dataset.mask(idx)?;
        let Ok((prompt, crop)) = rules.selection.prompt_and_crop(instance, &mask) else {
            n_left_out += 1;
            continue;
        };
        let (point, points) = match &prompt {
            Prompt::Box(_) => (None, vec![]),
            Prompt::Point(point) => (Some([point.x, point.y]), vec![]),
            Prompt::Points(points) => (None, points.iter().map(|point| [point.x, point.y]).collect()),
        };
        prompts.push(PromptJson {
            annotation_id: instance.id,
            image_id: image.id,
            category_id: instance.category_id,
            file_name: &image.file_name,
            bbox: prompt.bbox(),
            point,
            points,
            crop: crop.map(|crop| {
                let rect = crop.rect_in_image;
                [rect.x0, rect.y0, rect.x1, rect.y1]
            }),
        });
    }
    let mut json = serde_json::to_vec(&prompts)?;
    json.push(b'\n');
    write_whole(out, &json)?;
    let protocol = rules.on(&dataset, rules.selection.subset.name());
    say(&format!("{} ({}): {} prompts, {n_left_out} left out", protocol.name, protocol.short_hash(), prompts.len()));
    Ok(())
}
