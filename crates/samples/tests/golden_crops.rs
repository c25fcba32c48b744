//! The crops that training and scoring cut are those of PicoSAM2's and PicoSAM3's code.

use sensei_data::crop_rule::{Border, CropRule};
use sensei_data::dataset::{Instance, Segmentation};
use sensei_data::geometry::{RectInImage, Size};
use sensei_data::mask::Mask;
use sensei_data::rle::Rle;
use sensei_samples::selection::SelectionRules;
use sensei_testing::golden;

/// By the rules of a student's own run, from annotation to crop; an empty mask is prompted in the image's middle.
fn check(rule: CropRule, bbox: [f64; 4], mask: &Mask, expected: &[i64; 4]) {
    let instance = Instance {
        id: 1,
        image_idx: 0,
        category_id: 1,
        bbox,
        area: 1.0,
        is_crowd: false,
        segmentation: Segmentation::Polygons(vec![]),
    };
    let (_, crop) = SelectionRules::of_student(rule).prompt_and_crop(&instance, &Rle::from_mask(mask)).expect("a crop");
    let [x0, y0, x1, y1] = expected.map(|edge| edge as f64);
    let found = crop.expect("a student has a crop").rect_in_image;
    assert_eq!(found, RectInImage { x0, y0, x1, y1 }, "box {bbox:?} in {}", mask.size);
}

fn size(sizes: &[i64], idx: usize) -> Size {
    Size { width: sizes[idx * 2] as u32, height: sizes[idx * 2 + 1] as u32 }
}

#[test]
fn windows_are_picosam2s() {
    let case = golden("prompt");
    let bits: Vec<u8> =
        case.u8s("masks").iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let (sizes, rects) = (case.i64s("window_sizes"), case.i64s("window_rects"));
    let rule = CropRule::CenterWindow { grid: 96, border: Border::Reference };
    let (mut at, mut n_empty) = (0, 0);
    for (idx, rect) in rects.as_chunks::<4>().0.iter().enumerate() {
        let size = size(&sizes, idx);
        let mask = Mask { size, bits: bits[at..][..size.n_pixels()].to_vec() };
        at += size.n_pixels();
        n_empty += usize::from(mask.area() == 0);
        check(rule, [0.0; 4], &mask, rect);
    }
    assert!(n_empty > 0, "the case has empty masks");
}

#[test]
fn regions_of_interest_are_picosam3s() {
    let case = golden("prompt");
    let (boxes, sizes, rects) = (case.f64s("boxes"), case.i64s("roi_sizes"), case.i64s("roi_rects"));
    let rule = CropRule::Roi { padding: 0.1, grid: 96, border: Border::Reference };
    let rects = rects.as_chunks::<4>().0;
    for (idx, (bbox, rect)) in boxes.as_chunks::<4>().0.iter().zip(rects).enumerate() {
        check(rule, *bbox, &Mask::empty(size(&sizes, idx)), rect);
    }
}
