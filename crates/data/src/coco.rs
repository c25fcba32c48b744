//! The JSON of COCO and LVIS. Both are foreign formats: fields we do not use are ignored, and what pycocotools reads with the same
//! meaning is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path};

use crate::coco_json::{JsonAnnotation, JsonCategory, JsonEntry, JsonFile, JsonImage, Row};
use crate::dataset::{
    BadEntry, Category, Dataset, DatasetError, Entry, EntryProblem, Frequency, ImageRecord, Instance, LoadOptions,
    Segmentation, UnusableRule,
};
use crate::geometry::Size;
use crate::joined::DatasetPart;
use crate::json_value::{Scalar, Unexpected, foreign_encoding, tolerated};
use crate::outline::{OutlineError, Values};

/// Which fields must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Coco,
    Lvis,
}

/// Reads and checks an annotation file.
pub(crate) fn load(
    path: &Path,
    images_dir: &Path,
    format: Format,
    options: LoadOptions,
) -> Result<Dataset, DatasetError> {
    let bytes = read(path)?;
    let digest = *blake3::hash(&bytes).as_bytes();
    if let Some(found) = foreign_encoding(&bytes) {
        return Err(DatasetError::Encoding { path: path.to_path_buf(), found });
    }
    let json = parse(&bytes).map_err(|source| DatasetError::Json { path: path.to_path_buf(), source })?;
    drop(bytes);
    let mut bad = vec![];
    let images = entries(json.images.rows(path, "images")?, "image", &mut bad, |image| image.check(format));
    let categories =
        entries(json.categories.rows(path, "categories")?, "category", &mut bad, |category| category.check(format));
    let images = unique("image", images, |image| image.id, &mut bad);
    let categories = unique("category", categories, |category| category.id, &mut bad);
    let idx_by_id = |ids: &mut dyn Iterator<Item = u64>| ids.zip(0..).collect::<BTreeMap<u64, usize>>();
    let known = Known {
        image_idx_by_id: idx_by_id(&mut images.iter().map(|image| image.id)),
        category_ids: categories.iter().map(|category| category.id).collect(),
        images: &images,
        options,
    };
    for image in &images {
        for category_id in image.neg_category_ids.iter().chain(&image.not_exhaustive_category_ids) {
            if let Err(problem) = known.check_category(*category_id) {
                bad.push(BadEntry { entry: Entry::Id { list: "image", id: image.id }, problem });
            }
        }
    }
    let n_structural = bad.len();
    let annotations = json.annotations.rows(path, "annotations")?;
    let instances = entries(annotations, "annotation", &mut bad, |annotation| annotation.check(&known));
    let instances = unique("annotation", instances, |instance| instance.id, &mut bad);
    keep_causes(&mut bad);
    // What has no id of its own cannot be said to be left out.
    let may_leave_out = n_structural == 0 && bad.iter().all(|entry| matches!(entry.entry, Entry::Id { .. }));
    let are_left_out = options.unusable == UnusableRule::LeaveOut && may_leave_out;
    if !bad.is_empty() && !are_left_out {
        return Err(DatasetError::Entries { path: path.to_path_buf(), entries: bad, n_sound: instances.len() });
    }
    let (annotations_path, images_dir) = (path.to_path_buf(), images_dir.to_path_buf());
    let (proposed_by, composed_of) = (json.info.proposed_by, json.info.composed_of);
    let part =
        DatasetPart { annotations_path: annotations_path.clone(), digest, first_instance: 0, proposed_by, composed_of };
    let parts = vec![part];
    Ok(Dataset { annotations_path, images_dir, images, categories, instances, unusable: bad, digest, parts })
}

/// The bytes of an annotation file, of bounded length.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, DatasetError> {
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

fn parse(bytes: &[u8]) -> Result<JsonFile, serde_json::Error> {
    let without_mark = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    serde_json::from_slice(without_mark).or_else(|error| match error.is_syntax() {
        // Of two errors, the one about the file as it is.
        true => serde_json::from_slice(&tolerated(without_mark)).map_err(|_| error),
        false => Err(error),
    })
}

/// The entries of a list that are sound.
fn entries<J: JsonEntry, T>(
    rows: Vec<Row<J>>,
    list: &'static str,
    bad: &mut Vec<BadEntry>,
    mut check: impl FnMut(J) -> Result<T, EntryProblem>,
) -> Vec<T> {
    let mut sound = Vec::with_capacity(rows.len());
    for (idx, row) in rows.into_iter().enumerate() {
        let place = Entry::Place { list, idx };
        let (entry, checked) = match row {
            Row::Object(json) => match json.id().whole() {
                Ok(id) => (Entry::Id { list, id }, check(json)),
                Err(unexpected) => (place, Err(field("id", unexpected))),
            },
            Row::Other(found) => (place, Err(field("entry", found.unexpected("an object")))),
        };
        match checked {
            Ok(entry) => sound.push(entry),
            Err(problem) => bad.push(BadEntry { entry, problem }),
        }
    }
    sound
}

