//! JPEG and PNG files to RGB pixels.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

use png::{BitDepth, ColorType, Transformations};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use crate::geometry::Size;

/// An RGB image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Width and height in pixels.
    pub size: Size,
    /// Row-major, three bytes a pixel: red, green, blue.
    pub pixels: Vec<u8>,
}

/// An image with the digest of the file it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedImage {
    /// The decoded image.
    pub image: RgbImage,
    /// BLAKE3 of the file's bytes.
    pub digest: [u8; 32],
}

/// What is refused before it is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// Largest file, in bytes.
    pub max_bytes: u64,
    /// Largest `width * height`.
    pub max_pixels: u64,
}

impl Default for ImageLimits {
    /// 256 MiB and 64 Mi pixels.
    fn default() -> ImageLimits {
        ImageLimits { max_bytes: 256 << 20, max_pixels: 64 << 20 }
    }
}

/// An image file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file cannot be opened or read.
    #[error("{}: cannot read image", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is larger than allowed.
    #[error("{}: expected at most {limit} bytes, found {found}", path.display())]
    TooManyBytes {
        /// The file.
        path: PathBuf,
        /// [`ImageLimits::max_bytes`].
        limit: u64,
        /// Size of the file.
        found: u64,
    },
    /// The image is larger than allowed.
    #[error("{}: expected at most {limit} pixels, found {size} = {}", path.display(), size.n_pixels())]
    TooManyPixels {
        /// The file.
        path: PathBuf,
        /// [`ImageLimits::max_pixels`].
        limit: u64,
        /// Size of the image.
        size: Size,
    },
    /// Neither JPEG nor PNG.
    #[error("{}: expected a JPEG or PNG file, found one that starts with {found:02x?}", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// Its first bytes, at most 8.
        found: Vec<u8>,
    },
    /// Damaged, cut off, or a kind of JPEG or PNG that is not supported.
    #[error("{}: cannot decode {format}: {reason}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// "JPEG" or "PNG".
        format: &'static str,
        /// What the decoder says.
        reason: String,
    },
}

/// Decodes a JPEG or PNG file from memory; `path` only names it in errors.
///
/// Grey becomes three equal channels; CMYK and YCCK, stored inverted as Adobe does, become RGB without a colour profile;
/// alpha is dropped; 16 bits are rounded to 8. The EXIF orientation is not applied: COCO's annotations are in the stored
/// pixels. A file that ends early is an error, not an image with a grey rest (a JPEG file that lost a part of its middle
/// can still decode, as it does in libjpeg).
pub fn decode_image(path: &Path, bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    check_bytes(path, bytes.len() as u64, limits)?;
    if bytes.starts_with(&[0xff, 0xd8, 0xff]) {
        decode_jpeg(path, bytes, limits)
    } else if bytes.starts_with(PNG_SIGNATURE) {
        decode_png(path, bytes, limits)
    } else {
        Err(ImageError::UnknownFormat { path: path.to_path_buf(), found: bytes[..bytes.len().min(8)].to_vec() })
    }
}

/// Reads and decodes an image file; see [`decode_image`].
pub fn read_image(path: &Path, limits: &ImageLimits) -> Result<EncodedImage, ImageError> {
    let failed = |source| ImageError::Read { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(failed)?;
    let n_bytes = file.metadata().map_err(failed)?.len();
    check_bytes(path, n_bytes, limits)?;
    let mut bytes = Vec::with_capacity(n_bytes as usize);
    file.take(limits.max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    Ok(EncodedImage { image: decode_image(path, &bytes, limits)?, digest: *blake3::hash(&bytes).as_bytes() })
}

/// Encodes an image as PNG; the same image gives the same bytes.
///
/// # Panics
/// If `image.pixels` does not have three bytes a pixel, or a side is 0.
pub fn encode_png(image: &RgbImage) -> Vec<u8> {
    let Size { width, height } = image.size;
    assert!(width > 0 && height > 0, "a PNG image of {}", image.size);
    assert_eq!(image.pixels.len(), image.size.n_pixels() * 3, "bytes of a {} image", image.size);
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    let written = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(&image.pixels)?;
        writer.finish()
    });
    written.expect("the size fits the pixels, and a Vec takes any number of bytes");
    file
}

