//! Stores that several processes fill: in folders, and in a server that speaks like S3.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use sensei_answers::folder_store::FolderStore;
use sensei_answers::store::Store;
use sensei_testing::shared_dir;

use crate::cache::{WITH_TEACHER, write_cache};
use crate::disk::with_full_disk;
use crate::{Place, text, weights_digest};

const ANNOTATIONS: &str = "scenes/annotations/instances_train.json";

/// A place with a small run whose teacher's answers are in two caches.
fn place() -> Place {
    let place = Place::new();
    for split in ["train", "val"] {
        write_cache(&place, split, "disc-1", &format!("cache-{split}"), |_| true);
    }
    place.config("tiny.toml", WITH_TEACHER);
    place
}

/// The same run, from a store.
fn config_of(place: &Place, name: &str, store: &str) {
    let [train, val] = ["train", "val"].map(|split| format!("{split} = {{ store = \"{store}\" }}"));
    let edits =
        [("train = { cache = \"cache-train\" }", train.as_str()), ("val = { cache = \"cache-val\" }", val.as_str())];
    place.config(name, WITH_TEACHER);
    let mut text = fs::read_to_string(place.path(name)).unwrap();
    for (from, to) in edits {
        assert!(text.contains(from));
        text = text.replace(from, to);
    }
    fs::write(place.path(name), text).unwrap();
}

/// Folders of the stores in a place that is a folder: one a key.
fn stores(place: &Place, name: &str) -> Vec<String> {
    let entries = fs::read_dir(place.path(name)).unwrap().map(|entry| entry.unwrap().file_name());
    let mut found: Vec<String> = entries.map(|key| format!("{name}/{}", key.to_str().unwrap())).collect();
    found.sort();
    found
}

fn records(folder: &std::path::Path) -> BTreeMap<u64, Vec<u8>> {
    let store = FolderStore::open_any(folder).unwrap();
    store.ids().into_iter().map(|id| (id, store.stored(id).unwrap().unwrap().bytes.into_owned())).collect()
}

