//! The depthwise U-Net family: PicoSAM2 and PicoSAM3 are two settings of it.

use serde::{Deserialize, Serialize};

use sensei_graph::layer_graph::{Conv, GraphBuilder, LayerGraph};
use sensei_graph::op::{Activation, Upsampling};

/// Widths and options of one student. All sizes in channels unless said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnetConfig {
    /// Side of the square input in pixels; a multiple of `2^encoder_channels.len()`.
    pub input_size: usize,
    /// One width per encoder stage; each stage but the bottleneck is followed by [`downsampling`](Self::downsampling).
    pub encoder_channels: Vec<usize>,
    /// Width of the bottleneck.
    pub bottleneck_channels: usize,
    /// One width per decoder stage, deepest first; as many as encoder stages.
    pub decoder_channels: Vec<usize>,
    /// A second bottleneck block whose depthwise taps are two pixels apart (PicoSAM3).
    pub dilated_bottleneck: bool,
    /// A sigmoid gate per channel from the global mean (PicoSAM3's "ECA").
    pub channel_gate: bool,
    /// A depthwise 3x3 block before the last 1x1 convolution (PicoSAM3) instead of that convolution alone.
    pub refine_head: bool,
    /// Bilinear upsampling in the decoder instead of nearest, which both published students have. A weights file from before there
    /// was the choice does not tell it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bilinear_upsampling: bool,
    /// What follows each batch norm. A weights file from before there was the choice does not tell it.
    #[serde(default = "UnetActivation::relu", skip_serializing_if = "UnetActivation::is_relu")]
    pub activation: UnetActivation,
    /// How each encoder stage ends. A weights file from before there was the choice does not tell it.
    #[serde(default = "Downsampling::dense", skip_serializing_if = "Downsampling::is_dense")]
    pub downsampling: Downsampling,
}

/// How an encoder stage halves height and width, at the same width in channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Downsampling {
    /// A 3x3 convolution of stride 2 that mixes all channels: both published students.
    Dense,
    /// A depthwise block whose 3x3 convolution has stride 2: about an eighth of the products and weights.
    ///
    /// # Source
    /// Howard et al. 2017, "MobileNets", table 1.
    Depthwise,
}

impl Downsampling {
    fn dense() -> Self {
        Self::Dense
    }

    fn is_dense(&self) -> bool {
        *self == Self::Dense
    }
}

/// What follows the batch norms of a U-Net.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnetActivation {
    /// The greater of each value and 0: both published students.
    Relu,
    /// The same, cut off at 6.
    ///
    /// # Source
    /// Howard et al. 2017, "MobileNets", and its code: a range that 8 bits hold whatever the training does.
    Relu6,
}

impl UnetActivation {
    /// What a graph calls it.
    fn of_graph(self) -> Activation {
        match self {
            Self::Relu => Activation::Relu,
            Self::Relu6 => Activation::Relu6,
        }
    }

    fn relu() -> Self {
        Self::Relu
    }

    fn is_relu(&self) -> bool {
        *self == Self::Relu
    }
}

/// A width or size that no network can have.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnetError {
    /// Encoder and decoder must have as many stages.
    #[error("decoder_channels: expected {expected} widths, one per encoder stage, found {found}")]
    DecoderStages {
        /// Encoder stages.
        expected: usize,
        /// Decoder widths given.
        found: usize,
    },
    /// The input must halve evenly at each stage.
    #[error(
        "input_size: expected a multiple of {multiple} (2 per encoder stage) between {multiple} and 1024, found {found}"
    )]
    InputSize {
        /// Two to the number of stages.
        multiple: usize,
        /// The size given.
        found: usize,
    },
    /// A width outside of the supported range.
    #[error("{key}: expected widths between 1 and 4096 and 1 to 6 stages, found {found:?}")]
    Width {
        /// The key.
        key: &'static str,
        /// The widths given.
        found: Vec<usize>,
    },
}

impl UnetConfig {
    /// PicoSAM2 at 96 x 96: 1,262,818 parameters, 323.05 M multiply-accumulates.
    ///
    /// # Source
    /// arXiv 2506.18807; pbonazzi/picosam2 `picosam2_model_distillation.py`, class `PicoSAM2`.
    pub fn picosam2() -> Self {
        Self {
            input_size: 96,
            encoder_channels: vec![48, 96, 160, 256],
            bottleneck_channels: 320,
            decoder_channels: vec![192, 128, 80, 40],
            dilated_bottleneck: false,
            channel_gate: false,
            refine_head: false,
            bilinear_upsampling: false,
            activation: UnetActivation::Relu,
            downsampling: Downsampling::Dense,
        }
    }

