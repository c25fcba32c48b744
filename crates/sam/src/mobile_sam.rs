//! MobileSAM: TinyViT, SAM's prompt encoder and SAM's mask decoder.

use burn::tensor::{Device, Tensor};
use sensei_tensor::network::{NamedWeights, NetworkError, Tap};

use crate::error::SamError;
use crate::mask_decoder::{MaskChoice, Masks};
use crate::prompt_encoder::PromptPoint;
use crate::prompted::PromptedDecoder;
use crate::scope::Tensors;
use crate::tiny_vit::{TinyVit, TinyVitConfig};
use crate::two_way::CHANNELS;

/// The network, for answers without gradients or, on an autodiff device, with them.
///
/// # Source
/// Zhang et al. 2023, "Faster Segment Anything" (arXiv 2306.14289); ChaoningZhang/MobileSAM `build_sam.py`.
pub struct MobileSam {
    encoder: TinyVit,
    decoder: PromptedDecoder,
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
        let decoder = PromptedDecoder::sam(input_size, grid, &root)?;
        tensors.finish(&["image_encoder.norm_head.", "image_encoder.head."])?;
        Ok(Self { encoder, decoder, grid })
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
        self.decoder.masks(image.embedding.clone(), prompts, choice)
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
        self.decoder.refined(image.embedding.clone(), prompts, logits, choice)
    }
}

/// Side of the network's input, in pixels.
pub const INPUT_SIZE: usize = 1024;
