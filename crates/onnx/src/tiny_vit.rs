//! TinyViT as image encoder.

use std::collections::BTreeMap;

use crate::builder::{GraphBuilder, Length, NamedValues, OnnxTensorError, int, ints};
use crate::layers::{attention_with_bias, channel_norm, enlarged, gelu, layer_norm, linear};

/// Widths and depths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TinyVitLayout {
    /// Side of the input, in pixels: a multiple of 16.
    pub input_size: usize,
    /// Channels of the four stages, the first an even number.
    pub channels: [usize; 4],
    /// Blocks of the four stages; the first stage's are convolutions.
    pub blocks: [usize; 4],
    /// Heads of the last three stages; they divide the channels.
    pub heads: [usize; 3],
    /// Sides of the windows of the last three stages, in cells.
    pub windows: [usize; 3],
    /// Channels of the embedding.
    pub out_channels: usize,
    /// Side of the embedding, in cells: a multiple of the input's sixteenth. Where it is larger, the neck upsamples, bilinearly.
    pub grid: usize,
}

/// What each colour of the input is multiplied by, and what is then added.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InputScaling {
    /// Factors of red, green and blue.
    pub factor: [f32; 3],
    /// What is added.
    pub shift: [f32; 3],
}

/// The ONNX file of an encoder and its weights, under MobileSAM's names with batch norms folded. Input `input`, `[1, 3, size, size]`; output
/// `output`, `[1, out_channels, grid, grid]`.
///
/// # Errors
/// If a tensor is missing or of another shape.
///
/// # Panics
/// If the sides are no multiples as said above.
///
/// # Source
/// ChaoningZhang/MobileSAM `modeling/tiny_vit_sam.py`, by its description; upsampling in the neck is ours.
pub fn tiny_vit_encoder(
    layout: &TinyVitLayout,
    scaling: &InputScaling,
    tensors: &NamedValues,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, OnnxTensorError> {
    let TinyVitLayout { input_size, channels: [c0, ..], blocks, out_channels, grid, .. } = *layout;
    assert!(input_size >= 16 && input_size.is_multiple_of(16), "TinyViT: pixels");
    assert!(grid.is_multiple_of(input_size / 16), "TinyViT: cells of the embedding");
    let mut encoder = Encoder { g: GraphBuilder::default(), tensors, layout: *layout, distances: [None, None, None] };
    let side = Length::Fixed(input_size);
    let image = encoder.g.input("input", &[Length::Fixed(1), Length::Fixed(3), side, side]);
    let [factor, shift] = [scaling.factor, scaling.shift].map(|values| encoder.g.floats(&[1, 3, 1, 1], &values));
    let image = encoder.g.node("Mul", &[&image, &factor]);
    let image = encoder.g.node("Add", &[&image, &shift]);
    let size = ConvSize { ins: 3, outs: c0 / 2, kernel: 3, stride: 2, depthwise: false };
    let half = encoder.conv(&image, "patch_embed.seq.0", size)?;
    let half = gelu(&mut encoder.g, &half);
    let size = ConvSize { ins: c0 / 2, outs: c0, ..size };
    let mut map = encoder.conv(&half, "patch_embed.seq.2", size)?;
    for idx in 0..blocks[0] {
        map = encoder.conv_block(&map, &format!("layers.0.blocks.{idx}"))?;
    }
    for stage in 0..3 {
        map = encoder.merge(&map, stage)?;
        for idx in 0..blocks[stage + 1] {
            map = encoder.block(&map, stage, &format!("layers.{}.blocks.{idx}", stage + 1))?;
        }
    }
    let embedding = encoder.neck(&map)?;
    encoder.g.output("output", &embedding, &[1, out_channels, grid, grid].map(Length::Fixed));
    Ok(encoder.g.finish("image_encoder", metadata))
}

struct Encoder<'a> {
    g: GraphBuilder,
    tensors: &'a NamedValues,
    layout: TinyVitLayout,
    /// By stage of attention, the constant that says how far its cells are apart.
    distances: [Option<String>; 3],
}

/// A convolution, padded so that stride 1 keeps the size.
#[derive(Clone, Copy)]
struct ConvSize {
    /// Channels that an output is made of: one, if each channel is by itself.
    ins: usize,
    outs: usize,
    kernel: usize,
    stride: usize,
    depthwise: bool,
}

type Value = Result<String, OnnxTensorError>;

