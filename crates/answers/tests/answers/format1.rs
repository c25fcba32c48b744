//! Caches of format 1 become caches of this format, and damaged ones do not.

use std::fs;
use std::path::{Path, PathBuf};

use sensei_answers::error::CacheError;
use sensei_answers::folder_store::FolderStore;
use sensei_answers::import::import_answers;
use sensei_answers::manifest::read_manifest;
use sensei_answers::record::MaskRecord;
use sensei_answers::store::Store;
use sensei_answers::verify::verify;
use sensei_data::dataset::Dataset;
use sensei_testing::workspace_root;
use serde_json::Value;

use crate::{put, text};

/// `tests/golden/teacher/format1/cache`, copied so that it can be damaged, and the data that it was made for.
struct Fixture {
    dir: tempfile::TempDir,
    dataset: Dataset,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let golden = workspace_root().join("tests/golden/teacher");
        copy(&golden.join("dump"), dir.path());
        copy(&golden.join("format1/cache"), &dir.path().join("cache"));
        let dataset = Dataset::load_coco(&dir.path().join("annotations.json"), dir.path()).unwrap();
        Fixture { dir, dataset }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Imports and expects an error with these words, and no new cache.
    fn refuses(&self, words: &[&str], what: &str) {
        let out = self.path("new");
        let error = import_answers(&self.path("cache"), &self.dataset, &out).expect_err(what);
        let error = text(&error);
        assert!(words.iter().all(|word| error.contains(word)), "{what}: {words:?}: {error}");
        assert!(!out.exists() && !self.path("new.partial").exists(), "{what}: {error}");
    }
}

/// Copies the files of a folder.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn it_becomes_what_its_dump_becomes() {
    let fixture = Fixture::new();
    let (old, new) = (fixture.path("cache"), fixture.path("new"));
    let report = import_answers(&old, &fixture.dataset, &new).unwrap();
    let dump = workspace_root().join("tests/golden/teacher/dump/dump");
    let from_dump = import_answers(&dump, &fixture.dataset, &fixture.path("from-dump")).unwrap();
    // The manifest has the digests of all files.
    assert_eq!(report.manifest, from_dump.manifest);
    assert_eq!((report.missing, report.missing_crowd), (vec![6], vec![5]));
    assert_eq!((report.n_images_verified, report.n_images_unverified, report.n_clamped_predicted_ious), (2, 0, 1));
    assert_eq!((report.n_clipped_by_exporter, report.exporters_mean_iou), (None, None), "a cache does not say");
    assert_eq!(verify(&new).unwrap().n_records, 4);
}

#[test]
fn a_run_says_how_to_convert_it() {
    let fixture = Fixture::new();
    let path = fixture.path("cache");
    for error in
        [FolderStore::open_any(&path).unwrap_err(), verify(&path).unwrap_err(), read_manifest(&path).unwrap_err()]
    {
        assert!(matches!(error, CacheError::OldFormat { found: 1, expected: 2, .. }), "{error}");
        assert!(error.to_string().contains("`sensei teacher import "), "{error}");
    }
}

#[test]
fn what_is_converted_already_is_not_converted_again() {
    let fixture = Fixture::new();
    let (old, new) = (fixture.path("cache"), fixture.path("new"));
    import_answers(&old, &fixture.dataset, &new).unwrap();
    let error = text(&import_answers(&new, &fixture.dataset, &fixture.path("newer")).unwrap_err());
    assert!(error.contains("format: expected 1, found 2, which needs no conversion"), "{error}");
}

#[test]
fn other_data_is_refused() {
    let fixture = Fixture::new();
    let image = fixture.path("b.png");
    let intact = fs::read(&image).unwrap();
    fs::write(&image, [intact.as_slice(), b"x"].concat()).unwrap();
    fixture.refuses(&["b.png", "other data", "BLAKE3"], "another image");
    fs::remove_file(image).unwrap();
    fixture.refuses(&["b.png", "cannot read"], "no image");

    let mut fixture = Fixture::new();
    let annotations = fixture.path("annotations.json");
    fs::write(&annotations, fs::read_to_string(&annotations).unwrap().replace("thing", "thong")).unwrap();
    fixture.dataset = Dataset::load_coco(&annotations, fixture.dir.path()).unwrap();
    fixture.refuses(&["annotations.json", "other data", "BLAKE3"], "other annotations");
}

#[test]
fn every_flipped_byte_and_every_cut_is_refused() {
    let fixture = Fixture::new();
    for name in ["manifest.json", "index.sti", "shard-00000.stc"] {
        let file = fixture.path("cache").join(name);
        let intact = fs::read(&file).unwrap();
        for at in 0..intact.len() {
            let mut changed = intact.clone();
            changed[at] ^= 1 << (at % 8);
            put(&file, &changed);
            fixture.refuses(&[name], &format!("{name}: bit {} of byte {at}", at % 8));
            put(&file, &intact[..at]);
            fixture.refuses(&[name], &format!("{name} cut to {at}"));
        }
        fs::write(&file, [intact.as_slice(), b"x"].concat()).unwrap();
        fixture.refuses(&[name], "a longer file");
        put(&file, &intact);
    }
    import_answers(&fixture.path("cache"), &fixture.dataset, &fixture.path("new")).unwrap();
}

