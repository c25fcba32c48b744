//! COCO's result files: scored boxes and masks of a detector, checked against the annotations they answer.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::coco::{JsonRle, JsonSegmentation, MAX_BYTES};
use crate::dataset::Dataset;
use crate::geometry::Size;
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
    #[error("{}: detection {detection_idx}: expected {field} {expected}, found {found}", path.display())]
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
        let has_boxes = list.first().is_some_and(|first| first.bbox.is_some());
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
        let segmentation = serde_json::from_str(text).map_err(|source| {
            let found = text_at(text, source.line(), source.column());
            DetectionError::Json { path: path(), detection_idx, found, source }
        })?;
        match segmentation {
            JsonSegmentation::Polygons(polygons) => polygon::rasterize(&polygons, image_size)
                .map_err(|source| DetectionError::Polygon { path: path(), detection_idx, source }),
            JsonSegmentation::Rle(JsonRle { size: [height, width], counts }) => {
                let size = Size { width, height };
                if size != image_size {
                    return Err(field(format!("of its image's size, {image_size}"), size.to_string()));
                }
                counts.rle(size).map_err(|source| DetectionError::Rle { path: path(), detection_idx, source })
            }
        }
    }
}

#[derive(serde::Deserialize)]
struct JsonDetection<'a> {
    id: Option<u64>,
    annotation_id: Option<u64>,
    image_id: u64,
    category_id: u64,
    score: f64,
    bbox: Option<[f64; 4]>,
    #[serde(borrow)]
    segmentation: Option<&'a RawValue>,
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
        let error = |field, expected: String, found: String| {
            Err(DetectionError::Field { path: path.to_path_buf(), detection_idx, field, expected, found })
        };
        let annotations = self.dataset.annotations_path.display();
        let Some(&image_idx) = self.image_idx_by_id.get(&json.image_id) else {
            let expected = format!("of one of the {} images of {annotations}", self.dataset.images.len());
            return error("image_id", expected, json.image_id.to_string());
        };
        let Some(&category_idx) = self.category_idx_by_id.get(&json.category_id) else {
            let expected = format!("of one of the {} categories of {annotations}", self.dataset.categories.len());
            return error("category_id", expected, json.category_id.to_string());
        };
        if !json.score.is_finite() {
            return error("score", String::from("finite"), json.score.to_string());
        }
        if let Some(id) = json.id.filter(|id| !self.ids.insert(*id)) {
            return error("id", String::from("that no detection before has"), id.to_string());
        }
        match json.bbox {
            Some([x, y, width, height]) => {
                if !(width >= 0.0 && height >= 0.0 && (x + width).is_finite() && (y + height).is_finite()) {
                    let expected = "[x, y, width, height], finite, with sides of at least 0";
                    return error("bbox", String::from(expected), format!("{:?}", [x, y, width, height]));
                }
                if !self.has_boxes {
                    return error(
                        "bbox",
                        String::from("in all detections or in none"),
                        String::from("the file's first"),
                    );
                }
            }
            None if self.has_boxes => {
                return error("bbox", String::from("in all detections or in none"), String::from("none"));
            }
            None if json.segmentation.is_none() => {
                return error("bbox or segmentation", String::from("to be there"), String::from("none"));
            }
            None => {}
        }
        let segmentation = json.segmentation.map(|raw| {
            let start = raw.get().as_ptr() as usize - self.text_start;
            start..start + raw.get().len()
        });
        Ok(Detection {
            image_idx,
            category_idx,
            annotation_id: json.annotation_id,
            score: json.score,
            bbox: json.bbox,
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

    fn dataset() -> Dataset {
        let image = |id| ImageRecord {
            id,
            size: Size { width: 4, height: 3 },
            file_name: format!("{id}.png"),
            neg_category_ids: Vec::new(),
            not_exhaustive_category_ids: Vec::new(),
        };
        Dataset {
            annotations_path: PathBuf::from("truth.json"),
            images_dir: PathBuf::new(),
            images: vec![image(7), image(8)],
            categories: vec![Category { id: 5, name: String::from("cat"), frequency: None }],
            instances: Vec::new(),
            digest: [0; 32],
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
        let expected = "expected image_id of one of the 2 images of truth.json, found 9";
        check(GOOD, &edited("\"image_id\": 8", "\"image_id\": 9"), expected);
        let expected = "expected category_id of one of the 1 categories of truth.json, found 0";
        check(GOOD, &edited("\"category_id\": 5", "\"category_id\": 0"), expected);
        let with_id = edited("{\"image_id\"", "{\"id\": 3, \"image_id\"");
        check(&with_id, &with_id, "expected id that no detection before has, found 3");
    }

    #[test]
    fn scores_are_numbers() {
        for word in ["NaN", "Infinity", "null"] {
            let other = edited("0.5", word);
            let error = parse(format!("[{GOOD},\n {other}]")).unwrap_err().to_string();
            let expected = "found.json: detection 1: expected COCO's result format, found \"";
            assert!(error.starts_with(expected), "{error}");
            assert!(error.contains(word), "{error}");
        }
        assert!(parse(format!("[{}]", edited("0.5", "1e999"))).is_err());
        assert!(parse(format!("[{}]", edited("\"score\": 0.5, ", ""))).is_err());
        assert!(parse(String::from("{\"annotations\": []}")).is_err());
        assert!(parse(format!("[{GOOD}] [")).is_err());
    }

    #[test]
    fn masks_are_of_their_image() {
        check(GOOD, &edited("[3, 4]", "[4, 3]"), "expected segmentation of its image's size, 4 x 3, found 3 x 4");
        check(GOOD, &edited("[4, 2, 6]", "[4, 2, 5]"), "runs cover 11 pixels, a 4 x 3 mask has 12");
        check(
            GOOD,
            &edited("[4, 2, 6]", "\"42~\""),
            "byte 0x7e at 2: a compressed mask is made of the characters '0' to 'o'",
        );
        let polygon = edited(r#"{"size": [3, 4], "counts": [4, 2, 6]}"#, "[[1, 1, 3, 1]]");
        check(GOOD, &polygon, "polygon 0: expected an even number of at least 6 coordinates, found 4");
        check(BOX, BOX, "expected segmentation polygons or runs, found none");
    }

    #[test]
    fn boxes_are_whole_and_everywhere() {
        let expected =
            "expected bbox [x, y, width, height], finite, with sides of at least 0, found [1.0, 1.0, -2.0, 0.0]";
        check(BOX, &BOX.replace("[1, 1, 2, 0]", "[1, 1, -2, 0]"), expected);
        check(BOX, GOOD, "expected bbox in all detections or in none, found none");
        check(GOOD, BOX, "expected bbox in all detections or in none, found the file's first");
        let neither = r#"{"image_id": 8, "category_id": 5, "score": 1}"#;
        check(GOOD, neither, "expected bbox or segmentation to be there, found none");
    }
}
