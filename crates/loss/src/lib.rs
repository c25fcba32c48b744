//! Distillation losses: each distance per sample, named and sourced.
//!
//! It never knows a student, a cache or a data set: tensors go in, tensors come out.

mod distance;
mod plan;

pub use distance::{area_shortfall, bce_distance, dice_distance, mse_distance};
pub use plan::{
    LossOutput, LossPlan, LossPlanError, LossTerm, Needs, SampleWeighting, TeacherTarget, TermKind, distillation_loss,
};
