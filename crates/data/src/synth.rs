//! Rendered scenes with exact masks: textured shapes that overlap, on clutter, with shading and noise, as a COCO data set.
//!
//! Everything is drawn from integers by `+ - * /` and square roots, so every machine writes the same bytes.

mod render;
mod shape;
mod texture;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::coco_writer::{CocoAnnotation, CocoCategory, CocoFile, CocoImage, CocoInfo};
use crate::geometry::Size;
use crate::image_file::encode_png;
use crate::rle::Rle;
pub use render::{Scene, SceneObject, render_scene};
use shape::ShapeKind;

/// What to render.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SynthConfig {
    /// Fixes every pixel.
    pub seed: u64,
    /// Images of the training split, numbered from 1.
    pub n_train_images: u32,
    /// Images of the validation split, numbered on from the training split's.
    pub n_val_images: u32,
    /// Size of each image; sides from 64 to 4096 pixels.
    pub image_size: Size,
    /// Fewest objects of a scene, at least 1.
    pub min_objects: u32,
    /// Most objects of a scene, at most 100.
    pub max_objects: u32,
    /// An object with fewer visible pixels is in the picture but not in the annotations.
    pub min_visible_area: u32,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SynthReport {
    /// Images of the training split.
    pub n_train_images: usize,
    /// Images of the validation split.
    pub n_val_images: usize,
    /// Annotated objects of the training split.
    pub n_train_objects: usize,
    /// Annotated objects of the validation split.
    pub n_val_objects: usize,
    /// Objects left out of the annotations, because too little of them is visible.
    pub n_dropped: usize,
    /// Annotated objects of each category, as `(name, count)` in the order of the category ids.
    pub n_by_category: Vec<(&'static str, usize)>,
}

/// Why no data set was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SynthError {
    /// A setting is out of range.
    #[error("{setting} = {found}: expected {expected}")]
    Config {
        /// Name of the field.
        setting: &'static str,
        /// What would do.
        expected: &'static str,
        /// Its value.
        found: String,
    },
    /// The folder exists and has something in it.
    #[error("{}: expected a new or empty folder, found files", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// The folder or a file in it cannot be written.
    #[error("{}: cannot write", path.display())]
    Write {
        /// Folder or file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl SynthConfig {
    /// The scenes of the quickstart, whose teacher answers are in the repository.
    pub fn quickstart() -> SynthConfig {
        SynthConfig {
            seed: 1,
            n_train_images: 240,
            n_val_images: 60,
            image_size: Size { width: 256, height: 256 },
            min_objects: 3,
            max_objects: 6,
            min_visible_area: 150,
        }
    }

    /// Few scenes of few and large objects, of another seed than the quickstart's: enough to see that a recipe learns.
    pub fn toy() -> SynthConfig {
        SynthConfig {
            seed: 2,
            n_train_images: 40,
            n_val_images: 24,
            image_size: Size { width: 256, height: 256 },
            min_objects: 1,
            max_objects: 3,
            min_visible_area: 900,
        }
    }

    fn check(&self) -> Result<(), SynthError> {
        let fail = |setting, expected, found: String| Err(SynthError::Config { setting, expected, found });
        let side = 64..=4096;
        if !(side.contains(&self.image_size.width) && side.contains(&self.image_size.height)) {
            return fail("image_size", "sides from 64 to 4096", self.image_size.to_string());
        }
        if self.min_objects == 0 || self.max_objects > 100 || self.min_objects > self.max_objects {
            let found = format!("{}..={}", self.min_objects, self.max_objects);
            return fail("min_objects..=max_objects", "a range within 1..=100", found);
        }
        if self.min_visible_area == 0 {
            return fail("min_visible_area", "at least 1 pixel", self.min_visible_area.to_string());
        }
        match self.n_train_images.checked_add(self.n_val_images) {
            Some(1..=1_000_000) => Ok(()),
            _ => fail(
                "n_train_images + n_val_images",
                "from 1 to 1,000,000",
                format!("{} + {}", self.n_train_images, self.n_val_images),
            ),
        }
    }
}

/// Renders `config` into `dir`: `images/*.png` and `annotations/instances_{train,val}.json` in COCO's format, with the
/// visible part of each object as compressed RLE. Image and annotation ids are unique across both files.
///
/// The folder appears under its name only when it is complete.
///
/// # Errors
/// If a setting is out of range, `dir` is neither new nor an empty folder, or the disk refuses.
pub fn write_synth(dir: &Path, config: &SynthConfig) -> Result<SynthReport, SynthError> {
    config.check()?;
    if dir.exists() && fs::read_dir(dir).map_err(|source| write_error(dir, source))?.next().is_some() {
        return Err(SynthError::NotEmpty { path: dir.to_path_buf() });
    }
    let mut partial = dir.as_os_str().to_owned();
    partial.push(format!(".partial-{}", std::process::id()));
    let partial = PathBuf::from(partial);
    let written = write_folder(&partial, config)
        .and_then(|report| fs::rename(&partial, dir).map(|()| report).map_err(|source| write_error(dir, source)));
    if written.is_err() {
        // The first error is the one to report; what cannot be removed has a name that says what it is.
        let _ = fs::remove_dir_all(&partial);
    }
    written
}

fn write_folder(dir: &Path, config: &SynthConfig) -> Result<SynthReport, SynthError> {
    let (images_dir, annotations_dir) = (dir.join("images"), dir.join("annotations"));
    for dir in [&images_dir, &annotations_dir] {
        fs::create_dir_all(dir).map_err(|source| write_error(dir, source))?;
    }
    let n_images = config.n_train_images + config.n_val_images;
    let scenes = (1..=n_images).into_par_iter().map(|image_id| {
        let scene = render_scene(config, image_id);
        let file_name = file_name(config, image_id);
        write_file(&images_dir.join(&file_name), &encode_png(&scene.image))?;
        let objects =
            scene.objects.iter().map(|object| (object.category_id, Rle::from_mask(&object.visible))).collect();
        Ok(WrittenScene { image_id, file_name, objects, n_dropped: scene.n_dropped })
    });
    let scenes: Vec<WrittenScene> = scenes.collect::<Result<_, SynthError>>()?;

    let (train, val) = scenes.split_at(config.n_train_images as usize);
    let n_objects = |scenes: &[WrittenScene]| scenes.iter().map(|scene| scene.objects.len()).sum::<usize>();
    for (split, scenes, first_id) in [("train", train, 1), ("val", val, 1 + n_objects(train) as u64)] {
        let file = coco_file(config, split, scenes, first_id);
        let path = annotations_dir.join(format!("instances_{split}.json"));
        let bytes = serde_json::to_vec(&file).map_err(|error| write_error(&path, error.into()))?;
        write_file(&path, &bytes)?;
    }
    let in_category = |kind: &ShapeKind| {
        let objects = scenes.iter().flat_map(|scene| &scene.objects);
        (kind.name(), objects.filter(|(category_id, _)| *category_id == kind.category_id()).count())
    };
    Ok(SynthReport {
        n_train_images: train.len(),
        n_val_images: val.len(),
        n_train_objects: n_objects(train),
        n_val_objects: n_objects(val),
        n_dropped: scenes.iter().map(|scene| scene.n_dropped).sum(),
        n_by_category: ShapeKind::ALL.iter().map(in_category).collect(),
    })
}

struct WrittenScene {
    image_id: u32,
    file_name: String,
    objects: Vec<(u64, Rle)>,
    n_dropped: usize,
}

fn coco_file<'a>(config: &SynthConfig, split: &str, scenes: &'a [WrittenScene], first_id: u64) -> CocoFile<'a> {
    let image = |scene: &'a WrittenScene| CocoImage::new(scene.image_id.into(), &scene.file_name, config.image_size);
    let objects = scenes.iter().flat_map(|scene| scene.objects.iter().map(move |object| (scene.image_id, object)));
    let annotation = |(id, (image_id, (category_id, mask))): (u64, (u32, &(u64, Rle)))| {
        CocoAnnotation::new(id, image_id.into(), *category_id, mask)
    };
    let category = |kind: &ShapeKind| CocoCategory {
        id: kind.category_id(),
        name: kind.name(),
        supercategory: Some("shape"),
        frequency: None,
    };
    let description = format!("Sensei synthetic scenes, {split} split, seed {}", config.seed);
    CocoFile {
        info: CocoInfo { description, ..CocoInfo::default() },
        images: scenes.iter().map(image).collect(),
        annotations: (first_id..).zip(objects).map(annotation).collect(),
        categories: ShapeKind::ALL.iter().map(category).collect(),
    }
}