fn check_bytes(path: &Path, found: u64, limits: &ImageLimits) -> Result<(), ImageError> {
    if found > limits.max_bytes {
        return Err(ImageError::TooManyBytes { path: path.to_path_buf(), limit: limits.max_bytes, found });
    }
    Ok(())
}

fn check_pixels(path: &Path, size: Size, limits: &ImageLimits) -> Result<(), ImageError> {
    if u64::from(size.width) * u64::from(size.height) > limits.max_pixels {
        return Err(ImageError::TooManyPixels { path: path.to_path_buf(), limit: limits.max_pixels, size });
    }
    Ok(())
}

fn decode_jpeg(path: &Path, bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    let failed = |reason| ImageError::Decode { path: path.to_path_buf(), format: "JPEG", reason };
    check_jpeg_end(bytes).map_err(failed)?;
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
    rgb_image(size, pixels).map_err(failed)
}

/// Looks for the end-of-image marker behind the start of the first scan (those before it are thumbnails'): the decoder's
/// strict mode misses a cut in the last rows of blocks.
fn check_jpeg_end(bytes: &[u8]) -> Result<(), String> {
    let mut at = 2;
    loop {
        let (Some(0xff), Some(&marker)) = (bytes.get(at), bytes.get(at + 1)) else {
            return Err(format!("expected a marker at byte {at}"));
        };
        match marker {
            0xff => at += 1,               // fill byte
            0x01 | 0xd0..=0xd8 => at += 2, // markers without a body
            0xd9 => return Err(format!("the image ends at byte {at} without a scan")),
            _ => {
                let Some(&[high, low]) = bytes.get(at + 2..at + 4).and_then(|length| length.as_array()) else {
                    return Err(format!("the file ends inside of the header at byte {at}"));
                };
                at += 2 + usize::from(u16::from_be_bytes([high, low]));
            }
        }
        if marker == START_OF_SCAN {
            // In a scan, 0xff is followed by 0 or a restart marker: 0xff 0xd9 is the end.
            let ends = bytes.get(at..).is_some_and(|scan| scan.windows(2).rev().any(|pair| pair == [0xff, 0xd9]));
            return if ends { Ok(()) } else { Err(String::from("the file ends before the image does")) };
        }
    }
}

fn decode_png(path: &Path, bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    let failed = |reason| ImageError::Decode { path: path.to_path_buf(), format: "PNG", reason };
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    let header = decoder.read_header_info().map_err(|error| failed(error.to_string()))?;
    let size = Size { width: header.width, height: header.height };
    check_pixels(path, size, limits)?;
    decoder.set_transformations(Transformations::EXPAND);
    let mut reader = decoder.read_info().map_err(|error| failed(error.to_string()))?;
    let n_bytes = reader.output_buffer_size().ok_or_else(|| failed(String::from("too large for this machine")))?;
    let mut samples = vec![0; n_bytes];
    reader.next_frame(&mut samples).map_err(|error| failed(error.to_string()))?;
    reader.finish().map_err(|error| failed(error.to_string()))?;

    let (colours, depth) = reader.output_color_type();
    if depth == BitDepth::Sixteen {
        let rounded = |sample: &[u8; 2]| ((u32::from(u16::from_be_bytes(*sample)) + 128) / 257) as u8;
        samples = samples.as_chunks::<2>().0.iter().map(rounded).collect();
    }
    let pixels = match colours {
        ColorType::Rgb => samples,
        ColorType::Rgba => samples.as_chunks::<4>().0.iter().flat_map(|&[r, g, b, _]| [r, g, b]).collect(),
        ColorType::Grayscale => samples.iter().flat_map(|&grey| [grey; 3]).collect(),
        ColorType::GrayscaleAlpha => samples.as_chunks::<2>().0.iter().flat_map(|&[grey, _]| [grey; 3]).collect(),
        ColorType::Indexed => return Err(failed(String::from("a palette that was not expanded"))),
    };
    rgb_image(size, pixels).map_err(failed)
}

fn rgb_image(size: Size, pixels: Vec<u8>) -> Result<RgbImage, String> {
    let expected = size.n_pixels() * 3;
    if pixels.len() != expected {
        return Err(format!("expected {expected} bytes of RGB, found {}", pixels.len()));
    }
    Ok(RgbImage { size, pixels })
}

const START_OF_SCAN: u8 = 0xda;
const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
