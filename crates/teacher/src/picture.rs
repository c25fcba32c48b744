//! Reading the pictures that a teacher is to look at, and counting those that cannot be used.

use std::path::Path;

use sensei_data::geometry::Size;
use sensei_data::image_file::{ImageFile, ImageLimits, RgbImage};

use crate::error::TeacherError;

/// A picture, and BLAKE3 of its file.
pub(crate) fn read_picture(
    path: &Path,
    expected_size: Option<Size>,
    limits: &ImageLimits,
) -> Result<(RgbImage, [u8; 32]), TeacherError> {
    let file = ImageFile::read(path, limits)?;
    let image = file.decode(limits)?;
    match expected_size {
        Some(size) if size != image.size => {
            let (expected, found) = (size.to_string(), image.size.to_string());
            Err(TeacherError::ImageSize { path: path.into(), expected, found })
        }
        _ => Ok((image, file.digest())),
    }
}

/// Pictures that could not be used, with the reason, and how many may be.
pub(crate) struct Failures {
    reasons: Vec<String>,
    n_images: usize,
    allowed: usize,
}

impl Failures {
    pub(crate) fn new(n_images: usize, allowed: usize) -> Self {
        Self { reasons: vec![], n_images, allowed }
    }

    /// Counts one.
    ///
    /// # Errors
    /// If it is one too many: nothing more is asked then.
    pub(crate) fn add(&mut self, error: &TeacherError) -> Result<(), TeacherError> {
        self.reasons.push(error.to_string());
        if self.reasons.len() > self.allowed { Err(self.too_many()) } else { Ok(()) }
    }

    /// The reasons.
    ///
    /// # Errors
    /// If no picture could be used.
    pub(crate) fn finish(self) -> Result<Vec<String>, TeacherError> {
        if self.reasons.len() == self.n_images { Err(self.too_many()) } else { Ok(self.reasons) }
    }

    fn too_many(&self) -> TeacherError {
        let (reasons, n_images, allowed) = (self.reasons.clone(), self.n_images, self.allowed);
        TeacherError::Failures { reasons, n_images, allowed }
    }
}