fn file_name(config: &SynthConfig, image_id: u32) -> String {
    let split = if image_id <= config.n_train_images { "train" } else { "val" };
    format!("{split}_{image_id:06}.png")
}

#[expect(clippy::disallowed_methods, reason = "in a folder that nobody reads before it has its name")]
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), SynthError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| write_error(path, source))
}

fn write_error(path: &Path, source: io::Error) -> SynthError {
    SynthError::Write { path: path.to_path_buf(), source }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make the files they read")]
mod tests {
    use super::*;
    use crate::dataset::Dataset;
    use crate::image_file::{ImageLimits, read_image};

    fn small() -> SynthConfig {
        let image_size = Size { width: 96, height: 80 };
        SynthConfig {
            n_train_images: 4,
            n_val_images: 2,
            image_size,
            min_visible_area: 60,
            ..SynthConfig::quickstart()
        }
    }

    fn digest(dir: &Path, n_train: usize, n_val: usize) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut feed = |path: PathBuf| {
            hasher.update(&fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        };
        (1..=n_train).for_each(|id| feed(dir.join(format!("images/train_{id:06}.png"))));
        (n_train + 1..=n_train + n_val).for_each(|id| feed(dir.join(format!("images/val_{id:06}.png"))));
        ["train", "val"].iter().for_each(|split| feed(dir.join(format!("annotations/instances_{split}.json"))));
        hasher.finalize().to_hex().to_string()
    }

    #[test]
    fn every_machine_writes_these_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("scenes");
        let report = write_synth(&dir, &small()).unwrap();
        assert_eq!((report.n_train_images, report.n_val_images), (4, 2));
        assert_eq!(digest(&dir, 4, 2), "83f4a27b2ad46f44167904e15f81504532695f7a4050c49f566a7cd55d6d7339");
    }

    #[test]
    fn pixels_do_not_depend_on_the_png_encoder() {
        let mut hasher = blake3::Hasher::new();
        (1..=4)
            .for_each(|image_id| _ = hasher.update(&render_scene(&SynthConfig::quickstart(), image_id).image.pixels));
        let expected = "b24e760439ed8b0d670bfa4464a48a3a7fb3dbc81fe4c445e8abfacfd302a926";
        assert_eq!(hasher.finalize().to_hex().as_str(), expected);
    }

    #[test]
    fn our_own_reader_finds_what_was_drawn() {
        let dir = tempfile::tempdir().unwrap();
        let config = small();
        let report = write_synth(dir.path(), &config).unwrap();
        let (mut n_objects, mut ids) = (0, Vec::new());
        for (split, first_image) in [("train", 1), ("val", 5)] {
            let annotations = dir.path().join(format!("annotations/instances_{split}.json"));
            let dataset = Dataset::load_coco(&annotations, &dir.path().join("images")).unwrap();
            assert_eq!(dataset.categories.len(), 4);
            n_objects += dataset.instances.len();
            ids.extend(dataset.instances.iter().map(|instance| instance.id));
            for (image_idx, record) in dataset.images.iter().enumerate() {
                assert_eq!(record.id, first_image + image_idx as u64);
                let scene = render_scene(&config, record.id as u32);
                let read = read_image(&dataset.image_path(image_idx), &ImageLimits::default()).unwrap();
                assert!(read.image == scene.image, "{split} image {image_idx}");
                let of_image =
                    (0..dataset.instances.len()).filter(|&idx| dataset.instances[idx].image_idx == image_idx);
                let masks: Vec<_> = of_image.clone().map(|idx| dataset.mask(idx).unwrap().to_mask()).collect();
                assert!(masks.iter().eq(scene.objects.iter().map(|object| &object.visible)));
                assert!(of_image.zip(&masks).all(|(idx, mask)| dataset.instances[idx].area == mask.area() as f64));
            }
        }
        assert_eq!(n_objects, report.n_train_objects + report.n_val_objects);
        assert_eq!(n_objects, report.n_by_category.iter().map(|(_, count)| count).sum::<usize>());
        assert!(ids.iter().copied().eq(1..=n_objects as u64), "ids are unique across the splits: {ids:?}");
    }

    #[test]
    fn objects_do_not_overlap_and_small_ones_are_counted() {
        let config = SynthConfig { min_visible_area: 400, ..SynthConfig::quickstart() };
        let mut n_dropped = 0;
        for image_id in 1..=12 {
            let scene = render_scene(&config, image_id);
            n_dropped += scene.n_dropped;
            assert!((3..=6).contains(&(scene.objects.len() + scene.n_dropped)));
            assert!(scene.objects.iter().all(|object| object.visible.area() >= 400));
            for pixel in 0..config.image_size.n_pixels() {
                assert!(scene.objects.iter().filter(|object| object.visible.bits[pixel] != 0).count() <= 1);
            }
        }
        assert!(n_dropped > 0);
    }

    #[test]
    fn a_folder_with_files_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mine.txt"), "mine").unwrap();
        let error = write_synth(dir.path(), &small()).unwrap_err();
        assert!(matches!(error, SynthError::NotEmpty { .. }), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = write_synth(&file.join("scenes"), &small()).unwrap_err();
        assert!(matches!(&error, SynthError::Write { path, .. } if path.starts_with(&file)), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let check = |config: SynthConfig, expected: &str| {
            let dir = tempfile::tempdir().unwrap();
            match write_synth(&dir.path().join("scenes"), &config) {
                Err(SynthError::Config { setting, .. }) => assert_eq!(setting, expected),
                other => panic!("{config:?}: {other:?}"),
            }
        };
        check(SynthConfig { image_size: Size { width: 20_000, height: 64 }, ..small() }, "image_size");
        check(SynthConfig { min_objects: 5, max_objects: 4, ..small() }, "min_objects..=max_objects");
        check(SynthConfig { min_visible_area: 0, ..small() }, "min_visible_area");
        check(SynthConfig { n_train_images: u32::MAX, ..small() }, "n_train_images + n_val_images");
    }
}
