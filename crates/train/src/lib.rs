//! The training loop: stages, optimiser, schedules, checkpoints, events.
//!
//! It never scores, exports, reads TOML, prints or asks a clock, and owns no formula of another crate: plans, callbacks and
//! devices arrive as arguments.

pub mod checkpoint;
pub mod error;
pub mod event;
pub mod fit;
pub mod groups;
pub mod loader;
pub mod optimizer;
pub mod plan;
pub mod precision;
pub mod recalibrate;
pub mod run_digests;
pub mod schedule;
pub mod stages;
mod step;
pub mod tensors;
