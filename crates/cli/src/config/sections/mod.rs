//! One file a section of a run's configuration: how it is written, what it becomes, and how.
//!
//! The documentation of the file types is for users: it is the schema's, and the key tables of `docs/configuration.md` are made of it.

pub mod augmentation;
pub mod crop;
pub mod data;
pub mod encoder;
pub mod eval;
pub mod export;
pub mod image_loss;
pub mod image_stage;
pub mod logging;
pub mod loss;
pub mod mixed_precision;
pub mod optimizer;
pub mod quantize;
pub mod stage;
pub mod stage_quantization;
pub mod student;
pub mod teacher;
pub mod train;
