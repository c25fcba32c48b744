//! JPEG data to RGB pixels: all of them, or the upper rows.
//!
//! Two decoders share the work, each for what it was found to decode as libjpeg does (`scripts/check/jpeg.py`): zune-jpeg is the fast
//! one, for what cameras and exporters write; jpeg-decoder takes the rest, of which zune-jpeg makes wrong pixels without a word.

use std::path::Path;

use jpeg_decoder::{ColorTransform, PixelFormat};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;

use crate::chroma_edges::ChromaEdges;
use crate::geometry::Size;
use crate::image_file::{ImageError, ImageLimits, check_pixels};
use crate::jpeg_header::{Colours, END_OF_IMAGE, JpegHeader};
use crate::large_images::in_turn;

/// Size and pixels of a whole image, three bytes a pixel.
///
/// # Errors
/// `Decode`, `TooManyPixels`.
pub(crate) fn decode_jpeg(path: &Path, bytes: &[u8], limits: &ImageLimits) -> Result<(Size, Vec<u8>), ImageError> {
    let header = read_header(path, bytes)?;
    decode(path, bytes, &header, limits)
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
    let header = read_header(path, &bytes)?;
    let (Some(cut), Decoder::Usual { edges }) = (Cut::new(&header, n_rows), Decoder::of(&header)) else {
        return decode(path, &bytes, &header, limits);
    };
    check_pixels(path, header.frame.size, limits)?;
    let height_at = header.frame.height_at;
    bytes[height_at..height_at + 2].copy_from_slice(&cut.decoded_rows.to_be_bytes());
    let mut pixels =
        in_turn(header.frame.size, || decode_usual(&bytes, edges)).map_err(|reason| cannot_decode(path, reason))?;
    pixels.truncate(usize::from(cut.exact_rows) * header.frame.size.width as usize * 3);
    Ok((header.frame.size, pixels))
}

/// Who decodes a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decoder {
    /// zune-jpeg.
    Usual {
        /// Where its chroma has to be mended.
        edges: ChromaEdges,
    },
    /// jpeg-decoder.
    Unusual,
}

impl Decoder {
    /// zune-jpeg decodes what cameras and exporters write: grey, or YCbCr whose chroma is sampled as often as the luma or half as often
    /// across, down or both, in one scan or progressive. Of other samplings, of sequential files in several scans, of four components
    /// and of segments that disagree on the colours, version 0.5.15 makes wrong pixels, or takes sound files for damaged ones.
    fn of(header: &JpegHeader) -> Self {
        let components = &header.frame.components;
        let is_in_one_scan = usize::from(header.n_scan_components) == components.len();
        let sampling = match components[..] {
            [_] => Some((1, 1)),
            [luma, blue, red] => {
                let is_half =
                    matches!(luma.sampling, (1 | 2, 1 | 2)) && [blue, red].iter().all(|one| one.sampling == (1, 1));
                (is_half && header.is_plain_ycbcr()).then_some(luma.sampling)
            }
            _ => None,
        };
        match sampling.filter(|_| is_in_one_scan || header.frame.is_progressive()) {
            Some(luma_sampling) => Self::Usual { edges: ChromaEdges::new(header.frame.size, luma_sampling) },
            None => Self::Unusual,
        }
    }
}

fn decode(path: &Path, bytes: &[u8], header: &JpegHeader, limits: &ImageLimits) -> Result<(Size, Vec<u8>), ImageError> {
    let size = header.frame.size;
    check_pixels(path, size, limits)?;
    let pixels = in_turn(size, || match Decoder::of(header) {
        Decoder::Usual { edges } => decode_usual(bytes, edges),
        Decoder::Unusual => decode_unusual(bytes, header),
    });
    let pixels = pixels.map_err(|reason| cannot_decode(path, reason))?;
    Ok((size, pixels))
}

fn decode_usual(bytes: &[u8], edges: ChromaEdges) -> Result<Vec<u8>, String> {
    let colours = if edges.are_right() { ColorSpace::RGB } else { ColorSpace::YCbCr };
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(colours);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let mut pixels = decoder.decode().map_err(|error| error.to_string())?;
    if !edges.are_right() {
        let (width, height) = decoder.dimensions().ok_or("an image without a size")?;
        edges.mend(&mut pixels, Size { width: width as u32, height: height as u32 });
    }
    Ok(pixels)
}

