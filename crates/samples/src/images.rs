//! The decoded images of a split: decoded when a sample needs them, and kept for the next ones within a bound of bytes.
//!
//! What is kept changes how often a file is decoded, and no pixel: a file whose bytes changed since it was first decoded is an error.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sensei_data::geometry::Size;
use sensei_data::image_file::{ImageFile, ImageLimits, UpperRows};
use sensei_files::digest::hex;

use crate::error::SampleError;

/// An image that was decoded as far down as its samples needed, or further.
pub(crate) struct DecodedImage {
    /// The upper rows.
    pub(crate) rows: UpperRows,
    /// BLAKE3 of the file.
    pub(crate) digest: [u8; 32],
}

/// What a sample asks for.
pub(crate) struct ImageRequest<'a> {
    /// Index into the data set's images.
    pub(crate) image_idx: usize,
    /// Its file.
    pub(crate) path: &'a Path,
    /// Its size by the annotation file.
    pub(crate) annotated_size: Size,
    /// Rows from the top that are needed.
    pub(crate) n_rows: u32,
    /// The sample, to be named in errors.
    pub(crate) annotation_id: u64,
}

/// How often files were decoded, since the split was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImageCounts {
    /// Whole images: the first time that a file is needed, so that damage anywhere in it is found.
    pub decoded_whole: u64,
    /// Upper rows of images that had been decoded whole before.
    pub decoded_in_part: u64,
    /// Times that a kept image was enough.
    pub reused: u64,
}

/// The images of a split.
pub(crate) struct SplitImages {
    limits: ImageLimits,
    /// Of each file that was decoded whole without error.
    sound_digests: Vec<OnceLock<[u8; 32]>>,
    kept: Mutex<Kept>,
    n_whole: AtomicU64,
    n_in_part: AtomicU64,
    n_reused: AtomicU64,
}

impl SplitImages {
    /// Keeps up to `max_kept_bytes` of decoded pixels; 0 keeps none.
    pub(crate) fn new(n_images: usize, limits: ImageLimits, max_kept_bytes: usize) -> Self {
        Self {
            limits,
            sound_digests: vec![OnceLock::new(); n_images],
            kept: Mutex::new(Kept { max_bytes: max_kept_bytes, ..Kept::default() }),
            n_whole: AtomicU64::new(0),
            n_in_part: AtomicU64::new(0),
            n_reused: AtomicU64::new(0),
        }
    }

    /// How often files were decoded so far.
    pub(crate) fn counts(&self) -> ImageCounts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ImageCounts {
            decoded_whole: count(&self.n_whole),
            decoded_in_part: count(&self.n_in_part),
            reused: count(&self.n_reused),
        }
    }

    /// Bytes of the pixels that are kept.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).n_bytes
    }

    /// The kept image, if it has the rows; else the file, read and decoded.
    ///
    /// # Errors
    /// `Image`, `ImageSize`, `ImageChanged`.
    pub(crate) fn get(&self, request: &ImageRequest) -> Result<Arc<DecodedImage>, SampleError> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(request.image_idx);
        let n_rows = match kept {
            Some(image) if image.rows.n_rows() >= request.n_rows => {
                self.n_reused.fetch_add(1, Ordering::Relaxed);
                return Ok(image);
            }
            // Where samples of one image follow each other, the next may need still more.
            Some(_) => request.annotated_size.height,
            None => request.n_rows,
        };
        let image = Arc::new(self.decode(request, n_rows)?);
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(request.image_idx, image.clone());
        Ok(image)
    }

    fn decode(&self, request: &ImageRequest, n_rows: u32) -> Result<DecodedImage, SampleError> {
        let failed = |source| SampleError::Image { annotation_id: request.annotation_id, source };
        let file = ImageFile::read(request.path, &self.limits).map_err(failed)?;
        let (digest, sound_digest) = (file.digest(), &self.sound_digests[request.image_idx]);
        let rows = match sound_digest.get() {
            Some(&sound) if sound != digest => {
                let (path, expected, found) = (request.path.to_path_buf(), hex(&sound), hex(&digest));
                return Err(SampleError::ImageChanged { path, expected, found });
            }
            Some(_) => {
                self.n_in_part.fetch_add(1, Ordering::Relaxed);
                file.decode_upper_rows(n_rows, &self.limits).map_err(failed)?
            }
            None => {
                self.n_whole.fetch_add(1, Ordering::Relaxed);
                file.decode(&self.limits).map_err(failed)?.into()
            }
        };
        if rows.size != request.annotated_size {
            let (expected, found) = (request.annotated_size.to_string(), rows.size.to_string());
            return Err(SampleError::ImageSize { path: request.path.to_path_buf(), expected, found });
        }
        // Another thread may have been first, with the same file.
        let _ = sound_digest.set(digest);
        Ok(DecodedImage { rows, digest })
    }
}

/// Least recently used images go first.
#[derive(Default)]
struct Kept {
    max_bytes: usize,
    n_bytes: usize,
    /// By image; with the time of its last use.
    images: BTreeMap<usize, (u64, Arc<DecodedImage>)>,
    /// By time of last use; each image once.
    by_use: BTreeMap<u64, usize>,
    /// Counts uses.
    time: u64,
}

impl Kept {
    fn get(&mut self, image_idx: usize) -> Option<Arc<DecodedImage>> {
        let (used, image) = self.images.get_mut(&image_idx)?;
        self.time += 1;
        self.by_use.remove(used);
        self.by_use.insert(self.time, image_idx);
        *used = self.time;
        Some(image.clone())
    }

    /// Makes room, then keeps the image in place of what was kept of it before; one that is larger than all the room is not kept.
    fn insert(&mut self, image_idx: usize, image: Arc<DecodedImage>) {
        self.remove(image_idx);
        let n_bytes = image.rows.pixels.len();
        if n_bytes > self.max_bytes {
            return;
        }
        while self.n_bytes + n_bytes > self.max_bytes {
            let Some((_, &oldest)) = self.by_use.first_key_value() else { break };
            self.remove(oldest);
        }
        self.time += 1;
        self.n_bytes += n_bytes;
        self.by_use.insert(self.time, image_idx);
        self.images.insert(image_idx, (self.time, image));
    }

    fn remove(&mut self, image_idx: usize) {
        if let Some((used, image)) = self.images.remove(&image_idx) {
            self.by_use.remove(&used);
            self.n_bytes -= image.rows.pixels.len();
        }
    }
}
