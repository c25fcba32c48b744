//! Maps of features: what is written is read, and what is damaged is not.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use sensei_answers::asked::Question;
use sensei_answers::error::CacheError;
use sensei_answers::features::{FeatureRecord, FeatureValues, channel_scales, feature_record_bytes};
use sensei_answers::folder_store::FolderStore;
use sensei_answers::kept::{FeatureDtype, Kept, ScaleSource};
use sensei_answers::key::AnswerKey;
use sensei_answers::record::ImageIdentity;
use sensei_answers::store::Store;
use sensei_answers::verify::{stats, verify};
use sensei_answers::writer::{CacheWriter, RecordSink};
use sensei_data::geometry::Size;

use crate::{key, put, record, teacher, text};

const GRID: u32 = 5;
const CHANNELS: u32 = 3;
const SCALES: ScaleSource = ScaleSource::Image;
const DTYPES: [FeatureDtype; 4] = [
    FeatureDtype::F32,
    FeatureDtype::F16,
    FeatureDtype::Int8 { scales: SCALES },
    FeatureDtype::Int4 { scales: SCALES },
];

fn feature_key(dtype: FeatureDtype) -> AnswerKey {
    let kept = Kept::ImageFeatures { tap: "embedding".into(), grid: GRID, channels: CHANNELS, dtype };
    AnswerKey { question: Question::Image, kept, ..key(GRID) }
}

/// Values of both signs and of other size in each channel; the last channel is zero.
fn values(id: u64) -> Vec<f32> {
    let per_channel = (GRID * GRID) as usize;
    let value = |idx: usize| ((idx as u64 * 31 + id * 7) % 41) as f32 - 20.0;
    (0..per_channel * 3).map(|idx| value(idx) * [0.013, 0.4, 0.0][idx / per_channel]).collect()
}

fn stored(values: &[f32], dtype: FeatureDtype) -> FeatureValues<'static> {
    let scales = |dtype: FeatureDtype| channel_scales(values, CHANNELS as usize, dtype.largest_code().unwrap());
    match dtype {
        FeatureDtype::F32 => FeatureValues::from_f32(values),
        FeatureDtype::F16 => FeatureValues::f16(values),
        FeatureDtype::Int8 { .. } => FeatureValues::int8(values, scales(dtype)),
        FeatureDtype::Int4 { .. } => FeatureValues::int4(values, scales(dtype)),
    }
}

fn map(id: u64, dtype: FeatureDtype) -> FeatureRecord<'static> {
    FeatureRecord {
        image: ImageIdentity { id, ..record(id, 1).image },
        resized: Size { width: 1024, height: 768 },
        used: Size { width: GRID, height: 4 },
        grid: GRID,
        channels: CHANNELS,
        values: stored(&values(id), dtype),
    }
}

fn write(path: &Path, dtype: FeatureDtype, ids: &[u64]) {
    let writer = CacheWriter::create(path, feature_key(dtype), teacher(), vec![]).unwrap();
    let mut writer = writer.with_shard_bytes(600);
    ids.iter().for_each(|&id| writer.push_features(&map(id, dtype)).unwrap());
    writer.finish().unwrap();
}

