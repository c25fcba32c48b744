//! The JSON of COCO and LVIS. Both are foreign formats: fields we do not use are ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path};

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use crate::dataset::{Category, Dataset, DatasetError, Frequency, ImageRecord, Instance, Segmentation};
use crate::geometry::Size;
use crate::polygon::check_polygons;
use crate::rle::{Rle, RleError};

/// Which fields must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Coco,
    Lvis,
}

/// Reads and checks an annotation file.
pub(crate) fn load(path: &Path, images_dir: &Path, format: Format) -> Result<Dataset, DatasetError> {
    let bytes = read(path)?;
    let digest = *blake3::hash(&bytes).as_bytes();
    let json: JsonFile =
        serde_json::from_slice(&bytes).map_err(|source| DatasetError::Json { path: path.to_path_buf(), source })?;
    drop(bytes);

    let images: Vec<ImageRecord> =
        json.images.into_iter().map(|image| image.check(path, format)).collect::<Result<_, _>>()?;
    let categories: Vec<Category> =
        json.categories.into_iter().map(|category| category.check(path, format)).collect::<Result<_, _>>()?;
    let image_idx_by_id = unique_ids(path, "image", images.iter().map(|image| image.id))?;
    let categories_by_id = unique_ids(path, "category", categories.iter().map(|category| category.id))?;
    let known = Known { path, images: &images, image_idx_by_id, categories_by_id };
    for image in &images {
        for category_id in image.neg_category_ids.iter().chain(&image.not_exhaustive_category_ids) {
            known.check_category("image", image.id, *category_id)?;
        }
    }
    let instances: Vec<Instance> =
        json.annotations.into_iter().map(|annotation| annotation.check(&known)).collect::<Result<_, _>>()?;
    let mut instance_ids = BTreeSet::new();
    if let Some(twice) = instances.iter().find(|instance| !instance_ids.insert(instance.id)) {
        return Err(DatasetError::DuplicateId { path: path.to_path_buf(), list: "annotation", id: twice.id });
    }
    let (annotations_path, images_dir) = (path.to_path_buf(), images_dir.to_path_buf());
    Ok(Dataset { annotations_path, images_dir, images, categories, instances, digest })
}

fn read(path: &Path) -> Result<Vec<u8>, DatasetError> {
    let failed = |source| DatasetError::Read { path: path.to_path_buf(), source };
    let mut file = File::open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?.len();
    if found > MAX_BYTES {
        return Err(DatasetError::TooManyBytes { path: path.to_path_buf(), limit: MAX_BYTES, found });
    }
    let mut bytes = Vec::with_capacity(found as usize);
    file.by_ref().take(MAX_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// Index of each id in its list.
fn unique_ids(
    path: &Path,
    list: &'static str,
    ids: impl Iterator<Item = u64>,
) -> Result<BTreeMap<u64, usize>, DatasetError> {
    let mut idx_by_id = BTreeMap::new();
    for (idx, id) in ids.enumerate() {
        if idx_by_id.insert(id, idx).is_some() {
            return Err(DatasetError::DuplicateId { path: path.to_path_buf(), list, id });
        }
    }
    Ok(idx_by_id)
}

/// What annotations refer to.
struct Known<'a> {
    path: &'a Path,
    images: &'a [ImageRecord],
    image_idx_by_id: BTreeMap<u64, usize>,
    categories_by_id: BTreeMap<u64, usize>,
}

impl Known<'_> {
    fn check_category(&self, list: &'static str, id: u64, category_id: u64) -> Result<(), DatasetError> {
        if self.categories_by_id.contains_key(&category_id) {
            return Ok(());
        }
        let (path, n_categories) = (self.path.to_path_buf(), self.categories_by_id.len());
        Err(DatasetError::UnknownCategory { path, list, id, category_id, n_categories })
    }
}

#[derive(Deserialize)]
struct JsonFile {
    images: Vec<JsonImage>,
    categories: Vec<JsonCategory>,
    annotations: Vec<JsonAnnotation>,
}

#[derive(Deserialize)]
struct JsonImage {
    id: u64,
    width: u64,
    height: u64,
    file_name: Option<String>,
    coco_url: Option<String>,
    neg_category_ids: Option<Vec<u64>>,
    not_exhaustive_category_ids: Option<Vec<u64>>,
}

#[derive(Deserialize)]
struct JsonCategory {
    id: u64,
    name: String,
    frequency: Option<String>,
}

