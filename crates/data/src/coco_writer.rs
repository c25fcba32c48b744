//! The annotation files that we write ourselves, in COCO's format: masks as compressed runs, boxes of whole pixels.

use serde::Serialize;

use crate::dataset::{Category, Frequency};
use crate::geometry::Size;
use crate::rle::Rle;

/// An annotation file.
#[derive(Debug, Serialize)]
pub struct CocoFile<'a> {
    /// What the file says of itself.
    pub info: CocoInfo,
    /// Its images.
    pub images: Vec<CocoImage<'a>>,
    /// Its objects.
    pub annotations: Vec<CocoAnnotation>,
    /// Its categories.
    pub categories: Vec<CocoCategory<'a>>,
}

/// What a file says of itself.
#[derive(Debug, Default, Serialize)]
pub struct CocoInfo {
    /// For a person.
    pub description: String,
    /// Digest of the teacher whose masks they are: tells programs that no person drew them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proposed_by: Option<String>,
    /// Digest of the annotations of the images that the pictures were composed of: tells programs that nobody took them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub composed_of: Option<String>,
}

/// An image; sides in pixels.
#[derive(Debug, Serialize)]
pub struct CocoImage<'a> {
    id: u64,
    file_name: &'a str,
    width: u32,
    height: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    neg_category_ids: Option<[u64; 0]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_exhaustive_category_ids: Option<[u64; 0]>,
}

/// An object; box and area in pixels.
#[derive(Debug, Serialize)]
pub struct CocoAnnotation {
    id: u64,
    image_id: u64,
    category_id: u64,
    iscrowd: u8,
    area: u64,
    bbox: [u32; 4],
    segmentation: CocoRle,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    proposal: Option<CocoProposal>,
}

/// What a teacher says of a mask that it proposed.
#[derive(Debug, Serialize)]
pub struct CocoProposal {
    /// Predicted IoU, 0 to 1.
    pub score: f32,
    /// IoU of the mask at a low and at a high threshold, 0 to 1.
    pub stability: f32,
    /// The point that it was asked about, in image pixels.
    pub point: [f64; 2],
}

#[derive(Debug, Serialize)]
struct CocoRle {
    size: [u32; 2],
    counts: String,
}

/// A category.
#[derive(Debug, Serialize)]
pub struct CocoCategory<'a> {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: &'a str,
    /// What it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supercategory: Option<&'static str>,
    /// LVIS's letter, in a file of its.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency: Option<&'static str>,
}

impl<'a> CocoImage<'a> {
    /// An image of a file of COCO's.
    pub fn new(id: u64, file_name: &'a str, Size { width, height }: Size) -> Self {
        Self { id, file_name, width, height, neg_category_ids: None, not_exhaustive_category_ids: None }
    }

    /// With LVIS's lists of what is not on it and what was not annotated in full, both empty: nobody has said either.
    pub fn with_lvis_lists(self) -> Self {
        Self { neg_category_ids: Some([]), not_exhaustive_category_ids: Some([]), ..self }
    }
}

impl CocoAnnotation {
    /// An object that is no crowd region: area and box are those of its mask.
    pub fn new(id: u64, image_id: u64, category_id: u64, mask: &Rle) -> Self {
        let Size { width, height } = mask.size();
        let segmentation = CocoRle { size: [height, width], counts: mask.to_compressed_string() };
        // A mask's box has whole sides within an image, whose sides are u32.
        let bbox = mask.bbox().map(|value| value as u32);
        Self { id, image_id, category_id, iscrowd: 0, area: mask.area(), bbox, segmentation, proposal: None }
    }

    /// With what the teacher says of it, which proposed the mask.
    pub fn with_proposal(self, proposal: CocoProposal) -> Self {
        Self { proposal: Some(proposal), ..self }
    }
}

impl<'a> From<&'a Category> for CocoCategory<'a> {
    fn from(category: &'a Category) -> Self {
        let letter = |frequency: Frequency| match frequency {
            Frequency::Rare => "r",
            Frequency::Common => "c",
            Frequency::Frequent => "f",
        };
        let frequency = category.frequency.map(letter);
        Self { id: category.id, name: &category.name, supercategory: None, frequency }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Mask;

    #[test]
    fn an_object_is_written_as_cocos_tools_read_it() {
        let size = Size { width: 4, height: 3 };
        let mask = Rle::from_mask(&Mask { size, bits: vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0] });
        let annotation = CocoAnnotation::new(7, 2, 1, &mask);
        let written = |annotation: &CocoAnnotation| serde_json::to_string(annotation).expect("plain values");
        let counts = mask.to_compressed_string();
        let expected = format!(
            r#"{{"id":7,"image_id":2,"category_id":1,"iscrowd":0,"area":3,"bbox":[1,0,2,2],"segmentation":{{"size":[3,4],"counts":"{counts}"}}"#
        );
        assert_eq!(written(&annotation), format!("{expected}}}"));
        let proposed = annotation.with_proposal(CocoProposal { score: 0.5, stability: 0.75, point: [1.5, 0.5] });
        assert_eq!(written(&proposed), format!(r#"{expected},"score":0.5,"stability":0.75,"point":[1.5,0.5]}}"#));
    }

    #[test]
    fn what_is_not_known_is_not_written() {
        let written = |image: CocoImage| serde_json::to_string(&image).expect("plain values");
        let image = || CocoImage::new(3, "a.png", Size { width: 4, height: 3 });
        assert_eq!(written(image()), r#"{"id":3,"file_name":"a.png","width":4,"height":3}"#);
        let lists = r#""neg_category_ids":[],"not_exhaustive_category_ids":[]"#;
        let expected = format!(r#"{{"id":3,"file_name":"a.png","width":4,"height":3,{lists}}}"#);
        assert_eq!(written(image().with_lvis_lists()), expected);
        let info = CocoInfo { description: "x".into(), ..CocoInfo::default() };
        assert_eq!(serde_json::to_string(&info).expect("plain values"), r#"{"description":"x"}"#);
    }
}
