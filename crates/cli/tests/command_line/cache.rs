//! Teacher caches that cannot be trusted: exit code 1, the file and what is wrong with it.

use std::fs;
use std::path::{Path, PathBuf};

use sensei_answers::asked::{Preprocessing, Question};
use sensei_answers::kept::{Context, Kept, KeptMasks};
use sensei_answers::key::{AnswerKey, TeacherDescription};
use sensei_answers::record::{ImageIdentity, MaskAnswer, MaskRecord, PromptAnswer, PromptPoint};
use sensei_answers::writer::{CacheWriter, RecordSink};
use sensei_data::dataset::Dataset;
use sensei_data::geometry::RectInImage;
use sensei_data::prompt_source::PromptSource;
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

pub fn write_cache(place: &Place, split: &str, teacher: &str, name: &str, keep: impl Fn(u64) -> bool) {
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
    let key = AnswerKey {
        teacher: teacher.into(),
        preprocessing: Preprocessing::Foreign("none".into()),
        question: Question::Object { prompts: vec![PromptSource::Box], padding_points: 0 },
        kept: Kept::MaskLogits { context: Context::NotStated, grid: 32, logit_step: 0.125, masks: KeptMasks::Single },
        dataset: hex(&dataset.digest),
    };
    let teacher = TeacherDescription { name: "Disc".into(), licence: "MIT".into() };
    let mut writer = CacheWriter::create(&place.path(name), key, teacher, vec!["a test".into()]).unwrap();
    for instance in dataset.instances.iter().filter(|instance| keep(instance.id)) {
        let points = PromptPoint::of_box(instance.bbox);
        let [x, y, width, height] = instance.bbox;
        let (x, y, reach) = (x + width / 2.0, y + height / 2.0, reach(width.max(height)));
        let image = &dataset.images[instance.image_idx];
        let bytes = fs::read(dataset.image_path(instance.image_idx)).unwrap();
        let from_centre = |idx: i32| (idx % 32 - 16).pow(2) + (idx / 32 - 16).pow(2);
        let mask = MaskAnswer {
            logits: (0..32 * 32).map(|idx| (40 - 4 * from_centre(idx)).clamp(-127, 127) as i8).collect(),
            predicted_iou: 0.9,
            stability: None,
        };
        let rect_in_image = RectInImage { x0: x - reach, y0: y - reach, x1: x + reach, y1: y + reach };
        let file_digest = *blake3::hash(&bytes).as_bytes();
        let record = MaskRecord {
            annotation_id: instance.id,
            image: ImageIdentity { id: image.id, file_digest, pixel_digest: None, size: image.size },
            grid: 32,
            logit_step: 0.125,
            prompts: vec![PromptAnswer { points, rect_in_image, masks: vec![mask] }],
        };
        writer.push_masks(&record).unwrap();
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
fn cache_of_another_question() {
    let place = place();
    let edits = |from: &'static str, to: &'static str| [WITH_TEACHER, &[(from, to)]].concat();
    for (from, to, words) in [
        ("grid = 32", "grid = 64", "kept grid: expected `64`, found `32`"),
        (
            "padding_points = 0",
            "padding_points = 1",
            "expected `box with 1 padding points`, found `box with 0 padding points`",
        ),
        ("{ foreign = \"none\" }", "\"not_stated\"", "preprocessing: expected `not stated`, found `in words: none`"),
    ] {
        place.config("other.toml", &edits(from, to));
        place.refuses(&["train", "other.toml"], 1, &["cache-train: stale teacher cache: ", words]);
    }
    // What no cache can hold, or no loss reads, is an error of the configuration.
    for (from, to, words) in [
        ("grid = 32", "grid = 2000", "[teacher]: kept grid: expected 1 to 1024, found 2000"),
        ("grid = 32", "gird = 32", "teacher.kept.mask_logits.gird: unknown key"),
        ("prompts = [\"box\"]", "prompts = [\"bax\"]", "teacher.question.object.prompts.0: expected \"box\""),
        ("prompts = [\"box\"]", "prompts = []", "[teacher]: question prompts: expected 1 to 64, found 0"),
        ("\"single\"", "\"one\"", "teacher.kept.mask_logits.masks: expected \"single\""),
        (
            "kept = { mask_logits = { context = \"not_stated\", grid = 32, logit_step = 0.125, masks = \"single\" } }",
            "kept = { image_features = { tap = \"embedding\", grid = 64, channels = 256, dtype = \"f16\" } }",
            "[teacher]: question: expected the question \"image\" where image features are kept",
        ),
        (
            "question = { object = { prompts = [\"box\"], padding_points = 0 } }\nkept = { mask_logits = { context = \
             \"not_stated\", grid = 32, logit_step = 0.125, masks = \"single\" } }",
            "question = \"image\"\nkept = { image_features = { tap = \"embedding\", grid = 64, channels = 256, dtype = { int8 = \
             { scales = \"image\" } } } }",
            "[teacher] kept: expected mask_logits, which the losses compare with, found image features",
        ),
    ] {
        place.config("wrong.toml", &edits(from, to));
        place.refuses(&["train", "wrong.toml"], 2, &["wrong.toml", words]);
    }
    assert!(!place.path("runs").exists());
}

/// What `teacher stats` prints is what a configuration says.
#[test]
fn stats_print_the_lines_of_a_configuration() {
    let place = place();
    let out = place.does(&["teacher", "stats", "cache-train"]);
    let lines: Vec<&str> =
        ["digest", "preprocessing", "question", "kept"].map(|key| line_of(&out, key)).into_iter().collect();
    let (edit, _) = WITH_TEACHER[0].1.split_once("digest").unwrap();
    let section = format!(
        "{edit}{}\ntrain = {{ cache = \"cache-train\" }}\nval = {{ cache = \"cache-val\" }}\n\n[student]",
        lines.join("\n")
    );
    place.config("copied.toml", &[&[("[student]", section.as_str())], &WITH_TEACHER[1..]].concat());
    place.does(&["train", "copied.toml"]);
}

fn line_of<'a>(out: &'a str, key: &str) -> &'a str {
    out.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap_or_else(|| panic!("no {key} in {out}"))
}

