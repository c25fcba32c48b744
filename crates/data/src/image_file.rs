//! JPEG and PNG files to RGB pixels.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

use png::{BitDepth, ColorType, Compression, Filter, InterlaceInfo, Transformations};

use crate::geometry::{PixelRect, Size};
use crate::image_part::ImagePart;
use crate::jpeg::{decode_jpeg, decode_upper_rows};
use crate::large_images::in_turn;
use crate::mask::Mask;

/// An RGB image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Width and height in pixels.
    pub size: Size,
    /// Row-major, three bytes a pixel: red, green, blue.
    pub pixels: Vec<u8>,
}

/// The upper rows of an image, or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpperRows {
    /// Width and height of the whole image in pixels.
    pub size: Size,
    /// As many whole rows as there are, three bytes a pixel: red, green, blue.
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

/// An image file that was read and not yet decoded.
pub struct ImageFile {
    path: PathBuf,
    bytes: Vec<u8>,
    digest: [u8; 32],
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
    #[error("{}: expected a JPEG or PNG file, found {}", path.display(), first_bytes(found))]
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

impl UpperRows {
    /// Number of rows from the top that are there.
    pub fn n_rows(&self) -> u32 {
        let row_bytes = self.size.width as usize * 3;
        self.pixels.len().checked_div(row_bytes).map_or(0, |n_rows| n_rows as u32)
    }

    /// The same as a part of the image.
    pub fn as_part(&self) -> ImagePart<'_> {
        let place = PixelRect { x0: 0, y0: 0, x1: self.size.width, y1: self.n_rows() };
        ImagePart { image: self.size, place, pixels: &self.pixels }
    }
}

impl From<RgbImage> for UpperRows {
    fn from(RgbImage { size, pixels }: RgbImage) -> Self {
        Self { size, pixels }
    }
}

impl ImageFile {
    /// Reads a file.
    ///
    /// # Errors
    /// `Read`, `TooManyBytes`.
    pub fn read(path: &Path, limits: &ImageLimits) -> Result<Self, ImageError> {
        let failed = |source| ImageError::Read { path: path.to_path_buf(), source };
        let file = File::open(path).map_err(failed)?;
        let n_bytes = file.metadata().map_err(failed)?.len();
        check_bytes(path, n_bytes, limits)?;
        let mut bytes = Vec::with_capacity(n_bytes as usize);
        file.take(limits.max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
        let digest = *blake3::hash(&bytes).as_bytes();
        Ok(Self { path: path.to_path_buf(), bytes, digest })
    }

    /// BLAKE3 of the file's bytes.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The whole image: see [`decode_image`].
    ///
    /// # Errors
    /// `TooManyPixels`, `UnknownFormat`, `Decode`.
    pub fn decode(&self, limits: &ImageLimits) -> Result<RgbImage, ImageError> {
        decode_image(&self.path, &self.bytes, limits)
    }

    /// The upper rows of the image, at least `n_rows` if it has as many, equal to those of [`decode`](Self::decode).
    ///
    /// A JPEG file in one scan is decoded no further than that, and damage below it goes unnoticed: this is for files that have been
    /// decoded whole before.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_upper_rows(self, n_rows: u32, limits: &ImageLimits) -> Result<UpperRows, ImageError> {
        if !self.bytes.starts_with(JPEG_SIGNATURE) {
            return self.decode(limits).map(UpperRows::from);
        }
        check_bytes(&self.path, self.bytes.len() as u64, limits)?;
        let (size, pixels) = decode_upper_rows(&self.path, self.bytes, n_rows, limits)?;
        Ok(UpperRows { size, pixels })
    }
}

/// Decodes a JPEG or PNG file from memory; `path` only names it in errors.
///
/// Grey becomes three equal channels; CMYK and YCCK, stored inverted as Adobe does, become RGB without a colour profile;
/// alpha is dropped; 16 bits are rounded to 8. The EXIF orientation is not applied: COCO's annotations are in the stored
/// pixels. A file that ends early is an error, not an image with a grey rest (a JPEG file that lost a part of its middle
/// can still decode, as it does in libjpeg).
pub fn decode_image(path: &Path, bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    check_bytes(path, bytes.len() as u64, limits)?;
    if bytes.starts_with(JPEG_SIGNATURE) {
        let (size, pixels) = decode_jpeg(path, bytes, limits)?;
        let failed = |reason| ImageError::Decode { path: path.to_path_buf(), format: "JPEG", reason };
        rgb_image(size, pixels).map_err(failed)
    } else if bytes.starts_with(PNG_SIGNATURE) {
        decode_png(path, bytes, limits)
    } else {
        Err(unknown_format(path, bytes))
    }
}

/// Reads and decodes an image file; see [`decode_image`].
pub fn read_image(path: &Path, limits: &ImageLimits) -> Result<EncodedImage, ImageError> {
    let file = ImageFile::read(path, limits)?;
    Ok(EncodedImage { image: file.decode(limits)?, digest: file.digest() })
}

/// Encodes an image as PNG; the same image gives the same bytes.
///
/// # Panics
/// If `image.pixels` does not have three bytes a pixel, or a side is 0.
pub fn encode_png(image: &RgbImage) -> Vec<u8> {
    png_file(image.size, ColorType::Rgb, &image.pixels, Compression::Balanced, None)
}

/// [`encode_png`] in a tenth of the time, with larger files.
///
/// # Panics
/// As there.
pub fn encode_png_fast(image: &RgbImage) -> Vec<u8> {
    png_file(image.size, ColorType::Rgb, &image.pixels, Compression::Fast, None)
}

