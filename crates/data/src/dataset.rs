//! Images, categories and instances of a COCO or LVIS annotation file.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::geometry::Size;
use crate::joined::DatasetPart;
use crate::polygon::{self, PolygonError};
use crate::rle::{Rle, RleError};

/// An annotation file, or several, and the folder of the images. All cross-references are checked when it is loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The annotation file; of several, the first.
    pub annotations_path: PathBuf,
    /// The folder that file names are relative to.
    pub images_dir: PathBuf,
    /// In the file's order.
    pub images: Vec<ImageRecord>,
    /// In the file's order.
    pub categories: Vec<Category>,
    /// In the file's order, crowd regions included.
    pub instances: Vec<Instance>,
    /// Annotations that were left out because they cannot be used; each with an id, and none has the id of an instance.
    pub unusable: Vec<BadEntry>,
    /// BLAKE3 of the annotation file's bytes; of several files', one of their digests.
    pub digest: [u8; 32],
    /// The annotation files, in the order of their instances: one, unless others were [joined](Self::join) to it.
    pub parts: Vec<DatasetPart>,
}

/// An image as the annotation file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// Unique in the file.
    pub id: u64,
    /// Relative to [`Dataset::images_dir`], unless it is of a [joined](Dataset::join) data set with another folder.
    pub file_name: String,
    /// That other folder.
    pub images_dir: Option<PathBuf>,
    /// Width and height in pixels, as stated, not as decoded.
    pub size: Size,
    /// LVIS: categories that were verified to be absent. Empty in COCO files.
    pub neg_category_ids: Vec<u64>,
    /// LVIS: categories of which not every instance is annotated. Empty in COCO files.
    pub not_exhaustive_category_ids: Vec<u64>,
}

/// A class of objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Category {
    /// Unique in the file.
    pub id: u64,
    /// The class's name.
    pub name: String,
    /// LVIS: in how many training images the class appears. `None` in COCO files.
    pub frequency: Option<Frequency>,
}

/// LVIS's classes of categories by their number of training images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Frequency {
    /// `r`: 1 to 10.
    Rare,
    /// `c`: 11 to 100.
    Common,
    /// `f`: above 100.
    Frequent,
}

/// An annotated object or crowd region.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Unique in the file.
    pub id: u64,
    /// Index into [`Dataset::images`].
    pub image_idx: usize,
    /// Id of one of [`Dataset::categories`].
    pub category_id: u64,
    /// `[x, y, width, height]` in image pixels as the file states it: finite, sides not negative.
    pub bbox: [f64; 4],
    /// In pixels as the file states it; COCO's S, M and L are by this number. Where the file states none, and
    /// [`needs_areas`](LoadOptions::needs_areas) says that nobody asks, that of the box.
    pub area: f64,
    /// The region holds several objects that were not told apart.
    pub is_crowd: bool,
    /// The outline.
    pub segmentation: Segmentation,
}

/// The outline of an instance, checked when it is loaded.
#[derive(Debug, Clone, PartialEq)]
pub enum Segmentation {
    /// `x, y` pairs in image pixels; several polygons are parts of one instance.
    Polygons(Vec<Box<[f64]>>),
    /// A mask of the whole image.
    Rle(Rle),
    /// The data set was loaded for its boxes.
    NotRead,
}

/// What is done with annotations that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnusableRule {
    /// The file is refused, and all of them are named.
    #[default]
    Refuse,
    /// They are left out and listed in [`Dataset::unusable`].
    LeaveOut,
}

/// How an annotation file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// What is done with annotations that cannot be used. Images, categories and entries without an id must be sound by either rule.
    pub unusable: UnusableRule,
    /// Whether the outlines are read. Boxes can be compared without.
    pub needs_masks: bool,
    /// Whether an annotation that states no area cannot be used. To ask about boxes, nobody needs it.
    pub needs_areas: bool,
}

impl Default for LoadOptions {
    /// Everything must be sound, and is read.
    fn default() -> Self {
        Self { unusable: UnusableRule::Refuse, needs_masks: true, needs_areas: true }
    }
}

/// An entry of an annotation file that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{entry}: {problem}")]
pub struct BadEntry {
    /// Which.
    pub entry: Entry,
    /// Why.
    pub problem: EntryProblem,
}

