//! One safetensors file of regions of interest, clipped to the image. Layout: `docs/formats/teacher-dump.md`.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use sensei_data::geometry::RectInImage;

use crate::asked::Preprocessing;
use crate::import::{DumpHeader, DumpRecord, ImportError, ImportReport, Importer, SeenImage, Target};
use crate::import_dump::{elements, i64s, layout, read, tensor};
use crate::key::TeacherDescription;
use crate::record::RecordFault;
use crate::sentences;

/// Imports the dump in the file `dump`.
pub fn import(dump: &Path, target: Target) -> Result<ImportReport, ImportError> {
    let bytes = read(dump)?;
    let not_safetensors =
        |error: safetensors::SafeTensorError| layout(dump, "file", "safetensors".into(), error.to_string());
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(not_safetensors)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(not_safetensors)?;
    let word = |name: &str| match metadata.metadata().as_ref().and_then(|words| words.get(name)) {
        Some(word) => Ok(word.clone()),
        None => Err(layout(dump, "metadata", format!("an entry `{name}`"), "none".into())),
    };
    let (teacher, logits_rule) = (word("teacher")?, word("logits")?);
    if !logits_rule.starts_with(LOGIT_RULE) {
        return Err(layout(dump, "metadata `logits`", format!("{LOGIT_RULE}..."), logits_rule));
    }
    let logits = tensors.tensor("logits_i8").map_err(not_safetensors)?;
    let [n, grid, _] = *logits.shape() else {
        return Err(layout(dump, "logits_i8", "I8 [n, grid, grid]".into(), format!("{:?}", logits.shape())));
    };
    let logits = tensor(&tensors, dump, "logits_i8", Dtype::I8, &[n, grid, grid])?;
    let annotation_ids = i64s(&tensors, dump, "ann_id", n)?;
    let image_ids = i64s(&tensors, dump, "image_id", n)?;
    let rois: Vec<i32> = elements(tensor(&tensors, dump, "roi", Dtype::I32, &[n, 4])?, i32::from_le_bytes);
    let boxes: Vec<f32> = elements(tensor(&tensors, dump, "bbox", Dtype::F32, &[n, 4])?, f32::from_le_bytes);
    let scores: Vec<f32> = elements(tensor(&tensors, dump, "score", Dtype::F32, &[n])?, f32::from_le_bytes);
    let truth_ious: Vec<f32> = elements(tensor(&tensors, dump, "gt_iou", Dtype::F32, &[n])?, f32::from_le_bytes);
    let grid_u32 = u32::try_from(grid).map_err(|_| layout(dump, "grid", "a small number".into(), grid.to_string()))?;
    let sentence = format!("{}; {logits_rule}", word("prompt")?);
    let (question, context) = sentences::question_and_context(&sentence, grid_u32)
        .map_err(|RecordFault { what, expected, found }| layout(dump, &what, expected, found))?;
    let header = DumpHeader {
        teacher_digest: format!("named: {teacher}"),
        teacher: TeacherDescription { name: teacher, licence: "not stated".into() },
        preprocessing: Preprocessing::NotStated,
        question,
        context,
        grid: grid_u32,
        logit_step: LOGIT_STEP,
        provenance: vec![format!("single-file dump, BLAKE3 {}", blake3::hash(&bytes))],
        n_clipped: None,
    };
    let mut importer = Importer::new(target, header)?;
    for idx in 0..n {
        let roi: Vec<f64> = rois[idx * 4..][..4].iter().map(|&edge| f64::from(edge)).collect();
        importer.check_box(annotation_ids[idx], &boxes[idx * 4..][..4])?;
        importer.add(DumpRecord {
            annotation_id: annotation_ids[idx],
            image_id: image_ids[idx],
            image_size: None,
            seen_image: SeenImage::NotStated,
            pixel_means: None,
            rect_in_image: RectInImage { x0: roi[0], y0: roi[1], x1: roi[2], y1: roi[3] },
            predicted_iou: scores[idx],
            truth_iou: Some(truth_ious[idx]),
            logits: &logits[idx * grid * grid..][..grid * grid],
        })?;
    }
    importer.finish()
}

/// The start of the words in which these files state what a logit is.
const LOGIT_RULE: &str = "logit = i8 * 0.125";
const LOGIT_STEP: f32 = 0.125;
