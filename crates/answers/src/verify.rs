//! Reading a whole cache: is it as it was written, and what does it hold?

use std::collections::BTreeSet;
use std::path::Path;

use rayon::prelude::*;
use sensei_data::dataset::{Dataset, DatasetError};
use sensei_data::rle::Rle;

use crate::error::CacheError;
use crate::folder_store::FolderStore;
use crate::kept::RecordKind;
use crate::key::KeyDifference;
use crate::record::MaskAnswer;
use crate::shard::HEADER_BYTES;
use crate::store::Store;
use sensei_files::digest::hex;

/// Counts over all records of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheStats {
    /// Records.
    pub n_records: u64,
    /// Different images.
    pub n_images: u64,
    /// Shards.
    pub n_shards: u64,
    /// Bytes of shards and index.
    pub bytes: u64,
    /// Bytes that logits or features take when not compressed.
    pub uncompressed_bytes: u64,
    /// Masks; 0 where features are kept, as in the rest of these counts.
    pub n_masks: u64,
    /// Logits at the end of the int8 range.
    pub n_saturated: u64,
    /// Masks by predicted IoU: ten bins of 0.1 from 0; values below 0 are in the first, values of 1 and above in the last.
    pub predicted_iou_histogram: [u64; 10],
    /// Masks whose predicted IoU is outside of `[0, 1]` and will be clamped where it is a share of a loss.
    pub n_clamped_predicted_ious: u64,
}

/// How well the cached masks agree with a data set's.
#[derive(Debug, Clone, PartialEq)]
pub struct TruthReport {
    /// Per record: annotation id and the IoU of the teacher's mask (the first prompt's, of the highest predicted IoU) with
    /// the annotated one at image resolution. What the teacher answered outside of the record's area is not in the cache and
    /// counts as background.
    pub ious: Vec<(u64, f64)>,
    /// Mean over `ious`; 0 if there is none.
    pub mean_iou: f64,
    /// Instances of the data set, crowd regions left out, without a record.
    pub n_without_record: u64,
}

/// A data set that does not go with a cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TruthError {
    /// The cache is damaged, or of another data set.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A mask of the data set cannot be made.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
}

/// Reads every byte of the cache in folder `path` and holds it to its digests and checksums.
///
/// # Errors
/// The first damage found, by file and record.
pub fn verify(path: &Path) -> Result<CacheStats, CacheError> {
    let cache = FolderStore::open_any(path)?;
    let entries = &cache.manifest().shards;
    // Records first: their message names the annotation or image.
    let stats = stats(&cache)?;
    let damaged = |file: &str, what: &str, expected: String, found: String| {
        Err(CacheError::Damaged { path: path.join(file), what: what.into(), expected, found })
    };
    for (entry, (_, shard)) in entries.iter().zip(cache.shards()) {
        let digest = hex(blake3::hash(shard).as_bytes());
        if digest != entry.blake3 {
            return damaged(&entry.file, "digest", entry.blake3.clone(), digest);
        }
    }
    let mut places: Vec<_> = cache.index_entries().map(|e| (e.shard_idx, e.offset, u64::from(e.n_bytes))).collect();
    places.sort_unstable();
    for (idx, entry) in entries.iter().enumerate() {
        let (mut end, mut n_records) = (HEADER_BYTES as u64, 0);
        for (_, offset, n_bytes) in places.iter().filter(|place| place.0 as usize == idx) {
            if *offset != end {
                return damaged(&entry.file, "start of a record", end.to_string(), offset.to_string());
            }
            (end, n_records) = (offset + n_bytes, n_records + 1);
        }
        if (end, n_records) != (entry.bytes, entry.n_records) {
            let text = |bytes: u64, n: u64| format!("{n} records in {bytes} bytes");
            return damaged(&entry.file, "records", text(entry.bytes, entry.n_records), text(end, n_records));
        }
    }
    if stats.n_saturated != cache.manifest().n_saturated {
        let (expected, found) = (cache.manifest().n_saturated.to_string(), stats.n_saturated.to_string());
        return damaged("manifest.json", "saturated logits", expected, found);
    }
    Ok(stats)
}

