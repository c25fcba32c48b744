//! Dumps become caches, and dumps of other data do not.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sensei_answers::asked::{Preprocessing, Question};
use sensei_answers::folder_store::FolderStore;
use sensei_answers::import::{ImportError, import_answers};
use sensei_answers::kept::{Context, Kept, KeptMasks};
use sensei_answers::record::PromptPoint;
use sensei_answers::store::Store;
use sensei_answers::verify::{compare_with_truth, verify};
use sensei_data::dataset::Dataset;
use sensei_data::image_file::{ImageLimits, read_image};
use sensei_data::pixel_means::pixel_means;
use sensei_files::digest::hex;
use sensei_testing::{shared_dir, workspace_root};
use sha2::{Digest, Sha256};

use crate::text;

/// `tests/golden/teacher/dump`, copied so that it can be damaged.
struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let golden = workspace_root().join("tests/golden/teacher/dump");
        fs::create_dir(dir.path().join("dump")).unwrap();
        for folder in ["", "dump"] {
            for entry in fs::read_dir(golden.join(folder)).unwrap() {
                let entry = entry.unwrap();
                if entry.path().is_file() {
                    fs::copy(entry.path(), dir.path().join(folder).join(entry.file_name())).unwrap();
                }
            }
        }
        Fixture { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn edit(&self, name: &str, edit: impl FnOnce(String) -> String) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        let edited = edit(text.clone());
        assert_ne!(edited, text, "the edit has to change something");
        fs::write(self.path(name), edited).unwrap();
    }

    fn dataset(&self) -> Dataset {
        Dataset::load_coco(&self.path("annotations.json"), self.dir.path()).unwrap()
    }

    /// Imports and expects an error with all these words, and no cache.
    fn refuses(&self, words: &[&str]) {
        let out = self.path("cache");
        let error = text(&import_answers(&self.path("dump"), &self.dataset(), &out).unwrap_err());
        assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
        assert!(!out.exists() && !self.path("cache.partial").exists(), "{error}");
    }
}

#[test]
fn exporters_dump_becomes_a_cache() {
    let fixture = Fixture::new();
    let (dataset, out) = (fixture.dataset(), fixture.path("cache"));
    let report = import_answers(&fixture.path("dump"), &dataset, &out).unwrap();
    assert_eq!((&report.missing, &report.missing_crowd), (&vec![6], &vec![5]), "an empty box and a crowd region");
    assert_eq!((report.n_images_verified, report.n_images_unverified), (2, 0));
    // Scores .5, .76, 1.02 for the three boxes of one image, .5 for the other's.
    assert_eq!((report.manifest.n_records, report.n_clamped_predicted_ious), (4, 1));
    assert_eq!(report.exporters_mean_iou, None);
    assert_eq!((report.manifest.teacher.name.as_str(), report.manifest.teacher.licence.as_str()), ("linear", "MIT"));
    assert_eq!(report.manifest.key.dataset, hex(&dataset.digest));
    // The sentences are "none" and "box; context 2.0 x 1.2 x longer side, grid 16": only the end of the second is known.
    assert_eq!(report.manifest.key.preprocessing, Preprocessing::Foreign("none".into()));
    assert_eq!(report.manifest.key.question, Question::Foreign("box".into()));
    let context = Context::AroundBox { region_scale: 1.2, context_scale: 2.0, min_side: 0.0 };
    let kept = Kept::MaskLogits { context, grid: 16, logit_step: 0.125, masks: KeptMasks::Single };
    assert_eq!(report.manifest.key.kept, kept);
    verify(&out).unwrap();
    let cache = FolderStore::open(&out, &report.manifest.key).unwrap();
    assert_eq!(cache.ids(), [2, 12, 13, 40]);
    let mut n_clipped = 0;
    for instance in dataset.instances.iter().filter(|i| ![5, 6].contains(&i.id)) {
        let record = cache.masks(instance.id).unwrap();
        let image = &dataset.images[instance.image_idx];
        assert_eq!((record.image.id, record.image.size), (image.id, image.size));
        let image_bytes = fs::read(dataset.image_path(instance.image_idx)).unwrap();
        assert_eq!(record.image.file_digest, *blake3::hash(&image_bytes).as_bytes());
        let [prompt] = record.prompts.as_slice() else { panic!("one prompt") };
        assert!(prompt.points.is_empty(), "words do not say where the prompt was");
        let ([x, y, w, h], rect) = (instance.bbox, prompt.rect_in_image);
        let side = 2.0 * 1.2 * w.max(h);
        let expected = [x + w / 2.0 - side / 2.0, y + h / 2.0 - side / 2.0, side, side];
        let got = [rect.x0, rect.y0, rect.width(), rect.height()];
        assert!(expected.iter().zip(got).all(|(e, g)| (e - g).abs() < 1e-9), "{expected:?} {got:?}");
        for (idx, &logit) in prompt.masks[0].logits.iter().enumerate() {
            let x = rect.x0 + (f64::from(idx as u32 % 16) + 0.5) * side / 16.0;
            let y = rect.y0 + (f64::from(idx as u32 / 16) + 0.5) * side / 16.0;
            let is_inside =
                (0.0..f64::from(image.size.width)).contains(&x) && (0.0..f64::from(image.size.height)).contains(&y);
            let steps = (0.75 * x - 0.5 * y - 3.0) / 0.125;
            n_clipped += u64::from(is_inside && steps.abs() > 127.5);
            // 0.6: rounding to steps, and f32 before it.
            let expected = if is_inside { steps.clamp(-127.0, 127.0) } else { -128.0 };
            assert!((f64::from(logit) - expected).abs() < 0.6, "annotation {} at {x}, {y}: {logit}", instance.id);
        }
    }
    assert!(n_clipped > 0);
    assert_eq!(report.n_clipped_by_exporter, Some(n_clipped));
}

