//! COCO's and LVIS's average precision, by the numbers of pycocotools and lvis-api.
//!
//! `docs/metrics.md` has the definitions, and every quirk of the two packages that is reproduced.

use std::collections::BTreeMap;

use rayon::prelude::*;
use sensei_data::dataset::{Dataset, DatasetError, Frequency};
use sensei_data::detections::{DetectionError, Detections};
use serde::Serialize;

use cell::{Cell, ImageCells, Images};
use curve::CategoryCurve;

mod cell;
mod curve;
mod matching;
mod overlap;
mod table;

/// Whose rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rules {
    /// pycocotools' `COCOeval`: crowd regions, the 100 best detections of a category in an image.
    Coco,
    /// lvis-api's `LVISEval`: categories verified per image, the 300 best detections of an image.
    Lvis,
}

/// What the overlap of a detection and a truth is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IouKind {
    /// Of masks.
    Segm,
    /// Of boxes.
    Bbox,
    /// The smaller of mask IoU and boundary IoU.
    Boundary,
}

/// Every number of an evaluation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ApReport {
    /// Whose rules.
    pub rules: Rules,
    /// Which overlap.
    pub iou: IouKind,
    /// BLAKE3 of the annotation file, hexadecimal.
    pub annotations: String,
    /// BLAKE3 of the result file, hexadecimal.
    pub detections: String,
    /// What a detection's size is for the S, M and L numbers: its box's area if the file has boxes, otherwise its mask's.
    pub detection_area_of: &'static str,
    /// What went in and what was left out.
    pub counts: Counts,
    /// Over all categories; `None` where no truth defines a number (the packages print -1).
    pub summary: BTreeMap<&'static str, Option<f64>>,
    /// By category id.
    pub categories: Vec<CategoryReport>,
}

/// One category's numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CategoryReport {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Truths that can be found: no crowd regions.
    pub n_truths: u64,
    /// As in [`ApReport::summary`], without the groups by frequency.
    pub scores: BTreeMap<&'static str, Option<f64>>,
}

/// What went in, and what has no say in the numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Images of the annotation file.
    pub n_images: u64,
    /// Of these, without a truth.
    pub n_images_without_truths: u64,
    /// Categories of the annotation file.
    pub n_categories: u64,
    /// Of these, without a truth that can be found: they are in no mean.
    pub n_categories_without_truths: u64,
    /// Annotations, crowd regions included.
    pub n_annotations: u64,
    /// COCO: crowd regions. They are never missed, and what lies in them is no mistake.
    pub n_crowd_regions: u64,
    /// Detections of the result file.
    pub n_detections: u64,
    /// COCO: beyond the 100 best of a category in an image. LVIS: beyond the 300 best of an image.
    pub n_detections_beyond_limit: u64,
    /// LVIS: of a category that is neither annotated nor verified to be absent in the image.
    pub n_detections_unverified: u64,
    /// LVIS: annotations of area 0, which lvis-api never sees.
    pub n_annotations_without_area: u64,
    /// LVIS: detections of area 0, which lvis-api never sees.
    pub n_detections_without_area: u64,
    /// Annotations with id 0: both packages take a detection that finds one for a mistake.
    pub n_annotations_with_id_0: u64,
}

/// An evaluation that cannot be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApError {
    /// A truth without a mask.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// A detection without the mask that is asked for, or with a broken one.
    #[error(transparent)]
    Detections(#[from] DetectionError),
}

/// Scores detections against annotations.
///
/// LVIS's rules need a dataset of [`Dataset::load_lvis`]: only there do images say which categories were looked for.
///
/// # Panics
/// If `detections` were not read for `dataset`.
/// # Source
/// pycocotools 2.0.11 `cocoeval.py`; lvis-api 0.5.3 `eval.py`, `results.py`; for boundaries Cheng et al., CVPR 2021.
pub fn average_precision(
    dataset: &Dataset,
    detections: &Detections,
    rules: Rules,
    iou: IouKind,
) -> Result<ApReport, ApError> {
    let images = Images::new(dataset, detections, rules, iou);
    // All images are done before the first error is taken, so that it is the same one for any number of threads.
    let scored: Vec<Result<ImageCells, ApError>> = images.in_order().par_iter().map(|&idx| images.score(idx)).collect();
    let mut counts = count(dataset, detections, rules);
    let mut cells: Vec<Vec<Cell>> = dataset.categories.iter().map(|_| Vec::new()).collect();
    for scored in scored {
        let scored = scored?;
        counts.n_detections_beyond_limit += scored.n_beyond_limit;
        counts.n_detections_unverified += scored.n_unverified;
        counts.n_detections_without_area += scored.n_detections_without_area;
        counts.n_annotations_without_area += scored.n_annotations_without_area;
        for cell in scored.cells {
            cells[cell.category_idx].push(cell);
        }
    }
    let curves: Vec<CategoryCurve> = cells.par_iter().map(|cells| CategoryCurve::new(cells)).collect();
    counts.n_categories_without_truths = curves.iter().filter(|curve| curve.n_truths == 0).count() as u64;

    let names = names(rules);
    let every: Vec<&CategoryCurve> = curves.iter().collect();
    let mut summary: BTreeMap<_, _> = names.iter().map(|(name, number)| (*name, number.over(&every))).collect();
    if rules == Rules::Lvis {
        for (name, frequency) in [("APr", Frequency::Rare), ("APc", Frequency::Common), ("APf", Frequency::Frequent)] {
            let of_group = dataset.categories.iter().zip(&curves).filter(|(of, _)| of.frequency == Some(frequency));
            let of_group: Vec<&CategoryCurve> = of_group.map(|(_, curve)| curve).collect();
            summary.insert(name, AP.over(&of_group));
        }
    }
    let category = |(category, curve): (&sensei_data::dataset::Category, &CategoryCurve)| CategoryReport {
        id: category.id,
        name: category.name.clone(),
        n_truths: curve.n_truths,
        scores: names.iter().map(|(name, number)| (*name, number.over(&[curve]))).collect(),
    };
    let mut categories: Vec<CategoryReport> = dataset.categories.iter().zip(&curves).map(category).collect();
    categories.sort_by_key(|category| category.id);
    let hexadecimal = |digest: [u8; 32]| blake3::Hash::from_bytes(digest).to_hex().to_string();
    Ok(ApReport {
        rules,
        iou,
        annotations: hexadecimal(dataset.digest),
        detections: hexadecimal(detections.digest),
        detection_area_of: if detections.has_boxes { "box" } else { "mask" },
        counts,
        summary,
        categories,
    })
}