    /// PicoSAM3 at 96 x 96: 1,371,418 parameters, 330.2 M multiply-accumulates.
    ///
    /// # Source
    /// arXiv 2603.11917; picosam3 `model_compression/model.py`, class `PicoSAM3`.
    pub fn picosam3() -> Self {
        Self { dilated_bottleneck: true, channel_gate: true, refine_head: true, ..Self::picosam2() }
    }

    /// The network of this setting, with the published PyTorch names.
    ///
    /// # Errors
    /// If widths or input size fit no network.
    pub fn graph(&self) -> Result<LayerGraph, UnetError> {
        self.check()?;
        let mut g = GraphBuilder::new(3, self.input_size);
        let n_stages = self.encoder_channels.len();
        let activation = self.activation.of_graph();

        let mut x = 0;
        let mut skips = Vec::new();
        for (idx, &channels) in self.encoder_channels.iter().enumerate() {
            let stage = idx + 1;
            let features = depthwise_block(&mut g, &format!("encoder_stage{stage}"), x, channels, activation);
            skips.push(features);
            let name = format!("down{stage}");
            x = match self.downsampling {
                Downsampling::Dense => g.conv(&name, features, Conv::new(channels, channels, 3).stride(2)),
                Downsampling::Depthwise => strided_block(&mut g, &name, features, [channels, 2], activation),
            };
        }

        let width = self.bottleneck_channels;
        x = if self.dilated_bottleneck {
            let x = depthwise_block(&mut g, "bottleneck.0", x, width, activation);
            let dilated = Conv::new(width, width, 3).depthwise().dilation(2).norm("bottleneck.2", activation);
            let x = g.conv("bottleneck.1", x, dilated);
            g.conv("bottleneck.4", x, Conv::new(width, width, 1).norm("bottleneck.5", activation))
        } else {
            depthwise_block(&mut g, "bottleneck", x, width, activation)
        };

        let upsampling = if self.bilinear_upsampling { Upsampling::Bilinear } else { Upsampling::Nearest };
        for (idx, &channels) in self.decoder_channels.iter().enumerate() {
            let (stage, skip_stage) = (idx + 1, n_stages - idx);
            let up = g.upsample_2x(&format!("up{stage}.0"), x, upsampling);
            let up = depthwise_block(&mut g, &format!("up{stage}.1"), up, channels, activation);
            let skip = skips[skip_stage - 1];
            let skip_conv = Conv::new(g.channels(skip), channels, 1).with_bias();
            let skip = g.conv(&format!("skip_conn{skip_stage}"), skip, skip_conv);
            x = g.add(&format!("add{stage}"), up, skip);
        }

        let width = g.channels(x);
        if self.channel_gate {
            let mean = g.global_average_pool("eca.avg_pool", x);
            let gate = g.conv("eca.conv1x1", mean, Conv::new(width, width, 1));
            let gate = g.sigmoid("eca.sigmoid", gate);
            x = g.scale_channels("eca", x, gate);
        }
        if self.refine_head {
            let x = g.conv("refine.0", x, Conv::new(width, width, 3).depthwise().norm("refine.1", activation));
            g.conv("refine.3", x, Conv::new(width, 1, 1).with_bias());
        } else {
            g.conv("output_head", x, Conv::new(width, 1, 1).with_bias());
        }
        Ok(g.finish())
    }

    fn check(&self) -> Result<(), UnetError> {
        for (key, widths) in [
            ("encoder_channels", &self.encoder_channels),
            ("bottleneck_channels", &vec![self.bottleneck_channels]),
            ("decoder_channels", &self.decoder_channels),
        ] {
            if widths.is_empty() || widths.len() > 6 || widths.iter().any(|width| !(1..=4096).contains(width)) {
                return Err(UnetError::Width { key, found: widths.clone() });
            }
        }
        let (expected, found) = (self.encoder_channels.len(), self.decoder_channels.len());
        if expected != found {
            return Err(UnetError::DecoderStages { expected, found });
        }
        let multiple = 1 << expected;
        if self.input_size == 0 || !self.input_size.is_multiple_of(multiple) || self.input_size > 1024 {
            return Err(UnetError::InputSize { multiple, found: self.input_size });
        }
        Ok(())
    }
}

