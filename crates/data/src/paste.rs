//! Pictures that were composed: objects of one image pasted onto another, with the masks of all that stays visible.
//!
//! A small training set shows each object before one background. Pasted, it is seen before others, and what stood there is covered as it is in
//! crowded pictures. The field's name for it is copy-paste augmentation.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::coco_writer::{CocoAnnotation, CocoCategory, CocoFile, CocoImage, CocoInfo};
use crate::dataset::{Dataset, DatasetError};
use crate::geometry::{PixelRect, Size};
use crate::image_file::{ImageError, ImageLimits, RgbImage, encode_png_fast, read_image};
use crate::mask::Mask;
use crate::resize::resize_bilinear;
use crate::rle::Rle;
use crate::sampling::{Purpose, below, shuffled, stream, unit};
use crate::synth::{SynthError, write_file};

/// What is composed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasteConfig {
    /// Fixes every pixel.
    pub seed: u64,
    /// Composed pictures of each image.
    pub copies: u32,
    /// Fewest objects that are pasted onto a picture, at least 1. Where the image that they come from has fewer, all of its are.
    pub min_objects: u32,
    /// Most of them.
    pub max_objects: u32,
    /// The number that pictures and annotations are counted from.
    pub first_id: u64,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PasteReport {
    /// Pictures.
    pub n_images: usize,
    /// Annotated objects on them.
    pub n_objects: usize,
    /// Objects that were pasted, those among them that others then covered too.
    pub n_pasted: usize,
    /// Objects left out of the annotations, because too little of them is visible.
    pub n_hidden: usize,
    /// Crowd regions, which are neither pasted nor annotated.
    pub n_crowd: usize,
}

