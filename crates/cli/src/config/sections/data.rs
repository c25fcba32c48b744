//! `[data]`: where annotations come from, and which of them are used.

use std::path::PathBuf;

use schemars::JsonSchema;
use sensei_data::synth::SynthConfig;
use sensei_samples::source::InstanceChoice;
use serde::{Deserialize, Serialize};

use crate::config::file_path::FilePath;

/// Where annotations come from, and which of them are used.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "source", rename_all = "snake_case", deny_unknown_fields)]
pub enum DataToml {
    /// COCO files.
    Coco(FilesToml),
    /// LVIS files, v0.5 or v1.
    Lvis(FilesToml),
    /// Scenes rendered by this program.
    Synthetic {
        /// Which instances are used.
        instances: InstancesToml,
        /// What to render.
        scenes: ScenesToml,
    },
}

/// Annotation files and the folders of their images.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilesToml {
    /// Which instances are used.
    pub instances: InstancesToml,
    /// What the student is trained and calibrated on.
    pub train: SplitToml,
    /// What it is scored on: no image of it may be in `train`.
    pub val: SplitToml,
}

/// Which instances are used.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InstancesToml {
    /// Every instance that has a prompt; with a `[teacher]`, one without an answer is an error.
    All,
    /// Those that the teacher has answered; needs a `[teacher]`.
    Cached,
}

/// What to render.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScenesToml {
    /// The scenes of `sensei data synth`.
    Quickstart,
}

/// One split.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitToml {
    /// The JSON file.
    pub annotations: FilePath,
    /// The folder that its file names are in.
    pub images: FilePath,
}

/// Where the two splits come from.
pub enum DataPlan {
    /// COCO files.
    Coco { train: SplitPlan, val: SplitPlan },
    /// LVIS files.
    Lvis { train: SplitPlan, val: SplitPlan },
    /// Scenes rendered by this program.
    Synthetic(SynthConfig),
}

/// One split.
#[derive(Debug, Clone)]
pub struct SplitPlan {
    /// The JSON file.
    pub annotations: PathBuf,
    /// The folder that its file names are in.
    pub images: PathBuf,
}

impl DataToml {
    /// Where the splits come from, and which of their instances are used.
    pub fn resolve(self) -> (DataPlan, InstanceChoice) {
        let split = |split: SplitToml| SplitPlan { annotations: split.annotations.0, images: split.images.0 };
        let (data, instances) = match self {
            Self::Coco(FilesToml { instances, train, val }) => {
                (DataPlan::Coco { train: split(train), val: split(val) }, instances)
            }
            Self::Lvis(FilesToml { instances, train, val }) => {
                (DataPlan::Lvis { train: split(train), val: split(val) }, instances)
            }
            Self::Synthetic { instances, scenes: ScenesToml::Quickstart } => {
                (DataPlan::Synthetic(SynthConfig::quickstart()), instances)
            }
        };
        let choice = match instances {
            InstancesToml::All => InstanceChoice::All,
            InstancesToml::Cached => InstanceChoice::Cached,
        };
        (data, choice)
    }
}
