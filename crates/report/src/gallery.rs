//! `eval/gallery.json`: some instances with their masks, for the page to draw.

use std::path::Path;

use sensei_eval::choice::Why;
use sensei_eval::protocol::Space;
use sensei_files::bounded::read_bounded;
use sensei_files::whole::write_whole;
use serde::{Deserialize, Serialize};

use crate::base64::{base64, is_base64};
use crate::error::ReportPageError;

/// The instances of a page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gallery {
    /// [`GALLERY_VERSION`].
    pub version: u32,
    /// Where the IoU on the panels is taken.
    pub space: Space,
    /// The row by which best, median and worst were chosen.
    pub chosen_by: String,
    /// In the order of the page.
    pub shown: Vec<Shown>,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shown {
    /// Id of its annotation.
    pub annotation_id: u64,
    /// Id of its image.
    pub image_id: u64,
    /// Why it was chosen.
    pub why: Why,
    /// Width and height of the picture and the masks, in pixels.
    pub grid: u32,
    /// The picture around it.
    pub picture: Picture,
    /// Left, top, right and bottom of its box on the grid; may lie outside.
    pub prompt: [f64; 4],
    /// The annotated mask.
    pub truth: MaskRuns,
    /// Teacher and students, in the order of the table.
    pub answers: Vec<Answer>,
}

/// What a row answered for an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The row's name.
    pub row: String,
    /// Its IoU with the truth, as the report has it.
    pub iou: f64,
    /// Its mask on the grid.
    pub mask: MaskRuns,
}

/// A PNG file, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Picture(String);

/// A mask of `grid * grid` pixels as the lengths of its runs in row-major order, background first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MaskRuns(Vec<u32>);

/// The version of the file's layout.
pub const GALLERY_VERSION: u32 = 1;

impl Gallery {
    /// Writes the file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), ReportPageError> {
        let mut json = serde_json::to_vec(self).map_err(ReportPageError::not(path, "a gallery"))?;
        json.push(b'\n');
        Ok(write_whole(path, &json)?)
    }

    /// Reads the file.
    ///
    /// # Errors
    /// If it cannot be read, is of another version or something else, or a mask is not of its grid.
    pub fn read(path: &Path) -> Result<Self, ReportPageError> {
        let bytes = read_bounded(path, MAX_BYTES)?;
        let gallery: Self = serde_json::from_slice(&bytes).map_err(ReportPageError::not(path, "a gallery"))?;
        let wrong = |what: String, expected: String, found: String| {
            Err(ReportPageError::Value { path: path.to_path_buf(), what, expected, found })
        };
        if gallery.version != GALLERY_VERSION {
            return wrong("version".into(), GALLERY_VERSION.to_string(), gallery.version.to_string());
        }
        for shown in &gallery.shown {
            let (grid, id) = (u64::from(shown.grid), shown.annotation_id);
            if !(1..=MAX_GRID).contains(&grid) {
                return wrong(format!("annotation {id}: grid"), format!("1 to {MAX_GRID}"), grid.to_string());
            }
            let masks = std::iter::once(&shown.truth).chain(shown.answers.iter().map(|answer| &answer.mask));
            for n in masks.map(|mask| mask.0.iter().map(|&n| u64::from(n)).sum::<u64>()) {
                if n != grid * grid {
                    return wrong(format!("annotation {id}: a mask"), format!("{} pixels", grid * grid), n.to_string());
                }
            }
        }
        Ok(gallery)
    }
}

impl Picture {
    /// A PNG file's bytes.
    pub fn of_png(bytes: &[u8]) -> Self {
        Self(base64(bytes))
    }

    /// As the address of an image on a page.
    pub(crate) fn address(&self) -> String {
        format!("data:image/png;base64,{}", self.0)
    }
}

impl TryFrom<String> for Picture {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.starts_with(PNG_START) && is_base64(&text) {
            return Ok(Self(text));
        }
        let start: String = text.chars().take(16).collect();
        Err(format!("expected a PNG file in base64, found {start:?}"))
    }
}

impl From<Picture> for String {
    fn from(picture: Picture) -> Self {
        picture.0
    }
}

impl MaskRuns {
    /// Of pixels, 0 or 1.
    pub fn of(mask: &[u8]) -> Self {
        let mut runs = vec![];
        let (mut value, mut n) = (0, 0);
        for &pixel in mask {
            if u8::from(pixel != 0) != value {
                runs.push(n);
                (value, n) = (1 - value, 0);
            }
            n += 1;
        }
        runs.push(n);
        Self(runs)
    }

    /// The pixels, 0 or 1.
    pub fn pixels(&self) -> Vec<u8> {
        let run = |(idx, &n): (usize, &u32)| std::iter::repeat_n((idx % 2) as u8, n as usize);
        self.0.iter().enumerate().flat_map(run).collect()
    }
}

/// The first 60 bits of every PNG file.
const PNG_START: &str = "iVBORw0KGg";
/// Hundreds of instances.
const MAX_BYTES: u64 = 64 << 20;
/// Larger than any panel.
const MAX_GRID: u64 = 4096;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Two instances on a grid of 4.
    pub(crate) fn gallery() -> Gallery {
        let png = b"\x89PNG\r\n\x1a\nrest";
        let mask = |n: usize| MaskRuns::of(&(0..16).map(|at| u8::from(at < n)).collect::<Vec<_>>());
        let shown = |annotation_id: u64, why: Why| Shown {
            annotation_id,
            image_id: 7,
            why,
            grid: 4,
            picture: Picture::of_png(png),
            prompt: [0.5, 1.0, 3.0, 3.5],
            truth: mask(8),
            answers: vec![Answer { row: "int8".into(), iou: 0.5, mask: mask(4) }],
        };
        Gallery {
            version: GALLERY_VERSION,
            space: Space::Crop,
            chosen_by: "int8".into(),
            shown: vec![shown(1, Why::Best), shown(2, Why::Fixed)],
        }
    }

    #[test]
    fn masks_come_back_as_they_were() {
        for mask in [vec![0, 0, 1, 1, 1, 0], vec![1, 1, 1, 1], vec![0, 0, 0, 0], vec![1, 0, 1, 0]] {
            assert_eq!(MaskRuns::of(&mask).pixels(), mask);
        }
        assert_eq!(MaskRuns::of(&[1, 1, 0]).0, [0, 2, 1]);
    }

    #[test]
    fn what_is_no_gallery_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gallery.json");
        gallery().write(&path).unwrap();
        assert_eq!(Gallery::read(&path).unwrap(), gallery());
        let json = std::fs::read_to_string(&path).unwrap();
        let check = |from: &str, to: &str, words: &str| {
            let edited = json.replacen(from, to, 1);
            assert_ne!(edited, json, "{from}");
            write_whole(&path, edited.as_bytes()).unwrap();
            let error = Gallery::read(&path).unwrap_err();
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            assert!(format!("{error}{cause}").contains(words), "{error}{cause}");
        };
        check("\"version\":1", "\"version\":2", "version: expected 1, found 2");
        check("\"truth\":[0,8,8]", "\"truth\":[0,8,9]", "annotation 1: a mask: expected 16 pixels, found 17");
        check("\"grid\":4", "\"grid\":0", "annotation 1: grid: expected 1 to 4096, found 0");
        check("iVBORw0KGg", "x\\\" onload=\\\"", "expected a PNG file in base64");
        check("\"why\":\"best\"", "\"why\":\"nice\"", "not a gallery");
    }
}