impl Encoder<'_> {
    /// A convolution with its folded batch norm.
    fn conv(&mut self, map: &str, name: &str, size: ConvSize) -> Value {
        let ConvSize { ins, outs, kernel, stride, depthwise } = size;
        let weight = self.g.tensor(self.tensors, &format!("{name}.c.weight"), &[outs, ins, kernel, kernel])?;
        let bias = self.g.tensor(self.tensors, &format!("{name}.c.bias"), &[outs])?;
        let mut attributes = vec![ints("strides", &[stride as i64; 2]), ints("pads", &[kernel as i64 / 2; 4])];
        if depthwise {
            attributes.push(int("group", outs as i64));
        }
        Ok(self.g.node_with("Conv", &[map, &weight, &bias], attributes))
    }

    fn pointwise(&mut self, map: &str, name: &str, ins: usize, outs: usize) -> Value {
        self.conv(map, name, ConvSize { ins, outs, kernel: 1, stride: 1, depthwise: false })
    }

    fn depthwise(&mut self, map: &str, name: &str, outs: usize, stride: usize) -> Value {
        self.conv(map, name, ConvSize { ins: 1, outs, kernel: 3, stride, depthwise: true })
    }

    /// An inverted residual block, whose sum is ended by GELU.
    fn conv_block(&mut self, map: &str, name: &str) -> Value {
        let [channels, ..] = self.layout.channels;
        let wide = self.pointwise(map, &format!("{name}.conv1"), channels, 4 * channels)?;
        let wide = gelu(&mut self.g, &wide);
        let wide = self.depthwise(&wide, &format!("{name}.conv2"), 4 * channels, 1)?;
        let wide = gelu(&mut self.g, &wide);
        let narrow = self.pointwise(&wide, &format!("{name}.conv3"), 4 * channels, channels)?;
        let sum = self.g.node("Add", &[&narrow, map]);
        Ok(gelu(&mut self.g, &sum))
    }

    /// From one stage to the next; the last keeps the size, as MobileSAM's.
    fn merge(&mut self, map: &str, stage: usize) -> Value {
        let (ins, outs) = (self.layout.channels[stage], self.layout.channels[stage + 1]);
        let name = format!("layers.{stage}.downsample");
        let map = self.pointwise(map, &format!("{name}.conv1"), ins, outs)?;
        let map = gelu(&mut self.g, &map);
        let map = self.depthwise(&map, &format!("{name}.conv2"), outs, if stage == 2 { 1 } else { 2 })?;
        let map = gelu(&mut self.g, &map);
        self.pointwise(&map, &format!("{name}.conv3"), outs, outs)
    }

    /// Attention in windows, a depthwise convolution, and a two-layer perceptron.
    fn block(&mut self, map: &str, stage: usize, name: &str) -> Value {
        let channels = self.layout.channels[stage + 1];
        let attended = self.attention(map, stage, &format!("{name}.attn"))?;
        let map = self.g.node("Add", &[map, &attended]);
        let map = self.depthwise(&map, &format!("{name}.local_conv"), channels, 1)?;
        let last = self.g.transpose(&map, &[0, 2, 3, 1]);
        let normal = layer_norm(&mut self.g, self.tensors, &last, &format!("{name}.mlp.norm"), channels, 1e-5)?;
        let wide = linear(&mut self.g, self.tensors, &normal, &format!("{name}.mlp.fc1"), [channels, 4 * channels])?;
        let wide = gelu(&mut self.g, &wide);
        let narrow = linear(&mut self.g, self.tensors, &wide, &format!("{name}.mlp.fc2"), [4 * channels, channels])?;
        let narrow = self.g.transpose(&narrow, &[0, 3, 1, 2]);
        Ok(self.g.node("Add", &[&map, &narrow]))
    }

    /// Within windows, which may reach beyond the map: there cells are zeros before the norm.
    fn attention(&mut self, map: &str, stage: usize, name: &str) -> Value {
        let TinyVitLayout { channels, heads, windows, input_size, .. } = self.layout;
        let (channels, heads, window) = (channels[stage + 1], heads[stage], windows[stage]);
        let (side, cells, width) = (input_size / [8, 16, 16][stage], window * window, channels / heads);
        let rows = side.div_ceil(window);
        let padded = rows * window;
        let [r, w, c] = [rows, window, channels].map(|n| n as i64);
        // `[window, cell, channels]`, row by row.
        let last = self.g.transpose(map, &[0, 2, 3, 1]);
        let missing = (padded - side) as i64;
        let pads = self.g.whole_numbers(&[0, 0, 0, 0, 0, missing, missing, 0]);
        let last = self.g.node("Pad", &[&last, &pads]);
        let cut = self.g.reshape(&last, &[r, w, r, w, c]);
        let cut = self.g.transpose(&cut, &[0, 2, 1, 3, 4]);
        let tokens = self.g.reshape(&cut, &[r * r, w * w, c]);
        let normal = layer_norm(&mut self.g, self.tensors, &tokens, &format!("{name}.norm"), channels, 1e-5)?;
        let all = linear(&mut self.g, self.tensors, &normal, &format!("{name}.qkv"), [channels, 3 * channels])?;
        // Of each head its queries, keys and values, one after the other.
        let all = self.g.reshape(&all, &[r * r, w * w, heads as i64, 3, width as i64]);
        let all = self.g.transpose(&all, &[3, 0, 2, 1, 4]);
        let [queries, keys, values] = [0, 1, 2].map(|part| {
            let part = self.g.whole_numbers(&[part]);
            let one = self.g.node_with("Gather", &[&all, &part], vec![int("axis", 0)]);
            self.g.reshape(&one, &[r * r, heads as i64, w * w, width as i64])
        });
        let keys = self.g.transpose(&keys, &[0, 1, 3, 2]);
        let bias = self.bias(&format!("{name}.attention_biases"), stage)?;
        let factors = [queries.as_str(), &keys, &values];
        let attended = attention_with_bias(&mut self.g, factors, width, Some(&bias));
        let attended = self.g.reshape(&attended, &[r * r, cells as i64, c]);
        let attended = linear(&mut self.g, self.tensors, &attended, &format!("{name}.proj"), [channels, channels])?;
        let laid = self.g.reshape(&attended, &[r, r, w, w, c]);
        let laid = self.g.transpose(&laid, &[0, 2, 1, 3, 4]);
        let laid = self.g.reshape(&laid, &[1, padded as i64, padded as i64, c]);
        let (from, to, axes) =
            (self.g.whole_numbers(&[0, 0]), self.g.whole_numbers(&[side as i64; 2]), self.g.whole_numbers(&[1, 2]));
        let laid = self.g.node("Slice", &[&laid, &from, &to, &axes]);
        Ok(self.g.transpose(&laid, &[0, 3, 1, 2]))
    }

    /// What is added to the scores, `[1, head, cell, cell]`: one value for each distance of two cells.
    fn bias(&mut self, name: &str, stage: usize) -> Value {
        let (heads, window) = (self.layout.heads[stage], self.layout.windows[stage]);
        let cells = window * window;
        let values = self.g.tensor(self.tensors, name, &[heads, cells])?;
        let distance = |query: usize, key: usize| {
            let dy = (query / window).abs_diff(key / window);
            (dy * window + (query % window).abs_diff(key % window)) as i64
        };
        let distances = match &self.distances[stage] {
            Some(known) => known.clone(),
            None => {
                let pairs = (0..cells).flat_map(|query| (0..cells).map(move |key| distance(query, key)));
                let made = self.g.whole_numbers(&pairs.collect::<Vec<i64>>());
                self.distances[stage].insert(made).clone()
            }
        };
        let bias = self.g.node_with("Gather", &[&values, &distances], vec![int("axis", 1)]);
        Ok(self.g.reshape(&bias, &[1, heads as i64, cells as i64, cells as i64]))
    }

    /// The embedding of the last stage.
    fn neck(&mut self, map: &str) -> Value {
        let TinyVitLayout { channels: [.., c3], out_channels: out, grid, input_size, .. } = self.layout;
        let weight = self.g.tensor(self.tensors, "neck.0.weight", &[out, c3, 1, 1])?;
        let map = self.g.node("Conv", &[map, &weight]);
        let map = channel_norm(&mut self.g, self.tensors, &map, "neck.1", out)?;
        let map = enlarged(&mut self.g, map, grid / (input_size / 16));
        let weight = self.g.tensor(self.tensors, "neck.2.weight", &[out, out, 3, 3])?;
        let map = self.g.node_with("Conv", &[&map, &weight], vec![ints("pads", &[1; 4])]);
        channel_norm(&mut self.g, self.tensors, &map, "neck.3", out)
    }
}
