//! The first blocks of EfficientNet-Lite0, as encoder of other networks: it can start from weights that were trained on ImageNet.
//!
//! Source: Tan and Le 2019, "EfficientNet", and the Lite variants of its code: no squeeze-and-excitation, ReLU6 instead of swish, the stem's
//! width not scaled.

use sensei_graph::layer_graph::{Conv, GraphBuilder};
use sensei_graph::op::Activation;

/// What comes before the names that the encoder's tensors have in PyTorch.
pub const ENCODER_PREFIX: &str = "encoder.";

/// The encoder within a graph.
pub(crate) struct Encoder {
    /// Its last node.
    pub output: usize,
    /// The last node of each size but the smallest, largest first.
    pub skips: Vec<usize>,
}

/// Some blocks of one kind, one after the other.
struct Stage {
    blocks: usize,
    /// Channels within a block, as multiple of those that it reads.
    expansion: usize,
    kernel: usize,
    /// Of the first block; of the others it is 1.
    stride: usize,
    channels: usize,
}

/// Channels that the stem writes.
const STEM_CHANNELS: usize = 32;

const STAGES: [Stage; 7] = [
    Stage { blocks: 1, expansion: 1, kernel: 3, stride: 1, channels: 16 },
    Stage { blocks: 2, expansion: 6, kernel: 3, stride: 2, channels: 24 },
    Stage { blocks: 2, expansion: 6, kernel: 5, stride: 2, channels: 40 },
    Stage { blocks: 3, expansion: 6, kernel: 3, stride: 2, channels: 80 },
    Stage { blocks: 3, expansion: 6, kernel: 5, stride: 1, channels: 112 },
    Stage { blocks: 4, expansion: 6, kernel: 5, stride: 2, channels: 192 },
    Stage { blocks: 1, expansion: 6, kernel: 3, stride: 1, channels: 320 },
];

/// Blocks of the whole network.
pub(crate) const BLOCKS: usize = 16;

/// What follows its batch norms but the last of a block.
pub(crate) const ACTIVATION: Activation = Activation::Relu6;

/// An inverted residual block.
struct Block {
    expansion: usize,
    kernel: usize,
    stride: usize,
    channels: usize,
}

/// All blocks of EfficientNet-Lite0.
fn blocks() -> impl Iterator<Item = Block> {
    STAGES.iter().flat_map(|stage| {
        (0..stage.blocks).map(|idx| Block {
            expansion: stage.expansion,
            kernel: stage.kernel,
            stride: if idx == 0 { stage.stride } else { 1 },
            channels: stage.channels,
        })
    })
}

/// Adds the stem and the first blocks behind the graph's input. Tensors have the names of the published PyTorch weights behind
/// [`ENCODER_PREFIX`].
pub(crate) fn encoder(g: &mut GraphBuilder, n_blocks: usize) -> Encoder {
    let stem = Conv::new(3, STEM_CHANNELS, 3).stride(2).norm("encoder._bn0", ACTIVATION);
    let mut output = g.conv("encoder._conv_stem", 0, stem);
    let mut skips = vec![];
    for (idx, block) in blocks().take(n_blocks).enumerate() {
        if block.stride == 2 {
            skips.push(output);
        }
        output = inverted_residual(g, &format!("encoder._blocks.{idx}"), output, &block);
    }
    Encoder { output, skips }
}

/// How often the stem and the first blocks halve the map.
pub(crate) fn n_halvings(n_blocks: usize) -> usize {
    1 + blocks().take(n_blocks).filter(|block| block.stride == 2).count()
}

/// 1x1 convolution to more channels, depthwise convolution, 1x1 convolution to few without activation; the input is added where it has the
/// output's shape.
fn inverted_residual(g: &mut GraphBuilder, name: &str, input: usize, block: &Block) -> usize {
    let channels = g.channels(input);
    let wide = channels * block.expansion;
    let expanded = if block.expansion == 1 {
        input
    } else {
        let expand = Conv::new(channels, wide, 1).norm(&format!("{name}._bn0"), ACTIVATION);
        g.conv(&format!("{name}._expand_conv"), input, expand)
    };
    let depthwise = Conv::new(wide, wide, block.kernel).depthwise().stride(block.stride);
    let x = g.conv(&format!("{name}._depthwise_conv"), expanded, depthwise.norm(&format!("{name}._bn1"), ACTIVATION));
    let project = Conv::new(wide, block.channels, 1).norm(&format!("{name}._bn2"), Activation::None);
    let x = g.conv(&format!("{name}._project_conv"), x, project);
    if block.stride == 1 && channels == block.channels { g.add(&format!("{name}.add"), x, input) } else { x }
}
