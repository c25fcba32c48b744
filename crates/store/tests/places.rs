//! The five verbs on every store that needs no network, and the rules for answers that were lost.

#![allow(clippy::unwrap_used)] // tests
#![expect(clippy::disallowed_methods, reason = "tests make the files they read")]

use std::sync::Arc;
use std::time::Duration;

use sensei_store::error::StoreError;
use sensei_store::folder::Folder;
use sensei_store::memory::Memory;
use sensei_store::objects::Objects;
use sensei_store::open::open;
use sensei_store::place::{Claim, Place};
use sensei_testing::hostile::{Hostile, Replacing};

const WHOLE: &dyn Fn(&[u8]) -> bool = &|_| true;

fn place(objects: impl Objects + 'static) -> Place {
    Place::new("here", Arc::new(objects)).with_pause(Duration::ZERO)
}

fn names(place: &Place) -> Vec<(String, u64)> {
    place.list().unwrap().into_iter().map(|listed| (listed.name, listed.bytes)).collect()
}

fn check_verbs(place: &Place) {
    assert_eq!(place.get("a", 9, WHOLE).unwrap(), None);
    assert_eq!(names(place), []);
    assert_eq!(place.create("units/a.json", b"first", WHOLE).unwrap(), Claim::Ours);
    assert_eq!(place.create("units/a.json", b"second", WHOLE).unwrap(), Claim::Others(b"first".to_vec()));
    assert_eq!(place.create("units/a.json", b"first", WHOLE).unwrap(), Claim::Ours);
    place.put("b", b"one").unwrap();
    place.put("b", b"three").unwrap();
    assert_eq!(place.get("b", 5, WHOLE).unwrap().unwrap(), b"three");
    let error = place.get("b", 4, WHOLE).unwrap_err();
    assert!(error.to_string().contains("expected at most 4 bytes, found more"), "{error}");
    assert_eq!(names(place), [("b".to_string(), 5), ("units/a.json".to_string(), 5)]);
    let inner = place.within("units");
    assert_eq!(names(&inner), [("a.json".to_string(), 5)]);
    assert_eq!(inner.object("a.json"), format!("{}/units/a.json", place.address()));
    // A folder's name is not a prefix of other names.
    assert_eq!(names(&place.within("unit")), []);
    place.delete("b").unwrap();
    place.delete("b").unwrap();
    inner.delete("a.json").unwrap();
    assert_eq!(names(place), []);
}

#[test]
fn folder_and_memory_do_what_the_verbs_say() {
    let dir = tempfile::tempdir().unwrap();
    check_verbs(&open(dir.path().join("not/yet").to_str().unwrap(), &[]).unwrap());
    check_verbs(&place(Memory::default()));
    check_verbs(&place(Memory::default()).at_prefix("deep/prefix"));
}

#[cfg(feature = "remote")]
#[test]
fn an_object_store_does_what_the_verbs_say() {
    use sensei_testing::s3_server::S3Server;
    let Some(server) = S3Server::start("an_object_store_does_what_the_verbs_say") else { return };
    let options = server.environment();
    check_verbs(&open("s3://answers", &options).unwrap());
    let place = open("s3://answers/deep/prefix", &options).unwrap();
    check_verbs(&place);
    // Many threads share one connection's runtime.
    std::thread::scope(|scope| {
        for writer in 0..4_u8 {
            let place = &place;
            scope.spawn(move || {
                for nth in 0..10 {
                    place.put(&format!("{writer}/{nth}"), &[writer; 100]).unwrap();
                    assert_eq!(place.get(&format!("{writer}/{nth}"), 100, WHOLE).unwrap().unwrap(), [writer; 100]);
                }
            });
        }
    });
    assert_eq!(place.list().unwrap().len(), 40);
    assert_eq!(std::fs::read(server.file("deep/prefix/3/9")).unwrap(), [3; 100]);
    let error = open("s3://nobodys/x", &options).unwrap().put("a", b"b").unwrap_err();
    assert_eq!(error.to_string(), "s3://nobodys/x/a: cannot put");
}

