//! Tests of the teacher cache: round trips, damage, resampling, imports.

#![expect(clippy::disallowed_methods, reason = "tests make the files they read")]
#![allow(clippy::unwrap_used)] // tests

mod damage;
mod import;
mod quickstart;
mod resample;
mod round_trip;

use std::path::Path;

use sensei_answers::key::{CacheKey, FORMAT_VERSION, TeacherDescription};
use sensei_answers::manifest::Manifest;
use sensei_answers::record::TeacherRecord;
use sensei_answers::writer::CacheWriter;
use sensei_data::geometry::{RectInImage, Size};

fn key() -> CacheKey {
    CacheKey {
        teacher: "7ea".into(),
        preprocessing: "letterbox".into(),
        prompt: "box".into(),
        dataset: "da7a".into(),
        format: FORMAT_VERSION,
    }
}

fn teacher() -> TeacherDescription {
    TeacherDescription { name: "Test teacher".into(), licence: "MIT".into(), digest: "7ea".into() }
}

/// A record whose content follows from its id; logits of every value, -128 and both ends included.
fn record(annotation_id: u64, grid: u32) -> TeacherRecord {
    let value = |idx: u32| (u64::from(idx) * (2 * annotation_id + 1) % 256) as u8;
    TeacherRecord {
        annotation_id,
        image_id: annotation_id / 3,
        image_digest: [annotation_id as u8; 32],
        image_size: Size { width: 640, height: 480 },
        rect_in_image: RectInImage { x0: -3.5, y0: (annotation_id % 100) as f64, x1: 60.0, y1: 163.5 },
        grid,
        logits: (0..grid * grid).map(|idx| value(idx).cast_signed()).collect(),
        logit_step: 0.125,
        predicted_iou: annotation_id as f32 / 10.0,
    }
}

/// A cache of the records with these ids in shards of at least `shard_bytes`.
fn write(path: &Path, key: CacheKey, ids: &[u64], grid: u32, shard_bytes: usize) -> Manifest {
    let writer = CacheWriter::create(path, key, teacher(), vec!["a test".into()]).unwrap();
    let mut writer = writer.with_shard_bytes(shard_bytes);
    ids.iter().for_each(|&id| writer.push(&record(id, grid)).unwrap());
    writer.finish().unwrap()
}

/// An error with its causes, as a user sees it.
fn text(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", text(source)),
        None => error.to_string(),
    }
}
