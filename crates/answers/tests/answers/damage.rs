//! No changed byte of a cache is ever taken for an answer, and nothing panics.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sensei_answers::cache::Cache;
use sensei_answers::error::CacheError;
use sensei_answers::key::CacheKey;
use sensei_answers::verify::verify;

use crate::{key, record, text, write};

const IDS: [u64; 5] = [2, 3, 5, 1000, 77];
const GRID: u32 = 6;

#[test]
fn stale_cache_is_an_error_that_names_the_part() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    write(&path, key(), &IDS, GRID, 300);
    let check = |change: fn(&mut CacheKey), part: &str, expected: &str, found: &str| {
        let mut wanted = key();
        change(&mut wanted);
        let error = Cache::open(&path, &wanted).unwrap_err();
        assert!(matches!(error, CacheError::KeyMismatch { .. }), "{error}");
        let line = format!("{}: stale teacher cache: {part}: expected `{expected}`, found `{found}`", path.display());
        assert_eq!(error.to_string(), line);
        assert_ne!(wanted.digest(), key().digest());
    };
    check(|k| k.teacher = "another".into(), "teacher", "another", "7ea");
    check(|k| k.preprocessing = "stretch".into(), "preprocessing", "stretch", "letterbox");
    check(|k| k.prompt = "point".into(), "prompt", "point", "box");
    check(|k| k.dataset = "beef".into(), "dataset", "beef", "da7a");
    check(|k| k.format = 2, "format", "2", "1");
    let wanted = CacheKey { teacher: "x".into(), dataset: "y".into(), ..key() };
    let error = Cache::open(&path, &wanted).unwrap_err().to_string();
    assert!(error.contains("teacher: expected `x`") && error.contains("; dataset: expected `y`"), "{error}");
}

#[test]
fn every_cut_file_is_an_error() {
    let cache = Fixture::new();
    for (name, bytes) in &cache.files {
        for length in 0..bytes.len() {
            cache.put(name, &bytes[..length]);
            let error = Cache::open(&cache.path, &key()).expect_err("a cut file");
            assert!(text(&error).contains(name.as_str()), "{name} cut to {length}: {}", text(&error));
        }
        cache.put(name, bytes);
    }
    assert_eq!(verify(&cache.path).unwrap().n_records, 5);
}

#[test]
fn longer_file_is_an_error() {
    let cache = Fixture::new();
    for (name, bytes) in &cache.files {
        cache.put(name, &[bytes.as_slice(), b"x"].concat());
        assert!(text(&Cache::open(&cache.path, &key()).unwrap_err()).contains(name.as_str()));
        cache.put(name, bytes);
    }
}

#[test]
fn every_flipped_byte_is_found_and_never_read_as_an_answer() {
    let cache = Fixture::new();
    for (name, bytes) in &cache.files {
        for at in 0..bytes.len() {
            for flip in [1 << (at % 8), 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= flip;
                cache.put(name, &changed);
                let what = format!("{name}: byte {at} ^ {flip:#x}");
                let error = verify(&cache.path).expect_err(&what);
                assert!(text(&error).contains(name.as_str()), "{what}: {}", text(&error));
                assert!(cache.read_all(&what) < IDS.len(), "{what}: all records were read");
            }
        }
        cache.put(name, bytes);
    }
}

#[test]
fn lost_file_is_an_error() {
    let cache = Fixture::new();
    for (name, bytes) in &cache.files {
        fs::remove_file(cache.path.join(name)).unwrap();
        assert!(text(&Cache::open(&cache.path, &key()).unwrap_err()).contains(name.as_str()));
        cache.put(name, bytes);
    }
}

#[test]
fn shard_of_another_cache_is_an_error() {
    let cache = Fixture::new();
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other");
    write(&other, CacheKey { teacher: "an0ther".into(), ..key() }, &IDS, GRID, 300);
    let shard = fs::read(other.join("shard-00000.stc")).unwrap();
    cache.put("shard-00000.stc", &shard);
    let error = text(&Cache::open(&cache.path, &key()).unwrap_err());
    assert!(error.contains("shard-00000.stc") && error.contains("key digest"), "{error}");
}

#[test]
fn swapped_shards_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    // Equal sizes: one record each of the same grid and content.
    write(&path, key(), &[2, 3], 1, 1);
    let [a, b] = ["shard-00000.stc", "shard-00001.stc"].map(|name| path.join(name));
    let (first, second) = (fs::read(&a).unwrap(), fs::read(&b).unwrap());
    assert_eq!(first.len(), second.len());
    fs::write(a, second).unwrap();
    fs::write(b, first).unwrap();
    let error = text(&Cache::open(&path, &key()).unwrap().get(2).unwrap_err());
    assert!(error.contains("annotation 2: id in the record: expected 2, found 3"), "{error}");
    assert!(verify(&path).is_err());
}

#[test]
fn folder_without_a_cache_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for place in [dir.path().to_path_buf(), dir.path().join("nothing")] {
        let error = Cache::open(&place, &key()).unwrap_err();
        assert!(matches!(error, CacheError::Missing { .. }) && text(&error).contains("no teacher cache"), "{error}");
    }
}

/// Random edits of random files: the reader may refuse, or answer as before; it may not panic or answer otherwise.
#[test]
fn random_edits_never_change_an_answer() {
    let cache = Fixture::new();
    let mut state = 0x5eed_u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below.max(1)
    };
    for round in 0..3000 {
        let (name, bytes) = &cache.files[random(cache.files.len())];
        let mut changed = bytes.clone();
        for _ in 0..1 + random(4) {
            let (at, length) = (random(changed.len()), 1 + random(16));
            let end = (at + length).min(changed.len());
            match random(5) {
                0 => drop(changed.drain(at..end)),
                1 => changed.splice(at..at, (0..length).map(|n| n as u8)).for_each(drop),
                2 => changed[at..end].fill([0, 0xff][length % 2]),
                3 => changed[at..end].iter_mut().for_each(|byte| *byte = random(256) as u8),
                _ => changed.copy_within(at..end, random(bytes.len().saturating_sub(16)).min(at)),
            }
        }
        cache.put(name, &changed);
        let _ = verify(&cache.path);
        cache.read_all(&format!("round {round}: {name}"));
        cache.put(name, bytes);
    }
}

struct Fixture {
    _dir: tempfile::TempDir,
    path: PathBuf,
    files: Vec<(String, Vec<u8>)>,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        write(&path, key(), &IDS, GRID, 300);
        let read = |path: &Path| (path.file_name().unwrap().to_str().unwrap().to_string(), fs::read(path).unwrap());
        let mut files: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| read(&entry.unwrap().path())).collect();
        files.sort();
        assert_eq!(files.len(), 5, "three shards, index, manifest");
        Fixture { _dir: dir, path, files }
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        // Not fs::write: some file systems flush a file that was truncated to nothing, which takes milliseconds.
        let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(self.path.join(name)).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
    }

    /// Number of records that can be read; each must be as it was written.
    fn read_all(&self, what: &str) -> usize {
        let Ok(cache) = Cache::open(&self.path, &key()) else {
            return 0;
        };
        let read = |id: &u64| cache.get(*id).map(|found| assert_eq!(found, record(*id, GRID), "{what}")).is_ok();
        IDS.iter().filter(|id| read(id)).count()
    }
}