impl ApReport {
    /// The table that people read.
    pub fn table(&self) -> String {
        table::table(self)
    }
}

/// Squares of sides in pixels; both ends belong to a range.
const AREAS: [(&str, [f64; 2]); 4] =
    [("all", [0.0, 1e10]), ("small", [0.0, 1024.0]), ("medium", [1024.0, 9216.0]), ("large", [9216.0, 1e10])];
/// Of IoU: .50, .55, .. .95.
const N_THRESHOLDS: usize = 10;
/// COCO's limits of detections of a category in an image.
const COCO_LIMITS: [usize; 3] = [1, 10, 100];
/// LVIS's limit of detections of an image.
const LVIS_LIMIT: usize = 300;

/// numpy's `linspace(.5, .95, 10)`, to the bit.
fn iou_thresholds() -> [f64; N_THRESHOLDS] {
    let step = (0.95 - 0.5) / 9.0;
    std::array::from_fn(|idx| if idx == 9 { 0.95 } else { idx as f64 * step + 0.5 })
}

/// A mean over categories and thresholds.
#[derive(Debug, Clone, Copy)]
enum Number {
    /// Of precision: which of [`AREAS`], and which threshold if not all.
    Precision(usize, Option<usize>),
    /// Of recall: which of [`AREAS`].
    Recall(usize),
    /// Of recall with fewer detections: which of [`COCO_LIMITS`].
    RecallAt(usize),
}

const AP: Number = Number::Precision(0, None);

fn names(rules: Rules) -> Vec<(&'static str, Number)> {
    let mut names = vec![
        ("AP", AP),
        ("AP50", Number::Precision(0, Some(0))),
        ("AP75", Number::Precision(0, Some(5))),
        ("APs", Number::Precision(1, None)),
        ("APm", Number::Precision(2, None)),
        ("APl", Number::Precision(3, None)),
    ];
    names.extend(match rules {
        Rules::Coco => vec![
            ("AR@1", Number::RecallAt(0)),
            ("AR@10", Number::RecallAt(1)),
            ("AR@100", Number::Recall(0)),
            ("ARs@100", Number::Recall(1)),
            ("ARm@100", Number::Recall(2)),
            ("ARl@100", Number::Recall(3)),
        ],
        Rules::Lvis => vec![
            ("AR@300", Number::Recall(0)),
            ("ARs@300", Number::Recall(1)),
            ("ARm@300", Number::Recall(2)),
            ("ARl@300", Number::Recall(3)),
        ],
    });
    names
}

impl Number {
    fn over(self, curves: &[&CategoryCurve]) -> Option<f64> {
        let values: Vec<f64> = curves.iter().filter_map(|curve| self.of(curve)).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    fn of(self, curve: &CategoryCurve) -> Option<f64> {
        let mean = |values: [f64; N_THRESHOLDS]| values.iter().sum::<f64>() / N_THRESHOLDS as f64;
        match self {
            Number::Precision(area, None) => curve.precision[area].map(mean),
            Number::Precision(area, Some(threshold)) => curve.precision[area].map(|values| values[threshold]),
            Number::Recall(area) => curve.recall[area].map(mean),
            Number::RecallAt(limit) => curve.recall_at_limit[limit].map(mean),
        }
    }
}

fn count(dataset: &Dataset, detections: &Detections, rules: Rules) -> Counts {
    let mut has_truth = vec![false; dataset.images.len()];
    dataset.instances.iter().for_each(|instance| has_truth[instance.image_idx] = true);
    let crowds = dataset.instances.iter().filter(|instance| rules == Rules::Coco && instance.is_crowd).count();
    Counts {
        n_images: dataset.images.len() as u64,
        n_images_without_truths: has_truth.iter().filter(|has_truth| !**has_truth).count() as u64,
        n_categories: dataset.categories.len() as u64,
        n_annotations: dataset.instances.len() as u64,
        n_crowd_regions: crowds as u64,
        n_detections: detections.items.len() as u64,
        n_annotations_with_id_0: dataset.instances.iter().filter(|instance| instance.id == 0).count() as u64,
        ..Counts::default()
    }
}
