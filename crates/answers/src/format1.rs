//! Caches of format 1, read to be converted and for nothing else.
//!
//! Their key was sentences, and each record one answer to one prompt: see "Format 1" in `docs/formats/teacher-cache.md`.

use std::path::{Path, PathBuf};

use sensei_data::geometry::{RectInImage, Size};
use sensei_files::bounded::read_bounded;
use sensei_files::digest::{blake3_hex, hex};
use serde::{Deserialize, Serialize};

use crate::error::CacheError;
use crate::import::{DumpHeader, DumpRecord, ImportError, ImportReport, Importer, SeenImage, Target};
use crate::kept::MAX_GRID;
use crate::key::TeacherDescription;
use crate::manifest::{FILE_NAME, FORMAT_NAME, FORMAT_VERSION, FileEntry, MAX_BYTES, check_file_names, read_manifest};
use crate::record::RecordFault;
use crate::record_bytes::{CHECKSUM_BYTES, Fields, checksum};
use crate::sentences;
use crate::shard::{HEADER_BYTES, Header, INDEX_ENTRY_BYTES, INDEX_MAGIC, IndexEntry, SHARD_MAGIC};

/// Makes a cache of this version's format from the one in the folder `cache`.
pub fn import(cache: &Path, target: Target) -> Result<ImportReport, ImportError> {
    let reader = Reader::open(cache)?;
    let manifest = &reader.manifest;
    let dataset = target.dataset;
    let dataset_digest = hex(&dataset.digest);
    if manifest.key.dataset != dataset_digest {
        let (path, expected) = (dataset.annotations_path.clone(), manifest.key.dataset.clone());
        return Err(ImportError::OtherData { path, what: "BLAKE3".into(), expected, found: dataset_digest });
    }
    let mut records = reader.records(0)?;
    let Some(first) = records.first() else {
        return Err(reader.damaged(FILE_NAME, RecordFault::new("records", "at least one", "none")).into());
    };
    let (question, context) = sentences::question_and_context(&manifest.key.prompt, first.grid)
        .map_err(|fault| reader.damaged(FILE_NAME, fault))?;
    let header = DumpHeader {
        teacher: TeacherDescription { name: manifest.teacher.name.clone(), licence: manifest.teacher.licence.clone() },
        teacher_digest: manifest.key.teacher.clone(),
        preprocessing: sentences::preprocessing(&manifest.key.preprocessing),
        question,
        context,
        grid: first.grid,
        logit_step: first.logit_step,
        provenance: manifest.provenance.clone(),
        n_clipped: None,
    };
    let mut importer = Importer::new(target, header)?;
    for next_shard_idx in 1.. {
        for record in &records {
            importer.add(DumpRecord {
                annotation_id: record.annotation_id,
                image_id: record.image_id,
                image_size: Some(record.image_size),
                seen_image: SeenImage::Blake3(record.image_digest),
                pixel_means: None,
                rect_in_image: record.rect_in_image,
                predicted_iou: record.predicted_iou,
                truth_iou: None,
                logits: &record.logits,
            })?;
        }
        if next_shard_idx >= manifest.shards.len() {
            break;
        }
        records = reader.records(next_shard_idx)?;
    }
    importer.finish_if(|n_saturated| match n_saturated == manifest.n_saturated {
        true => Ok(()),
        false => {
            let (expected, found) = (manifest.n_saturated.to_string(), n_saturated.to_string());
            Err(reader.damaged(FILE_NAME, RecordFault::new("saturated logits", expected, found)).into())
        }
    })
}

