//! MobileSAM over real pictures, against its own PyTorch modules and against the published weights in onnxruntime.

use std::path::Path;

use burn::tensor::Device;
use sensei_answers::record::{PointLabel, PromptPoint};
use sensei_data::geometry::PointInImage;
use sensei_data::image_file::{ImageFile, ImageLimits, RgbImage};
use sensei_sam::mask_decoder::MaskChoice;
use sensei_student::weights::read_weights;
use sensei_teacher::teacher::{Seen, Teacher};
use sensei_tensor::network::NamedWeights;
use sensei_testing::{Tolerance, assert_close, relative_l2, shared_dir};

fn teacher(shared: &Path) -> Teacher {
    let weights = read("data/teacher/mobilesam/mobile_sam_fused_f16.safetensors", shared);
    Teacher::native("the shared folder", &weights, "digest".into(), &Device::flex()).expect("MobileSAM")
}

fn read(path: &str, shared: &Path) -> NamedWeights {
    read_weights(&shared.join(path)).expect("a file of the shared folder").tensors
}

fn picture(shared: &Path, name: &str) -> RgbImage {
    let path = shared.join("data/coco/images/val").join(name);
    let limits = ImageLimits::default();
    ImageFile::read(&path, &limits).and_then(|file| file.decode(&limits)).expect("a picture of the shared folder")
}

/// What differs is the picture: libjpeg's pixels and ours are up to 3 levels apart. With Pillow's pixels, taps and embedding are within
/// 6e-6 (docs/results/teacher.md).
#[test]
fn features_are_pytorchs() {
    let Some(shared) = shared_dir("features_are_pytorchs") else { return };
    let golden = read("golden/mobilesam/f16weights.safetensors", &shared);
    let teacher = teacher(&shared);
    let taps: Vec<String> = teacher.taps().into_iter().map(|tap| tap.name).collect();
    let seen = teacher.look(&picture(&shared, "000000358083.jpg"), &taps).expect("a look");
    for (name, features) in taps.iter().zip(&seen.features) {
        if name == "embedding" {
            let within = Tolerance { absolute: 4e-3, relative: 0.0 };
            assert_close(name, &features.values, &golden["embedding"].values, within);
            continue;
        }
        // Every eighth channel, row and column are there.
        let [channels, height, width] = features.shape;
        let eighth = |len: usize| (0..len).step_by(8);
        let places = eighth(channels)
            .flat_map(|channel| eighth(height).flat_map(move |y| eighth(width).map(move |x| (channel, y, x))));
        let found: Vec<f32> =
            places.map(|(channel, y, x)| features.values[(channel * height + y) * width + x]).collect();
        let expected = &golden[&format!("tap.{name}")].values;
        assert_close(name, &found, expected, Tolerance { absolute: 0.08, relative: 0.0 });
        assert!(relative_l2(&found, expected) < 1.2e-2, "{name}: {}", relative_l2(&found, expected));
    }
}

/// The masks of the three pictures' nine objects, each by a box without and with a point of padding and by a point.
#[test]
fn masks_are_those_of_the_published_weights() {
    let Some(shared) = shared_dir("masks_are_those_of_the_published_weights") else { return };
    let golden = read("data/teacher_cache/golden_teacher.safetensors", &shared);
    let json = std::fs::read(shared.join("data/teacher_cache/golden_teacher.json")).expect("the golden prompts");
    let prompts: Vec<serde_json::Value> = serde_json::from_slice(&json).expect("JSON");
    let teacher = teacher(&shared);
    let mut seen: Option<(String, Seen)> = None;
    let (mut n_equal, mut n_pixels) = (0, 0);
    for prompt in &prompts {
        let text = |key: &str| prompt[key].as_str().expect("a text").to_string();
        let file = text("file_name");
        let known = seen.take().filter(|(name, _)| *name == file);
        let (_, look) = seen.insert(
            known.unwrap_or_else(|| (file.clone(), teacher.look(&picture(&shared, &file), &[]).expect("a look"))),
        );
        let (points, padding) = points_of(prompt);
        // The exported decoder answers up to two points with the best of three masks, and more with the single one.
        let choice = if points.len() + padding <= 2 { MaskChoice::Multiple } else { MaskChoice::Single };
        let answer = teacher.answer(look, &[points], padding as u32, choice).expect("an answer").remove(0);
        let by_iou = |a: &usize, b: &usize| answer.predicted_iou[*a].total_cmp(&answer.predicted_iou[*b]);
        let best = (0..answer.logits.len()).max_by(by_iou).expect("a mask");
        let key = text("key");
        let predicted = prompt["iou_pred"].as_f64().expect("a number");
        let found = f64::from(answer.predicted_iou[best]);
        assert!((found - predicted).abs() < 2e-3, "{key}: {found} {predicted}");
        let expected = &golden[&format!("low_res.{key}")].values;
        n_equal += answer.logits[best].iter().zip(expected).filter(|(a, b)| (**a > 0.0) == (**b > 0.0)).count();
        n_pixels += expected.len();
    }
    assert_eq!(prompts.len(), 27);
    assert!(n_equal as f64 >= 0.9995 * n_pixels as f64, "{n_equal} of {n_pixels} mask pixels");
}

/// The prompt's points without padding, and how many of padding follow.
fn points_of(prompt: &serde_json::Value) -> (Vec<PromptPoint>, usize) {
    let labels: Vec<i64> =
        prompt["labels"].as_array().expect("labels").iter().map(|label| label.as_i64().expect("a label")).collect();
    let places = prompt["points_xy"].as_array().expect("points").iter();
    let points: Vec<PromptPoint> = places
        .zip(&labels)
        .filter_map(|(at, label)| {
            let axis = |idx: usize| at[idx].as_f64().expect("a number");
            let label = match label {
                1 => PointLabel::Foreground,
                2 => PointLabel::UpperLeft,
                3 => PointLabel::LowerRight,
                _ => return None,
            };
            Some(PromptPoint { at: PointInImage { x: axis(0), y: axis(1) }, label })
        })
        .collect();
    let padding = labels.len() - points.len();
    (points, padding)
}
