//! From a teacher's raw dump to a cache.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sensei_data::dataset::Dataset;
use sensei_data::geometry::RectInImage;
use sha2::{Digest, Sha256};

use crate::error::CacheError;
use crate::key::{CacheKey, FORMAT_VERSION, TeacherDescription};
use crate::manifest::Manifest;
use crate::record::TeacherRecord;
use crate::writer::CacheWriter;
use crate::{import_dump, import_roi96};
use sensei_files::digest::hex;

/// What an import took over and what it found missing.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportReport {
    /// The new cache's.
    pub manifest: Manifest,
    /// Instances of the data set without an answer, ascending ids; crowd regions are not among them.
    pub missing: Vec<u64>,
    /// Crowd regions without an answer, ascending ids: teachers are not asked about them.
    pub missing_crowd: Vec<u64>,
    /// Images whose file is the one that the teacher saw, by the dump's SHA-256.
    pub n_images_verified: u64,
    /// Images about whose file the dump says nothing.
    pub n_images_unverified: u64,
    /// Logits that the exporter had to cut to the int8 range, if it counted them.
    pub n_clipped_by_exporter: Option<u64>,
    /// Records whose predicted IoU is outside of `[0, 1]` and will be clamped as a weight.
    pub n_clamped_weights: u64,
    /// Mean of the full-image IoUs with the truth that the exporter measured, if it measured all.
    pub exporters_mean_iou: Option<f64>,
}

/// A dump that cannot be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A file cannot be read.
    #[error("{path}: cannot read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The dump is not as its layout says.
    #[error("{path}: {what}: expected {expected}, found {found}")]
    Layout {
        /// The file.
        path: PathBuf,
        /// Which part of it.
        what: String,
        /// By the layout.
        expected: String,
        /// In the file.
        found: String,
    },
    /// The dump was made for other annotations or other images.
    #[error("{path}: the dump belongs to other data: {what}: expected {expected}, found {found}")]
    OtherData {
        /// The annotation file or the image.
        path: PathBuf,
        /// Which part of it.
        what: String,
        /// In the dump.
        expected: String,
        /// In the data set.
        found: String,
    },
    /// The cache cannot be written.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// Makes the cache `out` from a dump.
///
/// A folder is taken for a dump of `scripts/teacher/export.py` (`docs/formats/teacher-dump.md`), a file for the older
/// single-file layout of regions of interest that the same page describes.
///
/// # Errors
/// If the dump is damaged, unfinished or made for other data, or the cache cannot be written. No cache is left then.
pub fn import_dump(dump: &Path, dataset: &Dataset, out: &Path) -> Result<ImportReport, ImportError> {
    if dump.is_dir() { import_dump::import(dump, dataset, out) } else { import_roi96::import(dump, dataset, out) }
}

/// What a dump says about all of its records.
pub(crate) struct DumpHeader {
    pub teacher: TeacherDescription,
    pub preprocessing: String,
    pub prompt: String,
    pub provenance: Vec<String>,
    pub grid: u32,
    pub logit_step: f32,
    pub n_clipped: Option<u64>,
}

/// One instance in a dump.
pub(crate) struct DumpRecord<'a> {
    pub annotation_id: u64,
    pub image_id: u64,
    pub image_sha256: Option<[u8; 32]>,
    pub rect_in_image: RectInImage,
    pub predicted_iou: f32,
    /// Measured by the exporter at full resolution.
    pub truth_iou: Option<f32>,
    pub logits: &'a [u8],
}

/// Turns records of a dump into records of a cache, and counts.
pub(crate) struct Importer<'a> {
    dataset: &'a Dataset,
    header: DumpHeader,
    writer: CacheWriter,
    instances: BTreeMap<u64, InstanceState>,
    image_digests: BTreeMap<usize, ImageDigests>,
    truth_ious: Vec<f64>,
    n_clamped_weights: u64,
}

struct InstanceState {
    instance_idx: usize,
    has_record: bool,
}

struct ImageDigests {
    blake3: [u8; 32],
    sha256: [u8; 32],
    is_verified: bool,
}

impl<'a> Importer<'a> {
    pub fn new(dataset: &'a Dataset, out: &Path, header: DumpHeader) -> Result<Self, ImportError> {
        let key = CacheKey {
            teacher: header.teacher.digest.clone(),
            preprocessing: header.preprocessing.clone(),
            prompt: header.prompt.clone(),
            dataset: hex(&dataset.digest),
            format: FORMAT_VERSION,
        };
        let writer = CacheWriter::create(out, key, header.teacher.clone(), header.provenance.clone())?;
        let state = |instance_idx| InstanceState { instance_idx, has_record: false };
        let instances = dataset.instances.iter().enumerate().map(|(idx, i)| (i.id, state(idx))).collect();
        let (image_digests, truth_ious) = (BTreeMap::new(), Vec::new());
        Ok(Importer { dataset, header, writer, instances, image_digests, truth_ious, n_clamped_weights: 0 })
    }

