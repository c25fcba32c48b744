//! What a teacher was shown and asked.

use std::fmt;

use schemars::JsonSchema;
use sensei_data::prompt_source::{MAX_POINTS, PromptSource};
use serde::{Deserialize, Serialize};

use crate::key::{InvalidKey, check_number};

/// How an image becomes the teacher's input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Preprocessing {
    /// The longest side resized to `longest_side` pixels, the other in proportion and rounded half up; then normalised;
    /// then filled up with zeros on the right and below to a square.
    ///
    /// # Source
    /// SAM, `ResizeLongestSide` and `Sam.preprocess`.
    Letterbox {
        /// Side of the square, in pixels; SAM and MobileSAM: 1024.
        longest_side: u32,
        /// How pixels are interpolated.
        resize: Resize,
        /// What is subtracted from a pixel, and what the result is divided by.
        normalization: Normalization,
        /// Small objects on a part of the image of their own; without it, all objects on the whole image.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        zoom: Option<Zoom>,
    },
    /// Width and height resized to `side` pixels each, then normalised.
    ///
    /// # Source
    /// SAM 2, `SAM2Transforms`.
    Stretch {
        /// Width and height, in pixels; SAM 2: 1024.
        side: u32,
        /// How pixels are interpolated.
        resize: Resize,
        /// What is subtracted from a pixel, and what the result is divided by.
        normalization: Normalization,
    },
    /// Whoever asked the teacher did not say.
    NotStated,
    /// In somebody else's words, which decide by themselves: two caches of different words have different keys.
    Foreign(String),
}

/// A small object is shown on a part of the image of its own: a square around its box, clipped at the image's edge, which becomes the input as the
/// whole image does otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Zoom {
    /// Objects whose box's longer side has fewer pixels than this in the whole image's input are small.
    pub below: u32,
    /// Side of the square, in longer sides of the box; more where more of the answer is kept.
    pub surroundings: u32,
}

/// How pixels are interpolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// Pillow's `BILINEAR`: a triangle filter that widens when it shrinks, rounded to 8 bits.
    PillowBilinear,
    /// As the package `sam2` resizes: torchvision's `Resize` of a float tensor, as the installed version does it.
    Sam2Transforms,
    /// PyTorch's `interpolate(mode="bilinear", align_corners=False)` of a float tensor, without widening: EfficientSAM.
    TorchBilinear,
}

/// What is subtracted from a pixel of 0 to 255, and what the result is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalization {
    /// [`IMAGENET_MEAN`] and [`IMAGENET_STD`], red, green, blue.
    Imagenet,
    /// 128 and 128: what students are shown, and so what an exported student that is asked as a teacher was trained on.
    SignedByte,
}

impl Normalization {
    /// A channel's mean and deviation, of pixels from 0 to 255.
    pub fn mean_and_deviation(self, channel: usize) -> (f32, f32) {
        match self {
            Self::Imagenet => (IMAGENET_MEAN[channel], IMAGENET_STD[channel]),
            Self::SignedByte => (128.0, 128.0),
        }
    }
}

/// What a teacher was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Question {
    /// One object at a time, once by each prompt. A box is asked as its upper left and lower right corner (labels 2 and 3
    /// of SAM's prompt encoder), a point as a point on the object (label 1).
    Object {
        /// How the prompts are made of an annotation, in the order of the answers.
        prompts: Vec<PromptSource>,
        /// Points of label -1 at (0, 0) that follow the prompt's own in the prompt encoder, whoever appends them.
        ///
        /// SAM's exported decoders need them as input: one after a box, two after a point. SAM's PyTorch code appends one
        /// where there is no box of its own kind.
        padding_points: u32,
    },
    /// Nothing: what is kept follows from the image alone.
    Image,
    /// In somebody else's words.
    Foreign(String),
}

impl Question {
    /// Answers that an object has, if the question says so.
    pub fn n_prompts(&self) -> Option<usize> {
        match self {
            Self::Object { prompts, .. } => Some(prompts.len()),
            Self::Image | Self::Foreign(_) => None,
        }
    }