#[test]
fn dump_of_other_data_is_refused() {
    let fixture = Fixture::new();
    fixture.edit("annotations.json", |json| json.replace("thing", "thong"));
    fixture.refuses(&["annotations.json", "other data", "SHA-256"]);

    let fixture = Fixture::new();
    let image = fixture.path("b.png");
    let mut bytes = fs::read(&image).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&image, bytes).unwrap();
    fixture.refuses(&["b.png", "other data", "SHA-256"]);

    let fixture = Fixture::new();
    fs::remove_file(fixture.path("a.png")).unwrap();
    fixture.refuses(&["a.png", "cannot read", "No such file"]);
}

#[test]
fn damaged_or_unfinished_dump_is_refused() {
    let fixture = Fixture::new();
    fs::remove_file(fixture.path("dump/manifest.json")).unwrap();
    fixture.refuses(&["manifest.json", "not finished"]);

    let fixture = Fixture::new();
    let shard = fixture.path("dump/shard-00001.safetensors");
    let bytes = fs::read(&shard).unwrap();
    fs::write(&shard, &bytes[..bytes.len() - 1]).unwrap();
    fixture.refuses(&["shard-00001.safetensors", "SHA-256"]);

    let manifest = |from: &str, to: &str, words: &[&str]| {
        let fixture = Fixture::new();
        fixture.edit("dump/manifest.json", |json| json.replace(from, to));
        fixture.refuses(words);
    };
    manifest("\"version\": 1", "\"version\": 2", &["manifest.json", "sensei-teacher-dump 1", "sensei-teacher-dump 2"]);
    manifest("\"grid\": 16", "\"grid\": 17", &["manifest.json", "prompt: expected grid 17, found grid 16"]);
    manifest(
        "16\",\n \"grid\": 16",
        "17\",\n \"grid\": 17",
        &["shard-00000.safetensors", "logits", "17, 17", "16, 16"],
    );
    manifest("\"grid\": 16", "\"grid\": 100000", &["manifest.json", "grid", "1024"]);
    manifest("\"records\": 4", "\"records\": 5", &["manifest.json", "records", "expected 5"]);
    manifest("\"shard-00000", "\"../shard-00000", &["manifest.json", "shard name"]);
    manifest("\"prompt\"", "\"promt\"", &["manifest.json", "promt"]);
    manifest(
        "\"logit_step\": 0.125",
        "\"logit_step\": -1",
        &["no teacher cache can have this key", "kept logit_step", "-1"],
    );
}