/// Whether these are the bytes of a manifest of format 1.
pub fn is_manifest(bytes: &[u8]) -> bool {
    serde_json::from_slice::<ManifestFile>(bytes).is_ok_and(|file| file.manifest.key.format == 1)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ManifestFile {
    format: String,
    manifest: Manifest,
    /// Over the manifest as compact JSON with its fields in the order below.
    blake3: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    key: Key,
    teacher: Teacher,
    provenance: Vec<String>,
    n_records: u64,
    n_saturated: u64,
    index: FileEntry,
    shards: Vec<FileEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    teacher: String,
    preprocessing: String,
    prompt: String,
    dataset: String,
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Teacher {
    name: String,
    licence: String,
    digest: String,
}

struct Record {
    annotation_id: u64,
    image_id: u64,
    image_digest: [u8; 32],
    image_size: Size,
    rect_in_image: RectInImage,
    grid: u32,
    /// `grid * grid` int8 values.
    logits: Vec<u8>,
    logit_step: f32,
    predicted_iou: f32,
}

/// A cache whose manifest and index are as they were written; shards are checked as they are read.
struct Reader {
    path: PathBuf,
    manifest: Manifest,
    /// By shard and place.
    entries: Vec<IndexEntry>,
}

impl Reader {
    fn open(path: &Path) -> Result<Self, CacheError> {
        let manifest_path = path.join(FILE_NAME);
        let bytes = read_bounded(&manifest_path, MAX_BYTES)?;
        let damaged = |what: &str, expected: String, found: String| {
            Err(CacheError::Damaged { path: manifest_path.clone(), what: what.into(), expected, found })
        };
        let file: ManifestFile = match serde_json::from_slice(&bytes) {
            Ok(file) => file,
            Err(_) if read_manifest(path).is_ok() => {
                return damaged("format", "1".into(), format!("{FORMAT_VERSION}, which needs no conversion"));
            }
            Err(error) => return damaged("JSON", "a manifest of format 1, to be converted".into(), error.to_string()),
        };
        let found = format!("{} {}", file.format, file.manifest.key.format);
        if found != format!("{FORMAT_NAME} 1") {
            return damaged("format", format!("{FORMAT_NAME} 1"), found);
        }
        let json = serde_json::to_vec(&file.manifest).expect("strings, numbers and lists have a JSON form");
        let computed = blake3_hex(&json);
        if computed != file.blake3 {
            return damaged("checksum", file.blake3, computed);
        }
        check_file_names(&manifest_path, &file.manifest.index, &file.manifest.shards)?;
        let mut reader = Reader { path: path.into(), manifest: file.manifest, entries: vec![] };
        reader.entries = reader.read_index()?;
        Ok(reader)
    }

    fn read_index(&self) -> Result<Vec<IndexEntry>, CacheError> {
        let file = &self.manifest.index;
        let bytes = self.read(file, INDEX_MAGIC, self.manifest.n_records)?;
        let (entries, rest) = bytes[HEADER_BYTES..].as_chunks::<INDEX_ENTRY_BYTES>();
        let mut entries: Vec<IndexEntry> = entries.iter().map(IndexEntry::from_bytes).collect();
        if !rest.is_empty() || entries.len() as u64 != self.manifest.n_records {
            let expected = format!("{} entries", self.manifest.n_records);
            return Err(self.damaged(&file.file, RecordFault::new("size", expected, format!("{} bytes", bytes.len()))));
        }
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].id >= pair[1].id) {
            let found = format!("{} after {}", pair[1].id, pair[0].id);
            return Err(self.damaged(&file.file, RecordFault::new("order", "ascending ids", found)));
        }
        if let Some(entry) = entries.iter().find(|entry| entry.shard_idx as usize >= self.manifest.shards.len()) {
            let fault = RecordFault::new(
                format!("annotation {}", entry.id),
                format!("one of {} shards", self.manifest.shards.len()),
                format!("shard {}", entry.shard_idx),
            );
            return Err(self.damaged(&file.file, fault));
        }
        entries.sort_unstable_by_key(|entry| (entry.shard_idx, entry.offset));
        Ok(entries)
    }

    /// The records of a shard in the order in which they stand there; none of a shard that does not exist.
    fn records(&self, shard_idx: usize) -> Result<Vec<Record>, CacheError> {
        let Some(file) = self.manifest.shards.get(shard_idx) else { return Ok(vec![]) };
        let bytes = self.read(file, SHARD_MAGIC, file.n_records)?;
        let mut rest = &bytes[HEADER_BYTES..];
        let mut records = Vec::new();
        for entry in self.entries.iter().filter(|entry| entry.shard_idx as usize == shard_idx) {
            let at = bytes.len() - rest.len();
            let in_record = |fault: RecordFault| {
                let what = format!("annotation {}: {}", entry.id, fault.what);
                self.damaged(&file.file, RecordFault { what, ..fault })
            };
            if entry.offset != at as u64 {
                let fault = RecordFault::new("start of the record", at.to_string(), entry.offset.to_string());
                return Err(in_record(fault));
            }
            let Some((record, tail)) = rest.split_at_checked(entry.n_bytes as usize) else {
                let (expected, found) = (format!("{} bytes", entry.n_bytes), format!("{} bytes", rest.len()));
                return Err(in_record(RecordFault::new("record", expected, found)));
            };
            records.push(parse(record, entry.id).map_err(in_record)?);
            rest = tail;
        }
        if !rest.is_empty() || records.len() as u64 != file.n_records {
            let found = format!("{} records and {} bytes more", records.len(), rest.len());
            let expected = format!("{} records", file.n_records);
            return Err(self.damaged(&file.file, RecordFault::new("records", expected, found)));
        }
        Ok(records)
    }

    /// A file of the cache, which must be as the manifest says.
    fn read(&self, file: &FileEntry, magic: &'static [u8; 8], n_records: u64) -> Result<Vec<u8>, CacheError> {
        let path = self.path.join(&file.file);
        let bytes = read_bounded(&path, file.bytes)?;
        let (expected, found) = (format!("{} bytes", file.bytes), format!("{} bytes", bytes.len()));
        if expected != found || bytes.len() < HEADER_BYTES {
            return Err(self.damaged(&file.file, RecordFault::new("size", expected, found)));
        }
        Header { magic, version: 1, key_digest: self.manifest.key.digest(), n_records }.check(&path, &bytes)?;
        let digest = blake3_hex(&bytes);
        if digest != file.blake3 {
            return Err(self.damaged(&file.file, RecordFault::new("digest", file.blake3.clone(), digest)));
        }
        Ok(bytes)
    }

    fn damaged(&self, file: &str, fault: RecordFault) -> CacheError {
        let RecordFault { what, expected, found } = fault;
        CacheError::Damaged { path: self.path.join(file), what, expected, found }
    }
}

