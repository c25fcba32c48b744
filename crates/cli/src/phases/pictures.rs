//! Pictures of scored instances: `overlays.png` for the eye, and `gallery.json` for the report.

use std::fs;
use std::path::Path;

use anyhow::Context;
use sensei_data::crop::CropGeometry;
use sensei_data::geometry::{PointInImage, Size};
use sensei_data::image_file::{RgbImage, encode_png};
use sensei_eval::choice::{Why, choose};
use sensei_eval::overlay::{OverlayInstance, OverlayMask, contact_sheet, overlay_row};
use sensei_eval::protocol::Space;
use sensei_eval::report::EvalReport;
use sensei_eval::rows::judged;
use sensei_eval::score::InstanceScore;
use sensei_files::whole::write_whole;
use sensei_report::gallery::{Answer, GALLERY_VERSION, Gallery, MaskRuns, Picture, Shown};

/// An instance with what was answered for it.
pub struct Pictured {
    /// Id of its annotation.
    pub annotation_id: u64,
    /// Why it is shown.
    pub why: Why,
    /// RGB pixels on the geometry's grid.
    pub crop: Vec<u8>,
    /// Where they are in the image.
    pub geometry: CropGeometry,
    /// Box of the prompt as x, y, width, height in image pixels.
    pub bbox: [f64; 4],
    /// The annotated mask on the grid, 0 or 1.
    pub truth: Vec<u8>,
    /// Rows and their masks on the grid, 0 or 1.
    pub answers: Vec<(String, Vec<u8>)>,
}

/// The annotations that are shown, by the row that the report is judged by.
pub fn chosen(report: &EvalReport, n: usize) -> Vec<(Why, u64)> {
    let Some(scores) = judging_row(report).and_then(|row| report.predictor(row).ok()) else { return vec![] };
    let instances = &scores.scores.instances;
    let chosen = choose(instances, report.protocol.space, n).into_iter();
    chosen.map(|(why, idx)| (why, instances[idx].annotation_id)).collect()
}

/// Writes `overlays.png` and `gallery.json` into `out`, with each row's IoU as the report has it. Without instances there is neither.
///
/// # Errors
/// If a row or an instance is not one of the report's, or a file cannot be written.
pub fn write_pictures(out: &Path, report: &EvalReport, pictured: &[Pictured], scale: u32) -> anyhow::Result<()> {
    let files = ["overlays.png", "gallery.json"].map(|name| out.join(name));
    let Some(judging) = judging_row(report).filter(|_| !pictured.is_empty()) else {
        // Those of other scores must not stand beside these.
        for file in files.iter().filter(|file| file.exists()) {
            fs::remove_file(file).with_context(|| format!("{}: cannot remove", file.display()))?;
        }
        return Ok(());
    };
    let (mut sheet, mut shown) = (vec![], vec![]);
    for of in pictured {
        let iou =
            |(row, _): &(String, Vec<u8>)| Ok(iou_in(report.protocol.space, score(report, row, of.annotation_id)?));
        let ious = of.answers.iter().map(iou).collect::<anyhow::Result<Vec<f64>>>()?;
        sheet.push(sheet_row(of, &ious, scale));
        shown.push(shown_as(of, &ious, score(report, judging, of.annotation_id)?.image_id));
    }
    write_whole(&files[0], &encode_png(&contact_sheet(&sheet)))?;
    let space = report.protocol.space;
    Ok(Gallery { version: GALLERY_VERSION, space, chosen_by: judging.into(), shown }.write(&files[1])?)
}

/// The result of a row for an annotation.
fn score<'a>(report: &'a EvalReport, row: &str, annotation_id: u64) -> anyhow::Result<&'a InstanceScore> {
    let instances = &report.predictor(row)?.scores.instances;
    let at = instances.binary_search_by_key(&annotation_id, |instance| instance.annotation_id);
    let at = at.ok().with_context(|| format!("annotation {annotation_id}: expected a score of {row}, found none"))?;
    Ok(&instances[at])
}

fn shown_as(of: &Pictured, ious: &[f64], image_id: u64) -> Shown {
    let size = Size { width: of.geometry.grid, height: of.geometry.grid };
    let picture = encode_png(&RgbImage { size, pixels: of.crop.clone() });
    let answers = of.answers.iter().zip(ious);
    Shown {
        annotation_id: of.annotation_id,
        image_id,
        why: of.why,
        grid: of.geometry.grid,
        picture: Picture::of_png(&picture),
        prompt: box_on_grid(of),
        truth: MaskRuns::of(&of.truth),
        answers: answers
            .map(|((row, mask), &iou)| Answer { row: row.clone(), iou, mask: MaskRuns::of(mask) })
            .collect(),
    }
}

fn judging_row(report: &EvalReport) -> Option<&'static str> {
    judged(report.predictors.iter().map(|predictor| predictor.scores.predictor.as_str()))
}

fn iou_in(space: Space, score: &InstanceScore) -> f64 {
    match space {
        Space::Crop => score.in_crop.unwrap_or(score.in_image).iou(),
        Space::Image => score.in_image.iou(),
    }
}

/// A row of the sheet: crop, truth, and each answer with its IoU.
fn sheet_row(of: &Pictured, ious: &[f64], scale: u32) -> RgbImage {
    let predictions = of
        .answers
        .iter()
        .zip(ious)
        .map(|((row, mask), iou)| OverlayMask { label: format!("{} {iou:.2}", row.to_uppercase()), in_crop: mask });
    let instance = OverlayInstance {
        title: format!("{} {}", of.why.name().to_uppercase(), of.annotation_id),
        crop: &of.crop,
        geometry: of.geometry,
        bbox: of.bbox,
        truth: &of.truth,
        predictions: predictions.collect(),
    };
    overlay_row(&instance, scale)
}

/// Left, top, right and bottom.
fn box_on_grid(of: &Pictured) -> [f64; 4] {
    let [x, y, width, height] = of.bbox;
    let [left, top] = of.geometry.point_in_crop(PointInImage { x, y });
    let [right, bottom] = of.geometry.point_in_crop(PointInImage { x: x + width, y: y + height });
    [left, top, right, bottom]
}
