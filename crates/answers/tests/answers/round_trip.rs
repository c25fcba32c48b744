//! What is written is read; what cannot be written leaves nothing.

use std::fs;

use proptest::prelude::*;
use sensei_answers::cache::Cache;
use sensei_answers::error::CacheError;
use sensei_answers::record::TeacherRecord;
use sensei_answers::verify::{stats, verify};
use sensei_answers::writer::CacheWriter;
use sensei_data::geometry::Size;

use crate::{key, record, teacher, text, write};

#[test]
fn records_come_back_from_many_shards() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let ids: Vec<u64> = (0..60).map(|n| n * 7 % 61 + u64::from(n == 59) * (1 << 40)).collect();
    let manifest = write(&path, key(), &ids, 13, 1000);
    assert!(manifest.shards.len() > 5, "{manifest:?}");
    let cache = Cache::open(&path, &key()).unwrap();
    let mut sorted = ids.clone();
    sorted.sort();
    assert_eq!(cache.annotation_ids().collect::<Vec<_>>(), sorted);
    assert_eq!((cache.len(), cache.is_empty()), (60, false));
    for id in ids {
        assert_eq!(cache.get(id).unwrap(), record(id, 13));
    }
    assert!(!dir.path().join("cache.partial").exists());
    assert_eq!(fs::read_dir(&path).unwrap().count(), manifest.shards.len() + 2);
}

#[test]
fn equal_records_make_equal_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|name| write(&dir.path().join(name), key(), &[5, 1, 9], 8, 200));
    assert_eq!(a, b);
}

#[test]
fn empty_cache_is_a_cache() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    write(&path, key(), &[], 8, 200);
    assert!(Cache::open(&path, &key()).unwrap().is_empty());
    assert_eq!(verify(&path).unwrap().n_records, 0);
}

#[test]
fn stats_count_every_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let manifest = write(&path, key(), &[0, 3, 4, 9, 10, 11], 16, 500);
    let stats = stats(&path).unwrap();
    assert_eq!(stats, verify(&path).unwrap());
    assert_eq!((stats.n_records, stats.n_images, stats.logit_bytes), (6, 3, 6 * 256));
    // Predicted IoUs 0, .3, .4, .9, 1, 1.1: the last is above 1.
    assert_eq!(stats.predicted_iou_histogram, [1, 0, 0, 1, 1, 0, 0, 0, 0, 3]);
    assert_eq!(stats.n_clamped_weights, 1);
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
    write(&path, key(), &[5, 7], 8, 200);
    let cache = Cache::open(&path, &key()).unwrap();
    for id in [0, 6, 8, u64::MAX] {
        let error = cache.get(id).unwrap_err();
        assert!(matches!(error, CacheError::NoRecord { annotation_id, .. } if annotation_id == id));
        assert!(text(&error).contains(&format!("annotation {id}")), "{error}");
    }
}

#[test]
fn weight_is_clamped_and_says_so() {
    let weight = |predicted_iou| TeacherRecord { predicted_iou, ..record(1, 4) }.weight();
    assert_eq!(weight(1.02), (1.0, true));
    assert_eq!(weight(-0.01), (0.0, true));
    assert_eq!([weight(0.0), weight(0.73), weight(1.0)], [(0.0, false), (0.73, false), (1.0, false)]);
}