impl BadEntry {
    /// The annotation's id, if it is an annotation with one.
    pub fn annotation_id(&self) -> Option<u64> {
        match self.entry {
            Entry::Id { list: "annotation", id } => Some(id),
            Entry::Id { .. } | Entry::Place { .. } => None,
        }
    }
}

/// An entry of one of an annotation file's lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// One with an id.
    Id {
        /// "image", "category" or "annotation".
        list: &'static str,
        /// The id.
        id: u64,
    },
    /// One without.
    Place {
        /// "image", "category" or "annotation".
        list: &'static str,
        /// Position in the list, from 0.
        idx: usize,
    },
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Id { list, id } => write!(f, "{list} {id}"),
            Self::Place { list, idx } => write!(f, "{list} at place {idx} of its list, counted from 0"),
        }
    }
}

/// Why an entry of an annotation file cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryProblem {
    /// A field that this kind of file must have, with a value it may not have.
    #[error("{field}: expected {expected}, found {found}")]
    Field {
        /// The field's name in the file.
        field: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// Several entries with one id.
    #[error("id: expected one that no other entry has, found it {n_times} times")]
    RepeatedId {
        /// How many have it.
        n_times: usize,
    },
    /// A category id that is not in the file's list.
    #[error("category {category_id} is not in the list of {n_categories} categories")]
    UnknownCategory {
        /// The category that is missing.
        category_id: u64,
        /// Length of the list.
        n_categories: usize,
    },
    /// An annotation of an image that is not in the file's list.
    #[error("image {image_id} is not in the list of {n_images} images")]
    UnknownImage {
        /// The image that is missing.
        image_id: u64,
        /// Length of the list.
        n_images: usize,
    },
    /// Polygons that cannot be drawn.
    #[error(transparent)]
    Polygon(PolygonError),
    /// Runs that are no mask of the image.
    #[error(transparent)]
    Rle(RleError),
}

/// An annotation file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// The file cannot be opened or read.
    #[error("{}: cannot read annotations", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is larger than allowed.
    #[error("{}: expected at most {limit} bytes, found {found}", path.display())]
    TooManyBytes {
        /// The file.
        path: PathBuf,
        /// Largest annotation file that is read.
        limit: u64,
        /// Size of the file.
        found: u64,
    },
    /// Text of another encoding than JSON has.
    #[error("{}: expected text in UTF-8, found {found}", path.display())]
    Encoding {
        /// The file.
        path: PathBuf,
        /// Name of the encoding.
        found: &'static str,
    },
    /// Not JSON, or not COCO's and LVIS's lists.
    #[error("{}: not a COCO or LVIS annotation file", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// One of the lists is missing.
    #[error("{}: {list}: expected a list, found {found}", path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// "images", "categories" or "annotations".
        list: &'static str,
        /// What it is.
        found: String,
    },
    /// Entries that cannot be used.
    #[error("{}: {}", path.display(), bad_entries(entries, *n_sound))]
    Entries {
        /// The file.
        path: PathBuf,
        /// All of them; at least one.
        entries: Vec<BadEntry>,
        /// Number of annotations that can be used.
        n_sound: usize,
    },
    /// The data set was loaded for its boxes: it has no masks.
    #[error("{}: annotation {annotation_id}: its outline was not read", path.display())]
    NoMask {
        /// The file.
        path: PathBuf,
        /// The annotation.
        annotation_id: u64,
    },
    /// Polygons that cannot be drawn.
    #[error("{}: annotation {annotation_id}: {source}", path.display())]
    Polygon {
        /// The file.
        path: PathBuf,
        /// The annotation.
        annotation_id: u64,
        /// Which polygon and why.
        source: PolygonError,
    },
}

/// One line, however many there are.
fn bad_entries(entries: &[BadEntry], n_sound: usize) -> String {
    let first: Vec<String> = entries.iter().take(MAX_NAMED).map(BadEntry::to_string).collect();
    let first = first.join("; ");
    match entries.len() {
        1 => first,
        n if n <= MAX_NAMED => format!("{n} entries cannot be used, {n_sound} annotations are sound: {first}"),
        n => {
            let rest = n - MAX_NAMED;
            format!("{n} entries cannot be used, {n_sound} annotations are sound: {first}; and {rest} more")
        }
    }
}

/// Entries that an error names.
const MAX_NAMED: usize = 5;

impl Dataset {
    /// Reads a COCO annotation file (`instances_*.json`), of which everything must be sound.
    pub fn load_coco(annotations: &Path, images_dir: &Path) -> Result<Dataset, DatasetError> {
        Self::load_coco_with(annotations, images_dir, LoadOptions::default())
    }

