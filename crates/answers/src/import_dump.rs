//! The dump that `scripts/teacher/export.py` writes. Layout: `docs/formats/teacher-dump.md`.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use sensei_data::geometry::RectInImage;
use sensei_data::pixel_means::CELLS;
use sensei_files::bounded::read_bounded;
use sensei_files::digest::hex;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::error::CacheError;
use crate::import::{DumpHeader, DumpRecord, ImportError, ImportReport, Importer, SeenImage, Target};
use crate::kept::MAX_GRID;
use crate::key::TeacherDescription;
use crate::record::RecordFault;
use crate::sentences;

/// Imports the dump in the folder `dump`.
pub fn import(dump: &Path, target: Target) -> Result<ImportReport, ImportError> {
    let manifest = read_manifest(dump)?;
    let annotations = &target.dataset.annotations_path;
    let found = sha256_hex(&read(annotations)?);
    if found != manifest.dataset.sha256 {
        let (path, what, expected) = (annotations.clone(), "SHA-256".into(), manifest.dataset.sha256);
        return Err(ImportError::OtherData { path, what, expected, found });
    }
    let (question, context) = sentences::question_and_context(&manifest.prompt, manifest.grid)
        .map_err(|RecordFault { what, expected, found }| layout(&dump.join(MANIFEST), &what, expected, found))?;
    let header = DumpHeader {
        teacher: TeacherDescription { name: manifest.teacher.name, licence: manifest.teacher.licence },
        teacher_digest: manifest.teacher.digest,
        preprocessing: sentences::preprocessing(&manifest.preprocessing),
        question,
        context,
        grid: manifest.grid,
        logit_step: manifest.logit_step,
        provenance: vec![
            format!("dump for {}, SHA-256 {}", manifest.dataset.annotations, manifest.dataset.sha256),
            format!("teacher files {}", manifest.teacher.files),
            format!("made with {}", manifest.software),
        ],
        n_clipped: Some(manifest.n_clipped),
    };
    let grid = manifest.grid as usize;
    let mut importer = Importer::new(target, header)?;
    for shard in &manifest.shards {
        let path = dump.join(&shard.file);
        let bytes = read(&path)?;
        let found = sha256_hex(&bytes);
        if found != shard.sha256 {
            return Err(layout(&path, "SHA-256", shard.sha256.clone(), found));
        }
        add_shard(&mut importer, &path, &bytes, shard.records as usize, grid, manifest.truth_iou)?;
    }
    let report = importer.finish()?;
    Ok(report)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DumpManifest {
    format: String,
    version: u32,
    teacher: DumpTeacher,
    preprocessing: String,
    prompt: String,
    grid: u32,
    logit_step: f32,
    dataset: DumpDataset,
    #[serde(rename = "images_per_shard")]
    _images_per_shard: u64,
    truth_iou: bool,
    software: serde_json::Value,
    shards: Vec<DumpShard>,
    records: u64,
    n_clipped: u64,
    #[serde(rename = "skipped")]
    _skipped: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DumpTeacher {
    name: String,
    licence: String,
    digest: String,
    files: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DumpDataset {
    annotations: String,
    sha256: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DumpShard {
    file: String,
    #[serde(rename = "bytes")]
    _bytes: u64,
    sha256: String,
    records: u64,
}

fn read_manifest(dump: &Path) -> Result<DumpManifest, ImportError> {
    let path = dump.join(MANIFEST);
    if !path.exists() {
        return Err(layout(&path, "file", "a manifest".into(), "none: the dump is not finished".into()));
    }
    let bytes = read(&path)?;
    let manifest: DumpManifest = serde_json::from_slice(&bytes)
        .map_err(|error| layout(&path, "JSON", "a manifest of a teacher dump".into(), error.to_string()))?;
    let found = format!("{} {}", manifest.format, manifest.version);
    if found != FORMAT {
        return Err(layout(&path, "format", FORMAT.into(), found));
    }
    if !(1..=MAX_GRID).contains(&manifest.grid) {
        return Err(layout(&path, "grid", format!("1 to {MAX_GRID}"), manifest.grid.to_string()));
    }
    let is_plain = |name: &str| name.strip_prefix("shard-").is_some_and(|rest| !rest.contains(['/', '\\']));
    if let Some(shard) = manifest.shards.iter().find(|shard| !is_plain(&shard.file)) {
        return Err(layout(&path, "shard name", "shard-*".into(), shard.file.clone()));
    }
    let n_records: u64 = manifest.shards.iter().map(|shard| shard.records).sum();
    if n_records != manifest.records {
        return Err(layout(&path, "records", manifest.records.to_string(), format!("{n_records} in the shards")));
    }
    Ok(manifest)
}

fn add_shard(
    importer: &mut Importer,
    path: &Path,
    bytes: &[u8],
    n_records: usize,
    grid: usize,
    has_truth_iou: bool,
) -> Result<(), ImportError> {
    let tensors = SafeTensors::deserialize(bytes)
        .map_err(|error| layout(path, "file", "safetensors".into(), error.to_string()))?;
    let annotation_ids = i64s(&tensors, path, "annotation_id", n_records)?;
    let image_ids = i64s(&tensors, path, "image_id", n_records)?;
    let image_sha256 = tensor(&tensors, path, "image_sha256", Dtype::U8, &[n_records, 32])?;
    let rects: Vec<f64> = elements(tensor(&tensors, path, "rect", Dtype::F64, &[n_records, 4])?, f64::from_le_bytes);
    let scores = tensor(&tensors, path, "predicted_iou", Dtype::F32, &[n_records])?;
    let scores: Vec<f32> = elements(scores, f32::from_le_bytes);
    let truth_ious = tensor(&tensors, path, "truth_iou", Dtype::F32, &[n_records])?;
    let truth_ious: Vec<f32> = elements(truth_ious, f32::from_le_bytes);
    let pixel_means = match tensors.tensor(PIXEL_MEANS) {
        Ok(_) => {
            tensor(&tensors, path, PIXEL_MEANS, Dtype::U8, &[n_records, CELLS, CELLS, 3])?
                .as_chunks::<{ CELLS * CELLS * 3 }>()
                .0
        }
        Err(_) => &[],
    };
    let logits = tensor(&tensors, path, "logits", Dtype::I8, &[n_records, grid, grid])?;
    for idx in 0..n_records {
        let rect = &rects[idx * 4..][..4];
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(&image_sha256[idx * 32..][..32]);
        importer.add(DumpRecord {
            annotation_id: annotation_ids[idx],
            image_id: image_ids[idx],
            image_size: None,
            seen_image: SeenImage::Sha256(sha256),
            pixel_means: pixel_means.get(idx).copied(),
            rect_in_image: RectInImage { x0: rect[0], y0: rect[1], x1: rect[2], y1: rect[3] },
            predicted_iou: scores[idx],
            truth_iou: has_truth_iou.then_some(truth_ious[idx]),
            logits: &logits[idx * grid * grid..][..grid * grid],
        })?;
    }
    Ok(())
}

/// The bytes of a tensor, which must have this element type and shape.
pub fn tensor<'a>(
    tensors: &SafeTensors<'a>,
    path: &Path,
    name: &str,
    dtype: Dtype,
    shape: &[usize],
) -> Result<&'a [u8], ImportError> {
    let expected = format!("{dtype:?} {shape:?}");
    let tensor = tensors.tensor(name).map_err(|error| layout(path, name, expected.clone(), error.to_string()))?;
    if tensor.dtype() != dtype || tensor.shape() != shape {
        return Err(layout(path, name, expected, format!("{:?} {:?}", tensor.dtype(), tensor.shape())));
    }
    Ok(tensor.data())
}

/// Ids, which are stored as signed integers but never negative.
pub fn i64s(tensors: &SafeTensors, path: &Path, name: &str, n: usize) -> Result<Vec<u64>, ImportError> {
    let ids: Vec<i64> = elements(tensor(tensors, path, name, Dtype::I64, &[n])?, i64::from_le_bytes);
    let to_id = |id: i64| u64::try_from(id).map_err(|_| layout(path, name, "ids from 0".into(), id.to_string()));
    ids.into_iter().map(to_id).collect()
}

/// Little-endian elements.
pub fn elements<const N: usize, T>(bytes: &[u8], decode: fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|bytes| decode(*bytes)).collect()
}

/// Reads a file of a dump.
pub fn read(path: &Path) -> Result<Vec<u8>, ImportError> {
    Ok(read_bounded(path, MAX_FILE_BYTES).map_err(CacheError::from)?)
}

/// A file that is not as its layout says.
pub fn layout(path: &Path, what: &str, expected: String, found: String) -> ImportError {
    ImportError::Layout { path: path.into(), what: what.into(), expected, found }
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Older dumps have none.
const PIXEL_MEANS: &str = "pixel_means";
const MANIFEST: &str = "manifest.json";
const FORMAT: &str = "sensei-teacher-dump 1";
const MAX_FILE_BYTES: u64 = 4 << 30;
