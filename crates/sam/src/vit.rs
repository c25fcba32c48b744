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
    /// Side of the input, in pixels; a multiple of `patch`.
    pub input_size: usize,
    /// Side of a patch, in pixels.
    pub patch: usize,
    /// Side of the grid that the table of positions has.
    pub table_grid: usize,
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
        Self { input_size: 1024, patch: 16, table_grid: 14, channels: 192, heads: 3, blocks: 12, out_channels: 256 }
    }

    /// EfficientSAM-S's: 22.4 M parameters, 246 G products at 1024 x 1024.
    pub fn efficient_sam_s() -> Self {
        Self { channels: 384, heads: 6, ..Self::efficient_sam_ti() }
    }

    /// Side of its grid of tokens, in cells.
    pub fn grid(&self) -> usize {
        self.input_size / self.patch
    }

    /// Multiply-accumulates of one image whose embedding has `grid` cells a side.
    pub fn macs(&self, grid: usize) -> u64 {
        let Self { channels, blocks, out_channels: out, patch, .. } = *self;
        let tokens = self.grid() * self.grid();
        // Linear layers of 12 channels squared, and attention's two products.
        let block = 12 * channels * channels * tokens + 2 * tokens * tokens * channels;
        let patches = tokens * 3 * patch * patch * channels;
        let neck = tokens * channels * out + grid * grid * 9 * out * out;
        (patches + blocks * block + neck) as u64
    }
}

/// The encoder: every token looks at every other.
pub struct Vit {
    trunk: VitTrunk,
    neck: VitNeck,
}

/// The encoder without what makes an embedding of its tokens.
pub struct VitTrunk {
    config: VitConfig,
    /// Over the pixels of a patch.
    patch: Linear,
    /// `[1, cell, channels]`.
    positions: Tensor<3>,
    blocks: Vec<Block>,
}

/// What makes an embedding of tokens.
pub struct VitNeck {
    out_channels: usize,
    layers: (Linear, LayerNorm, Conv, LayerNorm),
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
        let trunk = VitTrunk::new(config, scope)?;
        let neck = VitNeck::new(&trunk.config, &scope.at(NECK))?;
        Ok(Self { trunk, neck })
    }

    /// Normalised images `[image, side, side, 3]` to their embedding `[image, grid, grid, out_channels]`.
    ///
    /// # Panics
    /// If the images are not of the network's size.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let tokens = self.trunk.blocks(self.trunk.tokens(images));
        self.neck.forward(tokens, 1)
    }
}

impl VitTrunk {
    /// Its layers, from tensors under their published names.
    ///
    /// # Errors
    /// If a tensor is missing or of another shape.
    pub fn new(config: VitConfig, scope: &Scope) -> Result<Self, SamError> {
        let VitConfig { channels, heads, patch: side, .. } = config;
        let patch = scope.at("patch_embed").at("proj");
        // A convolution without overlap is a linear layer over patches, whose values lie row by row here.
        let weight: Tensor<4> = patch.tensor("weight", [channels, 3, side, side])?;
        let weight = weight.permute([0, 2, 3, 1]).reshape([channels, side * side * 3]);
        let patch = Linear::new(weight, Some(patch.tensor("bias", [channels])?), Then::Nothing);
        let blocks = scope.at("blocks");
        let blocks = (0..config.blocks).map(|idx| Block::new(channels, heads, &blocks.at(&idx.to_string())));
        let (positions, blocks) = (positions(&config, scope)?, blocks.collect::<Result<_, _>>()?);
        Ok(Self { patch, positions, blocks, config })
    }

    /// The pixels of each patch, row by row: `[image, side, side, 3]` to `[image, cell, patch * patch * 3]`.
    ///
    /// # Panics
    /// If the images are not of the network's size.
    pub fn patches(&self, images: Tensor<4>) -> Tensor<3> {
        let (side, grid, patch) = (self.config.input_size, self.config.grid(), self.config.patch);
        let [batch, ..] = images.dims();
        assert_eq!(images.dims()[1..], [side, side, 3], "ViT: images");
        let patches: Tensor<6> = images.reshape([batch, grid, patch, grid, patch, 3]);
        patches.permute([0, 1, 3, 2, 4, 5]).reshape([batch, grid * grid, patch * patch * 3])
    }

