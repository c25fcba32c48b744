//! What is written is read; what cannot be written leaves nothing.

use std::fs;

use proptest::prelude::*;
use sensei_answers::error::CacheError;
use sensei_answers::folder_store::FolderStore;
use sensei_answers::joined_store::JoinedStore;
use sensei_answers::key::AnswerKey;
use sensei_answers::record::{MaskAnswer, MaskRecord};
use sensei_answers::store::Store;
use sensei_answers::verify::{stats, verify};
use sensei_answers::writer::{CacheWriter, RecordSink};
use sensei_data::geometry::{RectInImage, Size};

use crate::{key, record, rich_key, rich_record, teacher, text, write};

#[test]
fn records_come_back_from_many_shards() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let ids: Vec<u64> = (0..60).map(|n| n * 7 % 61 + u64::from(n == 59) * (1 << 40)).collect();
    let manifest = write(&path, key(13), &ids, 13, 1000);
    assert!(manifest.shards.len() > 5, "{manifest:?}");
    let cache = FolderStore::open(&path, &key(13)).unwrap();
    let mut sorted = ids.clone();
    sorted.sort();
    assert_eq!(cache.ids(), sorted);
    assert_eq!((cache.contains(0), cache.contains(1000), cache.location()), (true, false, path.as_path()));
    for id in ids {
        assert_eq!(cache.masks(id).unwrap(), record(id, 13));
    }
    assert!(!dir.path().join("cache.partial").exists());
    assert_eq!(fs::read_dir(&path).unwrap().count(), manifest.shards.len() + 2);
}

#[test]
fn equal_records_make_equal_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| write(&dir.path().join(name), key(8), &[5, 1, 9], 8, 200));
    assert_eq!(a, b);
}

#[test]
fn empty_cache_is_a_cache() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    write(&path, key(8), &[], 8, 200);
    assert!(FolderStore::open(&path, &key(8)).unwrap().ids().is_empty());
    assert_eq!(verify(&path).unwrap().n_records, 0);
}

#[test]
fn stats_count_every_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let manifest = write(&path, key(16), &[0, 3, 4, 9, 10, 11], 16, 500);
    let stats = stats(&FolderStore::open_any(&path).unwrap()).unwrap();
    assert_eq!(stats, verify(&path).unwrap());
    assert_eq!((stats.n_records, stats.n_images, stats.n_masks, stats.uncompressed_bytes), (6, 3, 6, 6 * 256));
    // Predicted IoUs 0, .3, .4, .9, 1, 1.1: the last is above 1.
    assert_eq!(stats.predicted_iou_histogram, [1, 0, 0, 1, 1, 0, 0, 0, 0, 3]);
    assert_eq!(stats.n_clamped_predicted_ious, 1);
    // With an odd factor and 256 cells each value appears once: 127 and -127 per record.
    assert_eq!((stats.n_saturated, manifest.n_saturated), (12, 12));
    let on_disk: u64 = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    let manifest_bytes = fs::metadata(path.join("manifest.json")).unwrap().len();
    assert_eq!(stats.bytes, on_disk - manifest_bytes);
}

#[test]
fn missing_entry_is_an_error_with_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    write(&path, key(8), &[5, 7], 8, 200);
    let cache = FolderStore::open(&path, &key(8)).unwrap();
    for id in [0, 6, 8, u64::MAX] {
        let error = cache.masks(id).unwrap_err();
        assert!(matches!(&error, CacheError::NoRecord { record, .. } if record.id == id));
        assert!(text(&error).contains(&format!("annotation {id}")), "{error}");
    }
}

#[test]
fn predicted_iou_is_clamped_and_says_so() {
    let clamped = |predicted_iou| {
        MaskAnswer { predicted_iou, ..record(1, 4).prompts.remove(0).masks.remove(0) }.clamped_predicted_iou()
    };
    assert_eq!(clamped(1.02), (1.0, true));
    assert_eq!(clamped(-0.01), (0.0, true));
    assert_eq!([clamped(0.0), clamped(0.73), clamped(1.0)], [(0.0, false), (0.73, false), (1.0, false)]);
}

#[test]
fn several_prompts_and_masks_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let mut writer = CacheWriter::create(&path, rich_key(9), teacher(), vec![]).unwrap().with_shard_bytes(700);
    for id in [8, 1, 5] {
        writer.push_masks(&rich_record(id, 9)).unwrap();
    }
    writer.finish().unwrap();
    let cache = FolderStore::open(&path, &rich_key(9)).unwrap();
    for id in [1, 5, 8] {
        assert_eq!(cache.masks(id).unwrap(), rich_record(id, 9));
        assert_eq!(cache.masks(id).unwrap().prompts[0].best_mask_idx(), 1);
    }
    let stats = verify(&path).unwrap();
    assert_eq!((stats.n_records, stats.n_masks, stats.n_clamped_predicted_ious), (3, 18, 6));
    let error = cache.features(1).unwrap_err().to_string();
    assert!(error.ends_with("expected a teacher cache of image features, found one of mask logits"), "{error}");
}

