//! The report as plain text.

use super::{ApReport, IouKind, Rules, names};

pub(super) fn table(report: &ApReport) -> String {
    let (rules, others) = match report.rules {
        Rules::Coco => ("COCO", [].as_slice()),
        Rules::Lvis => ("LVIS", ["APr", "APc", "APf"].as_slice()),
    };
    let iou = match report.iou {
        IouKind::Segm => "masks",
        IouKind::Bbox => "boxes",
        IouKind::Boundary => "boundaries (the smaller of mask and boundary IoU)",
    };
    let mut lines = vec![format!("{rules} average precision of {iou}")];
    let counts = &report.counts;
    let always = [
        ("images", counts.n_images),
        ("annotations", counts.n_annotations),
        ("categories", counts.n_categories),
        ("detections", counts.n_detections),
    ];
    let limit = match report.rules {
        Rules::Coco => "detections beyond the 100 best of their category in their image, not scored",
        Rules::Lvis => "detections beyond the 300 best of their image, not scored",
    };
    let if_any = [
        ("images without annotations", counts.n_images_without_truths),
        ("categories without a truth to find, in no mean", counts.n_categories_without_truths),
        ("crowd regions", counts.n_crowd_regions),
        (limit, counts.n_detections_beyond_limit),
        ("detections of categories not verified in their image, not scored", counts.n_detections_unverified),
        ("annotations of area 0, not scored", counts.n_annotations_without_area),
        ("detections of area 0, not scored", counts.n_detections_without_area),
        ("annotation with id 0: found, it counts as a mistake", counts.n_annotations_with_id_0),
    ];
    let if_any = if_any.into_iter().filter(|(_, n)| *n > 0);
    lines.extend(always.into_iter().chain(if_any).map(|(what, n)| format!("{n:>9} {what}")));
    lines.push(format!("small, medium, large detections: by the area of their {}", report.detection_area_of));
    let names = names(report.rules).into_iter().map(|(name, _)| name).chain(others.iter().copied());
    for name in names {
        let value = report.summary.get(name).copied().flatten();
        lines.push(format!("{name:<8} {}", value.map_or(String::from("no truth"), |value| format!("{value:.4}"))));
    }
    lines.join("\n") + "\n"
}
