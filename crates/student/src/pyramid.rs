//! What makes the maps of an image encoder one embedding, as SAM's mask decoder reads it: a feature pyramid.

use sensei_graph::layer_graph::{Conv, GraphBuilder, LayerGraph};
use sensei_graph::op::{Activation, Upsampling};

use crate::unet::depthwise_block;

/// The node that is the network's output, and the tap that distillation compares.
pub const EMBEDDING: &str = "embedding";

/// Channels of the embedding: SAM's.
pub const EMBEDDING_CHANNELS: usize = 256;

/// Side of the embedding in cells: that of SAM at 1024 x 1024.
///
/// A smaller grid costs masks far more than a smaller input does, and the published decoder was trained for this one.
pub const EMBEDDING_GRID: usize = 64;

/// A pyramid's width, and what follows it.
///
/// # Source
/// EdgeSAM (arXiv 2312.06660), section 3: 1x1 convolutions bring the last stages to one width, coarse ones are upsampled by two and added. Deviations:
/// as many stages as the grid needs, and depthwise blocks behind the last sum, which EdgeSAM does not have.
pub(crate) struct Pyramid {
    pub channels: usize,
    /// Depthwise blocks behind the last sum.
    pub refine_blocks: usize,
    /// Of those blocks.
    pub activation: Activation,
}

/// A setting that no image encoder can have.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncoderError {
    /// The embedding's grid must be one of the encoder's maps.
    #[error("input_size: expected one of {}, whose map of {grid} x {grid} {blocks} reach, found {found}",
        listed(expected), grid = EMBEDDING_GRID)]
    InputSize {
        /// The sizes that fit.
        expected: Vec<usize>,
        /// The encoder's blocks in words.
        blocks: String,
        /// The size given.
        found: usize,
    },
    /// A number outside of the supported range.
    #[error("{key}: expected {expected}, found {found}")]
    Range {
        /// Which.
        key: &'static str,
        /// Its range in words.
        expected: String,
        /// The number.
        found: usize,
    },
}

impl Pyramid {
    /// Ends a network whose encoder has these maps: `output` of `size` cells a side, and larger ones, each twice the size of the next.
    ///
    /// # Panics
    /// If no map has the embedding's grid: [`check_input_size`] refuses such a network.
    pub(crate) fn end(&self, mut g: GraphBuilder, output: usize, mut larger: Vec<usize>, size: usize) -> LayerGraph {
        let (mut x, mut size, mut level) = (self.lateral(&mut g, 0, output), size, 0);
        while size < EMBEDDING_GRID {
            level += 1;
            let map = larger.pop().expect("a map of the embedding's grid");
            let up = g.upsample_2x(&format!("fpn{level}.up"), x, Upsampling::Nearest);
            let lateral = self.lateral(&mut g, level, map);
            x = g.add(&format!("fpn{level}.add"), up, lateral);
            size *= 2;
        }
        for idx in 0..self.refine_blocks {
            x = depthwise_block(&mut g, &format!("refine{idx}"), x, self.channels, self.activation);
        }
        g.conv(EMBEDDING, x, Conv::new(self.channels, EMBEDDING_CHANNELS, 1).with_bias());
        g.finish()
    }

    /// A map of the encoder at the pyramid's width.
    fn lateral(&self, g: &mut GraphBuilder, level: usize, input: usize) -> usize {
        let conv = Conv::new(g.channels(input), self.channels, 1);
        g.conv(&format!("fpn{level}.0"), input, conv.norm(&format!("fpn{level}.1"), Activation::None))
    }

    /// # Errors
    /// If width or blocks are out of range.
    pub(crate) fn check(&self) -> Result<(), EncoderError> {
        check_range("pyramid_channels", [1, 4096], self.channels)?;
        check_range("refine_blocks", [0, 8], self.refine_blocks)
    }
}

/// Refuses an input none of whose maps, after so many halvings, has the embedding's grid. `blocks` are the encoder's in words.
pub(crate) fn check_input_size(
    halvings: std::ops::RangeInclusive<usize>,
    blocks: &str,
    found: usize,
) -> Result<(), EncoderError> {
    let expected: Vec<usize> = halvings.map(|n| EMBEDDING_GRID << n).filter(|&size| size <= 1024).collect();
    if expected.contains(&found) {
        return Ok(());
    }
    Err(EncoderError::InputSize { expected, blocks: blocks.into(), found })
}

/// Refuses a number outside of a range, whose ends belong to it.
pub(crate) fn check_range(key: &'static str, [least, most]: [usize; 2], found: usize) -> Result<(), EncoderError> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    Err(EncoderError::Range { key, expected: format!("{least} to {most}"), found })
}

fn listed(sizes: &[usize]) -> String {
    sizes.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}
