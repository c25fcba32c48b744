//! What a run does, one file a phase; each leaves its result in the run folder.

pub mod answers;
pub mod composed;
pub mod data;
pub mod evaluate;
pub mod export;
pub mod images;
pub mod inputs;
pub mod kept_rows;
pub mod kept_samples;
pub mod layers;
pub mod measure;
mod model_card;
pub mod packed;
pub mod pictures;
pub mod promptable;
pub mod promptable_int8;
pub mod promptable_onnx;
pub mod prompted_floors;
pub mod prompted_masks;
pub mod prompted_scores;
pub mod quantize;
pub mod shared;
pub mod stages;
pub mod student_onnx;
pub mod student_torch;
pub mod teacher;
pub mod train;