#[derive(Deserialize)]
struct JsonAnnotation {
    id: u64,
    image_id: u64,
    category_id: u64,
    bbox: [f64; 4],
    area: f64,
    /// LVIS has none, and no crowd regions.
    #[serde(default)]
    iscrowd: u64,
    segmentation: Option<JsonSegmentation>,
}

pub(crate) enum JsonSegmentation {
    Polygons(Vec<Box<[f64]>>),
    Rle(JsonRle),
}

#[derive(Deserialize)]
pub(crate) struct JsonRle {
    /// Height, width.
    pub(crate) size: [u32; 2],
    pub(crate) counts: JsonCounts,
}

pub(crate) enum JsonCounts {
    Runs(Vec<u32>),
    Compressed(String),
}

impl JsonImage {
    fn check(self, path: &Path, format: Format) -> Result<ImageRecord, DatasetError> {
        let error = |field, expected: &str, found: String| field_error(path, "image", self.id, field, expected, found);
        if !(1..=MAX_SIDE).contains(&self.width) || !(1..=MAX_SIDE).contains(&self.height) {
            let found = format!("{} x {}", self.width, self.height);
            return Err(error("width and height", &format!("of 1 to {MAX_SIDE} pixels"), found));
        }
        if self.width * self.height > MAX_PIXELS {
            let found = format!("{} x {} = {}", self.width, self.height, self.width * self.height);
            return Err(error("width and height", &format!("of at most {MAX_PIXELS} pixels"), found));
        }
        let size = Size { width: self.width as u32, height: self.height as u32 };
        let file_name = match format {
            Format::Coco => self.file_name.clone(),
            Format::Lvis => self.file_name.as_deref().map(name_in_coco_2017).or(self.coco_url.as_deref().map(url_tail)),
        };
        let Some(file_name) = file_name else {
            return Err(error("file_name", "to be there", String::from("none")));
        };
        let plain = Path::new(&file_name).components().all(|part| matches!(part, Component::Normal(_)));
        if file_name.is_empty() || !plain {
            return Err(error("file_name", "to stay inside of the image folder", format!("{file_name:?}")));
        }
        let list = |field, ids: Option<Vec<u64>>| match (format, ids) {
            (Format::Coco, _) => Ok(Vec::new()),
            (Format::Lvis, Some(ids)) => Ok(ids),
            (Format::Lvis, None) => Err(error(field, "to be there in an LVIS file", String::from("none"))),
        };
        Ok(ImageRecord {
            id: self.id,
            size,
            file_name,
            neg_category_ids: list("neg_category_ids", self.neg_category_ids)?,
            not_exhaustive_category_ids: list("not_exhaustive_category_ids", self.not_exhaustive_category_ids)?,
        })
    }
}

impl JsonCategory {
    fn check(self, path: &Path, format: Format) -> Result<Category, DatasetError> {
        let frequency = match (format, self.frequency.as_deref()) {
            (Format::Coco, _) => None,
            (Format::Lvis, Some("r")) => Some(Frequency::Rare),
            (Format::Lvis, Some("c")) => Some(Frequency::Common),
            (Format::Lvis, Some("f")) => Some(Frequency::Frequent),
            (Format::Lvis, other) => {
                let found = other.map_or(String::from("none"), |text| format!("{text:?}"));
                return Err(field_error(path, "category", self.id, "frequency", "\"r\", \"c\" or \"f\"", found));
            }
        };
        Ok(Category { id: self.id, name: self.name, frequency })
    }
}

