//! An annotation file as two, one to train on and one to score on, that share no image.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::coco::{BYTE_ORDER_MARK, read};
use crate::dataset::DatasetError;
use crate::json_value::{Scalar, Unexpected, foreign_encoding};
use crate::sampling::split_images;

/// Both sides of a split file. Every entry is there as it was written, also what Sensei does not read; an entry has a line.
#[derive(Debug)]
pub struct SplitFile {
    /// To train on.
    pub train: SplitSide,
    /// To score on.
    pub held_out: SplitSide,
}

/// One side of a split file.
#[derive(Debug)]
pub struct SplitSide {
    /// The file.
    pub json: Vec<u8>,
    /// Images in it.
    pub n_images: usize,
    /// Annotations in it.
    pub n_annotations: usize,
}

/// A file that cannot be split.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// It cannot be read, or is too large.
    #[error(transparent)]
    Read(#[from] DatasetError),
    /// It is no JSON of this kind.
    #[error("{}: expected an object with lists of images and annotations", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What and where.
        source: serde_json::Error,
    },
    /// An entry without what a split goes by.
    #[error("{}: {list} {idx}: expected {expected}", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// `image` or `annotation`.
        list: &'static str,
        /// Its place in the list.
        idx: usize,
        /// What should be there.
        expected: String,
    },
    /// One side would have nothing.
    #[error("{}: expected annotated images on both sides, found {train} to train on and {held_out} held out", path.display())]
    NothingLeft {
        /// The file.
        path: PathBuf,
        /// Annotated images to train on.
        train: usize,
        /// Annotated images held out.
        held_out: usize,
    },
}

/// Splits a COCO or LVIS file by image, see [`split_images`]; images that name the same file stay together.
///
/// # Errors
/// If the file is not such JSON, an image or annotation has no id, an annotation is of no image, or one side would have no annotation.
///
/// # Panics
/// If the share is not in `[0, 1]`.
pub fn split_file(path: &Path, held_out_share: f64, seed: u64) -> Result<SplitFile, SplitError> {
    let bytes = read(path)?;
    if let Some(found) = foreign_encoding(&bytes) {
        return Err(DatasetError::Encoding { path: path.to_path_buf(), found }.into());
    }
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    let not_json = |source| SplitError::Json { path: path.to_path_buf(), source };
    let file: Fields = serde_json::from_slice(bytes).map_err(not_json)?;
    let list = |name: &str| {
        let found = file.0.iter().find(|(key, _)| key == name);
        let (_, value) = found.ok_or_else(|| not_json(serde_json::Error::custom(format!("{name}: found none"))))?;
        serde_json::from_str::<Vec<&RawValue>>(value.get()).map_err(not_json)
    };
    let (images, annotations) = (list("images")?, list("annotations")?);
    let ImageIds { ids, group_by_id } = image_ids(path, &images)?;
    let image_of_each = image_of_each(path, &annotations, &group_by_id)?;

    let groups: Vec<u64> = group_by_id.values().copied().collect();
    let held_out: BTreeSet<u64> = split_images(&groups, held_out_share, seed).held_out.into_iter().collect();
    let is_held_out = |image_id: &u64| held_out.contains(&group_by_id[image_id]);
    let side = |of_held_out: bool| {
        let of_side = |entries: &[&RawValue], image_ids: &[u64]| -> Vec<String> {
            let here = entries.iter().zip(image_ids).filter(|(_, id)| is_held_out(id) == of_held_out);
            here.map(|(entry, _)| entry.get().to_string()).collect()
        };
        file.with(&of_side(&images, &ids), &of_side(&annotations, &image_of_each))
    };
    let (out, train): (BTreeSet<u64>, BTreeSet<u64>) = image_of_each.iter().partition(|id| is_held_out(id));
    match (train.len(), out.len()) {
        (1.., 1..) => Ok(SplitFile { train: side(false), held_out: side(true) }),
        (train, held_out) => Err(SplitError::NothingLeft { path: path.to_path_buf(), train, held_out }),
    }
}

/// What an image has that a split goes by; each of any kind of value, as where annotations are read.
#[derive(Deserialize)]
struct ImageFields {
    #[serde(default)]
    id: Scalar,
    #[serde(default)]
    file_name: Scalar,
    #[serde(default)]
    coco_url: Scalar,
}

#[derive(Deserialize)]
struct AnnotationFields {
    #[serde(default)]
    image_id: Scalar,
}