#[test]
fn cache_of_format_1() {
    let place = place();
    fs::rename(place.path("cache-train"), place.path("cache-aside")).unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/teacher/format1/cache");
    fs::create_dir(place.path("cache-train")).unwrap();
    for file in ["manifest.json", "index.sti", "shard-00000.stc"] {
        fs::copy(golden.join(file), place.path("cache-train").join(file)).unwrap();
    }
    let words = ["cache-train: expected a teacher cache of format 2, found format 1; `sensei teacher import "];
    place.refuses(&["train", "tiny.toml"], 1, &words);
    let data = golden.join("../../dump");
    let [annotations, images] = [data.join("annotations.json"), data].map(|path| path.to_str().unwrap().to_string());
    place.does(&["teacher", "import", "cache-train", &annotations, &images, "converted"]);
    let out = place.does(&["teacher", "stats", "converted"]);
    assert!(out.contains("4 records of 2 images") && out.contains("question = { foreign = \"box\" }"), "{out}");
    fs::remove_dir_all(place.path("cache-train")).unwrap();
    fs::rename(place.path("converted"), place.path("cache-train")).unwrap();
    place.refuses(
        &["teacher", "import", "cache-train", &annotations, &images, "again"],
        1,
        &["format: expected 1, found 2"],
    );
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

pub const WITH_TEACHER: &[(&str, &str)] = &[
    (
        "[student]",
        r#"[teacher]
digest = "disc-1"
preprocessing = { foreign = "none" }
question = { object = { prompts = ["box"], padding_points = 0 } }
kept = { mask_logits = { context = "not_stated", grid = 32, logit_step = 0.125, masks = "single" } }
train = { cache = "cache-train" }
val = { cache = "cache-val" }

[student]"#,
    ),
    ("weighting = \"truth_only\"", "weighting = \"teacher_score_per_sample\""),
    ("terms = [", "terms = [\n    { kind = \"teacher_mse\", weight = 1.0 },"),
];