#[test]
fn the_best_mask_is_the_first_of_the_highest_predicted_iou() {
    let with = |predicted_ious: &[f32]| {
        let mut prompt = record(1, 2).prompts.remove(0);
        let mask = prompt.masks.remove(0);
        prompt.masks =
            predicted_ious.iter().map(|&predicted_iou| MaskAnswer { predicted_iou, ..mask.clone() }).collect();
        prompt.best_mask_idx()
    };
    assert_eq!([with(&[0.3]), with(&[0.3, 0.9, 0.9]), with(&[0.9, 0.9, 0.3]), with(&[-1.0, -2.0])], [0, 1, 0, 0]);
}

#[test]
fn writer_refuses_what_no_cache_can_hold() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let mut writer = CacheWriter::create(&path, rich_key(4), teacher(), vec![]).unwrap();
    writer.push_masks(&rich_record(3, 4)).unwrap();
    let error = writer.push_masks(&rich_record(3, 4)).unwrap_err();
    assert!(matches!(&error, CacheError::Duplicate { record, .. } if record.id == 3), "{error}");
    let mut refuses = |change: fn(&mut MaskRecord), part: &str| {
        let mut record = rich_record(4, 4);
        change(&mut record);
        let error = text(&writer.push_masks(&record).unwrap_err());
        assert!(error.contains("annotation 4") && error.contains(part), "{error}");
    };
    refuses(|r| r.prompts[1].rect_in_image.x1 = f64::NAN, "area");
    refuses(|r| r.prompts[1].rect_in_image.x1 = r.prompts[1].rect_in_image.x0, "area");
    refuses(|r| r.prompts[0].rect_in_image = rect(-9.0, 0.0, -1.0, 8.0), "overlaps the image");
    refuses(|r| r.image.size = Size { width: 0, height: 480 }, "image size");
    refuses(|r| r.image.pixel_digest = Some([0; 32]), "pixel digest");
    refuses(|r| r.grid = 0, "grid: expected 4 by the key, found 0");
    refuses(|r| *r = rich_record(4, 5), "grid: expected 4 by the key, found 5");
    refuses(|r| r.logit_step = 0.25, "logit step: expected 0.125 by the key, found 0.25");
    refuses(|r| drop(r.prompts.pop()), "prompts: expected 2 by the key, found 1");
    refuses(
        |r| r.prompts.iter_mut().for_each(|prompt| drop(prompt.masks.pop())),
        "masks of a prompt: expected 3 by the key",
    );
    refuses(|r| drop(r.prompts[1].masks.pop()), "masks of a prompt: expected 3, found 2");
    refuses(|r| r.prompts[1].masks[2].logits.truncate(15), "logits: expected 4 x 4 values, found 15");
    refuses(|r| r.prompts[0].masks[1].predicted_iou = f32::NAN, "predicted IoU");
    refuses(|r| r.prompts[0].masks[1].stability = Some(1.1), "stability");
    refuses(|r| r.prompts[0].masks[1].stability = Some(f32::NAN), "stability");
    refuses(|r| r.prompts[0].points[0].at.x = f64::INFINITY, "point");
    refuses(|r| r.prompts[0].points = vec![r.prompts[0].points[0]; 257], "points: expected at most 256, found 257");
    assert_eq!(writer.finish().unwrap().n_records, 1);
}

fn rect(x0: f64, y0: f64, x1: f64, y1: f64) -> RectInImage {
    RectInImage { x0, y0, x1, y1 }
}

#[test]
fn dropped_writer_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = CacheWriter::create(&dir.path().join("cache"), key(4), teacher(), vec![]).unwrap();
    writer.push_masks(&record(3, 4)).unwrap();
    drop(writer);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn killed_writer_leaves_nothing_that_opens_and_does_not_block() {
    let dir = tempfile::tempdir().unwrap();
    let (killed, path) = (dir.path().join("killed"), dir.path().join("cache"));
    let mut writer = CacheWriter::create(&killed, key(4), teacher(), vec![]).unwrap().with_shard_bytes(1);
    for id in [1, 2, 3] {
        writer.push_masks(&record(id, 4)).unwrap();
    }
    // As after SIGKILL: files stay. This process keeps the lock, so the next writer is tried on a copy.
    std::mem::forget(writer);
    let busy = CacheWriter::create(&killed, key(4), teacher(), vec![]).unwrap_err();
    assert!(matches!(busy, CacheError::Busy { .. }), "{busy}");
    let partial = dir.path().join("cache.partial");
    fs::create_dir(&partial).unwrap();
    for entry in fs::read_dir(dir.path().join("killed.partial")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), partial.join(entry.file_name())).unwrap();
    }
    assert_eq!(fs::read_dir(&partial).unwrap().count(), 3, "three shards");
    for place in [&killed, &path, &partial] {
        assert!(matches!(FolderStore::open(place, &key(4)).unwrap_err(), CacheError::Missing { .. }));
    }
    write(&path, key(4), &[9], 4, 1000);
    assert_eq!(verify(&path).unwrap().n_records, 1);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 3, "shard, index, manifest; none of the leftovers");
}

