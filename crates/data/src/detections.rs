//! COCO's result files: scored boxes and masks of a detector, checked against the annotations they answer.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::coco::MAX_BYTES;
use crate::dataset::{Dataset, Segmentation};
use crate::json_value::{Scalar, Unexpected};
use crate::outline::{JsonSegmentation, OutlineError, Values};
use crate::polygon::{self, PolygonError};
use crate::rle::{Rle, RleError};

/// A result file. Masks stay text until [`Detections::mask`], because a detector has many more of them than an annotator.
#[derive(Debug, Clone)]
pub struct Detections {
    /// The result file.
    pub path: PathBuf,
    /// In the file's order.
    pub items: Vec<Detection>,
    /// Whether the file gives boxes; it does for all detections or for none.
    pub has_boxes: bool,
    /// BLAKE3 of the file's bytes.
    pub digest: [u8; 32],
    text: String,
}

/// One answer of a detector.
#[derive(Debug, Clone)]
pub struct Detection {
    /// Index into [`Dataset::images`].
    pub image_idx: usize,
    /// Index into [`Dataset::categories`].
    pub category_idx: usize,
    /// The annotation whose prompt it answers. Not part of COCO's format; average precision does not look at it.
    pub annotation_id: Option<u64>,
    /// Finite; larger is surer.
    pub score: f64,
    /// `[x, y, width, height]` in image pixels: finite, sides not negative.
    pub bbox: Option<[f64; 4]>,
    /// Bytes of the file's text.
    segmentation: Option<Range<usize>>,
}

/// A result file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DetectionError {
    /// The file cannot be opened, read, or is not UTF-8.
    #[error("{}: cannot read detections", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is larger than allowed.
    #[error("{}: expected at most {MAX_BYTES} bytes, found {found}", path.display())]
    TooManyBytes {
        /// The file.
        path: PathBuf,
        /// Size of the file.
        found: u64,
    },
    /// Not JSON, or not the fields COCO prescribes.
    #[error("{}: detection {detection_idx}: expected COCO's result format, found {found:?} where reading ended", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Position in the list, from 0.
        detection_idx: usize,
        /// The text around the place where reading ended.
        found: String,
        /// Where and what.
        source: serde_json::Error,
    },
    /// A field with a value it may not have.
    #[error("{}: detection {detection_idx}: {field}: expected {expected}, found {found}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// Position in the list, from 0.
        detection_idx: usize,
        /// The field's name in the file.
        field: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// Polygons that cannot be drawn.
    #[error("{}: detection {detection_idx}: {source}", path.display())]
    Polygon {
        /// The file.
        path: PathBuf,
        /// Position in the list, from 0.
        detection_idx: usize,
        /// Which polygon and why.
        source: PolygonError,
    },
    /// Runs that are no mask of the image.
    #[error("{}: detection {detection_idx}: {source}", path.display())]
    Rle {
        /// The file.
        path: PathBuf,
        /// Position in the list, from 0.
        detection_idx: usize,
        /// Why.
        source: RleError,
    },
}

impl Detections {
    /// Reads a list of `{image_id, category_id, score, bbox and/or segmentation}`. Everything but the masks is checked.
    pub fn load(path: &Path, dataset: &Dataset) -> Result<Detections, DetectionError> {
        let failed = |source| DetectionError::Read { path: path.to_path_buf(), source };
        let mut file = File::open(path).map_err(failed)?;
        let found = file.metadata().map_err(failed)?.len();
        if found > MAX_BYTES {
            return Err(DetectionError::TooManyBytes { path: path.to_path_buf(), found });
        }
        let mut text = String::with_capacity(found as usize);
        file.by_ref().take(MAX_BYTES).read_to_string(&mut text).map_err(failed)?;
        Detections::parse(path, text, dataset)
    }

