//! An image encoder for SAM's mask decoder: the beginning of EfficientNet-Lite0 and a small feature pyramid, whose output is an embedding.

use serde::{Deserialize, Serialize};

use sensei_graph::layer_graph::{GraphBuilder, LayerGraph};

use crate::lite0::{ACTIVATION, BLOCKS, Encoder, encoder, n_halvings};
use crate::pyramid::{EncoderError, Pyramid, check_input_size, check_range};

/// How much of the encoder, and the pyramid's width.
///
/// # Source
/// Tan and Le 2019, "EfficientNet", Lite variant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiteFpnConfig {
    /// Side of the square input in pixels.
    pub input_size: usize,
    /// Blocks of the encoder, of 16: 1, 3, 5, 8, 11, 15 and 16 are whole stages.
    pub encoder_blocks: usize,
    /// Channels of the pyramid.
    pub pyramid_channels: usize,
    /// Depthwise blocks behind the pyramid's last sum.
    pub refine_blocks: usize,
}

impl LiteFpnConfig {
    /// The network of this setting. The encoder's tensors have the names of the published PyTorch weights behind
    /// [`ENCODER_PREFIX`](crate::lite0::ENCODER_PREFIX).
    ///
    /// # Errors
    /// If blocks, width or input size fit no network.
    pub fn graph(&self) -> Result<LayerGraph, EncoderError> {
        let Self { input_size, encoder_blocks, pyramid_channels, refine_blocks } = *self;
        check_range("encoder_blocks", [1, BLOCKS], encoder_blocks)?;
        let n_halvings = n_halvings(encoder_blocks);
        check_input_size(1..=n_halvings, &format!("{encoder_blocks} encoder blocks"), input_size)?;
        let pyramid = Pyramid { channels: pyramid_channels, refine_blocks, activation: ACTIVATION };
        pyramid.check()?;
        let mut g = GraphBuilder::new(3, input_size);
        let Encoder { output, skips } = encoder(&mut g, encoder_blocks);
        Ok(pyramid.end(g, output, skips, input_size >> n_halvings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pyramid::EMBEDDING;

    fn small() -> LiteFpnConfig {
        LiteFpnConfig { input_size: 256, encoder_blocks: 11, pyramid_channels: 128, refine_blocks: 1 }
    }

    #[test]
    fn every_input_size_ends_at_sams_embedding() {
        for (input_size, encoder_blocks) in [(256, 11), (512, 11), (512, 16), (1024, 11), (128, 1)] {
            let graph = LiteFpnConfig { input_size, encoder_blocks, ..small() }.graph().expect("a valid setting");
            let last = graph.nodes().last().expect("nodes");
            let found = (last.name.as_str(), last.shape);
            assert_eq!(found, (EMBEDDING, [256, 64, 64]), "{input_size} pixels, {encoder_blocks} blocks");
        }
    }

    /// Encoder 700,768; laterals (112 + 40 + 24 + 6) * 128; block 128 * (9 + 2 + 128 + 2); embedding 129 * 256.
    #[test]
    fn parameters_are_the_sum_of_the_layers() {
        let graph = small().graph().expect("a valid setting");
        assert_eq!(graph.parameters(), 700_768 + 182 * 128 + 128 * 141 + 129 * 256);
    }

    #[test]
    fn a_setting_that_fits_no_network_is_refused() {
        let refused = |config: LiteFpnConfig| config.graph().err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(
            refused(LiteFpnConfig { input_size: 320, ..small() }),
            "input_size: expected one of 128, 256, 512, 1024, whose map of 64 x 64 11 encoder blocks reach, found 320"
        );
        assert_eq!(
            refused(LiteFpnConfig { encoder_blocks: 0, ..small() }),
            "encoder_blocks: expected 1 to 16, found 0"
        );
        assert_eq!(
            refused(LiteFpnConfig { pyramid_channels: 0, ..small() }),
            "pyramid_channels: expected 1 to 4096, found 0"
        );
        assert_eq!(refused(LiteFpnConfig { refine_blocks: 9, ..small() }), "refine_blocks: expected 0 to 8, found 9");
    }
}
