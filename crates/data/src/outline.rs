//! The `segmentation` of annotations and detections: polygons, or runs.

use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, SeqAccess};

use crate::dataset::Segmentation;
use crate::geometry::Size;
use crate::json_value::{ByKind, FromJson, Scalar, Unexpected, shown};
use crate::polygon::{PolygonError, check_polygons};
use crate::rle::{Rle, RleError};

/// A segmentation as it is written.
#[derive(Debug, Default)]
pub(crate) enum JsonSegmentation {
    #[default]
    Missing,
    Polygons(Vec<Box<[f64]>>),
    Rle(JsonRle),
    /// Something else: what it is.
    Other(String),
}

#[derive(Debug, Deserialize)]
pub(crate) struct JsonRle {
    /// Height, width.
    #[serde(default)]
    size: Values,
    #[serde(default)]
    counts: JsonCounts,
}

#[derive(Debug, Default)]
enum JsonCounts {
    Runs(Vec<u32>),
    Compressed(String),
    Other(String),
    #[default]
    Missing,
}

/// A list of values, or what is there instead.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Values {
    List(Vec<Scalar>),
    Other(Scalar),
}

/// Why a segmentation is no outline in an image.
#[derive(Debug)]
pub(crate) enum OutlineError {
    Unexpected(Unexpected),
    /// Runs of a mask of another size.
    Size {
        expected: Size,
        found: Size,
    },
    Polygon(PolygonError),
    Rle(RleError),
}

impl JsonSegmentation {
    /// The outline in an image of this size.
    pub(crate) fn check(self, image_size: Size) -> Result<Segmentation, OutlineError> {
        let unexpected = |expected, found| Err(OutlineError::Unexpected(Unexpected { expected, found }));
        match self {
            Self::Missing => unexpected(OUTLINE, String::from("none")),
            Self::Other(found) => unexpected(OUTLINE, found),
            Self::Polygons(polygons) => match check_polygons(&polygons) {
                Ok(()) => Ok(Segmentation::Polygons(polygons)),
                Err(error) => Err(OutlineError::Polygon(error)),
            },
            Self::Rle(JsonRle { size, counts }) => {
                let size = size.size().map_err(OutlineError::Unexpected)?;
                if size != image_size {
                    return Err(OutlineError::Size { expected: image_size, found: size });
                }
                let rle = match counts {
                    JsonCounts::Runs(counts) => Rle::from_counts(size, &counts),
                    JsonCounts::Compressed(text) => Rle::from_compressed_str(size, &text),
                    JsonCounts::Other(found) => return unexpected(COUNTS, found),
                    JsonCounts::Missing => return unexpected(COUNTS, String::from("none")),
                };
                rle.map(Segmentation::Rle).map_err(OutlineError::Rle)
            }
        }
    }
}

impl Values {
    /// `[x, y, width, height]`.
    pub(crate) fn bbox(&self) -> Result<[f64; 4], Unexpected> {
        let unexpected = || Unexpected { expected: BOX, found: self.to_string() };
        let Self::List(values) = self else { return Err(unexpected()) };
        let [x, y, width, height] = &values[..] else { return Err(unexpected()) };
        let mut bbox = [0.0; 4];
        for (side, value) in bbox.iter_mut().zip([x, y, width, height]) {
            *side = value.number().map_err(|_| unexpected())?;
        }
        let [x, y, width, height] = bbox;
        let is_box = width >= 0.0 && height >= 0.0 && (x + width).is_finite() && (y + height).is_finite();
        if is_box { Ok(bbox) } else { Err(unexpected()) }
    }

    /// `[height, width]`.
    fn size(&self) -> Result<Size, Unexpected> {
        let side = |value: &Scalar| value.whole().ok().and_then(|side| u32::try_from(side).ok());
        match self {
            Self::List(values) if values.len() == 2 => {
                side(&values[0]).zip(side(&values[1])).map(|(height, width)| Size { width, height })
            }
            _ => None,
        }
        .ok_or_else(|| Unexpected { expected: "runs with a size of [height, width]", found: self.to_string() })
    }