/// The entries whose id no other one has. It is not known which of several an id means.
fn unique<T>(list: &'static str, entries: Vec<T>, id: fn(&T) -> u64, bad: &mut Vec<BadEntry>) -> Vec<T> {
    let (mut seen, mut repeated) = (BTreeSet::new(), BTreeMap::new());
    for id in entries.iter().map(id) {
        if !seen.insert(id) {
            *repeated.entry(id).or_insert(1) += 1;
        }
    }
    bad.extend(repeated.iter().map(|(&id, &n_times)| BadEntry {
        entry: Entry::Id { list, id },
        problem: EntryProblem::RepeatedId { n_times },
    }));
    entries.into_iter().filter(|entry| !repeated.contains_key(&id(entry))).collect()
}

/// What refers to a bad image or category is as good as that is: it is the image or category that has to be mended.
fn keep_causes(bad: &mut Vec<BadEntry>) {
    let bad_ids = |wanted: &str| -> BTreeSet<u64> {
        let of_list = bad.iter().filter_map(|bad| match bad.entry {
            Entry::Id { list, id } if list == wanted => Some(id),
            _ => None,
        });
        of_list.collect()
    };
    let has_nameless =
        |wanted: &str| bad.iter().any(|bad| matches!(bad.entry, Entry::Place { list, .. } if list == wanted));
    let (bad_images, bad_categories) = (bad_ids("image"), bad_ids("category"));
    let (nameless_image, nameless_category) = (has_nameless("image"), has_nameless("category"));
    bad.retain(|bad| match bad.problem {
        EntryProblem::UnknownImage { image_id, .. } => !nameless_image && !bad_images.contains(&image_id),
        EntryProblem::UnknownCategory { category_id, .. } => {
            !nameless_category && !bad_categories.contains(&category_id)
        }
        _ => true,
    });
}

/// What annotations refer to.
struct Known<'a> {
    images: &'a [ImageRecord],
    image_idx_by_id: BTreeMap<u64, usize>,
    category_ids: BTreeSet<u64>,
    options: LoadOptions,
}

impl Known<'_> {
    fn check_category(&self, category_id: u64) -> Result<(), EntryProblem> {
        if self.category_ids.contains(&category_id) {
            return Ok(());
        }
        Err(EntryProblem::UnknownCategory { category_id, n_categories: self.category_ids.len() })
    }
}

impl JsonImage {
    fn check(self, format: Format) -> Result<ImageRecord, EntryProblem> {
        let side = |name, value: &Scalar| match value.whole() {
            Ok(side @ 1..=MAX_SIDE) => Ok(side),
            _ => Err(field(name, value.unexpected("a whole number of pixels from 1 to 65535"))),
        };
        let (width, height) = (side("width", &self.width)?, side("height", &self.height)?);
        if width * height > MAX_PIXELS {
            let found = format!("{width} x {height} = {}", width * height);
            return Err(problem("width and height", format!("at most {MAX_PIXELS} pixels"), found));
        }
        let text = |name, value: &Scalar| match value {
            Scalar::Missing | Scalar::Null => Ok(None),
            Scalar::Text(text) => Ok(Some(text.clone())),
            other => Err(field(name, other.unexpected("a text"))),
        };
        let file_name = text("file_name", &self.file_name)?;
        let file_name = match format {
            Format::Coco => file_name,
            Format::Lvis => match file_name {
                Some(name) => Some(name_in_coco_2017(&name)),
                None => text("coco_url", &self.coco_url)?.map(|url| url_tail(&url)),
            },
        };
        let Some(file_name) = file_name else {
            return Err(field("file_name", self.file_name.unexpected("a path below the image folder")));
        };
        let Some(file_name) = inner_path(&file_name) else {
            let expected = String::from("a path that stays inside of the image folder");
            return Err(problem("file_name", expected, format!("{file_name:?}")));
        };
        let list = |name, values: &Values| match (format, values) {
            (Format::Coco, _) => Ok(Vec::new()),
            (Format::Lvis, Values::List(ids)) => {
                ids.iter().map(|id| id.whole().map_err(|unexpected| field(name, unexpected))).collect()
            }
            (Format::Lvis, Values::Other(other)) => Err(field(name, other.unexpected("a list, as LVIS files have"))),
        };
        Ok(ImageRecord {
            id: id(&self.id)?,
            size: Size { width: width as u32, height: height as u32 },
            file_name,
            images_dir: None,
            neg_category_ids: list("neg_category_ids", &self.neg_category_ids)?,
            not_exhaustive_category_ids: list("not_exhaustive_category_ids", &self.not_exhaustive_category_ids)?,
        })
    }
}

