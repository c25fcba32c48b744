//! Pretraining of a plain vision transformer on masked images, by a decoder that is dropped afterwards.

use burn::tensor::{Device, Int, Tensor, TensorData};
use sensei_tensor::layers::{AttentionSize, HeadsOf, LayerNorm, Linear, Then, attention};
use sensei_tensor::masked::Reconstruct;
use sensei_tensor::network::{
    BatchStats, Inputs, NamedWeights, Network, NetworkError, Outputs, ParameterGroup, Pass, Tap,
};

use crate::error::SamError;
use crate::own_group::{group_named, group_of, tensors_of, with_tensors};
use crate::scope::{Scope, Tensors};
use crate::vit::{VitConfig, VitTrunk};
use crate::vit_student::TRUNK;
use crate::vit_weights::sine_positions;

/// The decoder.
///
/// # Source
/// EfficientSAM (arXiv 2312.00863), section 3.2: 8 blocks of 512 channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskedConfig {
    /// Channels of a token; a multiple of 4 and of `heads`.
    pub channels: usize,
    /// Heads of each attention.
    pub heads: usize,
    /// Blocks.
    pub blocks: usize,
    /// Values that the head says of each token.
    pub n_outputs: usize,
}

/// The encoder's trunk and the decoder: groups [`TRUNK`] and [`MASKED_DECODER`].
///
/// Queries are the tokens of hidden patches; keys and values are the visible patches' tokens and, as they are before each block, those of the
/// hidden ones. Visible tokens go through the decoder's first layer and around its blocks.
///
/// # Source
/// EfficientSAM (arXiv 2312.00863), section 3.2. What the paper leaves open is chosen so: keys and values of hidden patches are the current mask
/// tokens; visible tokens reach the head through the first layer alone.
pub struct MaskedVit {
    config: VitConfig,
    masked: MaskedConfig,
    device: Device,
    trunk: ParameterGroup,
    decoder: ParameterGroup,
    /// Of the network that this is a form of.
    structure_digest: String,
}

/// The group of the decoder.
pub const MASKED_DECODER: &str = "masked_decoder";

struct Decoder {
    embed: Linear,
    mask_token: Tensor<3>,
    /// `[1, token, channels]`.
    positions: Tensor<3>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Linear,
}

struct Block {
    heads: usize,
    norm_q: LayerNorm,
    norm_kv: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl MaskedVit {
    /// The network of the trunk's tensors, under their published names, and of the decoder's. `structure_digest` is that of the network which it
    /// will be once the decoder is dropped.
    ///
    /// # Errors
    /// If a tensor is missing, has another shape, is not finite or is not of this network.
    pub fn new(
        config: VitConfig,
        masked: MaskedConfig,
        trunk: &NamedWeights,
        decoder: &NamedWeights,
        structure_digest: String,
        device: &Device,
    ) -> Result<Self, SamError> {
        let plain = Device::flex();
        let of_trunk = Tensors::new("weights", trunk, &plain);
        VitTrunk::new(config.clone(), &of_trunk.root())?;
        of_trunk.finish(&[])?;
        let of_decoder = Tensors::new("masked decoder", decoder, &plain);
        Decoder::new(&config, &masked, &of_decoder.root())?;
        of_decoder.finish(&[])?;
        let (trunk, decoder) = (group_of(TRUNK, trunk, device), group_of(MASKED_DECODER, decoder, device));
        Ok(Self { config, masked, device: device.clone(), trunk, decoder, structure_digest })
    }

    fn own_group(&self, name: &str) -> Result<&ParameterGroup, NetworkError> {
        group_named([&self.trunk, &self.decoder], name)
    }

    fn trunk(&self) -> VitTrunk {
        let tensors = Tensors::of_parameters("trunk", &[&self.trunk], &self.device);
        VitTrunk::new(self.config.clone(), &tensors.root())
            .expect("parameters that were checked when the network was made")
    }

    fn decoder(&self) -> Decoder {
        let tensors = Tensors::of_parameters("masked decoder", &[&self.decoder], &self.device);
        let decoder = Decoder::new(&self.config, &self.masked, &tensors.root());
        decoder.expect("parameters that were checked when the network was made")
    }
}

impl Reconstruct for MaskedVit {
    fn token_grid(&self) -> usize {
        self.config.grid()
    }

    fn n_outputs(&self) -> usize {
        self.masked.n_outputs
    }

    fn reconstruct(&self, images: Tensor<4>, visible: &[Vec<usize>]) -> Tensor<3> {
        let [batch, ..] = images.dims();
        let n_tokens = self.config.grid() * self.config.grid();
        assert_eq!(visible.len(), batch, "masked ViT: visible patches of each image");
        let n_visible = visible[0].len();
        let is_some = |visible: &Vec<usize>| {
            visible.len() == n_visible && visible.is_sorted() && visible[n_visible - 1] < n_tokens
        };
        assert!((1..n_tokens).contains(&n_visible) && visible.iter().all(is_some), "masked ViT: visible patches");
        let hidden: Vec<Vec<usize>> = visible
            .iter()
            .map(|visible| (0..n_tokens).filter(|at| visible.binary_search(at).is_err()).collect())
            .collect();
        let (trunk, decoder) = (self.trunk(), self.decoder());
        let tokens = trunk.tokens(images.permute([0, 2, 3, 1]));
        let seen = decoder.embed.forward(trunk.blocks(picked(tokens, visible)));
        let places = decoder.positions.clone().expand([batch, n_tokens, self.masked.channels]);
        let seen = seen + picked(places.clone(), visible);
        let mut asked = picked(places, &hidden) + decoder.mask_token.clone();
        for block in &decoder.blocks {
            asked = block.forward(asked, seen.clone());
        }
        // Back in the order of the image.
        let order: Vec<Vec<usize>> = visible
            .iter()
            .zip(&hidden)
            .map(|(visible, hidden)| {
                let mut order = vec![0; n_tokens];
                visible.iter().chain(hidden).enumerate().for_each(|(at, &token)| order[token] = at);
                order
            })
            .collect();
        let all = picked(Tensor::cat(vec![seen, asked], 1), &order);
        decoder.head.forward(decoder.norm.forward(all))
    }

