//! TinyViT as MobileSAM changed it: an image encoder of convolutions, then attention in windows.

use burn::tensor::{Int, Tensor, TensorData};
use sensei_tensor::layers::{
    AttentionSize, Conv, Depthwise, HeadsOf, LayerNorm, Linear, Then, add_windows, attention, cut_windows,
};
use sensei_tensor::network::{NetworkError, Tap, find_tap};

use crate::error::SamError;
use crate::scope::Scope;
use crate::vit::enlarged;

/// Widths and depths.
///
/// # Source
/// Wu et al. 2022, "TinyViT"; ChaoningZhang/MobileSAM `modeling/tiny_vit_sam.py`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TinyVitConfig {
    /// Side of the input, in pixels; a multiple of 16.
    pub input_size: usize,
    /// Channels of the four stages.
    pub channels: [usize; 4],
    /// Blocks of the four stages; the first stage's are convolutions.
    pub blocks: [usize; 4],
    /// Heads of the last three stages.
    pub heads: [usize; 3],
    /// Sides of the windows of the last three stages, in cells.
    pub windows: [usize; 3],
    /// Channels of the embedding.
    pub out_channels: usize,
}

impl TinyVitConfig {
    /// TinyViT-5M, MobileSAM's encoder: 5,738,964 parameters with fused batch norms and without the classifier that published
    /// checkpoints may hold, 38.8 G products at 1024 x 1024.
    pub fn mobile_sam() -> Self {
        Self {
            input_size: 1024,
            channels: [64, 128, 160, 320],
            blocks: [2, 2, 6, 2],
            heads: [4, 5, 10],
            windows: [7, 14, 7],
            out_channels: 256,
        }
    }

    /// Side of the embedding, in cells.
    pub fn grid(&self) -> usize {
        self.input_size / 16
    }

    /// Where features of the published encoder can be read.
    pub fn published_taps(&self) -> Vec<Tap> {
        self.taps_of(self.grid())
    }

    /// Where features can be read: the patch embedding, each stage before what leads to the next, the embedding of `grid` cells a side.
    pub(crate) fn taps_of(&self, grid: usize) -> Vec<Tap> {
        let Self { input_size, channels: [c0, c1, c2, c3], out_channels, .. } = *self;
        let tap = |name: &str, channels, side| Tap { name: name.into(), shape: [channels, side, side] };
        let taps: [Tap; N_TAPS] = [
            tap("patch_embed", c0, input_size / 4),
            tap("layers.0", c0, input_size / 4),
            tap("layers.1", c1, input_size / 8),
            tap("layers.2", c2, input_size / 16),
            tap("layers.3", c3, input_size / 16),
            tap("embedding", out_channels, grid),
        ];
        taps.into()
    }

    /// Multiply-accumulates of one image whose embedding has `grid` cells a side; windows are counted with what is padded.
    pub fn macs(&self, grid: usize) -> u64 {
        let ([c0, c1, c2, c3], out) = (self.channels, self.out_channels);
        let cells = |stride: usize| (self.input_size / stride).pow(2);
        let stem = cells(2) * 27 * (c0 / 2) + cells(4) * 9 * (c0 / 2) * c0;
        let convolutions = self.blocks[0] * cells(4) * (8 * c0 * c0 + 9 * 4 * c0);
        let stage = |idx: usize, [ins, outs]: [usize; 2], [before, stride]: [usize; 2]| {
            let merge = cells(before) * ins * outs + cells(stride) * (9 * outs + outs * outs);
            let window = self.windows[idx];
            let windows = (self.input_size / stride).div_ceil(window).pow(2);
            let padded = windows * window * window;
            let attention = padded * (4 * outs * outs + 2 * window * window * outs);
            merge + self.blocks[idx + 1] * (attention + cells(stride) * (9 * outs + 8 * outs * outs))
        };
        let stages = stage(0, [c0, c1], [4, 8]) + stage(1, [c1, c2], [8, 16]) + stage(2, [c2, c3], [16, 16]);
        let neck = cells(16) * c3 * out + grid * grid * 9 * out * out;
        (stem + convolutions + stages + neck) as u64
    }
}

/// Points where features can be read.
const N_TAPS: usize = 6;

/// The encoder.
pub struct TinyVit {
    config: TinyVitConfig,
    /// Two convolutions of stride 2, the first ended by GELU.
    patch_embed: [Conv; 2],
    convolutions: Vec<ConvBlock>,
    merges: [Merge; 3],
    stages: [Vec<Block>; 3],
    neck: (Linear, LayerNorm, Conv, LayerNorm),
}

