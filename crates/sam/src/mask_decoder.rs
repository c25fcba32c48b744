//! SAM's mask decoder: the tokens of a prompt and an image's embedding to masks, and how good each is.

use burn::tensor::Tensor;
use sensei_tensor::layers::{LayerNorm, Linear, Then, Upconv, mask_products};

use crate::error::SamError;
use crate::scope::Scope;
use crate::two_way::{CHANNELS, TwoWayTransformer};

/// The decoder.
///
/// # Source
/// facebookresearch/segment-anything `modeling/mask_decoder.py`.
pub struct MaskDecoder {
    /// The token of the IoU, then those of the masks.
    tokens: Tensor<2>,
    transformer: TwoWayTransformer,
    upscaling: (Upconv, LayerNorm, Upconv),
    mask_vectors: [[Linear; 3]; N_MASKS],
    iou: [Linear; 3],
}

/// Which of its masks are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskChoice {
    /// The first token's, which SAM was trained to answer clear prompts with.
    Single,
    /// The three others', of different extents.
    Multiple,
    /// All four, the single one first.
    All,
}

impl MaskChoice {
    /// The tokens' places.
    pub fn range(self) -> std::ops::Range<usize> {
        match self {
            Self::Single => 0..1,
            Self::Multiple => 1..N_MASKS,
            Self::All => 0..N_MASKS,
        }
    }
}

/// What the decoder answers.
pub struct Masks {
    /// Logits, `[prompt, mask, 4 * grid, 4 * grid]`.
    pub logits: Tensor<4>,
    /// The IoU that it expects of each, `[prompt, mask]`; not bounded, and can exceed 1.
    pub predicted_iou: Tensor<2>,
    /// The tokens after the transformer, `[prompt, token, channels]`: IoU, masks, prompt.
    pub tokens: Tensor<3>,
    /// The image after the transformer, `[prompt, cell, channels]`.
    pub image: Tensor<3>,
}

impl MaskDecoder {
    /// Its layers, from tensors under their published names.
    ///
    /// # Errors
    /// If a tensor is missing or of another shape.
    pub fn new(scope: &Scope) -> Result<Self, SamError> {
        let tokens = [
            scope.at("iou_token").tensor("weight", [1, CHANNELS])?,
            scope.at("mask_tokens").tensor("weight", [N_MASKS, CHANNELS])?,
        ];
        let up = scope.at("output_upscaling");
        let vectors = scope.at("output_hypernetworks_mlps");
        let vector = |idx: usize| perceptron(VECTOR_CHANNELS, &vectors.at(&idx.to_string()));
        Ok(Self {
            tokens: Tensor::cat(tokens.to_vec(), 0),
            transformer: TwoWayTransformer::new(&scope.at("transformer"))?,
            upscaling: (
                up.at("0").upconv(CHANNELS, CHANNELS / 4, Then::Nothing)?,
                up.at("1").layer_norm(CHANNELS / 4, UPSCALING_EPSILON, Then::Gelu)?,
                up.at("3").upconv(CHANNELS / 4, VECTOR_CHANNELS, Then::Gelu)?,
            ),
            mask_vectors: [vector(0)?, vector(1)?, vector(2)?, vector(3)?],
            iou: perceptron(N_MASKS, &scope.at("iou_prediction_head"))?,
        })
    }

    /// Masks for prompts on one image or on as many.
    ///
    /// # Shapes
    /// - `prompts`: `[prompt, point, channels]`
    /// - `image`: `[1 or prompt, cell, channels]`, with what is added for a mask or none; cells are a square grid's
    /// - `positions`: `[1, cell, channels]`
    ///
    /// # Panics
    /// If the sizes do not fit.
    pub fn forward(&self, prompts: Tensor<3>, image: Tensor<3>, positions: Tensor<3>, choice: MaskChoice) -> Masks {
        let [n_prompts, ..] = prompts.dims();
        let [_, cells, _] = image.dims();
        let grid = cells.isqrt();
        assert_eq!(grid * grid, cells, "mask decoder: a square grid");
        let own: Tensor<3> = self.tokens.clone().unsqueeze();
        let tokens = Tensor::cat(vec![own.expand([n_prompts, 1 + N_MASKS, CHANNELS]), prompts], 1);
        let (tokens, image) = self.transformer.forward(tokens, image, positions);
        let token = |idx: usize| -> Tensor<2> { tokens.clone().narrow(1, idx, 1).reshape([n_prompts, CHANNELS]) };
        let (up1, norm, up2) = &self.upscaling;
        let map = up2.forward(norm.forward(up1.forward(image.clone().reshape([n_prompts, grid, grid, CHANNELS]))));
        let range = choice.range();
        let vectors = range.clone().map(|idx| in_turn(&self.mask_vectors[idx], token(1 + idx)).unsqueeze_dim(1));
        let logits = mask_products(Tensor::cat(vectors.collect(), 1), map);
        let predicted_iou = in_turn(&self.iou, token(0)).narrow(1, range.start, range.len());
        Masks { logits, predicted_iou, tokens, image }
    }
}

/// Three layers, ReLU between them.
fn perceptron(outs: usize, scope: &Scope) -> Result<[Linear; 3], SamError> {
    let layers = scope.at("layers");
    Ok([
        layers.at("0").linear(CHANNELS, CHANNELS, Then::Relu)?,
        layers.at("1").linear(CHANNELS, CHANNELS, Then::Relu)?,
        layers.at("2").linear(CHANNELS, outs, Then::Nothing)?,
    ])
}

fn in_turn(layers: &[Linear; 3], x: Tensor<2>) -> Tensor<2> {
    layers.iter().fold(x, |x, layer| layer.forward(x))
}

/// Masks that the decoder can answer with: one, and three of different extents.
pub const N_MASKS: usize = 4;

/// Channels of the upscaled image, and of the vector that makes a mask of it.
const VECTOR_CHANNELS: usize = CHANNELS / 8;

/// Of the norm while the image is upscaled.
const UPSCALING_EPSILON: f64 = 1e-6;
