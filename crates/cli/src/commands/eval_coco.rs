//! `eval-coco`.

use std::path::Path;

use sensei_data::dataset::{Dataset, LoadOptions};
use sensei_data::detections::Detections;
use sensei_eval::average_precision::{IouKind, Rules, average_precision};

use crate::arguments::{AnnotationFormat, Compared};
use crate::phases::data::{check_annotated, is_json_list};
use crate::progress::say;
use crate::usage;
use sensei_files::whole::write_whole;

/// Prints the table and writes every number to `out`.
///
/// # Errors
/// Annotations or detections that cannot be read, or of which one is not what the format prescribes.
pub fn eval_coco(
    annotations: &Path,
    detections: &Path,
    format: AnnotationFormat,
    compared: Compared,
    out: Option<&Path>,
) -> anyhow::Result<()> {
    // What cannot be read is said by who needs it.
    let (first_is_list, second_is_none) = (is_json_list(annotations), is_json_list(detections).map(|is| !is));
    if first_is_list.unwrap_or(false) && second_is_none.unwrap_or(false) {
        let [first, second] = [annotations, detections].map(Path::display);
        let expected = "expected the annotation file first and the result file, a list, second";
        return Err(usage(anyhow::anyhow!("{expected}; found the list in {first}, and {second} is none")));
    }
    // No image is opened: annotations say how large they are.
    let options = LoadOptions { needs_masks: compared != Compared::Bbox, ..LoadOptions::default() };
    let dataset = match format {
        AnnotationFormat::Coco => Dataset::load_coco_with(annotations, Path::new(""), options)?,
        AnnotationFormat::Lvis => Dataset::load_lvis_with(annotations, Path::new(""), options)?,
    };
    check_annotated(&dataset)?;
    let detections = Detections::load(detections, &dataset)?;
    let rules = match format {
        AnnotationFormat::Coco => Rules::Coco,
        AnnotationFormat::Lvis => Rules::Lvis,
    };
    let iou = match compared {
        Compared::Segm => IouKind::Segm,
        Compared::Bbox => IouKind::Bbox,
        Compared::Boundary => IouKind::Boundary,
    };
    let report = average_precision(&dataset, &detections, rules, iou)?;
    say(report.table().trim_end());
    if let Some(out) = out {
        let mut json = serde_json::to_vec_pretty(&report)?;
        json.push(b'\n');
        write_whole(out, &json)?;
    }
    Ok(())
}
