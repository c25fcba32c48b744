//! SAM's mask decoder: the tokens of a prompt and an image's embedding to masks, and how good each is.

use burn::tensor::Tensor;
use sensei_tensor::layers::{GroupNorm, LayerNorm, Linear, Then, Upconv, mask_products};

use crate::error::SamError;
use crate::scope::Scope;
use crate::two_way::{CHANNELS, TwoWayForm, TwoWayTransformer};

/// The decoder, of SAM or of EfficientSAM.
///
/// # Source
/// facebookresearch/segment-anything `modeling/mask_decoder.py`; yformer/EfficientSAM `efficient_sam/efficient_sam_decoder.py`.
pub struct MaskDecoder {
    /// The token of the IoU, then those of the masks.
    tokens: Tensor<2>,
    transformer: TwoWayTransformer,
    upscaling: (Upconv, UpscalingNorm, Upconv),
    mask_vectors: [[Linear; 3]; N_MASKS],
    iou: [Linear; 3],
}

/// The norm between the two steps of upscaling, then GELU.
enum UpscalingNorm {
    /// Over the channels of each pixel.
    Layer(LayerNorm),
    /// Over all values of an image: PyTorch's group norm of one group.
    Group(GroupNorm),
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

impl Masks {
    /// The answers to some prompts and then to others.
    pub(crate) fn joined(parts: Vec<Masks>) -> Masks {
        let (mut logits, mut predicted_iou, mut tokens, mut image) = (vec![], vec![], vec![], vec![]);
        for part in parts {
            logits.push(part.logits);
            predicted_iou.push(part.predicted_iou);
            tokens.push(part.tokens);
            image.push(part.image);
        }
        Masks {
            logits: Tensor::cat(logits, 0),
            predicted_iou: Tensor::cat(predicted_iou, 0),
            tokens: Tensor::cat(tokens, 0),
            image: Tensor::cat(image, 0),
        }
    }
}

impl MaskDecoder {
    /// SAM's layers, from tensors under their published names.
    ///
    /// # Errors
    /// If a tensor is missing or of another shape.
    pub fn sam(scope: &Scope) -> Result<Self, SamError> {
        let (up, vectors) = (scope.at("output_upscaling"), scope.at("output_hypernetworks_mlps"));
        let vector = |idx: usize| perceptron(TwoWayForm::Sam, VECTOR_CHANNELS, &vectors.at(&idx.to_string()));
        let norm = up.at("1").layer_norm(CHANNELS / 4, UPSCALING_EPSILON, Then::Gelu)?;
        Ok(Self {
            tokens: own_tokens(scope)?,
            transformer: TwoWayTransformer::new(TwoWayForm::Sam, &scope.at("transformer"))?,
            upscaling: (
                up.at("0").upconv(CHANNELS, CHANNELS / 4, Then::Nothing)?,
                UpscalingNorm::Layer(norm),
                up.at("3").upconv(CHANNELS / 4, VECTOR_CHANNELS, Then::Gelu)?,
            ),
            mask_vectors: [vector(0)?, vector(1)?, vector(2)?, vector(3)?],
            iou: perceptron(TwoWayForm::Sam, N_MASKS, &scope.at("iou_prediction_head"))?,
        })
    }

    /// EfficientSAM's layers, from tensors under their published names.
    ///
    /// # Errors
    /// If a tensor is missing or of another shape.
    pub fn efficient_sam(scope: &Scope) -> Result<Self, SamError> {
        let form = TwoWayForm::EfficientSam;
        let (up, vectors) = (scope.at("final_output_upscaling_layers"), scope.at("output_hypernetworks_mlps"));
        let vector = |idx: usize| perceptron(form, VECTOR_CHANNELS, &vectors.at(&idx.to_string()));
        let (first, norm) = (up.at("0"), up.at("0").at("1"));
        let (scale, shift) = (norm.tensor("weight", [CHANNELS / 4])?, norm.tensor("bias", [CHANNELS / 4])?);
        Ok(Self {
            tokens: own_tokens(scope)?,
            transformer: TwoWayTransformer::new(form, &scope.at("transformer"))?,
            upscaling: (
                first.at("0").upconv(CHANNELS, CHANNELS / 4, Then::Nothing)?,
                UpscalingNorm::Group(GroupNorm::new(scale, shift, GROUP_NORM_EPSILON, Then::Gelu)),
                up.at("1").at("0").upconv(CHANNELS / 4, VECTOR_CHANNELS, Then::Gelu)?,
            ),
            mask_vectors: [vector(0)?, vector(1)?, vector(2)?, vector(3)?],
            iou: perceptron(form, N_MASKS, &scope.at("iou_prediction_head"))?,
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
        let map = up1.forward(image.clone().reshape([n_prompts, grid, grid, CHANNELS]));
        let map = up2.forward(match norm {
            UpscalingNorm::Layer(norm) => norm.forward(map),
            UpscalingNorm::Group(norm) => norm.forward(map),
        });
        let range = choice.range();
        let vectors = range.clone().map(|idx| in_turn(&self.mask_vectors[idx], token(1 + idx)).unsqueeze_dim(1));
        let logits = mask_products(Tensor::cat(vectors.collect(), 1), map);
        let predicted_iou = in_turn(&self.iou, token(0)).narrow(1, range.start, range.len());
        Masks { logits, predicted_iou, tokens, image }
    }
}

/// The tokens that go before a prompt's.
fn own_tokens(scope: &Scope) -> Result<Tensor<2>, SamError> {
    let iou = scope.at("iou_token").tensor("weight", [1, CHANNELS])?;
    Ok(Tensor::cat(vec![iou, scope.at("mask_tokens").tensor("weight", [N_MASKS, CHANNELS])?], 0))
}

/// Three layers, with SAM's ReLU or EfficientSAM's GELU between them.
fn perceptron(form: TwoWayForm, outs: usize, scope: &Scope) -> Result<[Linear; 3], SamError> {
    let layers = scope.at("layers");
    let (first, second, last, then) = match form {
        TwoWayForm::Sam => (layers.at("0"), layers.at("1"), layers.at("2"), Then::Relu),
        TwoWayForm::EfficientSam => (layers.at("0").at("0"), layers.at("1").at("0"), scope.at("fc"), Then::Gelu),
    };
    Ok([
        first.linear(CHANNELS, CHANNELS, then)?,
        second.linear(CHANNELS, CHANNELS, then)?,
        last.linear(CHANNELS, outs, Then::Nothing)?,
    ])
}

fn in_turn(layers: &[Linear; 3], x: Tensor<2>) -> Tensor<2> {
    layers.iter().fold(x, |x, layer| layer.forward(x))
}

/// Masks that the decoder can answer with: one, and three of different extents.
pub const N_MASKS: usize = 4;

/// Channels of the upscaled image, and of the vector that makes a mask of it.
const VECTOR_CHANNELS: usize = CHANNELS / 8;

/// Of SAM's norm while the image is upscaled.
const UPSCALING_EPSILON: f64 = 1e-6;
/// Of EfficientSAM's: PyTorch's default.
const GROUP_NORM_EPSILON: f64 = 1e-5;