    pub(crate) fn is_empty_list(&self) -> bool {
        matches!(self, Self::List(values) if values.is_empty())
    }
}

impl Default for Values {
    fn default() -> Self {
        Self::Other(Scalar::Missing)
    }
}

impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::List(values) => f.write_str(&shown(values)),
            Self::Other(value) => value.fmt(f),
        }
    }
}

/// An element of a list of polygons.
enum Element {
    Polygon(Box<[f64]>),
    /// A list with something else than numbers.
    OtherList(Scalar),
    Value(Scalar),
}

impl<'de> FromJson<'de> for JsonSegmentation {
    fn from_scalar(value: Scalar) -> Self {
        Self::Other(value.to_string())
    }

    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let (mut polygons, mut other) = (Vec::with_capacity(1), None);
        while let Some(element) = list.next_element()? {
            let found = match element {
                Element::Polygon(polygon) => {
                    polygons.push(polygon);
                    continue;
                }
                Element::OtherList(Scalar::List(_)) => String::from("a polygon made of lists, one for each point"),
                Element::OtherList(value) => format!("a polygon with {value}"),
                Element::Value(Scalar::Object) => String::from("an object inside of a list"),
                Element::Value(value) => format!("a list with {value}, not with a list for each polygon"),
            };
            other.get_or_insert(found);
        }
        Ok(other.map_or(Self::Polygons(polygons), Self::Other))
    }

    fn from_object<A: MapAccess<'de>>(object: A) -> Result<Self, A::Error> {
        JsonRle::deserialize(MapAccessDeserializer::new(object)).map(Self::Rle)
    }
}

impl<'de> FromJson<'de> for Element {
    fn from_scalar(value: Scalar) -> Self {
        Self::Value(value)
    }

    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let (mut polygon, mut other) = (vec![], None);
        while let Some(value) = list.next_element::<Scalar>()? {
            match value.number().ok().or_else(|| value.bare_word()) {
                Some(coordinate) => polygon.push(coordinate),
                None => {
                    other.get_or_insert(value);
                }
            }
        }
        Ok(other.map_or_else(|| Self::Polygon(polygon.into_boxed_slice()), Self::OtherList))
    }
}

impl<'de> FromJson<'de> for JsonCounts {
    fn from_scalar(value: Scalar) -> Self {
        match value {
            Scalar::Text(text) => Self::Compressed(text),
            other => Self::Other(other.to_string()),
        }
    }

    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let (mut runs, mut other) = (vec![], None);
        while let Some(value) = list.next_element::<Scalar>()? {
            match value.whole().ok().and_then(|run| u32::try_from(run).ok()) {
                Some(run) => runs.push(run),
                None => {
                    other.get_or_insert(format!("a list with {value}"));
                }
            }
        }
        Ok(other.map_or(Self::Runs(runs), Self::Other))
    }
}

impl<'de> FromJson<'de> for Values {
    fn from_scalar(value: Scalar) -> Self {
        Self::Other(value)
    }

    fn from_list<A: SeqAccess<'de>>(mut list: A) -> Result<Self, A::Error> {
        let mut values = Vec::with_capacity(4);
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(Self::List(values))
    }
}

impl<'de> Deserialize<'de> for JsonSegmentation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ByKind::read(deserializer)
    }
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ByKind::read(deserializer)
    }
}

impl<'de> Deserialize<'de> for JsonCounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ByKind::read(deserializer)
    }
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ByKind::read(deserializer)
    }
}

const OUTLINE: &str = "a list of polygons [x, y, x, y, ...], or an object with size and counts";
const COUNTS: &str = "counts as a list of whole numbers or a compressed string";
const BOX: &str = "[x, y, width, height], finite, with sides of at least 0";
