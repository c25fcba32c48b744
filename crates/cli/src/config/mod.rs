//! From a TOML file to a plan: the only place that knows how configurations are spelt.

mod file;
mod plan;
mod protocol;

pub use plan::{DataPlan, RunPlan, TeacherAnswers, load_plan};
pub use protocol::load_protocol;
