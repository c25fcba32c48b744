//! Distillation losses: each distance per sample, named and sourced.
//!
//! It never knows a student, a cache or a data set: tensors go in, tensors come out.

mod distance;
mod feature_distance;
mod image_loss;
mod image_plan;
mod plan;
mod proposals;
mod weighting;

pub use distance::{area_shortfall, bce_distance, dice_distance, mse_distance};
pub use feature_distance::{
    UsedCells, feature_cosine, feature_huber, feature_l1, feature_mse, masked_features, masked_pixels,
};
pub use image_loss::{
    PromptTargets, TermValues, embedding_loss, focal_distance, mask_of_bits, prompt_loss, proposal_loss, tap_loss,
};
pub use image_plan::{
    Adapter, Cells, FeatureDistance, ImageLossPlan, ImageNeeds, ImageTerm, ImageTermKind, MaskDistance, MaskTarget,
    PromptWeighting, ProposalDistance, ReconstructionTarget, TapPair,
};
pub use plan::{LossOutput, LossPlan, LossPlanError, LossTerm, Needs, TermKind, distillation_loss};
pub use proposals::{ProposalTargets, proposal_focal, proposal_huber};
pub use weighting::{SampleWeighting, TeacherTarget};
