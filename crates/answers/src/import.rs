//! From a teacher's raw dump, or a cache of format 1, to a cache.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sensei_data::dataset::Dataset;
use sensei_data::geometry::{RectInImage, Size};
use sensei_data::image_file::{ImageError, ImageLimits, read_image};
use sensei_data::pixel_means::{PixelMeans, difference, pixel_means};
use sensei_data::prompt_source::PromptSource;
use sha2::{Digest, Sha256};

use crate::asked::{Preprocessing, Question};
use crate::error::CacheError;
use crate::kept::{Context, Kept, KeptMasks};
use crate::key::{AnswerKey, TeacherDescription};
use crate::manifest::Manifest;
use crate::record::{ImageIdentity, MaskAnswer, MaskRecord, PromptAnswer, PromptPoint};
use crate::writer::{CacheWriter, RecordSink};
use crate::{format1, import_dump, import_roi96};
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
    /// Images whose file is the one that the teacher saw, by the digest in the dump or cache.
    pub n_images_verified: u64,
    /// Images about whose file the dump says nothing.
    pub n_images_unverified: u64,
    /// Images that were decoded and found to be the picture that the teacher saw, by the means of its pixels in the dump.
    pub n_pictures_verified: u64,
    /// Logits that the exporter had to cut to the int8 range, if it counted them.
    pub n_clipped_by_exporter: Option<u64>,
    /// Masks whose predicted IoU is outside of `[0, 1]` and will be clamped where it is a share of a loss.
    pub n_clamped_predicted_ious: u64,
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
    /// The image cannot be decoded.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The cache cannot be written.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// The caller asked to stop.
    #[error("the import was interrupted")]
    Interrupted,
}

/// Makes the cache `out` from a dump, or from a cache of format 1.
///
/// A folder with an index is taken for a cache, another one for a dump of `scripts/teacher/export.py`
/// (`docs/formats/teacher-dump.md`), a file for the older single-file layout of regions of interest that the same page
/// describes.
///
/// # Errors
/// If the source is damaged, unfinished or made for other data, or the cache cannot be written. No cache is left then.
pub fn import_answers(source: &Path, dataset: &Dataset, out: &Path) -> Result<ImportReport, ImportError> {
    import_answers_unless(source, dataset, out, &|| false)
}

/// [`import_answers`], which `is_interrupted` can end before each record.
///
/// # Errors
/// As [`import_answers`], and `Interrupted`.
pub fn import_answers_unless(
    source: &Path,
    dataset: &Dataset,
    out: &Path,
    is_interrupted: &dyn Fn() -> bool,
) -> Result<ImportReport, ImportError> {
    let target = Target { dataset, out, is_interrupted };
    if source.join("index.sti").is_file() {
        format1::import(source, target)
    } else if source.is_dir() {
        import_dump::import(source, target)
    } else {
        import_roi96::import(source, target)
    }
}

/// What an import is for.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub dataset: &'a Dataset,
    pub out: &'a Path,
    pub is_interrupted: &'a dyn Fn() -> bool,
}

/// What a dump says about all of its records.
pub(crate) struct DumpHeader {
    pub teacher: TeacherDescription,
    pub teacher_digest: String,
    pub preprocessing: Preprocessing,
    pub question: Question,
    pub context: Context,
    pub grid: u32,
    pub logit_step: f32,
    pub provenance: Vec<String>,
    pub n_clipped: Option<u64>,
}

/// One instance in a dump.
pub(crate) struct DumpRecord<'a> {
    pub annotation_id: u64,
    pub image_id: u64,
    pub image_size: Option<Size>,
    pub seen_image: SeenImage,
    /// What the teacher's program decoded the file to.
    pub pixel_means: Option<PixelMeans>,
    pub rect_in_image: RectInImage,
    pub predicted_iou: f32,
    /// Measured by the exporter at full resolution.
    pub truth_iou: Option<f32>,
    pub logits: &'a [u8],
}

/// What a dump says about the image file that the teacher saw.
pub(crate) enum SeenImage {
    Sha256([u8; 32]),
    Blake3([u8; 32]),
    NotStated,
}