    /// Images `[image, side, side, 3]` to their tokens before the first block, `[image, cell, channels]`.
    ///
    /// # Panics
    /// If the images are not of the network's size.
    pub fn tokens(&self, images: Tensor<4>) -> Tensor<3> {
        self.patch.forward(self.patches(images)) + self.positions.clone()
    }

    /// Tokens `[image, token, channels]` through all blocks.
    pub fn blocks(&self, tokens: Tensor<3>) -> Tensor<3> {
        self.blocks.iter().fold(tokens, |x, block| block.forward(x))
    }
}

impl VitNeck {
    /// Its layers, from tensors under their published names.
    ///
    /// # Errors
    /// If a tensor is missing or of another shape.
    pub fn new(config: &VitConfig, scope: &Scope) -> Result<Self, SamError> {
        let (channels, out) = (config.channels, config.out_channels);
        let layers = (
            scope.at("0").pointwise(channels, out)?,
            scope.at("1").layer_norm(out, EPSILON, Then::Nothing)?,
            scope.at("2").conv(out, out, 3)?,
            scope.at("3").layer_norm(out, EPSILON, Then::Nothing)?,
        );
        Ok(Self { out_channels: out, layers })
    }

    /// Tokens of a square grid to the embedding, `[image, scale * grid, scale * grid, out_channels]`; upsampled, bilinearly, before the
    /// convolution.
    ///
    /// # Panics
    /// If the tokens are those of no square.
    pub fn forward(&self, tokens: Tensor<3>, scale: usize) -> Tensor<4> {
        let [batch, cells, _] = tokens.dims();
        let (grid, out) = (cells.isqrt(), self.out_channels);
        assert_eq!(grid * grid, cells, "ViT: tokens of a square");
        let (pointwise, norm1, conv, norm2) = &self.layers;
        let map: Tensor<4> = norm1.forward(pointwise.forward(tokens)).reshape([batch, grid, grid, out]);
        norm2.forward(conv.forward(enlarged(map, scale)))
    }
}

/// A map `[image, height, width, channels]` upsampled bilinearly by a whole factor.
pub(crate) fn enlarged(map: Tensor<4>, scale: usize) -> Tensor<4> {
    if scale == 1 {
        return map;
    }
    let [_, height, width, _] = map.dims();
    let options = InterpolateOptions::new(InterpolateMode::Bilinear);
    let options = options.with_output_size([height * scale, width * scale]).with_align_corners(false);
    module::interpolate(map.permute([0, 3, 1, 2]), options).permute([0, 2, 3, 1])
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

/// The table of positions, which has one for the class too, at the size of the grid.
fn positions(config: &VitConfig, scope: &Scope) -> Result<Tensor<3>, SamError> {
    let (channels, grid, table) = (config.channels, config.grid(), config.table_grid);
    let values: Tensor<3> = scope.tensor("pos_embed", [1, table * table + 1, channels])?;
    let map: Tensor<4> = values.narrow(1, 1, table * table).reshape([1, table, table, channels]);
    let map = if grid == table {
        map
    } else {
        // PyTorch's `align_corners=False`; burn's default is the other.
        let options = InterpolateOptions::new(InterpolateMode::Bicubic);
        let options = options.with_output_size([grid, grid]).with_align_corners(false);
        module::interpolate(map.permute([0, 3, 1, 2]), options).permute([0, 2, 3, 1])
    };
    Ok(map.reshape([1, grid * grid, channels]))
}

/// What the names of the neck's tensors begin with, before a dot.
pub const NECK: &str = "neck";

/// Of all layer norms.
const EPSILON: f64 = 1e-6;
