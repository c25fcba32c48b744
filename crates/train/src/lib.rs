//! The training loop: stages, optimiser, schedules, checkpoints, events.
//!
//! It never scores, exports, reads TOML, prints or asks a clock, and owns no formula of another crate: plans, callbacks and
//! devices arrive as arguments.

pub mod checkpoint;
mod crops;
pub mod error;
pub mod event;
pub mod fit;
pub mod groups;
pub mod images;
pub mod loader;
pub mod optimizer;
pub mod plan;
pub mod precision;
mod prompt_rounds;
mod proposal_targets;
pub mod recalibrate;
pub mod run_digests;
pub mod schedule;
pub mod stages;
mod step;
pub mod task;
pub mod tensors;
