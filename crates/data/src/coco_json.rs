//! The shape of an annotation file's JSON, before a value in it is checked: lists of objects, or what is there instead.

use std::path::Path;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess};

use crate::dataset::DatasetError;
use crate::json_value::{ByKind, FromJson, Scalar};
use crate::outline::{JsonSegmentation, Values};

#[derive(Deserialize)]
#[serde(expecting = "an object with images, categories and annotations")]
pub(crate) struct JsonFile {
    #[serde(default)]
    pub images: List<JsonImage>,
    #[serde(default)]
    pub categories: List<JsonCategory>,
    #[serde(default)]
    pub annotations: List<JsonAnnotation>,
    #[serde(default)]
    pub info: JsonInfo,
}

/// What a file says of itself; of most, nothing is read.
#[derive(Default)]
pub(crate) struct JsonInfo {
    /// Digest of the teacher whose masks they are.
    pub proposed_by: Option<String>,
    /// Digest of the annotations of the images that the pictures were composed of.
    pub composed_of: Option<String>,
}

#[derive(Deserialize)]
struct InfoFields {
    #[serde(default)]
    proposed_by: Scalar,
    #[serde(default)]
    composed_of: Scalar,
}

/// A list of entries, or what is there instead.
pub(crate) enum List<T> {
    Rows(Vec<Row<T>>),
    Other(Scalar),
}

/// An entry of a list.
pub(crate) enum Row<T> {
    Object(T),
    Other(Scalar),
}

pub(crate) trait JsonEntry {
    fn id(&self) -> &Scalar;
}

#[derive(Deserialize)]
pub(crate) struct JsonImage {
    #[serde(default)]
    pub id: Scalar,
    #[serde(default)]
    pub width: Scalar,
    #[serde(default)]
    pub height: Scalar,
    #[serde(default)]
    pub file_name: Scalar,
    #[serde(default)]
    pub coco_url: Scalar,
    #[serde(default)]
    pub neg_category_ids: Values,
    #[serde(default)]
    pub not_exhaustive_category_ids: Values,
}

#[derive(Deserialize)]
pub(crate) struct JsonCategory {
    #[serde(default)]
    pub id: Scalar,
    #[serde(default)]
    pub name: Scalar,
    #[serde(default)]
    pub frequency: Scalar,
}

#[derive(Deserialize)]
pub(crate) struct JsonAnnotation {
    #[serde(default)]
    pub id: Scalar,
    #[serde(default)]
    pub image_id: Scalar,
    #[serde(default)]
    pub category_id: Scalar,
    #[serde(default)]
    pub bbox: Values,
    #[serde(default)]
    pub area: Scalar,
    /// LVIS has none, and no crowd regions.
    #[serde(default)]
    pub iscrowd: Scalar,
    #[serde(default)]
    pub segmentation: JsonSegmentation,
}

impl JsonEntry for JsonImage {
    fn id(&self) -> &Scalar {
        &self.id
    }
}

impl JsonEntry for JsonCategory {
    fn id(&self) -> &Scalar {
        &self.id
    }
}

impl JsonEntry for JsonAnnotation {
    fn id(&self) -> &Scalar {
        &self.id
    }
}

impl<T> List<T> {
    pub(crate) fn rows(self, path: &Path, list: &'static str) -> Result<Vec<Row<T>>, DatasetError> {
        match self {
            Self::Rows(rows) => Ok(rows),
            Self::Other(found) => Err(DatasetError::List { path: path.to_path_buf(), list, found: found.to_string() }),
        }
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self::Other(Scalar::Missing)
    }
}

impl<'de, T: Deserialize<'de>> FromJson<'de> for Row<T> {
    fn from_scalar(value: Scalar) -> Self {
        Self::Other(value)
    }

    fn from_object<A: MapAccess<'de>>(object: A) -> Result<Self, A::Error> {
        T::deserialize(MapAccessDeserializer::new(object)).map(Self::Object)
    }
}

impl<'de, T: Deserialize<'de>> FromJson<'de> for List<T> {
    fn from_scalar(value: Scalar) -> Self {
        Self::Other(value)
    }

    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let mut rows = vec![];
        while let Some(row) = list.next_element()? {
            rows.push(row);
        }
        Ok(Self::Rows(rows))
    }
}

impl<'de> FromJson<'de> for JsonInfo {
    fn from_scalar(_: Scalar) -> Self {
        Self::default()
    }

    fn from_object<A: MapAccess<'de>>(object: A) -> Result<Self, A::Error> {
        let fields = InfoFields::deserialize(MapAccessDeserializer::new(object))?;
        let said = |field: Scalar| match field {
            Scalar::Missing | Scalar::Null => None,
            Scalar::Text(digest) => Some(digest),
            // Whatever it is, somebody meant to say that no person drew the masks or took the pictures.
            said => Some(said.to_string()),
        };
        Ok(Self { proposed_by: said(fields.proposed_by), composed_of: said(fields.composed_of) })
    }
}

impl<'de> Deserialize<'de> for JsonInfo {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ByKind::read(deserializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Row<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ByKind::read(deserializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ByKind::read(deserializer)
    }
}