    /// Reads the text of a result file; `path` stands in errors.
    pub fn parse(path: &Path, text: String, dataset: &Dataset) -> Result<Detections, DetectionError> {
        let mut list: Vec<JsonDetection> = Vec::new();
        let mut json = serde_json::Deserializer::from_str(&text);
        let read = ListInto(&mut list).deserialize(&mut json).and_then(|()| json.end());
        if let Err(source) = read {
            let found = text_at(&text, source.line(), source.column());
            return Err(DetectionError::Json { path: path.to_path_buf(), detection_idx: list.len(), found, source });
        }
        let has_boxes = list.first().is_some_and(JsonDetection::has_box);
        let mut known = Known {
            path,
            dataset,
            has_boxes,
            text_start: text.as_ptr() as usize,
            image_idx_by_id: dataset.images.iter().enumerate().map(|(idx, image)| (image.id, idx)).collect(),
            category_idx_by_id: dataset.categories.iter().enumerate().map(|(idx, of)| (of.id, idx)).collect(),
            ids: HashSet::new(),
        };
        let items = list.into_iter().enumerate().map(|(idx, json)| known.check(idx, json));
        let items = items.collect::<Result<Vec<_>, _>>()?;
        let digest = *blake3::hash(text.as_bytes()).as_bytes();
        Ok(Detections { path: path.to_path_buf(), items, has_boxes, digest, text })
    }

    /// The mask of a detection, the size of its image.
    ///
    /// # Panics
    /// If `detection_idx` is not an index into [`Detections::items`], or `dataset` is not the one they were read for.
    pub fn mask(&self, detection_idx: usize, dataset: &Dataset) -> Result<Rle, DetectionError> {
        let path = || self.path.clone();
        let item = &self.items[detection_idx];
        let field = |expected: String, found: String| DetectionError::Field {
            path: path(),
            detection_idx,
            field: "segmentation",
            expected,
            found,
        };
        let Some(range) = item.segmentation.clone() else {
            return Err(field(String::from("polygons or runs"), String::from("none")));
        };
        let image_size = dataset.images[item.image_idx].size;
        let text = &self.text[range];
        let json: JsonSegmentation = serde_json::from_str(text).map_err(|source| {
            let found = text_at(text, source.line(), source.column());
            DetectionError::Json { path: path(), detection_idx, found, source }
        })?;
        let polygon = |source| DetectionError::Polygon { path: path(), detection_idx, source };
        let segmentation = json.check(image_size).map_err(|error| match error {
            OutlineError::Unexpected(Unexpected { expected, found }) => field(String::from(expected), found),
            OutlineError::Size { expected, found } => {
                field(format!("runs of its image's size, {expected}"), found.to_string())
            }
            OutlineError::Polygon(source) => polygon(source),
            OutlineError::Rle(source) => DetectionError::Rle { path: path(), detection_idx, source },
        })?;
        match segmentation {
            Segmentation::Polygons(polygons) => polygon::rasterize(&polygons, image_size).map_err(polygon),
            Segmentation::Rle(rle) => Ok(rle),
            Segmentation::NotRead => Err(field(String::from("polygons or runs"), String::from("none"))),
        }
    }
}

#[derive(serde::Deserialize)]
struct JsonDetection<'a> {
    #[serde(default)]
    id: Scalar,
    #[serde(default)]
    annotation_id: Scalar,
    #[serde(default)]
    image_id: Scalar,
    #[serde(default)]
    category_id: Scalar,
    #[serde(default)]
    score: Scalar,
    #[serde(default)]
    bbox: Values,
    #[serde(borrow)]
    segmentation: Option<&'a RawValue>,
}

impl JsonDetection<'_> {
    /// Some exporters write an empty box beside a mask; pycocotools takes that for none.
    fn has_box(&self) -> bool {
        !matches!(self.bbox, Values::Other(Scalar::Missing | Scalar::Null)) && !self.bbox.is_empty_list()
    }
}

/// Reads a list into a vector, whose length then tells which element is broken.
struct ListInto<'v, 'a>(&'v mut Vec<JsonDetection<'a>>);

impl<'de> DeserializeSeed<'de> for ListInto<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ListInto<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of detections")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(detection) = list.next_element()? {
            self.0.push(detection);
        }
        Ok(())
    }
}

/// What detections refer to.
struct Known<'a> {
    path: &'a Path,
    dataset: &'a Dataset,
    has_boxes: bool,
    /// Address of the text, for offsets into it.
    text_start: usize,
    image_idx_by_id: HashMap<u64, usize>,
    category_idx_by_id: HashMap<u64, usize>,
    /// Of the detections that have one.
    ids: HashSet<u64>,
}