/// Compares every cached mask with the data set's.
///
/// # Errors
/// `KeyMismatch`, if the cache was made for another annotation file; `OtherKind`, if it holds no masks; a damaged record; a mask
/// that cannot be made.
pub fn compare_with_truth(cache: &dyn Store, dataset: &Dataset) -> Result<TruthReport, TruthError> {
    let (expected, found) = (hex(&dataset.digest), cache.manifest().key.dataset.clone());
    if expected != found {
        let differences = vec![KeyDifference { part: "dataset", expected, found }];
        return Err(CacheError::KeyMismatch { path: cache.location().into(), differences }.into());
    }
    let mut instances: Vec<_> = dataset.instances.iter().enumerate().map(|(idx, i)| (i.id, idx, i.is_crowd)).collect();
    instances.sort_unstable();
    let ids = cache.ids();
    let compare = |&id: &u64| -> Result<(u64, f64), TruthError> {
        let record = cache.masks(id)?;
        let Ok(at) = instances.binary_search_by_key(&id, |instance| instance.0) else {
            return Err(CacheError::Damaged {
                path: cache.location().into(),
                what: format!("annotation {id}"),
                expected: "an instance of the data set".into(),
                found: "none".into(),
            }
            .into());
        };
        let truth = dataset.mask(instances[at].1)?;
        let mask = record.mask(0, record.prompts[0].best_mask_idx()).mask_in_image();
        if mask.size != truth.size() {
            let what = format!("image size of annotation {id}");
            let (expected, found) = (truth.size().to_string(), mask.size.to_string());
            return Err(CacheError::Damaged { path: cache.location().into(), what, expected, found }.into());
        }
        Ok((id, Rle::from_mask(&mask).iou(&truth, false)))
    };
    let ious = ids.par_iter().map(compare).collect::<Result<Vec<_>, _>>()?;
    let mean_iou = ious.iter().map(|(_, iou)| iou).sum::<f64>() / ious.len().max(1) as f64;
    let has_record = |id: &u64| ids.binary_search(id).is_ok();
    let n_without_record = instances.iter().filter(|(id, _, is_crowd)| !is_crowd && !has_record(id)).count() as u64;
    Ok(TruthReport { ious, mean_iou, n_without_record })
}

/// Counts over all records.
///
/// # Errors
/// If a record is damaged or cannot be fetched.
pub fn stats(store: &dyn Store) -> Result<CacheStats, CacheError> {
    let manifest = store.manifest();
    let mut stats = CacheStats {
        n_records: 0,
        n_images: 0,
        n_shards: manifest.shards.len() as u64,
        bytes: manifest.shards.iter().map(|shard| shard.bytes).sum::<u64>() + manifest.index.bytes,
        uncompressed_bytes: 0,
        n_masks: 0,
        n_saturated: 0,
        predicted_iou_histogram: [0; 10],
        n_clamped_predicted_ious: 0,
    };
    let mut images = BTreeSet::new();
    for id in store.ids() {
        stats.n_records += 1;
        let image = match manifest.key.kept.kind() {
            RecordKind::MaskLogits => {
                let record = store.masks(id)?;
                record.masks().for_each(|mask| stats.count(mask));
                record.image
            }
            RecordKind::ImageFeatures => {
                let record = store.features(id)?;
                stats.uncompressed_bytes += record.values.bytes().len() as u64;
                record.image
            }
        };
        images.insert(image.id);
    }
    stats.n_images = images.len() as u64;
    Ok(stats)
}

impl CacheStats {
    fn count(&mut self, mask: &MaskAnswer) {
        let (predicted_iou, is_clamped) = mask.clamped_predicted_iou();
        self.n_masks += 1;
        self.uncompressed_bytes += mask.logits.len() as u64;
        self.n_saturated += mask.n_saturated();
        self.predicted_iou_histogram[((predicted_iou * 10.0) as usize).min(9)] += 1;
        self.n_clamped_predicted_ious += u64::from(is_clamped);
    }
}
