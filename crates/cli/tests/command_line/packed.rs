//! Packed samples: the same results, found or made, and never those of other images or crops.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::disk::with_full_disk;
use crate::{Place, files_below, text};

const MAKE: &[&str] = &["--set", "logging.packed_samples=\"make\""];
const NEVER: &[&str] = &["--set", "logging.packed_samples=\"never\""];

fn packs(place: &Place) -> Vec<PathBuf> {
    let is_pack = |path: &PathBuf| path.ends_with("samples.pack");
    files_below(&place.path("runs/packed")).into_iter().filter(is_pack).collect()
}

fn result(place: &Place, run: &str, file: &str) -> Vec<u8> {
    let bytes = fs::read(place.path("runs").join(run).join(file)).unwrap();
    assert!(!bytes.is_empty());
    bytes
}

#[test]
fn whole_runs_from_image_files_and_from_packed_samples_are_equal() {
    let place = Place::new();
    let run = |name: &str, how: &[&str]| {
        place.does(&[&["run", "tiny.toml", "--name", name, "--set", "logging.validate_every_epochs=1"], how].concat())
    };
    run("files", NEVER);
    assert!(packs(&place).is_empty());
    let out = run("making", MAKE);
    assert!(out.contains("train: packed ") && out.contains("val: packed "), "{out}");
    assert_eq!(packs(&place).len(), 2);
    let out = run("found", &[]);
    assert!(out.contains("train: packed samples of 5 image files, which are unchanged: "), "{out}");
    assert!(!out.contains("samples/s"), "packed again: {out}");
    for file in ["student.safetensors", "eval/report.json", "eval/table.txt", "layers.json"] {
        for other in ["making", "found"] {
            assert!(result(&place, "files", file) == result(&place, other, file), "{other}/{file}");
        }
    }
    // Phases that open the data again find the pack too.
    let out = place.does(&["quantize", "runs/found"]);
    assert!(out.contains("train: packed samples of 5 image files"), "{out}");
}

#[test]
fn packing_by_itself_says_what_it_made_and_makes_it_once() {
    let place = Place::new();
    let out = place.does(&["data", "pack", "tiny.toml"]);
    let line = out.lines().find(|line| line.starts_with("train: packed ")).unwrap_or_else(|| panic!("{out}"));
    assert!(line.contains(" samples of 5 images, ") && line.contains(" bytes (") && line.contains(" a sample), in "));
    let before: Vec<Vec<u8>> = packs(&place).iter().map(|path| fs::read(path).unwrap()).collect();
    assert_eq!(before.len(), 2);
    let out = place.does(&["data", "pack", "tiny.toml", "--threads", "2"]);
    assert_eq!(out.matches("were there already").count(), 2, "{out}");
    assert!(packs(&place).iter().map(|path| fs::read(path).unwrap()).eq(before));
    // Other crops are other samples.
    let out = place.does(&["train", "tiny.toml", "--set", "train.stage.0.augmentation.roi_shift=0.2"]);
    assert!(out.contains("val: packed samples of ") && !out.contains("train: packed samples"), "{out}");
}

#[test]
fn packed_samples_of_other_crops_are_refused_by_name() {
    let place = Place::new();
    place.does(&["data", "pack", "tiny.toml", "--out", "elsewhere"]);
    assert!(place.path("elsewhere/train/samples.pack").exists() && place.path("elsewhere/val/samples.pack").exists());
    assert!(packs(&place).is_empty());
    let folder = "logging.packed_samples={ folder = \"elsewhere\" }";
    let out = place.does(&["train", "tiny.toml", "--set", folder]);
    assert!(out.contains("train: packed samples of 5 image files"), "{out}");
    let moved = ["train", "tiny.toml", "--name", "moved", "--set", folder, "--set", "crop.padding=0.2"];
    place.refuses(
        &moved,
        1,
        &["elsewhere/train/samples.pack: packed samples of another kind: crop: expected `roi-32-pad0.2-corrected`"],
    );
    place.refuses(
        &["data", "pack", "tiny.toml", "--out", "elsewhere", "--set", "crop.padding=0.2"],
        1,
        &["crop: expected"],
    );
    let missing = "logging.packed_samples={ folder = \"nowhere\" }";
    place.refuses(
        &["train", "tiny.toml", "--name", "lost", "--set", missing],
        1,
        &["nowhere/train/samples.pack: cannot open"],
    );
}

