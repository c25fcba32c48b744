//! Every number of pycocotools, lvis-api and Boundary IoU on generated annotations and detections, see `tests/golden/ap`.

#![allow(clippy::unwrap_used)] // tests

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sensei_data::dataset::Dataset;
use sensei_data::detections::Detections;
use sensei_eval::average_precision::{ApReport, IouKind, Rules, average_precision};
use serde::Deserialize;

const KINDS: [(&str, IouKind); 3] = [("segm", IouKind::Segm), ("bbox", IouKind::Bbox), ("boundary", IouKind::Boundary)];

/// A number by its name; -1 where nothing defines it.
type Numbers = BTreeMap<String, f64>;

#[derive(Deserialize)]
struct Expected {
    summary: Numbers,
    categories: BTreeMap<u64, Numbers>,
}

fn folder(case: &str) -> PathBuf {
    sensei_testing::workspace_root().join("tests/golden/ap").join(case)
}

fn load(case: &str, rules: Rules) -> (Dataset, Detections) {
    let path = folder(case).join("annotations.json");
    let dataset = match rules {
        Rules::Coco => Dataset::load_coco(&path, Path::new("")).unwrap(),
        Rules::Lvis => Dataset::load_lvis(&path, Path::new("")).unwrap(),
    };
    let detections = Detections::load(&folder(case).join("detections.json"), &dataset).unwrap();
    (dataset, detections)
}

fn report(case: &str, rules: Rules) -> ApReport {
    let (dataset, detections) = load(case, rules);
    average_precision(&dataset, &detections, rules, IouKind::Segm).unwrap()
}

fn check_numbers(what: &str, got: &BTreeMap<&'static str, Option<f64>>, expected: &Numbers) {
    let names: Vec<&str> = expected.keys().map(String::as_str).collect();
    assert_eq!(got.keys().copied().collect::<Vec<_>>(), names, "{what}");
    for (name, expected) in expected {
        let got = got[name.as_str()].unwrap_or(-1.0);
        assert!((got - expected).abs() <= 1e-12, "{what}: {name}: got {got}, expected {expected}");
    }
}

fn check(case: &str, rules: Rules) {
    let (dataset, detections) = load(case, rules);
    let expected = fs::read(folder(case).join("expected.json")).unwrap();
    let expected: BTreeMap<String, Expected> = serde_json::from_slice(&expected).unwrap();
    for (name, iou) in KINDS {
        let got = average_precision(&dataset, &detections, rules, iou).unwrap();
        check_numbers(&format!("{case}, {name}"), &got.summary, &expected[name].summary);
        let ids: Vec<u64> = expected[name].categories.keys().copied().collect();
        assert_eq!(got.categories.iter().map(|category| category.id).collect::<Vec<_>>(), ids, "{case}, {name}");
        for category in &got.categories {
            let what = format!("{case}, {name}, category {}", category.id);
            check_numbers(&what, &category.scores, &expected[name].categories[&category.id]);
        }
    }
}

#[test]
fn crowds_ties_and_empty_classes() {
    check("coco", Rules::Coco);
}

#[test]
fn sizes_by_the_boxes_of_detections() {
    check("coco_boxes", Rules::Coco);
    assert_eq!(report("coco_boxes", Rules::Coco).detection_area_of, "box");
}

#[test]
fn more_detections_than_coco_scores() {
    check("coco_many", Rules::Coco);
    assert!(report("coco_many", Rules::Coco).counts.n_detections_beyond_limit > 0);
}

#[test]
fn annotation_with_id_0_is_never_found() {
    check("coco_id_0", Rules::Coco);
    check("lvis_id_0", Rules::Lvis);
    assert_eq!(report("coco_id_0", Rules::Coco).counts.n_annotations_with_id_0, 1);
}

#[test]
fn federated_annotations() {
    check("lvis", Rules::Lvis);
    let counts = report("lvis", Rules::Lvis).counts;
    assert!(counts.n_detections_unverified > 0 && counts.n_annotations_without_area > 0);
    assert!(counts.n_detections_without_area > 0);
}

#[test]
fn federated_sizes_by_the_boxes_of_detections() {
    check("lvis_boxes", Rules::Lvis);
}

#[test]
fn more_detections_than_lvis_scores() {
    check("lvis_many", Rules::Lvis);
    assert!(report("lvis_many", Rules::Lvis).counts.n_detections_beyond_limit > 0);
}
