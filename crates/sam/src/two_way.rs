//! The two-way transformer of SAM's mask decoder: tokens look at the image, and the image at the tokens.

use burn::tensor::Tensor;
use sensei_tensor::layers::{AttentionSize, HeadsOf, LayerNorm, Linear, Then, add_to_each, attention};

use crate::error::SamError;
use crate::scope::Scope;

/// Whose form of the transformer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TwoWayForm {
    /// SAM's: the first block's self-attention takes the tokens' place; ReLU.
    ///
    /// # Source
    /// facebookresearch/segment-anything `modeling/transformer.py`: `TwoWayTransformer`.
    Sam,
    /// EfficientSAM's: every self-attention is added, and from the second block on the prompt stays in the tokens; GELU.
    ///
    /// # Source
    /// yformer/EfficientSAM `efficient_sam/build_efficient_sam.py`: `TwoWayTransformer`.
    EfficientSam,
}

/// Two blocks and a last attention.
pub(crate) struct TwoWayTransformer {
    form: TwoWayForm,
    blocks: [Block; 2],
    last: Attention,
    norm: LayerNorm,
}

struct Block {
    self_attention: Attention,
    norms: [LayerNorm; 4],
    tokens_to_image: Attention,
    mlp: [Linear; 2],
    image_to_tokens: Attention,
}

struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
}

/// Channels of tokens and image.
pub(crate) const CHANNELS: usize = 256;

const HEADS: usize = 8;
/// Channels within the attentions between tokens and image.
const CROSS_CHANNELS: usize = 128;
const MLP_CHANNELS: usize = 2048;
const EPSILON: f64 = 1e-5;

impl TwoWayTransformer {
    pub(crate) fn new(form: TwoWayForm, scope: &Scope) -> Result<Self, SamError> {
        let layers = scope.at("layers");
        Ok(Self {
            form,
            blocks: [Block::new(form, &layers.at("0"))?, Block::new(form, &layers.at("1"))?],
            last: Attention::new(CROSS_CHANNELS, &scope.at("final_attn_token_to_image"))?,
            norm: scope.at("norm_final_attn").layer_norm(CHANNELS, EPSILON, Then::Nothing)?,
        })
    }

    /// Tokens `[prompt, token, channels]` and image `[prompt, cell, channels]` after both have looked at each other. The image may be one for
    /// all prompts: what of it does not depend on the prompt is then computed once. `positions` is `[1, cell, channels]`.
    pub(crate) fn forward(&self, tokens: Tensor<3>, image: Tensor<3>, positions: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        let prompt = tokens.clone();
        let [first, second] = &self.blocks;
        let tokens = match self.form {
            // Without positions, and in place of the tokens, not added to them.
            TwoWayForm::Sam => first.self_attention.forward(tokens.clone(), tokens.clone(), tokens),
            TwoWayForm::EfficientSam => {
                first.self_attention.onto(tokens.clone(), tokens.clone(), tokens.clone(), tokens)
            }
        };
        let (tokens, image) = first.forward(tokens, image, &prompt, &positions);
        let placed = add_to_each(tokens.clone(), prompt.clone());
        let tokens = match self.form {
            TwoWayForm::Sam => second.self_attention.onto(tokens.clone(), placed.clone(), placed, tokens),
            TwoWayForm::EfficientSam => {
                second.self_attention.onto(placed.clone(), placed.clone(), placed.clone(), placed)
            }
        };
        let (tokens, image) = second.forward(tokens, image, &prompt, &positions);
        let placed = add_to_each(image.clone(), positions);
        let queries = add_to_each(tokens.clone(), prompt);
        let tokens = self.norm.forward(self.last.onto(tokens, queries, placed, image.clone()));
        (tokens, image)
    }
}

impl Block {
    fn new(form: TwoWayForm, scope: &Scope) -> Result<Self, SamError> {
        let norm = |idx: usize| scope.at(&format!("norm{idx}")).layer_norm(CHANNELS, EPSILON, Then::Nothing);
        let mlp = scope.at("mlp");
        let (wide, narrow, then) = match form {
            TwoWayForm::Sam if mlp.has("lin1.weight") => (mlp.at("lin1"), mlp.at("lin2"), Then::Relu),
            // SAM 2's names.
            TwoWayForm::Sam => (mlp.at("layers").at("0"), mlp.at("layers").at("1"), Then::Relu),
            TwoWayForm::EfficientSam => (mlp.at("layers").at("0").at("0"), mlp.at("fc"), Then::Gelu),
        };
        Ok(Self {
            self_attention: Attention::new(CHANNELS, &scope.at("self_attn"))?,
            norms: [norm(1)?, norm(2)?, norm(3)?, norm(4)?],
            tokens_to_image: Attention::new(CROSS_CHANNELS, &scope.at("cross_attn_token_to_image"))?,
            mlp: [wide.linear(CHANNELS, MLP_CHANNELS, then)?, narrow.linear(MLP_CHANNELS, CHANNELS, Then::Nothing)?],
            image_to_tokens: Attention::new(CROSS_CHANNELS, &scope.at("cross_attn_image_to_token"))?,
        })
    }

    /// What follows the self-attention.
    fn forward(
        &self,
        tokens: Tensor<3>,
        image: Tensor<3>,
        prompt: &Tensor<3>,
        positions: &Tensor<3>,
    ) -> (Tensor<3>, Tensor<3>) {
        let [norm1, norm2, norm3, norm4] = &self.norms;
        let with_prompt = |tokens: &Tensor<3>| add_to_each(tokens.clone(), prompt.clone());
        let tokens = norm1.forward(tokens);
        let placed = add_to_each(image.clone(), positions.clone());
        let queries = with_prompt(&tokens);
        let tokens = norm2.forward(self.tokens_to_image.onto(tokens, queries, placed.clone(), image.clone()));
        let wide = self.mlp[0].forward(tokens.clone());
        let tokens = norm3.forward(self.mlp[1].forward_onto(wide, tokens));
        let keys = with_prompt(&tokens);
        let image = norm4.forward(self.image_to_tokens.onto(image, placed, keys, tokens.clone()));
        (tokens, image)
    }
}

impl Attention {
    fn new(inner: usize, scope: &Scope) -> Result<Self, SamError> {
        let into = |name: &str| scope.at(name).linear(CHANNELS, inner, Then::Nothing);
        Ok(Self {
            query: into("q_proj")?,
            key: into("k_proj")?,
            value: into("v_proj")?,
            out: scope.at("out_proj").linear(inner, CHANNELS, Then::Nothing)?,
        })
    }

    fn forward(&self, queries: Tensor<3>, keys: Tensor<3>, values: Tensor<3>) -> Tensor<3> {
        let attended = self.attended(queries, keys, values);
        self.out.forward(attended)
    }

    /// The same, added to `sum`, which may be one for all prompts.
    fn onto(&self, sum: Tensor<3>, queries: Tensor<3>, keys: Tensor<3>, values: Tensor<3>) -> Tensor<3> {
        let attended = self.attended(queries, keys, values);
        self.out.forward_onto(attended, sum)
    }

    fn attended(&self, queries: Tensor<3>, keys: Tensor<3>, values: Tensor<3>) -> Tensor<3> {
        let (queries, keys, values) = (self.query.forward(queries), self.key.forward(keys), self.value.forward(values));
        let width = self.query.outs() / HEADS;
        let heads = |tokens| HeadsOf { tokens, start: 0, stride: width };
        let size = AttentionSize { heads: HEADS, width, value_width: width };
        attention(size, [heads(queries), heads(keys), heads(values)], (width as f64).powf(-0.5), None)
    }
}