/// An inverted residual block, whose sum is ended by GELU: 1x1, depthwise 3x3, 1x1.
struct ConvBlock {
    expand: Linear,
    depthwise: Depthwise,
    project: Linear,
}

/// From one stage to the next: 1x1, depthwise 3x3 with the stride, 1x1.
struct Merge {
    expand: Linear,
    depthwise: Depthwise,
    project: Linear,
}

/// Attention in windows, a depthwise convolution without residual, and a two-layer perceptron.
struct Block {
    window: usize,
    heads: usize,
    norm: LayerNorm,
    qkv: Linear,
    /// `[heads, window^2, window^2]`.
    bias: Tensor<3>,
    proj: Linear,
    local: Depthwise,
    mlp_norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl TinyVit {
    /// Its layers, from tensors under their published names; batch norms may be fused or not.
    ///
    /// # Errors
    /// If a tensor is missing or of another shape.
    pub fn new(config: TinyVitConfig, scope: &Scope) -> Result<Self, SamError> {
        let [c0, c1, c2, c3] = config.channels;
        let patch = scope.at("patch_embed").at("seq");
        let patch_embed = [
            patch.at("0").conv_norm([3, c0 / 2, 3], 2, Then::Gelu)?,
            patch.at("2").conv_norm([c0 / 2, c0, 3], 2, Then::Nothing)?,
        ];
        let layers = scope.at("layers");
        let first = layers.at("0");
        let convolutions =
            (0..config.blocks[0]).map(|idx| ConvBlock::new(c0, &first.at("blocks").at(&idx.to_string())));
        let convolutions = convolutions.collect::<Result<_, _>>()?;
        // MobileSAM keeps the last stage at the size of the one before.
        let merges = [
            Merge::new([c0, c1], 2, &first.at("downsample"))?,
            Merge::new([c1, c2], 2, &layers.at("1").at("downsample"))?,
            Merge::new([c2, c3], 1, &layers.at("2").at("downsample"))?,
        ];
        let stage = |idx: usize| -> Result<Vec<Block>, SamError> {
            let blocks = layers.at(&(idx + 1).to_string()).at("blocks");
            let (channels, heads, window) = (config.channels[idx + 1], config.heads[idx], config.windows[idx]);
            (0..config.blocks[idx + 1])
                .map(|at| Block::new(channels, heads, window, &blocks.at(&at.to_string())))
                .collect()
        };
        let (neck, out) = (scope.at("neck"), config.out_channels);
        Ok(Self {
            patch_embed,
            convolutions,
            merges,
            stages: [stage(0)?, stage(1)?, stage(2)?],
            neck: (
                neck.at("0").pointwise(c3, out)?,
                neck.at("1").layer_norm(out, NECK_EPSILON, Then::Nothing)?,
                neck.at("2").conv(out, out, 3)?,
                neck.at("3").layer_norm(out, NECK_EPSILON, Then::Nothing)?,
            ),
            config,
        })
    }

    /// Where features can be read.
    pub fn taps(&self) -> Vec<Tap> {
        self.config.published_taps()
    }

    /// Normalised images `[image, side, side, 3]` to their embedding `[image, grid, grid, out_channels]`, and the features of the taps that
    /// were asked for, in that order.
    ///
    /// # Errors
    /// If there is no such tap.
    ///
    /// # Panics
    /// If the images are not of the network's size.
    pub fn forward(&self, images: Tensor<4>, taps: &[String]) -> Result<(Tensor<4>, Vec<Tensor<4>>), NetworkError> {
        let known = self.taps();
        let wanted = taps.iter().map(|name| find_tap(&known, name));
        let wanted = wanted.chain([Ok(known.len() - 1)]).collect::<Result<Vec<usize>, _>>()?;
        let mut found = self.features(images, &wanted, 1);
        let embedding = found.pop().expect("the embedding, which was asked for last");
        Ok((embedding, found))
    }

    /// The features of some taps, of [`taps`](Self::taps), in that order; before its last convolution the neck upsamples by `scale`.
    ///
    /// # Panics
    /// If the images are not of the network's size.
    pub(crate) fn features(&self, images: Tensor<4>, taps: &[usize], scale: usize) -> Vec<Tensor<4>> {
        let side = self.config.input_size;
        assert_eq!(images.dims()[1..], [side, side, 3], "TinyViT: images");
        let mut found: [Option<Tensor<4>>; N_TAPS] = Default::default();
        let mut keep = |idx: usize, x: &Tensor<4>| {
            if taps.contains(&idx) {
                found[idx] = Some(x.clone());
            }
        };
        let mut x = self.patch_embed[1].forward(self.patch_embed[0].forward(images));
        keep(0, &x);
        for block in &self.convolutions {
            x = block.forward(x);
        }
        keep(1, &x);
        for (idx, (merge, stage)) in self.merges.iter().zip(&self.stages).enumerate() {
            x = merge.forward(x);
            for block in stage {
                x = block.forward(x);
            }
            keep(2 + idx, &x);
        }
        let (pointwise, norm1, conv, norm2) = &self.neck;
        let x = enlarged(norm1.forward(pointwise.forward(x)), scale);
        let x = norm2.forward(conv.forward(x));
        keep(N_TAPS - 1, &x);
        taps.iter().map(|&idx| found[idx].clone().expect("every tap is passed")).collect()
    }
}

impl ConvBlock {
    fn new(channels: usize, scope: &Scope) -> Result<Self, SamError> {
        let wide = 4 * channels;
        Ok(Self {
            expand: scope.at("conv1").pointwise_norm(channels, wide, Then::Gelu)?,
            depthwise: scope.at("conv2").depthwise_norm(wide, 3, 1, Then::Gelu)?,
            project: scope.at("conv3").pointwise_norm(wide, channels, Then::Gelu)?,
        })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let wide = self.depthwise.forward(self.expand.forward(x.clone()));
        self.project.forward_onto(wide, x)
    }
}

impl Merge {
    fn new([ins, outs]: [usize; 2], stride: usize, scope: &Scope) -> Result<Self, SamError> {
        Ok(Self {
            expand: scope.at("conv1").pointwise_norm(ins, outs, Then::Gelu)?,
            depthwise: scope.at("conv2").depthwise_norm(outs, 3, stride, Then::Gelu)?,
            project: scope.at("conv3").pointwise_norm(outs, outs, Then::Nothing)?,
        })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.project.forward(self.depthwise.forward(self.expand.forward(x)))
    }
}

impl Block {
    fn new(channels: usize, heads: usize, window: usize, scope: &Scope) -> Result<Self, SamError> {
        let (attn, mlp, cells) = (scope.at("attn"), scope.at("mlp"), window * window);
        // One value for each distance of two cells, whichever way: |dy| * window + |dx|.
        let pairs = (0..cells).flat_map(|query| (0..cells).map(move |key| (query, key)));
        let distances = pairs.map(|(query, key)| {
            let dy = (query / window).abs_diff(key / window);
            (dy * window + (query % window).abs_diff(key % window)) as i32
        });
        let distances: Vec<i32> = distances.collect();
        let distances = Tensor::<1, Int>::from_data(TensorData::new(distances, [cells * cells]), scope.device());
        let bias: Tensor<2> = attn.tensor("attention_biases", [heads, cells])?.select(1, distances);
        Ok(Self {
            window,
            heads,
            norm: attn.at("norm").layer_norm(channels, TRUNK_EPSILON, Then::Nothing)?,
            qkv: attn.at("qkv").linear(channels, 3 * channels, Then::Nothing)?,
            bias: bias.reshape([heads, cells, cells]),
            proj: attn.at("proj").linear(channels, channels, Then::Nothing)?,
            local: scope.at("local_conv").depthwise_norm(channels, 3, 1, Then::Nothing)?,
            mlp_norm: mlp.at("norm").layer_norm(channels, TRUNK_EPSILON, Then::Nothing)?,
            fc1: mlp.at("fc1").linear(channels, 4 * channels, Then::Gelu)?,
            fc2: mlp.at("fc2").linear(4 * channels, channels, Then::Nothing)?,
        })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        // Cells beyond the map are zeros before the norm, so that after it they are its shift, and are attended to.
        let qkv = self.qkv.forward(self.norm.forward(cut_windows(x.clone(), self.window)));
        let [_, _, channels] = qkv.dims();
        let width = channels / 3 / self.heads;
        // Of each head its queries, keys and values, one after the other.
        let part = |idx: usize| HeadsOf { tokens: qkv.clone(), start: idx * width, stride: 3 * width };
        let size = AttentionSize { heads: self.heads, width, value_width: width };
        let scale = (width as f64).powf(-0.5);
        let attended = attention(size, [part(0), part(1), part(2)], scale, Some(self.bias.clone()));
        let x = self.local.forward(add_windows(self.proj.forward(attended), x, self.window));
        let wide = self.fc1.forward(self.mlp_norm.forward(x.clone()));
        self.fc2.forward_onto(wide, x)
    }
}

/// Of the layer norms within blocks.
const TRUNK_EPSILON: f64 = 1e-5;
/// Of the neck's.
const NECK_EPSILON: f64 = 1e-6;
