//! A U-Net whose encoder is the beginning of EfficientNet-Lite0, so that it can start from weights that were trained on ImageNet.

use serde::{Deserialize, Serialize};

use sensei_graph::layer_graph::{Conv, GraphBuilder, LayerGraph};
use sensei_graph::op::{Activation, Upsampling};

use crate::lite0::{ACTIVATION, BLOCKS, Encoder, encoder, n_halvings};
use crate::unet::depthwise_block;

/// How much of the encoder, and the decoder's widths.
///
/// # Source
/// Encoder: Tan and Le 2019, "EfficientNet", and the Lite variants of its code: no squeeze-and-excitation, ReLU6 instead of swish, the
/// stem's width not scaled. Decoder: the depthwise blocks and skip connections of PicoSAM2, with ReLU6.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiteUnetConfig {
    /// Side of the square input in pixels; a multiple of two to the number of decoder stages.
    pub input_size: usize,
    /// Blocks of the encoder, of 16: 1, 3, 5, 8, 11, 15 and 16 are whole stages.
    pub encoder_blocks: usize,
    /// One width per upsampling, deepest first, so that the output has the input's size.
    pub decoder_channels: Vec<usize>,
    /// Residual blocks at the end of each decoder stage, as many numbers as widths; empty for none. At small sizes a block sees far and costs
    /// little.
    pub decoder_blocks: Vec<usize>,
    /// Bilinear upsampling in the decoder instead of nearest.
    pub bilinear_upsampling: bool,
}

/// More of them at one size would be another kind of network.
const MOST_DECODER_BLOCKS: usize = 8;

/// A setting that no network can have.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LiteUnetError {
    /// More blocks than there are, or none.
    #[error("encoder_blocks: expected 1 to {most}, found {found}", most = BLOCKS)]
    Blocks {
        /// Blocks asked for.
        found: usize,
    },
    /// The output must have the input's size.
    #[error(
        "decoder_channels: expected {expected} widths, one for each halving of {blocks} encoder blocks, found {found}"
    )]
    DecoderStages {
        /// Halvings of the encoder.
        expected: usize,
        /// Blocks of it.
        blocks: usize,
        /// Widths given.
        found: usize,
    },
    /// A width outside of the supported range.
    #[error("decoder_channels: expected widths between 1 and 4096, found {found:?}")]
    Width {
        /// The widths given.
        found: Vec<usize>,
    },
    /// One number for each decoder stage, none of them large.
    #[error(
        "decoder_blocks: expected {expected} numbers from 0 to {MOST_DECODER_BLOCKS}, one for each width, found {found:?}"
    )]
    DecoderBlocks {
        /// Decoder stages.
        expected: usize,
        /// The numbers given.
        found: Vec<usize>,
    },
    /// The input must halve evenly.
    #[error("input_size: expected a multiple of {multiple} between {multiple} and 1024, found {found}")]
    InputSize {
        /// Two to the number of halvings.
        multiple: usize,
        /// The size given.
        found: usize,
    },
}

impl LiteUnetConfig {
    /// The network of this setting. The encoder's tensors have the names of the published PyTorch weights behind [`ENCODER_PREFIX`](crate::lite0::ENCODER_PREFIX).
    ///
    /// # Errors
    /// If blocks, widths or input size fit no network.
    pub fn graph(&self) -> Result<LayerGraph, LiteUnetError> {
        self.check()?;
        let mut g = GraphBuilder::new(3, self.input_size);
        let Encoder { output: mut x, mut skips } = encoder(&mut g, self.encoder_blocks);
        let upsampling = if self.bilinear_upsampling { Upsampling::Bilinear } else { Upsampling::Nearest };
        for (idx, &channels) in self.decoder_channels.iter().enumerate() {
            let stage = idx + 1;
            let up = g.upsample_2x(&format!("up{stage}.0"), x, upsampling);
            let up = depthwise_block(&mut g, &format!("up{stage}.1"), up, channels, ACTIVATION);
            x = match skips.pop() {
                Some(skip) => {
                    let skip_conv = Conv::new(g.channels(skip), channels, 1).with_bias();
                    let skip = g.conv(&format!("skip_conn{stage}"), skip, skip_conv);
                    g.add(&format!("add{stage}"), up, skip)
                }
                None => up,
            };
            for block in 0..self.decoder_blocks.get(idx).copied().unwrap_or(0) {
                x = residual_block(&mut g, &format!("up{stage}.block{block}"), x);
            }
        }
        let width = g.channels(x);
        let x = g.conv("refine.0", x, Conv::new(width, width, 3).depthwise().norm("refine.1", ACTIVATION));
        g.conv("refine.3", x, Conv::new(width, 1, 1).with_bias());
        Ok(g.finish())
    }

    fn check(&self) -> Result<(), LiteUnetError> {
        let Self { input_size, encoder_blocks, ref decoder_channels, .. } = *self;
        if !(1..=BLOCKS).contains(&encoder_blocks) {
            return Err(LiteUnetError::Blocks { found: encoder_blocks });
        }
        let (expected, found) = (n_halvings(encoder_blocks), decoder_channels.len());
        if expected != found {
            return Err(LiteUnetError::DecoderStages { expected, blocks: encoder_blocks, found });
        }
        if decoder_channels.iter().any(|width| !(1..=4096).contains(width)) {
            return Err(LiteUnetError::Width { found: decoder_channels.clone() });
        }
        let blocks = &self.decoder_blocks;
        let is_one_each = blocks.is_empty() || blocks.len() == decoder_channels.len();
        if !is_one_each || blocks.iter().any(|&n| n > MOST_DECODER_BLOCKS) {
            return Err(LiteUnetError::DecoderBlocks { expected: decoder_channels.len(), found: blocks.clone() });
        }
        let multiple = 1 << expected;
        if input_size == 0 || !input_size.is_multiple_of(multiple) || input_size > 1024 {
            return Err(LiteUnetError::InputSize { multiple, found: input_size });
        }
        Ok(())
    }
}

