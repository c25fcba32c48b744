//! Teacher caches that cannot be trusted: exit code 1, the file and what is wrong with it.

use std::fs;
use std::path::PathBuf;

use sensei_answers::key::{CacheKey, FORMAT_VERSION, TeacherDescription};
use sensei_answers::record::TeacherRecord;
use sensei_answers::writer::CacheWriter;
use sensei_data::dataset::Dataset;
use sensei_data::geometry::RectInImage;
use sensei_files::digest::hex;

use crate::{Place, weights_digest};

/// A place whose small run has a teacher that answers with discs.
fn place() -> Place {
    let place = Place::new();
    for split in ["train", "val"] {
        write_cache(&place, split, "disc-1", &format!("cache-{split}"), |_| true);
    }
    place.config("tiny.toml", WITH_TEACHER);
    place
}

fn write_cache(place: &Place, split: &str, teacher: &str, name: &str, keep: impl Fn(u64) -> bool) {
    write_cache_reaching(place, split, teacher, name, |_| 96.0, keep);
}

/// `reach`: how far a record reaches from the box's centre, in pixels, from the box's longer side.
fn write_cache_reaching(
    place: &Place,
    split: &str,
    teacher: &str,
    name: &str,
    reach: impl Fn(f64) -> f64,
    keep: impl Fn(u64) -> bool,
) {
    let annotations = place.path(&format!("scenes/annotations/instances_{split}.json"));
    let dataset = Dataset::load_coco(&annotations, &place.path("scenes/images")).unwrap();
    let key = CacheKey {
        teacher: teacher.into(),
        preprocessing: "none".into(),
        prompt: "box".into(),
        dataset: hex(&dataset.digest),
        format: FORMAT_VERSION,
    };
    let teacher = TeacherDescription { name: "Disc".into(), licence: "MIT".into(), digest: teacher.into() };
    let mut writer = CacheWriter::create(&place.path(name), key, teacher, vec!["a test".into()]).unwrap();
    for instance in dataset.instances.iter().filter(|instance| keep(instance.id)) {
        let [x, y, width, height] = instance.bbox;
        let (x, y, reach) = (x + width / 2.0, y + height / 2.0, reach(width.max(height)));
        let image = &dataset.images[instance.image_idx];
        let bytes = fs::read(dataset.image_path(instance.image_idx)).unwrap();
        let from_centre = |idx: i32| (idx % 32 - 16).pow(2) + (idx / 32 - 16).pow(2);
        let record = TeacherRecord {
            annotation_id: instance.id,
            image_id: image.id,
            image_digest: *blake3::hash(&bytes).as_bytes(),
            image_size: image.size,
            rect_in_image: RectInImage { x0: x - reach, y0: y - reach, x1: x + reach, y1: y + reach },
            grid: 32,
            logits: (0..32 * 32).map(|idx| (40 - 4 * from_centre(idx)).clamp(-127, 127) as i8).collect(),
            logit_step: 0.125,
            predicted_iou: 0.9,
        };
        writer.push(&record).unwrap();
    }
    writer.finish().unwrap();
}

/// The only shard of the training split's cache.
fn shard(place: &Place) -> PathBuf {
    let mut shards: Vec<PathBuf> =
        fs::read_dir(place.path("cache-train")).unwrap().map(|e| e.unwrap().path()).collect();
    shards.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with("shard"));
    assert_eq!(shards.len(), 1);
    shards.remove(0)
}

#[test]
fn whole_cache_is_trained_on() {
    let place = place();
    let digest = weights_digest(&place.does(&["train", "tiny.toml"])).to_string();
    assert_eq!(weights_digest(&place.does(&["train", "tiny.toml", "--name", "again"])), digest);
    place.config("plain.toml", &[]);
    assert_ne!(weights_digest(&place.does(&["train", "plain.toml"])), digest, "the teacher counts");
    place.does(&["teacher", "verify", "cache-train"]);
    place.does(&["teacher", "stats", "cache-val"]);
    place.does(&["inspect", "cache-val"]);
}

