//! A store that several workers fill, on stores that fail in every way that they may.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sensei_answers::error::CacheError;
use sensei_answers::folder_store::FolderStore;
use sensei_answers::key::AnswerKey;
use sensei_answers::shared::fetched_store::{FetchedStore, ShardRoom};
use sensei_answers::shared::fill::{FillReport, fill};
use sensei_answers::shared::plan::{StorePlan, unit_id};
use sensei_answers::shared::seal::seal;
use sensei_answers::shared::state::only_store;
use sensei_answers::shared::sweep::orphans;
use sensei_answers::shared::unit::{UnitWriter, UnusableImage};
use sensei_answers::shared::verify::verify_shared;
use sensei_answers::shared::{folder_of, store_of};
use sensei_answers::store::Store;
use sensei_answers::writer::RecordSink;
use sensei_store::folder::Folder;
use sensei_store::memory::Memory;
use sensei_store::objects::Objects;
use sensei_store::open::{HAS_REMOTE, open};
use sensei_store::place::Place;
use sensei_testing::hostile::{Hostile, Replacing};
use sensei_testing::s3_server::{BUCKET, S3Server};

use crate::{key, record, teacher, text, write};

const GRID: u32 = 6;
const N_RECORDS: u64 = 60;
const UNIT: usize = 4;

fn ids() -> Vec<u64> {
    (0..N_RECORDS).map(|nth| 7 * nth + 1).collect()
}

fn plan() -> StorePlan {
    let key = key(GRID);
    let unit = |(idx, ids): (usize, &[u64])| unit_id(&key, idx, ids.iter().map(u64::to_string));
    let units = ids().chunks(UNIT).enumerate().map(unit).collect();
    StorePlan { units, teacher: teacher(), tool: "a test 1".into(), unit: format!("{UNIT} records"), key }
}

fn make(unit_idx: usize, writer: &mut UnitWriter) -> Result<(), CacheError> {
    writer.counts.n_images += 1;
    ids()[unit_idx * UNIT..][..UNIT].iter().try_for_each(|&id| writer.push_masks(&record(id, GRID)))
}

fn place(objects: impl Objects + 'static) -> Place {
    Place::new("place", Arc::new(objects)).with_pause(Duration::ZERO)
}

fn records(store: &dyn Store) -> BTreeMap<u64, Vec<u8>> {
    store.ids().into_iter().map(|id| (id, store.stored(id).unwrap().unwrap().bytes.into_owned())).collect()
}

/// The records of a cache that one process wrote.
fn undisturbed() -> BTreeMap<u64, Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("cache"), key(GRID), &ids(), GRID, 300);
    records(&FolderStore::open(&dir.path().join("cache"), &key(GRID)).unwrap())
}

fn room(folder: &Path, max_bytes: u64) -> ShardRoom {
    ShardRoom { folder: folder.into(), max_bytes }
}

/// A sealed store in a folder.
struct Sealed {
    dir: tempfile::TempDir,
    place: Place,
}

impl Sealed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new("place", Arc::new(Folder::new(&dir.path().join("place")))).with_pause(Duration::ZERO);
        fill(&place, &plan(), "one", &mut make).unwrap();
        seal(&store_of(&place, &key(GRID)), 0).unwrap();
        Self { dir, place }
    }

    fn store(&self) -> Place {
        store_of(&self.place, &key(GRID))
    }

    fn folder(&self) -> std::path::PathBuf {
        self.dir.path().join("place").join(folder_of(&key(GRID)))
    }

    /// Paths of the shards, or units.
    fn files(&self, of: &str, end: &str) -> Vec<std::path::PathBuf> {
        let entries = fs::read_dir(self.folder().join(of)).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries.filter(|path| path.to_string_lossy().ends_with(end)).collect();
        files.sort();
        files
    }
}

