//! No changed byte of a cache is ever taken for an answer, and nothing panics.

use std::fs;
use std::path::{Path, PathBuf};

use sensei_answers::error::CacheError;
use sensei_answers::features::{FeatureRecord, FeatureValues};
use sensei_answers::folder_store::FolderStore;
use sensei_answers::key::AnswerKey;
use sensei_answers::record::MaskRecord;
use sensei_answers::store::Store;
use sensei_answers::verify::verify;
use sensei_data::geometry::Size;

use crate::{key, put, record, rich_record, text, write};

const IDS: [u64; 5] = [2, 3, 5, 1000, 77];
const GRID: u32 = 6;

#[test]
fn every_cut_file_is_an_error() {
    let cache = Fixture::new();
    for (name, bytes) in &cache.files {
        for length in 0..bytes.len() {
            cache.put(name, &bytes[..length]);
            let error = FolderStore::open(&cache.path, &key(GRID)).expect_err("a cut file");
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
        assert!(text(&FolderStore::open(&cache.path, &key(GRID)).unwrap_err()).contains(name.as_str()));
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
        assert!(text(&FolderStore::open(&cache.path, &key(GRID)).unwrap_err()).contains(name.as_str()));
        cache.put(name, bytes);
    }
}

#[test]
fn shard_of_another_cache_is_an_error() {
    let cache = Fixture::new();
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other");
    write(&other, AnswerKey { teacher: "an0ther".into(), ..key(GRID) }, &IDS, GRID, 300);
    let shard = fs::read(other.join("shard-00000.stc")).unwrap();
    cache.put("shard-00000.stc", &shard);
    let error = text(&FolderStore::open(&cache.path, &key(GRID)).unwrap_err());
    assert!(error.contains("shard-00000.stc") && error.contains("key digest"), "{error}");
}

#[test]
fn swapped_shards_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    // Equal sizes: one record each of the same grid and content.
    write(&path, key(1), &[2, 3], 1, 1);
    let [a, b] = ["shard-00000.stc", "shard-00001.stc"].map(|name| path.join(name));
    let (first, second) = (fs::read(&a).unwrap(), fs::read(&b).unwrap());
    assert_eq!(first.len(), second.len());
    fs::write(a, second).unwrap();
    fs::write(b, first).unwrap();
    let error = text(&FolderStore::open(&path, &key(1)).unwrap().masks(2).unwrap_err());
    assert!(error.contains("annotation 2: id in the record: expected 2, found 3"), "{error}");
    assert!(verify(&path).is_err());
}

#[test]
fn folder_without_a_cache_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    for place in [dir.path().to_path_buf(), dir.path().join("nothing")] {
        let error = FolderStore::open(&place, &key(GRID)).unwrap_err();
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
        write(&path, key(GRID), &IDS, GRID, 300);
        let read = |path: &Path| (path.file_name().unwrap().to_str().unwrap().to_string(), fs::read(path).unwrap());
        let mut files: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| read(&entry.unwrap().path())).collect();
        files.sort();
        assert_eq!(files.len(), 5, "three shards, index, manifest");
        Fixture { _dir: dir, path, files }
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        put(&self.path.join(name), bytes);
    }

    /// Number of records that can be read; each must be as it was written.
    fn read_all(&self, what: &str) -> usize {
        let Ok(cache) = FolderStore::open(&self.path, &key(GRID)) else {
            return 0;
        };
        let read = |id: &u64| cache.masks(*id).map(|found| assert_eq!(found, record(*id, GRID), "{what}")).is_ok();
        IDS.iter().filter(|id| read(id)).count()
    }
}

/// Records with a right checksum over wrong bytes (a writer's bug, or malice): parsing refuses them or reads what a writer could
/// have written.
#[test]
fn resealed_damage_never_panics() {
    let masks = rich_record(5, 12);
    let intact = masks.to_bytes().unwrap();
    assert_eq!(MaskRecord::from_bytes(&intact).unwrap(), masks);
    resealed(&intact, |bytes| MaskRecord::from_bytes(bytes).map(|read| drop(read.to_bytes().unwrap())).is_ok());

    let features = FeatureRecord {
        image: masks.image,
        resized: Size { width: 1024, height: 768 },
        used: Size { width: 5, height: 4 },
        grid: 5,
        channels: 2,
        values: FeatureValues::int4(&[0.25; 50], vec![0.5, 0.25]),
    };
    let intact = features.to_bytes().unwrap();
    resealed(&intact, |bytes| {
        FeatureRecord::from_bytes(bytes.into()).map(|read| drop(read.to_bytes().unwrap())).is_ok()
    });
}

/// Damages a record in 20,000 ways and counts the readings.
fn resealed(intact: &[u8], reads: impl Fn(&[u8]) -> bool) {
    let (mut n_read, mut state) = (0, 1u64);
    for _ in 0..20_000 {
        let mut bytes = intact.to_vec();
        for _ in 0..3 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let at = 8 + (state >> 33) as usize % (bytes.len() - 8);
            bytes[at] = (state >> 20) as u8;
        }
        if state >> 60 == 0 {
            bytes.truncate(9 + (state >> 33) as usize % (bytes.len() - 9));
        }
        let checksum = blake3::hash(&bytes[8..]);
        bytes[..8].copy_from_slice(&checksum.as_bytes()[..8]);
        n_read += usize::from(reads(&bytes));
    }
    assert!((1000..19_000).contains(&n_read), "{n_read}");
}

/// What a record of a few bytes says it holds is not allocated.
#[test]
fn claims_beyond_the_limits_are_refused_before_anything_is_allocated() {
    let check = |at: usize, value: u32, words: &str| {
        let mut bytes = rich_record(5, 12).to_bytes().unwrap();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let checksum = blake3::hash(&bytes[8..]);
        bytes[..8].copy_from_slice(&checksum.as_bytes()[..8]);
        let fault = MaskRecord::from_bytes(&bytes).unwrap_err().to_string();
        assert!(fault.starts_with(words), "{fault}");
    };
    // The layout of docs/formats/teacher-cache.md.
    check(8, 2, "kind of record: expected 1, found 2");
    check(12, 65, "prompts: expected 1 to 64, found 65");
    check(104, 17, "masks of a prompt: expected 1 to 16, found 17");
    check(108, 1025, "grid: expected 1 to 1024, found 1025");
    check(108, 0, "grid: expected 1 to 1024, found 0");
    check(148, 257, "points: expected at most 256, found 257");
    let mut bytes = rich_record(5, 12).to_bytes().unwrap();
    bytes[12..16].copy_from_slice(&64_u32.to_le_bytes());
    bytes[104..108].copy_from_slice(&16_u32.to_le_bytes());
    bytes[108..112].copy_from_slice(&1024_u32.to_le_bytes());
    let checksum = blake3::hash(&bytes[8..]);
    bytes[..8].copy_from_slice(&checksum.as_bytes()[..8]);
    let fault = MaskRecord::from_bytes(&bytes).unwrap_err().to_string();
    assert_eq!(fault, "samples of all masks: expected at most 67108864, found 1073741824");
}
