//! An image encoder for SAM's mask decoder: the beginning of EfficientNet-Lite0 and a small feature pyramid, whose output is an embedding.

use serde::{Deserialize, Serialize};

use sensei_graph::layer_graph::{Conv, GraphBuilder, LayerGraph};
use sensei_graph::op::{Activation, Upsampling};

use crate::lite0::{ACTIVATION, BLOCKS, Encoder, encoder, n_halvings};
use crate::unet::depthwise_block;

/// How much of the encoder, and the pyramid's width.
///
/// # Source
/// Encoder: Tan and Le 2019, "EfficientNet", Lite variant. Pyramid: EdgeSAM (arXiv 2312.06660), section 3: 1x1 convolutions bring the last stages to
/// one width, coarse ones are upsampled by two and added. Deviations: as many stages as the grid needs, and depthwise blocks behind the last
/// sum, which EdgeSAM does not have.
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

/// The node that is the network's output, and the tap that distillation compares.
pub const EMBEDDING: &str = "embedding";

/// Channels of the embedding: SAM's.
pub const EMBEDDING_CHANNELS: usize = 256;

/// Side of the embedding in cells: that of SAM at 1024 x 1024.
///
/// A smaller grid costs masks far more than a smaller input does, and the published decoder was trained for this one.
pub const EMBEDDING_GRID: usize = 64;

/// A setting that no network can have.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LiteFpnError {
    /// More blocks than there are, or none.
    #[error("encoder_blocks: expected 1 to {most}, found {found}", most = BLOCKS)]
    Blocks {
        /// Blocks asked for.
        found: usize,
    },
    /// The embedding's grid must be one of the encoder's maps.
    #[error("input_size: expected one of {}, whose map of {grid} x {grid} {blocks} encoder blocks reach, found {found}",
        listed(expected), grid = EMBEDDING_GRID)]
    InputSize {
        /// The sizes that fit.
        expected: Vec<usize>,
        /// Blocks of the encoder.
        blocks: usize,
        /// The size given.
        found: usize,
    },
    /// A number outside of the supported range.
    #[error("{key}: expected {expected}, found {found}")]
    Range {
        /// Which.
        key: &'static str,
        /// Its range in words.
        expected: &'static str,
        /// The number.
        found: usize,
    },
}

impl LiteFpnConfig {
    /// The network of this setting. The encoder's tensors have the names of the published PyTorch weights behind
    /// [`ENCODER_PREFIX`](crate::lite0::ENCODER_PREFIX).
    ///
    /// # Errors
    /// If blocks, width or input size fit no network.
    pub fn graph(&self) -> Result<LayerGraph, LiteFpnError> {
        self.check()?;
        let mut g = GraphBuilder::new(3, self.input_size);
        let Encoder { output, mut skips } = encoder(&mut g, self.encoder_blocks);
        let mut size = self.input_size >> n_halvings(self.encoder_blocks);
        let mut x = self.lateral(&mut g, 0, output);
        let mut level = 0;
        while size < EMBEDDING_GRID {
            level += 1;
            let skip = skips.pop().expect("the encoder has a map of the embedding's grid: check");
            let up = g.upsample_2x(&format!("fpn{level}.up"), x, Upsampling::Nearest);
            let lateral = self.lateral(&mut g, level, skip);
            x = g.add(&format!("fpn{level}.add"), up, lateral);
            size *= 2;
        }
        for idx in 0..self.refine_blocks {
            x = depthwise_block(&mut g, &format!("refine{idx}"), x, self.pyramid_channels, ACTIVATION);
        }
        g.conv(EMBEDDING, x, Conv::new(self.pyramid_channels, EMBEDDING_CHANNELS, 1).with_bias());
        Ok(g.finish())
    }

    /// A map of the encoder at the pyramid's width.
    fn lateral(&self, g: &mut GraphBuilder, level: usize, input: usize) -> usize {
        let conv = Conv::new(g.channels(input), self.pyramid_channels, 1);
        g.conv(&format!("fpn{level}.0"), input, conv.norm(&format!("fpn{level}.1"), Activation::None))
    }

    fn check(&self) -> Result<(), LiteFpnError> {
        let Self { input_size, encoder_blocks, pyramid_channels, refine_blocks } = *self;
        if !(1..=BLOCKS).contains(&encoder_blocks) {
            return Err(LiteFpnError::Blocks { found: encoder_blocks });
        }
        // A map of the grid's size after 1 to all halvings, in inputs of up to 1024 pixels.
        let sizes = (1..=n_halvings(encoder_blocks)).map(|halvings| EMBEDDING_GRID << halvings);
        let expected: Vec<usize> = sizes.filter(|&size| size <= 1024).collect();
        if !expected.contains(&input_size) {
            return Err(LiteFpnError::InputSize { expected, blocks: encoder_blocks, found: input_size });
        }
        if !(1..=4096).contains(&pyramid_channels) {
            let (key, expected) = ("pyramid_channels", "1 to 4096");
            return Err(LiteFpnError::Range { key, expected, found: pyramid_channels });
        }
        if refine_blocks > 8 {
            return Err(LiteFpnError::Range { key: "refine_blocks", expected: "0 to 8", found: refine_blocks });
        }
        Ok(())
    }
}

fn listed(sizes: &[usize]) -> String {
    sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

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
