//! `[student]`: the network.

use anyhow::Context;
use schemars::JsonSchema;
use sensei_graph::layer_graph::LayerGraph;
use sensei_student::lite_unet::LiteUnetConfig;
use sensei_student::unet::{Downsampling, UnetActivation, UnetConfig};
use serde::{Deserialize, Serialize};

/// The student's network.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "family", rename_all = "snake_case", deny_unknown_fields)]
pub enum StudentToml {
    /// 1,262,818 parameters at 96 x 96, without further keys (arXiv 2506.18807).
    Picosam2 {},
    /// 1,371,418 parameters at 96 x 96, without further keys (arXiv 2603.11917).
    Picosam3 {},
    /// A U-Net of their kind, with all of these keys:
    Unet {
        /// Side of the input in pixels: a multiple of 2 to the power of the number of stages.
        #[schemars(range(min = 2, max = 1024))]
        input_size: usize,
        /// Channels of each stage; each ends in `downsampling`.
        #[schemars(length(min = 1, max = 6), inner(range(min = 1, max = 4096)))]
        encoder_channels: Vec<usize>,
        /// Channels of the bottleneck.
        #[schemars(range(min = 1, max = 4096))]
        bottleneck_channels: usize,
        /// Channels of each stage, deepest first; as many as encoder stages.
        #[schemars(length(min = 1, max = 6), inner(range(min = 1, max = 4096)))]
        decoder_channels: Vec<usize>,
        /// A second bottleneck block, its taps two pixels apart (PicoSAM3).
        dilated_bottleneck: bool,
        /// A sigmoid gate per channel from the global mean (PicoSAM3's "ECA").
        channel_gate: bool,
        /// A depthwise block before the last convolution (PicoSAM3).
        refine_head: bool,
        /// The decoder upsamples bilinearly with half-pixel centres, the only ones the converter takes; both papers' students repeat
        /// pixels.
        bilinear_upsampling: bool,
        /// What follows every batch norm. ReLU6 also cuts off above 6: that costs nothing on the chip, and bounds what 8 bits have to hold.
        activation: ActivationToml,
        /// How a stage ends.
        downsampling: DownsamplingToml,
    },
    /// A U-Net whose encoder is the beginning of EfficientNet-Lite0, which can start from ImageNet (`train.encoder_weights`), with all of
    /// these keys:
    LiteUnet {
        /// Side of the input in pixels: a multiple of 2 to the power of the number of decoder stages.
        #[schemars(range(min = 2, max = 1024))]
        input_size: usize,
        /// Blocks of the encoder; 1, 3, 5, 8, 11, 15 and 16 are whole stages. The stem and blocks 2, 4, 6 and 12 halve the map.
        #[schemars(range(min = 1, max = 16))]
        encoder_blocks: usize,
        /// Channels of each stage, deepest first; one for each halving.
        #[schemars(length(min = 1, max = 5), inner(range(min = 1, max = 4096)))]
        decoder_channels: Vec<usize>,
        /// Residual blocks at the end of each decoder stage, one number for each width: a depthwise 5 x 5 convolution, batch norm, ReLU6, a 1 x 1
        /// convolution and batch norm, added to what they read. Without it, none.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(length(min = 1, max = 5), inner(range(max = 8)))]
        decoder_blocks: Option<Vec<usize>>,
        /// The decoder upsamples bilinearly with half-pixel centres instead of repeating pixels.
        bilinear_upsampling: bool,
    },
}

/// `student.downsampling`.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DownsamplingToml {
    /// A dense 3 x 3 convolution of stride 2 (both papers).
    Dense,
    /// A depthwise 3 x 3 convolution of stride 2, batch norm, activation, then a 1 x 1 convolution with the same (MobileNet).
    Depthwise,
}

impl DownsamplingToml {
    fn resolve(self) -> Downsampling {
        match self {
            Self::Dense => Downsampling::Dense,
            Self::Depthwise => Downsampling::Depthwise,
        }
    }
}

/// `student.activation`.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActivationToml {
    /// `max(value, 0)`.
    Relu,
    /// `min(max(value, 0), 6)`.
    Relu6,
}

impl ActivationToml {
    fn resolve(self) -> UnetActivation {
        match self {
            Self::Relu => UnetActivation::Relu,
            Self::Relu6 => UnetActivation::Relu6,
        }
    }
}

impl StudentToml {
    /// The network's graph.
    ///
    /// # Errors
    /// If there is no such network.
    pub fn resolve(self) -> anyhow::Result<LayerGraph> {
        let unet = match self {
            Self::Picosam2 {} => UnetConfig::picosam2(),
            Self::Picosam3 {} => UnetConfig::picosam3(),
            Self::Unet {
                input_size,
                encoder_channels,
                bottleneck_channels,
                decoder_channels,
                dilated_bottleneck,
                channel_gate,
                refine_head,
                bilinear_upsampling,
                activation,
                downsampling,
            } => UnetConfig {
                input_size,
                encoder_channels,
                bottleneck_channels,
                decoder_channels,
                dilated_bottleneck,
                channel_gate,
                refine_head,
                bilinear_upsampling,
                activation: activation.resolve(),
                downsampling: downsampling.resolve(),
            },
            Self::LiteUnet { input_size, encoder_blocks, decoder_channels, decoder_blocks, bilinear_upsampling } => {
                let decoder_blocks = decoder_blocks.unwrap_or_default();
                let lite = LiteUnetConfig {
                    input_size,
                    encoder_blocks,
                    decoder_channels,
                    decoder_blocks,
                    bilinear_upsampling,
                };
                return lite.graph().context("[student]");
            }
        };
        unet.graph().context("[student]")
    }
}
