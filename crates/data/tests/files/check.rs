use std::path::Path;

use sensei_data::check::{CheckReport, check};
use sensei_data::dataset::{Dataset, LoadOptions, UnusableRule};
use sensei_data::geometry::Size;
use sensei_data::image_file::{RgbImage, encode_png};
use sensei_testing::shared_dir;

#[test]
fn the_shared_coco_sample_has_the_counts_of_its_readme() {
    let Some(shared) = shared_dir("the_shared_coco_sample_has_the_counts_of_its_readme") else { return };
    let report = |split: &str| {
        let coco = shared.join("data/coco");
        let annotations = coco.join(format!("annotations/instances_{split}.json"));
        check(&Dataset::load_coco(&annotations, &coco.join("images").join(split)).unwrap(), true)
    };
    let val = report("val");
    assert_eq!((val.n_images, val.n_decoded_images, val.n_instances, val.n_crowd), (99, 99, 916, 11));
    assert_eq!((val.n_small, val.n_medium, val.n_large, val.n_multi_part), (397, 332, 187, 80));
    assert_eq!((val.n_missing_files, val.n_broken_images, val.n_wrong_sizes), (0, 0, 0));
    assert_eq!((val.n_run_length_encoded, val.n_categories), (11, 80));
    let train = report("train");
    assert_eq!((train.n_images, train.n_decoded_images, train.n_instances, train.n_crowd), (296, 296, 2609, 31));
    assert_eq!((train.n_small, train.n_medium, train.n_large, train.n_multi_part), (1136, 898, 575, 198));
    assert_eq!((train.n_boxes_off_mask, val.n_boxes_off_mask), (45, 11));
    assert_eq!((train.problems, val.problems), (vec![], vec![]));
}

const BROKEN: &str = r#"{"categories": [{"id": 3, "name": "cup"}, {"id": 4, "name": "dog"}],
"images": [{"id": 1, "width": 8, "height": 6, "file_name": "missing.png"},
           {"id": 2, "width": 8, "height": 6, "file_name": "cut.png"},
           {"id": 3, "width": 8, "height": 6, "file_name": "other_size.png"},
           {"id": 4, "width": 8, "height": 6, "file_name": "good.png"}],
"annotations": [
 {"id": 11, "image_id": 4, "category_id": 3, "bbox": [1, 1, 3, 3], "area": 9, "segmentation": [[1,1,4,1,4,4,1,4]]},
 {"id": 12, "image_id": 4, "category_id": 3, "bbox": [9, 9, 2, 2], "area": 4, "segmentation": [[9,9,11,9,11,11]]},
 {"id": 13, "image_id": 3, "category_id": 3, "bbox": [1, 1, 3, 0], "area": 0, "segmentation": [[1,1,4,1,4,1,1,1]]},
 {"id": 14, "image_id": 3, "category_id": 3, "bbox": [4, 1, 3, 3], "area": 9, "segmentation": [[1,1,4,1,4,4,1,4]]},
 {"id": 15, "image_id": 3, "category_id": 3, "bbox": [0, 0, 1, 1], "area": 9, "iscrowd": 1,
  "segmentation": {"size": [6, 8], "counts": [48]}}]}"#;

#[test]
fn each_kind_of_problem_is_counted_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let png = |width, height| {
        encode_png(&RgbImage { size: Size { width, height }, pixels: vec![9; (width * height * 3) as usize] })
    };
    std::fs::write(at("file.json"), BROKEN).unwrap();
    std::fs::write(at("cut.png"), &png(8, 6)[..50]).unwrap();
    std::fs::write(at("other_size.png"), png(6, 8)).unwrap();
    std::fs::write(at("good.png"), png(8, 6)).unwrap();
    let dataset = Dataset::load_coco(&at("file.json"), dir.path()).unwrap();

    let report = check(&dataset, true);
    assert_eq!((report.n_missing_files, report.n_broken_images, report.n_wrong_sizes), (1, 1, 1));
    assert_eq!((report.n_decoded_images, report.n_images_without_instances), (2, 2));
    assert_eq!((report.n_instances, report.n_crowd, report.n_run_length_encoded), (4, 1, 1));
    assert_eq!((report.n_empty_masks, report.n_boxes_without_area), (2, 1));
    assert_eq!((report.n_boxes_outside, report.n_boxes_off_mask), (1, 1));
    assert_eq!(report.instances_by_category.into_iter().collect::<Vec<_>>(), [("cup".into(), 4), ("dog".into(), 0)]);
    let names = report.problems.iter().map(|line| line.replace(&format!("{}/", dir.path().display()), ""));
    let lines: Vec<String> = names.collect();
    assert_eq!(report.n_problems, 5);
    assert_eq!(lines[0], "missing.png: image 1 is missing");
    assert!(lines[1].starts_with("cut.png: cannot decode PNG: "), "{}", lines[1]);
    assert_eq!(lines[2], "other_size.png: image 3: expected 8 x 6, found 6 x 8");
    let box_12 = "annotation 12: mask without a pixel, box outside of the image, box [9.0, 9.0, 2.0, 2.0], image 8 x 6";
    assert_eq!(lines[3], box_12);
    assert_eq!(
        lines[4],
        "annotation 13: mask without a pixel, box without area, box [1.0, 1.0, 3.0, 0.0], image 8 x 6"
    );

    let quick = check(&dataset, false);
    // A header is read in any case, and a cut file has one.
    assert_eq!((quick.n_missing_files, quick.n_decoded_images, quick.n_broken_images), (1, 0, 0));
    assert_eq!(quick.n_wrong_sizes, 1);
    assert_eq!(Path::new(&quick.annotations), at("file.json"));
}

