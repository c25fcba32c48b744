//! Which anchors are to find which objects.

use sensei_loss::ProposalTargets;
use sensei_tensor::prompts::box_iou;

/// Targets of one image's anchors, `[centre x, centre y, width, height]`, for its objects' boxes of the same form.
///
/// An anchor is to find the object with which it has the largest IoU, if that is at least one half; each object is also found by the anchor that fits
/// it best, of equals the first.
///
/// # Source
/// EfficientDet (arXiv 1911.09070) and its code: threshold 0.5 both ways, `force_match_for_each_row`.
pub fn match_anchors(anchors: &[[f64; 4]], objects: &[[f64; 4]], targets: &mut ProposalTargets) {
    let mut found: Vec<Option<usize>> = vec![None; anchors.len()];
    for (anchor, found) in anchors.iter().zip(&mut found) {
        let ious = objects.iter().map(|object| box_iou(anchor, object)).enumerate();
        let best = ious.fold(None, |best: Option<(usize, f64)>, (idx, iou)| match best {
            Some((_, most)) if most >= iou => best,
            _ => Some((idx, iou)),
        });
        *found = best.filter(|(_, iou)| *iou >= POSITIVE_IOU).map(|(idx, _)| idx);
    }
    for (idx, object) in objects.iter().enumerate() {
        let ious = anchors.iter().map(|anchor| box_iou(anchor, object)).enumerate();
        let best = ious.fold((0, f64::NEG_INFINITY), |best, (at, iou)| if iou > best.1 { (at, iou) } else { best });
        if best.1 > 0.0 {
            found[best.0] = Some(idx);
        }
    }
    for (anchor, found) in anchors.iter().zip(&found) {
        targets.labels.push(if found.is_some() { 1.0 } else { 0.0 });
        let deltas = found.map_or([0.0; 4], |idx| encoded(anchor, &objects[idx]));
        targets.deltas.extend(deltas.map(|delta| delta as f32));
    }
    targets.n_positive.push(found.iter().flatten().count() as f32);
}

/// A box relative to an anchor.
fn encoded([ax, ay, aw, ah]: &[f64; 4], [x, y, w, h]: &[f64; 4]) -> [f64; 4] {
    [(x - ax) / aw, (y - ay) / ah, (w / aw).ln(), (h / ah).ln()]
}

const POSITIVE_IOU: f64 = 0.5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_anchor_finds_what_fits_it_and_every_object_is_found() {
        let anchors = [[50.0, 50.0, 40.0, 40.0], [150.0, 50.0, 40.0, 40.0], [50.0, 150.0, 40.0, 40.0]];
        // The first fits its anchor by 40 * 30 / 1600; the second is small: its best anchor has an IoU of 1 / 16.
        let objects = [[50.0, 50.0, 40.0, 30.0], [150.0, 55.0, 10.0, 10.0]];
        let mut targets = ProposalTargets::default();
        match_anchors(&anchors, &objects, &mut targets);
        assert_eq!((targets.labels, targets.n_positive), (vec![1.0, 1.0, 0.0], vec![2.0]));
        let quarter = (0.25f64).ln() as f32;
        let expected = [[0.0, 0.0, 0.0, (0.75f64).ln() as f32], [0.0, 0.125, quarter, quarter], [0.0; 4]];
        assert_eq!(targets.deltas, expected.concat());
    }

    #[test]
    fn an_image_without_objects_has_nothing_to_find() {
        let mut targets = ProposalTargets::default();
        match_anchors(&[[5.0, 5.0, 4.0, 4.0]], &[], &mut targets);
        assert_eq!((targets.labels, targets.deltas, targets.n_positive), (vec![0.0], vec![0.0; 4], vec![0.0]));
    }
}