/// Two processes that do the same at once; both have to succeed.
fn at_once(place: &Place, arguments: &[&str], environment: &[(String, String)]) -> Vec<String> {
    let start = |worker: &str| -> Child {
        let mut command = place.command(&[arguments, &["--worker", worker]].concat());
        command.envs(environment.iter().cloned()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<Child> = ["one", "two"].map(start).into();
    let outputs = children.into_iter().map(|child| child.wait_with_output().unwrap());
    let said = outputs.map(|output| {
        let (out, err) = text(&output);
        assert!(output.status.success(), "{out}\n{err}");
        out
    });
    said.collect()
}

#[test]
fn a_run_from_a_shared_store_is_the_run_from_the_cache() {
    let place = place();
    let expected = weights_digest(&place.does(&["train", "tiny.toml"])).to_string();
    for said in at_once(&place, &["teacher", "share", "cache-train", "shared", "--unit-records", "2"], &[]) {
        assert!(said.contains(" units are there; this worker made "), "{said}");
    }
    let folder = stores(&place, "shared").remove(0);
    place.refuses(&["teacher", "stats", "shared"], 1, &["no teacher cache: expected a folder with manifest.json"]);
    let said = place.does(&["teacher", "verify", "shared"]);
    assert!(said.contains("units, each of their") && said.contains("not sealed"), "{said}");
    config_of(&place, "shared.toml", "shared");
    let words = ["expected a sealed store, found one that is not; `sensei teacher seal` ends it"];
    place.refuses(&["train", "shared.toml"], 1, &words);
    assert!(place.does(&["teacher", "seal", "shared"]).contains("sealed, "));
    assert_eq!(records(&place.path(&folder)), records(&place.path("cache-train")));
    let words =
        ["shared: no shared store: expected one that `sensei teacher build --store` has begun, with this key in"];
    place.refuses(&["train", "shared.toml"], 1, &words);

    place.does(&["teacher", "share", "cache-val", "shared"]);
    place.refuses(&["teacher", "seal", "shared"], 1, &["expected one shared store, found ", ", ", "name one of them"]);
    let val = stores(&place, "shared").into_iter().find(|store| *store != folder).unwrap();
    place.does(&["teacher", "seal", &val]);
    place.does(&["teacher", "seal", &val]);
    assert!(place.does(&["teacher", "stats", &val]).contains("digest = \"disc-1\""));
    assert!(place.does(&["teacher", "verify", &val]).contains("as written; sealed"));
    assert_eq!(weights_digest(&place.does(&["train", "shared.toml"])), expected);
    assert!(place.does(&["teacher", "sweep", &val]).contains("0 objects removed, 0 kept"));
}

#[test]
fn other_settings_are_refused_and_what_killed_workers_left_is_swept() {
    let place = place();
    let share = |unit: &'static str| ["teacher", "share", "cache-train", "shared", "--unit-records", unit];
    place.does(&share("2"));
    let words = ["the store was begun with other settings: size of a unit: expected 2 records, found 3 records"];
    place.refuses(&share("3"), 1, &words);
    let folder = stores(&place, "shared").remove(0);
    let unit = fs::read_dir(place.path(&folder).join("units")).unwrap().next().unwrap().unwrap().path();
    fs::rename(&unit, place.path("aside")).unwrap();
    let said = place.does(&["teacher", "sweep", "shared"]);
    assert!(said.contains("kept: ") && said.contains("0 objects removed, 1 kept"), "{said}");
    let said = place.does(&["teacher", "sweep", "shared", "--remove-older-than", "1"]);
    assert!(said.contains("0 objects removed, 1 kept"), "{said}");
    place.refuses(&["teacher", "seal", "shared"], 1, &[" units are missing, the first of them units/"]);
    let said = place.does(&["teacher", "sweep", "shared", "--remove-older-than", "0"]);
    assert!(said.contains("removed: ") && said.contains("1 objects removed, 0 kept"), "{said}");
    let said = place.does(&share("2"));
    assert!(said.contains("this worker made 1, found "), "{said}");
    place.does(&["teacher", "seal", "shared"]);
    assert_eq!(records(&place.path(&folder)), records(&place.path("cache-train")));
}

#[test]
fn damage_and_a_full_disk_are_named_and_lose_nothing() {
    let place = place();
    let share = ["teacher", "share", "cache-train", "shared", "--unit-records", "4"];
    let output = with_full_disk(&place, 1, &share).output().unwrap();
    place.refused(&output, 1, &["shared/", "cannot write: File too large"]);
    place.does(&share);
    place.does(&["teacher", "seal", "shared"]);
    let folder = place.path(&stores(&place, "shared").remove(0));
    let mut shards: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    shards.retain(|path| path.extension().is_some_and(|end| end == "stc"));
    let bytes = fs::read(&shards[0]).unwrap();
    let name = shards[0].file_name().unwrap().to_str().unwrap().to_string();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 4;
    for changed in [&bytes[..bytes.len() - 9], &flipped] {
        fs::write(&shards[0], changed).unwrap();
        place.refuses(&["teacher", "verify", "shared"], 1, &[&name, "damaged: ", "expected"]);
    }
    fs::remove_file(&shards[0]).unwrap();
    place.refuses(&["teacher", "verify", "shared"], 1, &[&name, "no such object"]);
    fs::write(&shards[0], &bytes).unwrap();
    place.does(&["teacher", "verify", "shared"]);
    fs::write(place.path("taken"), "a file").unwrap();
    let arguments = ["teacher", "share", "cache-train", "taken"];
    place.refuses(&arguments, 1, &["taken/", "cannot create"]);
    place.refuses(&["teacher", "share", "cache-train", "ftp://host/x"], 1, &["ftp://host/x: "]);
}

#[test]
fn workers_ask_the_teacher_what_one_process_asks() {
    let test = "workers_ask_the_teacher_what_one_process_asks";
    let Some(weights) = shared_dir(test).map(|dir| dir.join("data/teacher/mobilesam/mobile_sam_fused_f16.safetensors"))
    else {
        return;
    };
    let place = Place::new();
    let build = ["teacher", "build", ANNOTATIONS, "scenes/images", "--weights", weights.to_str().unwrap()];
    place.does(&[&build[..], &["cache"]].concat());
    let shared = [&build[..], &["--store", "shared", "--unit-images", "1", "--threads", "1"]].concat();
    let said = at_once(&place, &shared, &[]);
    assert!(said.iter().all(|said| said.contains("all 5 units are there") && said.contains("of 5 images")), "{said:?}");
    place.does(&["teacher", "seal", "shared"]);
    let folder = stores(&place, "shared").remove(0);
    assert_eq!(records(&place.path(&folder)), records(&place.path("cache")));
    let output = place.command(&build).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "neither a cache nor a store");

    // An image that cannot be used: the others are asked about, and the end is an error unless it is allowed.
    let images = place.path("scenes/images");
    fs::write(images.join("train_000003.png"), "no picture").unwrap();
    let broken = [&build[..], &["--store", "broken", "--unit-images", "2", "--worker", "w"]].concat();
    place.refuses(
        &broken,
        1,
        &["1 images could not be used, at most 0 are allowed", "train_000003.png: expected a JPEG or PNG file"],
    );
    place.refuses(&["teacher", "seal", "broken"], 1, &["train_000003.png: expected a JPEG or PNG file"]);
    place.does(&[&broken[..], &["--max-failed-images", "1"]].concat());
    place.does(&["teacher", "seal", "broken", "--max-failed-images", "1"]);
    // A folder that is not there is no reason to call its images broken.
    fs::rename(&images, place.path("scenes/elsewhere")).unwrap();
    let absent = [&build[..], &["--store", "absent", "--unit-images", "2", "--worker", "w"]].concat();
    place.refuses(&absent, 1, &["2 of 2 images so far cannot be used"]);
    assert!(!place.path(&stores(&place, "absent")[0]).join("units").exists());
}

#[test]
#[cfg(feature = "object-store")]
fn a_run_from_an_object_store_is_the_run_from_the_cache() {
    let test = "a_run_from_an_object_store_is_the_run_from_the_cache";
    let Some(server) = sensei_testing::s3_server::S3Server::start(test) else { return };
    let place = place();
    let environment = server.environment();
    let run = |arguments: &[&str]| place.command(arguments).envs(environment.iter().cloned()).output().unwrap();
    let does = |arguments: &[&str]| {
        let output = run(arguments);
        let (out, err) = text(&output);
        assert!(output.status.success(), "{arguments:?}: {out}\n{err}");
        out
    };
    let expected = weights_digest(&place.does(&["train", "tiny.toml"])).to_string();
    for split in ["train", "val"] {
        let (cache, store) = (format!("cache-{split}"), format!("s3://answers/deep/{split}"));
        at_once(&place, &["teacher", "share", &cache, &store, "--unit-records", "2"], &environment);
        does(&["teacher", "verify", &store]);
        assert!(does(&["teacher", "seal", &store]).contains("sealed, "));
        assert!(does(&["teacher", "verify", &store]).contains("as written; sealed"));
        assert!(does(&["teacher", "stats", &store]).contains("digest = \"disc-1\""));
        assert!(does(&["teacher", "sweep", &store]).contains("0 objects removed, 0 kept"));
    }
    let words = "size of a unit: expected 2 records, found 3 records";
    let other = ["teacher", "share", "cache-val", "s3://answers/deep/val", "--unit-records", "3"];
    place.refused(&run(&other), 1, &["s3://answers/deep/val/", words]);
    config_of(&place, "s3.toml", "s3://answers/deep/train");
    let config = fs::read_to_string(place.path("s3.toml")).unwrap();
    let val = "val = { store = \"s3://answers/deep/val\" }";
    let config = config.replace("val = { store = \"s3://answers/deep/train\" }", val);
    fs::write(place.path("s3.toml"), config + "\n[logging]\nfetched_shards_gib = 1\n").unwrap();
    assert_eq!(weights_digest(&does(&["train", "s3.toml"])), expected);
    assert!(fs::read_dir(place.path("runs/teacher-cache/fetched")).unwrap().count() > 3);
    place.refused(&run(&["teacher", "verify", "s3://answers/nowhere"]), 1, &["s3://answers/nowhere: no shared store"]);
    place.refused(&run(&["teacher", "share", "cache-val", "s3://other/x"]), 1, &["s3://other/x/", "NoSuchBucket"]);
}