    pub fn add(&mut self, record: DumpRecord) -> Result<(), ImportError> {
        let id = record.annotation_id;
        let Some(state) = self.instances.get_mut(&id) else {
            return Err(ImportError::OtherData {
                path: self.dataset.annotations_path.clone(),
                what: format!("annotation {id}"),
                expected: "an instance of the data set".into(),
                found: "none".into(),
            });
        };
        state.has_record = true;
        let image_idx = self.dataset.instances[state.instance_idx].image_idx;
        let image = &self.dataset.images[image_idx];
        if record.image_id != image.id {
            return Err(ImportError::OtherData {
                path: self.dataset.annotations_path.clone(),
                what: format!("image of annotation {id}"),
                expected: record.image_id.to_string(),
                found: image.id.to_string(),
            });
        }
        let truth_iou = record.truth_iou;
        let image_digest = self.check_image(image_idx, record.image_sha256)?;
        let record = TeacherRecord {
            annotation_id: id,
            image_id: image.id,
            image_digest,
            image_size: image.size,
            rect_in_image: record.rect_in_image,
            grid: self.header.grid,
            logits: record.logits.iter().map(|byte| byte.cast_signed()).collect(),
            logit_step: self.header.logit_step,
            predicted_iou: record.predicted_iou,
        };
        self.truth_ious.extend(truth_iou.map(f64::from));
        self.n_clamped_weights += u64::from(record.weight().1);
        Ok(self.writer.push(&record)?)
    }

    /// For dumps that do not name their annotation file: the box that the teacher was asked about is the data set's.
    pub fn check_box(&self, annotation_id: u64, bbox: &[f32]) -> Result<(), ImportError> {
        let Some(state) = self.instances.get(&annotation_id) else {
            return Ok(()); // `add` says so.
        };
        let found = self.dataset.instances[state.instance_idx].bbox;
        let is_close = |(&a, &b): (&f32, &f64)| (f64::from(a) - b).abs() <= 1e-3;
        if bbox.iter().zip(&found).all(is_close) {
            return Ok(());
        }
        Err(ImportError::OtherData {
            path: self.dataset.annotations_path.clone(),
            what: format!("box of annotation {annotation_id}"),
            expected: format!("{bbox:?}"),
            found: format!("{found:?}"),
        })
    }

    pub fn finish(self) -> Result<ImportReport, ImportError> {
        let manifest = self.writer.finish()?;
        let (mut missing, mut missing_crowd) = (Vec::new(), Vec::new());
        for (id, state) in self.instances.iter().filter(|(_, state)| !state.has_record) {
            let is_crowd = self.dataset.instances[state.instance_idx].is_crowd;
            if is_crowd { missing_crowd.push(*id) } else { missing.push(*id) }
        }
        let n_images_verified = self.image_digests.values().filter(|image| image.is_verified).count() as u64;
        let mean_iou = self.truth_ious.iter().sum::<f64>() / self.truth_ious.len().max(1) as f64;
        let is_measured = !self.truth_ious.is_empty() && mean_iou.is_finite();
        Ok(ImportReport {
            manifest,
            missing,
            missing_crowd,
            n_images_verified,
            n_images_unverified: self.image_digests.len() as u64 - n_images_verified,
            n_clipped_by_exporter: self.header.n_clipped,
            n_clamped_weights: self.n_clamped_weights,
            exporters_mean_iou: is_measured.then_some(mean_iou),
        })
    }

    /// BLAKE3 of an image file, which must have the SHA-256 that the dump gives, if it gives one.
    fn check_image(&mut self, image_idx: usize, sha256: Option<[u8; 32]>) -> Result<[u8; 32], ImportError> {
        let path = self.dataset.image_path(image_idx);
        let digests = match self.image_digests.entry(image_idx) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let bytes = fs::read(&path).map_err(|source| ImportError::Read { path: path.clone(), source })?;
                let (blake3, sha256) = (*blake3::hash(&bytes).as_bytes(), Sha256::digest(&bytes).into());
                entry.insert(ImageDigests { blake3, sha256, is_verified: false })
            }
        };
        if let Some(expected) = sha256 {
            if expected != digests.sha256 {
                let (expected, found) = (hex(&expected), hex(&digests.sha256));
                return Err(ImportError::OtherData { path, what: "SHA-256".into(), expected, found });
            }
            digests.is_verified = true;
        }
        Ok(digests.blake3)
    }
}
