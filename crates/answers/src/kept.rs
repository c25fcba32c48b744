//! Which part of a teacher's answer is kept, and how it is stored.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::key::{InvalidKey, check_number};

/// What a record holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Kept {
    /// Of each object the mask logits over a part of the image, as int8.
    MaskLogits {
        /// Which part of the image.
        context: Context,
        /// Samples along each side of that part: 1 to 1024.
        grid: u32,
        /// Logit of one int8 step.
        logit_step: f32,
        /// Which of the teacher's masks.
        masks: KeptMasks,
    },
    /// Of each image one map of the teacher's features, all cells, those of padding too.
    ImageFeatures {
        /// Name of the point in the teacher's network, such as `embedding`.
        tap: String,
        /// Cells along each side of the map: 1 to 1024.
        grid: u32,
        /// Values of each cell: 1 to 65,536.
        channels: u32,
        /// How a value is stored.
        dtype: FeatureDtype,
    },
}

/// The part of the image that mask logits cover, and how they come from the decoder's own 256 x 256.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Context {
    /// A square around the middle of the annotated box, not cut at the image's border. Its side is `context_scale *
    /// region_scale` times the longer side of the box, or `min_side` if that is more. Sampled bilinearly from the decoder's
    /// own logits at the centres of the cells.
    AroundBox {
        /// Side of a student's region of interest, in longer sides of the box; PicoSAM3: 1.2.
        region_scale: f64,
        /// Side of the square, in sides of that region: what jitter may use.
        context_scale: f64,
        /// Smallest side, in image pixels; 0 for none.
        min_side: f64,
    },
    /// The square of `region_scale` times the box's longer side around its middle, edges truncated to whole pixels, cut off
    /// at the image's border. Cut from logits at the image's size and resized bilinearly with half-pixel centres, without
    /// antialiasing.
    ClippedRegion {
        /// Side of the square, in longer sides of the box; PicoSAM3: 1.2.
        region_scale: f64,
    },
    /// All that the decoder puts out, cell by cell: the image and the padding beside it.
    WholeFrame,
    /// Not stated by itself; a question in somebody else's words may say it.
    NotStated,
}

/// Which of a decoder's masks are kept, for each prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeptMasks {
    /// What the teacher answers when it is asked for one mask. SAM 1: the first token's. SAM 2.1 takes the best of the
    /// others where that one is unstable.
    Single,
    /// Of the three answers to an ambiguous prompt, the one of the highest predicted IoU.
    BestOfThree,
    /// The three answers to an ambiguous prompt, in the order of their tokens.
    Three,
    /// The single answer and then the three.
    Four,
}

/// How a feature value is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FeatureDtype {
    /// As it is.
    F32,
    /// Rounded to half precision.
    F16,
    /// As -127 to 127 times the channel's scale.
    Int8 {
        /// What the scales are taken from.
        scales: ScaleSource,
    },
    /// As -7 to 7 times the channel's scale, two a byte.
    Int4 {
        /// What the scales are taken from.
        scales: ScaleSource,
    },
}

/// What a channel's scale is taken from. Every record carries the scales that it was stored with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScaleSource {
    /// The largest absolute value of the channel in that image.
    Image,
    /// One scale per channel for all images of the data set.
    Dataset,
}

/// The kinds of records. A cache has records of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordKind {
    /// [`Kept::MaskLogits`]; the record's id is the annotation's.
    MaskLogits,
    /// [`Kept::ImageFeatures`]; the record's id is the image's.
    ImageFeatures,
}

impl Kept {
    /// The kind of the records.
    pub fn kind(&self) -> RecordKind {
        match self {
            Self::MaskLogits { .. } => RecordKind::MaskLogits,
            Self::ImageFeatures { .. } => RecordKind::ImageFeatures,
        }
    }