/// Turns records of a dump into records of a cache, and counts.
pub(crate) struct Importer<'a> {
    dataset: &'a Dataset,
    is_interrupted: &'a dyn Fn() -> bool,
    logit_step: f32,
    grid: u32,
    /// Whether the prompt was the annotated box, and so is known.
    is_box: bool,
    n_clipped: Option<u64>,
    writer: CacheWriter,
    instances: BTreeMap<u64, InstanceState>,
    image_digests: BTreeMap<usize, ImageDigests>,
    truth_ious: Vec<f64>,
    n_clamped_predicted_ious: u64,
    n_saturated: u64,
}

struct InstanceState {
    instance_idx: usize,
    has_record: bool,
}

struct ImageDigests {
    blake3: [u8; 32],
    sha256: [u8; 32],
    is_verified: bool,
    /// Means and digest of the pixels, once they are asked for.
    decoded: Option<(PixelMeans, [u8; 32])>,
}

impl<'a> Importer<'a> {
    pub fn new(target: Target<'a>, header: DumpHeader) -> Result<Self, ImportError> {
        let Target { dataset, out, is_interrupted } = target;
        let DumpHeader { context, grid, logit_step, .. } = header;
        let is_box = matches!(&header.question, Question::Object { prompts, .. } if **prompts == [PromptSource::Box]);
        let key = AnswerKey {
            teacher: header.teacher_digest,
            preprocessing: header.preprocessing,
            question: header.question,
            kept: Kept::MaskLogits { context, grid, logit_step, masks: KeptMasks::Single },
            dataset: hex(&dataset.digest),
        };
        let state = |instance_idx| InstanceState { instance_idx, has_record: false };
        Ok(Importer {
            dataset,
            is_interrupted,
            logit_step,
            grid,
            is_box,
            n_clipped: header.n_clipped,
            writer: CacheWriter::create(out, key, header.teacher, header.provenance)?,
            instances: dataset.instances.iter().enumerate().map(|(idx, i)| (i.id, state(idx))).collect(),
            image_digests: BTreeMap::new(),
            truth_ious: Vec::new(),
            n_clamped_predicted_ious: 0,
            n_saturated: 0,
        })
    }

    pub fn add(&mut self, record: DumpRecord) -> Result<(), ImportError> {
        if (self.is_interrupted)() {
            return Err(ImportError::Interrupted);
        }
        let (instance_idx, image_idx) = self.instance_of(&record)?;
        let file_digest = self.check_image(image_idx, &record.seen_image)?;
        let pixel_digest = match &record.pixel_means {
            Some(seen) => Some(self.check_pixels(image_idx, seen)?),
            None => None,
        };
        let mask = MaskAnswer {
            logits: record.logits.iter().map(|byte| byte.cast_signed()).collect(),
            predicted_iou: record.predicted_iou,
            stability: None,
        };
        self.truth_ious.extend(record.truth_iou.map(f64::from));
        self.n_clamped_predicted_ious += u64::from(mask.clamped_predicted_iou().1);
        self.n_saturated += mask.n_saturated();
        let bbox = self.dataset.instances[instance_idx].bbox;
        let prompt = PromptAnswer {
            points: if self.is_box { PromptPoint::of_box(bbox) } else { vec![] },
            rect_in_image: record.rect_in_image,
            masks: vec![mask],
        };
        let image = &self.dataset.images[image_idx];
        Ok(self.writer.push_masks(&MaskRecord {
            annotation_id: record.annotation_id,
            image: ImageIdentity { id: image.id, file_digest, pixel_digest, size: image.size },
            grid: self.grid,
            logit_step: self.logit_step,
            prompts: vec![prompt],
        })?)
    }

    /// The instance that a record is of, which now has one, and its image: what the record says about them is the data set's.
    fn instance_of(&mut self, record: &DumpRecord) -> Result<(usize, usize), ImportError> {
        let id = record.annotation_id;
        let of_annotations = |what, expected, found| {
            let path = self.dataset.annotations_path.clone();
            Err(ImportError::OtherData { path, what, expected, found })
        };
        let Some(state) = self.instances.get_mut(&id) else {
            return of_annotations(format!("annotation {id}"), "an instance of the data set".into(), "none".into());
        };
        state.has_record = true;
        let instance_idx = state.instance_idx;
        let image_idx = self.dataset.instances[instance_idx].image_idx;
        let image = &self.dataset.images[image_idx];
        if record.image_id != image.id {
            return of_annotations(
                format!("image of annotation {id}"),
                record.image_id.to_string(),
                image.id.to_string(),
            );
        }
        if let Some(size) = record.image_size.filter(|size| *size != image.size) {
            return Err(ImportError::OtherData {
                path: self.dataset.image_path(image_idx),
                what: "size".into(),
                expected: size.to_string(),
                found: image.size.to_string(),
            });
        }
        if let Some(iou) = record.truth_iou.filter(|iou| !iou.is_nan() && !(0.0..=1.0).contains(iou)) {
            let found = "an IoU, which is from 0 to 1".into();
            return of_annotations(format!("truth_iou of annotation {id}"), iou.to_string(), found);
        }
        Ok((instance_idx, image_idx))
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
        self.finish_if(|_| Ok(()))
    }