/// The repository's own answers were converted from the caches whose manifests `tests/golden/teacher/format1` keeps. Turned
/// back, they are those caches byte for byte; converted again, they are what is shipped, byte for byte.
pub fn shipped_answers_are_the_old_ones(split: &str, dataset: &Dataset) {
    let shipped = workspace_root().join("datasets/quickstart/teacher-cache").join(split);
    let kept = workspace_root().join(format!("tests/golden/teacher/format1/quickstart-{split}.json"));
    let manifest: Value = serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let old = dir.path().join("old");
    fs::create_dir(&old).unwrap();
    fs::copy(kept, old.join("manifest.json")).unwrap();
    write_format1(&shipped, &manifest["manifest"], &old);
    let new = dir.path().join("new");
    import_answers(&old, dataset, &new).unwrap();
    for file in ["manifest.json", "index.sti", "shard-00000.stc"] {
        assert_eq!(fs::read(new.join(file)).unwrap(), fs::read(shipped.join(file)).unwrap(), "{split}/{file}");
    }
}

/// Writes index and shard of format 1 for a cache of one shard, in the order of its records, and checks their digests.
fn write_format1(cache: &Path, manifest: &Value, out: &Path) {
    let cache = FolderStore::open_any(cache).unwrap();
    let mut key_digest = blake3::Hasher::new();
    key_digest.update(b"sensei teacher cache key\0");
    for part in ["teacher", "preprocessing", "prompt", "dataset", "format"] {
        let part = manifest["key"][part].as_str().map_or_else(|| manifest["key"][part].to_string(), String::from);
        key_digest.update(&(part.len() as u64).to_le_bytes());
        key_digest.update(part.as_bytes());
    }
    let key_digest = *key_digest.finalize().as_bytes();
    let ids = cache.ids();
    let header = |magic: &[u8; 8]| {
        let mut header =
            [magic.as_slice(), &[1, 0, 0, 0, 0, 0, 0, 0], &(ids.len() as u64).to_le_bytes(), &key_digest].concat();
        header.extend(&blake3::hash(&header).as_bytes()[..8]);
        header
    };
    // Places in memory are in the order of the shard.
    let mut in_order = ids.clone();
    in_order.sort_by_key(|&id| cache.stored(id).unwrap().unwrap().bytes.as_ptr());
    let mut shard = header(b"SNSITCSH");
    let mut entries = std::collections::BTreeMap::new();
    for id in in_order {
        let record = format1_record(&cache.masks(id).unwrap());
        let place = [0_u32.to_le_bytes(), (record.len() as u32).to_le_bytes()].concat();
        entries.insert(id, [id.to_le_bytes().to_vec(), place, (shard.len() as u64).to_le_bytes().to_vec()].concat());
        shard.extend(record);
    }
    let index = [header(b"SNSITCIX"), entries.into_values().flatten().collect()].concat();
    for (name, bytes, entry) in
        [("shard-00000.stc", shard, &manifest["shards"][0]), ("index.sti", index, &manifest["index"])]
    {
        // A compressor that finds shorter blocks would write other bytes: then this test has done its work and can go.
        assert_eq!(blake3::hash(&bytes).to_hex().as_str(), entry["blake3"].as_str().unwrap(), "{name}");
        fs::write(out.join(name), bytes).unwrap();
    }
}

fn format1_record(record: &MaskRecord) -> Vec<u8> {
    let [prompt] = record.prompts.as_slice() else { panic!("one prompt") };
    let [mask] = prompt.masks.as_slice() else { panic!("one mask") };
    let logits: Vec<u8> = mask.logits.iter().map(|logit| logit.cast_unsigned()).collect();
    let logits = lz4_flex::block::compress(&logits);
    let mut body = (logits.len() as u32).to_le_bytes().to_vec();
    body.extend(record.grid.to_le_bytes());
    body.extend(record.annotation_id.to_le_bytes());
    body.extend(record.image.id.to_le_bytes());
    body.extend(record.image.file_digest);
    body.extend(record.image.size.width.to_le_bytes());
    body.extend(record.image.size.height.to_le_bytes());
    let rect = prompt.rect_in_image;
    [rect.x0, rect.y0, rect.x1, rect.y1].iter().for_each(|edge| body.extend(edge.to_le_bytes()));
    body.extend(record.logit_step.to_le_bytes());
    body.extend(mask.predicted_iou.to_le_bytes());
    body.extend(logits);
    [&blake3::hash(&body).as_bytes()[..8], &body].concat()
}