    /// Reads a COCO annotation file.
    ///
    /// What pycocotools reads with the same meaning is read: whole numbers written `1.0`, `iscrowd` as `true` or `null`, a byte order
    /// mark. Ids are whole numbers from 0. A file name's `.` and `..` are resolved without looking at the disk.
    pub fn load_coco_with(
        annotations: &Path,
        images_dir: &Path,
        options: LoadOptions,
    ) -> Result<Dataset, DatasetError> {
        crate::coco::load(annotations, images_dir, crate::coco::Format::Coco, options)
    }

    /// Reads an LVIS annotation file, v0.5 or v1.
    ///
    /// Where an image has no `file_name` (v1), it is the last two parts of `coco_url` (`train2017/000000391895.jpg`).
    /// `COCO_val2014_000000391895.jpg` (v0.5) becomes `000000391895.jpg`, the file's name in COCO 2017.
    pub fn load_lvis(annotations: &Path, images_dir: &Path) -> Result<Dataset, DatasetError> {
        Self::load_lvis_with(annotations, images_dir, LoadOptions::default())
    }

    /// Reads an LVIS annotation file, v0.5 or v1; see [`load_coco_with`](Self::load_coco_with).
    pub fn load_lvis_with(
        annotations: &Path,
        images_dir: &Path,
        options: LoadOptions,
    ) -> Result<Dataset, DatasetError> {
        crate::coco::load(annotations, images_dir, crate::coco::Format::Lvis, options)
    }

    /// How common the category of an instance is, in LVIS.
    ///
    /// # Panics
    /// If `instance_idx` is not an index into [`Dataset::instances`].
    pub fn frequency(&self, instance_idx: usize) -> Option<Frequency> {
        let category_id = self.instances[instance_idx].category_id;
        self.categories.iter().find(|category| category.id == category_id).and_then(|category| category.frequency)
    }

    /// For each instance, how many other instances of its image (no crowd regions) have a box that overlaps its box. Boxes that only
    /// touch do not overlap.
    pub fn competitors(&self) -> Vec<u32> {
        let mut of_image: Vec<Vec<usize>> = vec![vec![]; self.images.len()];
        for (idx, instance) in self.instances.iter().enumerate() {
            of_image[instance.image_idx].push(idx);
        }
        let axis = |a: f64, a_len: f64, b: f64, b_len: f64| a < b + b_len && b < a + a_len;
        let overlap =
            |[ax, ay, aw, ah]: [f64; 4], [bx, by, bw, bh]: [f64; 4]| axis(ax, aw, bx, bw) && axis(ay, ah, by, bh);
        let count = |(idx, instance): (usize, &Instance)| {
            let others = of_image[instance.image_idx].iter().filter(|&&other| other != idx);
            let others = others.map(|&other| &self.instances[other]);
            let n = others.filter(|other| !other.is_crowd && overlap(instance.bbox, other.bbox)).count();
            u32::try_from(n).expect("fewer than 2^32 annotations in an image")
        };
        self.instances.iter().enumerate().map(count).collect()
    }

    /// Where an image lies.
    ///
    /// # Panics
    /// If `image_idx` is not an index into [`Dataset::images`].
    pub fn image_path(&self, image_idx: usize) -> PathBuf {
        let image = &self.images[image_idx];
        image.images_dir.as_ref().unwrap_or(&self.images_dir).join(&image.file_name)
    }

    /// The mask of an instance, the size of its image.
    ///
    /// # Panics
    /// If `instance_idx` is not an index into [`Dataset::instances`].
    pub fn mask(&self, instance_idx: usize) -> Result<Rle, DatasetError> {
        let instance = &self.instances[instance_idx];
        match &instance.segmentation {
            Segmentation::Rle(rle) => Ok(rle.clone()),
            Segmentation::NotRead => {
                let path = self.part(instance_idx).annotations_path.clone();
                Err(DatasetError::NoMask { path, annotation_id: instance.id })
            }
            Segmentation::Polygons(polygons) => polygon::rasterize(polygons, self.images[instance.image_idx].size)
                .map_err(|source| {
                    let path = self.part(instance_idx).annotations_path.clone();
                    DatasetError::Polygon { path, annotation_id: instance.id, source }
                }),
        }
    }
}