    /// Finishes the cache if `check` is content with the number of saturated logits in it.
    pub fn finish_if(self, check: impl FnOnce(u64) -> Result<(), ImportError>) -> Result<ImportReport, ImportError> {
        check(self.n_saturated)?;
        let manifest = self.writer.finish()?;
        let (mut missing, mut missing_crowd) = (Vec::new(), Vec::new());
        for (id, state) in self.instances.iter().filter(|(_, state)| !state.has_record) {
            let is_crowd = self.dataset.instances[state.instance_idx].is_crowd;
            if is_crowd { missing_crowd.push(*id) } else { missing.push(*id) }
        }
        let n_images_verified = self.image_digests.values().filter(|image| image.is_verified).count() as u64;
        let n_pictures_verified = self.image_digests.values().filter(|image| image.decoded.is_some()).count() as u64;
        let mean_iou = self.truth_ious.iter().sum::<f64>() / self.truth_ious.len().max(1) as f64;
        let is_measured = !self.truth_ious.is_empty() && mean_iou.is_finite();
        Ok(ImportReport {
            manifest,
            missing,
            missing_crowd,
            n_images_verified,
            n_images_unverified: self.image_digests.len() as u64 - n_images_verified,
            n_pictures_verified,
            n_clipped_by_exporter: self.n_clipped,
            n_clamped_predicted_ious: self.n_clamped_predicted_ious,
            exporters_mean_iou: is_measured.then_some(mean_iou),
        })
    }

    /// BLAKE3 of an image file, which must be the one that the teacher saw, if the dump says which.
    fn check_image(&mut self, image_idx: usize, seen: &SeenImage) -> Result<[u8; 32], ImportError> {
        let path = self.dataset.image_path(image_idx);
        let digests = match self.image_digests.entry(image_idx) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let bytes = fs::read(&path).map_err(|source| ImportError::Read { path: path.clone(), source })?;
                let (blake3, sha256) = (*blake3::hash(&bytes).as_bytes(), Sha256::digest(&bytes).into());
                entry.insert(ImageDigests { blake3, sha256, is_verified: false, decoded: None })
            }
        };
        let (what, expected, found) = match seen {
            SeenImage::Sha256(expected) => ("SHA-256", expected, &digests.sha256),
            SeenImage::Blake3(expected) => ("BLAKE3", expected, &digests.blake3),
            SeenImage::NotStated => return Ok(digests.blake3),
        };
        if expected != found {
            let (expected, found) = (hex(expected), hex(found));
            return Err(ImportError::OtherData { path, what: what.into(), expected, found });
        }
        digests.is_verified = true;
        Ok(digests.blake3)
    }

    /// BLAKE3 of an image's pixels, which must be about those that the teacher saw. Equal files are not enough: decoders differ in what
    /// they make of 16-bit and of unusual files.
    fn check_pixels(&mut self, image_idx: usize, seen: &PixelMeans) -> Result<[u8; 32], ImportError> {
        let path = self.dataset.image_path(image_idx);
        let Some(digests) = self.image_digests.get_mut(&image_idx) else {
            unreachable!("its file was checked before");
        };
        let (means, digest) = match digests.decoded {
            Some(decoded) => decoded,
            None => {
                let image = read_image(&path, &ImageLimits::default())?.image;
                let decoded = (pixel_means(&image), *blake3::hash(&image.pixels).as_bytes());
                *digests.decoded.insert(decoded)
            }
        };
        match difference(seen, &means) {
            None => Ok(digest),
            Some((what, seen, decoded)) => Err(ImportError::OtherData {
                path,
                what: format!("pixels: {what}"),
                expected: format!("{seen}, as the teacher saw it"),
                found: decoded.to_string(),
            }),
        }
    }
}
