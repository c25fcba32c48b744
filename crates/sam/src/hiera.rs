//! Hiera with its neck: the image encoder of SAM 2.1.

use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Tensor, module};
use sensei_tensor::layers::{
    AttentionSize, Conv, HeadsOf, LayerNorm, Linear, Then, add_to_each, add_windows, attention, cut_windows,
};

use crate::error::SamError;
use crate::scope::Scope;
use crate::two_way::CHANNELS;

/// Widths and depths.
///
/// # Source
/// Ryali et al. 2023, "Hiera" (arXiv 2306.00989); facebookresearch/sam2 `sam2/modeling/backbones/hieradet.py` and `configs/sam2.1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HieraConfig {
    /// Side of the input, in pixels; a multiple of 32.
    pub input_size: usize,
    /// Channels of the first stage; each further one has twice as many.
    pub channels: usize,
    /// Heads of the first stage; each further one has twice as many.
    pub heads: usize,
    /// Blocks of each stage.
    pub blocks: [usize; 4],
    /// Blocks whose tokens look at all others.
    pub global_blocks: [usize; 3],
    /// Sides of the windows of each stage, in cells.
    pub windows: [usize; 4],
    /// Side of the coarse table of positions.
    pub positions: usize,
}

impl HieraConfig {
    /// SAM 2.1 Tiny's: 27 M parameters, 145 G products at 1024 x 1024, neck included.
    pub fn tiny() -> Self {
        Self {
            input_size: 1024,
            channels: 96,
            heads: 1,
            blocks: [1, 2, 7, 2],
            global_blocks: [5, 7, 9],
            windows: [8, 4, 14, 7],
            positions: 7,
        }
    }

    /// SAM 2.1 Small's: 34 M parameters, 179 G products.
    pub fn small() -> Self {
        Self { blocks: [1, 2, 11, 2], global_blocks: [7, 10, 13], ..Self::tiny() }
    }

    /// SAM 2.1 Base+'s: 69 M parameters, 323 G products.
    pub fn base_plus() -> Self {
        Self {
            channels: 112,
            heads: 2,
            blocks: [2, 3, 16, 3],
            global_blocks: [12, 16, 20],
            positions: 14,
            ..Self::tiny()
        }
    }

    /// SAM 2.1 Large's: 213 M parameters, 911 G products.
    pub fn large() -> Self {
        Self {
            channels: 144,
            heads: 2,
            blocks: [2, 6, 36, 4],
            global_blocks: [23, 33, 43],
            windows: [8, 4, 16, 8],
            ..Self::tiny()
        }
    }

    /// Side of the embedding, in cells.
    pub fn grid(&self) -> usize {
        self.input_size / 16
    }
}

/// The encoder.
pub struct Hiera {
    config: HieraConfig,
    patch: Conv,
    /// `[1, side / 4, side / 4, channels]`.
    positions: Tensor<4>,
    stages: [Vec<Block>; 4],
    /// Of the stages, the last first.
    neck: [Linear; 4],
}

/// Attention in windows or over all cells, and a two-layer perceptron. The first block of a stage has twice the channels and a quarter of the
/// cells.
struct Block {
    heads: usize,
    /// 0: all cells.
    window: usize,
    norm1: LayerNorm,
    /// Of the residual, in the first block of a stage.
    widen: Option<Linear>,
    pools: bool,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

/// An image's features, `[image, height, width, channels]` each.
pub struct HieraFeatures {
    /// At a sixteenth of the image's side.
    pub embedding: Tensor<4>,
    /// At a quarter and at an eighth.
    pub fine: [Tensor<4>; 2],
}

impl Hiera {
    /// Its layers, from tensors under their published names.
    ///
    /// # Errors
    /// If a tensor is missing or of another shape.
    pub fn new(config: HieraConfig, scope: &Scope) -> Result<Self, SamError> {
        let (trunk, neck) = (scope.at("trunk"), scope.at("neck").at("convs"));
        let patch = trunk.at("patch_embed").at("proj");
        let weight = patch.tensor("weight", [config.channels, 3, 7, 7])?;
        let patch = Conv::new(weight, Some(patch.tensor("bias", [config.channels])?), 4, Then::Nothing);
        let blocks = trunk.at("blocks");
        let mut idx = 0;
        let mut stage = |stage: usize| -> Result<Vec<Block>, SamError> {
            let n_blocks = config.blocks[stage];
            (0..n_blocks)
                .map(|at| {
                    let block = Block::new(&config, stage, at, idx, &blocks.at(&idx.to_string()));
                    idx += 1;
                    block
                })
                .collect()
        };
        let stages = [stage(0)?, stage(1)?, stage(2)?, stage(3)?];
        let lateral =
            |at: usize| neck.at(&at.to_string()).at("conv").pointwise_with_bias(config.channels << (3 - at), CHANNELS);
        Ok(Self {
            patch,
            positions: positions(&config, &trunk)?,
            stages,
            neck: [lateral(0)?, lateral(1)?, lateral(2)?, lateral(3)?],
            config,
        })
    }

