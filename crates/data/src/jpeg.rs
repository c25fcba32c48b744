//! JPEG data to RGB pixels: all of them, or the upper rows.

use std::path::Path;

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use crate::geometry::Size;
use crate::image_file::{ImageError, ImageLimits, check_pixels};

/// Size and pixels of a whole image, three bytes a pixel.
///
/// # Errors
/// `Decode`, `TooManyPixels`.
pub(crate) fn decode_jpeg(path: &Path, bytes: &[u8], limits: &ImageLimits) -> Result<(Size, Vec<u8>), ImageError> {
    read_layout(bytes).map_err(|reason| cannot_decode(path, reason))?;
    decode(path, bytes, limits)
}

/// The upper rows of an image, at least `n_rows` if it has as many: the same bytes that [`decode_jpeg`] puts there. What is wrong
/// with the file below them may go unnoticed. The size is the whole image's.
///
/// An image in one scan is coded row by row from the top: with a smaller height in its header, the decoder stops there. Others
/// are decoded whole.
///
/// # Errors
/// `Decode`, `TooManyPixels`.
pub(crate) fn decode_upper_rows(
    path: &Path,
    mut bytes: Vec<u8>,
    n_rows: u32,
    limits: &ImageLimits,
) -> Result<(Size, Vec<u8>), ImageError> {
    let layout = read_layout(&bytes).map_err(|reason| cannot_decode(path, reason))?;
    let Some(cut) = layout.frame_at.and_then(|at| Cut::new(&bytes, at, layout.scan_at, n_rows)) else {
        return decode(path, &bytes, limits);
    };
    check_pixels(path, cut.size, limits)?;
    bytes[cut.height_at..cut.height_at + 2].copy_from_slice(&cut.decoded_rows.to_be_bytes());
    let (_, mut pixels) = decode(path, &bytes, limits)?;
    pixels.truncate(usize::from(cut.exact_rows) * cut.size.width as usize * 3);
    Ok((cut.size, pixels))
}

fn decode(path: &Path, bytes: &[u8], limits: &ImageLimits) -> Result<(Size, Vec<u8>), ImageError> {
    let failed = |reason| cannot_decode(path, reason);
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|error| failed(error.to_string()))?;
    let info = decoder.info().ok_or_else(|| failed(String::from("no frame header")))?;
    let size = Size { width: u32::from(info.width), height: u32::from(info.height) };
    check_pixels(path, size, limits)?;
    let pixels = decoder.decode().map_err(|error| failed(error.to_string()))?;
    Ok((size, pixels))
}

fn cannot_decode(path: &Path, reason: String) -> ImageError {
    ImageError::Decode { path: path.to_path_buf(), format: "JPEG", reason }
}

/// Where segments begin, behind their lengths.
struct Layout {
    /// The frame header of a sequential Huffman-coded image, if there is one and no other.
    frame_at: Option<usize>,
    /// The header of the first scan.
    scan_at: usize,
}

/// Walks the headers up to the first scan, and looks for the end-of-image marker behind its start (those before it are
/// thumbnails'): the decoder's strict mode misses a cut in the last rows of blocks.
fn read_layout(bytes: &[u8]) -> Result<Layout, String> {
    let (mut at, mut frames) = (2, vec![]);
    loop {
        let (Some(0xff), Some(&marker)) = (bytes.get(at), bytes.get(at + 1)) else {
            return Err(format!("expected a marker at byte {at}"));
        };
        match marker {
            0xff => at += 1,               // fill byte
            0x01 | 0xd0..=0xd8 => at += 2, // markers without a body
            END_OF_IMAGE => return Err(format!("the image ends at byte {at} without a scan")),
            _ => {
                let Some(&[high, low]) = bytes.get(at + 2..at + 4).and_then(|length| length.as_array()) else {
                    return Err(format!("the file ends inside of the header at byte {at}"));
                };
                let (body_at, end) = (at + 4, at + 2 + usize::from(u16::from_be_bytes([high, low])));
                if FRAMES.contains(&marker) && !NOT_FRAMES.contains(&marker) {
                    frames.push((marker, body_at));
                }
                if marker == START_OF_SCAN {
                    // In a scan, 0xff is followed by 0 or a restart marker: 0xff 0xd9 is the end.
                    let is_end = |pair: &[u8]| pair == [0xff, END_OF_IMAGE];
                    if !bytes.get(end..).is_some_and(|scan| scan.windows(2).rev().any(is_end)) {
                        return Err(String::from("the file ends before the image does"));
                    }
                    let frame_at = match frames[..] {
                        [(0xc0 | 0xc1, frame_at)] => Some(frame_at),
                        _ => None,
                    };
                    return Ok(Layout { frame_at, scan_at: body_at });
                }
                at = end;
            }
        }
    }
}

/// How an image's upper rows are decoded without the rest.
struct Cut {
    size: Size,
    /// Where the file says its height, in two bytes.
    height_at: usize,
    /// The height to say.
    decoded_rows: u16,
    /// The rows of these that the whole image has too: the last ones are interpolated towards an edge that it does not have.
    exact_rows: u16,
}

impl Cut {
    /// `None` where the headers are not understood, where the image's components come one after the other, or where all of it is
    /// needed.
    fn new(bytes: &[u8], frame_at: usize, scan_at: usize, n_rows: u32) -> Option<Self> {
        let frame = bytes.get(frame_at..)?;
        let number = |at: usize| Some(u16::from_be_bytes(*frame.get(at..at + 2)?.as_array()?));
        let (height, width, n_components) = (number(1)?, number(3)?, *frame.get(5)?);
        if *bytes.get(scan_at)? != n_components {
            return None;
        }
        let components = frame.get(6..6 + 3 * usize::from(n_components))?;
        let rows_of_blocks = components.as_chunks::<3>().0.iter().map(|[_, sampling, _]| sampling & 0xf).max()?;
        // The upsampling of chroma looks one row further down: a row of blocks more than is needed.
        let step = 8 * u32::from(rows_of_blocks.clamp(1, 4));
        let exact_rows = n_rows.max(1).checked_next_multiple_of(step)?;
        let decoded_rows = exact_rows + step;
        (decoded_rows < u32::from(height)).then(|| Self {
            size: Size { width: u32::from(width), height: u32::from(height) },
            height_at: frame_at + 1,
            decoded_rows: decoded_rows as u16,
            exact_rows: exact_rows as u16,
        })
    }
}

const FRAMES: std::ops::RangeInclusive<u8> = 0xc0..=0xcf;
/// Huffman tables, an extension, arithmetic conditioning: in the range of frames, but none.
const NOT_FRAMES: [u8; 3] = [0xc4, 0xc8, 0xcc];
const START_OF_SCAN: u8 = 0xda;
const END_OF_IMAGE: u8 = 0xd9;