#[test]
fn every_type_of_values_comes_back() {
    for dtype in DTYPES {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        write(&path, dtype, &[9, 2, 1 << 50]);
        let cache = FolderStore::open(&path, &feature_key(dtype)).unwrap();
        assert_eq!(cache.ids(), [2, 9, 1 << 50]);
        for id in cache.ids() {
            let found = cache.features(id).unwrap();
            assert_eq!(found, map(id, dtype));
            let (FeatureValues::F32(bytes)
            | FeatureValues::F16(bytes)
            | FeatureValues::Int8 { codes: bytes, .. }
            | FeatureValues::Int4 { codes: bytes, .. }) = &found.values;
            assert!(matches!(bytes, Cow::Borrowed(_)), "a map is not copied");
            // Of the largest value of a channel, .26 and 8: half precision keeps 11 bits, int8 and int4 half a step.
            let error = match dtype {
                FeatureDtype::F32 => 0.0,
                FeatureDtype::F16 => 1.0 / 2048.0,
                FeatureDtype::Int8 { .. } => 0.5001 / 127.0,
                FeatureDtype::Int4 { .. } => 0.5001 / 7.0,
            };
            let pairs = values(id).into_iter().zip(found.to_f32());
            for (idx, (expected, got)) in pairs.enumerate() {
                let largest = [0.26, 8.0, 0.0][idx / (GRID * GRID) as usize];
                assert!((expected - got).abs() <= error * largest, "{dtype}, {idx}: {expected} {got}");
            }
            assert_eq!(found.to_f32().len(), 75);
        }
        let counts = verify(&path).unwrap();
        assert_eq!(counts, stats(&cache).unwrap());
        let expected_bytes = match dtype {
            FeatureDtype::F32 => 300,
            FeatureDtype::F16 => 150,
            FeatureDtype::Int8 { .. } => 75,
            // 25 codes of a channel take 13 bytes.
            FeatureDtype::Int4 { .. } => 39,
        };
        assert_eq!((counts.n_records, counts.n_images, counts.n_masks), (3, 3, 0));
        assert_eq!(counts.uncompressed_bytes, 3 * expected_bytes);
        let error = cache.features(3).unwrap_err().to_string();
        assert!(error.ends_with("no teacher answer for image 3"), "{error}");
        let error = cache.masks(2).unwrap_err().to_string();
        assert!(error.ends_with("expected a teacher cache of mask logits, found one of image features"), "{error}");
    }
}

#[test]
fn owned_bytes_are_read_as_borrowed_ones() {
    for dtype in DTYPES {
        let bytes = map(4, dtype).to_bytes().unwrap();
        let record = map(4, dtype);
        assert_eq!(feature_record_bytes(dtype, record.grid, record.channels), bytes.len() as u64, "known before");
        assert_eq!(FeatureRecord::from_bytes(Cow::Owned(bytes.clone())).unwrap(), map(4, dtype));
        assert_eq!(FeatureRecord::from_bytes(Cow::Borrowed(&bytes)).unwrap(), map(4, dtype));
    }
}

/// With one scale for a data set a value may lie beyond it: it is cut, not wrapped.
#[test]
fn values_beyond_a_scale_are_cut() {
    let all = |values: FeatureValues<'static>| {
        let record =
            FeatureRecord { grid: 2, channels: 1, used: Size { width: 2, height: 2 }, values, ..map(1, DTYPES[0]) };
        FeatureRecord::from_bytes(record.to_bytes().unwrap().into()).unwrap().to_f32()
    };
    let values = [300.0, -300.0, 0.25, -0.75];
    assert_eq!(all(FeatureValues::int8(&values, vec![0.5])), [63.5, -63.5, 0.0, -1.0], "halves go to even codes");
    assert_eq!(all(FeatureValues::int4(&values, vec![0.5])), [3.5, -3.5, 0.0, -1.0]);
    assert_eq!(all(FeatureValues::int4(&values, vec![0.0])), [0.0; 4]);
}