    fn patches(&self, images: Tensor<4>) -> Tensor<3> {
        self.trunk().patches(images.permute([0, 2, 3, 1]))
    }
}

/// Some tokens of each image, `[image, token, channels]`, in the order that is asked for.
fn picked(tokens: Tensor<3>, which: &[Vec<usize>]) -> Tensor<3> {
    let ([batch, _, channels], device) = (tokens.dims(), tokens.device());
    let n = which[0].len();
    let flat: Vec<i64> = which.iter().flatten().map(|&at| at as i64).collect();
    let indices: Tensor<3, Int> = Tensor::from_data(TensorData::new(flat, [batch, n, 1]), &device);
    tokens.gather(1, indices.expand([batch, n, channels]))
}

impl Decoder {
    fn new(config: &VitConfig, masked: &MaskedConfig, scope: &Scope) -> Result<Self, SamError> {
        let (width, grid) = (masked.channels, config.grid());
        let blocks = scope.at("blocks");
        let blocks = (0..masked.blocks).map(|idx| Block::new(masked, &blocks.at(&idx.to_string())));
        let positions = TensorData::new(sine_positions(grid, width), [1, grid * grid, width]);
        Ok(Self {
            embed: scope.at("embed").linear(config.channels, width, Then::Nothing)?,
            mask_token: scope.tensor("mask_token", [1, 1, width])?,
            positions: Tensor::from_data(positions, scope.device()),
            blocks: blocks.collect::<Result<_, _>>()?,
            norm: scope.at("norm").layer_norm(width, EPSILON, Then::Nothing)?,
            head: scope.at("head").linear(width, masked.n_outputs, Then::Nothing)?,
        })
    }
}

impl Block {
    fn new(MaskedConfig { channels, heads, .. }: &MaskedConfig, scope: &Scope) -> Result<Self, SamError> {
        let (attn, mlp, channels) = (scope.at("attn"), scope.at("mlp"), *channels);
        let into = |name: &str| attn.at(name).linear(channels, channels, Then::Nothing);
        let norm = |name: &str| scope.at(name).layer_norm(channels, EPSILON, Then::Nothing);
        Ok(Self {
            heads: *heads,
            norm_q: norm("norm_q")?,
            norm_kv: norm("norm_kv")?,
            query: into("q")?,
            key: into("k")?,
            value: into("v")?,
            proj: into("proj")?,
            norm2: norm("norm2")?,
            fc1: mlp.at("fc1").linear(channels, 4 * channels, Then::Gelu)?,
            fc2: mlp.at("fc2").linear(4 * channels, channels, Then::Nothing)?,
        })
    }

    fn forward(&self, asked: Tensor<3>, seen: Tensor<3>) -> Tensor<3> {
        let known = self.norm_kv.forward(Tensor::cat(vec![seen, asked.clone()], 1));
        let queries = self.query.forward(self.norm_q.forward(asked.clone()));
        let (keys, values) = (self.key.forward(known.clone()), self.value.forward(known));
        let width = queries.dims()[2] / self.heads;
        let heads = |tokens| HeadsOf { tokens, start: 0, stride: width };
        let size = AttentionSize { heads: self.heads, width, value_width: width };
        let attended = attention(size, [heads(queries), heads(keys), heads(values)], (width as f64).powf(-0.5), None);
        let asked = self.proj.forward_onto(attended, asked);
        let wide = self.fc1.forward(self.norm2.forward(asked.clone()));
        self.fc2.forward_onto(wide, asked)
    }
}

impl Network for MaskedVit {
    fn device(&self) -> &Device {
        &self.device
    }

    fn groups(&self) -> Vec<&ParameterGroup> {
        vec![&self.trunk, &self.decoder]
    }

    fn groups_mut(&mut self) -> Vec<&mut ParameterGroup> {
        vec![&mut self.trunk, &mut self.decoder]
    }

    fn tensors(&self, group: &str) -> NamedWeights {
        tensors_of(self.own_group(group).unwrap_or_else(|error| panic!("{error}")))
    }

    fn set_tensors(&mut self, group: &str, tensors: NamedWeights) -> Result<(), NetworkError> {
        let changed = with_tensors(self.own_group(group)?, tensors, &self.device)?;
        *(if group == TRUNK { &mut self.trunk } else { &mut self.decoder }) = changed;
        Ok(())
    }

    fn structure_digest(&self) -> String {
        self.structure_digest.clone()
    }

    fn min_train_batch(&self) -> usize {
        1
    }

    fn taps(&self) -> Vec<Tap> {
        vec![]
    }

    fn forward(&self, _inputs: Inputs<'_>, _pass: Pass) -> Result<Outputs, NetworkError> {
        Err(NetworkError::NoPrompts { network: "an encoder that is pretrained on masked images" })
    }

    fn masked(&self) -> Option<&dyn Reconstruct> {
        Some(self)
    }

    fn update_running_stats(&mut self, _stats: &[BatchStats]) {}

    fn to_device(&self, device: &Device) -> Box<dyn Network> {
        Box::new(Self {
            config: self.config.clone(),
            masked: self.masked,
            device: device.clone(),
            trunk: self.trunk.to_device(device),
            decoder: self.decoder.to_device(device),
            structure_digest: self.structure_digest.clone(),
        })
    }
}

/// Of all layer norms.
const EPSILON: f64 = 1e-6;