#[test]
fn existing_cache_is_never_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    write(&path, key(4), &[1], 4, 1000);
    for place in [path.clone(), path.join("")] {
        let error = CacheWriter::create(&place, key(4), teacher(), vec![]).unwrap_err();
        assert!(matches!(error, CacheError::Exists { .. }), "{error}");
    }
    let late = dir.path().join("late/");
    let writer = CacheWriter::create(&late, key(4), teacher(), vec![]).unwrap();
    fs::create_dir(&late).unwrap();
    assert!(matches!(writer.finish().unwrap_err(), CacheError::Exists { .. }));
    assert_eq!(fs::read_dir(&late).unwrap().count(), 0);
    assert!(!dir.path().join("late.partial").exists());
    assert_eq!(verify(&path).unwrap().n_records, 1);
}

#[cfg(target_os = "linux")]
#[test]
fn full_disk_is_an_error_and_leaves_nothing() {
    for full in ["shard-00000.stc", "index.sti", "manifest.json"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        let mut writer = CacheWriter::create(&path, key(4), teacher(), vec![]).unwrap();
        std::os::unix::fs::symlink("/dev/full", dir.path().join("cache.partial").join(full)).unwrap();
        writer.push_masks(&record(1, 4)).unwrap();
        let error = text(&writer.finish().unwrap_err());
        assert!(error.contains(full) && error.contains("cannot write") && error.contains("No space left"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn folder_that_cannot_be_written_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    // /proc refuses even the superuser, who passes by read-only permissions.
    for place in [file.join("cache"), "/proc/cache".into()] {
        let error = text(&CacheWriter::create(&place, key(4), teacher(), vec![]).unwrap_err());
        let is_told = error.contains("cannot create") || error.contains(".cache.lock: cannot lock");
        assert!(is_told && error.contains(place.parent().unwrap().to_str().unwrap()), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_logits_come_back(
        ids in proptest::collection::btree_set(any::<u64>(), 1..6),
        grid in 1u32..40,
        seed in any::<u64>(),
        shard_bytes in 1usize..5000,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        let make = |id: u64| {
            let noise = |n: u64| (n.wrapping_mul(seed | 1).wrapping_add(id) >> (seed % 50)) as i8;
            let logits = (0..u64::from(grid * grid)).map(noise).collect();
            let mut record = record(7, grid);
            record.annotation_id = id;
            record.prompts[0].masks[0].logits = logits;
            record
        };
        let writer = CacheWriter::create(&path, key(grid), teacher(), vec![]).unwrap();
        let mut writer = writer.with_shard_bytes(shard_bytes);
        for &id in ids.iter().rev() {
            writer.push_masks(&make(id)).unwrap();
        }
        writer.finish().unwrap();
        verify(&path).unwrap();
        let cache = FolderStore::open(&path, &key(grid)).unwrap();
        for &id in &ids {
            prop_assert_eq!(cache.masks(id).unwrap(), make(id));
        }
    }
}

#[test]
fn several_stores_answer_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let other_key = || AnswerKey { dataset: "07e4".into(), ..key(8) };
    write(&dir.path().join("a"), key(8), &[5, 1, 9], 8, 200);
    write(&dir.path().join("b"), other_key(), &[40, 9], 8, 200);
    let open = |name: &str, key: &AnswerKey| -> Box<dyn Store> {
        Box::new(FolderStore::open(&dir.path().join(name), key).unwrap())
    };
    let joined = JoinedStore::new(vec![open("a", &key(8)), open("b", &other_key())]);
    assert_eq!(joined.ids(), [1, 5, 9, 40]);
    assert!(joined.contains(40) && joined.contains(1) && !joined.contains(2));
    for id in joined.ids() {
        assert_eq!(joined.masks(id).unwrap(), record(id, 8));
    }
    assert!(matches!(joined.masks(2), Err(CacheError::NoRecord { .. })));
    // Its key is neither's, so that a run notices other answers; a store alone keeps its own.
    let digests = [key(8).digest(), other_key().digest(), joined.manifest().key.digest()];
    assert!(digests[2] != digests[0] && digests[2] != digests[1]);
    assert_eq!(JoinedStore::new(vec![open("a", &key(8))]).manifest().key, key(8));
}