/// Depthwise 3x3, batch norm, activation, 1x1, batch norm, activation; named like the `nn.Sequential` it comes from.
pub(crate) fn depthwise_block(
    g: &mut GraphBuilder,
    name: &str,
    input: usize,
    out_channels: usize,
    activation: Activation,
) -> usize {
    strided_block(g, name, input, [out_channels, 1], activation)
}

/// [`depthwise_block`] with a step between its output's pixels.
fn strided_block(
    g: &mut GraphBuilder,
    name: &str,
    input: usize,
    [out_channels, stride]: [usize; 2],
    activation: Activation,
) -> usize {
    let channels = g.channels(input);
    let depthwise = Conv::new(channels, channels, 3).depthwise().stride(stride).norm(&format!("{name}.1"), activation);
    let x = g.conv(&format!("{name}.0"), input, depthwise);
    let pointwise = Conv::new(channels, out_channels, 1).norm(&format!("{name}.4"), activation);
    g.conv(&format!("{name}.3"), x, pointwise)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picosam2_has_the_published_size() {
        let graph = UnetConfig::picosam2().graph().expect("a valid setting");
        assert_eq!(graph.parameters(), 1_262_818);
        assert_eq!(graph.macs(), 323_053_056);
    }

    #[test]
    fn picosam3_has_the_published_size() {
        let graph = UnetConfig::picosam3().graph().expect("a valid setting");
        assert_eq!(graph.parameters(), 1_371_418);
        assert_eq!(graph.macs() / 100_000, 3_301);
    }

    #[test]
    fn a_setting_from_before_an_option_is_read_and_written_as_it_was() {
        let published = UnetConfig::picosam3();
        let json = serde_json::to_string(&published).expect("plain data");
        let with_options = UnetConfig {
            bilinear_upsampling: true,
            activation: UnetActivation::Relu6,
            downsampling: Downsampling::Depthwise,
            ..published.clone()
        };
        let later = serde_json::to_string(&with_options).expect("plain data");
        for option in ["bilinear_upsampling", "activation", "downsampling"] {
            assert!(!json.contains(option) && later.contains(option), "{json} {later}");
        }
        for (json, config) in [(json, published), (later, with_options)] {
            assert_eq!(serde_json::from_str::<UnetConfig>(&json).expect("our own text"), config);
        }
    }

    #[test]
    fn a_network_without_relu6_has_the_digest_that_it_had() {
        let digest = |config: UnetConfig| config.graph().expect("a valid setting").digest();
        // The network of configs/ci-regression.toml; the digest is in a weights file from before there was the choice.
        let config = UnetConfig {
            input_size: 48,
            encoder_channels: vec![16, 24, 32, 48],
            bottleneck_channels: 64,
            decoder_channels: vec![48, 32, 24, 16],
            dilated_bottleneck: true,
            channel_gate: true,
            refine_head: true,
            ..UnetConfig::picosam2()
        };
        let relu6 = UnetConfig { activation: UnetActivation::Relu6, ..config.clone() };
        let before = "007cf0cf576e8c5e1179f33d590101202ffef62ead6e77f29b8881fc7726f562";
        assert_eq!(digest(config), before);
        assert_ne!(digest(relu6), before);
    }

    #[test]
    fn a_bottleneck_of_one_pixel_needs_two_images() {
        let tiny = UnetConfig { input_size: 16, ..UnetConfig::picosam2() };
        assert_eq!(tiny.graph().expect("a valid setting").min_train_batch(), 2);
        assert_eq!(UnetConfig::picosam2().graph().expect("a valid setting").min_train_batch(), 1);
    }

    #[test]
    fn a_setting_that_fits_no_network_is_refused() {
        let odd = UnetConfig { input_size: 100, ..UnetConfig::picosam2() };
        assert!(matches!(odd.graph(), Err(UnetError::InputSize { multiple: 16, found: 100 })));
        let short = UnetConfig { decoder_channels: vec![8], ..UnetConfig::picosam2() };
        assert!(matches!(short.graph(), Err(UnetError::DecoderStages { expected: 4, found: 1 })));
        let none = UnetConfig { encoder_channels: vec![], ..UnetConfig::picosam2() };
        assert!(matches!(none.graph(), Err(UnetError::Width { key: "encoder_channels", .. })));
    }
}
