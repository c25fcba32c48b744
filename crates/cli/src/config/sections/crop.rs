//! `[crop]`, of run and protocol files: what part of the image a student is shown.

use schemars::JsonSchema;
use sensei_data::crop_rule::{Border, BoxBorder, CropRule};
use serde::{Deserialize, Serialize};

/// What part of the image the student is shown.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "rule", rename_all = "snake_case", deny_unknown_fields)]
pub enum CropToml {
    /// As many image pixels as the student's input has, around the prompt's point (PicoSAM2).
    CenterWindow {
        /// What happens at the image's border.
        border: BorderToml,
    },
    /// A padded square around the box, scaled to the student's input (PicoSAM3).
    Roi {
        /// What happens at the image's border.
        border: BorderToml,
        /// Added on each side of the box, as a share of its width and height; PicoSAM3: 0.1.
        #[schemars(range(min = 0.0, max = 4.0))]
        padding: f64,
    },
    /// The padded box itself, whatever its shape, each axis scaled to the student's input by itself. The student is told the box's
    /// sides; a sensor's window does it for nothing.
    Box {
        /// What happens at the image's border.
        border: BoxBorderToml,
        /// Added on each side of the box, as a share of its width and height.
        #[schemars(range(min = 0.0, max = 4.0))]
        padding: f64,
        /// Shortest side of a region in image pixels; a shorter one is lengthened on both ends, and counted. A sensor has a smallest
        /// window: for the IMX500, 64 of its 4056 pixels across is the smallest known to be used.
        #[schemars(range(min = 1.0, max = 1024.0))]
        min_side: f64,
    },
}

/// What happens to a box's region at the image's border.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BoxBorderToml {
    /// It ends there, as the sensor's window must.
    Clipped,
    /// It runs past the border, and is filled up with 128. The sensor cannot do that.
    Padded,
}

/// What happens at the image's border.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BorderToml {
    /// As in the published code: cut off or shifted at the border, then stretched to a square; edges truncated to whole pixels.
    Reference,
    /// Always square, and filled up with 128.
    Corrected,
}

impl CropToml {
    /// The rule for a student whose input has `grid` pixels a side.
    pub fn resolve(&self, grid: u32) -> CropRule {
        let resolved = |border: BorderToml| match border {
            BorderToml::Reference => Border::Reference,
            BorderToml::Corrected => Border::Corrected,
        };
        match *self {
            Self::CenterWindow { border } => CropRule::CenterWindow { grid, border: resolved(border) },
            Self::Roi { border, padding } => CropRule::Roi { padding, grid, border: resolved(border) },
            Self::Box { border, padding, min_side } => {
                let border = match border {
                    BoxBorderToml::Clipped => BoxBorder::Clipped,
                    BoxBorderToml::Padded => BoxBorder::Padded,
                };
                CropRule::Box { padding, min_side, grid, border }
            }
        }
    }
}
