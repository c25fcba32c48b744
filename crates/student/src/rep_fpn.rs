//! An image encoder for SAM's mask decoder: RepViT's blocks and a small feature pyramid, whose output is an embedding.

use serde::{Deserialize, Serialize};

use sensei_graph::layer_graph::{Conv, GraphBuilder, LayerGraph};
use sensei_graph::op::Activation;

use crate::pyramid::{EncoderError, Pyramid, check_input_size, check_range};

/// Widths and depths. EdgeSAM's encoder, RepViT-M1, has 48 base channels and 3, 3, 15 and 2 blocks.
///
/// # Source
/// Wang et al. 2024, "RepViT" (arXiv 2307.09283); THU-MIG/RepViT `model/repvit.py`, `repvit_m0_9`. Deviations: ReLU for GELU, which the chip's
/// formats do not have. Of a block's three parallel branches the identity stays, and the 1x1 depthwise one is left out: it is part of the
/// 3x3 one. The first convolution of a squeeze has a batch norm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepFpnConfig {
    /// Side of the square input in pixels.
    pub input_size: usize,
    /// Channels of the first of four stages; each has twice those of the one before. A multiple of 4.
    pub base_channels: usize,
    /// Blocks of the four stages, without those that change the size.
    pub blocks: [usize; 4],
    /// Whether every other block weighs its channels (squeeze and excitation, a quarter of the channels).
    pub squeeze: bool,
    /// Channels of the pyramid.
    pub pyramid_channels: usize,
    /// Depthwise blocks behind the pyramid's last sum.
    pub refine_blocks: usize,
}

/// The activation of all blocks.
const ACTIVATION: Activation = Activation::Relu;

/// How often the stem halves the image.
const STEM_HALVINGS: usize = 2;

impl RepFpnConfig {
    /// The network of this setting.
    ///
    /// # Errors
    /// If blocks, widths or input size fit no network.
    pub fn graph(&self) -> Result<LayerGraph, EncoderError> {
        let Self { input_size, base_channels, blocks, pyramid_channels, refine_blocks, .. } = *self;
        check_range("base_channels", [4, 1024], base_channels)?;
        if !base_channels.is_multiple_of(4) {
            let expected = "a multiple of 4".into();
            return Err(EncoderError::Range { key: "base_channels", expected, found: base_channels });
        }
        for n in blocks {
            check_range("blocks", [1, 64], n)?;
        }
        let pyramid = Pyramid { channels: pyramid_channels, refine_blocks, activation: ACTIVATION };
        pyramid.check()?;
        let n_halvings = STEM_HALVINGS + blocks.len() - 1;
        check_input_size(STEM_HALVINGS..=n_halvings, "four stages", input_size)?;

        let mut g = GraphBuilder::new(3, input_size);
        let half = Conv::new(3, base_channels / 2, 3).stride(2).norm("stem.0.bn", ACTIVATION);
        let x = g.conv("stem.0.c", 0, half);
        let quarter = Conv::new(base_channels / 2, base_channels, 3).stride(2).norm("stem.1.bn", Activation::None);
        let mut x = g.conv("stem.1.c", x, quarter);
        let mut larger = vec![];
        for (stage, &n_blocks) in blocks.iter().enumerate() {
            if stage > 0 {
                larger.push(x);
                x = change_size(&mut g, &format!("change{stage}"), x);
            }
            for idx in 0..n_blocks {
                let squeeze = self.squeeze && idx % 2 == 0;
                x = block(&mut g, &format!("stage{stage}.{idx}"), x, squeeze);
            }
        }
        Ok(pyramid.end(g, x, larger, input_size >> n_halvings))
    }
}

/// A block: pixels are mixed within channels, then channels within pixels.
fn block(g: &mut GraphBuilder, name: &str, input: usize, squeeze: bool) -> usize {
    let channels = g.channels(input);
    let depthwise = Conv::new(channels, channels, 3).depthwise();
    let mixed = depthwise.norm(&format!("{name}.token_mixer.bn"), Activation::None);
    let mixed = g.conv(&format!("{name}.token_mixer.c"), input, mixed);
    let mut x = g.add(&format!("{name}.token_mixer.add"), mixed, input);
    if squeeze {
        x = weigh_channels(g, &format!("{name}.squeeze"), x);
    }
    channel_mixer(g, name, x)
}

/// To half the size and twice the channels.
fn change_size(g: &mut GraphBuilder, name: &str, input: usize) -> usize {
    let channels = g.channels(input);
    let depthwise = Conv::new(channels, channels, 3).depthwise().stride(2);
    let x = g.conv(
        &format!("{name}.depthwise.c"),
        input,
        depthwise.norm(&format!("{name}.depthwise.bn"), Activation::None),
    );
    let widen = Conv::new(channels, 2 * channels, 1).norm(&format!("{name}.widen.bn"), Activation::None);
    let x = g.conv(&format!("{name}.widen.c"), x, widen);
    channel_mixer(g, name, x)
}

