//! From a TOML file to a plan: the only place that knows how configurations are spelt.

mod check;
mod file_path;
#[cfg(test)]
mod generated;
mod key_path;
mod manifest;
mod overrides;
mod promptable;
mod protocol;
mod read;
mod run;
mod schema;
mod search;
mod sections;
mod trained_keys;

pub use manifest::load_manifest;
pub use overrides::Override;
pub use promptable::{
    ComparedTaps, EmbeddingPlace, PromptEvalToml, PromptablePlan, check_same_promptable, is_promptable, load_promptable,
};
pub use protocol::load_protocol;
pub use run::{RunPlan, check_same_run, load_plan};
pub use schema::{promptable_schema, protocol_schema, run_schema, search_schema};
pub use search::{Round, SearchPlan, load_search};
pub use sections::data::{AlsoTrainPlan, DataPlan, FilesPlan, PartPictures, SplitPlan};
pub use sections::encoder::EncoderPlan;
pub use sections::logging::PackedSamplesPlan;
pub use sections::teacher::{TeacherAnswers, TeacherFiles, TeacherPlan};
pub use sections::train::FirstWeights;