    /// Which of an object's answers is for this prompt; the first, if the question has no such prompt or does not say.
    pub fn prompt_idx(&self, prompt: &PromptSource) -> usize {
        match self {
            Self::Object { prompts, .. } => prompts.iter().position(|asked| asked == prompt).unwrap_or(0),
            Self::Image | Self::Foreign(_) => 0,
        }
    }

    pub(crate) fn check(&self) -> Result<(), InvalidKey> {
        match self {
            Self::Object { prompts, padding_points } => {
                check_number("question prompts", prompts.len() as f64, 1.0, f64::from(MAX_PROMPTS))?;
                check_number("question padding_points", f64::from(*padding_points), 0.0, 16.0)?;
                prompts.iter().try_for_each(|prompt| match prompt {
                    PromptSource::JitteredBox { jitter, .. } => {
                        check_number("question prompts jitter", *jitter, 0.0, 0.5)
                    }
                    PromptSource::RandomPoints { count, .. } => {
                        check_number("question prompts count", f64::from(*count), 1.0, f64::from(MAX_POINTS))
                    }
                    _ => Ok(()),
                })
            }
            Self::Foreign(words) => check_words("question", words),
            Self::Image => Ok(()),
        }
    }
}

impl Preprocessing {
    pub(crate) fn check(&self) -> Result<(), InvalidKey> {
        match self {
            Self::Letterbox { longest_side: side, zoom, .. } => {
                check_number("preprocessing side", f64::from(*side), 1.0, 65_536.0)?;
                let Some(Zoom { below, surroundings }) = zoom else { return Ok(()) };
                check_number("preprocessing zoom below", f64::from(*below), 1.0, f64::from(*side))?;
                check_number("preprocessing zoom surroundings", f64::from(*surroundings), 1.0, 64.0)
            }
            Self::Stretch { side, .. } => check_number("preprocessing side", f64::from(*side), 1.0, 65_536.0),
            Self::Foreign(words) => check_words("preprocessing", words),
            Self::NotStated => Ok(()),
        }
    }
}

impl fmt::Display for Preprocessing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Letterbox { longest_side, resize, normalization, zoom } => {
                write!(f, "longest side {longest_side} by {resize}, {normalization}, zeros on the right and below")?;
                let Some(Zoom { below, surroundings }) = zoom else { return Ok(()) };
                write!(f, "; objects below {below} pixels of it on {surroundings} times their longer side")
            }
            Self::Stretch { side, resize, normalization } => {
                write!(f, "stretched to {side} x {side} by {resize}, {normalization}")
            }
            Self::NotStated => f.write_str("not stated"),
            Self::Foreign(words) => write!(f, "in words: {words}"),
        }
    }
}

impl fmt::Display for Resize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PillowBilinear => "Pillow's bilinear filter",
            Self::Sam2Transforms => "SAM2Transforms",
            Self::TorchBilinear => "PyTorch's bilinear interpolation",
        })
    }
}

impl fmt::Display for Normalization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Imagenet => "ImageNet's mean and deviation",
            Self::SignedByte => "pixels as signed bytes",
        })
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object { prompts, padding_points } => {
                let names: Vec<String> = prompts.iter().map(PromptSource::name).collect();
                write!(f, "{} with {padding_points} padding points", names.join(", "))
            }
            Self::Image => f.write_str("the image"),
            Self::Foreign(words) => write!(f, "in words: {words}"),
        }
    }
}

fn check_words(part: &'static str, words: &str) -> Result<(), InvalidKey> {
    match words.trim() {
        "" => Err(InvalidKey { part, expected: "words".into(), found: "none".into() }),
        _ => Ok(()),
    }
}

/// Mean of ImageNet's pixels, red, green, blue, of 255.
pub const IMAGENET_MEAN: [f32; 3] = [123.675, 116.28, 103.53];
/// Their standard deviation.
pub const IMAGENET_STD: [f32; 3] = [58.395, 57.12, 57.375];
/// Prompts that an object may have been asked by.
pub const MAX_PROMPTS: u32 = 64;
