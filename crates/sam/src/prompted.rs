//! SAM's prompt encoder and mask decoder together: an embedding and prompts to masks.

use burn::tensor::Tensor;
use sensei_tensor::masks::MaskLogits;
use sensei_tensor::prompts::{Decode, MaskTokens, Prompted};

use crate::error::SamError;
use crate::mask_decoder::{MaskChoice, MaskDecoder, Masks};
use crate::prompt_encoder::{PromptEncoder, PromptPoint};
use crate::scope::Scope;
use crate::two_way::CHANNELS;

/// The part of SAM that is asked once for each prompt.
pub struct PromptedDecoder {
    prompts: PromptEncoder,
    decoder: MaskDecoder,
    positions: Tensor<3>,
    input_size: usize,
    grid: usize,
}

impl PromptedDecoder {
    /// SAM's, for prompts in a square of `input_size` pixels and an embedding of `grid` cells a side, from tensors under their published
    /// names.
    ///
    /// # Errors
    /// If a tensor is missing or of another shape.
    pub fn sam(input_size: usize, grid: usize, root: &Scope) -> Result<Self, SamError> {
        let prompts = PromptEncoder::sam(input_size, grid, &root.at(PROMPT_ENCODER))?;
        let decoder = MaskDecoder::sam(&root.at(MASK_DECODER))?;
        let positions = prompts.grid_positions();
        Ok(Self { prompts, decoder, positions, input_size, grid })
    }

    /// Masks for some prompts on one image `[1, cell, channels]`. Prompts have the same number of points; without a box, the published code has
    /// one of padding behind them.
    ///
    /// # Panics
    /// If there is no prompt, or they have different numbers of points.
    pub fn masks(&self, image: Tensor<3>, prompts: &[Vec<PromptPoint>], choice: MaskChoice) -> Masks {
        let no_mask: Tensor<3> = self.prompts.no_mask().expect("SAM's encoder takes masks").unsqueeze();
        let embedding = image + no_mask;
        let some = |prompts: &[Vec<PromptPoint>]| {
            self.decoder.forward(self.prompts.tokens(prompts), embedding.clone(), self.positions.clone(), None, choice)
        };
        // With gradients all together, since they are kept together anyway.
        if embedding.device().is_autodiff() || prompts.len() <= PROMPTS_AT_ONCE {
            return some(prompts);
        }
        Masks::joined(prompts.chunks(PROMPTS_AT_ONCE).map(some).collect())
    }

    /// The same, on masks of an earlier answer too: logits `[prompt, 4 * grid, 4 * grid]`.
    ///
    /// # Panics
    /// As [`masks`](Self::masks), and if there are not as many masks of that size.
    pub fn refined(
        &self,
        image: Tensor<3>,
        prompts: &[Vec<PromptPoint>],
        logits: Tensor<3>,
        choice: MaskChoice,
    ) -> Masks {
        let embedding = image + self.prompts.masks(logits);
        self.decoder.forward(self.prompts.tokens(prompts), embedding, self.positions.clone(), None, choice)
    }
}

impl Decode for PromptedDecoder {
    fn prompt_side(&self) -> usize {
        self.input_size
    }

    fn decode(&self, embedding: Tensor<4>, prompts: &[Vec<PromptPoint>], masks: MaskTokens) -> Prompted {
        assert_eq!(embedding.dims(), [1, CHANNELS, self.grid, self.grid], "decode: shape of an embedding");
        let image = embedding.reshape([1, CHANNELS, self.grid * self.grid]).swap_dims(1, 2);
        let choice = match masks {
            MaskTokens::Single => MaskChoice::Single,
            MaskTokens::All => MaskChoice::All,
        };
        let Masks { logits, predicted_iou, .. } = self.masks(image, prompts, choice);
        Prompted { masks: MaskLogits(logits), scores: predicted_iou }
    }
}

/// What the names of the prompt encoder's tensors begin with, before a dot.
pub const PROMPT_ENCODER: &str = "prompt_encoder";

/// What the names of the mask decoder's tensors begin with, before a dot.
pub const MASK_DECODER: &str = "mask_decoder";

/// Prompts whose maps are in memory together: with more, they leave the caches.
const PROMPTS_AT_ONCE: usize = 2;