fn decode_unusual(bytes: &[u8], header: &JpegHeader) -> Result<Vec<u8>, String> {
    let mut decoder = jpeg_decoder::Decoder::new(bytes);
    // It guesses otherwise than libjpeg where the file says little.
    decoder.set_color_transform(match header.colours()? {
        Colours::Grey => ColorTransform::Grayscale,
        Colours::Rgb => ColorTransform::RGB,
        Colours::YCbCr => ColorTransform::YCbCr,
        Colours::Cmyk => ColorTransform::CMYK,
        Colours::Ycck => ColorTransform::YCCK,
    });
    let pixels = decoder.decode().map_err(|error| error.to_string())?;
    match decoder.info().map(|info| info.pixel_format) {
        Some(PixelFormat::RGB24) => Ok(pixels),
        Some(PixelFormat::L8) => Ok(pixels.iter().flat_map(|&grey| [grey; 3]).collect()),
        Some(PixelFormat::CMYK32) => Ok(pixels.as_chunks::<4>().0.iter().flat_map(inks_to_rgb).collect()),
        other => Err(format!("pixels of the format {other:?}")),
    }
}

/// Pillow's conversion, without a colour profile: what the black ink leaves of what each of the others leaves.
fn inks_to_rgb(&[cyan, magenta, yellow, black]: &[u8; 4]) -> [u8; 3] {
    let paper = u32::from(255 - black);
    [cyan, magenta, yellow].map(|ink| ((paper * u32::from(255 - ink) + 127) / 255) as u8)
}

fn cannot_decode(path: &Path, reason: String) -> ImageError {
    ImageError::Decode { path: path.to_path_buf(), format: "JPEG", reason }
}

/// The header of a file that has an end: strict decoders miss a cut in the last rows of blocks.
fn read_header(path: &Path, bytes: &[u8]) -> Result<JpegHeader, ImageError> {
    let failed = |reason| cannot_decode(path, reason);
    let header = JpegHeader::read(bytes).map_err(failed)?;
    if let Some(kind) = header.frame.unsupported_kind() {
        return Err(failed(format!("{kind} is not supported")));
    }
    header.colours().map_err(failed)?;
    if header.frame.has_mixed_sampling() {
        return Err(failed(String::from("components sampled 4 and 2 times across or down are not supported")));
    }
    // In a scan, 0xff is followed by 0 or a restart marker: 0xff 0xd9 is the end. Those before are thumbnails'.
    let is_end = |pair: &[u8]| pair == [0xff, END_OF_IMAGE];
    if !bytes.get(header.coded_at..).is_some_and(|scan| scan.windows(2).rev().any(is_end)) {
        return Err(failed(String::from("the file ends before the image does")));
    }
    Ok(header)
}

/// How an image's upper rows are decoded without the rest.
struct Cut {
    /// The height to say.
    decoded_rows: u16,
    /// The rows of these that the whole image has too: the last ones are interpolated towards an edge that it does not have.
    exact_rows: u16,
}

impl Cut {
    /// `None` where the image's components come one after the other, or where all of it is needed.
    fn new(header: &JpegHeader, n_rows: u32) -> Option<Self> {
        let frame = &header.frame;
        if frame.is_progressive() || usize::from(header.n_scan_components) != frame.components.len() {
            return None;
        }
        let rows_of_blocks = frame.components.iter().map(|component| component.sampling.1).max()?;
        // The upsampling of chroma looks one row further down: a row of blocks more than is needed.
        let step = 8 * u32::from(rows_of_blocks.clamp(1, 4));
        let exact_rows = n_rows.max(1).checked_next_multiple_of(step)?;
        let decoded_rows = exact_rows + step;
        let cut = Self { decoded_rows: decoded_rows as u16, exact_rows: exact_rows as u16 };
        (decoded_rows < frame.size.height).then_some(cut)
    }
}
