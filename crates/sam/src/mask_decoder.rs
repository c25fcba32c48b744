//! SAM's mask decoder: the tokens of a prompt and an image's embedding to masks, and how good each is.

use burn::tensor::{Tensor, activation};
use sensei_tensor::layers::{GroupNorm, LayerNorm, Linear, Then, Upconv, add_then, add_to_each, mask_products};

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
    /// What SAM 2 has beside.
    sam2: Option<Sam2Parts>,
}

/// What SAM 2's decoder has beside SAM's; its predicted IoU then passes through a sigmoid.
struct Sam2Parts {
    /// Of the token that asks whether there is an object, which goes before all others.
    object: [Linear; 3],
    /// Of features at a quarter and at an eighth of the image's side, which are added while the image is upscaled.
    fine: [Linear; 2],
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
    /// SAM 2's logit of there being an object, `[prompt, 1]`.
    pub object: Option<Tensor<2>>,
}

/// Features of an image at a quarter and at an eighth of its side, `[1, 4 * grid, 4 * grid, 32]` and `[1, 2 * grid, 2 * grid, 64]`.
pub type FineFeatures = [Tensor<4>; 2];

impl Masks {
    /// The answers to some prompts and then to others.
    pub(crate) fn joined(parts: Vec<Masks>) -> Masks {
        let (mut logits, mut predicted_iou, mut tokens, mut image) = (vec![], vec![], vec![], vec![]);
        let mut object = vec![];
        for part in parts {
            object.extend(part.object);
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
            object: (!object.is_empty()).then(|| Tensor::cat(object, 0)),
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
            sam2: None,
        })
    }

    /// SAM 2.1's layers, from tensors under their published names.
    ///
    /// # Source
    /// facebookresearch/sam2 `sam2/modeling/sam/mask_decoder.py`, as `configs/sam2.1` builds it.
    ///
    /// # Errors
    /// If a tensor is missing or of another shape.
    pub fn sam2(scope: &Scope) -> Result<Self, SamError> {
        let object = scope.at("obj_score_token").tensor("weight", [1, CHANNELS])?;
        let fine = |name: &str, outs: usize| scope.at(name).pointwise_with_bias(CHANNELS, outs);
        let sam = Self::sam(scope)?;
        let parts = Sam2Parts {
            object: perceptron(TwoWayForm::Sam, 1, &scope.at("pred_obj_score_head"))?,
            fine: [fine("conv_s0", VECTOR_CHANNELS)?, fine("conv_s1", CHANNELS / 4)?],
        };
        let (up1, norm, _) = sam.upscaling;
        let up2 = scope.at("output_upscaling").at("3").upconv(CHANNELS / 4, VECTOR_CHANNELS, Then::Nothing)?;
        let tokens = Tensor::cat(vec![object, sam.tokens], 0);
        Ok(Self { tokens, upscaling: (up1, norm, up2), sam2: Some(parts), ..sam })
    }

    /// SAM 2's features of an image at a quarter and at an eighth of its side as the decoder adds them; from maps of 256 channels.
    ///
    /// # Panics
    /// If the decoder is not SAM 2's.
    pub fn fine_features(&self, [quarter, eighth]: [Tensor<4>; 2]) -> FineFeatures {
        let [s0, s1] = &self.sam2.as_ref().expect("SAM 2's decoder").fine;
        [s0.forward(quarter), s1.forward(eighth)]
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
            sam2: None,
        })
    }

    /// Masks for prompts on one image or on as many.
    ///
    /// # Shapes
    /// - `prompts`: `[prompt, point, channels]`
    /// - `image`: `[1 or prompt, cell, channels]`, with what is added for a mask or none; cells are a square grid's
    /// - `positions`: `[1, cell, channels]`
    /// - `fine`: of the image, which is one then; SAM 2's decoder needs them, others have none
    ///
    /// # Panics
    /// If the sizes do not fit.
    pub fn forward(
        &self,
        prompts: Tensor<3>,
        image: Tensor<3>,
        positions: Tensor<3>,
        fine: Option<FineFeatures>,
        choice: MaskChoice,
    ) -> Masks {
        let [n_prompts, ..] = prompts.dims();
        let [_, cells, _] = image.dims();
        let grid = cells.isqrt();
        assert_eq!(grid * grid, cells, "mask decoder: a square grid");
        let own: Tensor<3> = self.tokens.clone().unsqueeze();
        let [_, n_own, _] = own.dims();
        let tokens = Tensor::cat(vec![own.expand([n_prompts, n_own, CHANNELS]), prompts], 1);
        let (tokens, image) = self.transformer.forward(tokens, image, positions);
        let token = |idx: usize| -> Tensor<2> { tokens.clone().narrow(1, idx, 1).reshape([n_prompts, CHANNELS]) };
        let (up1, norm, up2) = &self.upscaling;
        let mut map = up1.forward(image.clone().reshape([n_prompts, grid, grid, CHANNELS]));
        assert_eq!(fine.is_some(), self.sam2.is_some(), "mask decoder: fine features");
        let (quarter, eighth) = fine.map_or((None, None), |[quarter, eighth]| (Some(quarter), Some(eighth)));
        if let Some(eighth) = eighth {
            map = add_to_each(map, eighth);
        }
        let normal = match norm {
            UpscalingNorm::Layer(norm) => norm.forward(map),
            UpscalingNorm::Group(norm) => norm.forward(map),
        };
        let map = match quarter {
            // GELU follows the sum.
            Some(quarter) => add_then(up2.forward(normal), quarter, Then::Gelu),
            None => up2.forward(normal),
        };
        let first = n_own - N_MASKS;
        let range = choice.range();
        let vectors = range.clone().map(|idx| in_turn(&self.mask_vectors[idx], token(first + idx)).unsqueeze_dim(1));
        let logits = mask_products(Tensor::cat(vectors.collect(), 1), map);
        let predicted_iou = in_turn(&self.iou, token(first - 1)).narrow(1, range.start, range.len());
        let object = self.sam2.as_ref().map(|parts| in_turn(&parts.object, token(0)));
        let predicted_iou = if object.is_some() { activation::sigmoid(predicted_iou) } else { predicted_iou };
        Masks { logits, predicted_iou, tokens, image, object }
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