    /// Normalised images `[image, side, side, 3]` to their features, 256 channels each.
    ///
    /// # Panics
    /// If the images are not of the network's size.
    pub fn forward(&self, images: Tensor<4>) -> HieraFeatures {
        let side = self.config.input_size;
        assert_eq!(images.dims()[1..], [side, side, 3], "Hiera: images");
        let mut x = add_to_each(self.patch.forward(images), self.positions.clone());
        let mut of_stages = vec![];
        for stage in &self.stages {
            for block in stage {
                x = block.forward(x);
            }
            of_stages.push(x.clone());
        }
        let lateral = |stage: usize| self.neck[3 - stage].forward(of_stages[stage].clone());
        // The coarsest map goes into the next finer one, and no further; then it is dropped.
        let embedding = add_to_each(lateral(2), repeated(lateral(3)));
        HieraFeatures { embedding, fine: [lateral(0), lateral(1)] }
    }
}

impl Block {
    fn new(config: &HieraConfig, stage: usize, at: usize, idx: usize, scope: &Scope) -> Result<Self, SamError> {
        let is_first = stage > 0 && at == 0;
        let outs = config.channels << stage;
        let ins = if is_first { outs / 2 } else { outs };
        // Windows change a block later than widths.
        let window = config.windows[if is_first { stage - 1 } else { stage }];
        let (attn, mlp) = (scope.at("attn"), scope.at("mlp").at("layers"));
        let widen = if is_first { Some(scope.at("proj").linear(ins, outs, Then::Nothing)?) } else { None };
        Ok(Self {
            heads: config.heads << stage,
            window: if config.global_blocks.contains(&idx) { 0 } else { window },
            norm1: scope.at("norm1").layer_norm(ins, EPSILON, Then::Nothing)?,
            widen,
            pools: is_first,
            qkv: attn.at("qkv").linear(ins, 3 * outs, Then::Nothing)?,
            proj: attn.at("proj").linear(outs, outs, Then::Nothing)?,
            norm2: scope.at("norm2").layer_norm(outs, EPSILON, Then::Nothing)?,
            fc1: mlp.at("0").linear(outs, 4 * outs, Then::Gelu)?,
            fc2: mlp.at("1").linear(4 * outs, outs, Then::Nothing)?,
        })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let normal = self.norm1.forward(x.clone());
        // The residual is of the norm's output, where it has to change.
        let residual = match &self.widen {
            Some(widen) => pooled(widen.forward(normal.clone())),
            None => x,
        };
        let [batch, height, width, channels] = normal.dims();
        // Cells beyond the map are zeros after the norm, and are attended to.
        let (tokens, side) = match self.window {
            0 => (normal.reshape([batch, height * width, channels]), height),
            window => (cut_windows(normal, window), window),
        };
        let attended = self.proj.forward(self.attended(tokens, side));
        let x = match self.window {
            0 => {
                let dims = residual.dims();
                add_to_each(attended.reshape(dims), residual)
            }
            window => add_windows(attended, residual, if self.pools { window / 2 } else { window }),
        };
        let wide = self.fc1.forward(self.norm2.forward(x.clone()));
        self.fc2.forward_onto(wide, x)
    }

    /// Attention within square groups of `side * side` tokens; a quarter of them where queries are pooled.
    fn attended(&self, tokens: Tensor<3>, side: usize) -> Tensor<3> {
        let qkv = self.qkv.forward(tokens);
        let [groups, n_tokens, channels] = qkv.dims();
        let outs = channels / 3;
        let width = outs / self.heads;
        // Queries of all heads, then keys, then values.
        let part = |idx: usize| HeadsOf { tokens: qkv.clone(), start: idx * outs, stride: width };
        let queries = match self.pools {
            false => part(0),
            true => {
                let queries: Tensor<4> = qkv.clone().narrow(2, 0, outs).reshape([groups, side, side, outs]);
                let queries = pooled(queries).reshape([groups, n_tokens / 4, outs]);
                HeadsOf { tokens: queries, start: 0, stride: width }
            }
        };
        let size = AttentionSize { heads: self.heads, width, value_width: width };
        attention(size, [queries, part(1), part(2)], (width as f64).powf(-0.5), None)
    }
}

/// The largest value of each square of four cells.
fn pooled(map: Tensor<4>) -> Tensor<4> {
    let [batch, height, width, channels] = map.dims();
    let squares: Tensor<6> = map.reshape([batch, height / 2, 2, width / 2, 2, channels]);
    squares.max_dim(4).max_dim(2).reshape([batch, height / 2, width / 2, channels])
}

/// Each cell repeated in a square of four.
fn repeated(map: Tensor<4>) -> Tensor<4> {
    let [batch, height, width, channels] = map.dims();
    let squares: Tensor<6> = map.reshape([batch, height, 1, width, 1, channels]);
    squares.expand([batch, height, 2, width, 2, channels]).reshape([batch, 2 * height, 2 * width, channels])
}

/// A coarse table of positions at the size of the map, plus one of the first stage's windows, again and again.
fn positions(config: &HieraConfig, scope: &Scope) -> Result<Tensor<4>, SamError> {
    let (channels, side, window) = (config.channels, config.input_size / 4, config.windows[0]);
    let coarse: Tensor<4> = scope.tensor("pos_embed", [1, channels, config.positions, config.positions])?;
    let own: Tensor<4> = scope.tensor("pos_embed_window", [1, channels, window, window])?;
    // PyTorch's `align_corners=False`; burn's default is the other.
    let options = InterpolateOptions::new(InterpolateMode::Bicubic).with_output_size([side, side]);
    let coarse = module::interpolate(coarse, options.with_align_corners(false));
    Ok((coarse + own.repeat(&[1, 1, side / window, side / window])).permute([0, 2, 3, 1]))
}

/// Of all layer norms.
const EPSILON: f64 = 1e-6;