/// Four workers at once, each killed and started again at random, leave what one undisturbed process leaves.
fn check_workers(place: &Place, seed: usize) {
    let n_calls = AtomicUsize::new(seed);
    let reports: Vec<FillReport> = std::thread::scope(|scope| {
        let worker = |name: String| {
            let n_calls = &n_calls;
            move || loop {
                // A process that dies in the middle of a unit.
                let mut make = |unit_idx: usize, writer: &mut UnitWriter| {
                    make(unit_idx, writer)?;
                    let is_killed = n_calls.fetch_add(7, Ordering::Relaxed).is_multiple_of(5);
                    if is_killed { Err(CacheError::Missing { path: "killed".into() }) } else { Ok(()) }
                };
                if let Ok(report) = fill(place, &plan(), &name, &mut make) {
                    return report;
                }
            }
        };
        let threads: Vec<_> = (0..4).map(|nth| scope.spawn(worker(format!("worker {nth}")))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let n_units = plan().units.len();
    assert!(reports.iter().all(|report| report.n_made + report.n_found + report.n_lost == n_units), "{reports:?}");
    let store = store_of(place, &key(GRID));
    let found = again(|| verify_shared(&store));
    assert_eq!((found.n_done, found.n_units, found.n_records, found.is_sealed), (n_units, n_units, N_RECORDS, false));
    let manifest = again(|| seal(&store, 0));
    assert_eq!(again(|| seal(&store, 0)), manifest, "sealed twice");
    assert!(again(|| verify_shared(&store)).is_sealed);
    let dir = tempfile::tempdir().unwrap();
    let fetched = again(|| FetchedStore::open(place, &key(GRID), room(dir.path(), 1 << 30)));
    let ids = fetched.ids();
    assert_eq!(ids, self::ids());
    for id in ids {
        let stored = again(|| fetched.stored(id)).unwrap().bytes.into_owned();
        assert_eq!(stored, record(id, GRID).to_bytes().unwrap(), "record {id}");
    }
}

/// What a store gives that fails at random.
fn again<T>(mut ask: impl FnMut() -> Result<T, CacheError>) -> T {
    for _ in 0..50 {
        match ask() {
            Ok(found) => return found,
            Err(CacheError::Store(_)) => {}
            Err(error) => panic!("{}", text(&error)),
        }
    }
    panic!("failed 50 times")
}

#[test]
fn workers_leave_what_one_process_leaves_on_every_store() {
    check_workers(&place(Memory::default()), 0);
    let dir = tempfile::tempdir().unwrap();
    check_workers(&place(Folder::new(dir.path())), 1);
    // A sealed store in a folder is a cache.
    let folder = dir.path().join(folder_of(&key(GRID)));
    assert_eq!(records(&FolderStore::open(&folder, &key(GRID)).unwrap()), undisturbed());
    assert_eq!(sensei_answers::verify::verify(&folder).unwrap().n_records, N_RECORDS);
    for seed in 0..30 {
        check_workers(&place(Hostile::new(Memory::default(), seed, 8)), seed as usize);
    }
}

/// The gate builds these tests once more with object stores.
#[test]
fn workers_leave_what_one_process_leaves_in_an_object_store() {
    let Some(server) = HAS_REMOTE.then(|| S3Server::start("workers in an object store")).flatten() else { return };
    let address = format!("s3://{BUCKET}/a/place");
    check_workers(&open(&address, &server.environment()).unwrap(), 3);
    // What a sealed store in a bucket is, is what one in a folder is.
    let sealed = Sealed::new();
    for path in [sealed.files("", ".stc"), sealed.files("", ".sti"), sealed.files("", ".json")].concat() {
        let name = format!("a/place/{}/{}", folder_of(&key(GRID)), path.file_name().unwrap().to_str().unwrap());
        assert_eq!(fs::read(server.file(&name)).unwrap(), fs::read(&path).unwrap(), "{name}");
    }
}

#[test]
fn workers_with_other_settings_are_refused() {
    let place = place(Memory::default());
    fill(&place, &plan(), "one", &mut make).unwrap();
    let refused = |plan: StorePlan, words: &str| {
        let error = fill(&place, &plan, "two", &mut make).unwrap_err();
        assert!(text(&error).contains(words), "{}", text(&error));
    };
    let other = plan();
    refused(StorePlan { tool: "a test 2".into(), ..plan() }, "program: expected a test 1, found a test 2");
    refused(StorePlan { unit: "5 records".into(), ..plan() }, "size of a unit: expected 4 records, found 5 records");
    refused(
        StorePlan { units: other.units[1..].to_vec(), ..plan() },
        "objects and images: expected 15 units of digest ",
    );
    let licence = sensei_answers::key::TeacherDescription { licence: "GPL-3.0".into(), ..teacher() };
    refused(
        StorePlan { teacher: licence, ..plan() },
        "teacher: expected Test teacher (MIT), found Test teacher (GPL-3.0)",
    );
    // Another key is another store of the same place.
    let key = AnswerKey { teacher: "an0ther".into(), ..key(GRID) };
    fill(&place, &StorePlan { key: key.clone(), ..plan() }, "two", &mut make).unwrap();
    let error = only_store(&place).unwrap_err().to_string();
    assert!(error.contains(&folder_of(&key)) && error.contains("expected one shared store"), "{error}");
    assert_eq!(verify_shared(&store_of(&place, &key)).unwrap().n_records, N_RECORDS);
}

#[test]
fn a_store_without_conditional_creation_is_refused_before_the_first_unit() {
    let objects = Arc::new(Replacing(Memory::default()));
    let place = Place::new("place", objects.clone());
    let mut never = |_: usize, _: &mut UnitWriter| -> Result<(), CacheError> { panic!("no unit is begun") };
    let error = fill(&place, &plan(), "one", &mut never).unwrap_err();
    assert!(
        text(&error).contains("expected a store that creates an object only where none stands"),
        "{}",
        text(&error)
    );
}

#[test]
fn answers_of_another_processor_do_not_replace_what_is_there() {
    let place = place(Memory::default());
    let store = store_of(&place, &key(GRID));
    // While this worker makes a unit, another one of a machine whose answers differ in their last bits stores it.
    let mut is_first = true;
    let mut slow = |unit_idx: usize, writer: &mut UnitWriter| {
        if std::mem::take(&mut is_first) {
            let mut other = |unit_idx: usize, writer: &mut UnitWriter| -> Result<(), CacheError> {
                let mut changed = record(ids()[unit_idx * UNIT], GRID);
                changed.prompts[0].masks[0].predicted_iou += 1e-6;
                writer.push_masks(&changed)
            };
            fill(&place, &plan(), "other", &mut other)?;
        }
        make(unit_idx, writer)
    };
    let report = fill(&place, &plan(), "slow", &mut slow).unwrap();
    assert_eq!((report.n_made, report.n_lost, report.n_found), (0, 1, 14));
    let found = verify_shared(&store).unwrap();
    assert_eq!((found.n_records, found.n_orphans), (15, 0), "its own shard is gone");
}

#[test]
fn what_is_missing_is_named_and_what_killed_workers_left_can_be_removed() {
    let place = place(Memory::default());
    let store = store_of(&place, &key(GRID));
    let error = seal(&store, 0).unwrap_err();
    assert!(matches!(error, CacheError::NotBegun { .. }), "{}", text(&error));
    let mut n_left = 3;
    let mut dies = |unit_idx: usize, writer: &mut UnitWriter| {
        n_left -= 1;
        if n_left == 0 { Err(CacheError::Missing { path: "killed".into() }) } else { make(unit_idx, writer) }
    };
    fill(&place, &plan(), "one", &mut dies).unwrap_err();
    let error = text(&seal(&store, 0).unwrap_err());
    assert!(error.contains("13 of 15 units are missing, the first of them units/"), "{error}");
    let error = text(&FetchedStore::open(&place, &key(GRID), room(Path::new("unused"), 1)).unwrap_err());
    assert!(error.contains("expected a sealed store, found one that is not"), "{error}");
    // Its shard was stored and its unit was not.
    store.put(&format!("shard-{}.stc", "0".repeat(64)), b"an orphan").unwrap();
    store.put("notes.txt", b"somebody's").unwrap();
    let found = orphans(&store).unwrap();
    assert_eq!(found.iter().map(|orphan| orphan.bytes).collect::<Vec<_>>(), [9]);
    fill(&place, &plan(), "one", &mut make).unwrap();
    assert_eq!(verify_shared(&store).unwrap().n_orphans, 1);
    store.delete(&found[0].name).unwrap();
    assert_eq!(verify_shared(&store).unwrap().n_orphans, 0);
    seal(&store, 0).unwrap();
}

#[test]
fn images_that_could_not_be_used_are_counted_and_refused_at_the_end() {
    let place = place(Memory::default());
    let store = store_of(&place, &key(GRID));
    let mut broken = |unit_idx: usize, writer: &mut UnitWriter| -> Result<(), CacheError> {
        if unit_idx == 3 {
            writer.unusable.push(UnusableImage { image_id: 17, reason: "cut short".into() });
            return Ok(());
        }
        make(unit_idx, writer)
    };
    fill(&place, &plan(), "one", &mut broken).unwrap();
    let error = text(&seal(&store, 0).unwrap_err());
    let words = format!(
        "1 images could not be used, at most 0 are allowed: image 17 (units/{}.json): cut short",
        plan().units[3]
    );
    assert!(error.contains(&words), "{error}");
    let manifest = seal(&store, 1).unwrap();
    assert_eq!((manifest.n_records, manifest.shards.len()), (N_RECORDS - UNIT as u64, 14));
    assert_eq!(manifest.provenance[2], "1 images could not be used");
    assert_eq!(verify_shared(&store).unwrap().unusable.len(), 1);
}

#[test]
fn a_record_in_two_units_is_an_error() {
    let place = place(Memory::default());
    let store = store_of(&place, &key(GRID));
    let mut doubled = |unit_idx: usize, writer: &mut UnitWriter| make(unit_idx.min(13), writer);
    fill(&place, &plan(), "one", &mut doubled).unwrap();
    for error in [verify_shared(&store).map(drop).unwrap_err(), seal(&store, 0).map(drop).unwrap_err()] {
        assert!(text(&error).contains("annotation 365: expected records that are in one unit"), "{}", text(&error));
    }
}

#[test]
fn every_cut_and_every_flipped_byte_is_found() {
    let sealed = Sealed::new();
    assert_eq!(verify_shared(&sealed.store()).unwrap().n_records, N_RECORDS);
    let mut files = vec![sealed.folder().join("plan.json"), sealed.folder().join("manifest.json")];
    files.push(sealed.files("units", ".json").remove(0));
    files.push(sealed.files("", ".stc").remove(0));
    files.push(sealed.files("", ".sti").remove(0));
    for path in files {
        let bytes = fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let refused = |changed: &[u8], what: String| {
            fs::write(&path, changed).unwrap();
            let error = text(&verify_shared(&sealed.store()).expect_err(&what));
            assert!(error.contains(&name), "{what}: {error}");
        };
        let step = (bytes.len() / 40).max(1);
        for at in (0..bytes.len()).step_by(step) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            refused(&flipped, format!("{name}: bit {} of byte {at}", at % 8));
            refused(&bytes[..at], format!("{name} cut to {at}"));
        }
        refused(&[bytes.as_slice(), b"x"].concat(), format!("{name} with a byte more"));
        fs::write(&path, &bytes).unwrap();
    }
    verify_shared(&sealed.store()).unwrap();
}

#[test]
fn a_unit_that_names_an_absent_shard_is_an_error() {
    let sealed = Sealed::new();
    let shard = sealed.files("", ".stc").remove(4);
    fs::remove_file(&shard).unwrap();
    fs::remove_file(sealed.folder().join("manifest.json")).unwrap();
    let name = shard.file_name().unwrap().to_string_lossy().into_owned();
    for error in
        [verify_shared(&sealed.store()).map(drop).unwrap_err(), seal(&sealed.store(), 0).map(drop).unwrap_err()]
    {
        let error = text(&error);
        assert!(error.contains(&name) && error.contains("no such object"), "{error}");
    }
}

#[test]
fn fetched_shards_stay_within_their_room_and_are_what_the_store_has() {
    let sealed = Sealed::new();
    let largest = sealed.files("", ".stc").iter().map(|path| fs::metadata(path).unwrap().len()).max().unwrap();
    let (folder, max_bytes) = (sealed.dir.path().join("fetched"), 3 * largest);
    let bytes_in =
        || -> u64 { fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum() };
    let open = || FetchedStore::open(&sealed.place, &key(GRID), room(&folder, max_bytes)).unwrap();
    let (store, expected) = (open(), undisturbed());
    // In an order in which shards come and go.
    for nth in 0..4 * N_RECORDS {
        let id = ids()[(nth * 37 % N_RECORDS) as usize];
        assert_eq!(store.stored(id).unwrap().unwrap().bytes, expected[&id]);
        assert!(bytes_in() <= max_bytes, "{} bytes", bytes_in());
    }
    assert!(store.stored(2).unwrap().is_none() && !store.contains(2) && store.contains(8));
    // Several threads at once.
    std::thread::scope(|scope| {
        for start in 0..4 {
            let (store, expected) = (&store, &expected);
            scope.spawn(move || {
                for nth in 0..200 {
                    let id = ids()[(start * 17 + nth * 23) % N_RECORDS as usize];
                    assert_eq!(store.stored(id).unwrap().unwrap().bytes, expected[&id]);
                }
            });
        }
    });
    // A file that was damaged here is fetched again.
    drop(store);
    for entry in fs::read_dir(&folder).unwrap() {
        fs::write(entry.unwrap().path(), "not a shard").unwrap();
    }
    assert_eq!(records(&open()), expected);
    let error = text(&FetchedStore::open(&sealed.place, &key(GRID), room(&folder, largest - 1)).unwrap_err());
    assert!(error.contains(&format!("{largest} bytes; expected at most {}", largest - 1)), "{error}");
    let other = AnswerKey { teacher: "an0ther".into(), ..key(GRID) };
    let error = text(&FetchedStore::open(&sealed.place, &other, room(&folder, max_bytes)).unwrap_err());
    assert!(error.contains(&format!("with this key in the folder {}", folder_of(&other))), "{error}");
}

#[test]
fn shards_are_fetched_ahead() {
    let sealed = Sealed::new();
    let folder = sealed.dir.path().join("fetched");
    let store = FetchedStore::open(&sealed.place, &key(GRID), room(&folder, 1 << 30)).unwrap();
    store.prefetch();
    while fs::read_dir(&folder).unwrap().count() < plan().units.len() {
        std::thread::yield_now();
    }
    // With what was fetched, records are read though the store is gone.
    fs::remove_dir_all(sealed.folder()).unwrap();
    assert_eq!(records(&store), undisturbed());
}
