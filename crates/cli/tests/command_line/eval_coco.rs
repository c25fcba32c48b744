//! `eval-coco` on the golden cases of average precision.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::Place;

fn golden(file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/ap").join(file);
    path.to_str().unwrap().to_string()
}

fn check(case: &str, format: &str, iou: &str, counted: &[&str]) {
    let place = Place::new();
    let (annotations, detections) =
        (golden(&format!("{case}/annotations.json")), golden(&format!("{case}/detections.json")));
    let arguments = ["eval-coco", &annotations, &detections, "--format", format, "--iou", iou, "--out", "ap.json"];
    let table = place.does(&arguments);
    let report: Value = serde_json::from_slice(&fs::read(place.path("ap.json")).unwrap()).unwrap();
    let expected: Value = serde_json::from_slice(&fs::read(golden(&format!("{case}/expected.json"))).unwrap()).unwrap();
    for (name, expected) in expected[iou]["summary"].as_object().unwrap() {
        let (got, expected) = (report["summary"][name].as_f64().unwrap_or(-1.0), expected.as_f64().unwrap());
        assert!((got - expected).abs() < 1e-12, "{case} {iou} {name}: got {got}, expected {expected}");
        let shown = if expected < 0.0 { String::from("no truth") } else { format!("{expected:.4}") };
        let line = format!("{name:<8} {shown}");
        assert!(table.lines().any(|found| found == line), "{case} {iou}: expected the line {line:?} in\n{table}");
    }
    for words in counted {
        assert!(table.contains(words), "{case} {iou}: expected {words:?} in\n{table}");
    }
}

#[test]
fn numbers_and_counts_of_coco() {
    let counted = [
        "crowd regions",
        "categories without a truth to find",
        "images without annotations",
        "by the area of their mask",
    ];
    check("coco", "coco", "segm", &counted);
    check("coco_many", "coco", "boundary", &["detections beyond the 100 best"]);
    check("coco_boxes", "coco", "bbox", &["by the area of their box"]);
}

#[test]
fn numbers_and_counts_of_lvis() {
    check("lvis", "lvis", "segm", &["detections of categories not verified", "annotations of area 0"]);
    check("lvis_many", "lvis", "bbox", &["detections beyond the 300 best"]);
}

#[test]
fn broken_detections_leave_no_report() {
    let place = Place::new();
    let annotations = golden("coco/annotations.json");
    let sound = fs::read_to_string(golden("coco/detections.json")).unwrap();
    let check = |edit: &dyn Fn(&mut Value), words: &[&str]| {
        let mut detections: Value = serde_json::from_str(&sound).unwrap();
        edit(&mut detections[3]);
        fs::write(place.path("found.json"), detections.to_string()).unwrap();
        let words = [&["found.json: detection 3: "], words].concat();
        place.refuses(&["eval-coco", &annotations, "found.json", "--out", "ap.json"], 1, &words);
        assert!(!place.path("ap.json").exists());
    };
    check(&|item| item["image_id"] = 4711.into(), &["image_id", "of the 12 images", "found 4711"]);
    check(&|item| item["category_id"] = 1.into(), &["category_id", "of the 6 categories", "found 1"]);
    check(&|item| item["score"] = Value::Null, &["found", "null"]);
    check(&|item| item["segmentation"]["counts"] = "0".into(), &["runs cover 0 pixels"]);
    check(&|item| item["segmentation"]["size"] = serde_json::json!([2, 2]), &["of its image's size", "found 2 x 2"]);
    place.refuses(&["eval-coco", &annotations, "none.json"], 1, &["none.json: cannot read detections"]);
    place.refuses(&["eval-coco", "none.json", "none.json"], 1, &["none.json: cannot read annotations"]);
    let lvis = ["eval-coco", &annotations, "found.json", "--format", "lvis"];
    place.refuses(&lvis, 1, &["neg_category_ids: expected a list, as LVIS files have"]);
}
