//! MobileSAM's own answers on real photographs: several prompts of an object, and features of each type.

use safetensors::{Dtype, SafeTensors};
use sensei_answers::asked::Question;
use sensei_answers::features::{FeatureRecord, FeatureValues, channel_scales};
use sensei_answers::folder_store::FolderStore;
use sensei_answers::kept::{Context, FeatureDtype, Kept, KeptMasks, ScaleSource};
use sensei_answers::key::AnswerKey;
use sensei_answers::record::{ImageIdentity, MaskAnswer, MaskRecord, PointLabel, PromptAnswer, PromptPoint};
use sensei_answers::store::Store;
use sensei_answers::verify::verify;
use sensei_answers::writer::{CacheWriter, RecordSink};
use sensei_data::dataset::Dataset;
use sensei_data::geometry::{PointInImage, RectInImage, Size};
use sensei_testing::shared_dir;
use serde_json::Value;

use crate::{key, teacher};

/// The teacher's answers, and the photographs they are about.
struct Answers {
    bytes: Vec<u8>,
    /// One entry a prompt.
    prompts: Vec<Value>,
    dataset: Dataset,
}

impl Answers {
    fn read(test: &str) -> Option<Self> {
        let data = shared_dir(test)?.join("data");
        let cache = data.join("teacher_cache");
        let annotations = data.join("coco/annotations/instances_val.json");
        Some(Answers {
            bytes: std::fs::read(cache.join("golden_teacher.safetensors")).unwrap(),
            prompts: serde_json::from_slice(&std::fs::read(cache.join("golden_teacher.json")).unwrap()).unwrap(),
            dataset: Dataset::load_coco(&annotations, &data.join("coco/images/val")).unwrap(),
        })
    }

    fn tensor(&self, name: &str) -> Vec<f32> {
        let tensors = SafeTensors::deserialize(&self.bytes).unwrap();
        let tensor = tensors.tensor(name).unwrap();
        let data = tensor.data();
        match tensor.dtype() {
            Dtype::F32 => data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            Dtype::F16 => data.as_chunks().0.iter().map(|bytes| half::f16::from_le_bytes(*bytes).to_f32()).collect(),
            dtype => panic!("{name}: {dtype:?}"),
        }
    }

    fn image(&self, id: u64) -> ImageIdentity {
        let image_idx = self.dataset.images.iter().position(|image| image.id == id).unwrap();
        let bytes = std::fs::read(self.dataset.image_path(image_idx)).unwrap();
        let size = self.dataset.images[image_idx].size;
        ImageIdentity { id, file_digest: *blake3::hash(&bytes).as_bytes(), pixel_digest: None, size }
    }

    fn image_ids(&self) -> Vec<u64> {
        let mut ids: Vec<u64> = self.prompts.iter().map(|prompt| prompt["image_id"].as_u64().unwrap()).collect();
        ids.sort();
        ids.dedup();
        ids
    }
}

/// Size of an image whose longest side is resized to 1024.
fn resized(size: Size) -> Size {
    let scale = 1024.0 / f64::from(size.width.max(size.height));
    let resized = |side: u32| (f64::from(side) * scale + 0.5) as u32;
    Size { width: resized(size.width), height: resized(size.height) }
}

