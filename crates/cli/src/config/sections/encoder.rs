//! The image encoder of a student that answers prompts.

use anyhow::{bail, ensure};
use schemars::JsonSchema;
use sensei_graph::layer_graph::LayerGraph;
use sensei_sam::encoder_student::ImageEncoder;
use sensei_sam::tiny_vit::TinyVitConfig;
use sensei_sam::tiny_vit_student::fresh_tiny_vit;
use sensei_sam::vit::VitConfig;
use sensei_sam::vit_weights::{fresh_neck, fresh_trunk};
use sensei_student::features::taps;
use sensei_student::lite_fpn::LiteFpnConfig;
use sensei_student::pyramid::{EMBEDDING_CHANNELS, EMBEDDING_GRID};
use sensei_student::rep_fpn::RepFpnConfig;
use sensei_tensor::network::{NamedWeights, Tap};
use serde::{Deserialize, Serialize};

/// An image encoder.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum EncoderToml {
    /// The beginning of EfficientNet-Lite0 and a small feature pyramid.
    LiteFpn {
        /// Side of the input in pixels: 128, 256, 512 or 1024. An image's longest side fills it.
        #[schemars(range(min = 128, max = 1024))]
        input_size: usize,
        /// Blocks of the encoder; 1, 3, 5, 8, 11, 15 and 16 are whole stages.
        #[schemars(range(min = 1, max = 16))]
        encoder_blocks: usize,
        /// Channels of the pyramid.
        #[schemars(range(min = 1, max = 4096))]
        pyramid_channels: usize,
        /// Depthwise blocks behind the pyramid.
        #[schemars(range(min = 0, max = 8))]
        refine_blocks: usize,
    },
    /// RepViT's blocks and a small feature pyramid, as EdgeSAM's encoder.
    RepFpn {
        /// Side of the input in pixels: 256, 512 or 1024. An image's longest side fills it.
        #[schemars(range(min = 256, max = 1024))]
        input_size: usize,
        /// Channels of the first stage, a multiple of 4; each of the others has twice those of the one before. RepViT-M1: 48.
        #[schemars(range(min = 4, max = 1024))]
        base_channels: usize,
        /// Blocks of the four stages. `rep_fpn`: without those that change the size; RepViT-M1: 3, 3, 15, 2. `tiny_vit`: the first stage's are
        /// convolutions; MobileSAM: 2, 2, 6, 2.
        #[schemars(inner(range(min = 1, max = 64)))]
        blocks: [usize; 4],
        /// Whether every other block weighs its channels (squeeze and excitation). Then no batch may have one image alone.
        squeeze: bool,
        /// Channels of the pyramid.
        #[schemars(range(min = 1, max = 4096))]
        pyramid_channels: usize,
        /// Depthwise blocks behind the pyramid.
        #[schemars(range(min = 0, max = 8))]
        refine_blocks: usize,
    },
    /// TinyViT, MobileSAM's encoder. It can start from MobileSAM's weights.
    TinyVit {
        /// Side of the input in pixels: 64, 128, 256, 512 or 1024. An image's longest side fills it.
        #[schemars(range(min = 64, max = 1024))]
        input_size: usize,
        /// Channels of the four stages, of the first an even number; MobileSAM: 64, 128, 160, 320.
        #[schemars(inner(range(min = 2, max = 4096)))]
        channels: [usize; 4],
        /// Blocks of the four stages. `rep_fpn`: without those that change the size; RepViT-M1: 3, 3, 15, 2. `tiny_vit`: the first stage's are
        /// convolutions; MobileSAM: 2, 2, 6, 2.
        #[schemars(inner(range(min = 1, max = 64)))]
        blocks: [usize; 4],
        /// Heads of the last three stages, which divide their channels; MobileSAM: 4, 5, 10.
        #[schemars(inner(range(min = 1, max = 64)))]
        heads: [usize; 3],
        /// Sides of the windows of the last three stages, in cells; MobileSAM: 7, 14, 7.
        #[schemars(inner(range(min = 1, max = 32)))]
        windows: [usize; 3],
    },
    /// A plain vision transformer, as EfficientSAM's. It can be pretrained on masked images.
    Vit {
        /// Side of the input in pixels: as many patches as divide 64, at most 64. An image's longest side fills it.
        #[schemars(range(min = 16, max = 1024))]
        input_size: usize,
        /// Side of a patch in pixels.
        #[schemars(range(min = 2, max = 64))]
        patch: usize,
        /// Channels of a token: a multiple of 4 and of the heads.
        #[schemars(range(min = 4, max = 4096))]
        channels: usize,
        /// Heads of each attention.
        #[schemars(range(min = 1, max = 64))]
        heads: usize,
        /// Blocks.
        #[schemars(range(min = 1, max = 64))]
        blocks: usize,
    },
}

/// A student's image encoder.
pub enum EncoderPlan {
    /// A network of convolutions.
    Graph(LayerGraph),
    /// TinyViT.
    TinyVit(TinyVitConfig),
    /// A plain vision transformer.
    Vit(VitConfig),
}