#[test]
fn a_hostile_store_loses_nothing_and_gives_a_name_to_one() {
    for seed in 0..40 {
        let store = Arc::new(Hostile::new(Memory::default(), seed, 12));
        let place = Place::new("here", store.clone()).with_pause(Duration::ZERO);
        let is_whole = |bytes: &[u8]| bytes.ends_with(b".");
        // Both succeed in the end; a request that failed seven times is asked again by whoever asked.
        let claim = |bytes: &[u8]| loop {
            if let Ok(claim) = place.create("claim", bytes, &is_whole) {
                return claim;
            }
        };
        assert_eq!(claim(b"the first."), Claim::Ours, "seed {seed}");
        assert_eq!(claim(b"the second"), Claim::Others(b"the first.".to_vec()), "seed {seed}");
        assert_eq!(claim(b"the first."), Claim::Ours, "seed {seed}");
        assert_eq!(store.inner().get("claim", 99).unwrap().unwrap(), b"the first.");
    }
}

#[test]
fn a_store_that_replaces_is_refused_and_says_what_to_do() {
    let replacing = place(Replacing(Memory::default()));
    let error = replacing.create_and_probe("plan", b"bytes", WHOLE).unwrap_err();
    assert!(matches!(error, StoreError::NoConditionalCreate { .. }));
    assert!(
        error.to_string().contains("here: expected a store that creates an object only where none stands"),
        "{error}"
    );
    let good = place(Memory::default());
    assert_eq!(good.create_and_probe("plan", b"bytes", WHOLE).unwrap(), Claim::Ours);
    assert_eq!(good.create_and_probe("plan", b"others", WHOLE).unwrap(), Claim::Others(b"bytes".to_vec()));
}

/// Says that an object is there, and has none.
#[derive(Debug)]
struct Liar;

impl Objects for Liar {
    fn create(&self, _: &str, _: &[u8]) -> Result<sensei_store::objects::Created, StoreError> {
        Ok(sensei_store::objects::Created::Taken)
    }
    fn put(&self, _: &str, _: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }
    fn get(&self, _: &str, _: u64) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }
    fn list(&self, _: &str) -> Result<Vec<sensei_store::objects::Listed>, StoreError> {
        Ok(vec![])
    }
    fn delete(&self, _: &str) -> Result<(), StoreError> {
        Ok(())
    }
}

#[test]
fn an_object_that_is_said_to_be_there_and_is_not_is_an_error_in_the_end() {
    let error = place(Liar).create("claim", b"bytes", WHOLE).unwrap_err().to_string();
    assert_eq!(error, "here/claim: expected the object that the store says is there, found none in 7 tries");
}

#[test]
fn addresses_that_name_no_place() {
    assert!(open("", &[]).unwrap_err().to_string().contains("expected a folder, s3://BUCKET/PREFIX"));
    #[cfg(feature = "remote")]
    for (address, found) in [("ftp://x/y", "ftp"), ("s3://", "no bucket"), ("s3:///prefix", "no bucket")] {
        let error = open(address, &[]).unwrap_err().to_string();
        assert!(
            error.starts_with(address) && error.contains("expected a folder, s3://") && error.contains(found),
            "{error}"
        );
    }
    #[cfg(not(feature = "remote"))]
    {
        let error = open("s3://bucket/x", &[]).unwrap_err().to_string();
        assert!(error.starts_with("s3://bucket/x: this program was built without object stores"), "{error}");
    }
}

#[test]
fn what_a_killed_writer_left_is_listed_and_harms_nobody() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("units")).unwrap();
    std::fs::write(dir.path().join("units/.a.json.7-0.tmp"), "half").unwrap();
    let place = Place::new("folder", Arc::new(Folder::new(dir.path())));
    assert_eq!(place.create("units/a.json", b"whole", WHOLE).unwrap(), Claim::Ours);
    let found: Vec<String> = place.list().unwrap().into_iter().map(|listed| listed.name).collect();
    assert_eq!(found, ["units/.a.json.7-0.tmp", "units/a.json"]);
    // A folder where a file should be: nothing is lost, and the error names it.
    std::fs::create_dir(dir.path().join("taken")).unwrap();
    let error = place.put("taken", b"bytes").unwrap_err().to_string();
    assert!(error.ends_with("taken: cannot write"), "{error}");
}
