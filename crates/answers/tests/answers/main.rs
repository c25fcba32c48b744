//! Tests of the teacher cache: keys, round trips, damage, resampling, imports.

#![expect(clippy::disallowed_methods, reason = "tests make the files they read")]
#![allow(clippy::unwrap_used)] // tests

mod damage;
mod features;
mod format1;
mod import;
mod keys;
mod quickstart;
mod real_answers;
mod resample;
mod round_trip;
mod shared;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;

use sensei_answers::asked::{Normalization, Preprocessing, Question, Resize};
use sensei_answers::kept::{Context, Kept, KeptMasks};
use sensei_answers::key::{AnswerKey, TeacherDescription};
use sensei_answers::manifest::Manifest;
use sensei_answers::record::{ImageIdentity, MaskAnswer, MaskRecord, PromptAnswer, PromptPoint};
use sensei_answers::writer::{CacheWriter, RecordSink};
use sensei_data::geometry::{RectInImage, Size};
use sensei_data::prompt_source::PromptSource;

/// The key of a cache of [`record`]s of this grid: one box, one mask.
fn key(grid: u32) -> AnswerKey {
    let context = Context::AroundBox { region_scale: 1.2, context_scale: 1.5, min_side: 0.0 };
    AnswerKey {
        teacher: "7ea".into(),
        preprocessing: Preprocessing::Letterbox {
            longest_side: 1024,
            resize: Resize::PillowBilinear,
            normalization: Normalization::Imagenet,
            zoom: None,
        },
        question: Question::Object { prompts: vec![PromptSource::Box], padding_points: 1 },
        kept: Kept::MaskLogits { context, grid, logit_step: 0.125, masks: KeptMasks::Single },
        dataset: "da7a".into(),
    }
}

/// The same key with two prompts and three masks for each.
fn rich_key(grid: u32) -> AnswerKey {
    let prompts = vec![PromptSource::InnermostPoint, PromptSource::Box];
    let kept = Kept::MaskLogits { context: Context::WholeFrame, grid, logit_step: 0.125, masks: KeptMasks::Three };
    AnswerKey { question: Question::Object { prompts, padding_points: 2 }, kept, ..key(grid) }
}

fn teacher() -> TeacherDescription {
    TeacherDescription { name: "Test teacher".into(), licence: "MIT".into() }
}

/// A record whose content follows from its id; logits of every value, -128 and both ends included.
fn record(annotation_id: u64, grid: u32) -> MaskRecord {
    let value = |idx: u32| (u64::from(idx) * (2 * annotation_id + 1) % 256) as u8;
    let mask = MaskAnswer {
        logits: (0..grid * grid).map(|idx| value(idx).cast_signed()).collect(),
        predicted_iou: annotation_id as f32 / 10.0,
        stability: None,
    };
    MaskRecord {
        annotation_id,
        image: ImageIdentity {
            id: annotation_id / 3,
            file_digest: [annotation_id as u8; 32],
            pixel_digest: None,
            size: Size { width: 640, height: 480 },
        },
        grid,
        logit_step: 0.125,
        prompts: vec![PromptAnswer {
            points: vec![],
            rect_in_image: RectInImage { x0: -3.5, y0: (annotation_id % 100) as f64, x1: 60.0, y1: 163.5 },
            masks: vec![mask],
        }],
    }
}

/// A record of [`rich_key`]: all that a record of masks can hold.
fn rich_record(annotation_id: u64, grid: u32) -> MaskRecord {
    let one = record(annotation_id, grid);
    let mask = |idx: u64| MaskAnswer {
        predicted_iou: [0.5, 1.02, 0.7][idx as usize % 3],
        stability: [None, Some(0.0), Some(1.0)][idx as usize % 3],
        ..record(annotation_id + idx, grid).prompts.remove(0).masks.remove(0)
    };
    let prompt = |idx: u64| PromptAnswer {
        points: PromptPoint::of_box([1.5, 2.0, 3.0, 4.25])[..2 - idx as usize].to_vec(),
        rect_in_image: RectInImage { x0: idx as f64, y0: 0.0, x1: 640.0, y1: 640.0 },
        masks: (0..3).map(|mask_idx| mask(3 * idx + mask_idx)).collect(),
    };
    let image = ImageIdentity { pixel_digest: Some([9; 32]), ..one.image };
    MaskRecord { image, prompts: (0..2).map(prompt).collect(), ..one }
}

/// A cache of the records with these ids in shards of at least `shard_bytes`.
fn write(path: &Path, key: AnswerKey, ids: &[u64], grid: u32, shard_bytes: usize) -> Manifest {
    let writer = CacheWriter::create(path, key, teacher(), vec!["a test".into()]).unwrap();
    let mut writer = writer.with_shard_bytes(shard_bytes);
    ids.iter().for_each(|&id| writer.push_masks(&record(id, grid)).unwrap());
    writer.finish().unwrap()
}

/// Writes a file. Unlike `fs::write` it does not cut it to nothing first: some file systems flush such a file, which takes milliseconds.
fn put(path: &Path, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
}

/// An error with its causes, as a user sees it.
fn text(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", text(source)),
        None => error.to_string(),
    }
}
