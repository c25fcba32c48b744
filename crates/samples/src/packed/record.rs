//! One instance of a pack as bytes. Layout: `docs/formats/packed-samples.md`.

use sensei_data::crop_rule::MAX_ROI_SIDE;
use sensei_data::geometry::{PixelRect, RectInImage, Size};
use sensei_data::image_part::ImagePart;
use sensei_data::rle::Rle;
use sensei_files::digest::hex;

use super::bytes::{CHECKSUM_BYTES, Fault, checksum, fault};

/// What is packed of an instance.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedRecord<'a> {
    /// The annotation.
    pub annotation_id: u64,
    /// Which of the pack's images it is on.
    pub image_idx: u32,
    /// The crop before augmentation.
    pub crop: RectInImage,
    /// Box of the prompt, `[x, y, width, height]` in image pixels; the annotated one where the prompt is a point.
    pub bbox: [f64; 4],
    /// The annotated mask in the image.
    pub truth_in_image: Rle,
    /// The image's pixels that crops can need.
    pub pixels: ImagePart<'a>,
}

impl<'a> PackedRecord<'a> {
    /// Bytes of a record with so many runs in its mask and so many bytes of pixels.
    pub(super) fn n_bytes(n_runs: usize, pixel_bytes: u64) -> u64 {
        FIXED_BYTES as u64 + n_runs as u64 * 4 + pixel_bytes
    }

    /// The record as it stands in a pack; `rows` are those of the pixels, from top to bottom, in place of `self.pixels.pixels`.
    pub(super) fn to_bytes<'r>(&self, rows: impl Iterator<Item = &'r [u8]>) -> Vec<u8> {
        let (runs, place, image) = (self.truth_in_image.counts(), self.pixels.place, self.pixels.image);
        let mut bytes = Vec::with_capacity(Self::n_bytes(runs.len(), ImagePart::n_bytes(place)) as usize);
        bytes.extend([0; CHECKSUM_BYTES]);
        bytes.extend(self.annotation_id.to_le_bytes());
        let RectInImage { x0, y0, x1, y1 } = self.crop;
        [x0, y0, x1, y1].iter().chain(&self.bbox).for_each(|number| bytes.extend(number.to_le_bytes()));
        let PixelRect { x0, y0, x1, y1 } = place;
        let whole = [self.image_idx, image.width, image.height, x0, y0, x1, y1, runs.len() as u32];
        whole.iter().chain(runs).for_each(|number| bytes.extend(number.to_le_bytes()));
        rows.for_each(|row| bytes.extend(row));
        let checksum = checksum(&bytes[CHECKSUM_BYTES..]);
        bytes[..CHECKSUM_BYTES].copy_from_slice(&checksum);
        bytes
    }

    /// Reads the record that fills `bytes` exactly. What is allocated is checked against `bytes` before.
    ///
    /// # Errors
    /// If the record is damaged, or holds what no record may.
    pub(super) fn from_bytes(bytes: &'a [u8]) -> Result<Self, Fault> {
        let Some((fixed, rest)) = bytes.split_at_checked(FIXED_BYTES) else {
            return Err(fault("record", format!("at least {FIXED_BYTES} bytes"), format!("{} bytes", bytes.len())));
        };
        let computed = checksum(&bytes[CHECKSUM_BYTES..]);
        if fixed[..CHECKSUM_BYTES] != computed {
            return Err(fault("record checksum", hex(&fixed[..CHECKSUM_BYTES]), hex(&computed)));
        }
        let mut fields = Fields(&fixed[CHECKSUM_BYTES..]);
        let annotation_id = u64::from_le_bytes(fields.take());
        let numbers: [f64; 8] = std::array::from_fn(|_| f64::from_le_bytes(fields.take()));
        let whole: [u32; 8] = std::array::from_fn(|_| u32::from_le_bytes(fields.take()));
        let [image_idx, width, height, x0, y0, x1, y1, n_runs] = whole;
        let (image, place) = (Size { width, height }, PixelRect { x0, y0, x1, y1 });
        let [crop_x0, crop_y0, crop_x1, crop_y1, bbox @ ..] = numbers;
        let crop = RectInImage { x0: crop_x0, y0: crop_y0, x1: crop_x1, y1: crop_y1 };
        let is_crop = |len: f64| len > 0.0 && len <= f64::from(MAX_ROI_SIDE);
        let is_near = numbers[..4].iter().all(|edge| edge.abs() < MAX_EDGE) && bbox.iter().all(|side| side.is_finite());
        if !(is_near && is_crop(crop.width()) && is_crop(crop.height())) {
            let found = format!("{crop_x0},{crop_y0}..{crop_x1},{crop_y1}");
            return Err(fault("crop", format!("a rectangle with sides up to {MAX_ROI_SIDE}, and a box"), found));
        }
        if x0 > x1 || y0 > y1 || x1 > width || y1 > height {
            return Err(fault("place of the pixels", format!("inside of {image}"), place.to_string()));
        }
        let expected = Self::n_bytes(n_runs as usize, ImagePart::n_bytes(place));
        if bytes.len() as u64 != expected {
            return Err(fault("size of the record", format!("{expected} bytes"), format!("{} bytes", bytes.len())));
        }
        let (runs, pixels) = rest.split_at(n_runs as usize * 4);
        let runs: Vec<u32> = runs.as_chunks().0.iter().map(|run| u32::from_le_bytes(*run)).collect();
        let truth_in_image = Rle::from_counts(image, &runs)
            .map_err(|error| fault("mask", format!("runs of a {image} mask"), error.to_string()))?;
        let pixels = ImagePart { image, place, pixels };
        Ok(Self { annotation_id, image_idx, crop, bbox, truth_in_image, pixels })
    }
}

/// Little-endian fields of a record's fixed part.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("the fixed part has all fields");
        self.0 = rest;
        *field
    }
}

/// More than any edge of a crop, in pixels.
const MAX_EDGE: f64 = (1u64 << 40) as f64;
/// Checksum, id, crop and box, and eight whole numbers.
pub(super) const FIXED_BYTES: usize = CHECKSUM_BYTES + 8 + 8 * 8 + 8 * 4;