#[test]
fn writer_refuses_maps_that_no_cache_can_hold() {
    let dir = tempfile::tempdir().unwrap();
    let int8 = DTYPES[2];
    let mut writer = CacheWriter::create(&dir.path().join("a"), feature_key(int8), teacher(), vec![]).unwrap();
    let mut refuses = |change: fn(&mut FeatureRecord), words: &str| {
        let mut record = map(4, DTYPES[2]);
        change(&mut record);
        let error = text(&writer.push_features(&record).unwrap_err());
        assert!(error.starts_with("image 4: no record of this cache: ") && error.contains(words), "{error}");
    };
    refuses(|r| r.grid = 4, "map: expected 3 channels of 5 x 5 by the key, found 3 channels of 4 x 4");
    refuses(|r| r.channels = 2, "map");
    refuses(
        |r| r.values = stored(&values(4), FeatureDtype::F16),
        "type of values: expected int8, scales per channel and image",
    );
    refuses(
        |r| r.values = stored(&values(4)[..60], DTYPES[2]),
        "values: expected 3 channels of 5 x 5, found 3 scales and 60 bytes",
    );
    refuses(
        |r| r.values = FeatureValues::int8(&values(4), vec![1.0, f32::NAN, 1.0]),
        "scale: expected numbers from 0, found NaN",
    );
    refuses(|r| r.values = FeatureValues::int8(&values(4), vec![1.0, -1.0, 1.0]), "scale");
    refuses(|r| r.values = FeatureValues::int8(&values(4), vec![1.0]), "values");
    refuses(|r| r.used.width = 6, "used cells: expected 1 to 5 each way, found 6 x 4");
    refuses(|r| r.used.height = 0, "used cells");
    refuses(|r| r.resized.height = 0, "resized size");
    refuses(|r| r.image.size.width = 0, "image size");
    let error = text(&writer.push_masks(&record(4, GRID)).unwrap_err());
    assert!(error.contains("kind of record: expected image features, found mask logits"), "{error}");
    writer.push_features(&map(4, int8)).unwrap();
    let error = writer.push_features(&map(4, int8)).unwrap_err();
    assert!(matches!(&error, CacheError::Duplicate { .. }) && error.to_string().ends_with("image 4 is given twice"));
    assert_eq!(writer.finish().unwrap().n_records, 1);

    for (dtype, wrong) in [(FeatureDtype::F32, f32::INFINITY), (FeatureDtype::F32, f32::NAN), (FeatureDtype::F16, 1e5)]
    {
        let name = format!("{dtype}-{wrong}");
        let mut writer = CacheWriter::create(&dir.path().join(name), feature_key(dtype), teacher(), vec![]).unwrap();
        let mut with_wrong = values(4);
        with_wrong[74] = wrong;
        let record = FeatureRecord { values: stored(&with_wrong, dtype), ..map(4, dtype) };
        let error = text(&writer.push_features(&record).unwrap_err());
        assert!(error.contains("values: expected numbers, found an infinite one, or none"), "{error}");
    }
    let mut writer = CacheWriter::create(&dir.path().join("masks"), key(GRID), teacher(), vec![]).unwrap();
    let error = text(&writer.push_features(&map(4, int8)).unwrap_err());
    assert!(error.contains("kind of record: expected mask logits, found image features"), "{error}");
}

#[test]
fn every_flipped_byte_and_every_cut_is_found() {
    for dtype in DTYPES {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        write(&path, dtype, &[1, 2]);
        for entry in fs::read_dir(&path).unwrap() {
            let file = entry.unwrap().path();
            let name = file.file_name().unwrap().to_str().unwrap();
            let intact = fs::read(&file).unwrap();
            // Every byte of records and index; of the manifest, which the other kind's tests go through, some.
            let step = if name == "manifest.json" { 23 } else { 1 };
            for at in (0..intact.len()).step_by(step) {
                let mut changed = intact.clone();
                changed[at] ^= 1 << (at % 8);
                put(&file, &changed);
                let error = text(&verify(&path).expect_err("a flipped bit"));
                assert!(error.contains(name), "{name}, byte {at}: {error}");
                if let Ok(cache) = FolderStore::open(&path, &feature_key(dtype)) {
                    let answers = [1, 2].map(|id| cache.features(id).map(|found| assert_eq!(found, map(id, dtype))));
                    assert!(answers.iter().any(Result::is_err), "{name}, byte {at}: all was read");
                }
                put(&file, &intact[..at]);
                assert!(verify(&path).is_err(), "{name} cut to {at}");
            }
            put(&file, &intact);
        }
        verify(&path).unwrap();
    }
}

/// A record under the digest of a cache that has other maps: its checksum is right, and still it is no answer.
#[test]
fn a_record_that_is_not_of_the_key_is_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache");
    write(&path, FeatureDtype::F16, &[1]);
    let shard = path.join("shard-00000.stc");
    let bytes = fs::read(&shard).unwrap();
    let record = FeatureRecord::from_bytes(bytes[64..].into()).unwrap();
    // As many bytes: 75 half-precision values are 150 bytes, as are 150 int8 codes less the scales' twelve and one odd map.
    let forged = FeatureRecord { image: ImageIdentity { id: 3, ..record.image }, ..record.clone() }.to_bytes().unwrap();
    assert_eq!(forged.len(), bytes.len() - 64);
    fs::write(&shard, [&bytes[..64], &forged].concat()).unwrap();
    let cache = FolderStore::open(&path, &feature_key(FeatureDtype::F16)).unwrap();
    let error = cache.features(1).unwrap_err().to_string();
    assert!(error.ends_with("shard-00000.stc: damaged: image 1: id in the record: expected 1, found 3"), "{error}");
}
