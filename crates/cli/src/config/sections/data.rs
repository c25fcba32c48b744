//! `[data]`: where annotations come from, and which of them are used.

use std::path::PathBuf;

use anyhow::ensure;
use schemars::JsonSchema;
use sensei_data::dataset::UnusableRule;
use sensei_data::paste::{FIRST_COMPOSED_ID, PasteConfig};
use sensei_data::synth::SynthConfig;
use sensei_samples::source::InstanceChoice;
use serde::{Deserialize, Serialize};

use super::teacher::{AnswersToml, TeacherAnswers};
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
    /// What the student is trained on as well: proposals of a teacher, or other people's annotations. Floors are fitted to `train` alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_train: Vec<AlsoTrainToml>,
    /// Pictures that are composed of the training images, as `sensei data paste` composes them, and trained on as well; into `runs/composed/` the
    /// first time. `weighting_of` in a stage's loss calls them `composed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub composed: Option<ComposedToml>,
    /// What is done with annotations that cannot be used: outlines without an area, ids that repeat, numbers that are none. Without
    /// this key they are refused.
    #[serde(default, skip_serializing_if = "UnusableToml::is_refuse")]
    pub unusable: UnusableToml,
}

/// Further annotations to train on, of the same format.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AlsoTrainToml {
    /// What `weighting_of` in a stage's loss calls it.
    pub name: String,
    /// The JSON file. Its annotations' ids are none of another file's; images of the same file are the same image.
    pub annotations: FilePath,
    /// The folder that its file names are in.
    pub images: FilePath,
    /// The teacher's answers, asked as `[teacher]` says; needed unless its samples are weighed `truth_only`, or `teacher_hard` in a file of
    /// `sensei teacher propose`, whose masks are the teacher's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<AnswersToml>,
}

/// Pictures composed of the training images: objects of one image pasted onto another.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ComposedToml {
    /// Composed pictures of each image.
    #[schemars(range(min = 1, max = 1000))]
    pub copies: u32,
    /// Fewest objects that are pasted onto a picture; where the image that they come from has fewer, all of its are.
    #[schemars(range(min = 1, max = 100))]
    pub min_objects: u32,
    /// Most of them.
    #[schemars(range(min = 1, max = 100))]
    pub max_objects: u32,
    /// Which objects go where. Not the run's seed, so that runs of several seeds see the same pictures.
    pub seed: u64,
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
    /// 40 scenes to train on and 24 to score, of one to three large objects: enough to see that a recipe learns.
    Toy,
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
pub struct FilesPlan {
    /// What the student is trained and calibrated on.
    pub train: SplitPlan,
    /// What it is scored on.
    pub val: SplitPlan,
    /// What the student is trained on as well.
    pub also_train: Vec<AlsoTrainPlan>,
    /// What is done with annotations that cannot be used.
    pub unusable: UnusableRule,
}

/// Further annotations to train on.
pub struct AlsoTrainPlan {
    /// What losses call it.
    pub name: String,
    /// The pictures and their annotations.
    pub pictures: PartPictures,
    /// The teacher's answers, if there are any.
    pub answers: Option<TeacherAnswers>,
    /// Whether its masks are to be the teacher's: it is weighed `teacher_hard` and has no answers.
    pub are_proposals: bool,
}

/// Where further pictures to train on come from.
pub enum PartPictures {
    /// Files.
    Files(SplitPlan),
    /// Composed of the training images.
    Composed(PasteConfig),
}

/// One split.
#[derive(Debug, Clone)]
pub struct SplitPlan {
    /// The JSON file.
    pub annotations: PathBuf,
    /// The folder that its file names are in.
    pub images: PathBuf,
}

/// What losses call composed pictures.
const COMPOSED: &str = "composed";

impl DataPlan {
    /// What the student is trained on beside the training split.
    pub fn also_train(&self) -> &[AlsoTrainPlan] {
        match self {
            Self::Coco(files) | Self::Lvis(files) => &files.also_train,
            Self::Synthetic(_) => &[],
        }
    }

    /// The same, to be changed.
    pub fn also_train_mut(&mut self) -> &mut [AlsoTrainPlan] {
        match self {
            Self::Coco(files) | Self::Lvis(files) => &mut files.also_train,
            Self::Synthetic(_) => &mut [],
        }
    }
}

impl FilesToml {
    fn resolve(self) -> anyhow::Result<(FilesPlan, InstancesToml)> {
        let split = |split: SplitToml| SplitPlan { annotations: split.annotations.0, images: split.images.0 };
        let unusable = match self.unusable {
            UnusableToml::Refuse => UnusableRule::Refuse,
            UnusableToml::LeaveOut => UnusableRule::LeaveOut,
        };
        let mut also_train: Vec<AlsoTrainPlan> = vec![];
        for AlsoTrainToml { name, annotations, images, answers } in self.also_train {
            let is_new = also_train.iter().all(|known| known.name != name);
            ensure!(is_new, "[[data.also_train]] name: expected one that no other has, found {name:?} twice");
            let pictures = PartPictures::Files(SplitPlan { annotations: annotations.0, images: images.0 });
            let answers = answers.map(AnswersToml::resolve);
            also_train.push(AlsoTrainPlan { name, pictures, answers, are_proposals: false });
        }
        if let Some(ComposedToml { copies, min_objects, max_objects, seed }) = self.composed {
            let is_new = also_train.iter().all(|known| known.name != COMPOSED);
            ensure!(
                is_new,
                "[[data.also_train]] name: expected none called {COMPOSED:?} beside [data] composed, found one"
            );
            ensure!(
                min_objects <= max_objects,
                "[data] composed: expected max_objects of at least min_objects, {min_objects}, found {max_objects}"
            );
            let config = PasteConfig { copies, min_objects, max_objects, seed, first_id: FIRST_COMPOSED_ID };
            let (name, pictures) = (COMPOSED.to_string(), PartPictures::Composed(config));
            also_train.push(AlsoTrainPlan { name, pictures, answers: None, are_proposals: false });
        }
        Ok((FilesPlan { train: split(self.train), val: split(self.val), also_train, unusable }, self.instances))
    }
}

impl DataToml {
    /// Where the splits come from, and which of their instances are used.
    ///
    /// # Errors
    /// If two further training sets have one name.
    pub fn resolve(self) -> anyhow::Result<(DataPlan, InstanceChoice)> {
        let (data, instances) = match self {
            Self::Coco(toml) => {
                let (plan, instances) = toml.resolve()?;
                (DataPlan::Coco(plan), instances)
            }
            Self::Lvis(toml) => {
                let (plan, instances) = toml.resolve()?;
                (DataPlan::Lvis(plan), instances)
            }
            Self::Synthetic { instances, scenes } => {
                let config = match scenes {
                    ScenesToml::Quickstart => SynthConfig::quickstart(),
                    ScenesToml::Toy => SynthConfig::toy(),
                };
                (DataPlan::Synthetic(config), instances)
            }
        };
        let choice = match instances {
            InstancesToml::All => InstanceChoice::All,
            InstancesToml::Cached => InstanceChoice::Cached,
        };
        Ok((data, choice))
    }
}