#[test]
fn images_that_changed_after_packing_are_refused_before_training() {
    let place = Place::new();
    place.does(&["data", "pack", "tiny.toml"]);
    let images: Vec<PathBuf> =
        files_below(&place.path("scenes/images")).into_iter().filter(|path| path.is_file()).collect();
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let (changed, other) = (&images[0], &images[1]);
    fs::copy(other, changed).unwrap();
    let words = [name(changed), "remove the pack".to_string(), "digest".to_string()];
    place.refuses(&["train", "tiny.toml"], 1, &words.each_ref().map(String::as_str));
    assert!(!place.path("runs/tiny").exists());
    // From the files as they are now.
    place.does(&[&["train", "tiny.toml"], NEVER].concat());
}

#[test]
fn a_damaged_pack_is_refused() {
    let place = Place::new();
    place.does(&["data", "pack", "tiny.toml"]);
    for path in packs(&place) {
        let mut bytes = fs::read(&path).unwrap();
        // In the first record.
        bytes[200] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    place.refuses(&["train", "tiny.toml"], 1, &["samples.pack: damaged: annotation ", "record checksum: expected "]);
}

#[test]
fn full_disk_while_samples_are_packed() {
    let place = Place::new();
    for arguments in [&["data", "pack", "tiny.toml"][..], &[&["train", "tiny.toml"], MAKE].concat()] {
        let output = with_full_disk(&place, 8, arguments).output().unwrap();
        place.refused(&output, 1, &["samples.pack: cannot write: File too large"]);
        assert!(packs(&place).is_empty() && !place.path("runs/tiny").exists());
    }
    // With room again.
    place.does(&["data", "pack", "tiny.toml"]);
    assert_eq!(packs(&place).len(), 2);
}

#[test]
fn packing_stops_as_asked_leaves_nothing_and_is_begun_again() {
    // Enough to be stopped in.
    let place = Place::with_images(1500, 3);
    let pack = ["data", "pack", "tiny.toml", "--threads", "1"];
    let partial = || files_below(&place.path("runs")).into_iter().find(|path| path.ends_with("samples.pack"));
    let mut n_too_late = 0;
    let output = loop {
        let mut child = place.command(&pack).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let seen = loop {
            if let Some(path) = partial() {
                break path.to_string_lossy().into_owned();
            }
            assert!(child.try_wait().unwrap().is_none(), "the packing has ended before it was seen");
            sleep(Duration::from_millis(1));
        };
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        // It has no name before it is whole.
        if output.status.code() != Some(0) && seen.contains(".partial-") {
            break output;
        }
        // A busy machine looked, or sent the signal, when a split was packed.
        n_too_late += 1;
        assert!(n_too_late < 20, "the packing was to be seen unfinished and stopped: {seen}");
        fs::remove_dir_all(place.path("runs")).unwrap();
    };
    let (_, err) = text(&output);
    assert_eq!(output.status.code(), Some(4), "{err}");
    assert!(err.contains("packing samples; nothing is left of the unfinished pack"), "{err}");
    // A split that was packed before stays; of the one that was not there is nothing.
    let left = files_below(&place.path("runs"));
    assert!(left.iter().all(|path| !path.to_string_lossy().contains(".partial-")), "{left:?}");
    assert!(packs(&place).len() < 2, "{left:?}");
    place.does(&pack);
    assert_eq!(packs(&place).len(), 2);
    let out = place.does(&pack);
    assert_eq!(out.matches("were there already").count(), 2, "{out}");
}