#[test]
fn import_refuses_an_existing_cache() {
    let fixture = Fixture::new();
    let out = fixture.path("cache");
    import_answers(&fixture.path("dump"), &fixture.dataset(), &out).unwrap();
    let error = import_answers(&fixture.path("dump"), &fixture.dataset(), &out).unwrap_err();
    assert!(matches!(error, ImportError::Cache(_)) && text(&error).contains("already exists"), "{error}");
}

#[test]
fn real_regions_of_interest_agree_with_their_measured_ious() {
    let Some(shared) = shared_dir("real_regions_of_interest_agree_with_their_measured_ious") else {
        return;
    };
    let data = shared.join("data");
    let dump = data.join("teacher_cache/roi96_box_val.safetensors");
    let annotations = data.join("coco/annotations/instances_val.json");
    let dataset = Dataset::load_coco(&annotations, &data.join("coco/images/val")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("cache");
    let report = import_answers(&dump, &dataset, &out).unwrap();
    assert_eq!(report.manifest.n_records, 444);
    assert_eq!(report.manifest.key.preprocessing, Preprocessing::NotStated);
    assert!(matches!(report.manifest.key.question, Question::Object { padding_points: 1, .. }));
    assert_eq!((report.missing.len(), report.missing_crowd.len()), (916 - 444, 11));
    assert_eq!((report.n_images_verified, report.n_images_unverified), (0, 99));
    assert!((report.exporters_mean_iou.unwrap() - 0.71499).abs() < 1e-5, "{report:?}");
    verify(&out).unwrap();

    let cache = FolderStore::open(&out, &report.manifest.key).unwrap();
    let bytes = fs::read(&dump).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let column = |name: &str| tensors.tensor(name).unwrap().data().to_vec();
    let (ids, logits, measured) = (column("ann_id"), column("logits_i8"), column("gt_iou"));
    let truth = compare_with_truth(&cache, &dataset).unwrap();
    let ids: Vec<u64> = ids.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    let mut differences = Vec::new();
    for (idx, &id) in ids.iter().enumerate() {
        let record = cache.masks(id).unwrap();
        let instance = dataset.instances.iter().find(|instance| instance.id == id).unwrap();
        assert_eq!(record.prompts[0].points, PromptPoint::of_box(instance.bbox));
        let stored: Vec<u8> = record.prompts[0].masks[0].logits.iter().map(|logit| logit.cast_unsigned()).collect();
        assert_eq!(stored, logits[idx * 96 * 96..][..96 * 96], "annotation {id}");
        let at = truth.ious.binary_search_by_key(&id, |(id, _)| *id).unwrap();
        let measured = f32::from_le_bytes(measured[idx * 4..][..4].try_into().unwrap());
        differences.push(truth.ious[at].1 - f64::from(measured));
    }
    let mean = differences.iter().sum::<f64>() / differences.len() as f64;
    let worst = differences.iter().fold(0.0, |worst: f64, d| worst.max(d.abs()));
    // Measured at full resolution on the whole image; the cache has 96 x 96 samples, and nothing beyond the region.
    assert!(mean.abs() < 1e-3 && worst < 0.05, "mean {mean}, worst {worst}");
    assert!((truth.mean_iou - 0.71499).abs() < 1e-3, "{}", truth.mean_iou);
}

#[test]
fn other_data_set_has_no_truth_for_a_cache() {
    let fixture = Fixture::new();
    let out = fixture.path("cache");
    import_answers(&fixture.path("dump"), &fixture.dataset(), &out).unwrap();
    let cache = FolderStore::open_any(&out).unwrap();
    assert_eq!(compare_with_truth(&cache, &fixture.dataset()).unwrap().n_without_record, 1);
    fixture.edit("annotations.json", |json| json.replace("thing", "thong"));
    let error = compare_with_truth(&cache, &fixture.dataset()).unwrap_err();
    assert!(text(&error).contains("dataset: expected"), "{error}");
}

#[test]
fn file_that_is_no_dump_is_refused() {
    let fixture = Fixture::new();
    let check = |path: &Path, words: &[&str]| {
        let error = text(&import_answers(path, &fixture.dataset(), &fixture.path("cache")).unwrap_err());
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    check(&fixture.path("a.png"), &["a.png", "safetensors"]);
    check(&fixture.path("nothing"), &["nothing", "cannot read"]);
    check(&fixture.path("dump/shard-00000.safetensors"), &["shard-00000", "metadata", "`teacher`"]);
}

/// Writes the dump's first shard again, with the means of the pictures that a teacher's program saw.
fn with_pixel_means(fixture: &Fixture, change: impl Fn(&mut Vec<u8>)) {
    let dataset = fixture.dataset();
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(fixture.path("dump/manifest.json")).unwrap()).unwrap();
    for entry in manifest["shards"].as_array().unwrap() {
        let path = fixture.path("dump").join(entry["file"].as_str().unwrap());
        let bytes = fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let ids = file.tensor("annotation_id").unwrap();
        let mut means = vec![];
        for id in ids.data().as_chunks::<8>().0 {
            let id = i64::from_le_bytes(*id) as u64;
            let instance = dataset.instances.iter().find(|instance| instance.id == id).unwrap();
            let image = read_image(&dataset.image_path(instance.image_idx), &ImageLimits::default()).unwrap().image;
            means.extend(pixel_means(&image));
        }
        change(&mut means);
        let n = ids.shape()[0];
        let means = TensorView::new(Dtype::U8, vec![n, 4, 4, 3], &means).unwrap();
        let tensors = file.tensors().into_iter().chain([("pixel_means".to_string(), means)]);
        let bytes = safetensors::serialize(tensors, None).unwrap();
        fs::write(&path, &bytes).unwrap();
        let (before, after) = (entry["sha256"].as_str().unwrap().to_string(), hex(&Sha256::digest(&bytes)));
        fixture.edit("dump/manifest.json", |json| json.replacen(&before, &after, 1));
    }
}

#[test]
fn pictures_that_the_teacher_saw_are_compared_with_those_that_are_decoded() {
    let fixture = Fixture::new();
    with_pixel_means(&fixture, |_| ());
    let report = import_answers(&fixture.path("dump"), &fixture.dataset(), &fixture.path("cache")).unwrap();
    assert_eq!((report.n_pictures_verified, report.n_images_verified), (2, 2));
    let store = FolderStore::open(&fixture.path("cache"), &report.manifest.key).unwrap();
    let dataset = fixture.dataset();
    let record = store.masks(store.ids()[0]).unwrap();
    let image_idx = dataset.images.iter().position(|image| image.id == record.image.id).unwrap();
    let image = read_image(&dataset.image_path(image_idx), &ImageLimits::default()).unwrap().image;
    assert_eq!(record.image.pixel_digest, Some(*blake3::hash(&image.pixels).as_bytes()));

    // Decoders may differ by some levels, and no more.
    for (by, is_refused) in [(4, false), (5, true)] {
        let fixture = Fixture::new();
        with_pixel_means(&fixture, |means| {
            means.iter_mut().for_each(|mean| *mean = if *mean < 128 { *mean + by } else { *mean - by })
        });
        if is_refused {
            fixture.refuses(&["pixels: mean red of cell 0, 0 of 4 x 4", "as the teacher saw it"]);
        } else {
            import_answers(&fixture.path("dump"), &fixture.dataset(), &fixture.path("cache")).unwrap();
        }
    }
}
