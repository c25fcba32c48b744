//! What an image file says of itself before its pixels: read without decoding.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::exif;
use crate::geometry::Size;
use crate::image_file::{
    ImageError, ImageLimits, JPEG_SIGNATURE, PNG_SIGNATURE, check_bytes, check_pixels, unknown_format,
};
use crate::jpeg_header::JpegHeader;

/// Size and orientation of an image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageHeader {
    /// Width and height in stored pixels.
    pub size: Size,
    /// Exif's orientation, 1 (upright) to 8, if the file says it. It is not applied: COCO's annotations are in the stored pixels.
    pub orientation: Option<u8>,
}

impl ImageHeader {
    /// Whether a viewer shows the picture turned or mirrored.
    pub fn is_turned(&self) -> bool {
        self.orientation.is_some_and(|orientation| orientation != 1)
    }
}

/// Reads the header of a JPEG or PNG file: its first part, and more only where that is not enough.
///
/// # Errors
/// As [`read_image`](crate::image_file::read_image), but for what is wrong behind the header.
pub fn read_image_header(path: &Path, limits: &ImageLimits) -> Result<ImageHeader, ImageError> {
    let failed = |source| ImageError::Read { path: path.to_path_buf(), source };
    let mut file = File::open(path).map_err(failed)?;
    let n_bytes = file.metadata().map_err(failed)?.len();
    check_bytes(path, n_bytes, limits)?;
    let mut bytes = vec![];
    file.by_ref().take(FIRST_PART).read_to_end(&mut bytes).map_err(failed)?;
    let mut header = parse(path, &bytes);
    if header.is_err() && n_bytes > FIRST_PART {
        file.take(limits.max_bytes).read_to_end(&mut bytes).map_err(failed)?;
        header = parse(path, &bytes);
    }
    let header = header?;
    check_pixels(path, header.size, limits)?;
    Ok(header)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<ImageHeader, ImageError> {
    let failed = |format, reason| ImageError::Decode { path: path.to_path_buf(), format, reason };
    if bytes.starts_with(JPEG_SIGNATURE) {
        let JpegHeader { frame, orientation, .. } = JpegHeader::read(bytes).map_err(|reason| failed("JPEG", reason))?;
        return Ok(ImageHeader { size: frame.size, orientation });
    }
    if let Some(chunks) = bytes.strip_prefix(PNG_SIGNATURE) {
        return png_header(chunks).ok_or_else(|| failed("PNG", String::from("the file ends inside of its header")));
    }
    Err(unknown_format(path, bytes))
}

/// The header chunk, and an Exif chunk if it stands before the pixels, as it should.
fn png_header(mut chunks: &[u8]) -> Option<ImageHeader> {
    let (mut size, mut orientation) = (None, None);
    loop {
        let (&[length, kind], rest) = chunks.as_chunks::<4>().0.first_chunk().map(|head| (head, &chunks[8..]))?;
        let length = u32::from_be_bytes(length) as usize;
        let body = rest.get(..length).or_else(|| (&kind == b"IDAT").then_some(&[][..]))?;
        match &kind {
            b"IHDR" => {
                let [width, height] = body.as_chunks::<4>().0.first_chunk()?.map(u32::from_be_bytes);
                size = Some(Size { width, height });
            }
            b"eXIf" => orientation = exif::orientation(body),
            b"IDAT" => return Some(ImageHeader { size: size?, orientation }),
            _ => {}
        }
        // Behind the body there are four bytes of a check sum.
        chunks = rest.get(length + 4..)?;
    }
}

/// Headers are within the first 64 KiB of all but photographs with large profiles or thumbnails.
const FIRST_PART: u64 = 64 << 10;