/// Encodes a mask as a grey PNG of 8 bits: 0 for background, 255 for foreground.
///
/// # Panics
/// If `mask.bits` does not have one value a pixel, or a side is 0.
pub fn encode_mask_png(mut mask: Mask) -> Vec<u8> {
    mask.bits.iter_mut().for_each(|bit| *bit = if *bit == 0 { 0 } else { 255 });
    // A row of a mask is mostly the row above it: the difference is zeros, which the fast compression is made for.
    png_file(mask.size, ColorType::Grayscale, &mask.bits, Compression::Fast, Some(Filter::Up))
}

fn png_file(size: Size, colours: ColorType, bytes: &[u8], compression: Compression, filter: Option<Filter>) -> Vec<u8> {
    let Size { width, height } = size;
    assert!(width > 0 && height > 0, "a PNG image of {size}");
    assert_eq!(bytes.len(), size.n_pixels() * colours.samples(), "bytes of a {size} image");
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(colours);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(compression);
    if let Some(filter) = filter {
        encoder.set_filter(filter);
    }
    let written = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(bytes)?;
        writer.finish()
    });
    written.expect("the size fits the pixels, and a Vec takes any number of bytes");
    file
}

/// In hexadecimal, for a message.
fn first_bytes(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "an empty one".into();
    }
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("one that starts with {}", bytes.join(" "))
}

pub(crate) fn unknown_format(path: &Path, bytes: &[u8]) -> ImageError {
    ImageError::UnknownFormat { path: path.to_path_buf(), found: bytes[..bytes.len().min(8)].to_vec() }
}

pub(crate) fn check_bytes(path: &Path, found: u64, limits: &ImageLimits) -> Result<(), ImageError> {
    if found > limits.max_bytes {
        return Err(ImageError::TooManyBytes { path: path.to_path_buf(), limit: limits.max_bytes, found });
    }
    Ok(())
}

pub(crate) fn check_pixels(path: &Path, size: Size, limits: &ImageLimits) -> Result<(), ImageError> {
    if u64::from(size.width) * u64::from(size.height) > limits.max_pixels {
        return Err(ImageError::TooManyPixels { path: path.to_path_buf(), limit: limits.max_pixels, size });
    }
    Ok(())
}

fn decode_png(path: &Path, bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    let failed = |reason| ImageError::Decode { path: path.to_path_buf(), format: "PNG", reason };
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    let header = decoder.read_header_info().map_err(|error| failed(error.to_string()))?;
    let size = Size { width: header.width, height: header.height };
    check_pixels(path, size, limits)?;
    in_turn(size, || decode_png_pixels(decoder, size)).map_err(failed)
}

fn decode_png_pixels(mut decoder: png::Decoder<Cursor<&[u8]>>, size: Size) -> Result<RgbImage, String> {
    let failed = |error: png::DecodingError| error.to_string();
    decoder.set_transformations(Transformations::EXPAND);
    let mut reader = decoder.read_info().map_err(failed)?;
    let (colours, depth) = reader.output_color_type();
    if colours == ColorType::Indexed {
        return Err(String::from("a palette that was not expanded"));
    }
    let row_bytes = size.width as usize * 3;
    let mut pixels = vec![0; size.n_pixels() * 3];
    let mut rgb = Vec::with_capacity(row_bytes);
    let mut next_row = 0;
    // Row by row, since the samples of 16 bits and of transparency take up to 2.7 times as much memory as the pixels.
    while let Some(row) = reader.next_interlaced_row().map_err(failed)? {
        rgb.clear();
        push_rgb(row.data(), colours, depth, &mut rgb);
        match row.interlace() {
            InterlaceInfo::Null(_) => {
                let out = pixels.get_mut(next_row * row_bytes..(next_row + 1) * row_bytes);
                match out.filter(|out| out.len() == rgb.len()) {
                    Some(out) => out.copy_from_slice(&rgb),
                    None => return Err(format!("row {next_row} has {} bytes of RGB", rgb.len())),
                }
            }
            InterlaceInfo::Adam7(info) => png::expand_interlaced_row(&mut pixels, row_bytes, &rgb, info, 24),
        }
        next_row += 1;
    }
    reader.finish().map_err(failed)?;
    rgb_image(size, pixels)
}

/// Appends the pixels of a row, three bytes each.
fn push_rgb(samples: &[u8], colours: ColorType, depth: BitDepth, out: &mut Vec<u8>) {
    // A sample's first byte, or its two bytes rounded to one.
    let (bytes, is_deep) = if depth == BitDepth::Sixteen { (2, true) } else { (1, false) };
    let sample = |sample: &[u8]| match is_deep {
        true => ((u32::from(u16::from_be_bytes([sample[0], sample[1]])) + 128) / 257) as u8,
        false => sample[0],
    };
    let (n_samples, is_colour) = match colours {
        ColorType::Rgb => (3, true),
        ColorType::Rgba => (4, true),
        ColorType::Grayscale | ColorType::Indexed => (1, false),
        ColorType::GrayscaleAlpha => (2, false),
    };
    for pixel in samples.chunks_exact(n_samples * bytes) {
        match is_colour {
            true => out.extend([0, 1, 2].map(|channel| sample(&pixel[channel * bytes..]))),
            false => out.extend([sample(pixel); 3]),
        }
    }
}

fn rgb_image(size: Size, pixels: Vec<u8>) -> Result<RgbImage, String> {
    let expected = size.n_pixels() * 3;
    if pixels.len() != expected {
        return Err(format!("expected {expected} bytes of RGB, found {}", pixels.len()));
    }
    Ok(RgbImage { size, pixels })
}

pub(crate) const JPEG_SIGNATURE: &[u8] = &[0xff, 0xd8, 0xff];
pub(crate) const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
