//! Whole images with the instances in them, for networks that see an image once and are then asked about many of its objects.

use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use sensei_answers::store::Store;
use sensei_data::augment::{Augmentation, draw, sample_rng};
use sensei_data::crop_rule::check_prompt;
use sensei_data::dataset::Dataset;
use sensei_data::geometry::{PointInImage, Size};
use sensei_data::image_file::{ImageLimits, RgbImage};
use sensei_data::prompt_source::{Prompt, centre_of_pixel};
use sensei_data::resize::resize_bilinear;
use sensei_data::rle::Rle;
use sensei_data::sampling::{first_point, instances_of_epoch, starts_with_box};
use sensei_files::digest::hex;

use crate::error::SampleError;
use crate::images::{DecodedImage, ImageRequest, SplitImages};
use crate::selection::{LeftOut, LeftOutReason};

/// One split: its images, the instances in them, and the teacher's features where there are some.
pub struct ImageSource {
    /// Annotations and where the images lie.
    pub dataset: Dataset,
    /// Features of the teacher, by image.
    pub features: Option<Box<dyn Store>>,
    /// Features of the teacher at further points, by their names.
    pub taps: Vec<(String, Box<dyn Store>)>,
    /// Images used, in the order of the annotation file.
    pub images: Vec<UsedImage>,
    /// Instances left out and why.
    pub left_out: Vec<LeftOut>,
    /// Side of the square that the network sees, in pixels.
    side: u32,
    decoded: SplitImages,
}

/// An image and what is asked about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedImage {
    /// Index into the data set's images.
    pub image_idx: usize,
    /// Indices into its instances: those with a mask, crowd regions left out.
    pub instances: Vec<usize>,
}

/// How an image lies in a square: its longest side fills it, the rest, on the right and below, is padding.
///
/// # Source
/// SAM, `ResizeLongestSide`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Letterbox {
    /// The image.
    pub image: Size,
}

/// What is asked about in training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AskPlan {
    /// Most instances of an image in an epoch; if it has more, they are drawn.
    pub per_image: usize,
    /// Probability that an instance is prompted by its box; else by a pixel of its mask.
    pub box_probability: f64,
}

/// What a network sees of an image, and what it is asked.
pub struct ImageSample {
    /// COCO id.
    pub image_id: u64,
    /// How it lies in every square.
    pub letterbox: Letterbox,
    /// RGB pixels, `[side, side, 3]`; padding is 128.
    pub pixels: Vec<u8>,
    /// The teacher's features, if there are some.
    pub features: Option<ImageFeatures>,
    /// Its features at the source's further points, in their order.
    pub taps: Vec<ImageFeatures>,
    /// What is asked.
    pub objects: Vec<AskedObject>,
}

/// A map of features.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageFeatures {
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// `[channels, height, width]`.
    pub values: Vec<f32>,
}

/// An object of an image and its first prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct AskedObject {
    /// COCO id of the annotation.
    pub annotation_id: u64,
    /// The prompt, in pixels of the image.
    pub prompt: FirstPrompt,
    /// The annotated mask on the grid of masks, 0 or 1, row-major; padding is 0.
    pub truth: Vec<u8>,
}

/// What an object is first prompted by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FirstPrompt {
    /// Its annotated box, `[x, y, width, height]`.
    Box([f64; 4]),
    /// The centre of a pixel of its mask.
    Point(PointInImage),
}

impl Letterbox {
    /// Size of the image in a square of so many pixels, rounded half up, at least a pixel.
    pub fn resized(self, side: u32) -> Size {
        let scale = f64::from(side) / self.longest();
        let resized = |extent: u32| ((f64::from(extent) * scale + 0.5) as u32).max(1);
        Size { width: resized(self.image.width), height: resized(self.image.height) }
    }

    /// Columns and rows of a grid over the square whose centre lies in the image.
    pub fn used(self, grid: u32) -> Size {
        let cells = |extent: u32| (f64::from(grid) * f64::from(extent) / self.longest() + 0.5) as u32;
        Size { width: cells(self.image.width).clamp(1, grid), height: cells(self.image.height).clamp(1, grid) }
    }

    /// A point of the image in a square of so many pixels.
    pub fn point(self, at: PointInImage, side: usize) -> [f64; 2] {
        let scale = side as f64 / self.longest();
        [at.x * scale, at.y * scale]
    }

    /// Where the centre of a cell of a grid over the square lies in the image.
    pub fn cell_centre(self, grid: u32, [column, row]: [u32; 2]) -> PointInImage {
        let scale = self.longest() / f64::from(grid);
        PointInImage { x: (f64::from(column) + 0.5) * scale, y: (f64::from(row) + 0.5) * scale }
    }

