//! Objects that turn with the picture around them.

use std::fs;

use sensei_data::augment::{Augmentation, draw, sample_rng};
use sensei_data::crop::{crop_image, crop_rle};
use sensei_data::crop_rule::{BoxBorder, CropRule};
use sensei_data::geometry::PixelRect;
use sensei_data::image_file::{ImageLimits, RgbImage, read_image};
use sensei_data::image_part::ImagePart;
use sensei_data::prompt_source::Prompt;
use sensei_samples::error::SampleError;
use sensei_samples::packed::pack::PackedSamples;
use sensei_samples::packed::write::PackPlan;
use sensei_samples::selection::SelectionRules;
use sensei_samples::source::{SampleSource, TurnCounts};

use crate::Scenes;

const RULE: CropRule = CropRule::Box { padding: 0.1, min_side: 6.0, grid: 24, border: BoxBorder::Clipped };
const TURNS: Augmentation =
    Augmentation { flip_probability: 0.5, roi_shift: 0.05, roi_rotation: 1.0, roi_shear: 0.8, ..Augmentation::NONE };

fn source(scenes: &Scenes) -> SampleSource {
    scenes.source(SelectionRules::of_student(RULE), RULE)
}

#[test]
fn a_turned_sample_is_cut_from_the_turned_picture() {
    let scenes = Scenes::new();
    // A bar along the upper border: turned, half of it leaves the image.
    let path = scenes.path("annotations.json");
    let mut file: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    file["annotations"][0]["bbox"] = serde_json::json!([0, 0, 44, 3]);
    file["annotations"][0]["segmentation"] = serde_json::json!([[0, 0, 44, 0, 44, 3, 0, 3]]);
    fs::write(&path, file.to_string()).unwrap();
    let source = source(&scenes);
    let (mut n_turned, mut n_kept) = (0, 0);
    for epoch in 0..6 {
        let samples = source.augmented_samples(&source.instances, &TURNS, 3, epoch).unwrap();
        for (&idx, sample) in source.instances.iter().zip(&samples) {
            let instance = &source.dataset.instances[idx];
            let image =
                read_image(&source.dataset.image_path(instance.image_idx), &ImageLimits::default()).unwrap().image;
            let mask = source.dataset.mask(idx).unwrap();
            let drawn = draw(&TURNS, &mut sample_rng(3, epoch, instance.id));
            let turn = drawn.turn(instance.bbox).expect("a turn was drawn");
            let turned = turn.mask(&mask);
            // One that would lose two fifths of its pixels stays as it is.
            let stays = (turned.area() as f64) < 0.6 * mask.area() as f64;
            let (picture, expected, bbox) = if stays {
                n_kept += 1;
                (image.clone(), mask, instance.bbox)
            } else {
                n_turned += 1;
                let place = PixelRect { x0: 0, y0: 0, x1: image.size.width, y1: image.size.height };
                let pixels = turn.pixels(&ImagePart { image: image.size, place, pixels: &image.pixels }, place);
                (RgbImage { size: image.size, pixels }, turned.clone(), turned.bbox())
            };
            assert_eq!((&sample.truth_in_image, sample.bbox), (&expected, bbox), "{}", instance.id);
            let crop = RULE.crop(Prompt::Box(bbox), image.size).unwrap();
            let geometry = RULE.shown(drawn.jittered(&crop), image.size);
            let (mut pixels, mut truth) = (crop_image(&picture, &geometry), crop_rle(&expected, &geometry));
            drawn.flip_together(geometry.grid, &mut pixels, &mut truth, &mut []);
            assert_eq!(sample.geometry, geometry);
            assert!(sample.pixels == pixels && sample.truth == truth, "{}", instance.id);
        }
    }
    assert!(n_turned > 100 && n_kept > 0, "{n_turned} turned, {n_kept} kept");
    // Which is known before the first sample is made.
    let counts = source.n_turned(&[&TURNS; 6], 3, &|| false).unwrap();
    assert_eq!(counts, TurnCounts { turned: n_turned, as_they_are: n_kept });
    let still = Augmentation { roi_rotation: 0.0, roi_shear: 0.0, ..TURNS };
    assert_eq!(source.n_turned(&[&still], 3, &|| false).unwrap(), TurnCounts::default());
    let of_some = source.n_turned(&[&still, &still, &TURNS], 3, &|| false).unwrap();
    assert_eq!(of_some, source.n_turned(&[&still, &still, &TURNS, &still], 3, &|| false).unwrap());
    assert!(matches!(source.n_turned(&[&TURNS], 3, &|| true), Err(SampleError::Interrupted)));
}

#[test]
fn packed_pixels_are_enough_for_every_turn() {
    let scenes = Scenes::new();
    let (plain, mut packed) = (source(&scenes), source(&scenes));
    let path = scenes.path("samples.pack");
    PackPlan::new(&plain, &[&TURNS], &|| false).unwrap().write(&path, &|| false, &mut |_| ()).unwrap();
    let key = PackedSamples::open_any(&path).unwrap().key().clone();
    packed.use_pack(PackedSamples::open(&path, &key).unwrap(), &[&TURNS]).unwrap();
    for epoch in 0..30 {
        let expected = plain.augmented_samples(&plain.instances, &TURNS, 7, epoch).unwrap();
        let found = packed.augmented_samples(&packed.instances, &TURNS, 7, epoch).unwrap();
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!((found.geometry, found.bbox), (expected.geometry, expected.bbox));
            assert!(found.pixels == expected.pixels && found.truth == expected.truth, "{}", found.annotation_id);
        }
    }
    // Those of a training that turns less are others; those of one that does not turn have the key of before.
    let less = Augmentation { roi_rotation: 0.1, ..TURNS };
    let error = source(&scenes).use_pack(PackedSamples::open(&path, &key).unwrap(), &[&less]).unwrap_err().to_string();
    assert!(error.contains("roi_rotation 0.1, roi_shear 0.8`, found"), "{error}");
    let still = Augmentation { roi_rotation: 0.0, roi_shear: 0.0, ..TURNS };
    let key = serde_json::to_string(PackPlan::new(&plain, &[&still], &|| false).unwrap().key()).unwrap();
    assert!(!key.contains("roi_rotation") && key.contains("roi_aspect"), "{key}");
}