impl Known<'_> {
    fn check(&mut self, detection_idx: usize, json: JsonDetection) -> Result<Detection, DetectionError> {
        let path = self.path;
        let error = |field, expected: String, found: String| DetectionError::Field {
            path: path.to_path_buf(),
            detection_idx,
            field,
            expected,
            found,
        };
        let annotations = self.dataset.annotations_path.display();
        let unexpected = |name, Unexpected { expected, found }| error(name, String::from(expected), found);
        let whole = |name, value: &Scalar| value.whole().map_err(|other| unexpected(name, other));
        let optional = |name, value: &Scalar| match value {
            Scalar::Missing | Scalar::Null => Ok(None),
            other => whole(name, other).map(Some),
        };
        let (image_id, category_id) = (whole("image_id", &json.image_id)?, whole("category_id", &json.category_id)?);
        let Some(&image_idx) = self.image_idx_by_id.get(&image_id) else {
            let expected = format!("one of the {} images of {annotations}", self.dataset.images.len());
            return Err(error("image_id", expected, image_id.to_string()));
        };
        let Some(&category_idx) = self.category_idx_by_id.get(&category_id) else {
            let expected = format!("one of the {} categories of {annotations}", self.dataset.categories.len());
            return Err(error("category_id", expected, category_id.to_string()));
        };
        let score = json.score.number().map_err(|other| unexpected("score", other))?;
        if let Some(id) = optional("id", &json.id)?.filter(|id| !self.ids.insert(*id)) {
            return Err(error("id", String::from("one that no detection before has"), id.to_string()));
        }
        let bbox = json.has_box().then(|| json.bbox.bbox().map_err(|other| unexpected("bbox", other))).transpose()?;
        match bbox {
            Some(_) if !self.has_boxes => {
                return Err(error(
                    "bbox",
                    String::from("one in all detections or in none"),
                    String::from("the file's first"),
                ));
            }
            None if self.has_boxes => {
                return Err(error("bbox", String::from("one in all detections or in none"), String::from("none")));
            }
            None if json.segmentation.is_none() => {
                return Err(error("bbox or segmentation", String::from("one of them"), String::from("none")));
            }
            _ => {}
        }
        let segmentation = json.segmentation.map(|raw| {
            let start = raw.get().as_ptr() as usize - self.text_start;
            start..start + raw.get().len()
        });
        Ok(Detection {
            image_idx,
            category_idx,
            annotation_id: optional("annotation_id", &json.annotation_id)?,
            score,
            bbox,
            segmentation,
        })
    }
}