impl EncoderPlan {
    /// Side of the input in pixels.
    pub fn input_size(&self) -> usize {
        match self {
            Self::Graph(graph) => graph.input_size(),
            Self::TinyVit(config) => config.input_size,
            Self::Vit(config) => config.input_size,
        }
    }

    /// Points where its features can be read.
    pub fn taps(&self) -> Vec<Tap> {
        match self {
            Self::Graph(graph) => taps(graph),
            Self::TinyVit(config) => ImageEncoder::taps(config, EMBEDDING_GRID),
            Self::Vit(config) => ImageEncoder::taps(config, EMBEDDING_GRID),
        }
    }

    /// Parameters.
    pub fn parameters(&self) -> usize {
        let drawn = |tensors: NamedWeights| tensors.values().map(|tensor| tensor.values.len()).sum();
        match self {
            Self::Graph(graph) => graph.parameters(),
            Self::TinyVit(config) => drawn(fresh_tiny_vit(config, 0)),
            Self::Vit(config) => drawn(fresh_trunk(config, 0).into_iter().chain(fresh_neck(config, 0)).collect()),
        }
    }

    /// The smallest batch that can be trained on.
    pub fn min_train_batch(&self) -> usize {
        match self {
            Self::Graph(graph) => graph.min_train_batch(),
            Self::TinyVit(_) | Self::Vit(_) => 1,
        }
    }

    /// Multiply-accumulates of one image.
    pub fn macs(&self) -> u64 {
        match self {
            Self::Graph(graph) => graph.macs(),
            Self::TinyVit(config) => config.macs(EMBEDDING_GRID),
            Self::Vit(config) => config.macs(EMBEDDING_GRID),
        }
    }
}

impl EncoderToml {
    /// Whether published weights are known that it can start from.
    pub fn has_published_weights(&self) -> bool {
        matches!(self, Self::LiteFpn { .. } | Self::TinyVit { .. })
    }

    /// The encoder of this setting.
    ///
    /// # Errors
    /// If a number fits no network.
    pub fn resolve(self) -> anyhow::Result<EncoderPlan> {
        Ok(match self {
            Self::LiteFpn { input_size, encoder_blocks, pyramid_channels, refine_blocks } => {
                let config = LiteFpnConfig { input_size, encoder_blocks, pyramid_channels, refine_blocks };
                EncoderPlan::Graph(config.graph()?)
            }
            Self::RepFpn { input_size, base_channels, blocks, squeeze, pyramid_channels, refine_blocks } => {
                let config =
                    RepFpnConfig { input_size, base_channels, blocks, squeeze, pyramid_channels, refine_blocks };
                EncoderPlan::Graph(config.graph()?)
            }
            Self::TinyVit { input_size, channels, blocks, heads, windows } => {
                let grid = input_size / 16;
                ensure!(
                    input_size % 16 == 0 && (4..=EMBEDDING_GRID).contains(&grid) && EMBEDDING_GRID.is_multiple_of(grid),
                    "input_size: expected 64, 128, 256, 512 or 1024, found {input_size}"
                );
                check_each("channels", &channels, [2, 4096])?;
                check_each("blocks", &blocks, [1, 64])?;
                check_each("heads", &heads, [1, 64])?;
                check_each("windows", &windows, [1, 32])?;
                ensure!(
                    channels[0].is_multiple_of(2),
                    "channels: expected an even number first, found {}",
                    channels[0]
                );
                for (channels, heads) in channels[1..].iter().zip(heads) {
                    ensure!(
                        channels.is_multiple_of(heads),
                        "channels: expected a multiple of its stage's {heads} heads, found {channels}"
                    );
                }
                let out_channels = EMBEDDING_CHANNELS;
                EncoderPlan::TinyVit(TinyVitConfig { input_size, channels, blocks, heads, windows, out_channels })
            }
            Self::Vit { input_size, patch, channels, heads, blocks } => {
                let grid = input_size / patch;
                ensure!(
                    input_size % patch == 0 && grid > 0 && EMBEDDING_GRID.is_multiple_of(grid),
                    "input_size: expected as many patches of {patch} pixels as divide {EMBEDDING_GRID}, found {input_size} pixels"
                );
                check_width("channels", channels, heads)?;
                let (table_grid, out_channels) = (grid, EMBEDDING_CHANNELS);
                EncoderPlan::Vit(VitConfig { input_size, patch, table_grid, channels, heads, blocks, out_channels })
            }
        })
    }
}

/// Refuses a number of a list that is out of range, whose ends belong to it.
fn check_each(key: &str, found: &[usize], [least, most]: [usize; 2]) -> anyhow::Result<()> {
    match found.iter().find(|n| !(least..=most).contains(*n)) {
        Some(n) => bail!("{key}: expected {least} to {most}, found {n}"),
        None => Ok(()),
    }
}

/// Refuses channels that heads and positions cannot share.
///
/// # Errors
/// If it is another number, which `key` names.
pub fn check_width(key: &str, channels: usize, heads: usize) -> anyhow::Result<()> {
    ensure!(
        channels.is_multiple_of(4) && channels.is_multiple_of(heads),
        "{key}: expected a multiple of 4 and of {heads} heads, found {channels}"
    );
    Ok(())
}
