//! A plain vision transformer as image encoder.

use std::collections::BTreeMap;

use crate::builder::{GraphBuilder, Length, NamedValues, OnnxTensorError, int, ints};
use crate::layers::{self, channel_norm, enlarged, gelu, layer_norm, linear};

/// Widths and depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VitLayout {
    /// Side of the input, in pixels.
    pub input_size: usize,
    /// Side of a patch, in pixels; divides the input.
    pub patch: usize,
    /// Channels of a token; a multiple of the heads.
    pub channels: usize,
    /// Heads of each attention.
    pub heads: usize,
    /// Blocks.
    pub blocks: usize,
    /// Channels of the embedding.
    pub out_channels: usize,
    /// Side of the embedding, in cells: a multiple of the patches of a side. Where it is larger, the neck upsamples, bilinearly.
    pub grid: usize,
}

/// The ONNX file of an encoder and its weights, under EfficientSAM's names; its table of positions is as large as its grid of patches. Input
/// `input`, `[1, 3, size, size]`; output `output`, `[1, out_channels, grid, grid]`.
///
/// # Errors
/// If a tensor is missing or of another shape.
///
/// # Panics
/// If the sides are no multiples as said above, or there is no patch.
///
/// # Source
/// yformer/EfficientSAM `efficient_sam/efficient_sam_encoder.py`, by its description; upsampling in the neck is ours.
pub fn vit_encoder(
    layout: &VitLayout,
    tensors: &NamedValues,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, OnnxTensorError> {
    let VitLayout { input_size, patch, out_channels, grid, .. } = *layout;
    assert!(patch > 0 && input_size >= patch && input_size.is_multiple_of(patch), "ViT: pixels and patches");
    assert!(grid.is_multiple_of(input_size / patch), "ViT: cells and patches");
    let mut encoder = Encoder { g: GraphBuilder::default(), tensors, layout: *layout };
    let side = Length::Fixed(input_size);
    let image = encoder.g.input("input", &[Length::Fixed(1), Length::Fixed(3), side, side]);
    let mut tokens = encoder.tokens(&image)?;
    for idx in 0..layout.blocks {
        tokens = encoder.block(&tokens, &format!("blocks.{idx}"))?;
    }
    let embedding = encoder.neck(&tokens)?;
    let shape = [1, out_channels, grid, grid].map(Length::Fixed);
    encoder.g.output("output", &embedding, &shape);
    Ok(encoder.g.finish("image_encoder", metadata))
}

struct Encoder<'a> {
    g: GraphBuilder,
    tensors: &'a NamedValues,
    layout: VitLayout,
}

type Value = Result<String, OnnxTensorError>;

impl Encoder<'_> {
    /// Patches of a side.
    fn patches(&self) -> usize {
        self.layout.input_size / self.layout.patch
    }

    /// Tokens before the first block, `[1, patch, channels]`.
    fn tokens(&mut self, image: &str) -> Value {
        let VitLayout { patch, channels, .. } = self.layout;
        let n_patches = self.patches() * self.patches();
        let weight = self.g.tensor(self.tensors, "patch_embed.proj.weight", &[channels, 3, patch, patch])?;
        let bias = self.g.tensor(self.tensors, "patch_embed.proj.bias", &[channels])?;
        let strides = vec![ints("strides", &[patch as i64; 2])];
        let map = self.g.node_with("Conv", &[image, &weight, &bias], strides);
        let flat = self.g.reshape(&map, &[1, channels as i64, -1]);
        let tokens = self.g.transpose(&flat, &[0, 2, 1]);
        // The table's first row is the class's, which has no token here.
        let table = self.g.tensor(self.tensors, "pos_embed", &[1, n_patches + 1, channels])?;
        let (start, end, axis) =
            (self.g.whole_numbers(&[1]), self.g.whole_numbers(&[n_patches as i64 + 1]), self.g.whole_numbers(&[1]));
        let positions = self.g.node("Slice", &[&table, &start, &end, &axis]);
        Ok(self.g.node("Add", &[&tokens, &positions]))
    }

    fn block(&mut self, tokens: &str, name: &str) -> Value {
        let channels = self.layout.channels;
        let normal = self.layer_norm(tokens, &format!("{name}.norm1"))?;
        let attended = self.attention(&normal, &format!("{name}.attn"))?;
        let tokens = self.g.node("Add", &[tokens, &attended]);
        let normal = self.layer_norm(&tokens, &format!("{name}.norm2"))?;
        let wide = self.linear(&normal, &format!("{name}.mlp.fc1"), [channels, 4 * channels])?;
        let wide = gelu(&mut self.g, &wide);
        let narrow = self.linear(&wide, &format!("{name}.mlp.fc2"), [4 * channels, channels])?;
        Ok(self.g.node("Add", &[&tokens, &narrow]))
    }

    /// Of every token with every other.
    fn attention(&mut self, tokens: &str, name: &str) -> Value {
        let VitLayout { channels, heads, .. } = self.layout;
        let width = channels / heads;
        let all = self.linear(tokens, &format!("{name}.qkv"), [channels, 3 * channels])?;
        let all = self.g.reshape(&all, &[-1, 3, heads as i64, width as i64]);
        let all = self.g.transpose(&all, &[1, 2, 0, 3]);
        // `[1, head, token, width]` each.
        let [queries, keys, values] = [0, 1, 2].map(|part| {
            let part = self.g.whole_numbers(&[part]);
            self.g.node_with("Gather", &[&all, &part], vec![int("axis", 0)])
        });
        let keys = self.g.transpose(&keys, &[0, 1, 3, 2]);
        let attended = layers::attention(&mut self.g, [&queries, &keys, &values], width, channels);
        self.linear(&attended, &format!("{name}.proj"), [channels, channels])
    }

    /// The embedding of tokens.
    fn neck(&mut self, tokens: &str) -> Value {
        let (VitLayout { channels, out_channels: out, grid, .. }, side) = (self.layout, self.patches());
        let map = self.g.transpose(tokens, &[0, 2, 1]);
        let map = self.g.reshape(&map, &[1, channels as i64, side as i64, side as i64]);
        let weight = self.g.tensor(self.tensors, "neck.0.weight", &[out, channels, 1, 1])?;
        let map = self.g.node("Conv", &[&map, &weight]);
        let map = channel_norm(&mut self.g, self.tensors, &map, "neck.1", out)?;
        let map = enlarged(&mut self.g, map, grid / side);
        let weight = self.g.tensor(self.tensors, "neck.2.weight", &[out, out, 3, 3])?;
        let map = self.g.node_with("Conv", &[&map, &weight], vec![ints("pads", &[1; 4])]);
        channel_norm(&mut self.g, self.tensors, &map, "neck.3", out)
    }

    fn linear(&mut self, value: &str, name: &str, sides: [usize; 2]) -> Value {
        linear(&mut self.g, self.tensors, value, name, sides)
    }

    fn layer_norm(&mut self, value: &str, name: &str) -> Value {
        layer_norm(&mut self.g, self.tensors, value, name, self.layout.channels, 1e-6)
    }
}