    pub(crate) fn check(&self) -> Result<(), InvalidKey> {
        match self {
            Self::MaskLogits { context, grid, logit_step, masks: _ } => {
                check_number("kept grid", f64::from(*grid), 1.0, f64::from(MAX_GRID))?;
                check_number("kept logit_step", f64::from(*logit_step), 1e-6, 1e6)?;
                context.check()
            }
            Self::ImageFeatures { tap, grid, channels, dtype: _ } => {
                check_number("kept grid", f64::from(*grid), 1.0, f64::from(MAX_GRID))?;
                check_number("kept channels", f64::from(*channels), 1.0, f64::from(MAX_CHANNELS))?;
                let expected = || "the name of a point in the teacher's network".into();
                match tap.trim() {
                    "" => Err(InvalidKey { part: "kept tap", expected: expected(), found: "none".into() }),
                    _ => Ok(()),
                }
            }
        }
    }

    /// Part by part in words, for comparison.
    pub(crate) fn parts(&self) -> Vec<(&'static str, String)> {
        let kept = ("kept", self.kind().to_string());
        match self {
            Self::MaskLogits { context, grid, logit_step, masks } => vec![
                kept,
                ("kept context", context.to_string()),
                ("kept grid", grid.to_string()),
                ("kept logit_step", logit_step.to_string()),
                ("kept masks", masks.to_string()),
            ],
            Self::ImageFeatures { tap, grid, channels, dtype } => vec![
                kept,
                ("kept tap", tap.clone()),
                ("kept grid", grid.to_string()),
                ("kept channels", channels.to_string()),
                ("kept dtype", dtype.to_string()),
            ],
        }
    }
}

impl Context {
    fn check(&self) -> Result<(), InvalidKey> {
        match *self {
            Self::AroundBox { region_scale, context_scale, min_side } => {
                check_number("kept region_scale", region_scale, 1e-3, 1e3)?;
                check_number("kept context_scale", context_scale, 1e-3, 1e3)?;
                check_number("kept min_side", min_side, 0.0, 1e6)
            }
            Self::ClippedRegion { region_scale } => check_number("kept region_scale", region_scale, 1e-3, 1e3),
            Self::WholeFrame | Self::NotStated => Ok(()),
        }
    }
}

impl KeptMasks {
    /// Masks of each prompt.
    pub fn n_masks(self) -> usize {
        match self {
            Self::Single | Self::BestOfThree => 1,
            Self::Three => 3,
            Self::Four => 4,
        }
    }
}

impl FeatureDtype {
    /// Largest code of an integer type; `None` for floats.
    pub fn largest_code(self) -> Option<i8> {
        match self {
            Self::F32 | Self::F16 => None,
            Self::Int8 { .. } => Some(127),
            Self::Int4 { .. } => Some(7),
        }
    }
}

impl RecordKind {
    /// The number that stands for it in files.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::MaskLogits => 1,
            Self::ImageFeatures => 2,
        }
    }

    /// What its ids count, in words.
    pub fn subject(self) -> &'static str {
        match self {
            Self::MaskLogits => "annotation",
            Self::ImageFeatures => "image",
        }
    }
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MaskLogits => "mask logits",
            Self::ImageFeatures => "image features",
        })
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AroundBox { region_scale, context_scale, min_side } => {
                write!(f, "around the box, {context_scale} x {region_scale} x its longer side")?;
                if *min_side > 0.0 { write!(f, ", at least {min_side} pixels") } else { Ok(()) }
            }
            Self::ClippedRegion { region_scale } => {
                write!(f, "{region_scale} x the box's longer side, cut off at the image's border")
            }
            Self::WholeFrame => f.write_str("the decoder's whole frame"),
            Self::NotStated => f.write_str("not stated"),
        }
    }
}

impl fmt::Display for KeptMasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Single => "the single answer",
            Self::BestOfThree => "the best of three",
            Self::Three => "three",
            Self::Four => "the single answer and three",
        })
    }
}

impl fmt::Display for FeatureDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = |scales: &ScaleSource| match scales {
            ScaleSource::Image => "scales per channel and image",
            ScaleSource::Dataset => "scales per channel",
        };
        match self {
            Self::F32 => f.write_str("f32"),
            Self::F16 => f.write_str("f16"),
            Self::Int8 { scales } => write!(f, "int8, {}", source(scales)),
            Self::Int4 { scales } => write!(f, "int4, {}", source(scales)),
        }
    }
}

/// Most samples or cells along a side.
pub const MAX_GRID: u32 = 1024;
/// Most channels of a map of features.
pub const MAX_CHANNELS: u32 = 65_536;
