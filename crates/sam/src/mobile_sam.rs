//! MobileSAM: TinyViT, SAM's prompt encoder and SAM's mask decoder.

use burn::tensor::{Device, Tensor};
use sensei_tensor::network::{NamedWeights, NetworkError, Tap};

use crate::error::SamError;
use crate::mask_decoder::{MaskChoice, MaskDecoder, Masks};
use crate::prompt_encoder::{PromptEncoder, PromptPoint};
use crate::scope::Tensors;
use crate::tiny_vit::{TinyVit, TinyVitConfig};
use crate::two_way::CHANNELS;

/// The network, for answers without gradients or, on an autodiff device, with them.
///
/// # Source
/// Zhang et al. 2023, "Faster Segment Anything" (arXiv 2306.14289); ChaoningZhang/MobileSAM `build_sam.py`.
pub struct MobileSam {
    encoder: TinyVit,
    prompts: PromptEncoder,
    decoder: MaskDecoder,
    positions: Tensor<3>,
    grid: usize,
}

/// An image's embedding, ready for the decoder.
#[derive(Clone)]
pub struct EncodedImage {
    /// `[1, cell, channels]`, without what is added for a mask or none.
    pub embedding: Tensor<3>,
}

impl MobileSam {
    /// The network of some tensors under their published names; `origin` names their file in messages. Batch norms may be fused or not.
    ///
    /// # Errors
    /// If a tensor is missing, has another shape or is not of this network.
    pub fn new(origin: &str, tensors: &NamedWeights, device: &Device) -> Result<Self, SamError> {
        let tensors = Tensors::new(origin, tensors, device);
        let root = tensors.root();
        let config = TinyVitConfig::mobile_sam();
        let (input_size, grid) = (config.input_size, config.grid());
        let encoder = TinyVit::new(config, &root.at("image_encoder"))?;
        let prompts = PromptEncoder::sam(input_size, grid, &root.at("prompt_encoder"))?;
        let decoder = MaskDecoder::sam(&root.at("mask_decoder"))?;
        tensors.finish(&["image_encoder.norm_head.", "image_encoder.head."])?;
        let positions = prompts.grid_positions();
        Ok(Self { encoder, prompts, decoder, positions, grid })
    }

    /// Where features of the image encoder can be read.
    pub fn taps(&self) -> Vec<Tap> {
        self.encoder.taps()
    }

    /// The embedding of normalised images `[image, 1024, 1024, 3]`, and the features of the taps that were asked for.
    ///
    /// # Errors
    /// If there is no such tap.
    ///
    /// # Panics
    /// If the images are of another size.
    pub fn encode(
        &self,
        images: Tensor<4>,
        taps: &[String],
    ) -> Result<(Vec<EncodedImage>, Vec<Tensor<4>>), NetworkError> {
        let (embeddings, taps) = self.encoder.forward(images, taps)?;
        let [n_images, ..] = embeddings.dims();
        let cells = self.grid * self.grid;
        let image =
            |idx: usize| EncodedImage { embedding: embeddings.clone().narrow(0, idx, 1).reshape([1, cells, CHANNELS]) };
        Ok(((0..n_images).map(image).collect(), taps))
    }

    /// Masks for some prompts on one image. Prompts have the same number of points; without a box, the published code has one of padding
    /// behind them.
    ///
    /// # Panics
    /// If there is no prompt, or they have different numbers of points.
    pub fn decode(&self, image: &EncodedImage, prompts: &[Vec<PromptPoint>], choice: MaskChoice) -> Masks {
        let no_mask: Tensor<3> = self.prompts.no_mask().expect("SAM's encoder takes masks").unsqueeze();
        let embedding = image.embedding.clone() + no_mask;
        let some = |prompts: &[Vec<PromptPoint>]| {
            self.decoder.forward(self.prompts.tokens(prompts), embedding.clone(), self.positions.clone(), None, choice)
        };
        // With gradients all together, since they are kept together anyway.
        if embedding.device().is_autodiff() || prompts.len() <= PROMPTS_AT_ONCE {
            return some(prompts);
        }
        Masks::joined(prompts.chunks(PROMPTS_AT_ONCE).map(some).collect())
    }

    /// The same, on masks of an earlier answer too: logits `[prompt, 256, 256]`.
    ///
    /// # Panics
    /// As [`decode`](Self::decode), and if there are not as many masks of that size.
    pub fn refine(
        &self,
        image: &EncodedImage,
        prompts: &[Vec<PromptPoint>],
        logits: Tensor<3>,
        choice: MaskChoice,
    ) -> Masks {
        let embedding = image.embedding.clone() + self.prompts.masks(logits);
        self.decoder.forward(self.prompts.tokens(prompts), embedding, self.positions.clone(), None, choice)
    }
}

/// Side of the network's input, in pixels.
pub const INPUT_SIZE: usize = 1024;

/// Prompts whose maps are in memory together: with more, they leave the caches.
const PROMPTS_AT_ONCE: usize = 2;