/// A file whose four annotations are drawn alike, as `edit` changes it.
fn checked(edit: impl FnOnce(&mut serde_json::Value), images: &[(&str, Vec<u8>)]) -> CheckReport {
    let annotation = |id: u64, x: u64| {
        serde_json::json!({"id": id, "image_id": 1 + id % 2, "category_id": 1, "bbox": [x, 1, 8, 8], "area": 64, "iscrowd": 0,
            "segmentation": [[x, 1, x + 8, 1, x + 8, 9, x, 9]]})
    };
    let mut file = serde_json::json!({
        "images": [{"id": 1, "width": 40, "height": 20, "file_name": "a.png"},
                   {"id": 2, "width": 40, "height": 20, "file_name": "b.png"}],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": [annotation(11, 1), annotation(12, 2), annotation(13, 12), annotation(14, 20)],
    });
    edit(&mut file);
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in images {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let path = dir.path().join("file.json");
    std::fs::write(&path, file.to_string()).unwrap();
    let options = LoadOptions { unusable: UnusableRule::LeaveOut, ..LoadOptions::default() };
    let mut report = check(&Dataset::load_coco_with(&path, dir.path(), options).unwrap(), true);
    for line in report.problems.iter_mut().chain(&mut report.notes) {
        *line = line.replace(&format!("{}/", dir.path().display()), "");
    }
    report
}

fn png() -> Vec<u8> {
    encode_png(&RgbImage { size: Size { width: 40, height: 20 }, pixels: vec![9; 40 * 20 * 3] })
}

/// With an Exif chunk in front of the pixels.
fn turned(orientation: u8) -> Vec<u8> {
    let mut body = b"eXIfMM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    body.extend([orientation, 0, 0, 0, 0, 0, 0]);
    let mut chunk = (body.len() as u32 - 4).to_be_bytes().to_vec();
    chunk.extend(&body);
    // Check sums of chunks that are not needed are not looked at.
    chunk.extend([0; 4]);
    let mut file = png();
    file.splice(33..33, chunk);
    file
}

fn both() -> [(&'static str, Vec<u8>); 2] {
    [("a.png", png()), ("b.png", png())]
}

#[test]
fn a_sound_file_has_neither_problems_nor_notes() {
    let report = checked(|_| (), &both());
    assert_eq!((report.problems, report.notes), (vec![], vec![]));
    assert_eq!((report.n_instances, report.n_unusable), (4, 0));
}

#[test]
fn unusable_annotations_are_all_named_and_the_rest_counted() {
    let report = checked(
        |file| {
            file["annotations"][0]["segmentation"] = serde_json::json!([]);
            file["annotations"][2]["segmentation"][0] = serde_json::json!([1, 1, 2, 2]);
        },
        &both(),
    );
    assert_eq!((report.n_instances, report.n_unusable), (2, 2));
    assert_eq!(
        report.problems,
        [
            "annotation 11: expected at least 1 polygon, found none",
            "annotation 13: polygon 0: expected an even number of at least 6 coordinates, found 4",
        ]
    );
}

#[test]
fn turned_pictures_are_noted() {
    let report = checked(|_| (), &[("a.png", turned(6)), ("b.png", turned(1))]);
    assert_eq!(report.n_turned_images, 1);
    assert_eq!(report.notes, ["a.png: Exif orientation 6: viewers turn it, masks lie in the stored pixels"]);
    let report = checked(|file| file["images"][0]["width"] = 20.into(), &[("a.png", turned(8)), ("b.png", png())]);
    assert_eq!(report.problems[0], "a.png: image 1: expected 20 x 20, found 40 x 20, Exif orientation 8");
}

#[test]
fn crowds_areas_and_shared_files_are_seen() {
    let crowd = |n: usize| {
        move |file: &mut serde_json::Value| (0..n).for_each(|idx| file["annotations"][idx]["iscrowd"] = 1.into())
    };
    let report = checked(crowd(4), &both());
    assert_eq!(
        report.problems,
        ["4 of 4 annotations are crowd regions (iscrowd 1): none is left to train or score on"]
    );
    let report = checked(crowd(3), &both());
    assert_eq!(
        report.notes,
        ["3 of 4 annotations are crowd regions (iscrowd 1), which are left out; COCO has 1 in 100"]
    );

    let report = checked(|file| file["annotations"][1]["area"] = 1e6.into(), &both());
    assert_eq!((report.n_areas_off_mask, report.n_problems), (1, 0));
    assert_eq!(report.notes, ["annotation 12: area 1000000, but a mask of 64 pixels"]);

    let report = checked(|file| file["images"][1]["file_name"] = "./a.png".into(), &both());
    assert_eq!(report.problems, ["a.png: images 1, 2 are one file"]);

    let again = |file: &mut serde_json::Value| {
        let first = file["annotations"][0]["segmentation"].clone();
        file["annotations"][2]["segmentation"] = first;
    };
    assert_eq!(checked(again, &both()).notes, ["annotation 13: the outline of annotation 11"]);
}

#[test]
fn coordinates_from_0_to_1_are_seen() {
    let normalise = |file: &mut serde_json::Value| {
        for annotation in file["annotations"].as_array_mut().unwrap() {
            annotation["bbox"] = serde_json::json!([0.1, 0.1, 0.2, 0.4]);
            annotation["segmentation"] = serde_json::json!([[0.1, 0.1, 0.3, 0.1, 0.3, 0.5, 0.1, 0.5]]);
        }
    };
    let report = checked(normalise, &both());
    assert_eq!(report.problems[0], "all boxes lie within one pixel: coordinates from 0 to 1 where pixels are expected");
}
