//! The int8 model file: round trip, and that no damage goes unnoticed.

use std::path::Path;

use sensei_int8::model::IntegerModel;
use sensei_int8::model_file::{ModelFileError, from_bytes, read_model, to_bytes, write_model};

mod sample;
use sample::{BILINEAR, RELU6, Random, SMALL2, SMALL3, Sample};

fn parse(bytes: &[u8]) -> Result<IntegerModel, ModelFileError> {
    from_bytes(Path::new("model.s8m"), bytes)
}

#[test]
fn a_written_model_reads_back_equal() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for sample in [SMALL2, SMALL3, BILINEAR, RELU6] {
        let (model, path) = (sample.model(), folder.path().join("model.s8m"));
        write_model(&path, &model).expect("writable");
        let again = read_model(&path).expect("our own file");
        assert_eq!(again, model);
        assert_eq!(again.digest(), model.digest());
        assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 1, "no temporary file is left");
    }
    assert_ne!(SMALL2.model().digest(), SMALL3.model().digest());
    assert_ne!(SMALL3.model().digest(), Sample { name: SMALL3.name, ..BILINEAR }.model().digest());
}

#[test]
fn every_changed_or_missing_byte_is_noticed() {
    let bytes = to_bytes(&SMALL3.model());
    let mut random = Random(5);
    for _ in 0..400 {
        let mut damaged = bytes.clone();
        let at = random.bits() as usize % damaged.len();
        damaged[at] ^= 1 << (random.bits() % 8);
        assert!(parse(&damaged).is_err(), "bit flip at {at}");
    }
    for len in (0..200).chain([bytes.len() - 33, bytes.len() - 1]) {
        assert!(parse(&bytes[..len]).is_err(), "cut to {len} bytes");
    }
    assert!(parse(&[bytes.as_slice(), b"x"].concat()).is_err(), "one byte too many");
}

/// Damage under a checksum that fits: the reader itself has to hold, without panics or large allocations.
#[test]
fn a_hostile_file_with_a_right_checksum_is_refused_or_a_valid_model() {
    let bytes = to_bytes(&SMALL3.model());
    let body = &bytes[..bytes.len() - 32];
    let mut random = Random(6);
    let mut accepted = 0;
    for round in 0_u32..3000 {
        let mut damaged = body.to_vec();
        for _ in 0..=random.bits() % 3 {
            // The first 1,500 bytes hold most of the structure; the rest is weights.
            let within = if round.is_multiple_of(4) { damaged.len() } else { 1500 };
            let at = random.bits() as usize % within;
            damaged[at] = random.bits() as u8;
        }
        if random.bits().is_multiple_of(8) {
            damaged.truncate(random.bits() as usize % damaged.len());
        }
        let checksum = blake3::hash(&damaged);
        damaged.extend_from_slice(checksum.as_bytes());
        if let Ok(model) = parse(&damaged) {
            accepted += 1;
            assert_eq!(to_bytes(&model), damaged, "an accepted file is the one that would be written");
        }
    }
    assert!(accepted > 0 && accepted < 2900, "{accepted} of 3000");
}

/// A model has one file: readers of version 1 read all that they know, and refuse the rest by its version.
#[test]
fn the_version_is_the_lowest_that_has_what_the_model_needs() {
    let with_version = |sample: &Sample, version: u8| {
        let mut bytes = to_bytes(&sample.model());
        let body = bytes.len() - 32;
        let written = std::mem::replace(&mut bytes[8], version);
        let checksum = blake3::hash(&bytes[..body]);
        bytes[body..].copy_from_slice(checksum.as_bytes());
        (written, parse(&bytes).map(|_| ()).map_err(|error| error.to_string()))
    };
    assert_eq!(with_version(&SMALL2, 1), (1, Ok(())));
    assert_eq!(with_version(&RELU6, 2), (2, Ok(())));
    for (sample, version) in [(&SMALL2, 2), (&RELU6, 1)] {
        let (needed, error) = with_version(sample, version);
        let expected = format!("model.s8m: at byte 8: expected version {needed} for these nodes, found {version}");
        assert_eq!(error, Err(expected));
    }
}

#[test]
fn errors_name_the_file_the_place_and_both_sides() {
    let mut bytes = to_bytes(&SMALL2.model());
    bytes[8] = 3;
    let error = parse(&bytes).expect_err("another version").to_string();
    assert_eq!(error, "model.s8m: at byte 8: expected version 1 or 2, found 3");
    let error = read_model(Path::new("/nowhere/model.s8m")).expect_err("no such file").to_string();
    assert!(error.starts_with("/nowhere/model.s8m: cannot read"), "{error}");
    let error = write_model(Path::new("/nowhere/model.s8m"), &SMALL2.model()).expect_err("no such folder").to_string();
    assert!(error.starts_with("/nowhere/model.s8m: cannot write"), "{error}");
}