/// Why no pictures were written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PasteError {
    /// A setting is out of range.
    #[error("{setting}: expected {expected}, found {found}")]
    Config {
        /// The field.
        setting: &'static str,
        /// What would do.
        expected: &'static str,
        /// Its value.
        found: String,
    },
    /// There are not two images to paste from one to the other.
    #[error("{}: expected at least 2 images with an object of at least {LEAST_PASTED_AREA} pixels, found {found}", path.display())]
    TooFewImages {
        /// The annotation file.
        path: PathBuf,
        /// How many there are.
        found: usize,
    },
    /// An image cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An image is of another size than annotated.
    #[error("{}: expected {expected} pixels, as annotated, found {found}", path.display())]
    ImageSize {
        /// The image.
        path: PathBuf,
        /// As annotated.
        expected: Size,
        /// In the file.
        found: Size,
    },
    /// A mask cannot be drawn.
    #[error(transparent)]
    Mask(#[from] DatasetError),
    /// The folder exists and has something in it, or cannot be written.
    #[error(transparent)]
    Folder(#[from] SynthError),
    /// The caller asked to stop.
    #[error("composing pictures was interrupted")]
    Interrupted,
}

/// Composes pictures into `dir`: `images/*.png` and `annotations.json` in COCO's format, with the visible part of each object as compressed
/// runs.
///
/// Each picture is an image of the data set, with objects of another one pasted at any place: at 0.5 to 1.3 times their size and no more than
/// three fifths of a side, half of them mirrored, their edges blended. Of an object at least 16 pixels and three tenths have to stay visible
/// for it to be annotated. Which objects go where follows from the seed, the copy and the image's id.
///
/// The folder appears under its name only when it is complete. `on_progress` hears how many pictures are written.
///
/// # Errors
/// If a setting is out of range, there are too few images, one cannot be read, `dir` is neither new nor an empty folder, the disk refuses, or
/// the caller asks to stop.
/// # Source
/// Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data Augmentation Method for Instance Segmentation". There both images are scaled and
/// cropped anew in every step; here pictures are composed once, each image keeps its size, and a cap holds what is pasted.
pub fn paste(
    dataset: &Dataset,
    dir: &Path,
    config: &PasteConfig,
    limits: &ImageLimits,
    on_progress: &(dyn Fn(u64) + Sync),
    is_interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<PasteReport, PasteError> {
    config.check()?;
    let is_taken = dir.exists() && fs::read_dir(dir).map_err(|source| write_error(dir, source))?.next().is_some();
    if is_taken {
        return Err(SynthError::NotEmpty { path: dir.to_path_buf() }.into());
    }
    let composer = Composer::new(dataset, config, limits)?;
    let mut partial = dir.as_os_str().to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    let partial = PathBuf::from(partial);
    let written = composer.write(&partial, on_progress, is_interrupted).and_then(|report| {
        fs::rename(&partial, dir).map(|()| report).map_err(|source| write_error(dir, source).into())
    });
    if written.is_err() {
        // The first error is the one to report; what cannot be removed has a name that says what it is.
        let _ = fs::remove_dir_all(&partial);
    }
    written
}

impl PasteConfig {
    fn check(&self) -> Result<(), PasteError> {
        let fail = |setting, expected, found: String| Err(PasteError::Config { setting, expected, found });
        if !(1..=1000).contains(&self.copies) {
            return fail("copies", "1 to 1000", self.copies.to_string());
        }
        if self.min_objects == 0 || self.min_objects > self.max_objects || self.max_objects > 100 {
            let found = format!("{} to {}", self.min_objects, self.max_objects);
            return fail("objects", "a range within 1 to 100", found);
        }
        Ok(())
    }
}

struct Composer<'a> {
    dataset: &'a Dataset,
    config: &'a PasteConfig,
    limits: &'a ImageLimits,
    /// By image, its objects that are no crowd regions.
    of_image: Vec<Vec<usize>>,
    /// By image, those of them that are large enough to be pasted.
    pasteable: Vec<Vec<usize>>,
    /// Images that have some, ascending.
    donors: Vec<usize>,
}

/// An object on a picture that is being composed.
struct Placed {
    instance_idx: usize,
    /// What is visible of it.
    visible: Mask,
    /// Its pixels before anything covered it.
    whole_area: u64,
}

struct Composed {
    file_name: String,
    size: Size,
    /// Category, what is visible.
    objects: Vec<(u64, Rle)>,
    n_pasted: usize,
    n_hidden: usize,
}

impl<'a> Composer<'a> {
    fn new(dataset: &'a Dataset, config: &'a PasteConfig, limits: &'a ImageLimits) -> Result<Self, PasteError> {
        let areas = (0..dataset.instances.len()).into_par_iter().map(|idx| Ok(dataset.mask(idx)?.area()));
        let areas: Vec<u64> = areas.collect::<Result<_, DatasetError>>()?;
        let (mut of_image, mut pasteable) = (vec![vec![]; dataset.images.len()], vec![vec![]; dataset.images.len()]);
        for (idx, instance) in dataset.instances.iter().enumerate().filter(|(_, instance)| !instance.is_crowd) {
            of_image[instance.image_idx].push(idx);
            if areas[idx] >= LEAST_PASTED_AREA {
                pasteable[instance.image_idx].push(idx);
            }
        }
        let donors: Vec<usize> = (0..pasteable.len()).filter(|&idx| !pasteable[idx].is_empty()).collect();
        if donors.len() < 2 {
            return Err(PasteError::TooFewImages { path: dataset.annotations_path.clone(), found: donors.len() });
        }
        Ok(Self { dataset, config, limits, of_image, pasteable, donors })
    }

    fn write(
        &self,
        dir: &Path,
        on_progress: &(dyn Fn(u64) + Sync),
        is_interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<PasteReport, PasteError> {
        let images_dir = dir.join("images");
        fs::create_dir_all(&images_dir).map_err(|source| write_error(&images_dir, source))?;
        let n_done = AtomicU64::new(0);
        let n_images = self.dataset.images.len();
        let pictures = (0..self.config.copies as usize * n_images).into_par_iter().map(|at| {
            if is_interrupted() {
                return Err(PasteError::Interrupted);
            }
            let (picture, composed) = self.compose(at / n_images, at % n_images)?;
            write_file(&images_dir.join(&composed.file_name), &encode_png_fast(&picture))?;
            on_progress(n_done.fetch_add(1, Ordering::Relaxed) + 1);
            Ok(composed)
        });
        let pictures: Vec<Composed> = pictures.collect::<Result<_, PasteError>>()?;
        let path = dir.join("annotations.json");
        let bytes = serde_json::to_vec(&self.coco_file(&pictures)).map_err(|error| write_error(&path, error.into()))?;
        write_file(&path, &bytes)?;
        let n_crowd = self.dataset.instances.iter().filter(|instance| instance.is_crowd).count();
        let all = pictures.iter().fold(PasteReport { n_crowd, ..PasteReport::default() }, |all, picture| PasteReport {
            n_images: all.n_images + 1,
            n_objects: all.n_objects + picture.objects.len(),
            n_pasted: all.n_pasted + picture.n_pasted,
            n_hidden: all.n_hidden + picture.n_hidden,
            ..all
        });
        Ok(all)
    }

    /// An image with objects of another one on it.
    fn compose(&self, copy: usize, image_idx: usize) -> Result<(RgbImage, Composed), PasteError> {
        let id = self.dataset.images[image_idx].id;
        let mut rng = stream(Purpose::Paste, self.config.seed, copy as u64, id);
        let mut picture = self.image(image_idx)?;
        let mut placed = vec![];
        for &instance_idx in &self.of_image[image_idx] {
            let mask = self.dataset.mask(instance_idx)?;
            placed.push(Placed { instance_idx, visible: mask.to_mask(), whole_area: mask.area() });
        }
        let donor_idx = self.donor(image_idx, &mut rng);
        let donor = self.image(donor_idx)?;
        let order = shuffled(self.pasteable[donor_idx].len(), &mut rng);
        let PasteConfig { min_objects, max_objects, .. } = *self.config;
        let n_wanted = min_objects + below(&mut rng, max_objects - min_objects + 1);
        let mut n_pasted = 0;
        for at in order.into_iter().take(n_wanted as usize) {
            let instance_idx = self.pasteable[donor_idx][at as usize];
            let cutout = Cutout::new(&donor, &self.dataset.mask(instance_idx)?, picture.size, &mut rng);
            let visible = cutout.paste(&mut picture);
            for below in &mut placed {
                below.visible.bits.iter_mut().zip(&visible.bits).for_each(|(below, above)| *below &= 1 - above);
            }
            placed.push(Placed { instance_idx, whole_area: visible.area(), visible });
            n_pasted += 1;
        }
        let n_placed = placed.len();
        let is_seen = |placed: &Placed| {
            let area = placed.visible.area();
            area >= LEAST_AREA && area as f64 >= LEAST_VISIBLE * placed.whole_area as f64
        };
        let category = |placed: &Placed| self.dataset.instances[placed.instance_idx].category_id;
        let seen = placed.iter().filter(|placed| is_seen(placed));
        let objects: Vec<_> = seen.map(|placed| (category(placed), Rle::from_mask(&placed.visible))).collect();
        let file_name = format!("{id}-{}.png", copy + 1);
        let n_hidden = n_placed - objects.len();
        let size = picture.size;
        Ok((picture, Composed { file_name, size, objects, n_pasted, n_hidden }))
    }

    /// Another image that objects are taken from.
    fn donor(&self, image_idx: usize, rng: &mut ChaCha8Rng) -> usize {
        let own = self.donors.binary_search(&image_idx).ok();
        let at = below(rng, (self.donors.len() - usize::from(own.is_some())) as u32) as usize;
        self.donors[if own.is_some_and(|own| at >= own) { at + 1 } else { at }]
    }

    fn image(&self, image_idx: usize) -> Result<RgbImage, PasteError> {
        let (path, expected) = (self.dataset.image_path(image_idx), self.dataset.images[image_idx].size);
        let image = read_image(&path, self.limits)?.image;
        if image.size != expected {
            return Err(PasteError::ImageSize { path, expected, found: image.size });
        }
        Ok(image)
    }

    fn coco_file<'p>(&'p self, pictures: &'p [Composed]) -> CocoFile<'p> {
        let first_id = self.config.first_id;
        let of_objects = (first_id..).zip(pictures).flat_map(|(image_id, picture)| {
            picture.objects.iter().map(move |(category_id, visible)| (image_id, *category_id, visible))
        });
        let annotation = |(id, (image_id, category_id, visible)): (u64, (u64, u64, &Rle))| {
            CocoAnnotation::new(id, image_id, category_id, visible)
        };
        let is_lvis = self.dataset.categories.iter().any(|category| category.frequency.is_some());
        let image = |(id, Composed { file_name, size, .. }): (u64, &'p Composed)| {
            let image = CocoImage::new(id, file_name, *size);
            if is_lvis { image.with_lvis_lists() } else { image }
        };
        let PasteConfig { seed, copies, min_objects, max_objects, .. } = self.config;
        CocoFile {
            info: CocoInfo {
                description: format!(
                    "Composed pictures: {min_objects} to {max_objects} objects of another image pasted onto each image, {copies} times, seed {seed}."
                ),
                proposed_by: self.dataset.parts.iter().find_map(|part| part.proposed_by.clone()),
                composed_of: Some(blake3::Hash::from_bytes(self.dataset.digest).to_hex().to_string()),
            },
            images: (first_id..).zip(pictures).map(image).collect(),
            annotations: (first_id..).zip(of_objects).map(annotation).collect(),
            categories: self.dataset.categories.iter().map(CocoCategory::from).collect(),
        }
    }
}

/// An object as it will be pasted.
struct Cutout {
    pixels: RgbImage,
    /// How much of each pixel is the object's, 0 to 255.
    cover: Vec<u8>,
    /// Where its upper left pixel goes.
    at: [u32; 2],
}

impl Cutout {
    /// An object at the size and place that are drawn, on a picture of this size.
    fn new(donor: &RgbImage, mask: &Rle, onto: Size, rng: &mut ChaCha8Rng) -> Self {
        let [x, y, width, height] = mask.bbox().map(|edge| edge as u32);
        let place = PixelRect { x0: x, y0: y, x1: x + width, y1: y + height };
        let scale = SCALES.0 + unit(rng) * (SCALES.1 - SCALES.0);
        let most = |side: u32, len: u32| MOST_OF_A_SIDE * f64::from(side) / f64::from(len);
        let scale = scale.min(most(onto.width, width)).min(most(onto.height, height));
        let scaled = |len: u32, side: u32| ((f64::from(len) * scale) as u32).clamp(1, side);
        let size = Size { width: scaled(width, onto.width), height: scaled(height, onto.height) };
        let mut pixels = resize_bilinear(&part(donor, place), size);
        let stored = mask.to_mask();
        let grey = |bit: &u8| [bit * 255; 3];
        let mask_size = Size { width: stored.size.width, height: stored.size.height };
        let grey = RgbImage { size: mask_size, pixels: stored.bits.iter().flat_map(grey).collect() };
        let cover = resize_bilinear(&part(&grey, place), size).pixels;
        let mut cover: Vec<u8> = cover.as_chunks::<3>().0.iter().map(|[grey, ..]| *grey).collect();
        if unit(rng) < 0.5 {
            let row_len = size.width as usize;
            cover.chunks_exact_mut(row_len).for_each(<[u8]>::reverse);
            pixels.pixels.as_chunks_mut::<3>().0.chunks_exact_mut(row_len).for_each(<[[u8; 3]]>::reverse);
        }
        let mut start = |side: u32, len: u32| below(rng, side - len + 1);
        let at = [start(onto.width, size.width), start(onto.height, size.height)];
        Self { pixels, cover, at }
    }

    /// Blends the object in; its mask on the picture.
    fn paste(&self, picture: &mut RgbImage) -> Mask {
        let mut visible = Mask::empty(picture.size);
        let (row_len, [x, y]) = (picture.size.width as usize, self.at.map(|start| start as usize));
        let onto = picture.pixels.as_chunks_mut::<3>().0;
        let (from, width) = (self.pixels.pixels.as_chunks::<3>().0, self.pixels.size.width as usize);
        for (idx, (pixel, &cover)) in from.iter().zip(&self.cover).enumerate() {
            let at = (y + idx / width) * row_len + x + idx % width;
            let blend = |under: u8, over: u8| {
                let (cover, under, over) = (u32::from(cover), u32::from(under), u32::from(over));
                ((under * (255 - cover) + over * cover + 127) / 255) as u8
            };
            for channel in 0..3 {
                onto[at][channel] = blend(onto[at][channel], pixel[channel]);
            }
            visible.bits[at] = u8::from(cover >= 128);
        }
        visible
    }
}

/// A part of an image that lies in it.
fn part(image: &RgbImage, place: PixelRect) -> RgbImage {
    let rows = (place.y0..place.y1).map(|row| row as usize * image.size.width as usize);
    let row = |start: usize| &image.pixels[(start + place.x0 as usize) * 3..(start + place.x1 as usize) * 3];
    RgbImage {
        size: Size { width: place.width(), height: place.height() },
        pixels: rows.flat_map(row).copied().collect(),
    }
}

fn write_error(path: &Path, source: io::Error) -> SynthError {
    SynthError::Write { path: path.to_path_buf(), source }
}

/// The number that composed pictures and their annotations are counted from, if nothing else is said: beyond COCO's, LVIS's and proposals'.
pub const FIRST_COMPOSED_ID: u64 = 20_000_000_000_000;

/// Smaller objects are not pasted: enlarged, they would be blurs.
const LEAST_PASTED_AREA: u64 = 300;
/// Pixels of an object that have to be visible for it to be annotated.
const LEAST_AREA: u64 = 16;
/// Share of an object that has to be.
const LEAST_VISIBLE: f64 = 0.3;
/// Factors of a pasted object's size.
const SCALES: (f64, f64) = (0.5, 1.3);
/// A pasted object takes no more of a side.
const MOST_OF_A_SIDE: f64 = 0.6;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make the files they read")]
mod tests {
    use super::*;
    use crate::image_file::encode_png;
    use serde_json::{Value, json};

    const CONFIG: PasteConfig = PasteConfig { seed: 3, copies: 2, min_objects: 1, max_objects: 2, first_id: 500 };

    /// Three images of one grey each, two with a square of white; the third has a crowd region and a small object.
    fn write_scenes(folder: &Path) {
        let size = Size { width: 60, height: 50 };
        for (id, grey) in [(1, 10), (2, 60), (3, 110)] {
            let mut pixels = vec![grey; size.n_pixels() * 3];
            for row in 10..30 {
                pixels[(row * 60 + 10) * 3..(row * 60 + 30) * 3].fill(if id < 3 { 250 } else { grey });
            }
            fs::write(folder.join(format!("{id}.png")), encode_png(&RgbImage { size, pixels })).unwrap();
        }
        let annotation = |id: u64, image_id: u64, side: u32, iscrowd: u8| {
            json!({"id": id, "image_id": image_id, "category_id": 7, "bbox": [10, 10, side, side], "area": side * side, "iscrowd": iscrowd,
                "segmentation": [[10, 10, 10 + side, 10, 10 + side, 10 + side, 10, 10 + side]]})
        };
        let image = |id: u64| json!({"id": id, "width": 60, "height": 50, "file_name": format!("{id}.png")});
        let file = json!({
            "images": [image(1), image(2), image(3)],
            "categories": [{"id": 7, "name": "square"}],
            "annotations": [annotation(1, 1, 20, 0), annotation(2, 2, 20, 0), annotation(3, 3, 10, 0), annotation(4, 3, 20, 1)],
        });
        fs::write(folder.join("file.json"), file.to_string()).unwrap();
    }

    fn composed(folder: &Path, out: &str, config: &PasteConfig) -> Result<PasteReport, PasteError> {
        let dataset = Dataset::load_coco(&folder.join("file.json"), folder).unwrap();
        paste(&dataset, &folder.join(out), config, &ImageLimits::default(), &|_| (), &|| false)
    }

    #[test]
    fn masks_lie_where_the_pixels_are() {
        let folder = tempfile::tempdir().unwrap();
        write_scenes(folder.path());
        let report = composed(folder.path(), "out", &CONFIG).unwrap();
        assert_eq!((report.n_images, report.n_pasted, report.n_crowd), (6, 6, 1));
        let file = folder.path().join("out/annotations.json");
        let written = Dataset::load_coco(&file, &folder.path().join("out/images")).unwrap();
        assert_eq!((written.images.len(), written.instances.len()), (6, report.n_objects));
        assert_eq!(report.n_objects + report.n_hidden, 6 + 6);
        assert_eq!((written.images[0].id, written.instances[0].id), (500, 500));
        assert!(written.instances.iter().all(|instance| !instance.is_crowd && instance.category_id == 7));
        let of = Dataset::load_coco(&folder.path().join("file.json"), folder.path()).unwrap().digest;
        let of = blake3::Hash::from_bytes(of).to_hex().to_string();
        assert_eq!(
            (written.parts[0].composed_of.as_deref(), &written.parts[0].proposed_by),
            (Some(of.as_str()), &None)
        );
        for (image_idx, image) in written.images.iter().enumerate() {
            let picture = read_image(&written.image_path(image_idx), &ImageLimits::default()).unwrap().image;
            assert_eq!(picture.size, Size { width: 60, height: 50 });
            let of_image = (0..written.instances.len()).filter(|&idx| written.instances[idx].image_idx == image_idx);
            let masks: Vec<Mask> = of_image.map(|idx| written.mask(idx).unwrap().to_mask()).collect();
            let from_third = image.file_name.starts_with('3');
            for (at, pixel) in picture.pixels.as_chunks::<3>().0.iter().enumerate() {
                let n_on_it = masks.iter().filter(|mask| mask.bits[at] == 1).count();
                assert!(n_on_it <= 1, "two objects at {at} of {}", image.file_name);
                // What is white is an object; blended edges lie between. The third image's own object is grey as what is around it.
                if pixel[0] > 248 {
                    assert_eq!(n_on_it, 1, "{at} of {}", image.file_name);
                } else if pixel[0] < 111 && !from_third {
                    assert_eq!(n_on_it, 0, "{at} of {}: {pixel:?}", image.file_name);
                }
            }
        }
    }

    #[test]
    fn the_same_seed_composes_the_same_bytes_on_any_number_of_threads() {
        let folder = tempfile::tempdir().unwrap();
        write_scenes(folder.path());
        let bytes = |out: &str| {
            let images =
                fs::read_dir(folder.path().join(out).join("images")).unwrap().map(|entry| entry.unwrap().path());
            let mut files: Vec<PathBuf> = images.collect();
            files.sort();
            files.push(folder.path().join(out).join("annotations.json"));
            files.iter().map(|file| fs::read(file).unwrap()).collect::<Vec<_>>()
        };
        for (out, seed, n_threads) in [("a", 3, 1), ("b", 3, 4), ("c", 4, 2)] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            pool.install(|| composed(folder.path(), out, &PasteConfig { seed, ..CONFIG })).unwrap();
        }
        assert!(bytes("a") == bytes("b") && bytes("a") != bytes("c"));
    }

    #[test]
    fn what_cannot_be_composed_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        write_scenes(folder.path());
        let refused = |out: &str, config: &PasteConfig| composed(folder.path(), out, config).unwrap_err().to_string();
        assert_eq!(refused("out", &PasteConfig { copies: 0, ..CONFIG }), "copies: expected 1 to 1000, found 0");
        let range = refused("out", &PasteConfig { min_objects: 3, ..CONFIG });
        assert_eq!(range, "objects: expected a range within 1 to 100, found 3 to 2");
        fs::create_dir(folder.path().join("full")).unwrap();
        fs::write(folder.path().join("full/file"), "").unwrap();
        assert!(refused("full", &CONFIG).ends_with("full: expected a new or empty folder, found files"));
        // One of the two that have objects to paste.
        let mut file: Value = serde_json::from_slice(&fs::read(folder.path().join("file.json")).unwrap()).unwrap();
        let whole = file.clone();
        file["annotations"].as_array_mut().unwrap().remove(0);
        fs::write(folder.path().join("file.json"), file.to_string()).unwrap();
        let expected = "expected at least 2 images with an object of at least 300 pixels, found 1";
        assert!(refused("out", &CONFIG).ends_with(expected));
        fs::write(folder.path().join("file.json"), whole.to_string()).unwrap();
        fs::write(folder.path().join("3.png"), "no picture").unwrap();
        assert!(refused("out", &CONFIG).contains("3.png"));
        fs::copy(folder.path().join("full/file"), folder.path().join("4.png")).unwrap();
        let size = Size { width: 8, height: 50 };
        fs::write(folder.path().join("3.png"), encode_png(&RgbImage { size, pixels: vec![0; 1200] })).unwrap();
        assert!(refused("out", &CONFIG).ends_with("3.png: expected 60 x 50 pixels, as annotated, found 8 x 50"));
        assert!(
            fs::read_dir(folder.path()).unwrap().all(|entry| !entry
                .unwrap()
                .file_name()
                .to_string_lossy()
                .contains("out"))
        );
    }
}