    /// A mask of the image on a grid over the square: at each cell's centre, the pixel that it lies in.
    pub fn mask_on_grid(self, mask: &Rle, grid: u32) -> Vec<u8> {
        let (image, bits) = (self.image, mask.to_mask().bits);
        let used = self.used(grid);
        let mut out = vec![0; (grid * grid) as usize];
        for row in 0..used.height {
            for column in 0..used.width {
                let at = self.cell_centre(grid, [column, row]);
                let (x, y) = ((at.x as u32).min(image.width - 1), (at.y as u32).min(image.height - 1));
                out[(row * grid + column) as usize] = bits[(y * image.width + x) as usize];
            }
        }
        out
    }

    fn longest(self) -> f64 {
        f64::from(self.image.width.max(self.image.height))
    }
}

impl ImageSource {
    /// The images of a split that have an instance to ask about, and with features all of those; crowd regions, empty masks and boxes beside
    /// their image are left out and counted.
    ///
    /// # Errors
    /// If a mask cannot be read, or nothing is left.
    pub fn new(
        dataset: Dataset,
        features: Option<Box<dyn Store>>,
        side: u32,
        limits: ImageLimits,
    ) -> Result<Self, SampleError> {
        let n_images = dataset.images.len();
        let decoded = SplitImages::new(n_images, limits, MAX_KEPT_BYTES);
        let is_empty = |idx: usize| -> Result<bool, SampleError> {
            let annotation_id = dataset.instances[idx].id;
            let mask = dataset.mask(idx).map_err(|source| SampleError::Mask { annotation_id, source })?;
            Ok(mask.is_empty())
        };
        let reasons: Vec<Option<LeftOutReason>> = (0..dataset.instances.len())
            .into_par_iter()
            .map(|idx| match dataset.instances[idx].is_crowd {
                true => Ok(Some(LeftOutReason::Crowd)),
                false if is_empty(idx)? => Ok(Some(LeftOutReason::EmptyTruth)),
                // Nobody can ask with such a box, and a point beside it would be another question.
                false => {
                    let instance = &dataset.instances[idx];
                    let size = dataset.images[instance.image_idx].size;
                    Ok(check_prompt(&Prompt::Box(instance.bbox), size).err().map(LeftOutReason::from))
                }
            })
            .collect::<Result<_, SampleError>>()?;
        let (mut by_image, mut left_out) = (vec![vec![]; n_images], vec![]);
        for (idx, reason) in reasons.into_iter().enumerate() {
            let instance = &dataset.instances[idx];
            match reason {
                Some(reason) => left_out.push(LeftOut { annotation_id: instance.id, reason }),
                None => by_image[instance.image_idx].push(idx),
            }
        }
        let used = by_image.into_iter().enumerate().filter(|(_, instances)| !instances.is_empty());
        let images: Vec<UsedImage> = used.map(|(image_idx, instances)| UsedImage { image_idx, instances }).collect();
        if images.is_empty() {
            let (path, n_instances) = (dataset.annotations_path.clone(), dataset.instances.len());
            let left_out = crate::selection::count_by_reason(&left_out);
            return Err(SampleError::NoSamples { path, n_instances, left_out });
        }
        Ok(Self { dataset, features, taps: vec![], images, left_out, side, decoded })
    }

    /// Side of the square that the network sees, in pixels.
    pub fn side(&self) -> u32 {
        self.side
    }

    /// The first image used that a store of features has none of, if any.
    pub fn first_without_features(&self) -> Option<u64> {
        let stores = || self.features.iter().chain(self.taps.iter().map(|(_, store)| store));
        let mut ids = self.images.iter().map(|used| self.dataset.images[used.image_idx].id);
        ids.find(|&id| stores().any(|store| !store.contains(id)))
    }

    /// How an image lies in every square.
    pub fn letterbox(&self, image_idx: usize) -> Letterbox {
        Letterbox { image: self.dataset.images[image_idx].size }
    }

