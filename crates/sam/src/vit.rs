//! A plain vision transformer, as EfficientSAM's image encoder has it.

use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Tensor, module};
use sensei_tensor::layers::{AttentionSize, Conv, HeadsOf, LayerNorm, Linear, Then, attention};

use crate::error::SamError;
use crate::scope::Scope;

/// Widths and depth.
///
/// # Source
/// Xiong et al. 2023, "EfficientSAM" (arXiv 2312.00863); yformer/EfficientSAM `efficient_sam/efficient_sam_encoder.py`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VitConfig {
    /// Side of the input, in pixels; a multiple of 16.
    pub input_size: usize,
    /// Channels of a token.
    pub channels: usize,
    /// Heads of each attention.
    pub heads: usize,
    /// Blocks.
    pub blocks: usize,
    /// Channels of the embedding.
    pub out_channels: usize,
}

impl VitConfig {
    /// EfficientSAM-Ti's: 6.2 M parameters, 102 G products at 1024 x 1024.
    pub fn efficient_sam_ti() -> Self {
        Self { input_size: 1024, channels: 192, heads: 3, blocks: 12, out_channels: 256 }
    }

    /// EfficientSAM-S's: 22.4 M parameters, 246 G products at 1024 x 1024.
    pub fn efficient_sam_s() -> Self {
        Self { channels: 384, heads: 6, ..Self::efficient_sam_ti() }
    }

    /// Side of the embedding, in cells.
    pub fn grid(&self) -> usize {
        self.input_size / PATCH
    }
}

/// The encoder: every token looks at every other.
pub struct Vit {
    config: VitConfig,
    /// Over the pixels of a patch.
    patch: Linear,
    /// `[1, cell, channels]`.
    positions: Tensor<3>,
    blocks: Vec<Block>,
    neck: (Linear, LayerNorm, Conv, LayerNorm),
}

struct Block {
    heads: usize,
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl Vit {
    /// Its layers, from tensors under their published names.
    ///
    /// # Errors
    /// If a tensor is missing or of another shape.
    pub fn new(config: VitConfig, scope: &Scope) -> Result<Self, SamError> {
        let VitConfig { channels, heads, out_channels: out, .. } = config;
        let patch = scope.at("patch_embed").at("proj");
        // A convolution without overlap is a linear layer over patches, whose values lie row by row here.
        let weight: Tensor<4> = patch.tensor("weight", [channels, 3, PATCH, PATCH])?;
        let weight = weight.permute([0, 2, 3, 1]).reshape([channels, PATCH * PATCH * 3]);
        let patch = Linear::new(weight, Some(patch.tensor("bias", [channels])?), Then::Nothing);
        let blocks = scope.at("blocks");
        let blocks = (0..config.blocks).map(|idx| Block::new(channels, heads, &blocks.at(&idx.to_string())));
        let neck = scope.at("neck");
        Ok(Self {
            patch,
            positions: positions(&config, scope)?,
            blocks: blocks.collect::<Result<_, _>>()?,
            neck: (
                neck.at("0").pointwise(channels, out)?,
                neck.at("1").layer_norm(out, EPSILON, Then::Nothing)?,
                neck.at("2").conv(out, out, 3)?,
                neck.at("3").layer_norm(out, EPSILON, Then::Nothing)?,
            ),
            config,
        })
    }

    /// Normalised images `[image, side, side, 3]` to their embedding `[image, grid, grid, out_channels]`.
    ///
    /// # Panics
    /// If the images are not of the network's size.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let (side, grid) = (self.config.input_size, self.config.grid());
        let [batch, ..] = images.dims();
        assert_eq!(images.dims()[1..], [side, side, 3], "ViT: images");
        let patches: Tensor<6> = images.reshape([batch, grid, PATCH, grid, PATCH, 3]);
        let patches = patches.permute([0, 1, 3, 2, 4, 5]).reshape([batch, grid * grid, PATCH * PATCH * 3]);
        let mut x = self.patch.forward(patches) + self.positions.clone();
        for block in &self.blocks {
            x = block.forward(x);
        }
        let (pointwise, norm1, conv, norm2) = &self.neck;
        let map: Tensor<4> = norm1.forward(pointwise.forward(x)).reshape([batch, grid, grid, self.config.out_channels]);
        norm2.forward(conv.forward(map))
    }
}

impl Block {
    fn new(channels: usize, heads: usize, scope: &Scope) -> Result<Self, SamError> {
        let (attn, mlp) = (scope.at("attn"), scope.at("mlp"));
        Ok(Self {
            heads,
            norm1: scope.at("norm1").layer_norm(channels, EPSILON, Then::Nothing)?,
            qkv: attn.at("qkv").linear(channels, 3 * channels, Then::Nothing)?,
            proj: attn.at("proj").linear(channels, channels, Then::Nothing)?,
            norm2: scope.at("norm2").layer_norm(channels, EPSILON, Then::Nothing)?,
            fc1: mlp.at("fc1").linear(channels, 4 * channels, Then::Gelu)?,
            fc2: mlp.at("fc2").linear(4 * channels, channels, Then::Nothing)?,
        })
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let qkv = self.qkv.forward(self.norm1.forward(x.clone()));
        let channels = qkv.dims()[2] / 3;
        let width = channels / self.heads;
        // Queries of all heads, then keys, then values.
        let part = |idx: usize| HeadsOf { tokens: qkv.clone(), start: idx * channels, stride: width };
        let size = AttentionSize { heads: self.heads, width, value_width: width };
        let attended = attention(size, [part(0), part(1), part(2)], (width as f64).powf(-0.5), None);
        let x = self.proj.forward_onto(attended, x);
        let wide = self.fc1.forward(self.norm2.forward(x.clone()));
        self.fc2.forward_onto(wide, x)
    }
}

/// The table of positions, which was trained for 14 x 14 tokens and one of the class, at the size of the grid.
fn positions(config: &VitConfig, scope: &Scope) -> Result<Tensor<3>, SamError> {
    let (channels, grid) = (config.channels, config.grid());
    let table: Tensor<3> = scope.tensor("pos_embed", [1, PRETRAINED_GRID * PRETRAINED_GRID + 1, channels])?;
    let table = table.narrow(1, 1, PRETRAINED_GRID * PRETRAINED_GRID);
    let map: Tensor<4> = table.reshape([1, PRETRAINED_GRID, PRETRAINED_GRID, channels]);
    let map = match grid {
        PRETRAINED_GRID => map,
        _ => {
            // PyTorch's `align_corners=False`; burn's default is the other.
            let options = InterpolateOptions::new(InterpolateMode::Bicubic);
            let options = options.with_output_size([grid, grid]).with_align_corners(false);
            module::interpolate(map.permute([0, 3, 1, 2]), options).permute([0, 2, 3, 1])
        }
    };
    Ok(map.reshape([1, grid * grid, channels]))
}

/// Side of a patch, in pixels.
const PATCH: usize = 16;
/// Side of the grid that positions were trained on.
const PRETRAINED_GRID: usize = 14;
/// Of all layer norms.
const EPSILON: f64 = 1e-6;