#[test]
fn cache_of_another_teacher() {
    let place = place();
    fs::rename(place.path("cache-train"), place.path("cache-aside")).unwrap();
    write_cache(&place, "train", "disc-2", "cache-train", |_| true);
    let words = ["cache-train: stale teacher cache: teacher: expected `disc-1`, found `disc-2`"];
    place.refuses(&["train", "tiny.toml"], 1, &words);
    place.refuses(&["plan", "tiny.toml"], 1, &words);
    assert!(!place.path("runs").exists());
}

#[test]
fn cache_of_another_data_set() {
    let place = place();
    place.annotations(|file| file["info"]["description"] = "edited".into());
    place.refuses(&["train", "tiny.toml"], 1, &["cache-train: stale teacher cache: dataset: expected `", "`, found `"]);
    assert!(!place.path("runs").exists());
}

#[test]
fn cache_that_is_not_there() {
    let place = place();
    fs::remove_dir_all(place.path("cache-val")).unwrap();
    place.refuses(&["train", "tiny.toml"], 1, &["cache-val: no teacher cache: expected a folder with manifest.json"]);
    assert!(!place.path("runs").exists());
}

#[test]
fn cache_without_an_answer() {
    let place = place();
    fs::remove_dir_all(place.path("cache-train")).unwrap();
    write_cache(&place, "train", "disc-1", "cache-train", |id| id != 4);
    place.refuses(&["train", "tiny.toml"], 1, &["annotation 4 (train split): no teacher answer", "\"cached\""]);
    assert!(!place.path("runs").exists());
}

#[test]
fn answers_that_do_not_reach_as_far_as_the_augmentation() {
    let place = place();
    fs::remove_dir_all(place.path("cache-train")).unwrap();
    // The region of interest itself and no more: enough for scoring, not for moving it about.
    write_cache_reaching(&place, "train", "disc-1", "cache-train", |longer_side| 0.6 * longer_side, |_| true);
    place.refuses(&["train", "tiny.toml"], 1, &["annotation ", "the cache has only", "less jitter"]);
    assert!(!place.path("runs").exists(), "nothing is trained first");
    let still = [("roi_shift = 0.1", "roi_shift = 0.0"), ("roi_scale = 0.1", "roi_scale = 0.0")];
    place.config("tiny.toml", &[WITH_TEACHER, &still].concat());
    place.does(&["train", "tiny.toml"]);
}

#[test]
fn cut_shard() {
    let place = place();
    let path = shard(&place);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
    let expected = format!("{}: damaged: ", path.file_name().unwrap().to_string_lossy());
    place.refuses(&["train", "tiny.toml"], 1, &["cache-train", &expected, "expected", "found"]);
    place.refuses(&["teacher", "verify", "cache-train"], 1, &[&expected]);
    assert!(!place.path("runs").exists());
}

#[test]
fn flipped_bit_in_a_shard() {
    let place = place();
    let path = shard(&place);
    let mut bytes = fs::read(&path).unwrap();
    // Somewhere in the compressed logits of a record.
    let at = bytes.len() / 2;
    bytes[at] ^= 4;
    fs::write(&path, &bytes).unwrap();
    let expected = format!("{}: damaged: ", path.file_name().unwrap().to_string_lossy());
    place.refuses(&["train", "tiny.toml"], 1, &["cache-train", &expected, "expected", "found"]);
    place.refuses(&["teacher", "verify", "cache-train"], 1, &[&expected]);
    let run = place.path("runs/tiny");
    assert!(!run.join("student.safetensors").exists());
}

#[test]
fn image_that_the_teacher_did_not_see() {
    let place = place();
    let image = place.path("scenes/images/train_000001.png");
    fs::copy(place.path("scenes/images/train_000002.png"), image).unwrap();
    let words = ["train_000001.png: digest ", ", but the teacher answered on an image of digest "];
    place.refuses(&["train", "tiny.toml"], 1, &words);
}

const WITH_TEACHER: &[(&str, &str)] = &[
    (
        "[student]",
        "[teacher]\ndigest = \"disc-1\"\npreprocessing = \"none\"\nprompt = \"box\"\ntrain = { cache = \"cache-train\" }\n\
         val = { cache = \"cache-val\" }\n\n[student]",
    ),
    ("weighting = \"truth_only\"", "weighting = \"teacher_score_per_sample\""),
    ("terms = [", "terms = [\n    { kind = \"teacher_mse\", weight = 1.0 },"),
];