    /// Images, by their places among those used, as they are trained on in an epoch: a function of seed, epoch and ids alone. Masks are on
    /// `mask_grid` cells a side. Without an `ask` nothing is asked; geometry is not augmented, as the teacher's features are of the image as it
    /// is.
    ///
    /// # Errors
    /// The first image's for which something cannot be had.
    pub fn samples(
        &self,
        places: &[usize],
        ask: Option<&AskPlan>,
        mask_grid: u32,
        augmentation: &Augmentation,
        seed: u64,
        epoch: u64,
    ) -> Result<Vec<ImageSample>, SampleError> {
        let sample = |&place: &usize| {
            let UsedImage { image_idx, instances } = &self.images[place];
            let image_id = self.dataset.images[*image_idx].id;
            let mut seen = self.image(*image_idx)?;
            draw(augmentation, &mut sample_rng(seed, epoch, image_id)).photometric(&mut seen.pixels);
            let objects = match ask {
                None => vec![],
                Some(ask) => {
                    let chosen = instances_of_epoch(instances.len(), ask.per_image, seed, epoch, image_id);
                    let chosen = chosen.into_iter().map(|at| instances[at as usize]);
                    chosen.map(|idx| self.asked(idx, ask, mask_grid, seed, epoch)).collect::<Result<_, _>>()?
                }
            };
            Ok(ImageSample { objects, ..seen })
        };
        places.par_iter().map(sample).collect()
    }

    /// An image as it is scored, nothing asked.
    ///
    /// # Errors
    /// If the file cannot be read, or the teacher's features are of another file.
    pub fn image(&self, image_idx: usize) -> Result<ImageSample, SampleError> {
        let record = &self.dataset.images[image_idx];
        let path = self.dataset.image_path(image_idx);
        let request = ImageRequest {
            image_idx,
            path: &path,
            annotated_size: record.size,
            n_rows: record.size.height,
            annotation_id: record.id,
        };
        let decoded: Arc<DecodedImage> = self.decoded.get(&request)?;
        let letterbox = self.letterbox(image_idx);
        let pixels = letterboxed(&decoded.rows.pixels, letterbox, self.side);
        let of_store = |store: &dyn Store| features_of(store, record.id, &path, &decoded);
        let features = self.features.as_deref().map(of_store).transpose()?;
        let taps = self.taps.iter().map(|(_, store)| of_store(&**store)).collect::<Result<_, _>>()?;
        Ok(ImageSample { image_id: record.id, letterbox, pixels, features, taps, objects: vec![] })
    }

    fn asked(
        &self,
        instance_idx: usize,
        ask: &AskPlan,
        mask_grid: u32,
        seed: u64,
        epoch: u64,
    ) -> Result<AskedObject, SampleError> {
        let instance = &self.dataset.instances[instance_idx];
        let annotation_id = instance.id;
        let mask = self.dataset.mask(instance_idx).map_err(|source| SampleError::Mask { annotation_id, source })?;
        let prompt = if starts_with_box(ask.box_probability, seed, epoch, annotation_id) {
            FirstPrompt::Box(instance.bbox)
        } else {
            let n_pixels = u32::try_from(mask.area()).expect("an image has fewer than 2^32 pixels");
            let nth = first_point(n_pixels, seed, epoch, annotation_id);
            FirstPrompt::Point(centre_of_pixel(&mask, nth).expect("a pixel of a mask that is not empty"))
        };
        let truth = self.letterbox(instance.image_idx).mask_on_grid(&mask, mask_grid);
        Ok(AskedObject { annotation_id, prompt, truth })
    }
}

/// The teacher's features of the image that was decoded.
fn features_of(
    store: &dyn Store,
    image_id: u64,
    path: &Path,
    decoded: &DecodedImage,
) -> Result<ImageFeatures, SampleError> {
    let record = store.features(image_id).map_err(|source| SampleError::Features { image_id, source })?;
    if record.image.file_digest != decoded.digest {
        let (expected, found) = (hex(&record.image.file_digest), hex(&decoded.digest));
        return Err(SampleError::OtherImage { path: path.into(), expected, found });
    }
    let shape = [record.channels as usize, record.grid as usize, record.grid as usize];
    Ok(ImageFeatures { shape, values: record.to_f32() })
}

/// The pixels of an image in a square, its longest side at `side` pixels, on middle grey: RGB, `[side, side, 3]`.
///
/// # Panics
/// If there are not three bytes for each of the image's pixels.
pub fn letterboxed(pixels: &[u8], letterbox: Letterbox, side: u32) -> Vec<u8> {
    let resized = letterbox.resized(side);
    let image = RgbImage { size: letterbox.image, pixels: pixels.to_vec() };
    let small = resize_bilinear(&image, resized);
    let mut out = vec![GREY; (side * side * 3) as usize];
    let rows = out.chunks_exact_mut(side as usize * 3).zip(small.pixels.chunks_exact(resized.width as usize * 3));
    rows.for_each(|(out, row)| out[..row.len()].copy_from_slice(row));
    out
}

/// 0 in the network's input.
const GREY: u8 = 128;

/// Bytes of decoded images that a split keeps: 260 COCO images.
const MAX_KEPT_BYTES: usize = 240 << 20;
