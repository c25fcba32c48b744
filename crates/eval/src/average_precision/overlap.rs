//! IoU of detections and truths, without decoding a mask.

use std::cell::OnceCell;

use sensei_data::boundary::{boundary, boundary_distance};
use sensei_data::rle::Rle;

use super::IouKind;

/// A box or a mask, with what a quick look needs.
pub(super) struct Outline {
    bbox: [f64; 4],
    /// In square pixels.
    pub(super) area: f64,
    mask: Option<Rle>,
    /// Found when a comparison needs it, which few do.
    boundary: OnceCell<Rle>,
}

impl Outline {
    pub(super) fn of_box(bbox: [f64; 4]) -> Self {
        Self { bbox, area: bbox[2] * bbox[3], mask: None, boundary: OnceCell::new() }
    }

    pub(super) fn of_mask(mask: Rle) -> Self {
        Self { bbox: mask.bbox(), area: mask.area() as f64, mask: Some(mask), boundary: OnceCell::new() }
    }

    fn boundary(&self, mask: &Rle) -> &Rle {
        self.boundary.get_or_init(|| boundary(mask, boundary_distance(mask.size())))
    }
}

/// The IoU of each detection with each truth, of which the flag says whether it is a crowd region. An IoU of masks below .5,
/// where no threshold is, may come as 0.
pub(super) fn overlaps<'a>(
    kind: IouKind,
    detections: impl Iterator<Item = &'a Outline>,
    truths: &[(&Outline, bool)],
) -> Vec<Vec<f64>> {
    let row =
        |detection: &Outline| truths.iter().map(|(truth, crowd)| overlap(kind, detection, truth, *crowd)).collect();
    detections.map(row).collect()
}

fn overlap(kind: IouKind, detection: &Outline, truth: &Outline, crowd: bool) -> f64 {
    let common = common_area(detection.bbox, truth.bbox);
    if common <= 0.0 {
        return 0.0;
    }
    let (Some(mask), Some(of_truth)) = (&detection.mask, &truth.mask) else {
        return common / if crowd { detection.area } else { detection.area + truth.area - common };
    };
    // The intersection is at most what boxes and areas leave room for.
    let most = common.min(detection.area).min(truth.area);
    let least_union = if crowd { detection.area } else { detection.area + truth.area - most };
    if 2.0 * most < least_union {
        return 0.0;
    }
    let intersection = mask.intersection_area(of_truth) as f64;
    let union = if crowd { detection.area } else { detection.area + truth.area - intersection };
    let iou = if intersection == 0.0 { 0.0 } else { intersection / union };
    if kind == IouKind::Segm || crowd || iou < 0.5 {
        return iou;
    }
    iou.min(detection.boundary(mask).iou(truth.boundary(of_truth), false))
}

/// Of two boxes `[x, y, width, height]`, with the operations of pycocotools' `bbIou` in their order.
fn common_area(a: [f64; 4], b: [f64; 4]) -> f64 {
    let width = (a[2] + a[0]).min(b[2] + b[0]) - a[0].max(b[0]);
    let height = (a[3] + a[1]).min(b[3] + b[1]) - a[1].max(b[1]);
    if width <= 0.0 || height <= 0.0 { 0.0 } else { width * height }
}