/// Two 1x1 convolutions, the first to twice the channels; the input is added.
fn channel_mixer(g: &mut GraphBuilder, name: &str, input: usize) -> usize {
    let channels = g.channels(input);
    let widen = Conv::new(channels, 2 * channels, 1).norm(&format!("{name}.channel_mixer.0.bn"), ACTIVATION);
    let x = g.conv(&format!("{name}.channel_mixer.0.c"), input, widen);
    let narrow = Conv::new(2 * channels, channels, 1).norm(&format!("{name}.channel_mixer.1.bn"), Activation::None);
    let x = g.conv(&format!("{name}.channel_mixer.1.c"), x, narrow);
    g.add(&format!("{name}.channel_mixer.add"), x, input)
}

/// Each channel times a factor in 0..1 that follows from the means of all.
fn weigh_channels(g: &mut GraphBuilder, name: &str, input: usize) -> usize {
    let channels = g.channels(input);
    let narrow = channels / 4;
    let x = g.global_average_pool(&format!("{name}.mean"), input);
    let reduce = Conv::new(channels, narrow, 1).norm(&format!("{name}.reduce.bn"), ACTIVATION);
    let x = g.conv(&format!("{name}.reduce.c"), x, reduce);
    let x = g.conv(&format!("{name}.expand.c"), x, Conv::new(narrow, channels, 1).with_bias());
    let factor = g.sigmoid(&format!("{name}.factor"), x);
    g.scale_channels(&format!("{name}.scale"), input, factor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pyramid::EMBEDDING;

    fn small() -> RepFpnConfig {
        RepFpnConfig {
            input_size: 256,
            base_channels: 16,
            blocks: [1, 1, 2, 1],
            squeeze: true,
            pyramid_channels: 32,
            refine_blocks: 0,
        }
    }

    #[test]
    fn every_input_size_ends_at_sams_embedding() {
        for input_size in [256, 512, 1024] {
            let graph = RepFpnConfig { input_size, ..small() }.graph().expect("a valid setting");
            let last = graph.nodes().last().expect("nodes");
            assert_eq!((last.name.as_str(), last.shape), (EMBEDDING, [256, 64, 64]), "{input_size} pixels");
        }
    }

    /// Of one block of `c` channels: depthwise 9c and norm 2c; 1x1 of 2c^2 and norm 4c, 1x1 of 2c^2 and norm 2c.
    #[test]
    fn parameters_are_the_sum_of_the_layers() {
        let one = RepFpnConfig { blocks: [1, 1, 1, 1], squeeze: false, ..small() }.graph().expect("a valid setting");
        let two = RepFpnConfig { blocks: [2, 1, 1, 1], squeeze: false, ..small() }.graph().expect("a valid setting");
        let c = 16;
        assert_eq!(two.parameters() - one.parameters(), 4 * c * c + (9 + 2 + 4 + 2) * c);
        let squeezed = RepFpnConfig { blocks: [1, 1, 1, 1], ..small() }.graph().expect("a valid setting");
        // Per stage of c channels: 1x1 to c / 4 and its norm, 1x1 back with a bias.
        let of_squeeze = |c: usize| c * c / 4 + c / 2 + c * c / 4 + c;
        assert_eq!(squeezed.parameters() - one.parameters(), [16, 32, 64, 128].map(of_squeeze).iter().sum::<usize>());
    }

    /// EdgeSAM gives 9.6 million parameters with the decoder, whose 4.06 million are SAM's, at 1024 x 1024.
    #[test]
    fn edgesams_encoder_has_about_its_parameters() {
        let config = RepFpnConfig {
            input_size: 1024,
            base_channels: 48,
            blocks: [3, 3, 15, 2],
            squeeze: true,
            pyramid_channels: 256,
            refine_blocks: 0,
        };
        let parameters = config.graph().expect("a valid setting").parameters();
        assert!((4_500_000..5_800_000).contains(&parameters), "{parameters}");
    }

    #[test]
    fn a_setting_that_fits_no_network_is_refused() {
        let refused = |config: RepFpnConfig| config.graph().err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(
            refused(RepFpnConfig { input_size: 128, ..small() }),
            "input_size: expected one of 256, 512, 1024, whose map of 64 x 64 four stages reach, found 128"
        );
        assert_eq!(
            refused(RepFpnConfig { base_channels: 18, ..small() }),
            "base_channels: expected a multiple of 4, found 18"
        );
        assert_eq!(refused(RepFpnConfig { blocks: [1, 0, 1, 1], ..small() }), "blocks: expected 1 to 64, found 0");
    }
}