#[test]
fn embeddings_lose_what_their_type_loses_and_no_more() {
    let Some(answers) = Answers::read("embeddings_lose_what_their_type_loses_and_no_more") else { return };
    let scales = ScaleSource::Image;
    // Error of the whole map over its size. Published for this teacher on 40 photographs: int8 .009, int4 .158.
    for (dtype, bytes, low, high) in [
        (FeatureDtype::F32, 4_194_304, 0.0, 0.0),
        (FeatureDtype::F16, 2_097_152, 0.0, 0.0005),
        (FeatureDtype::Int8 { scales }, 1_048_576, 0.005, 0.012),
        (FeatureDtype::Int4 { scales }, 524_288, 0.1, 0.2),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        let kept = Kept::ImageFeatures { tap: "embedding".into(), grid: 64, channels: 256, dtype };
        let key = AnswerKey { question: Question::Image, kept, ..key(1) };
        let mut writer = CacheWriter::create(&path, key.clone(), teacher(), vec![]).unwrap();
        for id in answers.image_ids() {
            let values = answers.tensor(&format!("embedding.{id}"));
            let scales = || channel_scales(&values, 256, dtype.largest_code().unwrap());
            let image = answers.image(id);
            let resized = resized(image.size);
            let record = FeatureRecord {
                image,
                resized,
                // Cells of 16 pixels whose centre lies in the image.
                used: Size { width: (resized.width + 7) / 16, height: (resized.height + 7) / 16 },
                grid: 64,
                channels: 256,
                values: match dtype {
                    FeatureDtype::F32 => FeatureValues::from_f32(&values),
                    FeatureDtype::F16 => FeatureValues::f16(&values),
                    FeatureDtype::Int8 { .. } => FeatureValues::int8(&values, scales()),
                    FeatureDtype::Int4 { .. } => FeatureValues::int4(&values, scales()),
                },
            };
            writer.push_features(&record).unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(verify(&path).unwrap().uncompressed_bytes, 3 * bytes);
        let cache = FolderStore::open(&path, &key).unwrap();
        for id in cache.ids() {
            let (expected, found) = (answers.tensor(&format!("embedding.{id}")), cache.features(id).unwrap().to_f32());
            let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
            let error =
                norm(&mut expected.iter().zip(&found).map(|(e, f)| e - f)) / norm(&mut expected.iter().copied());
            assert!((low..=high).contains(&error), "{dtype}, image {id}: {error}");
        }
    }
}

/// Each object was asked by its box with and without a padding point and by a point; all of the decoder's 256 x 256 is kept.
#[test]
fn three_prompts_of_an_object_come_back_as_the_masks_they_were() {
    let Some(answers) = Answers::read("three_prompts_of_an_object_come_back_as_the_masks_they_were") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let kept =
        Kept::MaskLogits { context: Context::WholeFrame, grid: 256, logit_step: 0.125, masks: KeptMasks::Single };
    let question = Question::Foreign("box; box and a padding point; point and two padding points".into());
    let key = AnswerKey { question, kept, ..key(256) };
    let mut writer = CacheWriter::create(&path, key.clone(), teacher(), vec![]).unwrap();
    let mut written = Vec::new();
    for asked in answers.prompts.chunks(3) {
        let image = answers.image(asked[0]["image_id"].as_u64().unwrap());
        let resized = resized(image.size);
        let edge = |resized: u32, original: u32| 1024.0 * f64::from(original) / f64::from(resized);
        let frame = RectInImage {
            x0: 0.0,
            y0: 0.0,
            x1: edge(resized.width, image.size.width),
            y1: edge(resized.height, image.size.height),
        };
        let prompt = |asked: &Value| PromptAnswer {
            points: points(asked),
            rect_in_image: frame,
            masks: vec![MaskAnswer {
                logits: steps(
                    &answers.tensor(&format!("low_res.{}", asked["key"].as_str().unwrap())),
                    &frame,
                    image.size,
                ),
                predicted_iou: asked["iou_pred"].as_f64().unwrap() as f32,
                stability: None,
            }],
        };
        let record = MaskRecord {
            annotation_id: asked[0]["ann_id"].as_u64().unwrap(),
            image,
            grid: 256,
            logit_step: 0.125,
            prompts: asked.iter().map(prompt).collect(),
        };
        writer.push_masks(&record).unwrap();
        written.push(record);
    }
    writer.finish().unwrap();
    let cache = FolderStore::open(&path, &key).unwrap();
    let stats = verify(&path).unwrap();
    assert_eq!((stats.n_records, stats.n_masks, stats.n_images), (9, 27, 3));
    for (record, asked) in written.iter().zip(answers.prompts.chunks(3)) {
        let found = cache.masks(record.annotation_id).unwrap();
        assert_eq!(found, *record);
        for (prompt_idx, asked) in asked.iter().enumerate() {
            let area = found.mask(prompt_idx, 0).mask_in_image().area() as f64;
            let expected = asked["mask_pixels"].as_f64().unwrap();
            // Measured after an interpolation to 1024 and another to the image; here it is one, of rounded logits.
            let tolerance = 0.02 * expected + 20.0;
            assert!((area - expected).abs() < tolerance, "{}: {area} pixels, expected {expected}", asked["key"]);
        }
    }
}

fn points(asked: &Value) -> Vec<PromptPoint> {
    let number = |value: &Value| value.as_f64().unwrap();
    let pairs = asked["points_xy"].as_array().unwrap().iter().zip(asked["labels"].as_array().unwrap());
    let point = |(at, label): (&Value, &Value)| {
        let label = match label.as_i64().unwrap() {
            1 => PointLabel::Foreground,
            2 => PointLabel::UpperLeft,
            3 => PointLabel::LowerRight,
            _ => return None,
        };
        Some(PromptPoint { at: PointInImage { x: number(&at[0]), y: number(&at[1]) }, label })
    };
    pairs.filter_map(point).collect()
}

/// Logits in steps of 0.125, and the marker where a cell's centre is outside of the image.
fn steps(logits: &[f32], frame: &RectInImage, size: Size) -> Vec<i8> {
    let step = |(idx, logit): (usize, &f32)| {
        let x = (f64::from(idx as u32 % 256) + 0.5) * frame.x1 / 256.0;
        let y = (f64::from(idx as u32 / 256) + 0.5) * frame.y1 / 256.0;
        let is_inside = x < f64::from(size.width) && y < f64::from(size.height);
        if is_inside { (logit / 0.125).round_ties_even().clamp(-127.0, 127.0) as i8 } else { -128 }
    };
    logits.iter().enumerate().map(step).collect()
}
