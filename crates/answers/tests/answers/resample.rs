//! Logits on a student's grid.

use sensei_answers::record::MaskRecord;
use sensei_answers::resample::OUTSIDE_LOGIT;
use sensei_data::crop::CropGeometry;
use sensei_data::geometry::{RectInImage, Size};
use sensei_testing::{Tolerance, assert_close, golden};

use crate::{record, text};

/// A record of one mask of this image size, area and logits.
fn placed(image_size: Size, edges: &[f64], grid: u32, logits: Vec<i8>) -> MaskRecord {
    let mut record = record(1, grid);
    record.image.size = image_size;
    record.prompts[0].rect_in_image = rect(edges);
    record.prompts[0].masks[0].logits = logits;
    record
}

fn rect(edges: &[f64]) -> RectInImage {
    RectInImage { x0: edges[0], y0: edges[1], x1: edges[2], y1: edges[3] }
}

#[test]
fn own_geometry_is_the_identity() {
    let record = record(9, 33);
    let crop = CropGeometry { rect_in_image: record.prompts[0].rect_in_image, grid: 33 };
    let logits = record.mask(0, 0).logits_in_crop(&crop).unwrap();
    let stored = &record.prompts[0].masks[0].logits;
    let expected: Vec<f32> = stored.iter().map(|&logit| f32::from(logit) / 8.0).collect();
    assert_eq!(logits, expected);
}

/// Against PyTorch's `grid_sample` on a real answer of MobileSAM: inside, across the border, not square.
#[test]
fn crops_are_as_pytorch_samples_them() {
    let case = golden("teacher/resample");
    let logits: Vec<i8> = case.u8s("logits").into_iter().map(u8::cast_signed).collect();
    let image: Vec<u32> = case.i64s("image_size").into_iter().map(|side| side as u32).collect();
    let image_size = Size { width: image[0], height: image[1] };
    let record = placed(image_size, &case.f64s("rect"), case.shape("logits")[0] as u32, logits);
    let crops = case.f64s("crops");
    let outputs = case.names().iter().filter(|name| name.starts_with("crop_logits.")).count();
    assert_eq!(outputs, crops.len() / 4);
    for (idx, crop) in crops.chunks(4).enumerate() {
        let name = format!("crop_logits.{idx}");
        let grid = case.shape(&name)[0] as u32;
        let got = record.mask(0, 0).logits_in_crop(&CropGeometry { rect_in_image: rect(crop), grid }).unwrap();
        // Logits reach 16; PyTorch computes positions in f64 here, the blend is f32 on our side.
        assert_close(&name, &got, &case.f32s(&name), Tolerance { absolute: 1e-5, relative: 0.0 });
    }
}

#[test]
fn points_outside_of_the_image_are_a_sure_no() {
    let image_size = Size { width: 10, height: 8 };
    // The marker where a sample is outside of the image, 10 where it is inside.
    let is_inside = |i: i32| (5..15).contains(&(i % 20)) && (5..13).contains(&(i / 20));
    let logits = (0..400).map(|i| if is_inside(i) { 80 } else { -128 }).collect();
    let all_yes = placed(image_size, &[-5.0, -5.0, 15.0, 15.0], 20, logits);
    // Twice as fine, so that half of the samples lie between a stored inside and a stored outside.
    let crop = CropGeometry { rect_in_image: rect(&[-2.0, -2.0, 12.0, 12.0]), grid: 28 };
    let logits = all_yes.mask(0, 0).logits_in_crop(&crop).unwrap();
    for (idx, logit) in logits.iter().enumerate() {
        let (x, y) = ((idx % 28) as f64 / 2.0 - 1.75, (idx / 28) as f64 / 2.0 - 1.75);
        let is_inside = (0.0..10.0).contains(&x) && (0.0..8.0).contains(&y);
        assert_eq!(*logit, if is_inside { 10.0 } else { OUTSIDE_LOGIT }, "at {x}, {y}");
    }
    let mask = all_yes.mask(0, 0).mask_in_image();
    assert_eq!((mask.size, mask.area()), (image_size, 80));
}

#[test]
fn mask_in_image_ends_at_the_records_area() {
    let yes = placed(Size { width: 20, height: 30 }, &[2.6, 3.5, 9.5, 8.4], 4, vec![1; 16]);
    let mask = yes.mask(0, 0).mask_in_image();
    for row in 0..30 {
        for column in 0..20 {
            // Centres in [2.6, 9.5) x [3.5, 8.4).
            assert_eq!(mask.at(column, row), (3..9).contains(&column) && (3..8).contains(&row), "{column}, {row}");
        }
    }
}

#[test]
fn crop_beyond_the_stored_area_is_an_error_with_the_id() {
    let mut record = record(41, 16);
    record.prompts[0].rect_in_image = rect(&[100.0, 100.0, 200.0, 200.0]);
    let crop = |edges: [f64; 4]| {
        record.check_coverage(0, &rect(&edges))?;
        record.mask(0, 0).logits_in_crop(&CropGeometry { rect_in_image: rect(&edges), grid: 8 })
    };
    crop([99.0, 99.5, 201.0, 200.0]).expect("within a pixel");
    for edges in [
        [98.9, 100.0, 200.0, 200.0],
        [100.0, 98.9, 200.0, 200.0],
        [100.0, 100.0, 201.1, 200.0],
        [100.0, 100.0, 200.0, 201.1],
        [f64::NAN, 100.0, 200.0, 200.0],
        [100.0, 100.0, f64::INFINITY, 200.0],
    ] {
        let error = text(&crop(edges).unwrap_err());
        assert!(error.contains("annotation 41") && error.contains("100.0,100.0..200.0,200.0"), "{error}");
    }
    // Beyond the image's border nothing is needed: the record, too, ends there.
    let mut border = record.clone();
    border.prompts[0].rect_in_image = rect(&[600.0, 400.0, 640.0, 480.0]);
    let crop = CropGeometry { rect_in_image: rect(&[600.0, 420.0, 700.0, 520.0]), grid: 8 };
    border.mask(0, 0).logits_in_crop(&crop).unwrap();
}