impl JsonAnnotation {
    fn check(self, known: &Known) -> Result<Instance, DatasetError> {
        let (path, id) = (known.path, self.id);
        let error = |field, expected, found| field_error(path, "annotation", id, field, expected, found);
        known.check_category("annotation", id, self.category_id)?;
        let Some(&image_idx) = known.image_idx_by_id.get(&self.image_id) else {
            return Err(DatasetError::UnknownImage {
                path: path.to_path_buf(),
                annotation_id: id,
                image_id: self.image_id,
                n_images: known.images.len(),
            });
        };
        let [x, y, width, height] = self.bbox;
        if !(width >= 0.0 && height >= 0.0 && (x + width).is_finite() && (y + height).is_finite()) {
            let expected = "[x, y, width, height], finite, with sides of at least 0";
            return Err(error("bbox", expected, format!("{:?}", self.bbox)));
        }
        if !(self.area >= 0.0 && self.area.is_finite()) {
            return Err(error("area", "finite and at least 0", self.area.to_string()));
        }
        if self.iscrowd > 1 {
            return Err(error("iscrowd", "0 or 1", self.iscrowd.to_string()));
        }
        let segmentation = match self.segmentation {
            None => return Err(error("segmentation", "polygons or runs", String::from("none"))),
            Some(JsonSegmentation::Polygons(polygons)) => {
                check_polygons(&polygons).map_err(|source| DatasetError::Polygon {
                    path: path.to_path_buf(),
                    annotation_id: id,
                    source,
                })?;
                Segmentation::Polygons(polygons)
            }
            Some(JsonSegmentation::Rle(JsonRle { size: [height, width], counts })) => {
                let size = Size { width, height };
                let image_size = known.images[image_idx].size;
                if size != image_size {
                    let expected = format!("of its image's size, {image_size}");
                    return Err(error("segmentation", &expected, size.to_string()));
                }
                Segmentation::Rle(counts.rle(size).map_err(|source| DatasetError::Rle {
                    path: path.to_path_buf(),
                    annotation_id: id,
                    source,
                })?)
            }
        };
        Ok(Instance {
            id,
            image_idx,
            category_id: self.category_id,
            bbox: self.bbox,
            area: self.area,
            is_crowd: self.iscrowd == 1,
            segmentation,
        })
    }
}

impl JsonCounts {
    /// The mask of an image.
    pub(crate) fn rle(&self, size: Size) -> Result<Rle, RleError> {
        match self {
            JsonCounts::Runs(counts) => Rle::from_counts(size, counts),
            JsonCounts::Compressed(text) => Rle::from_compressed_str(size, text),
        }
    }
}

/// Written out because serde's untagged enums first copy the value into a tree, ten times its size.
impl<'de> Deserialize<'de> for JsonSegmentation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JsonSegmentation, D::Error> {
        struct ListOrObject;

        impl<'de> Visitor<'de> for ListOrObject {
            type Value = JsonSegmentation;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a list of polygons or an object with size and counts")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<JsonSegmentation, A::Error> {
                let mut polygons = Vec::with_capacity(1);
                while let Some(polygon) = list.next_element::<Box<[f64]>>()? {
                    polygons.push(polygon);
                }
                Ok(JsonSegmentation::Polygons(polygons))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<JsonSegmentation, A::Error> {
                JsonRle::deserialize(MapAccessDeserializer::new(map)).map(JsonSegmentation::Rle)
            }
        }

        deserializer.deserialize_any(ListOrObject)
    }
}

/// Written out for the same reason.
impl<'de> Deserialize<'de> for JsonCounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JsonCounts, D::Error> {
        struct RunsOrText;

        impl<'de> Visitor<'de> for RunsOrText {
            type Value = JsonCounts;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a list of run lengths or a compressed string")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<JsonCounts, A::Error> {
                let mut counts = Vec::new();
                while let Some(count) = list.next_element()? {
                    counts.push(count);
                }
                Ok(JsonCounts::Runs(counts))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<JsonCounts, E> {
                Ok(JsonCounts::Compressed(String::from(text)))
            }
        }

        deserializer.deserialize_any(RunsOrText)
    }
}

/// LVIS v0.5 names images as COCO 2014 did: `COCO_val2014_000000391895.jpg` is `000000391895.jpg` in COCO 2017.
fn name_in_coco_2017(file_name: &str) -> String {
    let name_2014 = file_name.strip_prefix("COCO_").and_then(|rest| rest.split_once('_'));
    String::from(name_2014.map_or(file_name, |(_, name)| name))
}

/// `http://images.cocodataset.org/train2017/000000391895.jpg` is `train2017/000000391895.jpg`.
fn url_tail(url: &str) -> String {
    let start = url.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
    String::from(&url[start..])
}

fn field_error(
    path: &Path,
    list: &'static str,
    id: u64,
    field: &'static str,
    expected: &str,
    found: String,
) -> DatasetError {
    DatasetError::Field { path: path.to_path_buf(), list, id, field, expected: String::from(expected), found }
}

/// COCO 2017's largest file has 0.45 GB, LVIS v1's 1.1 GB.
pub(crate) const MAX_BYTES: u64 = 4 << 30;
/// A JPEG image's largest side.
const MAX_SIDE: u64 = 65_535;
/// Masks take a byte a pixel.
const MAX_PIXELS: u64 = 1 << 28;