#[test]
fn writer_refuses_what_no_cache_can_hold() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    let mut writer = CacheWriter::create(&path, key(), teacher(), vec![]).unwrap();
    writer.push(&record(3, 4)).unwrap();
    let error = writer.push(&record(3, 4)).unwrap_err();
    assert!(matches!(error, CacheError::Duplicate { annotation_id: 3, .. }), "{error}");
    let mut refuses = |change: fn(&mut TeacherRecord), part: &str| {
        let mut record = record(4, 4);
        change(&mut record);
        let error = text(&writer.push(&record).unwrap_err());
        assert!(error.contains("annotation 4") && error.contains(part), "{error}");
    };
    refuses(|r| r.rect_in_image.x1 = f64::NAN, "area");
    refuses(|r| r.rect_in_image.x1 = r.rect_in_image.x0, "area");
    refuses(|r| r.rect_in_image.x1 = -1.0, "overlaps the image");
    refuses(|r| r.image_size = Size { width: 0, height: 480 }, "overlaps the image");
    refuses(|r| r.grid = 0, "grid");
    refuses(|r| r.grid = 1025, "grid");
    refuses(|r| r.logits.truncate(15), "logits");
    refuses(|r| r.logit_step = 0.0, "logit step");
    refuses(|r| r.logit_step = f32::INFINITY, "logit step");
    refuses(|r| r.predicted_iou = f32::NAN, "predicted IoU");
    assert_eq!(writer.finish().unwrap().n_records, 1);
}

#[test]
fn dropped_writer_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = CacheWriter::create(&dir.path().join("cache"), key(), teacher(), vec![]).unwrap();
    writer.push(&record(3, 4)).unwrap();
    drop(writer);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn killed_writer_leaves_nothing_that_opens_and_does_not_block() {
    let dir = tempfile::tempdir().unwrap();
    let (killed, path) = (dir.path().join("killed"), dir.path().join("cache"));
    let mut writer = CacheWriter::create(&killed, key(), teacher(), vec![]).unwrap().with_shard_bytes(1);
    for id in [1, 2, 3] {
        writer.push(&record(id, 4)).unwrap();
    }
    // As after SIGKILL: files stay. This process keeps the lock, so the next writer is tried on a copy.
    std::mem::forget(writer);
    let busy = CacheWriter::create(&killed, key(), teacher(), vec![]).unwrap_err();
    assert!(matches!(busy, CacheError::Busy { .. }), "{busy}");
    let partial = dir.path().join("cache.partial");
    fs::create_dir(&partial).unwrap();
    for entry in fs::read_dir(dir.path().join("killed.partial")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), partial.join(entry.file_name())).unwrap();
    }
    assert_eq!(fs::read_dir(&partial).unwrap().count(), 4, "three shards and the lock");
    for place in [&killed, &path, &partial] {
        assert!(matches!(Cache::open(place, &key()).unwrap_err(), CacheError::Missing { .. }));
    }
    write(&path, key(), &[9], 4, 1000);
    assert_eq!(verify(&path).unwrap().n_records, 1);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 3, "shard, index, manifest; none of the leftovers");
}

#[test]
fn existing_cache_is_never_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    write(&path, key(), &[1], 4, 1000);
    for place in [path.clone(), path.join("")] {
        let error = CacheWriter::create(&place, key(), teacher(), vec![]).unwrap_err();
        assert!(matches!(error, CacheError::Exists { .. }), "{error}");
    }
    let late = dir.path().join("late/");
    let writer = CacheWriter::create(&late, key(), teacher(), vec![]).unwrap();
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
        let mut writer = CacheWriter::create(&path, key(), teacher(), vec![]).unwrap();
        std::os::unix::fs::symlink("/dev/full", dir.path().join("cache.partial").join(full)).unwrap();
        writer.push(&record(1, 4)).unwrap();
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
        let error = text(&CacheWriter::create(&place, key(), teacher(), vec![]).unwrap_err());
        assert!(error.contains("cannot create") && error.contains(place.to_str().unwrap()), "{error}");
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
            TeacherRecord { annotation_id: id, logits, ..record(7, grid) }
        };
        let mut writer = CacheWriter::create(&path, key(), teacher(), vec![]).unwrap().with_shard_bytes(shard_bytes);
        for &id in ids.iter().rev() {
            writer.push(&make(id)).unwrap();
        }
        writer.finish().unwrap();
        verify(&path).unwrap();
        let cache = Cache::open(&path, &key()).unwrap();
        for &id in &ids {
            prop_assert_eq!(cache.get(id).unwrap(), make(id));
        }
    }
}
