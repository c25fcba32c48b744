//! `[data]`: where annotations come from, and which of them are used.

use std::path::PathBuf;

use schemars::JsonSchema;
use sensei_data::dataset::UnusableRule;
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
    /// What is done with annotations that cannot be used: outlines without an area, ids that repeat, numbers that are none. Without
    /// this key they are refused.
    #[serde(default, skip_serializing_if = "UnusableToml::is_refuse")]
    pub unusable: UnusableToml,
}

/// What is done with annotations that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnusableToml {
    /// The run ends, and names them.
    #[default]
    Refuse,
    /// They are left out, and counted in table, report and protocol.
    LeaveOut,
}

impl UnusableToml {
    fn is_refuse(&self) -> bool {
        *self == Self::Refuse
    }
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
    Coco(FilesPlan),
    /// LVIS files.
    Lvis(FilesPlan),
    /// Scenes rendered by this program.
    Synthetic(SynthConfig),
}

/// Two splits in files.
#[derive(Debug, Clone)]
pub struct FilesPlan {
    /// What the student is trained and calibrated on.
    pub train: SplitPlan,
    /// What it is scored on.
    pub val: SplitPlan,
    /// What is done with annotations that cannot be used.
    pub unusable: UnusableRule,
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
        let files = |FilesToml { instances, train, val, unusable }| {
            let unusable = match unusable {
                UnusableToml::Refuse => UnusableRule::Refuse,
                UnusableToml::LeaveOut => UnusableRule::LeaveOut,
            };
            (FilesPlan { train: split(train), val: split(val), unusable }, instances)
        };
        let (data, instances) = match self {
            Self::Coco(toml) => {
                let (plan, instances) = files(toml);
                (DataPlan::Coco(plan), instances)
            }
            Self::Lvis(toml) => {
                let (plan, instances) = files(toml);
                (DataPlan::Lvis(plan), instances)
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