/// Depthwise 5x5, batch norm, activation, 1x1 and batch norm, added to what it reads: an inverted residual block of expansion 1.
fn residual_block(g: &mut GraphBuilder, name: &str, input: usize) -> usize {
    let channels = g.channels(input);
    let depthwise = Conv::new(channels, channels, 5).depthwise().norm(&format!("{name}.1"), ACTIVATION);
    let x = g.conv(&format!("{name}.0"), input, depthwise);
    let x =
        g.conv(&format!("{name}.3"), x, Conv::new(channels, channels, 1).norm(&format!("{name}.4"), Activation::None));
    g.add(&format!("{name}.add"), x, input)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lite0::ENCODER_PREFIX;

    fn five_stages() -> LiteUnetConfig {
        LiteUnetConfig {
            input_size: 96,
            encoder_blocks: 11,
            decoder_channels: vec![96, 64, 48, 32],
            decoder_blocks: vec![],
            bilinear_upsampling: true,
        }
    }

    /// Sums over the published network: 700,768 parameters after stage 5, 44.7 M multiply-accumulates at 96 x 96.
    #[test]
    fn the_encoder_has_the_published_size() {
        let graph = five_stages().graph().expect("a valid setting");
        let encoder: Vec<_> = graph.nodes().iter().filter(|node| node.name.starts_with(ENCODER_PREFIX)).collect();
        assert_eq!(encoder.iter().map(|node| node.parameters()).sum::<usize>(), 700_768);
        assert_eq!((encoder.iter().map(|node| node.macs()).sum::<u64>() + 50_000) / 100_000, 447);
        let whole = LiteUnetConfig { encoder_blocks: 16, decoder_channels: vec![8; 5], ..five_stages() };
        let whole = whole.graph().expect("a valid setting");
        let encoder = whole.nodes().iter().filter(|node| node.name.starts_with(ENCODER_PREFIX));
        assert_eq!(encoder.map(|node| node.parameters()).sum::<usize>(), 2_958_848);
    }

    #[test]
    fn any_number_of_blocks_ends_at_the_size_of_the_input() {
        for encoder_blocks in 1..=BLOCKS {
            let halvings = n_halvings(encoder_blocks);
            let config = LiteUnetConfig { encoder_blocks, decoder_channels: vec![8; halvings], ..five_stages() };
            let graph = config.graph().expect("a valid setting");
            assert_eq!(graph.nodes().last().expect("nodes").shape, [1, 96, 96], "{encoder_blocks} blocks");
        }
    }

    #[test]
    fn decoder_blocks_add_what_they_cost_and_nothing_else() {
        let plain = five_stages().graph().expect("a valid setting");
        let same = LiteUnetConfig { decoder_blocks: vec![0; 4], ..five_stages() }.graph().expect("a valid setting");
        assert_eq!(same, plain);
        let deeper = LiteUnetConfig { decoder_blocks: vec![2, 1, 0, 0], ..five_stages() };
        let deeper = deeper.graph().expect("a valid setting");
        // A block also has two batch norms, of two trained numbers a channel each.
        let weights = |channels: usize| 25 * channels + channels * channels;
        let added = 2 * (weights(96) + 4 * 96) + weights(64) + 4 * 64;
        assert_eq!(deeper.parameters() - plain.parameters(), added);
        assert_eq!(deeper.macs() - plain.macs(), (2 * weights(96) * 12 * 12 + weights(64) * 24 * 24) as u64);
        assert_eq!(deeper.nodes().last().expect("nodes").shape, [1, 96, 96]);
    }

    #[test]
    fn a_setting_that_fits_no_network_is_refused() {
        let refused = |config: LiteUnetConfig| config.graph().err().map(|error| error.to_string()).unwrap_or_default();
        let blocks = refused(LiteUnetConfig { encoder_blocks: 17, ..five_stages() });
        assert_eq!(blocks, "encoder_blocks: expected 1 to 16, found 17");
        let stages = refused(LiteUnetConfig { decoder_channels: vec![8; 3], ..five_stages() });
        assert!(stages.contains("expected 4 widths, one for each halving of 11 encoder blocks, found 3"), "{stages}");
        let width = refused(LiteUnetConfig { decoder_channels: vec![8, 8, 8, 0], ..five_stages() });
        assert!(width.contains("between 1 and 4096, found [8, 8, 8, 0]"), "{width}");
        for decoder_blocks in [vec![1], vec![0, 0, 0, 9]] {
            let found = format!("{decoder_blocks:?}");
            let blocks = refused(LiteUnetConfig { decoder_blocks, ..five_stages() });
            assert_eq!(
                blocks,
                format!("decoder_blocks: expected 4 numbers from 0 to 8, one for each width, found {found}")
            );
        }
        let size = refused(LiteUnetConfig { input_size: 100, ..five_stages() });
        assert!(size.contains("a multiple of 16 between 16 and 1024, found 100"), "{size}");
    }
}
