//! The training loop: stages, optimiser, schedules, checkpoints, events.
//!
//! It owns no formula of another crate, reads no TOML, prints nothing and asks no clock: plans, callbacks and devices
//! arrive as arguments.

pub mod checkpoint;
pub mod error;
pub mod event;
pub mod fit;
pub mod loader;
pub mod optimizer;
pub mod plan;
pub mod precision;
pub mod predict;
pub mod quantization;
pub mod schedule;
pub mod source;