impl JsonCategory {
    fn check(self, format: Format) -> Result<Category, EntryProblem> {
        let Scalar::Text(name) = &self.name else {
            return Err(field("name", self.name.unexpected("a text")));
        };
        let frequency = match (format, &self.frequency) {
            (Format::Coco, _) => None,
            (Format::Lvis, Scalar::Text(letter)) if letter == "r" => Some(Frequency::Rare),
            (Format::Lvis, Scalar::Text(letter)) if letter == "c" => Some(Frequency::Common),
            (Format::Lvis, Scalar::Text(letter)) if letter == "f" => Some(Frequency::Frequent),
            (Format::Lvis, other) => {
                return Err(field("frequency", other.unexpected("\"r\", \"c\" or \"f\", as LVIS files have")));
            }
        };
        Ok(Category { id: id(&self.id)?, name: name.clone(), frequency })
    }
}

impl JsonAnnotation {
    fn check(self, known: &Known) -> Result<Instance, EntryProblem> {
        let category_id = self.category_id.whole().map_err(|unexpected| field("category_id", unexpected))?;
        known.check_category(category_id)?;
        let image_id = self.image_id.whole().map_err(|unexpected| field("image_id", unexpected))?;
        let Some(&image_idx) = known.image_idx_by_id.get(&image_id) else {
            return Err(EntryProblem::UnknownImage { image_id, n_images: known.images.len() });
        };
        let bbox = self.bbox.bbox().map_err(|unexpected| field("bbox", unexpected))?;
        let stated_area = self.stated_area(&known.options)?;
        let is_crowd = self.iscrowd.flag().map_err(|unexpected| field("iscrowd", unexpected))?;
        let size = known.images[image_idx].size;
        let segmentation = match known.options.needs_masks {
            true => self.segmentation.check(size).map_err(EntryProblem::from)?,
            false => Segmentation::NotRead,
        };
        let area = stated_area.unwrap_or(bbox[2] * bbox[3]);
        Ok(Instance { id: id(&self.id)?, image_idx, category_id, bbox, area, is_crowd, segmentation })
    }

    /// None if there is none and it is not needed.
    fn stated_area(&self, options: &LoadOptions) -> Result<Option<f64>, EntryProblem> {
        if !options.needs_areas && matches!(self.area, Scalar::Missing | Scalar::Null) {
            return Ok(None);
        }
        match self.area.number().map_err(|unexpected| field("area", unexpected))? {
            area if area < 0.0 => Err(field("area", self.area.unexpected("a finite number of at least 0"))),
            area => Ok(Some(area)),
        }
    }
}

impl From<OutlineError> for EntryProblem {
    fn from(error: OutlineError) -> Self {
        match error {
            OutlineError::Unexpected(unexpected) => field("segmentation", unexpected),
            OutlineError::Size { expected, found } => {
                problem("segmentation", format!("runs of its image's size, {expected}"), found.to_string())
            }
            OutlineError::Polygon(source) => Self::Polygon(source),
            OutlineError::Rle(source) => Self::Rle(source),
        }
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

/// A relative path without `.` and `..`; none if it is empty, absolute, or leaves the folder that it is relative to on its way.
fn inner_path(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = vec![];
    for part in Path::new(path).components() {
        match part {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => drop(parts.pop()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn id(value: &Scalar) -> Result<u64, EntryProblem> {
    value.whole().map_err(|unexpected| field("id", unexpected))
}

fn field(field: &'static str, Unexpected { expected, found }: Unexpected) -> EntryProblem {
    problem(field, String::from(expected), found)
}

fn problem(field: &'static str, expected: String, found: String) -> EntryProblem {
    EntryProblem::Field { field, expected, found }
}

pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// COCO 2017's largest file has 0.45 GB, LVIS v1's 1.1 GB.
pub(crate) const MAX_BYTES: u64 = 4 << 30;
/// A JPEG image's largest side.
const MAX_SIDE: u64 = 65_535;
/// Masks take a byte a pixel.
const MAX_PIXELS: u64 = 1 << 28;