/// The images' ids.
struct ImageIds {
    /// In the order of the file.
    ids: Vec<u64>,
    /// For each the smallest id of those that name its file.
    group_by_id: BTreeMap<u64, u64>,
}

fn image_ids(path: &Path, images: &[&RawValue]) -> Result<ImageIds, SplitError> {
    let (mut ids, mut files, mut smallest_by_file) = (vec![], vec![], BTreeMap::new());
    for (idx, raw) in images.iter().enumerate() {
        let wrong = |expected: String| SplitError::Entry { path: path.to_path_buf(), list: "image", idx, expected };
        let fields: ImageFields =
            serde_json::from_str(raw.get()).map_err(|error| wrong(format!("an object, found: {error}")))?;
        let id = fields
            .id
            .whole()
            .map_err(|Unexpected { expected, found }| wrong(format!("{expected} as id, found {found}")))?;
        let file = match (fields.file_name, fields.coco_url) {
            (Scalar::Text(name), _) | (_, Scalar::Text(name)) => name,
            // A file of its own.
            _ => id.to_string(),
        };
        let smallest = smallest_by_file.entry(file.clone()).or_insert(id);
        *smallest = id.min(*smallest);
        ids.push(id);
        files.push(file);
    }
    let mut group_by_id = BTreeMap::new();
    for (idx, (&id, file)) in ids.iter().zip(&files).enumerate() {
        if group_by_id.insert(id, smallest_by_file[file]).is_some() {
            let expected = format!("an id of its own, found {id} again");
            return Err(SplitError::Entry { path: path.to_path_buf(), list: "image", idx, expected });
        }
    }
    Ok(ImageIds { ids, group_by_id })
}

/// The image of each annotation.
fn image_of_each(path: &Path, annotations: &[&RawValue], known: &BTreeMap<u64, u64>) -> Result<Vec<u64>, SplitError> {
    let image_of = |(idx, raw): (usize, &&RawValue)| {
        let wrong =
            |expected: String| SplitError::Entry { path: path.to_path_buf(), list: "annotation", idx, expected };
        let AnnotationFields { image_id } =
            serde_json::from_str(raw.get()).map_err(|error| wrong(format!("an object, found: {error}")))?;
        let image_id = image_id
            .whole()
            .map_err(|Unexpected { expected, found }| wrong(format!("{expected} as image_id, found {found}")))?;
        match known.contains_key(&image_id) {
            true => Ok(image_id),
            false => Err(wrong(format!("the id of one of {} images, found image_id {image_id}", known.len()))),
        }
    };
    annotations.iter().enumerate().map(image_of).collect()
}

/// The file's own fields, in their order.
struct Fields(Vec<(String, Box<RawValue>)>);

