//! Whole images: where they lie in a square, what is asked about them, and the features that go with them.

use sensei_answers::asked::{Normalization, Preprocessing, Question, Resize};
use sensei_answers::features::{FeatureRecord, FeatureValues};
use sensei_answers::folder_store::FolderStore;
use sensei_answers::kept::{FeatureDtype, Kept};
use sensei_answers::key::{AnswerKey, TeacherDescription};
use sensei_answers::record::ImageIdentity;
use sensei_answers::store::Store;
use sensei_answers::writer::{CacheWriter, RecordSink};
use sensei_data::augment::Augmentation;
use sensei_data::dataset::Dataset;
use sensei_data::geometry::{PointInImage, Size};
use sensei_data::image_file::{ImageLimits, read_image};
use sensei_data::mask::Mask;
use sensei_data::rle::Rle;
use sensei_samples::error::SampleError;
use sensei_samples::image_batch::ImageBatch;
use sensei_samples::whole_images::{AskPlan, FirstPrompt, ImageSource, Letterbox};

use crate::{IMAGES, OBJECTS_PER_IMAGE, Scenes};

const SIDE: u32 = 30;
const GRID: u32 = 4;

fn dataset(scenes: &Scenes) -> Dataset {
    Dataset::load_coco(&scenes.path("annotations.json"), scenes.folder.path()).unwrap()
}

/// A store of two channels of 4 x 4, whose values follow from the image's id. `edit` may make a record another's.
fn features(scenes: &Scenes, name: &str, edit: impl Fn(&mut ImageIdentity)) -> Box<dyn Store> {
    let dataset = dataset(scenes);
    let key = AnswerKey {
        teacher: "7ea".into(),
        preprocessing: Preprocessing::Letterbox {
            longest_side: 1024,
            resize: Resize::PillowBilinear,
            normalization: Normalization::Imagenet,
            zoom: None,
        },
        question: Question::Image,
        kept: Kept::ImageFeatures { tap: "embedding".into(), grid: GRID, channels: 2, dtype: FeatureDtype::F32 },
        dataset: "da7a".into(),
    };
    let description = TeacherDescription { name: "Test teacher".into(), licence: "MIT".into() };
    let path = scenes.path(name);
    let mut writer = CacheWriter::create(&path, key.clone(), description, vec![]).unwrap();
    for (idx, image) in dataset.images.iter().enumerate() {
        let file = std::fs::read(dataset.image_path(idx)).unwrap();
        let digest = *blake3::hash(&file).as_bytes();
        let mut identity = ImageIdentity { id: image.id, file_digest: digest, pixel_digest: None, size: image.size };
        edit(&mut identity);
        let letterbox = Letterbox { image: image.size };
        let values: Vec<f32> = (0..2 * GRID * GRID).map(|at| (image.id * 100) as f32 + at as f32).collect();
        let values = FeatureValues::from_f32(&values);
        let (resized, used) = (letterbox.resized(1024), letterbox.used(GRID));
        let record = FeatureRecord { image: identity, resized, used, grid: GRID, channels: 2, values };
        writer.push_features(&record).unwrap();
    }
    writer.finish().unwrap();
    Box::new(FolderStore::open(&path, &key).unwrap())
}

fn source(scenes: &Scenes, features: Option<Box<dyn Store>>) -> ImageSource {
    ImageSource::new(dataset(scenes), features, SIDE, ImageLimits::default()).unwrap()
}

#[test]
fn the_longest_side_fills_the_square_and_the_rest_is_padding() {
    let wide = Letterbox { image: Size { width: 640, height: 427 } };
    assert_eq!(wide.resized(1024), Size { width: 1024, height: 683 });
    // Row 42 of 64 has its centre at 42.5 / 64 * 640 = 425, row 43 beyond the image.
    assert_eq!(wide.used(64), Size { width: 64, height: 43 });
    assert_eq!(wide.point(PointInImage { x: 320.0, y: 213.5 }, 1024), [512.0, 341.6]);
    let tall = Letterbox { image: Size { width: 1, height: 3000 } };
    assert_eq!((tall.resized(64), tall.used(64)), (Size { width: 1, height: 64 }, Size { width: 1, height: 64 }));
}

#[test]
fn a_mask_on_a_grid_is_what_lies_at_its_cells_centres() {
    // 4 x 2 pixels on 8 x 8 cells: each pixel is 2 x 2 cells, the lower half is padding.
    let letterbox = Letterbox { image: Size { width: 4, height: 2 } };
    let mask = Mask { size: letterbox.image, bits: vec![1, 0, 0, 1, 0, 1, 0, 0] };
    let found = letterbox.mask_on_grid(&Rle::from_mask(&mask), 8);
    let rows: Vec<String> = found.chunks(8).map(|row| row.iter().map(u8::to_string).collect()).collect();
    let clear = "00000000";
    assert_eq!(rows, ["11000011", "11000011", "00110000", "00110000", clear, clear, clear, clear]);
}

