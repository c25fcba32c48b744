//! Packing the samples of a split.

use std::path::Path;

use rayon::prelude::*;
use sensei_data::augment::Augmentation;
use sensei_data::crop::CropGeometry;
use sensei_data::geometry::PixelRect;
use sensei_data::image_part::ImagePart;
use sensei_data::rle::Rle;
use sensei_files::whole::SyncedFile;

use super::bytes::{HEADER_BYTES, Header, IMAGE_ENTRY_BYTES, INDEX_ENTRY_BYTES, ImageEntry, IndexEntry};
use super::error::PackError;
use super::key::PackKey;
use super::record::PackedRecord;
use crate::error::SampleError;
use crate::images::ImageRequest;
use crate::source::SampleSource;

/// What packing a split would write.
pub struct PackPlan<'a> {
    source: &'a SampleSource,
    key: PackKey,
    jitter: Augmentation,
    /// Image by image.
    records: Vec<PlannedRecord>,
    /// Indices into the data set's images, ascending by the images' ids.
    images: Vec<usize>,
}

/// How far packing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackProgress {
    /// Instances written.
    pub n_records: u64,
    /// Bytes written.
    pub n_bytes: u64,
}

impl<'a> PackPlan<'a> {
    /// Lays out what the source's samples need, trained on with any of these augmentations, or none. Reads no image.
    ///
    /// # Errors
    /// If a mask or prompt cannot be had; `Interrupted`.
    pub fn new(
        source: &'a SampleSource,
        augmentations: &[&Augmentation],
        is_interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Self, SampleError> {
        let jitter = Augmentation::largest(augmentations);
        let plan = |&instance_idx: &usize| {
            if is_interrupted() {
                return Err(SampleError::Interrupted);
            }
            let framed = frame(source, instance_idx, &jitter)?;
            let image_idx = source.dataset.instances[instance_idx].image_idx;
            let n_bytes = PackedRecord::n_bytes(framed.truth_in_image.counts().len(), ImagePart::n_bytes(framed.place));
            Ok(PlannedRecord { instance_idx, image_idx, n_bytes })
        };
        let mut records: Vec<_> = source.instances.par_iter().map(plan).collect::<Result<_, SampleError>>()?;
        records.sort_by_key(|record| record.image_idx);
        let mut images: Vec<usize> = records.iter().map(|record| record.image_idx).collect();
        images.dedup();
        images.sort_by_key(|&idx| source.dataset.images[idx].id);
        Ok(Self { source, key: PackKey::of(source, augmentations), jitter, records, images })
    }

    /// What decides the pack's content.
    pub fn key(&self) -> &PackKey {
        &self.key
    }

    /// Instances that will be written.
    pub fn n_records(&self) -> u64 {
        self.records.len() as u64
    }

    /// Images that they are on.
    pub fn n_images(&self) -> u64 {
        self.images.len() as u64
    }

    /// Bytes of the finished file.
    pub fn n_bytes(&self) -> u64 {
        let records: u64 = self.records.iter().map(|record| record.n_bytes).sum();
        let tail = self.records.len() * INDEX_ENTRY_BYTES + self.images.len() * IMAGE_ENTRY_BYTES;
        HEADER_BYTES as u64 + records + tail as u64 + self.key.json().len() as u64
    }

    /// Writes the pack, in a folder that nobody reads before it is complete. Every image is decoded whole, so that damage anywhere in it
    /// is found. Memory holds the images at work and about 32 MiB of records.
    ///
    /// # Errors
    /// If an image or mask cannot be had, or the file cannot be written; `Interrupted`.
    pub fn write(
        &self,
        path: &Path,
        is_interrupted: &(dyn Fn() -> bool + Sync),
        on_progress: &mut dyn FnMut(PackProgress),
    ) -> Result<(), SampleError> {
        let mut file = SyncedFile::create(path).map_err(PackError::from)?;
        file.append(&[0; HEADER_BYTES]).map_err(PackError::from)?;
        let (mut index, mut digests) = (vec![], vec![[0; 32]; self.images.len()]);
        let mut rest = self.records.as_slice();
        while !rest.is_empty() {
            if is_interrupted() {
                return Err(SampleError::Interrupted);
            }
            let chunk;
            (chunk, rest) = rest.split_at(chunk_len(rest));
            let by_image: Vec<_> = chunk.chunk_by(|a, b| a.image_idx == b.image_idx).collect();
            let packed = by_image.into_par_iter().map(|records| self.pack_image(records));
            for PackedImage { place, digest, records } in packed.collect::<Result<Vec<_>, SampleError>>()? {
                digests[place] = digest;
                for (annotation_id, bytes) in records {
                    index.push(IndexEntry { annotation_id, offset: file.n_bytes(), n_bytes: bytes.len() as u64 });
                    file.append(&bytes).map_err(PackError::from)?;
                }
            }
            on_progress(PackProgress { n_records: index.len() as u64, n_bytes: file.n_bytes() });
        }
        index.sort_unstable_by_key(|entry| entry.annotation_id);
        self.write_tail(file, &index, &digests).map_err(SampleError::from)
    }

    fn write_tail(&self, mut file: SyncedFile, index: &[IndexEntry], digests: &[[u8; 32]]) -> Result<(), PackError> {
        let (records_end, key) = (file.n_bytes(), self.key.json());
        let mut tail: Vec<u8> = index.iter().flat_map(|entry| entry.to_bytes()).collect();
        for (&image_idx, &digest) in self.images.iter().zip(digests) {
            tail.extend(ImageEntry { image_id: self.source.dataset.images[image_idx].id, digest }.to_bytes());
        }
        tail.extend(&key);
        file.append(&tail)?;
        let header = Header {
            n_records: index.len() as u64,
            n_images: digests.len() as u64,
            records_end,
            key_bytes: key.len() as u64,
            tail_digest: *blake3::hash(&tail).as_bytes(),
        };
        Ok(file.finish(&header.to_bytes())?)
    }

    /// The records of some instances of one image.
    fn pack_image(&self, planned: &[PlannedRecord]) -> Result<PackedImage, SampleError> {
        let (dataset, first) = (&self.source.dataset, planned[0]);
        let (annotated_size, path) = (dataset.images[first.image_idx].size, dataset.image_path(first.image_idx));
        let request = ImageRequest {
            image_idx: first.image_idx,
            path: &path,
            annotated_size,
            n_rows: annotated_size.height,
            annotation_id: self.source.annotation_id(first.instance_idx),
        };
        let image = self.source.images.get(&request)?;
        let id_of = |&idx: &usize| dataset.images[idx].id;
        let place = self.images.binary_search_by_key(&id_of(&first.image_idx), id_of);
        let place = place.expect("the plan has all images of its records");
        let pack = |planned: &PlannedRecord| {
            let Framed { crop, bbox, place: pixels, truth_in_image } =
                frame(self.source, planned.instance_idx, &self.jitter)?;
            let annotation_id = self.source.annotation_id(planned.instance_idx);
            let row_bytes = annotated_size.width as usize * 3;
            let columns = pixels.x0 as usize * 3..pixels.x1 as usize * 3;
            let rows = (pixels.y0 as usize..pixels.y1 as usize)
                .map(|row| &image.rows.pixels[row * row_bytes..][columns.clone()]);
            let record = PackedRecord {
                annotation_id,
                image_idx: place as u32,
                crop: crop.rect_in_image,
                bbox,
                truth_in_image,
                pixels: ImagePart { image: annotated_size, place: pixels, pixels: &[] },
            };
            Ok((annotation_id, record.to_bytes(rows)))
        };
        let records = planned.iter().map(pack).collect::<Result<_, SampleError>>()?;
        Ok(PackedImage { place, digest: image.digest, records })
    }
}

#[derive(Clone, Copy)]
struct PlannedRecord {
    instance_idx: usize,
    image_idx: usize,
    n_bytes: u64,
}

struct PackedImage {
    /// In the pack's table of images.
    place: usize,
    digest: [u8; 32],
    /// Annotation ids and bytes.
    records: Vec<(u64, Vec<u8>)>,
}

struct Framed {
    crop: CropGeometry,
    bbox: [f64; 4],
    place: PixelRect,
    truth_in_image: Rle,
}

fn frame(source: &SampleSource, instance_idx: usize, jitter: &Augmentation) -> Result<Framed, SampleError> {
    let truth_in_image = source.mask(instance_idx)?;
    let (crop, bbox) = source.prompted(instance_idx, &truth_in_image)?;
    let boxes = [bbox, truth_in_image.bbox()];
    let place = source.crop.pixels_in_reach_of_turns(crop, boxes, jitter, truth_in_image.size());
    Ok(Framed { crop, bbox, place, truth_in_image })
}

/// As many of the next records as are packed at once, at least one.
fn chunk_len(records: &[PlannedRecord]) -> usize {
    let mut n_bytes = 0;
    let fits = |record: &&PlannedRecord| {
        n_bytes += record.n_bytes;
        n_bytes <= CHUNK_BYTES
    };
    records.iter().take_while(fits).count().max(1)
}

/// Bytes of records that are packed at once: enough images for all threads.
const CHUNK_BYTES: u64 = 32 << 20;
