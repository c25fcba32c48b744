//! A model, a picture and answers about it.

use sensei_data::crop::{CropGeometry, crop_image, paste_logits};
use sensei_data::crop_rule::{CropRule, check_prompt};
use sensei_data::geometry::{PointInImage, Size};
use sensei_data::image_file::RgbImage;
use sensei_data::mask::Mask;
use sensei_data::prompt_source::Prompt;
use sensei_eval::mask_score::mask_score;
use sensei_int8::interpreter::Interpreter;
use sensei_int8::model_file::from_bytes;

/// What cannot be answered, in words for the page.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

/// A model that is ready, and the picture that it is asked about.
pub struct Session {
    interpreter: Interpreter<'static>,
    rule: CropRule,
    image: Option<RgbImage>,
}

/// A mask and how sure the student is of it.
#[derive(Debug, PartialEq)]
pub struct Answer {
    /// In the image.
    pub mask: Mask,
    /// The IoU that the student's logits let one expect, in `[0, 1]`.
    pub score: f64,
    /// Where the crop's grid lies in the image.
    pub geometry: CropGeometry,
}

impl Session {
    /// Prepares a model of a `.s8m` file for crops of this [name](CropRule::from_name).
    ///
    /// # Errors
    /// If the bytes are no model, or the crop's name none, or the two are of different sizes.
    pub fn open(model: &[u8], crop: &str) -> Result<Self, Refusal> {
        let rule = CropRule::from_name(crop).map_err(|error| Refusal(error.to_string()))?;
        let model = from_bytes("the model".as_ref(), model).map_err(|error| Refusal(error.to_string()))?;
        let side = model.input().shape[1];
        if rule.grid() as usize != side {
            return Err(Refusal(format!("crop {crop}: expected a grid of {side}, which the model has")));
        }
        Ok(Self { interpreter: Interpreter::owning(model), rule, image: None })
    }

    /// Sides of the model's input.
    pub fn input_side(&self) -> usize {
        self.interpreter.model().input().shape[1]
    }

    /// Whether it is asked by boxes alone.
    pub fn needs_box(&self) -> bool {
        self.rule.needs_box()
    }

    /// Takes a picture: four bytes a pixel, red, green, blue and one that is ignored, row by row, as a canvas has them.
    ///
    /// # Errors
    /// If the bytes are not those of the size.
    pub fn show(&mut self, rgba: &[u8], width: u32, height: u32) -> Result<(), Refusal> {
        let size = Size { width, height };
        let n_pixels = width as usize * height as usize;
        if n_pixels == 0 || rgba.len() != 4 * n_pixels {
            return Err(Refusal(format!("picture of {size}: expected {} bytes, found {}", 4 * n_pixels, rgba.len())));
        }
        let pixels = rgba.as_chunks::<4>().0.iter().flat_map(|&[red, green, blue, _]| [red, green, blue]).collect();
        self.image = Some(RgbImage { size, pixels });
        Ok(())
    }

    /// The mask of a box, `[x, y, width, height]` in pixels of the picture.
    ///
    /// # Errors
    /// If there is no picture, or the box is none in it.
    pub fn answer_box(&self, bbox: [f64; 4]) -> Result<Answer, Refusal> {
        self.answer(Prompt::Box(bbox))
    }

    /// The mask of a point in pixels of the picture.
    ///
    /// # Errors
    /// If there is no picture, the point is not in it, or the student wants boxes.
    pub fn answer_point(&self, [x, y]: [f64; 2]) -> Result<Answer, Refusal> {
        self.answer(Prompt::Point(PointInImage { x, y }))
    }

    fn answer(&self, prompt: Prompt) -> Result<Answer, Refusal> {
        let image = self.image.as_ref().ok_or_else(|| Refusal("expected a picture, found none".into()))?;
        let refused = |error: &dyn std::fmt::Display| Refusal(error.to_string());
        check_prompt(&prompt, image.size).map_err(|error| refused(&error))?;
        let geometry = self.rule.crop(prompt, image.size).map_err(|error| refused(&error))?;
        let input = self.interpreter.from_pixels(&crop_image(image, &geometry)).map_err(|error| refused(&error))?;
        let logits = self.logits(&input)?;
        Ok(Answer { mask: paste_logits(&logits, &geometry, image.size), score: mask_score(&logits), geometry })
    }

    /// What the model says to an input of the chip, `[channels, height, width]`: logits `[height, width]`, the chip's integers times their
    /// step.
    ///
    /// # Errors
    /// If the values are not of the model's input.
    pub fn logits(&self, input: &[i16]) -> Result<Vec<f32>, Refusal> {
        let output = self.interpreter.run(input).map_err(|error| Refusal(error.to_string()))?;
        Ok(output.dequantize())
    }
}