#[test]
fn an_image_is_resized_onto_grey() {
    let scenes = Scenes::new();
    let source = source(&scenes, None);
    assert_eq!((source.images.len(), source.left_out.len()), (IMAGES.len(), 0));
    for used in &source.images {
        let sample = source.image(used.image_idx).unwrap();
        let (image, _) = (read_image(&source.dataset.image_path(used.image_idx), &ImageLimits::default()).unwrap(), ());
        // 45 x 34 becomes 30 x 23, by the same filter as everywhere.
        let small = sensei_data::resize::resize_bilinear(&image.image, Size { width: 30, height: 23 });
        assert_eq!(sample.pixels.len(), 30 * 30 * 3);
        assert_eq!(sample.pixels[..23 * 30 * 3], small.pixels[..]);
        assert!(sample.pixels[23 * 30 * 3..].iter().all(|byte| *byte == 128));
    }
}

#[test]
fn what_is_asked_follows_from_seed_epoch_and_ids() {
    let scenes = Scenes::new();
    let source = source(&scenes, None);
    let ask = AskPlan { per_image: 2, box_probability: 0.5 };
    let samples = |places: &[usize], seed: u64, epoch: u64| {
        source.samples(places, Some(&ask), 16, &Augmentation::NONE, seed, epoch).unwrap()
    };
    let objects = |seed: u64, epoch: u64| -> Vec<_> {
        samples(&[0, 1, 2, 3, 4, 5], seed, epoch).into_iter().flat_map(|sample| sample.objects).collect()
    };
    assert_eq!(objects(1, 0), objects(1, 0));
    assert!(objects(1, 0) != objects(1, 1) && objects(1, 0) != objects(2, 0));
    // An image's objects do not depend on the others.
    assert_eq!(samples(&[3], 1, 0)[0].objects, samples(&[5, 3], 1, 0)[1].objects);

    let (mut boxes, mut points) = (0, 0);
    for object in (0..20).flat_map(|epoch| objects(7, epoch)) {
        let idx = source.dataset.instances.iter().position(|instance| instance.id == object.annotation_id).unwrap();
        let mask = source.dataset.mask(idx).unwrap().to_mask();
        match object.prompt {
            FirstPrompt::Box(bbox) => {
                boxes += 1;
                assert_eq!(bbox, source.dataset.instances[idx].bbox);
            }
            FirstPrompt::Point(at) => {
                points += 1;
                assert_eq!(mask.bits[at.y as usize * 45 + at.x as usize], 1, "a point is on the object");
            }
        }
        assert_eq!(object.truth.len(), 16 * 16);
    }
    assert_eq!(boxes + points, 20 * 2 * IMAGES.len());
    assert!((80..160).contains(&boxes), "{boxes} boxes");
    let all = AskPlan { per_image: 100, box_probability: 1.0 };
    let sample = source.samples(&[0], Some(&all), 16, &Augmentation::NONE, 1, 0).unwrap().remove(0);
    assert_eq!(sample.objects.len(), OBJECTS_PER_IMAGE);
    assert!(sample.objects.iter().all(|object| matches!(object.prompt, FirstPrompt::Box(_))));
}

#[test]
fn colours_change_and_features_do_not() {
    let scenes = Scenes::new();
    let source = source(&scenes, Some(features(&scenes, "features", |_| {})));
    assert_eq!(source.first_without_features(), None);
    let colours = Augmentation { brightness: 0.3, ..Augmentation::NONE };
    let plain = source.samples(&[0, 4], None, 16, &Augmentation::NONE, 1, 0).unwrap();
    let bright = source.samples(&[0, 4], None, 16, &colours, 1, 0).unwrap();
    for (plain, bright) in plain.iter().zip(&bright) {
        assert!(plain.pixels != bright.pixels && plain.features == bright.features && plain.objects.is_empty());
    }
    let batch = ImageBatch::new(plain);
    let features = batch.features.unwrap();
    assert_eq!((features.shape, features.values.len()), ([2, 4, 4], 2 * 32));
    assert_eq!((features.values[31], features.values[32]), (31.0, 400.0), "one image after the other");
    assert_eq!((batch.image_ids, batch.input.len()), (vec![0, 4], 2 * 3 * 30 * 30));
}

#[test]
fn features_of_another_file_are_refused() {
    let scenes = Scenes::new();
    let source = source(&scenes, Some(features(&scenes, "other", |identity| identity.file_digest[0] ^= 1)));
    let error = source.image(2).map(drop).unwrap_err();
    assert!(matches!(error, SampleError::OtherImage { .. }), "{error}");
}

#[test]
fn an_image_without_objects_is_not_used_and_a_split_without_any_is_refused() {
    let scenes = Scenes::new();
    let path = scenes.path("annotations.json");
    let mut file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let annotations = file["annotations"].as_array_mut().unwrap();
    annotations.retain(|annotation| annotation["image_id"] == 2);
    annotations[0]["iscrowd"] = 1.into();
    annotations[0]["segmentation"] = serde_json::json!({"size": [34, 45], "counts": [0, 1530]});
    std::fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();
    let source = source(&scenes, None);
    assert_eq!((source.images.len(), source.images[0].instances.len()), (1, OBJECTS_PER_IMAGE - 1));
    assert_eq!(source.left_out.len(), 1);

    file["annotations"].as_array_mut().unwrap().truncate(1);
    std::fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();
    let Err(error) = ImageSource::new(dataset(&scenes), None, SIDE, ImageLimits::default()) else {
        panic!("expected an error");
    };
    assert!(error.to_string().contains("found none of 1; left out: 1 (1 crowd)"), "{error}");
}
