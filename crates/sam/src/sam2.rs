//! SAM 2.1 on single images: Hiera, SAM's prompt encoder, and a mask decoder with finer features.

use burn::tensor::{Device, Tensor};
use sensei_tensor::layers::add_to_each;
use sensei_tensor::network::NamedWeights;

use crate::error::SamError;
use crate::hiera::{Hiera, HieraConfig, HieraFeatures};
use crate::mask_decoder::{FineFeatures, MaskChoice, MaskDecoder, Masks};
use crate::prompt_encoder::{PromptEncoder, PromptPoint};
use crate::scope::Tensors;
use crate::two_way::CHANNELS;

/// The network, without what it needs for video.
///
/// # Source
/// Ravi et al. 2024, "SAM 2" (arXiv 2408.00714); facebookresearch/sam2 `sam2/sam2_image_predictor.py`.
pub struct Sam2 {
    encoder: Hiera,
    prompts: PromptEncoder,
    decoder: MaskDecoder,
    /// `[1, 1, channels]`: stands for no memory of earlier frames.
    no_memory: Tensor<3>,
    positions: Tensor<3>,
    grid: usize,
}

/// An image's features, ready for the decoder.
pub struct EncodedFrame {
    /// `[1, cell, channels]`, with what stands for no memory.
    pub embedding: Tensor<3>,
    /// Finer ones.
    pub fine: FineFeatures,
}

impl Sam2 {
    /// The network of some tensors under their published names; `origin` names their file in messages.
    ///
    /// # Errors
    /// If a tensor is missing, has another shape or is not of this network.
    pub fn new(config: HieraConfig, origin: &str, tensors: &NamedWeights, device: &Device) -> Result<Self, SamError> {
        let tensors = Tensors::new(origin, tensors, device);
        let root = tensors.root();
        let (input_size, grid) = (config.input_size, config.grid());
        let encoder = Hiera::new(config, &root.at("image_encoder"))?;
        let prompts = PromptEncoder::sam(input_size, grid, &root.at("sam_prompt_encoder"))?;
        let decoder = MaskDecoder::sam2(&root.at("sam_mask_decoder"))?;
        let no_memory = root.tensor("no_mem_embed", [1, 1, CHANNELS])?;
        tensors.finish(OF_VIDEO)?;
        let positions = prompts.grid_positions();
        Ok(Self { encoder, prompts, decoder, no_memory, positions, grid })
    }

    /// The features of one normalised image `[1, side, side, 3]`.
    ///
    /// # Panics
    /// If there are more images, or the image is of another size.
    pub fn encode(&self, image: Tensor<4>) -> EncodedFrame {
        assert_eq!(image.dims()[0], 1, "SAM 2: images at a time");
        let HieraFeatures { embedding, fine } = self.encoder.forward(image);
        let cells = self.grid * self.grid;
        let embedding = embedding.reshape([1, cells, CHANNELS]) + self.no_memory.clone();
        EncodedFrame { embedding, fine: self.decoder.fine_features(fine) }
    }

    /// Masks for some prompts on one image. Prompts have the same number of points, padding among them: the published predictor puts one behind
    /// points and boxes alike.
    ///
    /// # Panics
    /// If there is no prompt, or they have different numbers of points.
    pub fn decode(&self, image: &EncodedFrame, prompts: &[Vec<PromptPoint>], choice: MaskChoice) -> Masks {
        let no_mask: Tensor<3> = self.prompts.no_mask().expect("SAM 2's encoder takes masks").unsqueeze();
        let embedding = image.embedding.clone() + no_mask;
        let fine = Some(image.fine.clone());
        self.decoder.forward(self.prompts.tokens(prompts), embedding, self.positions.clone(), fine, choice)
    }

    /// The same, on masks of an earlier answer too: logits `[prompt, 4 * grid, 4 * grid]`.
    ///
    /// # Panics
    /// As [`decode`](Self::decode), and if there are not as many masks of that size.
    pub fn refine(
        &self,
        image: &EncodedFrame,
        prompts: &[Vec<PromptPoint>],
        logits: Tensor<3>,
        choice: MaskChoice,
    ) -> Masks {
        let embedding = add_to_each(self.prompts.masks(logits), image.embedding.clone());
        let fine = Some(image.fine.clone());
        self.decoder.forward(self.prompts.tokens(prompts), embedding, self.positions.clone(), fine, choice)
    }
}

/// Which of four masks answers a prompt that asks for one: the single one where it is stable, else the best of the others by its predicted IoU.
/// `logits` are the four masks', one after the other.
///
/// # Source
/// facebookresearch/sam2 `MaskDecoder._dynamic_multimask_via_stability`, with the image predictor's numbers.
///
/// # Panics
/// If there are not four masks of one size.
pub fn stable_mask_idx(logits: &[f32], predicted_iou: &[f32]) -> usize {
    assert!(predicted_iou.len() == 4 && logits.len().is_multiple_of(4), "SAM 2: four masks");
    let single = &logits[..logits.len() / 4];
    let area = |threshold: f32| single.iter().filter(|logit| **logit > threshold).count();
    let (inner, outer) = (area(STABILITY_DELTA), area(-STABILITY_DELTA));
    let is_stable = outer == 0 || inner as f64 / outer as f64 >= STABLE;
    let best = (2..4).fold(1, |best, idx| if predicted_iou[idx] > predicted_iou[best] { idx } else { best });
    if is_stable { 0 } else { best }
}

const STABILITY_DELTA: f32 = 0.05;
const STABLE: f64 = 0.98;

/// Tensors of published files that single images do not need.
const OF_VIDEO: &[&str] = &[
    "memory_attention.",
    "memory_encoder.",
    "maskmem_tpos_enc",
    "no_mem_pos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
    "obj_ptr_proj.",
    "obj_ptr_tpos_proj.",
    "mask_downsample.",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unstable_masks_give_way_to_the_best_of_the_others() {
        let ious = [0.99, 0.5, 0.7, 0.6];
        let mut logits = vec![1.0; 400];
        assert_eq!(stable_mask_idx(&logits, &ious), 0);
        logits[..3].fill(0.0);
        assert_eq!(stable_mask_idx(&logits, &ious), 2);
        logits[..100].fill(-1.0);
        assert_eq!(stable_mask_idx(&logits, &ious), 0, "an empty mask is stable");
    }
}
