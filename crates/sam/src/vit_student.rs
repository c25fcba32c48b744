//! A plain vision transformer as a student's image encoder.

use burn::tensor::Tensor;
use sensei_tensor::network::Tap;

use crate::encoder_student::{EMBEDDING, EncoderStudent, ImageEncoder};
use crate::error::SamError;
use crate::scope::Scope;
use crate::vit::{NECK, VitConfig, VitNeck, VitTrunk};

/// The encoder: groups [`TRUNK`], which pretraining leaves, and [`NECK`]. Its one tap is [`EMBEDDING`].
pub type VitStudent = EncoderStudent<VitConfig>;

/// The group of the encoder without its neck.
pub const TRUNK: &str = "weights";

impl ImageEncoder for VitConfig {
    type Layers = (VitTrunk, VitNeck);

    const NAMES: [&'static str; 2] = ["vit", "a vision transformer"];
    const GROUPS: &'static [&'static str] = &[TRUNK, NECK];

    fn group_of(name: &str) -> &'static str {
        match name.strip_prefix(NECK).is_some_and(|rest| rest.starts_with('.')) {
            true => NECK,
            false => TRUNK,
        }
    }

    fn taps(&self, grid: usize) -> Vec<Tap> {
        vec![Tap { name: EMBEDDING.into(), shape: [self.out_channels, grid, grid] }]
    }

    fn own_grid(&self) -> usize {
        self.grid()
    }

    fn layers(&self, root: &Scope) -> Result<Self::Layers, SamError> {
        Ok((VitTrunk::new(self.clone(), root)?, VitNeck::new(self, &root.at(NECK))?))
    }

    fn forward(&self, (trunk, neck): &Self::Layers, images: Tensor<4>, taps: &[usize], grid: usize) -> Vec<Tensor<4>> {
        let embedding = neck.forward(trunk.blocks(trunk.tokens(images)), grid / self.grid());
        vec![embedding; taps.len()]
    }
}