/// The characters around a line and column, both counted from 1 in bytes.
fn text_at(text: &str, line: usize, column: usize) -> String {
    let bytes = text.as_bytes();
    let line_start = match line.checked_sub(2) {
        Some(n) => bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(n).map_or(0, |(at, _)| at + 1),
        None => 0,
    };
    let at = (line_start + column).min(bytes.len());
    String::from_utf8_lossy(&bytes[at.saturating_sub(16)..(at + 16).min(bytes.len())]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{Category, ImageRecord};
    use crate::geometry::Size;

    fn dataset() -> Dataset {
        let image = |id| ImageRecord {
            id,
            size: Size { width: 4, height: 3 },
            file_name: format!("{id}.png"),
            images_dir: None,
            neg_category_ids: Vec::new(),
            not_exhaustive_category_ids: Vec::new(),
        };
        Dataset {
            annotations_path: PathBuf::from("truth.json"),
            images_dir: PathBuf::new(),
            images: vec![image(7), image(8)],
            categories: vec![Category { id: 5, name: String::from("cat"), frequency: None }],
            instances: Vec::new(),
            unusable: Vec::new(),
            digest: [0; 32],
            parts: Vec::new(),
        }
    }

    const GOOD: &str =
        r#"{"image_id": 8, "category_id": 5, "score": 0.5, "segmentation": {"size": [3, 4], "counts": [4, 2, 6]}}"#;
    const BOX: &str = r#"{"image_id": 8, "category_id": 5, "score": 1, "bbox": [1, 1, 2, 0]}"#;

    fn parse(text: String) -> Result<Detections, DetectionError> {
        Detections::parse(Path::new("found.json"), text, &dataset())
    }

    /// What is said about a list of a sound detection and another one.
    fn check(sound: &str, other: &str, expected: &str) {
        let dataset = dataset();
        let read = parse(format!("[{sound},\n {other}]"));
        let read = read.and_then(|detections| detections.mask(1, &dataset));
        assert_eq!(read.unwrap_err().to_string(), format!("found.json: detection 1: {expected}"), "{other}");
    }

    fn edited(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        GOOD.replace(from, to)
    }

    #[test]
    fn masks_and_boxes_are_read() {
        let masks = parse(format!("[{GOOD}]")).unwrap();
        assert!(!masks.has_boxes && masks.items[0].image_idx == 1 && masks.items[0].category_idx == 0);
        assert_eq!(masks.mask(0, &dataset()).unwrap().counts(), [4, 2, 6]);
        let compressed = parse(format!("[{}]", edited("[4, 2, 6]", r#""426""#))).unwrap();
        assert_eq!(compressed.mask(0, &dataset()).unwrap().counts(), [4, 2, 6]);
        let polygon =
            parse(format!("[{}]", edited(r#"{"size": [3, 4], "counts": [4, 2, 6]}"#, "[[1, 1, 3, 1, 3, 3, 1, 3]]")));
        assert_eq!(polygon.unwrap().mask(0, &dataset()).unwrap().area(), 4);
        let boxes = parse(format!("[{BOX}]")).unwrap();
        assert!(boxes.has_boxes && boxes.items[0].bbox == Some([1.0, 1.0, 2.0, 0.0]));
        assert!(parse(String::from("[]")).unwrap().items.is_empty());
    }

    #[test]
    fn foreign_ids_are_refused() {
        let expected = "image_id: expected one of the 2 images of truth.json, found 9";
        check(GOOD, &edited("\"image_id\": 8", "\"image_id\": 9"), expected);
        let expected = "category_id: expected one of the 1 categories of truth.json, found 0";
        check(GOOD, &edited("\"category_id\": 5", "\"category_id\": 0"), expected);
        let with_id = edited("{\"image_id\"", "{\"id\": 3, \"image_id\"");
        check(&with_id, &with_id, "id: expected one that no detection before has, found 3");
    }

    #[test]
    fn scores_are_numbers() {
        check(GOOD, &edited("0.5", "null"), "score: expected a finite number, found null");
        check(GOOD, &edited("\"score\": 0.5, ", ""), "score: expected a finite number, found none");
        for word in ["NaN", "Infinity"] {
            let other = edited("0.5", word);
            let error = parse(format!("[{GOOD},\n {other}]")).unwrap_err().to_string();
            let expected = "found.json: detection 1: expected COCO's result format, found \"";
            assert!(error.starts_with(expected), "{error}");
            assert!(error.contains(word), "{error}");
        }
        assert!(parse(format!("[{}]", edited("0.5", "1e999"))).is_err());
        assert!(parse(String::from("{\"annotations\": []}")).is_err());
        assert!(parse(format!("[{GOOD}] [")).is_err());
    }

    #[test]
    fn masks_are_of_their_image() {
        check(GOOD, &edited("[3, 4]", "[4, 3]"), "segmentation: expected runs of its image's size, 4 x 3, found 3 x 4");
        check(GOOD, &edited("[4, 2, 6]", "[4, 2, 5]"), "runs cover 11 pixels, a 4 x 3 mask has 12");
        check(
            GOOD,
            &edited("[4, 2, 6]", "\"42~\""),
            "byte 0x7e at 2: a compressed mask is made of the characters '0' to 'o'",
        );
        let polygon = edited(r#"{"size": [3, 4], "counts": [4, 2, 6]}"#, "[[1, 1, 3, 1]]");
        check(GOOD, &polygon, "polygon 0: expected an even number of at least 6 coordinates, found 4");
        check(BOX, BOX, "segmentation: expected polygons or runs, found none");
    }

    #[test]
    fn boxes_are_whole_and_everywhere() {
        let expected = "bbox: expected [x, y, width, height], finite, with sides of at least 0, found [1, 1, -2, 0]";
        check(BOX, &BOX.replace("[1, 1, 2, 0]", "[1, 1, -2, 0]"), expected);
        check(BOX, GOOD, "bbox: expected one in all detections or in none, found none");
        check(GOOD, BOX, "bbox: expected one in all detections or in none, found the file's first");
        let neither = r#"{"image_id": 8, "category_id": 5, "score": 1}"#;
        check(GOOD, neither, "bbox or segmentation: expected one of them, found none");
    }
}
