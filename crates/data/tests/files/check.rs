use std::path::Path;

use sensei_data::check::check;
use sensei_data::dataset::Dataset;
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
    assert_eq!((quick.n_missing_files, quick.n_decoded_images, quick.n_broken_images), (1, 0, 0));
    assert_eq!(Path::new(&quick.annotations), at("file.json"));
}
