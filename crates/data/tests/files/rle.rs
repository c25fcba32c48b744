use std::path::Path;

use proptest::prelude::*;
use sensei_data::dataset::Dataset;
use sensei_data::geometry::Size;
use sensei_data::mask::Mask;
use sensei_data::polygon::{MAX_COORDINATE, PolygonError, rasterize};
use sensei_data::rle::{Merge, Rle, RleError};
use sensei_testing::{golden, shared_dir, workspace_root};
use serde::Deserialize;
use sha2::{Digest, Sha256};

#[derive(Deserialize)]
struct Cases {
    polygons: Vec<PolygonCase>,
    bitmaps: Vec<BitmapCase>,
    pairs: Vec<PairCase>,
}

#[derive(Deserialize)]
struct PolygonCase {
    name: String,
    width: u32,
    height: u32,
    polygons: Vec<Vec<f64>>,
    rle: String,
    area: u64,
    bbox: [f64; 4],
}

#[derive(Deserialize)]
struct BitmapCase {
    name: String,
    width: u32,
    height: u32,
    bits: String,
    rle: String,
    area: u64,
    bbox: [f64; 4],
}

#[derive(Deserialize)]
struct PairCase {
    width: u32,
    height: u32,
    a: String,
    b: String,
    iou: f64,
    iou_crowd: f64,
    union: String,
    intersection: String,
}

