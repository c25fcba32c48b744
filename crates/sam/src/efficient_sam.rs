//! EfficientSAM: a plain vision transformer and a prompt encoder and mask decoder that differ from SAM's.

use burn::tensor::{Device, Tensor};
use sensei_tensor::network::NamedWeights;

use crate::error::SamError;
use crate::mask_decoder::{MaskChoice, MaskDecoder, Masks};
use crate::prompt_encoder::{PointLabel, PromptEncoder, PromptPoint};
use crate::scope::Tensors;
use crate::two_way::CHANNELS;
use crate::vit::{Vit, VitConfig};

/// The network.
///
/// # Source
/// Xiong et al. 2023, "EfficientSAM" (arXiv 2312.00863); yformer/EfficientSAM `efficient_sam/build_efficient_sam.py`.
pub struct EfficientSam {
    encoder: Vit,
    prompts: PromptEncoder,
    decoder: MaskDecoder,
    positions: Tensor<3>,
    grid: usize,
}

impl EfficientSam {
    /// The network of some tensors under their published names; `origin` names their file in messages.
    ///
    /// # Errors
    /// If a tensor is missing, has another shape or is not of this network.
    pub fn new(config: VitConfig, origin: &str, tensors: &NamedWeights, device: &Device) -> Result<Self, SamError> {
        let tensors = Tensors::new(origin, tensors, device);
        let root = tensors.root();
        let (input_size, grid) = (config.input_size, config.grid());
        let encoder = Vit::new(config, &root.at("image_encoder"))?;
        let prompts = PromptEncoder::efficient_sam(input_size, grid, &root.at("prompt_encoder"))?;
        let decoder = MaskDecoder::efficient_sam(&root.at("mask_decoder"))?;
        // Only some releases store how pixels are normalised.
        tensors.finish(&["pixel_mean", "pixel_std"])?;
        let positions = prompts.grid_positions();
        Ok(Self { encoder, prompts, decoder, positions, grid })
    }

    /// The embedding of normalised images `[image, side, side, 3]`: `[image, cell, channels]`.
    ///
    /// # Panics
    /// If the images are of another size.
    pub fn encode(&self, images: Tensor<4>) -> Tensor<3> {
        let embeddings = self.encoder.forward(images);
        let [n_images, ..] = embeddings.dims();
        embeddings.reshape([n_images, self.grid * self.grid, CHANNELS])
    }

    /// Masks for some prompts on one image, `[1, cell, channels]`, or on as many. Prompts of fewer than six points are filled up with padding
    /// at (-1, -1), as the published code does.
    ///
    /// # Panics
    /// If there is no prompt, or one has more than six points.
    pub fn decode(&self, image: Tensor<3>, prompts: &[Vec<PromptPoint>], choice: MaskChoice) -> Masks {
        let padding = PromptPoint { x: -1.0, y: -1.0, label: PointLabel::Padding };
        let filled = |points: &Vec<PromptPoint>| -> Vec<PromptPoint> {
            assert!(points.len() <= MAX_POINTS, "EfficientSAM: points of a prompt");
            points.iter().copied().chain(std::iter::repeat_n(padding, MAX_POINTS - points.len())).collect()
        };
        let prompts: Vec<Vec<PromptPoint>> = prompts.iter().map(filled).collect();
        self.decoder.forward(self.prompts.tokens(&prompts), image, self.positions.clone(), None, choice)
    }
}

/// Points of a prompt, padding among them.
pub const MAX_POINTS: usize = 6;
