//! What a JPEG file says of itself before its first scan.

use crate::exif;
use crate::geometry::Size;

/// Everything that decides how a file is decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JpegHeader {
    pub(crate) frame: Frame,
    /// Number of components of the first scan.
    pub(crate) n_scan_components: u8,
    /// Where the first scan's coded data begin.
    pub(crate) coded_at: usize,
    has_jfif: bool,
    /// `transform` of Adobe's segment, if there is one.
    adobe_transform: Option<u8>,
    /// How the picture is to be turned to be upright, 1 to 8, if the file says it.
    pub(crate) orientation: Option<u8>,
}

/// A frame header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The marker's second byte, 0xc0 to 0xcf: the coding process.
    pub(crate) marker: u8,
    /// Bits of a sample.
    pub(crate) precision: u8,
    pub(crate) size: Size,
    /// Where the height is written, in two bytes.
    pub(crate) height_at: usize,
    pub(crate) components: Vec<Component>,
}

/// A colour component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Component {
    pub(crate) id: u8,
    /// Samples across and down, relative to the other components'.
    pub(crate) sampling: (u8, u8),
}

/// What the components mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colours {
    Grey,
    Rgb,
    YCbCr,
    Cmyk,
    Ycck,
}

impl JpegHeader {
    /// Reads the segments up to the first scan.
    ///
    /// # Errors
    /// In words, if there is no scan, or a frame of another kind than an image has.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let (mut at, mut frame, mut frames) = (2, None, 0);
        let (mut has_jfif, mut adobe_transform, mut orientation) = (false, None, None);
        loop {
            let (Some(0xff), Some(&marker)) = (bytes.get(at), bytes.get(at + 1)) else {
                return Err(format!("expected a marker at byte {at}"));
            };
            match marker {
                0xff => {
                    at += 1; // fill byte
                    continue;
                }
                0x01 | 0xd0..=0xd8 => {
                    at += 2; // markers without a body
                    continue;
                }
                END_OF_IMAGE => return Err(format!("the image ends at byte {at} without a scan")),
                _ => {}
            }
            let Some(&[high, low]) = bytes.get(at + 2..at + 4).and_then(|length| length.as_array()) else {
                return Err(cut(at));
            };
            let (body_at, end) = (at + 4, at + 2 + usize::from(u16::from_be_bytes([high, low])));
            let Some(body) = bytes.get(body_at..end) else { return Err(cut(at)) };
            match marker {
                0xc0..=0xcf if !NOT_FRAMES.contains(&marker) => {
                    frames += 1;
                    frame = Some(Frame::read(marker, body, body_at).ok_or_else(|| cut(at))?);
                }
                // libjpeg takes segments that begin so, in any place.
                0xe0 if body.len() >= 14 && body.starts_with(b"JFIF\0") => has_jfif = true,
                0xe1 => {
                    if let Some(tiff) = body.strip_prefix(b"Exif\0\0") {
                        orientation = orientation.or(exif::orientation(tiff));
                    }
                }
                0xee if body.len() >= 12 && body.starts_with(b"Adobe") => adobe_transform = Some(body[11]),
                START_OF_SCAN => {
                    if frames > 1 {
                        return Err(String::from("a hierarchical image: several frames"));
                    }
                    let frame = frame.ok_or_else(|| String::from("a scan without a frame"))?;
                    let n_scan_components = *body.first().ok_or_else(|| cut(at))?;
                    return Ok(Self {
                        frame,
                        n_scan_components,
                        coded_at: end,
                        has_jfif,
                        adobe_transform,
                        orientation,
                    });
                }
                _ => {}
            }
            at = end;
        }
    }

    /// What the components mean, by the rules of libjpeg (`default_decompress_parms` in `jdapimin.c`): JFIF's segment counts more than
    /// Adobe's, Adobe's more than the components' ids.
    ///
    /// # Errors
    /// In words, for two components, or more than four.
    pub(crate) fn colours(&self) -> Result<Colours, String> {
        let ids: Vec<u8> = self.frame.components.iter().map(|component| component.id).collect();
        Ok(match (ids.len(), self.adobe_transform) {
            (1, _) => Colours::Grey,
            (3, _) if self.has_jfif => Colours::YCbCr,
            (3, Some(0)) => Colours::Rgb,
            (3, None) if ids == *b"RGB" => Colours::Rgb,
            (3, _) => Colours::YCbCr,
            (4, None | Some(0)) => Colours::Cmyk,
            (4, Some(_)) => Colours::Ycck,
            (n_components, _) => return Err(format!("an image of {n_components} components")),
        })
    }

    /// Whether nothing in the file speaks for other colours than YCbCr.
    pub(crate) fn is_plain_ycbcr(&self) -> bool {
        let ids = self.frame.components.iter().map(|component| component.id);
        ids.eq([1, 2, 3]) && matches!(self.adobe_transform, None | Some(1))
    }
}

impl Frame {
    fn read(marker: u8, body: &[u8], body_at: usize) -> Option<Self> {
        let (&[precision, height_high, height_low, width_high, width_low, n_components], components) =
            body.split_first_chunk()?;
        let side = |high, low| u32::from(u16::from_be_bytes([high, low]));
        let components = components.get(..3 * usize::from(n_components))?.as_chunks::<3>().0;
        Some(Self {
            marker,
            precision,
            size: Size { width: side(width_high, width_low), height: side(height_high, height_low) },
            height_at: body_at + 1,
            components: (components.iter())
                .map(|&[id, sampling, _]| Component { id, sampling: (sampling >> 4, sampling & 0xf) })
                .collect(),
        })
    }

    /// The kind of frame in words, if it is one that no decoder of ours reads.
    pub(crate) fn unsupported_kind(&self) -> Option<String> {
        match (self.marker, self.precision) {
            (0xc3 | 0xc7 | 0xcb | 0xcf, _) => Some(String::from("a lossless image")),
            (0xc5 | 0xc6 | 0xcd | 0xce, _) => Some(String::from("a hierarchical image")),
            (0xc9 | 0xca, _) => Some(String::from("arithmetic coding")),
            (_, precision) if precision != 8 => Some(format!("samples of {precision} bits")),
            _ => None,
        }
    }

    /// Whether one component is sampled four times across or down and another twice: jpeg-decoder 0.3.2 is up to 181 levels off there.
    pub(crate) fn has_mixed_sampling(&self) -> bool {
        let has = |across, n| {
            let count = |component: &Component| if across { component.sampling.0 } else { component.sampling.1 };
            self.components.iter().any(|component| count(component) == n)
        };
        [true, false].iter().any(|&across| has(across, 4) && has(across, 2))
    }

    pub(crate) fn is_progressive(&self) -> bool {
        self.marker == 0xc2
    }
}

fn cut(at: usize) -> String {
    format!("the file ends inside of the header at byte {at}")
}

/// Huffman tables, an extension, arithmetic conditioning: in the range of frames, but none.
const NOT_FRAMES: [u8; 3] = [0xc4, 0xc8, 0xcc];
const START_OF_SCAN: u8 = 0xda;
pub(crate) const END_OF_IMAGE: u8 = 0xd9;