fn cases() -> Cases {
    let text = std::fs::read_to_string(workspace_root().join("tests/golden/rle/cases.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn polygons_are_drawn_as_pycocotools_draws_them() {
    let polygons = cases().polygons;
    assert!(polygons.len() > 400);
    for case in polygons {
        let rle = rasterize(&case.polygons, Size { width: case.width, height: case.height }).unwrap();
        assert_eq!(rle.to_compressed_string(), case.rle, "{}", case.name);
        assert_eq!((rle.area(), rle.bbox()), (case.area, case.bbox), "{}", case.name);
    }
}

#[test]
fn bitmaps_are_encoded_as_pycocotools_encodes_them() {
    for case in cases().bitmaps {
        let size = Size { width: case.width, height: case.height };
        let mask = Mask { size, bits: case.bits.bytes().map(|bit| bit - b'0').collect() };
        let rle = Rle::from_mask(&mask);
        assert_eq!(rle.to_compressed_string(), case.rle, "{}", case.name);
        assert_eq!((rle.area(), rle.bbox()), (case.area, case.bbox), "{}", case.name);
        assert_eq!(Rle::from_compressed_str(size, &case.rle).unwrap().to_mask(), mask, "{}", case.name);
    }
}

#[test]
fn pairs_overlap_and_merge_as_in_pycocotools() {
    for (idx, case) in cases().pairs.into_iter().enumerate() {
        let read =
            |text: &str| Rle::from_compressed_str(Size { width: case.width, height: case.height }, text).unwrap();
        let (a, b) = (read(&case.a), read(&case.b));
        assert_eq!(a.iou(&b, false), case.iou, "pair {idx}");
        assert_eq!(a.iou(&b, true), case.iou_crowd, "pair {idx}");
        let both = [a, b];
        assert_eq!(Rle::merge(&both, Merge::Union), Some(read(&case.union)), "pair {idx}");
        assert_eq!(Rle::merge(&both, Merge::Intersection), Some(read(&case.intersection)), "pair {idx}");
    }
}

#[test]
fn every_shared_annotation_has_the_mask_of_pycocotools() {
    let Some(shared) = shared_dir("every_shared_annotation_has_the_mask_of_pycocotools") else { return };
    let facts = golden("rle");
    let check = |set: &str, load: fn(&Path, &Path) -> Result<Dataset, _>, annotations: &str| {
        let dataset = load(&shared.join("data").join(annotations), Path::new("unused")).unwrap();
        let ids = facts.i64s(&format!("{set}.id"));
        let areas = facts.i64s(&format!("{set}.area"));
        let digests = facts.u8s(&format!("{set}.digest"));
        assert_eq!(dataset.instances.len(), ids.len(), "{set}");
        for (idx, instance) in dataset.instances.iter().enumerate() {
            let rle = dataset.mask(idx).unwrap();
            let digest = Sha256::digest(rle.to_compressed_string());
            let expected = (ids[idx], areas[idx], &digests[idx * 8..idx * 8 + 8]);
            assert_eq!((instance.id as i64, rle.area() as i64, &digest[..8]), expected, "{set}: {}", instance.id);
            assert_eq!(Rle::from_mask(&rle.to_mask()), rle, "{set}: {}", instance.id);
        }
        ids.len()
    };
    let n_annotations = check("coco_train", Dataset::load_coco, "coco/annotations/instances_train.json")
        + check("coco_val", Dataset::load_coco, "coco/annotations/instances_val.json")
        + check("lvis_true_val", Dataset::load_lvis, "coco/annotations/lvis_true_val.json")
        + check("lvis_98", Dataset::load_lvis, "lvis/lvis_val_98_annotations_only.json")
        + check("lite480_train", Dataset::load_coco, "coco_lite480/annotations/instances_train.json")
        + check("lite480_val", Dataset::load_coco, "coco_lite480/annotations/instances_val.json");
    assert_eq!(n_annotations, 2640 + 927 + 9 + 973 + 865 + 196);
}

const SIZE: Size = Size { width: 4, height: 3 };

#[test]
fn runs_must_end_where_the_mask_ends() {
    let sum = |found| Err(RleError::Sum { size: SIZE, expected: 12, found });
    assert_eq!(Rle::from_counts(SIZE, &[5, 6]), sum(11));
    assert_eq!(Rle::from_counts(SIZE, &[5, 8]), sum(13));
    assert_eq!(Rle::from_counts(SIZE, &[]), sum(0));
    assert_eq!(Rle::from_counts(SIZE, &[u32::MAX, u32::MAX, u32::MAX]), sum(u64::from(u32::MAX)));
    assert_eq!(Rle::from_compressed_str(SIZE, ""), sum(0));
    let text = Rle::from_counts(SIZE, &[5, 7]).unwrap().to_compressed_string();
    assert!(matches!(Rle::from_compressed_str(Size { width: 5, height: 3 }, &text), Err(RleError::Sum { .. })));
    assert!(matches!(Rle::from_compressed_str(Size { width: 3, height: 3 }, &text), Err(RleError::Sum { .. })));
}

#[test]
fn empty_runs_are_joined() {
    let rle = Rle::from_counts(SIZE, &[2, 0, 3, 4, 0, 0, 0, 3]).unwrap();
    assert_eq!(rle.counts(), [5, 7]);
    assert_eq!(Rle::from_counts(SIZE, &[0, 12]).unwrap().counts(), [0, 12]);
}

#[test]
fn damaged_strings_are_errors() {
    let read = |text: &str| Rle::from_compressed_str(SIZE, text);
    assert_eq!(read("5 7"), Err(RleError::Character { at: 1, found: b' ' }));
    assert_eq!(read("5p7"), Err(RleError::Character { at: 1, found: b'p' }));
    assert_eq!(read("é"), Err(RleError::Character { at: 0, found: 0xc3 }));
    assert_eq!(read("5P"), Err(RleError::Run { run_idx: 1, at: 2 }), "cut inside of a number");
    assert_eq!(read("5oooooooooooo0"), Err(RleError::Run { run_idx: 1, at: 8 }), "more than 32 bits");
    assert_eq!(read("@"), Err(RleError::Run { run_idx: 0, at: 1 }), "negative");
}

#[test]
fn sizes_are_limited() {
    let side = 1 << 16;
    for size in [Size { width: 0, height: 3 }, Size { width: 3, height: 0 }, Size { width: side, height: side }] {
        assert_eq!(Rle::from_counts(size, &[0]), Err(RleError::Size { size }));
        assert_eq!(Rle::empty(size), Err(RleError::Size { size }));
        assert_eq!(rasterize(&[[0.0; 6]], size), Err(PolygonError::Size(RleError::Size { size })));
    }
    let largest = Size { width: side - 1, height: side };
    assert_eq!(rasterize(&[[0.0, 0.0, 9e4, 0.0, 9e4, 9e4, 0.0, 9e4]], largest).unwrap().area(), 4_294_901_760);
}

#[test]
fn polygons_that_are_none_are_errors() {
    assert_eq!(rasterize::<Vec<f64>>(&[], SIZE), Err(PolygonError::NoPolygon));
    let n_coordinates = |polygon: &[f64]| rasterize(&[&[0.0; 6], polygon], SIZE);
    for found in [0, 2, 4, 5, 7] {
        let expected = PolygonError::NumCoordinates { polygon_idx: 1, found };
        assert_eq!(n_coordinates(&vec![1.0; found]), Err(expected));
    }
    for found in [f64::INFINITY, -1e300, MAX_COORDINATE + 1.0] {
        let expected = PolygonError::Coordinate { polygon_idx: 0, found };
        assert_eq!(rasterize(&[[0.0, 1.0, 2.0, found, 0.0, 3.0]], SIZE), Err(expected));
    }
    assert!(rasterize(&[[0.0, 1.0, 2.0, f64::NAN, 0.0, 3.0]], SIZE).is_err());
}

#[test]
#[should_panic(expected = "two masks of one image")]
fn masks_of_different_sizes_never_mix() {
    Rle::empty(SIZE).unwrap().iou(&Rle::empty(Size { width: 3, height: 4 }).unwrap(), false);
}

fn any_mask() -> impl Strategy<Value = Mask> {
    (1u32..20, 1u32..20).prop_flat_map(|(width, height)| {
        let size = Size { width, height };
        prop::collection::vec(0u8..2, size.n_pixels()).prop_map(move |bits| Mask { size, bits })
    })
}

proptest! {
    #[test]
    fn encoding_is_lossless(mask in any_mask()) {
        let rle = Rle::from_mask(&mask);
        prop_assert_eq!(&rle.to_mask(), &mask);
        prop_assert_eq!(rle.area(), mask.area());
        prop_assert_eq!(Rle::from_compressed_str(mask.size, &rle.to_compressed_string()), Ok(rle.clone()));
        prop_assert_eq!(Rle::from_counts(mask.size, rle.counts()), Ok(rle));
    }

    #[test]
    fn no_string_is_more_than_an_error(
        bytes in prop::collection::vec(b'0'..=b'o', 0..30), width in 1u32..50, height in 1u32..50,
    ) {
        let size = Size { width, height };
        let text = String::from_utf8(bytes).unwrap();
        if let Ok(rle) = Rle::from_compressed_str(size, &text) {
            prop_assert_eq!(rle.to_mask().bits.len(), size.n_pixels());
        }
    }
}