impl Key {
    fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"sensei teacher cache key\0");
        let format = self.format.to_string();
        for part in [&self.teacher, &self.preprocessing, &self.prompt, &self.dataset, &format] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

/// Reads the record that fills `bytes` exactly. Ranges of its other fields are checked when it is written again.
fn parse(bytes: &[u8], annotation_id: u64) -> Result<Record, RecordFault> {
    let mut fields = Fields(bytes);
    let stored: [u8; CHECKSUM_BYTES] = fields.take()?;
    let computed = checksum(fields.0);
    if stored != computed {
        return Err(RecordFault::new("record checksum", hex(&stored), hex(&computed)));
    }
    let (n_compressed, grid, id) = (fields.u32()?, fields.u32()?, fields.u64()?);
    if id != annotation_id {
        return Err(RecordFault::new("id in the record", annotation_id.to_string(), id.to_string()));
    }
    if !(1..=MAX_GRID).contains(&grid) {
        return Err(RecordFault::new("grid", format!("1 to {MAX_GRID}"), grid.to_string()));
    }
    let (image_id, image_digest) = (fields.u64()?, fields.take()?);
    let image_size = Size { width: fields.u32()?, height: fields.u32()? };
    let rect_in_image = RectInImage { x0: fields.f64()?, y0: fields.f64()?, x1: fields.f64()?, y1: fields.f64()? };
    let (logit_step, predicted_iou) = (fields.f32()?, fields.f32()?);
    let compressed = fields.bytes(n_compressed as usize)?;
    fields.end()?;
    let mut logits = vec![0; (grid * grid) as usize];
    match lz4_flex::block::decompress_into(compressed, &mut logits) {
        Ok(n) if n == logits.len() => {}
        Ok(n) => return Err(RecordFault::new("logits", format!("{} values", logits.len()), format!("{n} values"))),
        Err(error) => {
            return Err(RecordFault::new("logits", format!("{} values in LZ4", logits.len()), error.to_string()));
        }
    }
    let annotation_id = id;
    Ok(Record {
        annotation_id,
        image_id,
        image_digest,
        image_size,
        rect_in_image,
        grid,
        logits,
        logit_step,
        predicted_iou,
    })
}