impl Fields {
    /// The file with these images and annotations in place of its own.
    fn with(&self, images: &[String], annotations: &[String]) -> SplitSide {
        let list = |entries: &[String]| format!("[\n{}\n]", entries.join(",\n"));
        let fields = self.0.iter().map(|(key, value)| {
            let value = match key.as_str() {
                "images" => list(images),
                "annotations" => list(annotations),
                _ => value.get().to_string(),
            };
            format!("{}: {value}", serde_json::Value::from(key.as_str()))
        });
        let json = format!("{{\n{}\n}}\n", fields.collect::<Vec<_>>().join(",\n")).into_bytes();
        SplitSide { json, n_images: images.len(), n_annotations: annotations.len() }
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with images and annotations")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let (mut fields, mut seen) = (vec![], BTreeSet::new());
                while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    if !seen.insert(key.clone()) {
                        return Err(A::Error::custom(format!("`{key}` is there twice")));
                    }
                    fields.push((key, value));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make the files they read")]
mod tests {
    use std::fs;

    use super::*;
    use crate::dataset::Dataset;

    fn file(images: &str, annotations: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("all.json");
        let categories = r#"[{"id": 1, "name": "thing"}]"#;
        let text = format!(
            r#"{{"info": {{"year": 2026}}, "images": [{images}], "annotations": [{annotations}], "categories": {categories}}}"#
        );
        fs::write(&path, text).expect("written");
        (folder, path)
    }

    fn image(id: u64, name: &str) -> String {
        format!(r#"{{"id": {id}, "width": 8, "height": 8, "file_name": "{name}", "licence": "mine"}}"#)
    }

    fn object(id: u64, image_id: u64) -> String {
        format!(
            r#"{{"id": {id}, "image_id": {image_id}, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0, "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]], "drawn_by": "me"}}"#
        )
    }

    #[test]
    fn every_entry_is_on_one_side_as_it_was() {
        // The first id as Python writes a float, which the reader of annotations takes too.
        let mut images: Vec<String> = (0..20).map(|id| image(id, &format!("{id}.png"))).collect();
        images[0] = images[0].replacen("0", "0.0", 1);
        let objects: Vec<String> = (0..40).map(|id| object(100 + id, id % 20)).collect();
        let (folder, path) = file(&images.join(","), &objects.join(","));
        let split = split_file(&path, 0.25, 3).expect("a file that can be split");
        assert_eq!((split.train.n_images, split.held_out.n_images), (15, 5));
        assert_eq!((split.train.n_annotations, split.held_out.n_annotations), (30, 10));
        let mut seen = BTreeSet::new();
        for side in [&split.train, &split.held_out] {
            let text = String::from_utf8(side.json.clone()).expect("UTF-8");
            assert!(text.contains(r#""info": {"year": 2026}"#), "{text}");
            let place = folder.path().join("side.json");
            fs::write(&place, &text).expect("written");
            let dataset = Dataset::load_coco(&place, folder.path()).expect("an annotation file");
            for instance in &dataset.instances {
                assert!(text.contains(&object(instance.id, dataset.images[instance.image_idx].id)));
                assert!(seen.insert(instance.id), "{} is on both sides", instance.id);
            }
        }
        assert_eq!(seen.len(), 40);
        let again = split_file(&path, 0.25, 3).expect("a file that can be split");
        assert_eq!(again.held_out.json, split.held_out.json);
        assert_ne!(split_file(&path, 0.25, 4).expect("a file that can be split").held_out.json, split.held_out.json);
    }

    #[test]
    fn images_of_one_file_stay_together() {
        let images: Vec<String> = (0..20).map(|id| image(id, &format!("{}.png", id / 2))).collect();
        let objects: Vec<String> = (0..20).map(|id| object(id + 1, id)).collect();
        let (_folder, path) = file(&images.join(","), &objects.join(","));
        let split = split_file(&path, 0.5, 1).expect("a file that can be split");
        let text = String::from_utf8(split.held_out.json).expect("UTF-8");
        for pair in 0..10 {
            let [one, other] = [2 * pair, 2 * pair + 1].map(|id| text.contains(&format!(r#"{{"id": {id}, "width""#)));
            assert_eq!(one, other, "images {} and {}", 2 * pair, 2 * pair + 1);
        }
        assert_eq!(split.held_out.n_images, 10);
    }

    #[test]
    fn what_cannot_be_split_is_named() {
        let refused = |images: &str, annotations: &str, share: f64, words: &str| {
            let (_folder, path) = file(images, annotations);
            let error = split_file(&path, share, 1).expect_err(words);
            let shown =
                format!("{error}: {}", std::error::Error::source(&error).map_or(String::new(), |e| e.to_string()));
            assert!(shown.contains(words), "{words:?} in {shown}");
        };
        let (two, one) = (format!("{},{}", image(1, "a"), image(2, "b")), object(1, 1));
        refused(&two, &object(1, 3), 0.5, "annotation 0: expected the id of one of 2 images, found image_id 3");
        refused(&two, &one, 0.5, "expected annotated images on both sides");
        refused(&two, &one, 0.0, "found 1 to train on and 0 held out");
        refused(&format!("{two},{}", image(2, "c")), &one, 0.5, "image 2: expected an id of its own, found 2 again");
        refused("7", &one, 0.5, "image 0: expected an object");
        refused(&two.replacen("1", "\"1\"", 1), &one, 0.5, "image 0: expected a whole number");
        refused(&two, &one.replace("\"image_id\": 1", "\"image_id\": null"), 0.5, "as image_id, found null");
        let (_folder, path) = file(&two, &one);
        let twice = r#"{"images": [], "annotations": [], "images": []}"#;
        for (text, words) in [
            (twice, "`images` is there twice"),
            ("[]", "an object"),
            (r#"{"images": []}"#, "annotations: found none"),
            ("{", "EOF"),
        ] {
            fs::write(&path, text).expect("written");
            let source = split_file(&path, 0.5, 1).expect_err(text);
            let shown = std::error::Error::source(&source).expect("a cause").to_string();
            assert!(shown.contains(words), "{words:?} in {shown}");
        }
    }
}
